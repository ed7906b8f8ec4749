"""RADIUS accounting out: what Debian's FreeRADIUS writes down is what the bill has."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from collectors import free_port, usage_record, wait
from gateways import packet, rows, running
from hypothesis import given
from hypothesis import strategies as st
from radius_parties import SECRET, FreeRadius, octets

from tollsplit.cli import main
from tollsplit.cli.radius import Accounting, Server
from tollsplit.errors import TollsplitError, UsageError
from tollsplit.model import UsageRecord
from tollsplit.radius import client
from tollsplit.radius.session import Counters, Sessions, _parts
from tollsplit.snapshot import Notice

HOUR_NS = 3600 * 10**9


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "RADIUS_WAIT_S", 0.2)
    monkeypatch.setattr(client, "RETRY_S", 0.02)
    monkeypatch.setattr(client, "RETRY_MAX_S", 0.05)


@pytest.fixture
def server(tmp_path: Path) -> FreeRadius:
    return FreeRadius(tmp_path / "radius")


def class_of(packet: dict[str, str]) -> str:
    return bytes.fromhex(packet["Class"].removeprefix("0x")).decode()


def test_radius_freeradius_has_what_the_bill_has(example: Path, server: FreeRadius) -> None:
    with server.running() as url:
        assert main(["account", "capture.pcap", "--rules", "rules.toml", "--format", "json",
                     "--output", "out.json", "--radius", url,
                     "--radius-secret", str(server.secret_path)]) == 0  # fmt: skip
    document: dict[str, Any] = json.loads(Path("out.json").read_text())
    found = server.packets()
    starts = [p for p in found if p["Acct-Status-Type"] == "Start"]
    stops = [p for p in found if p["Acct-Status-Type"] == "Stop"]
    assert len(found) == len(starts) + len(stops) > 10
    assert sorted(p["Acct-Session-Id"] for p in starts) == sorted(
        p["Acct-Session-Id"] for p in stops)
    paid: Counter[str] = Counter()
    by_place: Counter[tuple[str, str, str]] = Counter()
    for stop in stops:
        up, down = octets(stop, "Acct-Input"), octets(stop, "Acct-Output")
        paid[class_of(stop)] += up + down
        sponsored = class_of(stop) != "subscriber"
        assert octets(stop, "ChilliSpot-Garden-Input") == (up if sponsored else 0)
        assert octets(stop, "ChilliSpot-Garden-Output") == (down if sponsored else 0)
        assert octets(stop, "ChilliSpot-Other-Input") == (0 if sponsored else up)
        assert octets(stop, "ChilliSpot-Other-Output") == (0 if sponsored else down)
        place = next(stop[name] for name in ("Framed-IP-Address", "Framed-IPv6-Prefix",
                                             "Framed-IPv6-Address") if name in stop)
        by_place[place, stop["User-Name"], "up"] += up
        by_place[place, stop["User-Name"], "down"] += down
    metered = document["metered"]
    assert paid == Counter({"subscriber": metered["subscriber_octets"],
                            **metered["sponsor_octets"]})
    assert len(paid) > 2
    ours: Counter[tuple[str, str, str]] = Counter()
    for entry in document["usage"]:
        ours[entry["subscriber"], entry["account"], "up"] += entry["uplink_octets"]
        ours[entry["subscriber"], entry["account"], "down"] += entry["downlink_octets"]
    assert by_place == ours
    assert sum(int(stop["Acct-Input-Packets"]) + int(stop["Acct-Output-Packets"])
               for stop in stops) == metered["packets"]


def test_radius_places_times_and_gigawords(server: FreeRadius) -> None:
    keys = ("10.0.0.7", "10.1.0.0/24", "2001:db8:0:7::/64", "2001:db8::1", "mac:02:00:00:00:00:07",
            "teid:0x0000beef")
    big = (2**40 + 5, 2**33 + 1)
    with server.running() as url:
        client.account(url, SECRET, "gw", "run", [
            usage_record(i, key, octets=big, sponsored={}) for i, key in enumerate(keys)])
    stops = [p for p in server.packets() if p["Acct-Status-Type"] == "Stop"]
    assert [(octets(p, "Acct-Input"), octets(p, "Acct-Output")) for p in stops] == [big] * 6
    assert stops[0]["Acct-Input-Gigawords"] == "256" and stops[0]["Acct-Input-Octets"] == "5"
    assert [p.get("Framed-IP-Address") for p in stops[:2]] == ["10.0.0.7", "10.1.0.0"]
    assert stops[1]["Framed-IP-Netmask"] == "255.255.255.0"
    assert stops[2]["Framed-IPv6-Prefix"] == "2001:db8:0:7::/64"
    assert stops[3]["Framed-IPv6-Address"] == "2001:db8::1"
    assert [p["Calling-Station-Id"] for p in stops[4:]] == list(keys[4:])
    for stop in stops:
        assert stop["Event-Timestamp"] == "Nov  3 2026 00:00:10 UTC"
        assert stop["Acct-Session-Time"] == "10" and stop["NAS-Identifier"] == "gw"
        assert stop["User-Name"] == "alice" and "Message-Authenticator" in stop


def test_radius_same_run_is_the_same_sessions(example: Path, server: FreeRadius) -> None:
    """What is booked can be reported again: a server that keeps sessions changes nothing."""
    with server.running() as url:
        for _ in range(2):
            assert main(["account", "capture.pcap", "--rules", "rules.toml", "--ledger",
                         "sqlite:///l.db", "--output", "out.txt", "--radius", url,
                         "--radius-secret", str(server.secret_path)]) == 0  # fmt: skip
    ids = Counter((p["Acct-Session-Id"], p["Acct-Status-Type"]) for p in server.packets())
    assert set(ids.values()) == {2}


@pytest.mark.usefixtures("impatient")
def test_radius_wrong_secret_is_an_error(
    tmp_path: Path, example: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = FreeRadius(tmp_path / "other", secret=b"something else altogether")
    with other.running() as url:
        assert main(["account", "capture.pcap", "--rules", "rules.toml", "--output", "out.txt",
                     "--radius", url, "--radius-secret", str(other.secret_path)]) == 1
    err = capsys.readouterr().err
    assert f"{url}: the server does not take the accounting: no answer" in err
    assert not other.packets() and "invalid" in other.log


@contextmanager
def answering(answer: bytes) -> Iterator[str]:
    """A server that answers whatever comes, with this for an authenticator."""
    with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as listener:
        listener.bind(("127.0.0.1", 0))

        def serve() -> None:
            while True:
                try:
                    request, sender = listener.recvfrom(4096)
                except OSError:
                    return
                listener.sendto(b"\x05" + request[1:2] + b"\x00\x14" + answer, sender)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"radius://127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.usefixtures("impatient")
def test_radius_answer_of_somebody_else_is_none() -> None:
    with answering(b"\x00" * 16) as url, pytest.raises(TollsplitError, match="no answer"):
        client.account(url, SECRET, "gw", "run", [usage_record()])


def test_radius_secrets_and_urls_are_checked(tmp_path: Path) -> None:
    short = tmp_path / "short"
    short.write_text("testing123\n")
    with pytest.raises(UsageError, match="expected a secret of 16 octets or more, got 10"):
        client.read_secret(short)
    with pytest.raises(UsageError, match="cannot be read"):
        client.read_secret(tmp_path / "missing")
    (tmp_path / "secret").write_bytes(SECRET + b"\r\n")
    assert client.read_secret(tmp_path / "secret") == SECRET
    assert client.parse_url("radius://[2001:db8::7]") == ("2001:db8::7", 1813)
    for url in ("radius://", "udp://h:1", "h:1813", "radius://h/x", "radius://h:99999"):
        with pytest.raises(UsageError, match="expected radius://HOST:PORT"):
            client.parse_url(url)
    nowhere = str(tmp_path / "nowhere")
    assert main(["account", nowhere, "--rules", nowhere, "--radius", "radius://h"]) == 2
    assert main(["account", nowhere, "--rules", nowhere, "--radius", "radius://h",
                 "--radius-secret", str(short)]) == 2  # fmt: skip


# --- sessions --------------------------------------------------------------------------------


def later(record: UsageRecord, hours: int) -> UsageRecord:
    return replace(record, first_packet_ns=record.first_packet_ns + hours * HOUR_NS,
                   last_packet_ns=record.last_packet_ns + hours * HOUR_NS)


def test_radius_session_begins_goes_on_and_ends_in_silence() -> None:
    sessions = Sessions("run")
    first = list(sessions.take([usage_record(octets=(600, 400))]))
    assert [(r.status, r.session.payer) for r in first] == [
        ("Start", "video-co"), ("Start", "subscriber"), ("Interim-Update", "video-co"),
        ("Interim-Update", "subscriber")]
    assert len({r.session.multi_id for r in first}) == 1
    assert len({r.session.id for r in first}) == 2
    second = list(sessions.take([later(usage_record(octets=(600, 400)), 1),
                                 later(usage_record(subscriber="10.0.0.8"), 1)]))
    going = {r.session.payer: r.session for r in second
             if r.session.subscriber == "10.0.0.7" and r.status == "Interim-Update"}
    assert going["video-co"].counters == Counters(840, 560)
    assert going["subscriber"].counters == Counters(360, 240, 6, 4)
    assert going["video-co"].seconds == 3610
    third = list(sessions.take([later(usage_record(subscriber="10.0.0.8"), 2)]))
    stops = [r for r in third if r.status == "Stop"]
    assert {r.session.id for r in stops} == {r.session.id for r in first}
    assert {r.cause for r in stops} == {"Idle-Timeout"}
    assert {r.session.counters for r in stops} == {Counters(840, 560), Counters(360, 240, 6, 4)}
    again = next(r for r in sessions.take([later(usage_record(), 3)]) if r.status == "Start")
    assert again.session.id not in {r.session.id for r in first}
    assert {r.cause for r in sessions.end()} == {"NAS-Request"}
    assert not list(sessions.end())


def test_radius_session_is_an_accounts_and_an_addresss() -> None:
    """An address that changed hands has two sessions, each with its account's octets."""
    reports = list(Sessions("run").take([
        usage_record(account="alice", sponsored={}, octets=(10, 0)),
        usage_record(account="bob", sponsored={}, octets=(20, 0))]))
    found = {(r.session.account, r.session.counters.input_octets) for r in reports
             if r.status == "Interim-Update"}
    assert found == {("alice", 10), ("bob", 20)}


