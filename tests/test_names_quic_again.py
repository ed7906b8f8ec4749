"""QUIC connections between the ports of another one: a name counts while all of them say it."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from fragments import SECOND_NS, fragment, frame
from hellos import hello, named
from hypothesis import given
from hypothesis import strategies as st
from initials import ID, V2, crypto, initial
from judges import Frame
from strategies import udp
from test_fragments import START_NS, few, paid
from test_laws import Pieces
from test_names import CLIENT, OURS, RULES, SERVER, SHOP, octets_of
from test_names_quic import FIRST, ONE, SECOND, SHORT, WHOLE, bounds, datagram
from test_reference import assert_same, document, fast

from tollsplit.engine import meter
from tollsplit.engine.bounds import Bounds
from tollsplit.limits import QUIC_AGAIN_MAX
from tollsplit.rules.rule import Match, Rule, RuleSet, Split
from tollsplit.rules.seal import Seal

FREE = hello(named(b"free.example"), (9, bytes(200)))
OTHERS, CHOSEN = b"number 2", b"by the server"
ANOTHER = initial(crypto(FREE), to=OTHERS)
PARTS = [initial(crypto(FREE[:90]), to=OTHERS), initial(crypto(FREE[90:], 90), 1, to=OTHERS)]
AGAIN = [initial(crypto(WHOLE[:90]), to=OTHERS), initial(crypto(WHOLE[90:], 90), 1, to=OTHERS)]
ANSWERED = initial(b"\x02\0\0\0\0", 2, to=CHOSEN, sealed_for=ID)  # an acknowledgment
DECOY = initial(crypto(FREE), 3)  # in place of what was said, to the same number
PING = initial(b"\x01", to=OTHERS)  # whose hello follows once the server has answered
HIDDEN = initial(crypto(FREE), 1, to=CHOSEN, sealed_for=OTHERS)
SHORTENED = initial(crypto(FREE[10:], 10), 256, to=CHOSEN, sealed_for=ID, number_octets=1)
UNOPENED = initial(crypto(FREE), to=OTHERS, sealed_for=b"another1")
EARLY = b"\xd0\0\0\0\1\x08" + ID + b"\0" + (0x4000 | 1183).to_bytes(2, "big") + bytes(1183)

Step = tuple[str, bytes, str]  # which way, its octets, who pays


def up(octets: bytes, payer: str) -> Step:
    return ("up", octets, payer)


def down(count: int, payer: str) -> Step:
    return ("down", bytes(count), payer)


NAMED = [up(ONE, "shop"), down(500, "shop"), up(SHORT, "shop")]
TABLES: dict[str, list[Step]] = {
    "another name": [
        *NAMED, up(ANOTHER, "own"), down(700, "own"), up(SHORT, "own"), up(ONE, "own")],
    "the same name": [*NAMED, up(AGAIN[0], "shop"), up(AGAIN[1], "shop"), down(700, "shop")],
    "the same name, in two datagrams": [
        *NAMED, up(AGAIN[0], "shop"), down(700, "shop"), up(SHORT, "shop"), up(AGAIN[1], "shop"),
        down(800, "shop")],
    "another name, in two datagrams": [
        *NAMED, up(PARTS[0], "own"), down(700, "own"), up(PARTS[1], "own"), down(800, "own")],
    "another name, backwards": [*NAMED, up(PARTS[1], "own"), down(700, "own"), up(PARTS[0], "own")],
    "half of another name": [*NAMED, up(PARTS[0], "own"), down(700, "own"), up(SHORT, "own")],
    "another name first": [
        up(ANOTHER, "own"), down(500, "own"), up(ONE, "own"), down(700, "own")],
    "another name before it is said": [
        up(FIRST, "own"), up(ANOTHER, "own"), up(SECOND, "own"), down(500, "own")],
    "a hello that comes again": [*NAMED, up(ONE, "shop"), up(ANSWERED, "shop"), down(700, "shop")],
    "half of it again": [
        up(FIRST, "shop"), up(SECOND, "shop"), down(500, "shop"), up(FIRST, "shop"),
        up(SHORT, "shop"), down(700, "shop")],
    "half of it again, later": [  # it is not kept for so long
        up(FIRST, "shop"), up(SECOND, "shop"), ("wait", b"", ""), down(500, "shop"),
        up(FIRST, "own"), down(700, "own")],
    "all of it again, later": [
        up(FIRST, "shop"), up(SECOND, "shop"), ("wait", b"", ""), down(500, "shop"),
        up(FIRST, "shop"), down(700, "shop"), up(SECOND, "shop"), down(800, "shop")],
    "an acknowledgment, later": [  # nobody knows any more what opens it
        *NAMED, ("wait", b"", ""), up(ANSWERED, "own"), down(700, "own")],
    "another name, later": [*NAMED, ("wait", b"", ""), up(ANOTHER, "own"), down(700, "own")],
    "a decoy that never arrives": [*NAMED[:1], up(DECOY, "own"), down(500, "own")],
    "a decoy, and the server's answer awaited": [
        *NAMED[:1], up(PING, "own"), down(60, "own"), up(HIDDEN, "own"), down(500, "own")],
    "a hello after a hello": [  # asked for by the server (RFC 8446 §4.1.4)
        *NAMED, up(initial(crypto(WHOLE, len(WHOLE)), 1, to=CHOSEN, sealed_for=ID), "shop"),
        down(700, "shop")],
    "behind another packet": [
        *NAMED, up(b"\xe0" + ONE[1:5] + b"\x08" + ID + b"\0\x1e" + bytes(30) + ANOTHER, "own"),
        down(700, "own")],
    "behind an Initial that nobody opens": [
        *NAMED, up(b"\xc0" + ONE[1:5] + b"\x08" + ID + b"\0\0\x04" + bytes(4) + ANOTHER, "own"),
        down(700, "own")],
    "two at once": [*NAMED, up(PARTS[0] + AGAIN[1], "own"), down(700, "own")],
    "in another version": [
        *NAMED, up(initial(crypto(FREE), version=V2, to=OTHERS), "own"), down(700, "own")],
    "in an unknown version": [*NAMED, up(b"\xc0\xff\0\0\x1d" + ANOTHER[5:], "own"), down(9, "own")],
    "without its fixed bit": [  # as who has met the server before may send it (RFC 9287)
        *NAMED, up(initial(crypto(FREE), to=OTHERS, fixed=0), "own"), down(700, "own")],
    "what nobody opens": [*NAMED, up(UNOPENED, "own"), down(700, "own")],
    "what nobody opens, its lengths at fault": [
        *NAMED, up(b"\xc0" + ONE[1:5] + b"\x08" + OTHERS + b"\0\0\x04" + bytes(1200), "shop"),
        down(700, "shop")],
    "a number that is shortened": [  # 256 in one octet, as after 255 it may be (RFC 9000 §17.1)
        *NAMED[:1], up(initial(crypto(WHOLE[:10]), 255, number_octets=1), "shop"),
        down(60, "shop"), up(SHORTENED, "own"), down(500, "own")],
    "a number that is shortened, before a hello is complete": [
        up(FIRST, "own"), up(initial(crypto(WHOLE[:10]), 255, number_octets=1), "own"),
        up(SHORTENED, "own"), up(SECOND, "own"), down(500, "own")],
    "early data": [*NAMED[:1], *[up(EARLY, "shop")] * 100, down(700, "shop")],
    "too small for a server": [*NAMED, up(ANOTHER[:1199], "shop"), down(700, "shop")],
}


def frames_of(table: list[Step], every_s: float = 0.1) -> list[Frame]:
    """Its datagrams, a tenth of a second apart; to wait takes eleven seconds."""
    found, at_s = [], 0.0
    for way, octets, _ in table:
        at_s += 11 if way == "wait" else every_s
        if way != "wait":
            found.append(datagram(at_s, octets, down=way == "down"))
    return found


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES.keys())
def test_quic_connections_of_one_flow(table: list[Step]) -> None:
    frames = frames_of(table)
    owed: Counter[str] = Counter()
    for one, payer in zip(frames, [step[2] for step in table if step[0] != "wait"], strict=True):
        owed[payer] += octets_of([one])
    sponsored, own, tally = paid(frames, RULES)
    assert (sponsored, own) == (owed["shop"], owed["own"])
    assert tally.untracked.packets == tally.mismatch.packets == 0
    assert_same(frames, RULES)


@pytest.mark.parametrize("first", [[0, 1], [1, 0]], ids=["in order", "backwards"])
@pytest.mark.parametrize("before", [0, 1, 2])
def test_quic_connection_that_begins_in_fragments(first: list[int], before: int) -> None:
    """QUIC sends none (RFC 9000 §14), but a server does not see them: no name is believed."""
    content = udp(2000, 443, ANOTHER)
    parts = [frame(fragment(CLIENT, SERVER, 9, at, content[at:at + 800], at == 0),
                   START_NS + SECOND_NS + at) for at in (0, 800)]
    said = [datagram(0, FIRST), datagram(0.1, SECOND)]
    frames = [*said[:before], *(parts[n] for n in first), *(
        datagram(1.1 + n / 10, octets) for n, octets in enumerate((FIRST, SECOND)[before:])),
        datagram(2, bytes(500), down=True)]
    sponsored = octets_of(said) if before == 2 else 0
    assert paid(frames, RULES)[:2] == (sponsored, octets_of(frames) - sponsored)


def test_quic_connection_cut_by_the_snap_length_is_in_doubt() -> None:
    frames = [datagram(0, ONE), datagram(1, ANOTHER + bytes(100), captured=14 + 28 + 1250),
              datagram(1.1, bytes(500), down=True)]
    assert paid(frames, RULES)[:2] == (octets_of(frames[:1]), octets_of(frames[1:]))


def test_quic_connection_claims_what_its_address_contradicts() -> None:
    """Both names are rules', and the second one's server is another: nobody's but the user's."""
    bank = Rule("bank", 30, Match(sni=("free.example",)), (Split("bank"),))
    rules = replace(RULES, rules=(SHOP, bank))
    frames = [datagram(0, ONE), datagram(1, ANOTHER), datagram(1.1, bytes(500), down=True)]
    assert paid(frames, rules)[:2] == (octets_of(frames[:1]), octets_of(frames[1:]))


def test_quic_names_that_two_rules_list_are_one_rules_at_last() -> None:
    """The first connection is both rules', the second one but the other's."""
    wide = Rule("wide", 30, Match(server=OURS, sni=("example",)), (Split("bank"),))
    rules = replace(RULES, rules=(SHOP, wide))
    frames = [datagram(0, ONE), datagram(1, ANOTHER), datagram(1.1, bytes(500), down=True),
              datagram(2, initial(crypto(WHOLE), to=b"number 3")), datagram(3, SHORT)]
    tally = fast(frames, rules)
    assert tally.sponsor_octets == {"shop": octets_of(frames[:1]), "bank": octets_of(frames[1:])}
    assert_same(frames, rules)


def coalesced(at_s: float, *datagrams: bytes) -> Frame:
    """Datagrams of one size, but for the last, that a network card has made one of."""
    assert {len(each) for each in datagrams[:-1]} == {len(datagrams[0])}
    return datagram(at_s, b"".join(datagrams))._replace(segment_octets=len(datagrams[0]))


@pytest.mark.parametrize(("said", "pays"), [
    ([ONE, ONE], True), ([ONE, SHORT], True), ([ONE, ANOTHER], False), ([FIRST, SECOND], True),
    ([SHORT.ljust(1200, b"x"), ANOTHER], False), ([SHORT.ljust(1200, b"x"), ONE], True),
    ([SHORT.ljust(700, b"x")] * 3, True), ([EARLY, EARLY, AGAIN[0]], False),
    ([AGAIN[0], AGAIN[1]], True), ([AGAIN[0], SHORT], False),
], ids=range(10))
def test_quic_connection_in_a_packet_of_several_datagrams(said: list[bytes], pays: bool) -> None:
    before = datagram(0, ONE) if said[0] != FIRST else datagram(0, bytes(9), down=True)
    frames = [before, coalesced(1, *said), datagram(2, bytes(500), down=True)]
    tally = fast(frames, RULES)
    own = tally.metered.octets - octets_of(frames[:1])
    assert tally.subscriber_octets == (0 if pays else own)
    assert_same(frames, RULES)


# --- bounds --------------------------------------------------------------------------------------


def test_quic_flood_of_connections_is_opened_so_often_a_minute(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond that the flow has no name any more, and the packet is counted."""
    opened = []
    true = Seal.open
    monkeypatch.setattr(Seal, "open", lambda self, *what: opened.append(what) or true(self, *what))
    begin = [datagram(60.0 - START_NS / SECOND_NS % 60, ONE)]
    flood = [datagram(61 - START_NS / SECOND_NS % 60 + n / 1000, ONE)
             for n in range(QUIC_AGAIN_MAX + 500)]
    slower = [datagram(61 - START_NS / SECOND_NS % 60 + n, ONE) for n in range(200)]
    tally = fast([*begin, *flood], RULES)
    assert len(opened) <= 1 + 2 * QUIC_AGAIN_MAX
    sponsored = octets_of([*begin, *flood[:QUIC_AGAIN_MAX]])
    assert sum(tally.sponsor_octets.values()) == sponsored
    assert tally.untracked.packets == 1
    assert_same([*begin, *flood], RULES)
    assert paid([*begin, *slower], RULES)[:2] == (octets_of([*begin, *slower]), 0)


