"""`tollsplit capture` on the lab's gateway: its octets against the kernel's and TCP's own."""

from __future__ import annotations

import json
import os
import pwd
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from lab import (
    GATEWAY,
    INTERNET,
    SPONSOR,
    SUBSCRIBER_1,
    SUBSCRIBER_2,
    TIMEOUT_S,
    Lab,
    wait_until,
)
from test_live_capture import send_raw
from test_live_frames import echo, http_get

import tollsplit
from tollsplit.ledger import open_ledger

RULES = """
[meter]
window = "{window}"
tunnel_endpoints = []
[[pools]]
prefixes = ["10.77.0.0/16", "2001:db8:77::/48"]
[sponsors.video-co]
[[rules]]
id = "paid"
precedence = 1
match = {{ server = ["203.0.113.0/24", "2001:db8:cd::/48"] }}
split = {{ sponsor = "video-co", share = "{share}"{more} }}
[tariffs.standard]
currency = "CNY"
price = "1 CNY / MiB"
"""
TOLLSPLIT = [sys.executable, "-m", "tollsplit"]
SUBSCRIBERS = {"sub1": (SUBSCRIBER_1.ipv4, "2001:db8:77:1::/64"),
               "sub2": (SUBSCRIBER_2.ipv4, "2001:db8:77:2::/64")}


pytestmark = pytest.mark.usefixtures("served")


def write_rules(home: Path, share: str = "70%", window: str = "1h", more: str = "") -> Path:
    path = home / "rules.toml"
    path.write_text(RULES.format(share=share, window=window, more=more))
    return path


class Capturing:
    """The command in the gateway's namespace; what it says on standard error, as it says it."""

    def __init__(self, lab: Lab, home: Path, *arguments: str) -> None:
        self._stderr = home / f"stderr-{time.monotonic_ns()}"
        with open(self._stderr, "wb") as stderr:
            self.process = subprocess.Popen(
                ["ip", "netns", "exec", lab.namespace(GATEWAY), *TOLLSPLIT, "capture", *arguments],
                stdout=subprocess.PIPE, stderr=stderr, text=True, cwd=home)
        wait_until(lambda: "captured from now on" in self.said
                   or self.process.poll() is not None)

    @property
    def said(self) -> str:
        return self._stderr.read_text()

    def end(self, number: int = signal.SIGTERM) -> str:
        """Its result; it has 2 s, and on a machine this busy a little more."""
        since = time.monotonic()
        self.process.send_signal(number)
        result, _ = self.process.communicate(timeout=TIMEOUT_S)
        if number == signal.SIGTERM:
            assert time.monotonic() - since < 4, self.said
            assert self.process.returncode == 0, self.said
        return str(result)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()


@contextmanager
def capturing(lab: Lab, home: Path, *arguments: str) -> Iterator[Capturing]:
    running = Capturing(lab, home, *arguments)
    try:
        yield running
    finally:
        running.close()


def settle() -> None:
    """Until the last packets are through every queue."""
    time.sleep(0.3)


@contextmanager
def unmerged(lab: Lab) -> Iterator[None]:
    """No packet is larger than the wire's: the kernel then counts what the wire carries."""

    def switch(way: str) -> None:
        for end in (SUBSCRIBER_1, SUBSCRIBER_2, SPONSOR, INTERNET):
            lab.merge(end, way)

    switch("off")
    try:
        yield
    finally:
        switch("on")


def grown(before: dict[str, tuple[int, int]], after: dict[str, tuple[int, int]]) -> dict[
        tuple[str, str, str, str], tuple[int, int]]:
    """(interface, server, family, way) → packets, octets, where there are some."""
    found = {}
    for name, (packets, octets) in after.items():
        difference = packets - before[name][0], octets - before[name][1]
        if difference[0]:
            near, far, family, way = name.split("_")
            found[near, far, family, way] = difference
    return found


