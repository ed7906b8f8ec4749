"""Counters at the edges of their small form: they spill, and nothing is lost."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import NoReturn

import pytest

from tollsplit.cext.reader import Reader
from tollsplit.engine import Tally, meter
from tollsplit.rules.rule import Meter, Pool, Prefix, RuleSet

HOUR_NS = 3_600_000_000_000
START_NS = 1_793_505_600_000_000_000
# Ethernet, IPv4 10.0.0.7 → 203.0.113.1, UDP; the rest is cut off
FRAME = bytes.fromhex(
    "020000000001" "020000000002" "0800" "4500002e00000000401100000a000007cb007101"
    "1000 0050 001a 0000" "00000000000000000000000000"
)


RECORD_OCTETS = 16 + len(FRAME)


class Region:
    """A capture in memory."""

    def __init__(self, octets: bytes) -> None:
        self.octets = octets

    def chunks(self, parallel: bool) -> Iterator[Reader]:
        header, records = self.octets[:24], self.octets[24:]
        piece = RECORD_OCTETS * 997 if parallel else len(records) or 1
        for at in range(0, len(records) or 1, piece):
            reader = Reader()
            reader.feed(header + records[at : at + piece], True)
            yield reader

    def fail(self, error: ValueError) -> NoReturn:
        raise error


def frame(subscriber: int = 7) -> bytes:
    return FRAME[:29] + bytes([subscriber]) + FRAME[30:]


def capture(packets: Iterable[tuple[int, int]], subscriber: int = 7) -> bytes:
    """A pcap in nanoseconds of (timestamp, original length) packets."""
    octets = frame(subscriber)
    return struct.pack("<IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, 65535, 1) + b"".join(
        struct.pack("<IIII", at // 10**9, at % 10**9, len(octets), size) + octets
        for at, size in packets
    )


def count(
    octets: bytes, layer: str = "frame", window_s: int | None = None, workers: int = 3
) -> Tally:
    rules = RuleSet(
        "rules", "sha256:0", Meter(window_s=window_s),
        (Pool((Prefix(4, 0x0A000000, 8),)),),
    )  # fmt: skip
    tally = meter([Region(octets)], rules, layer=layer)
    assert tally.identity_holds
    if workers > 1:
        several = meter([Region(octets)], rules, layer=layer, workers=workers)
        assert several.identity_holds
        assert list(several.usage) == list(tally.usage)
    return tally


def test_table_counts_more_packets_than_sixteen_bits_hold() -> None:
    [record] = count(capture((START_NS + i, 60) for i in range(200_001))).usage
    assert (record.uplink_packets, record.uplink_octets) == (200_001, 200_001 * 60)
    assert (record.first_packet_ns, record.last_packet_ns) == (START_NS, START_NS + 200_000)


@pytest.mark.parametrize("size", [2**32 - 1, 2**31, 2**20 + 1])
def test_table_counts_more_octets_than_thirty_two_bits_hold(size: int) -> None:
    [record] = count(capture((START_NS - i, size) for i in range(5_000))).usage
    assert record.uplink_octets == 5_000 * size
    assert (record.first_packet_ns, record.last_packet_ns) == (START_NS - 4_999, START_NS)


def test_table_counts_times_beyond_its_epoch() -> None:
    """48 bits of nanoseconds are 78 hours; a file may hold any times in any order."""
    times = [START_NS, 0, START_NS + 79 * HOUR_NS, START_NS - 2 * HOUR_NS, 2**32 * 10**9 - 1,
             START_NS + 1, 5]  # fmt: skip
    [record] = count(capture((at, 60) for at in times)).usage
    assert record.uplink_packets == len(times)
    assert (record.first_packet_ns, record.last_packet_ns) == (min(times), max(times))


def test_table_counts_cells_beyond_sixteen_bits() -> None:
    """Windows whose numbers agree in their low 16 bits stay apart."""
    windows = 66_000
    times = [START_NS + i * 10**9 for i in range(windows)]
    tally = count(capture((at, 60) for at in [*times, *times[::7], *reversed(times)]), window_s=1,
                  workers=1)  # fmt: skip
    assert len(tally.usage) == windows
    for i, record in enumerate(tally.usage):
        assert record.first_packet_ns == times[i] == record.last_packet_ns
        assert record.uplink_packets == (3 if i % 7 == 0 else 2)


def test_table_orders_and_keeps_apart_many_subscribers() -> None:
    """Enough of them to grow the table; the same in every run, whatever its multiplier."""
    header = capture([])
    octets = header + b"".join(
        capture([(START_NS + i, 60 + i % 3)], subscriber=i * 7919 % 256)[len(header):]
        for i in range(9_000)
    )
    records = list(count(octets).usage)
    assert [r.subscriber for r in records] == [f"10.0.0.{i}" for i in range(256)]
    assert sum(r.uplink_packets for r in records) == 9_000
    assert records == list(count(octets).usage)
