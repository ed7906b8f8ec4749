"""Sessions that a NAS tells of: an address that changes hands is billed to both, while it lasts."""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from collectors import free_port, wait
from commands import COMMAND
from gateways import Running, expect_sound, packet, rows, running
from radius_parties import SECRET

from tollsplit.cli import main
from tollsplit.cli.sessions import Watch
from tollsplit.errors import TollsplitError
from tollsplit.radius.client import load_dictionary
from tollsplit.radius.listener import Listener
from tollsplit.rules import load
from tollsplit.rules.leases import Keys, read_holders
from tollsplit.rules.rule import Tenure
from tollsplit.snapshot import Notice

HEADER = "prefix,account,valid_from,valid_to\n"


class Nas:
    """A NAS on loopback; what it asks is made by pyrad."""

    def __init__(self, port: int, secret: bytes = SECRET) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.connect(("127.0.0.1", port))
        self._secret = secret
        self._number = 0

    def request(self, status: str, session: str = "1", account: str = "alice", **more: Any) -> Any:
        from pyrad.packet import AcctPacket

        self._number += 1
        said: dict[str, Any] = {
            "Acct_Status_Type": status, "Acct_Session_Id": session, "User_Name": account,
            "NAS_Identifier": "nas", "Framed_IP_Address": "10.0.0.7"} | more
        return AcctPacket(id=self._number % 256, secret=self._secret, dict=load_dictionary(),
                          **{name: value for name, value in said.items() if value is not None})

    def send(self, octets: bytes, timeout_s: float = 10) -> bytes | None:
        """The answer; None: there was none in time."""
        self._socket.send(octets)
        if not select.select([self._socket], [], [], timeout_s)[0]:
            return None
        return self._socket.recv(4096)

    def tell(self, *said: Any, **more: Any) -> None:
        """Say something that is answered, and by who has the secret."""
        request = self.request(*said, message_authenticator=True, **more)
        answer = self.send(request.RequestPacket())
        assert answer is not None
        assert request.VerifyReply(request.CreateReply(packet=answer), answer)

    def close(self) -> None:
        self._socket.close()


class Learning:
    """A listener, and what it told."""

    def __init__(self, directory: Path, changed: Callable[[], None] = lambda: None) -> None:
        self.told: list[Notice] = []
        self.directory = directory
        if not directory.exists():
            directory.write_text(HEADER)
        self.listener = Listener("radius://127.0.0.1:0", SECRET, directory, self.tenures(),
                                 Keys(32, 64), changed, self.told.append)

    def tenures(self) -> tuple[Tenure, ...]:
        tenures, findings = read_holders(self.directory.read_bytes(), "UTC", 32, 64)
        assert not findings
        return tenures

    def held(self) -> list[tuple[str, bool]]:
        """(account, whether it still holds its address)"""
        return [(tenure.account, tenure.valid_to_ns is None) for tenure in self.tenures()]


@contextmanager
def learning(directory: Path, **more: Any) -> Iterator[tuple[Learning, Nas]]:
    made = Learning(directory, **more)
    made.listener.start()
    try:
        with closing(Nas(made.listener.port)) as nas:
            yield made, nas
    finally:
        made.listener.close()


# --- requests --------------------------------------------------------------------------------


def test_sessions_are_in_the_directory_when_they_are_answered(tmp_path: Path) -> None:
    changes: list[float] = []
    with learning(tmp_path / "held.csv", changed=lambda: changes.append(1)) as (made, nas):
        before_ns = time.time_ns()
        nas.tell("Start")
        assert made.held() == [("alice", True)] and len(changes) == 1
        [tenure] = made.tenures()
        assert before_ns // 1000 * 1000 <= (tenure.valid_from_ns or 0) <= time.time_ns()
        nas.tell("Interim-Update")
        assert len(changes) == 1  # it is no news
        nas.tell("Start", "2", "bob")  # whose Start comes before alice's Stop
        assert made.held() == [("alice", False), ("bob", True)]
        nas.tell("Stop", "1", "alice")
        assert made.held() == [("alice", False), ("bob", True)]
        nas.tell("Stop", "2", "bob")
        assert made.held() == [("alice", False), ("bob", False)]
        nas.tell("Start", "3", "carol, \"the\" third", Framed_IP_Address=None,
                 Framed_IPv6_Prefix="2001:db8:0:7::/64", Delegated_IPv6_Prefix="2001:db8:9::/56")
        assert made.held()[2:] == [("carol, \"the\" third", True)] * 2
        nas.tell("Accounting-On", "", None, Acct_Session_Id=None, Framed_IP_Address=None)
        assert not any(holds for _, holds in made.held())
    assert not made.told