def by_counter(document: dict[str, Any]) -> dict[tuple[str, str, str, str], tuple[int, int]]:
    """The document's usage in the same form: servers are told apart by their rule."""
    found: dict[tuple[str, str, str, str], tuple[int, int]] = {}
    for record in document["usage"]:
        [near] = [name for name, keys in SUBSCRIBERS.items() if record["subscriber"] in keys]
        family = "ip6" if ":" in record["subscriber"] else "ip"
        far = "sponsor" if record["rule"] == "paid" else "internet"
        for way in ("uplink", "downlink"):
            if record[f"{way}_packets"]:
                found[near, far, family, way] = (
                    record[f"{way}_packets"], record[f"{way}_octets"])
    return found


def traffic(lab: Lab) -> None:
    """HTTP and UDP, of both subscribers, to both servers, over both families."""
    for near in (SUBSCRIBER_1, SUBSCRIBER_2):
        for far in (SPONSOR, INTERNET):
            for address in (far.ipv4, far.ipv6):
                assert http_get(lab, near, address, 300_000) == 300_000
                echo(lab, near, address, [bytes(n) for n in (1, 100, 1400)])


# Neighbour discovery between a subscriber and the gateway is traffic of the subscriber's, but
# nothing that the gateway forwards.
FORWARDED = "tcp or udp"


def test_live_octets_are_those_that_the_kernel_forwarded(lab: Lab, tmp_path: Path) -> None:
    with unmerged(lab), capturing(
        lab, tmp_path, "sub1", "sub2", "--rules", str(write_rules(tmp_path)), "--format", "json",
        "--workers", "2", "--filter", FORWARDED, "--flush", "100ms",
    ) as running:
        before = lab.counters()
        traffic(lab)
        settle()
        expected = grown(before, lab.counters())
        document = json.loads(running.end())
    assert len(expected) == 16
    assert by_counter(document) == expected
    assert document["lost"] == {"kernel": 0, "interface": 0}
    assert document["identity"] == {"holds": True}
    assert document["seen"] == {
        "packets": sum(packets for packets, _ in expected.values()),
        "octets": sum(octets for _, octets in expected.values())}
    for record in document["usage"]:
        octets = record["uplink_octets"] + record["downlink_octets"]
        paid = octets * 70 // 100 if record["rule"] == "paid" else 0
        assert sum(record["sponsor_octets"].values()) == paid


def test_live_document_is_that_of_the_written_file(lab: Lab, tmp_path: Path) -> None:
    """With packets as large as the kernel makes them: their segments are known, and kept."""
    rules = write_rules(tmp_path)
    with capturing(
        lab, tmp_path, "sub1", "sub2", "--rules", str(rules), "--format", "json", "--write",
        "seen.pcapng", "--workers", "2", "--flush", "50ms",
    ) as running:
        traffic(lab)
        settle()
        live = json.loads(running.end())
    offline = tollsplit.account(tmp_path / "seen.pcapng", rules).document()
    offline = json.loads(json.dumps(offline))
    for own in ("elapsed_s", "packets_per_s", "lost"):
        del live[own], offline[own]
    assert live == offline
    assert live["seen"]["packets"] > 100


SENDER = """
import socket, struct, sys
listening = socket.create_server(("0.0.0.0", 9090))
print("ready", flush=True)
taken, _ = listening.accept()
taken.sendall(bytes(int(sys.argv[1])))
taken.shutdown(socket.SHUT_WR)
taken.recv(1)
# struct tcp_info (linux/tcp.h): bytes_acked at 120, segs_out at 136, bytes_sent at 200
info = taken.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
acknowledged, = struct.unpack_from("<Q", info, 120)
out, = struct.unpack_from("<I", info, 136)
sent, = struct.unpack_from("<Q", info, 200)
print(acknowledged, sent, out, flush=True)
"""