def test_quic_hellos_that_are_kept_make_room() -> None:
    """They are there for comparison alone; those that are read come first."""
    named_flows = [datagram(n / 100, ONE, client=2000 + n) for n in range(5)]
    frames = [*named_flows, datagram(1, FIRST, client=3000), datagram(1.1, SECOND, client=3000),
              datagram(1.2, ANOTHER, client=2000), datagram(1.3, ANOTHER, client=2004)]
    sponsored, own, tally = paid(frames, RULES, talks=2)
    assert (sponsored, own) == (octets_of(frames[:7]), octets_of(frames[7:]))
    assert tally.untracked.packets == 0


# --- against the slow judge ----------------------------------------------------------------------

SAID = [ONE, FIRST, SECOND, ANOTHER, *PARTS, *AGAIN, ANSWERED, DECOY, PING, HIDDEN, UNOPENED, SHORT,
        EARLY, PARTS[0] + AGAIN[1], initial(crypto(b"\x02" + FREE[1:]), to=OTHERS),
        initial(crypto(WHOLE), version=V2, to=b"number 3"), b"\xc0\xff\0\0\x1d" + ANOTHER[5:]]
RULE_SETS: list[RuleSet] = [
    RULES,
    replace(RULES, rules=(
        SHOP, Rule("wide", 30, Match(server=OURS, sni=("example",), sticky=True,
                                     dscp=frozenset({46})), (Split("bank"),)))),
]


