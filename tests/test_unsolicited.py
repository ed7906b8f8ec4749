"""Unsolicited packets: what comes in flows in which the subscriber says nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from fragments import fragment, frame
from resends import ACK, CLIENT, DOWN, FRIEND, RST, START_NS, SYN, UP, at, segment
from strategies import ipv4, udp
from test_retransmissions import RULES, resent

from tollsplit.engine import Tally
from tollsplit.rules.rule import Meter

NOTED = replace(RULES, meter=Meter(unsolicited=True))
# (seconds, direction, flags or "udp", port of the client's)
Said = tuple[float, tuple[str, str], int | str, int]


def packet(ends: tuple[str, str], kind: int | str, client: int = 1000) -> bytes:
    if isinstance(kind, int):
        return segment(1, ends=ends, flags=kind, client=client)
    ports = (client, 443) if ends[0] == CLIENT else (443, client)
    return ipv4(17, udp(*ports, bytes(12)), *ends)


def noted(said: Sequence[Said | tuple[float, tuple[str, str], int | str]], **bounds: int) -> Tally:
    return resent([at(packet(*rest), 1000 * at_s) for at_s, *rest in said], NOTED, **bounds)


@pytest.mark.parametrize(("said", "expected"), [
    ([(0, UP, "udp"), (1, DOWN, "udp")], 0),
    ([(0, DOWN, "udp"), (1, DOWN, "udp"), (2, UP, "udp"), (3, DOWN, "udp")], 2),
    ([(0, UP, "udp"), (1, DOWN, "udp", 1001)], 1),  # another flow
    ([(0, UP, "udp"), (1, DOWN, ACK)], 1),  # another protocol
    # the subscriber hangs up, by saying so or by saying nothing more
    ([(0, UP, ACK), (1, DOWN, ACK), (2, UP, RST), (3, DOWN, ACK)], 1),
    ([(0, UP, ACK), (2, UP, RST), (3, UP, SYN), (4, DOWN, SYN | ACK)], 0),
    ([(0, DOWN, SYN), (1, UP, RST), (2, DOWN, SYN)], 2),
    ([(0, UP, "udp"), (300, DOWN, "udp"), (301, DOWN, "udp")], 1),
    ([(0, UP, "udp"), *[(60 * n, DOWN, "udp") for n in range(1, 11)]], 5),  # keeps no call open
    ([(0, UP, "udp"), (200, UP, "udp"), (499, DOWN, "udp"), (501, DOWN, "udp")], 1),
])
def test_unsolicited_is_what_comes_without_being_asked_for(
    said: list[Said], expected: int
) -> None:
    tally = noted(said)
    assert tally.unsolicited.packets == expected
    assert tally.unsolicited.octets == expected * 40
    assert tally.metered.packets == len(said)  # and is charged as the rules say
    assert tally.sponsor_octets == {"shop": 40 * len(said)}


def test_unsolicited_is_noted_for_the_one_who_did_not_ask() -> None:
    there, back = (CLIENT, FRIEND), (FRIEND, CLIENT)
    frames = [at(ipv4(17, udp(1000, 1000, bytes(12)), *ends), n)
              for n, ends in enumerate([there, there, back, there])]
    assert resent(frames, NOTED).unsolicited.packets == 2


def test_unsolicited_is_noted_only_where_that_is_asked_for() -> None:
    frames = [at(packet(DOWN, "udp"))]
    assert resent(frames, replace(RULES, meter=Meter())).unsolicited.packets == 0


def test_fragment_belongs_to_its_datagrams_call() -> None:
    content = udp(443, 1000, bytes(72))
    parts = [frame(fragment(*DOWN, 1, first, content[first:end], end != 80), START_NS + 10 + n)
             for n, (first, end) in enumerate([(40, 80), (0, 40)])]
    assert resent([at(packet(UP, "udp")), *parts], NOTED).unsolicited.packets == 0
    assert resent(parts, NOTED).unsolicited.packets == 2
    assert resent(parts[:1], NOTED).unsolicited.packets == 0  # it can't be told


def test_full_table_accuses_nobody() -> None:
    said = [(0, UP, "udp", 1000), (1, UP, "udp", 1001), (2, DOWN, "udp", 1001)]
    tally = noted(said, calls=1)
    assert (tally.unsolicited.packets, tally.untracked.packets) == (0, 2)