def test_live_coalesced_packets_are_metered_by_their_segments(lab: Lab, tmp_path: Path) -> None:
    """What TCP says it sent, segment by segment, is what the downlink is billed."""
    wanted = 3_000_000
    with capturing(
        lab, tmp_path, "sub1", "--rules", str(write_rules(tmp_path)), "--format", "json",
        "--filter", "tcp port 9090",
    ) as running:
        server = lab.start(SPONSOR.name, sys.executable, "-c", SENDER, str(wanted))
        with lab.socket(SUBSCRIBER_1.name, socket.AF_INET, socket.SOCK_STREAM) as near:
            near.connect((SPONSOR.ipv4, 9090))
            left = wanted
            while left:
                left -= len(near.recv(1 << 20))
            near.sendall(b"x")
            assert server.stdout is not None
            acknowledged, sent, segments = map(int, server.stdout.readline().split())
        settle()
        document = json.loads(running.end())
    [record] = document["usage"]
    # IPv4 20, TCP 20, timestamps 12; the handshake's segment has 8 octets of options more.
    segment_octets = segments * 52 + 8
    assert acknowledged - wanted in (0, 1, 2)  # SYN and FIN count as one each
    # On a busy machine TCP sends some octets twice, and both times they are on the wire.
    assert sent >= wanted
    # A FIN or an acknowledgement may pass between the two looks.
    beyond = record["downlink_octets"] - sent - segment_octets
    assert beyond % 52 == 0 and 0 <= beyond <= 3 * 52
    assert record["downlink_packets"] < segments  # they were coalesced indeed
    assert document["coalesced"]["packets"] == 0


def test_live_marks_are_believed_where_the_interface_is_trusted(lab: Lab, tmp_path: Path) -> None:
    """DSCP in UDP of both families, a VLAN tag in frames: the applications' octets and headers."""
    rules = tmp_path / "rules.toml"
    rules.write_text(MARKED)
    sizes = (1, 100, 1400)
    tagged = [bytes.fromhex("020000000002 020000000001 8100 0064 0800") + ipv4_udp(size)
              for size in sizes]
    with capturing(
        lab, tmp_path, "sub1", "sub2", "--rules", str(rules), "--format", "json",
        "--filter", "udp", "--flush", "100ms",
    ) as running:
        for address in (SPONSOR.ipv4, SPONSOR.ipv6):
            echo(lab, SUBSCRIBER_1, address, [bytes(size) for size in sizes], dscp=46)
            echo(lab, SUBSCRIBER_2, address, [bytes(size) for size in sizes], dscp=46)
            echo(lab, SUBSCRIBER_1, address, [bytes(size) for size in sizes])
        send_raw(lab, SUBSCRIBER_1.name, tagged)
        settle()
        document = json.loads(running.end())
    found = {(record["subscriber"], record["rule"]): (
        record["uplink_packets"], record["uplink_octets"], record["downlink_octets"])
        for record in document["usage"]}
    four, six = (3 * header + sum(sizes) for header in (28, 48))
    first, second = SUBSCRIBERS["sub1"], SUBSCRIBERS["sub2"]
    assert found == {
        # The echo answers without a mark.
        (first[0], "marked"): (3, four, 0), (first[0], None): (3, four, 2 * four),
        (first[1], "marked"): (3, six, 0), (first[1], None): (3, six, 2 * six),
        # Nobody trusts this interface.
        (second[0], None): (3, four, four), (second[1], None): (3, six, six),
        (TAGGED, "tagged"): (3, four, 0)}
    assert document["identity"] == {"holds": True}


TAGGED = "10.77.1.99"
MARKED = """
[meter]
window = "1h"
tunnel_endpoints = []
[[pools]]
prefixes = ["10.77.0.0/16", "2001:db8:77::/48"]
[sponsors.video-co]
[ingress.trusted]
interface = "sub1"
trusted = true
[[rules]]
id = "tagged"
precedence = 1
match = { vlan = 100 }
split = { sponsor = "video-co" }
[[rules]]
id = "marked"
precedence = 2
match = { dscp = 46, ingress = "trusted" }
split = { sponsor = "video-co" }
"""


