"""IPFIX beside a live run: collectors come, go and stand still, and the bill never waits."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from collectors import (
    Found,
    Nfcapd,
    TcpCollector,
    batch,
    dumped,
    free_port,
    messages,
    usage_record,
    wait,
)
from commands import COMMAND
from gateways import booked, expect_sound, load_other, packet, rows, running

from tollsplit.cli.ipfix import Export
from tollsplit.ipfix import Collector, Exporter, exporter
from tollsplit.ipfix.message import Body
from tollsplit.ipfix.records import Batch, introduction
from tollsplit.model import Volume
from tollsplit.snapshot import Notice

RELIABILITY = 404
TOTALS = (("seen", Volume(9, 900)),)


class Sending:
    """An exporter, and what it told."""

    def __init__(self, url: str) -> None:
        self.told: list[str] = []
        self.exporter = Exporter(url, "gw", self._tell)
        self.exporter.look(TOTALS)

    def _tell(self, notice: Notice) -> None:
        assert notice.kind == "export"
        self.told.append(notice.text)


@contextmanager
def sending(url: str) -> Iterator[Sending]:
    made = Sending(url)
    made.exporter.start()
    try:
        yield made
    finally:
        made.exporter.finish()


@pytest.fixture(autouse=True)
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporter, "RETRY_S", 0.02)
    monkeypatch.setattr(exporter, "RETRY_MAX_S", 0.05)


def large(first: int, count: int = 3000) -> Batch:
    """A batch of several messages of 64 KiB."""
    return batch(*(usage_record(i, account="a" * 100) for i in range(first, first + count)))


def flows_of(path: Path, octets: bytes) -> list[dict[str, str]]:
    """The flows of whole messages."""
    path.write_bytes(b"".join(message.octets for message in messages(octets)))
    return [values for number, values in dumped(path) if number < 400]


def test_export_waits_for_a_collector_and_the_run_does_not(tmp_path: Path) -> None:
    port = free_port(socket.SOCK_STREAM)
    with sending(f"tcp://127.0.0.1:{port}") as ours:
        wait(lambda: not ours.exporter._waiting, "it has something to send")
        began_s = time.monotonic()
        for first in (0, 100):
            ours.exporter.offer(batch(*(usage_record(i) for i in range(first, first + 100))))
        assert time.monotonic() - began_s < 1
        wait(lambda: ours.told, "nobody is told that the collector is away")
        with TcpCollector(port) as listener:
            ours.exporter.finish()
            wait(lambda: listener.ended, "the connection does not end")
        flows = flows_of(tmp_path / "sent.ipfix", bytes(listener.sessions[-1]))
    assert [int(flow["usageSequence"]) for flow in flows[::2]] == list(range(200))
    assert len(ours.told) == 2, ours.told
    assert "Connection refused; the records wait for the collector" in ours.told[0]
    assert "the collector is there again" in ours.told[1]


def test_export_goes_on_where_a_connection_broke(tmp_path: Path) -> None:
    """What a broken session had taken whole is not sent again; a new one begins from scratch."""
    with TcpCollector(octets=300_000) as listener, sending(listener.url) as ours:
        wait(lambda: ours.exporter.is_alive(), "it does not start")
        for first in range(0, 6000, 2000):
            ours.exporter.offer(large(first, 2000))
        wait(lambda: not ours.exporter._waiting, "not all is sent")
    wait(lambda: listener.ended == len(listener.sessions), "the connection does not end")
    assert len(listener.sessions) > 2
    seen: list[int] = []
    for kept in listener.sessions:
        found = messages(bytes(kept))
        assert found[0].sequence == 0 and found[0].numbers[0] == 3
        seen += [2 * int(flow["usageSequence"]) + int(flow["flowDirection"])
                 for flow in flows_of(tmp_path / "session.ipfix", bytes(kept))]
    assert len(set(seen)) == len(seen)  # none twice
    assert seen == sorted(seen) and seen[0] == 0
    # A session's end lost what lay in the kernel's buffers, and nothing else.
    assert any("the collector is there again" in text for text in ours.told)


def test_export_notices_that_its_collector_has_gone() -> None:
    """The kernel would take a message for a connection that the other side has ended."""
    usage = batch(usage_record())
    with TcpCollector() as listener, closing(Collector(listener.url, 7)) as ours:
        ours.introduce(introduction(usage, 1400))
        wait(lambda: listener.sessions, "nobody is connected")
        listener.hang_up()
        wait(lambda: listener.ended == 1, "the connection does not end")
        with pytest.raises(ConnectionResetError):
            ours.send(Body(b"\x01\x91\x00\x05x", 1))
        ours.send(Body(b"\x01\x91\x00\x05x", 1))
        ours.close()
        wait(lambda: listener.ended == 2, "the connection does not end")
    second = messages(bytes(listener.sessions[1]))
    assert second[0].numbers[0] == 3 and second[-1].numbers == [401]


def test_export_leaves_out_what_a_full_queue_cannot_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporter, "IPFIX_WAITING_RECORDS_MAX", 250)
    port = free_port(socket.SOCK_STREAM)
    with sending(f"tcp://127.0.0.1:{port}") as ours:
        for first in range(0, 500, 100):
            ours.exporter.offer(batch(*(usage_record(i) for i in range(first, first + 100))))
        assert sum("further ones are left out" in text for text in ours.told) == 1
        with TcpCollector(port) as listener:
            ours.exporter.finish()
            wait(lambda: listener.ended, "the connection does not end")
    (tmp_path / "sent.ipfix").write_bytes(listener.sessions[-1])
    records = dumped(tmp_path / "sent.ipfix")
    assert {int(v["usageSequence"]) for number, v in records if number < 400} == set(range(200))
    last = [values for number, values in records if number == RELIABILITY][-1]
    assert last["notSentFlowTotalCount"] == "300"
    assert last["notSentOctetTotalCount"] == str(300 * (10**10 + 500))
    assert last["notSentPacketTotalCount"] == "1500"


def test_export_says_what_it_could_not_send(monkeypatch: pytest.MonkeyPatch) -> None:
    with sending(f"tcp://127.0.0.1:{free_port(socket.SOCK_STREAM)}") as ours:
        ours.exporter.offer(batch(usage_record()))
    assert ours.told[-1].endswith("1 records were not sent")


def test_export_over_udp_survives_a_restart(tmp_path: Path) -> None:
    """Where nobody listens the kernel says so, and what it refused is sent again."""
    first = Nfcapd(tmp_path / "first")
    second = Nfcapd(tmp_path / "second")
    second.port = first.port
    with sending(f"udp://127.0.0.1:{first.port}") as ours:
        with first.running():
            ours.exporter.offer(batch(*(usage_record(i) for i in range(50))))
            wait(lambda: not ours.exporter._waiting, "not all is sent")
        ours.exporter.offer(batch(*(usage_record(i) for i in range(50, 100))))
        wait(lambda: ours.told, "nobody is told that the collector is away")
        with second.running():
            wait(lambda: not ours.exporter._waiting, "not all is sent")
    each = 10**10 + 500
    assert first.found() == second.found() == Found(50 * each, 50 * 5)


def test_export_tells_of_unmetered_traffic_alone(tmp_path: Path) -> None:
    """A run whose pools are wrong meters nothing; its buckets say where everything went."""
    with TcpCollector() as listener, sending(listener.url) as ours:
        ours.exporter.look([("seen", Volume(5, 500)), ("unattributed", Volume(5, 500))])
        ours.exporter.finish()
        wait(lambda: listener.ended, "the connection does not end")
    (tmp_path / "sent.ipfix").write_bytes(listener.sessions[0])
    buckets = {v["usageBucket"]: v["usageBucketOctetTotalCount"]
               for number, v in dumped(tmp_path / "sent.ipfix") if number == 403}
    assert buckets == {"seen": "500", "unattributed": "500"}


# --- gateways --------------------------------------------------------------------------------


@pytest.mark.window("1s")
def test_export_of_a_gateway_is_what_it_books(home: Path) -> None:
    with TcpCollector() as listener:
        made = Export(listener.url, "test", lambda notice: None)
        with made.running(), running(home, final=made.offer, look=made.look) as run:
            for _ in range(30):
                now = time.time_ns()
                run.frames.lanes[0].give(b"".join(packet(now + i) for i in range(20)))
                time.sleep(0.05)
        wait(lambda: listener.ended, "the connection does not end")
    expect_sound(home)
    (home / "sent.ipfix").write_bytes(listener.sessions[0])
    records = dumped(home / "sent.ipfix")
    sent = [(int(v["usageSequence"]), int(v["octetDeltaCount"]), int(v["packetDeltaCount"]))
            for number, v in records if number < 400]
    assert sent == rows(home, "SELECT sequence, uplink_octets, uplink_packets FROM usage_records "
                              "ORDER BY sequence")
    assert booked(home) == 600 * 128 and len(sent) > 1
    paid = sum(int(v["usagePaidOctetDeltaCount"]) for number, v in records
               if number == 402 and v["usageSponsorIdentity"] == "video-co")
    assert paid == sum(octets for (octets,) in rows(
        home, "SELECT octets FROM usage_shares"))
    totals = {v["usageBucket"]: int(v["usageBucketOctetTotalCount"])
              for number, v in records if number == 403}  # the last ones count
    assert totals["seen"] == totals["metered"] == 600 * 128


def test_export_of_a_gateway_without_a_ledger(home: Path) -> None:
    """Whatever the layer is by then: rules may change it."""
    with TcpCollector() as listener:
        made = Export(listener.url, "test", lambda notice: None)
        other = load_other(home)
        with made.running(), running(home, booked=False, final=made.offer,
                                     look=made.look) as run:
            run.frames.lanes[0].give(packet(time.time_ns()))
            path = Path(other.path)
            path.write_text(path.read_text().replace("[meter]", '[meter]\nlayer = "frame"'))
            run.gateway.reload(path)
            wait(lambda: "rules" in run.kinds(), "the rules are not in force")
            run.frames.lanes[0].give(packet(time.time_ns()))
        wait(lambda: listener.ended, "the connection does not end")
    (home / "sent.ipfix").write_bytes(listener.sessions[0])
    flows = [values for number, values in dumped(home / "sent.ipfix") if number < 400]
    assert sum(int(flow.get("octetDeltaCount", 0)) for flow in flows) == 128
    assert sum(int(flow.get("layer2OctetDeltaCount", 0)) for flow in flows) == 128
    assert len({flow["commonPropertiesId"] for flow in flows}) == 2


@pytest.mark.window("1h")
def test_export_of_what_was_booked_before_is_none(home: Path) -> None:
    """A run dies between booking and clearing up: the next finds it booked, and sends nothing."""
    sent: list[int] = []
    with running(home, final=lambda usage, at: sent.append(len(usage))) as run:
        run.frames.lanes[0].give(packet(time.time_ns()))
        wait(lambda: run.last.seen.octets, "it is not in the journal")
        kept = {path: path.read_bytes() for path in (home / "journal").iterdir()
                if path.is_file()}
    assert booked(home) == 128 and sent == [1]
    for path, octets in kept.items():
        path.write_bytes(octets)
    with running(home, final=lambda usage, at: sent.append(len(usage))) as run:
        wait(lambda: "recovered" in run.kinds(), "what was left behind is not found")
    assert booked(home) == 128 and sent == [1]
    expect_sound(home)


def test_export_does_not_hold_up_the_bill(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A collector that takes nothing: the run ends in its time, everything is booked."""
    monkeypatch.setattr(exporter, "IPFIX_END_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        made = Export(f"tcp://127.0.0.1:{deaf.getsockname()[1]}", "test", lambda notice: None)
        made._exporter.offer(large(0, 30_000))  # more than all buffers on the way take
        with made.running(), running(home, final=made.offer, look=made.look) as run:
            run.frames.lanes[0].give(packet(time.time_ns()))
            began_s = time.monotonic()
            run.end()
            assert time.monotonic() - began_s < 5
            assert booked(home) == 128


# --- the command -----------------------------------------------------------------------------


def test_capture_sends_what_its_document_has(tmp_path: Path) -> None:
    """On loopback, to nfcapd beside it; what is sent to that is loopback's traffic as well."""
    if os.geteuid():
        pytest.skip("capturing needs root")
    rules = tmp_path / "rules.toml"
    rules.write_text('[[pools]]\nprefixes = ["127.0.0.0/8"]\n[meter]\nwindow = "1h"\n')
    nfcapd = Nfcapd(tmp_path / "nfcapd")
    with nfcapd.running() as url, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        run = subprocess.Popen(
            [*COMMAND, "capture", "lo", "--rules", str(rules), "--ipfix", url, "--format", "json",
             "--output", "out.json", "--duration", "1500ms", "--ring", "2"],
            stderr=subprocess.PIPE, text=True, cwd=tmp_path)
        assert run.stderr is not None
        while "captured from now on" not in run.stderr.readline():
            assert run.poll() is None
        for _ in range(50):
            sender.sendto(b"x" * 100, ("127.0.0.1", 9))
        _, err = run.communicate(timeout=60)
        assert run.returncode == 0, err
    documents = [json.loads(text) for text in (tmp_path / "out.json").read_text().split("\n\n")]
    metered = [document["metered"] for document in documents]
    expected = Found(sum(m["octets"] for m in metered), sum(m["packets"] for m in metered))
    assert nfcapd.found() == expected and expected.octets >= 2 * 50 * 128