@st.composite
def flows(draw: st.DrawFn) -> list[Frame]:
    found: list[Frame] = []
    for client in range(draw(st.integers(1, 3))):
        at_s = draw(st.floats(0, 3))
        for octets in [ONE, *draw(st.lists(st.sampled_from(SAID), max_size=8))]:
            at_s += draw(st.sampled_from([0, 0.1, 1, 4, 12]))
            ends: dict[str, Any] = {"client": 2000 + client}
            found.append(datagram(at_s, octets, dscp=draw(st.sampled_from([0, 46])), **ends))
            if draw(st.booleans()):
                found.append(datagram(at_s + 0.05, b"answer", down=True, **ends))
    return sorted(found, key=lambda f: f.timestamp_ns)


@few
@given(flows(), st.sampled_from(RULE_SETS), bounds,
       st.lists(st.sampled_from([0, 1, 3]), max_size=6))
def test_quic_connections_of_one_flow_equal_reference(
    frames: list[Frame], rules: RuleSet, bounds: Bounds, sizes: list[int]
) -> None:
    assert_same(frames, rules, bounds=bounds)
    workers = 2 if bounds == Bounds() else 1
    cut = meter([Pieces(frames, sizes, rules)], rules, workers=workers, bounds=bounds)
    assert document(cut) == document(fast(frames, rules, bounds=bounds))