def ipv4_udp(size: int) -> bytes:
    """An IPv4 UDP packet of TAGGED with so many octets of payload."""
    ends = socket.inet_aton(TAGGED) + socket.inet_aton(SPONSOR.ipv4)
    header = struct.pack(">BBHHHBBH", 0x45, 0, 28 + size, 0, 0, 64, 17, 0) + ends
    return header + struct.pack(">HHHH", 1000, 9, 8 + size, 0) + bytes(size)


def test_live_rules_change_while_traffic_passes(lab: Lab, tmp_path: Path) -> None:
    rules = write_rules(tmp_path)
    with capturing(
        lab, tmp_path, "sub1", "--rules", str(rules), "--ledger", "sqlite:///ledger.db",
        "--filter", FORWARDED, "--flush", "100ms",
    ) as running, unmerged(lab):
        before = lab.counters()
        http_get(lab, SUBSCRIBER_1, SPONSOR.ipv4, 100_000)
        write_rules(tmp_path, "50%")
        pushed = subprocess.run(
            [*TOLLSPLIT, "rules", "push", str(rules), "--to", "ledger.db.journal"],
            capture_output=True, text=True, cwd=tmp_path, timeout=TIMEOUT_S, check=False)
        assert "is in force since" in pushed.stdout, pushed.stderr
        http_get(lab, SUBSCRIBER_1, SPONSOR.ipv4, 100_000)
        rules.write_text("nonsense")
        running.process.send_signal(signal.SIGHUP)
        wait_until(lambda: "rules in force stay" in running.said)
        write_rules(tmp_path, "20%")
        running.process.send_signal(signal.SIGHUP)
        wait_until(lambda: running.said.count("in force now") == 2)
        http_get(lab, SUBSCRIBER_1, SPONSOR.ipv4, 100_000)
        settle()
        expected = sum(octets for _, octets in grown(before, lab.counters()).values())
        running.end()
    with open_ledger(f"sqlite:///{tmp_path}/ledger.db") as ledger:
        balances = {b.account: -b.balance for b in ledger.balances() if b.unit == "octet"}
        assert not [check for check in ledger.verify().checks if check.findings]
    sponsor = balances.pop("sponsor:video-co")
    assert sponsor + balances[SUBSCRIBER_1.ipv4] == expected
    assert 0.4 * expected < sponsor < 0.55 * expected  # 70, 50 and 20 % of about a third each


def test_live_killed_and_started_again(lab: Lab, tmp_path: Path) -> None:
    arguments = ("sub1", "--rules", str(write_rules(tmp_path, window="1s")), "--ledger",
                 "sqlite:///ledger.db", "--filter", FORWARDED, "--flush", "100ms")
    with unmerged(lab):
        before = lab.counters()
        with capturing(lab, tmp_path, *arguments) as running:
            http_get(lab, SUBSCRIBER_1, SPONSOR.ipv4, 500_000)
            time.sleep(0.6)  # several flushes: nothing of it may be lost
            running.end(signal.SIGKILL)
        expected = sum(octets for _, octets in grown(before, lab.counters()).values())
        with capturing(lab, tmp_path, *arguments) as running:
            wait_until(lambda: "the run that wrote it died" in running.said
                       or not list((tmp_path / "ledger.db.journal").glob("*.segment"))[1:])
            running.end()
    with open_ledger(f"sqlite:///{tmp_path}/ledger.db") as ledger:
        octets = -sum(b.balance for b in ledger.balances()
                      if b.unit == "octet" and not b.account.startswith("operator:"))
        assert not [check for check in ledger.verify().checks if check.findings]
    assert octets == expected


