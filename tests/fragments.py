"""Datagrams in fragments, as networks and attackers send them."""

from __future__ import annotations

import struct
from ipaddress import ip_address
from itertools import pairwise
from typing import NamedTuple

from hypothesis import strategies as st
from judges import Frame
from strategies import ethernet, ip_type, ipv4, udp

SECOND_NS = 1_000_000_000


def fragment4(
    source: str, destination: str, number: int, first: int, content: bytes, more: bool,
    protocol: int = 17, tos: int = 0,
) -> bytes:
    """Part of an IPv4 datagram, from the octet `first` on."""
    packet = bytearray(ipv4(protocol, content, source, destination, tos=tos,
                            fragment=first // 8 | more << 13))
    packet[4:6] = struct.pack(">H", number)
    return bytes(packet)


def fragment6(
    source: str, destination: str, number: int, first: int, content: bytes, more: bool,
    protocol: int = 17,
) -> bytes:
    """Part of an IPv6 datagram."""
    header = struct.pack(">BBHI", protocol, 0, first | more, number)
    return struct.pack(">IHBB16s16s", 6 << 28, 8 + len(content), 44, 64, ip_address(
        source).packed, ip_address(destination).packed) + header + content


def fragment(source: str, destination: str, *part: object, **options: int) -> bytes:
    build = fragment4 if ip_address(source).version == 4 else fragment6
    return build(source, destination, *part, **options)  # type: ignore[arg-type]


def gtpu(packet: bytes, teid: int = 7) -> bytes:
    """A packet in a tunnel of the network's own."""
    header = struct.pack(">BBHI", 0x30, 255, len(packet), teid)
    return ipv4(17, udp(2152, 2152, header + packet), "192.0.2.1", "192.0.2.2")


def frame(packet: bytes, at_ns: int, captured: int | None = None) -> Frame:
    octets = ethernet(ip_type(packet), packet)
    return Frame(octets[:captured], at_ns, len(octets), 1)


class Part(NamedTuple):
    """A stretch of a datagram's content."""

    first: int
    end: int
    more: bool


@st.composite
def parts(draw: st.DrawFn) -> list[Part]:
    """How a datagram is cut: whole, or with gaps, overlaps and repetitions; in any order."""
    cuts = sorted(draw(st.sets(st.integers(1, 7), max_size=3)))
    edges = [0, *(8 * cut for cut in cuts), 8 * draw(st.integers(8, 10)) - draw(
        st.sampled_from([0, 3]))]
    cut = [Part(a, b, b != edges[-1]) for a, b in pairwise(edges)]
    how = draw(st.sampled_from(["whole", "whole", "whole", "repeated", "gaps", "overlaps"]))
    if how == "repeated":
        cut += draw(st.lists(st.sampled_from(cut), min_size=1, max_size=2))
    elif how == "gaps":
        del cut[draw(st.integers(0, len(cut) - 1))]
    elif how == "overlaps":
        first = 8 * draw(st.integers(0, 8))
        cut.append(Part(first, first + draw(st.integers(0, 40)), draw(st.booleans())))
    return draw(st.permutations(cut)) if draw(st.booleans()) else cut


ENDS = (("10.0.0.7", "203.0.113.5"), ("203.0.113.5", "10.0.0.7"), ("10.0.0.7", "10.0.0.8"),
        ("10.0.0.8", "203.0.113.77"), ("2001:db8::7", "2001:db8:ffff::5"),
        ("2001:db8:ffff::5", "2001:db8::7"), ("192.0.2.1", "203.0.113.5"))


@st.composite
def fragmented(draw: st.DrawFn, start_ns: int) -> list[Frame]:
    """Some datagrams' fragments between each other, and packets that are whole; in time order."""
    found: list[tuple[int, bytes]] = []
    for _ in range(draw(st.integers(1, 6))):
        source, destination = draw(st.sampled_from(ENDS))
        content = udp(*draw(st.sampled_from([(1000, 443), (443, 1000), (1000, 53)])), bytes(80))
        number = draw(st.integers(1, 3))
        at_ns = start_ns + draw(st.integers(0, 80)) * SECOND_NS // 2
        tunnelled = draw(st.integers(0, 4)) == 0
        for part in draw(parts()):
            packet = fragment(source, destination, number, part.first,
                              content[part.first : part.end], part.more)
            found.append((at_ns, gtpu(packet) if tunnelled else packet))
            at_ns += draw(st.sampled_from([0, 1, 1, 31 * SECOND_NS]))
        found.append((at_ns, ipv4(17, content, "10.0.0.7", "203.0.113.5")))
    found.sort(key=lambda item: item[0])
    if draw(st.integers(0, 5)) == 0:  # the clock was set back
        found = [(at_ns - 3600 * SECOND_NS * (n > len(found) // 2), packet)
                 for n, (at_ns, packet) in enumerate(found)]
    return [frame(packet, at_ns, draw(st.sampled_from([None, None, None, 60])))
            for at_ns, packet in found]