def test_sessions_began_as_long_ago_as_the_nas_says(tmp_path: Path) -> None:
    with learning(tmp_path / "held.csv") as (made, nas):
        nas.tell("Start", Acct_Delay_Time=30)
        nas.tell("Interim-Update", "2", "bob", Acct_Session_Time=500, Framed_IP_Address="10.0.0.8")
        ages = {tenure.account: (time.time_ns() - (tenure.valid_from_ns or 0)) / 10**9
                for tenure in made.tenures()}
    assert 30 <= ages["alice"] < 40 and 500 <= ages["bob"] < 510


def test_sessions_outlive_a_restart(tmp_path: Path) -> None:
    with learning(tmp_path / "held.csv") as (_, nas):
        nas.tell("Start")
        nas.tell("Start", "2", "bob", Framed_IP_Address="10.0.0.8")
    with learning(tmp_path / "held.csv") as (made, nas):
        assert made.held() == [("alice", True), ("bob", True)]
        nas.tell("Stop")
        assert sorted(made.held()) == [("alice", False), ("bob", True)]
        assert len(made.tenures()) == 2


@pytest.mark.parametrize("spoil", [
    lambda octets: octets[:4] + bytes(16) + octets[20:],  # no authenticator
    lambda octets: octets[:-1] + bytes([octets[-1] ^ 1]),  # another address
    lambda octets: octets[:30],
    lambda octets: b"\x01" + octets[1:],
    lambda octets: b"",
    lambda octets: octets[:2] + b"\xff\xff" + octets[4:],
])  # fmt: skip
def test_sessions_of_somebody_else_are_not_believed(
    tmp_path: Path, spoil: Callable[[bytes], bytes]
) -> None:
    with learning(tmp_path / "held.csv") as (made, nas):
        octets = nas.request("Start").RequestPacket()
        assert nas.send(spoil(octets), 0.3) is None
        assert made.held() == [] and "not a request made with our secret" in made.told[0].text
        nas.tell("Start")  # it goes on
    assert made.held() == [("alice", True)]


def test_sessions_with_a_false_message_authenticator_are_not_believed(tmp_path: Path) -> None:
    """A request whose authenticator is right, for the secret is known, and whose HMAC is not."""
    with learning(tmp_path / "held.csv") as (made, nas):
        request = nas.request("Start")
        request[80] = [bytes(16)]
        assert nas.send(request.RequestPacket(), 0.3) is None
    assert made.held() == [] and len(made.told) == 1