def test_live_quota_end_reaches_the_firewall(lab: Lab, tmp_path: Path) -> None:
    lab.execute(GATEWAY, "nft", "add", "set", "inet", "tollsplit", "exhausted",
                "{ type ipv4_addr; }")
    rules = write_rules(tmp_path, "100%", more=', quota = "50 KiB", per = "day"')
    with capturing(
        lab, tmp_path, "sub1", "--rules", str(rules), "--flush", "100ms", "--nft-set",
        "inet tollsplit exhausted", "--events", "events.jsonl",
    ) as running:
        http_get(lab, SUBSCRIBER_1, SPONSOR.ipv4, 200_000)
        wait_until(lambda: SUBSCRIBER_1.ipv4 in lab.execute(
            GATEWAY, "nft", "list", "set", "inet", "tollsplit", "exhausted"))
        running.end()
    [event] = map(json.loads, (tmp_path / "events.jsonl").read_text().splitlines())
    assert (event["kind"], event["subscriber"], event["octets"]) == (
        "quota_end", SUBSCRIBER_1.ipv4, 51_200)


def test_live_interface_that_comes_back_is_accounted_on(lab: Lab, tmp_path: Path) -> None:
    with capturing(
        lab, tmp_path, "sub2", "--rules", str(write_rules(tmp_path)), "--format", "json",
        "--filter", "udp port 7007",
    ) as running:
        echo(lab, SUBSCRIBER_2, SPONSOR.ipv4, [bytes(100)])
        settle()
        lab.disconnect(SUBSCRIBER_2)
        wait_until(lambda: "sub2: is gone" in running.said)
        lab.connect(SUBSCRIBER_2)
        wait_until(lambda: "sub2: is captured from now on" in running.said)
        wait_until(lambda: _reached(lab))
        settle()
        document = json.loads(running.end())
    [record] = document["usage"]
    assert record["uplink_octets"] >= 2 * 128
    assert record["uplink_octets"] % 128 == record["downlink_octets"] % 128 == 0


def _reached(lab: Lab) -> bool:
    try:
        echo(lab, SUBSCRIBER_2, SPONSOR.ipv4, [bytes(100)])
    except OSError:
        return False
    return True


def test_live_capture_says_what_it_lacks(lab: Lab, tmp_path: Path) -> None:
    rules = str(write_rules(tmp_path))
    with capturing(lab, tmp_path, "absent0", "--rules", rules) as running:
        running.process.wait(TIMEOUT_S)
        assert running.process.returncode == 3
        assert "absent0" in running.said
    without = subprocess.run(
        ["ip", "netns", "exec", lab.namespace(GATEWAY), "setpriv", "--bounding-set", "-net_raw",
         "--inh-caps", "-net_raw", *TOLLSPLIT, "capture", "sub1", "--rules", rules],
        capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    assert without.returncode == 3
    assert without.stderr.count("\n") == 1 and "CAP_NET_RAW" in without.stderr


def test_live_privileges_are_given_up(lab: Lab) -> None:
    found = pwd.getpwnam("nobody")
    needed = [os.__file__, str(Path(tollsplit.__file__).resolve())]
    reads = ["setpriv", f"--reuid={found.pw_uid}", "--clear-groups", "cat", *needed]
    if subprocess.run(reads, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                      check=False).returncode:
        pytest.skip("nobody may not read Python's library or this checkout")
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        home.chmod(0o755)
        (home / "books").mkdir()
        os.chown(home / "books", found.pw_uid, found.pw_gid)
        with capturing(
            lab, home, "sub1", "--rules", str(write_rules(home)), "--user", "nobody",
            "--ledger", f"sqlite:///{home}/books/ledger.db", "--filter", FORWARDED,
        ) as running:
            status = Path(f"/proc/{running.process.pid}/status").read_text()
            fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
            assert fields["CapEff"] == fields["CapPrm"] == "0" * 16
            assert set(fields["Uid"].split()) == {str(found.pw_uid)}
            http_get(lab, SUBSCRIBER_1, SPONSOR.ipv4, 1000)
            settle()
            running.end()
        with open_ledger(f"sqlite:///{home}/books/ledger.db") as ledger:
            assert [b for b in ledger.balances() if b.account == "sponsor:video-co"]