@given(st.integers(0, 2**40), st.integers(0, 2**40), st.lists(st.floats(0, 1), max_size=4))
def test_radius_parts_add_up_in_each_direction(up: int, down: int, shares: list[float]) -> None:
    left = up + down
    sponsored = {}
    for number, share in enumerate(shares):
        sponsored[f"s{number}"] = int(left * share)
        left -= sponsored[f"s{number}"]
    parts = _parts(usage_record(octets=(up, down), sponsored=sponsored))
    assert all(count >= 0 for part in parts.values() for count in part)
    assert sum(part.input_octets for part in parts.values()) == up
    assert sum(part.output_octets for part in parts.values()) == down
    for sponsor, paid in sponsored.items():
        assert parts[sponsor].input_octets + parts[sponsor].output_octets == paid


# --- live runs -------------------------------------------------------------------------------


@contextmanager
def reporting(url: str) -> Iterator[tuple[Accounting, list[Notice]]]:
    told: list[Notice] = []
    made = Accounting(Server(url, SECRET), "gw", told.append)
    with made.running():
        yield made, told


@pytest.mark.window("1s")
def test_radius_of_a_gateway_is_what_it_books(home: Path, server: FreeRadius) -> None:
    with (server.running() as url, reporting(url) as (made, told),
          running(home, final=made.offer, look=made.look) as run):
        for _ in range(30):
            now = time.time_ns()
            run.frames.lanes[0].give(b"".join(
                packet(now + i, uplink=bool(i % 3)) for i in range(20)))
            time.sleep(0.05)
    assert not told
    found = server.packets()
    assert {p["Acct-Status-Type"] for p in found} == {"Start", "Interim-Update", "Stop"}
    stops = [p for p in found if p["Acct-Status-Type"] == "Stop"]
    [(up, down)] = rows(home, "SELECT sum(uplink_octets), sum(downlink_octets) FROM usage_records")
    assert sum(octets(p, "Acct-Input") for p in stops) == up > 0
    assert sum(octets(p, "Acct-Output") for p in stops) == down > 0
    [(paid,)] = rows(home, "SELECT sum(octets) FROM usage_shares")
    assert sum(octets(p, "Acct-Input") + octets(p, "Acct-Output") for p in stops
               if class_of(p) == "video-co") == paid


