"""Coalesced packets: what their segments had on the wire, worked out by hand.

Octets: IPv4 20, IPv6 40, TCP 20 (32 with timestamps), UDP 8, GTP-U and VXLAN 8, Ethernet 14.
With P octets of payload in segments of S there were ⌈P / S⌉ packets, each with all headers.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

import pytest
from judges import Frame, Judge, core_rows, reference_rows
from packets import CASES, FAULT, METERED, Case
from strategies import capture, ethernet, ip_type, ipv4, ipv6, tcp, udp
from test_meter import Counted
from test_ring import BLOCK, UNKNOWN, Packet, block

from tollsplit.cext.reader import Reader
from tollsplit.cext.ring import Ring

COALESCED = 1
A, B, OUT, IN = "10.0.0.7", "203.0.113.5", "192.0.2.1", "192.0.2.2"
A6, B6 = "2001:db8::7", "2001:db8:ffff::5"
TIMESTAMPS = b"\x01\x01\x08\x0a" + bytes(8)


def tcp_with_timestamps(payload: int) -> bytes:
    header = bytearray(tcp(1000, 443, TIMESTAMPS))
    header[12] = 8 << 4                 # the header's words
    return bytes(header) + bytes(payload)


def without_length(packet: bytes) -> bytes:
    at = 2 if packet[0] >> 4 == 4 else 4
    return packet[:at] + b"\0\0" + packet[at + 2 :]


def jumbogram(octets: int, protocol: int, content: bytes, options: bytes = b"") -> bytes:
    """IPv6 with a jumbo payload option, other options, and so many octets behind them."""
    header = struct.pack(
        ">BBBBI", protocol, len(options) // 8, 0xC2, 4, 8 + len(options) + octets) + options
    return without_length(ipv6(0, header + content, A6, B6))


def gtpu(inner: bytes) -> bytes:
    return ipv4(17, udp(2152, 2152, struct.pack(">BBHI", 0x30, 255, len(inner) & 0xFFFF, 9)
                        + inner), OUT, IN)


def framed(packet: bytes) -> bytes:
    return ethernet(ip_type(packet), packet)


def vlan(packet: bytes) -> bytes:
    return ethernet(0x8100, struct.pack(">HH", 100, ip_type(packet)) + packet)


class Coalesced(NamedTuple):
    description: str
    octets: bytes
    segment_octets: int
    inner: tuple[int, int]              # octets and tunnel octets, at="inner"
    outer: int                          # octets, at="outer"
    flags: int = 0
    original: int | None = None

    @property
    def frame(self) -> Frame:
        original = len(self.octets) if self.original is None else self.original
        return Frame(self.octets, 0, original, 1, 0, self.segment_octets)


def plain(description: str, packet: bytes, segment_octets: int, octets: int,
          flags: int = 0, original: int | None = None) -> Coalesced:
    """A packet in no tunnel."""
    return Coalesced(description, framed(packet), segment_octets, (octets, 0), octets, flags,
                     original and original + 14)


TCP = tcp(1000, 443, bytes(60))         # of large packets so much is captured
TCP4 = ipv4(6, tcp(1000, 443, bytes(3000)), A, B)
GTPU = gtpu(ipv4(6, tcp(1000, 443, bytes(2800)), A, B))
VXLAN = ipv4(17, udp(1, 4789, b"\x08\0\0\0\0\0\x05\0" + framed(TCP4)), OUT, IN)
KNOWN = [
    plain("timestamps, an exact multiple: 5 × 52 octets of headers",
          ipv4(6, tcp_with_timestamps(7240), A, B), 1448, 7240 + 260),
    plain("one octet more is one packet more",
          ipv4(6, tcp_with_timestamps(7241), A, B), 1448, 7241 + 312),
    plain("less than a segment is one packet",
          ipv4(6, tcp_with_timestamps(100), A, B), 1448, 152),
    plain("one octet of payload", ipv4(6, tcp(1, 2, b"x"), A, B), 1448, 41),
    plain("segments of one octet", ipv4(6, tcp(1, 2, b"four"), A, B), 1, 4 + 4 * 40),
    plain("TCP over IPv6", ipv6(6, tcp(1, 2, bytes(3000)), A6, B6), 1428, 3000 + 3 * 60),
    plain("UDP in segments", ipv4(17, udp(1, 443, bytes(2500)), A, B), 500, 2500 + 5 * 28),
    plain("UDP over IPv6 in segments", ipv6(17, udp(1, 443, bytes(2501)), A6, B6), 500,
          2501 + 6 * 48),
    plain("an extension header that segments have too",
          ipv6(60, bytes([6, 0, 1, 4]) + bytes(4) + tcp(1, 2, bytes(3000)), A6, B6), 1428,
          3000 + 3 * 68),
    Coalesced("a VLAN tag is no part of IP", vlan(TCP4), 1500, (3000 + 2 * 40, 0), 3000 + 2 * 40),
    Coalesced("GTP-U: each packet has 36 octets around it", framed(GTPU), 1400,
              (2800 + 2 * 40, 2 * 36), 2800 + 2 * 76),
    Coalesced("GTP-U over IPv6 in it", framed(gtpu(ipv6(6, tcp(1, 2, bytes(999)), A6, B6))), 500,
              (999 + 2 * 60, 2 * 36), 999 + 2 * 96),
    Coalesced("VXLAN, with an Ethernet header", framed(VXLAN), 1000,
              (3000 + 3 * 40, 3 * 50), 3000 + 3 * 90),
    Coalesced("4in6: no port outside", framed(ipv6(4, TCP4, A6, B6)), 1000,
              (3000 + 3 * 40, 3 * 40), 3000 + 3 * 80),
    plain("a jumbogram's own header is on no segment", jumbogram(70_020, 6, TCP), 1400,
          70_000 + 50 * 60, original=70_068),
    plain("one with other options is", jumbogram(70_020, 6, TCP, b"\x01\x06" + bytes(6)), 1400,
          70_000 + 50 * 76, original=70_076),
    Coalesced("a jumbogram in GTP-U", framed(without_length(gtpu(jumbogram(70_020, 6, TCP)))),
              1400, (70_000 + 50 * 60, 50 * 36), 70_000 + 50 * 96, original=14 + 36 + 70_068),
    Coalesced("IPv4 in a jumbogram", framed(jumbogram(
        70_040, 4, without_length(ipv4(6, TCP, A, B)))), 1400,
              (70_000 + 50 * 40, 50 * 40), 70_000 + 50 * 80, original=14 + 48 + 70_040),
    plain("IPv4 beyond its length field", without_length(ipv4(6, TCP, A, B)), 1400,
          70_000 + 50 * 40, original=70_040),
    plain("IPv6 beyond its length field", without_length(ipv6(6, TCP, A6, B6)), 1400,
          70_000 + 50 * 60, original=70_060),
]
AS_IT_IS = [
    plain("segments of unknown size", TCP4, UNKNOWN, 3040, COALESCED),
    Coalesced("… in GTP-U", framed(GTPU), UNKNOWN, (2840, 36), 2876, COALESCED),
    plain("a jumbogram of unknown segments", jumbogram(70_020, 6, TCP), UNKNOWN, 70_068,
          COALESCED, original=70_068),
    plain("ESP", ipv4(50, bytes(3000), A, B), 1400, 3020, COALESCED),
    plain("SCTP", ipv4(132, bytes(3000), A, B), 1400, 3020, COALESCED),
    plain("ICMP", ipv4(1, bytes(3000), A, B), 1400, 3020, COALESCED),
    plain("a first fragment", TCP4[:6] + b"\x20\0" + TCP4[8:], 1400, 3040, COALESCED),
    plain("a later fragment", TCP4[:6] + b"\0\x08" + TCP4[8:], 1400, 3040, COALESCED),
    plain("an IPv6 fragment",
          ipv6(44, struct.pack(">BBHI", 6, 0, 1, 5) + tcp(1, 2, bytes(3000)), A6, B6), 1400,
          3068, COALESCED),
    plain("no payload", ipv4(6, tcp(1, 2, b""), A, B), 1400, 40, COALESCED),
    plain("a header beyond the packet", ipv4(6, tcp_with_timestamps(0)[:24], A, B), 1400, 44,
          COALESCED),
    plain("more than a row can hold", jumbogram(2**31 + 20, 6, TCP), 1, 2**31 + 68, COALESCED,
          original=2**31 + 68),
    Coalesced("several GTP-U packets in UDP segments: the first alone is seen", framed(ipv4(
        17, udp(2152, 2152, 2 * (struct.pack(">BBHI", 0x30, 255, 140, 9)
                                 + ipv4(6, tcp(1, 2, bytes(100)), A, B))), OUT, IN)), 148,
              (140, 184), 324, COALESCED),
    Coalesced("ESP in GTP-U", framed(gtpu(ipv4(50, bytes(2000), A, B))), 1400, (2020, 36), 2056,
              COALESCED),
]

judges = pytest.mark.parametrize("judge", [reference_rows, core_rows])
at_both = pytest.mark.parametrize("at", ["inner", "outer"])
coalesced = pytest.mark.parametrize(
    "case", [*KNOWN, *AS_IT_IS], ids=[case.description for case in (*KNOWN, *AS_IT_IS)])


@judges
@at_both
@coalesced
def test_segments_count_the_headers_of_each(judge: Judge, case: Coalesced, at: str) -> None:
    [row] = judge([case.frame], at=at)
    octets, overhead = case.inner if at == "inner" else (case.outer, 0)
    assert (row["bucket"], row["octets"], row["tunnel_octets"], row["flags"] & COALESCED) == (
        METERED, octets, overhead, case.flags)
    assert case.outer == sum(case.inner)


@judges
@at_both
@coalesced
@pytest.mark.parametrize("layer", ["frame", "payload"])
def test_segments_change_no_other_layer(
    judge: Judge, case: Coalesced, at: str, layer: str
) -> None:
    [row] = judge([case.frame], at=at, layer=layer)
    [whole] = judge([case.frame._replace(segment_octets=0)], at=at, layer=layer)
    if case.segment_octets == UNKNOWN:
        whole["flags"] |= COALESCED
    assert row == whole


@judges
@at_both
@coalesced
def test_segments_need_the_headers_and_no_payload(judge: Judge, case: Coalesced, at: str) -> None:
    """Cut anywhere, a packet is counted in its segments, or is one that says so, or a fault."""
    [whole] = judge([case.frame], at=at)
    cuts = [case.frame._replace(octets=case.octets[:n]) for n in range(min(len(case.octets), 160))]
    known = 0
    for row in judge(cuts, at=at):
        if row["bucket"] == METERED and not row["flags"] & COALESCED:
            assert {**row, "frame": 0} == {**whole, "frame": 0}
            known += 1
        elif row["bucket"] != METERED:
            assert row["bucket"] == FAULT
    assert bool(known) == (not case.flags) or len(case.octets) < 60


@pytest.mark.parametrize("case", CASES, ids=[case.description for case in CASES])
@at_both
@pytest.mark.parametrize("layer", ["ip", "payload"])
def test_segments_core_equals_reference_at_every_truncation(
    case: Case, at: str, layer: str
) -> None:
    for segment_octets in (1, 7, 1448, UNKNOWN):
        for on_the_wire in (False, True):
            frames = [
                Frame(case.octets[:n], 0, n if on_the_wire else case.original, case.link_type, 0,
                      segment_octets) for n in range(len(case.octets) + 1)]
            options = {"at": at, "layer": layer, "trust_ip_length": case.trust}
            for count, (fast, slow) in enumerate(zip(
                    core_rows(frames, **options), reference_rows(frames, **options), strict=True)):
                names = slow if slow["bucket"] == METERED else (
                    "bucket", "fault", "octets", "tunnel_octets")
                assert {n: fast[n] for n in names} == {n: slow[n] for n in names}, (
                    f"{count} octets, segments of {segment_octets}")


def test_segments_reach_the_bill_from_a_ring_and_from_a_file() -> None:
    """3,000 octets in segments of 1,000; one packet, whose segments' headers are on the bill."""
    known = Frame(framed(TCP4)[:80], 10**9, 3054, 1, 0, 1000)
    frames = [known, known._replace(segment_octets=0), known._replace(segment_octets=UNKNOWN)]
    ring = Ring(bytearray(block([
        Packet(f.octets, f.original, seconds=1, gso_type=(0, 1)[f.segment_octets > 0],
               gso_size=f.segment_octets % UNKNOWN) for f in frames[:2]
    ] + [Packet(frames[2].octets, 3054, seconds=1, gso_type=3, gso_size=1480)])), BLOCK, 1, 0, True)
    reader = Reader()
    reader.feed(capture(frames), True)
    for source in (ring, reader):
        counted = Counted()
        assert counted.core.run(source) == 3
        sums = counted.core.sums()
        assert sums["seen"] == (3, 3120 + 3040 + 3040)
        assert sums["coalesced"] == (1, 3040)
        [record] = counted.tally().usage
        assert (record.uplink_packets, record.uplink_octets) == (3, 9200)
        assert record.flags == ("coalesced",)