def test_sessions_are_not_answered_before_they_are_kept(tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    folder.mkdir()
    with learning(folder / "held.csv") as (made, nas):
        folder.rename(tmp_path / "away")
        octets = nas.request("Start").RequestPacket()
        assert nas.send(octets, 0.3) is None
        assert "cannot be written: No such file" in made.told[0].text
        (tmp_path / "away").rename(folder)
        assert nas.send(octets) is not None
        assert made.held() == [("alice", True)]


def test_sessions_without_a_name_or_place_are_told_of(tmp_path: Path) -> None:
    with learning(tmp_path / "held.csv") as (made, nas):
        nas.tell("Start", "1", None)
        nas.tell("Start", "2", "bob", Framed_IP_Address=None)  # of a NAS without addresses
    assert made.held() == [] and len(made.told) == 1
    assert "expected Acct-Session-Id and User-Name" in made.told[0].text


def test_sessions_need_a_port_of_their_own(tmp_path: Path) -> None:
    with learning(tmp_path / "held.csv") as (made, _), pytest.raises(
            TollsplitError, match="cannot be listened on: Address already in use"):
        Listener(f"radius://127.0.0.1:{made.listener.port}", SECRET, tmp_path / "other.csv", (),
                 Keys(32, 64), lambda: None, made.told.append)


# --- gateways --------------------------------------------------------------------------------


def write_rules(home: Path) -> Path:
    path = home / "rules.toml"
    text = path.read_text().replace("[sponsors", 'directory = "held.csv"\n[sponsors', 1)
    path.write_text(text)
    (home / "held.csv").write_text(HEADER)
    return path


def give(run: Running, octets: int) -> None:
    """A packet that passes now; it is counted before anything else happens."""
    before = run.last.seen.octets
    run.frames.lanes[0].give(packet(time.time_ns(), octets))
    wait(lambda: run.last.seen.octets >= before + octets, "it is not counted")


@pytest.mark.window("1h")
def test_sessions_that_change_hands_within_a_window_are_billed_to_both(home: Path) -> None:
    path = write_rules(home)
    with (running(home, load(path)) as run,
          learning(home / "held.csv", changed=lambda: run.gateway.reload(path)) as (_, nas)):
        for said, octets in ((None, 100), (("Start", "1", "alice"), 200),
                             (("Stop", "1", "alice"), 300), (("Start", "2", "bob"), 400)):
            if said is not None:
                changes = run.kinds().count("rules")
                nas.tell(*said)
                wait(lambda n=changes: run.kinds().count("rules") > n, "it is not in force")
            give(run, octets)
    expect_sound(home)
    found = rows(home, "SELECT accounts.name, uplink_octets, subscriber FROM usage_records "
                       "JOIN accounts ON accounts.id = account_id")
    assert Counter({(name, octets) for name, octets, _ in found}) == Counter(
        {("10.0.0.7", 100), ("alice", 200), ("10.0.0.7", 300), ("bob", 400)})
    assert {subscriber for *_, subscriber in found} == {"10.0.0.7"}


@pytest.mark.window("1h")
def test_sessions_of_a_lease_file_are_followed(home: Path) -> None:
    path = write_rules(home)
    leases = home / "held.csv"
    leases.write_text("0 02:00:00:00:00:07 10.0.0.7 * *\n")
    with running(home, load(path)) as run:
        watch = Watch(leases, lambda: run.gateway.reload(path))
        watch.start()
        give(run, 100)
        (home / "new").write_text("0 02:00:00:00:00:08 10.0.0.7 * *\n")
        (home / "new").rename(leases)
        wait(lambda: "rules" in run.kinds(), "it is not in force")
        give(run, 200)
        watch.close()
    found = rows(home, "SELECT accounts.name, uplink_octets FROM usage_records "
                       "JOIN accounts ON accounts.id = account_id")
    assert sorted(found) == [("mac:02:00:00:00:00:07", 100), ("mac:02:00:00:00:00:08", 200)]


# --- the command -----------------------------------------------------------------------------

LOOPBACK = """
[meter]
window = "1h"
[[pools]]
prefixes = ["127.0.0.7/32"]
directory = "held.csv"
"""


def test_capture_learns_sessions_from_a_nas(tmp_path: Path) -> None:
    if os.geteuid():
        pytest.skip("capturing needs root")
    (tmp_path / "rules.toml").write_text(LOOPBACK)
    (tmp_path / "held.csv").write_text(HEADER)
    (tmp_path / "secret").write_bytes(SECRET)
    port = free_port(socket.SOCK_DGRAM)
    run = subprocess.Popen(
        [*COMMAND, "capture", "lo", "--rules", "rules.toml", "--sessions",
         f"radius://127.0.0.1:{port}", "--radius-secret", "secret", "--format", "json",
         "--output", "out.json", "--ring", "2"],
        stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    assert run.stderr is not None

    def until(text: str) -> None:
        line = ""
        while text not in line:
            line = run.stderr.readline()  # type: ignore[union-attr]
            assert line, f"it ended before it said {text}"

    try:
        until("captured from now on")
        with closing(Nas(port)) as nas, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as user:
            user.bind(("127.0.0.7", 0))
            for said, count in ((("Start", "1", "alice"), 3), (("Stop", "1", "alice"), 0),
                                (("Start", "2", "bob"), 5)):
                nas.tell(*said, Framed_IP_Address="127.0.0.7")
                until("in force now")
                for _ in range(count):
                    user.sendto(b"x" * 72, ("127.0.0.1", 9))
                time.sleep(0.05)  # the kernel hands them over, with their times
        run.terminate()
        _, err = run.communicate(timeout=60)
        assert run.returncode == 0, err
    finally:
        run.kill()
        run.wait()
    decoder, text = json.JSONDecoder(), (tmp_path / "out.json").read_text()
    found: Counter[str] = Counter()
    while text.strip():  # a document for each version of the rules
        document, end = decoder.raw_decode(text)
        text = text[end:].lstrip()
        for entry in document["usage"]:
            found[entry["account"]] += entry["uplink_octets"]
    assert found["alice"] == 300 and found["bob"] == 500


def test_capture_says_what_sessions_need(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(SECRET)
    command = ["capture", "lo", "--rules", str(tmp_path / "rules.toml"), "--sessions"]
    assert main([*command, "radius://127.0.0.1"]) == 2
    assert "--radius-secret FILE is needed" in capsys.readouterr().err
    (tmp_path / "rules.toml").write_text(LOOPBACK.replace('directory = "held.csv"', ""))
    assert main([*command, "radius://127.0.0.1:0", "--radius-secret", str(secret)]) == 2
    assert "expected one pool with a directory" in capsys.readouterr().err
    assert main([*command, str(secret)]) == 2
    assert "or the file that a pool names as its directory" in capsys.readouterr().err