@pytest.mark.usefixtures("impatient")
def test_radius_server_that_was_away_gets_the_sums(server: FreeRadius) -> None:
    with reporting(server.url) as (made, told):
        began_s = time.monotonic()
        for hour in range(50):
            made.offer([later(usage_record(octets=(600, 400)), hour)], "inner")  # type: ignore
        assert time.monotonic() - began_s < 1
        wait(lambda: told, "nobody is told that the server is away")
        with server.running():
            wait(lambda: len(told) == 2, "nobody is told that it is back")
            made._reporter.finish()
    assert [notice.kind for notice in told] == ["export", "export"]
    assert "sessions wait for the server" in told[0].text
    assert "the server answers again" in told[1].text
    found = server.packets()
    assert len(found) < 20  # of what waited the last said all
    stops = {class_of(p): octets(p, "Acct-Input") + octets(p, "Acct-Output")
             for p in found if p["Acct-Status-Type"] == "Stop"}
    assert stops == {"video-co": 50 * 700, "subscriber": 50 * 300}


@pytest.mark.usefixtures("impatient")
def test_radius_says_what_it_could_not_report() -> None:
    with reporting(f"radius://127.0.0.1:{free_port(socket.SOCK_DGRAM)}") as (made, told):
        made.offer([usage_record()], "inner")  # type: ignore
    assert told[-1].text.endswith("not all sessions were reported to their end")
    assert datetime.now(UTC).timestamp() - told[-1].at_ns / 10**9 < 60
