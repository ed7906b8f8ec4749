"""Duplicates: what a mirror port shows more than once is counted once."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from fragments import fragment, gtpu
from judges import Frame
from resends import DOWN, RST, TIMESTAMPS, UP, at, content, segment
from strategies import ipv4, ipv6, udp
from test_retransmissions import RULES, resent

from tollsplit.engine import Tally
from tollsplit.rules.rule import Meter

MIRRORED = replace(RULES, meter=Meter(duplicates_ns=2_000_000))
PACKET = segment(1, content(0, 60))
OUT4, OUT6 = ("192.0.2.1", "198.51.100.9"), ("2001:db8::7", "2001:db8:ffff::5")


def duplicates(*frames: Frame, rules: Any = MIRRORED, **bounds: int) -> int:
    tally = resent(frames, rules, **bounds)
    assert tally.seen.packets == len(frames)
    return tally.duplicate.packets


def routed(packet: bytes) -> bytes:
    """A packet behind one more router: less time to live, another checksum."""
    changed = bytearray(packet)
    if packet[0] >> 4 == 4:
        changed[8] -= 1
        changed[10:12] = b"\x12\x34"
    else:
        changed[7] -= 1
    return bytes(changed)


def with_octet(packet: bytes, place: int) -> bytes:
    changed = bytearray(packet)
    changed[place] ^= 1
    return bytes(changed)


@pytest.mark.parametrize("packet", [
    PACKET, segment(1, content(0, 60), ends=OUT6), ipv4(17, udp(1000, 53, b"what"), *UP),
    ipv4(1, bytes(8), *DOWN), ipv4(17, udp(9, 9, b"nobody's"), *OUT4),
    fragment(*UP, 7, 8, bytes(16), True), segment(9, flags=RST), ipv6(50, bytes(20), *OUT6),
], ids=["tcp", "ipv6", "udp", "icmp", "unsubscribed", "fragment", "reset", "esp"])
def test_copy_is_a_duplicate_whatever_routers_changed(packet: bytes) -> None:
    assert duplicates(at(packet), at(packet)) == 1
    assert duplicates(at(packet), at(routed(packet), 1)) == 1
    assert duplicates(at(routed(packet)), at(packet, 2)) == 1
    assert duplicates(at(packet), at(routed(packet), 0.5, vlan=7)) == 1
    assert duplicates(at(packet), at(packet + b"\0", 1)) == 1  # padding is no part of it
    for place in (1, len(packet) - 1):
        assert duplicates(at(packet), at(with_octet(packet, place), 1)) == 0


def test_copy_is_counted_as_nothing_else() -> None:
    tally: Tally = resent([at(gtpu(PACKET)), at(gtpu(PACKET), 1), at(PACKET, 1.5)], MIRRORED)
    assert (tally.duplicate.packets, tally.duplicate.octets) == (2, 200)
    assert (tally.metered.octets, tally.tunnel_overhead_octets) == (100, 36)


def test_tunnel_is_a_copy_where_the_outer_packet_is_metered() -> None:
    outer = replace(RULES, meter=Meter(at="outer", duplicates_ns=2_000_000))
    other = segment(1, content(0, 60, 1))
    assert duplicates(at(gtpu(PACKET)), at(gtpu(PACKET), 1), at(gtpu(other), 1), rules=outer) == 1


@pytest.mark.parametrize("again", [
    at(PACKET, 2.001),  # a round trip later
    at(segment(1, content(0, 60), number=2), 1),  # another identification
    at(segment(1, content(0, 60), options=TIMESTAMPS), 1),
    at(segment(1, content(0, 60), window=511), 1),
    at(segment(1, content(0, 60), client=1001), 1),
    at(segment(1, content(0, 60), ends=DOWN), 1),
])
def test_packet_that_is_sent_again_is_no_duplicate(again: Frame) -> None:
    assert duplicates(at(PACKET), again) == 0


def test_retransmission_without_an_identification_has_another_timestamp() -> None:
    first, again = (segment(1, content(0, 60), ends=OUT6, options=TIMESTAMPS[:4] + bytes(
        [0, 0, 0, tick, 0, 0, 0, 0])) for tick in (1, 2))
    assert duplicates(at(first), at(again, 1)) == 0


def test_duplicate_is_no_retransmission() -> None:
    both = replace(RULES, meter=Meter(
        retransmissions="exempt_if_identical", duplicates_ns=2_000_000))
    first, again = (segment(1, content(0, 600), number=number) for number in (1, 2))
    tally = resent([at(first), at(first, 1), at(again, 300), at(again, 301)], both)
    assert (tally.duplicate.packets, tally.retransmitted.packets, tally.metered.packets) == (
        2, 1, 1)


def test_fourth_copy_is_the_senders_own() -> None:
    """Else who says nothing but what a copy may differ in would say it for nothing."""
    assert duplicates(*[at(with_octet(PACKET, 8), n / 100) for n in range(12)]) == 9


def test_packets_that_were_cut_have_no_copies() -> None:
    """Behind the cut they may differ, and UDP's checksum may be left out, or made to agree."""
    octets = len(at(PACKET).octets)
    assert duplicates(*[at(PACKET, n, octets) for n in range(2)]) == 1
    assert duplicates(*[at(PACKET, n, octets - 1) for n in range(2)]) == 0
    assert duplicates(at(PACKET), at(PACKET, 1, octets - 1), at(PACKET, 2)) == 1


def test_without_the_key_nothing_is_a_duplicate() -> None:
    assert duplicates(at(PACKET), at(PACKET), rules=replace(RULES, meter=Meter())) == 0


def test_oldest_packet_makes_room() -> None:
    others = [at(segment(1, content(0, 60), client=1001 + n), (n + 1) / 10) for n in range(3)]
    frames = [at(PACKET), *others, at(PACKET, 1), others[-1]._replace(
        timestamp_ns=at(PACKET, 1.1).timestamp_ns)]
    assert duplicates(*frames) == 2
    assert duplicates(*frames, copies=3) == 1
    assert resent(frames, MIRRORED, copies=3).untracked.packets == 2
