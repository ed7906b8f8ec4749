"""Flows: a tag that one packet carries covers its flow, what came before it too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
from fragments import ENDS, SECOND_NS, fragment, frame, parts
from hypothesis import given
from hypothesis import strategies as st
from judges import Frame
from strategies import ipv4, ipv6, prefix, tcp, udp
from test_fragments import POOLS, START_NS, few, figures, paid
from test_laws import Pieces
from test_meter import reader_of
from test_reference import assert_same, document, fast, slow

from tollsplit.engine import meter
from tollsplit.engine.bounds import Bounds
from tollsplit.engine.live import Generation
from tollsplit.rules.rule import Match, Meter, Rule, RuleSet, Split, Sponsor

SPONSORS = {name: Sponsor(name, f"sponsor:{name}") for name in ("shop", "bank", "all")}
SERVERS = (prefix("203.0.113.0/24"), prefix("2001:db8:ffff::/48"), prefix("10.0.0.0/8"))
TAGGED = Rule("tagged", 20, Match(server=SERVERS, dscp=frozenset({46}), sticky=True), (
    Split("shop"),))
RULES = RuleSet("flows", "sha256:0", Meter(), POOLS, SPONSORS, (TAGGED,))
UP, DOWN = ("10.0.0.7", "203.0.113.5"), ("203.0.113.5", "10.0.0.7")
PACKET = 28 + 12  # octets


def packet(ends: tuple[str, str], at_s: float, dscp: int = 0, *, port: int = 443,
           client: int = 1000) -> Frame:
    """A UDP packet of 40 octets between a client's port and a server's."""
    build = ipv4 if "." in ends[0] else ipv6
    ports = (client, port) if ends[0].startswith(("10.", "2001:db8::")) else (port, client)
    return frame(build(17, udp(*ports, bytes(12)), *ends, tos=dscp << 2),
                 START_NS + int(at_s * SECOND_NS))


# --- worked by hand ------------------------------------------------------------------------------


def test_tag_covers_both_directions_and_what_came_before() -> None:
    frames = [packet(DOWN, 0), packet(UP, 1), packet(UP, 2, 46), packet(DOWN, 3), packet(UP, 99)]
    assert paid(frames, RULES)[:2] == (5 * PACKET, 0)
    without = replace(TAGGED, match=replace(TAGGED.match, sticky=False))
    assert paid(frames, replace(RULES, rules=(without,)))[:2] == (PACKET, 4 * PACKET)


@pytest.mark.parametrize(("other", "own"), [
    (packet(UP, 1, client=1001), PACKET),  # another port of the client's
    (packet(UP, 1, port=80), PACKET),
    (packet(("10.0.0.9", UP[1]), 1), PACKET),
    (packet((UP[0], "203.0.113.6"), 1), PACKET),
    (frame(ipv4(6, tcp(1000, 443, b""), *UP), START_NS), PACKET),  # another protocol
    (packet(UP, 1), 0),
])
def test_tag_covers_its_five_tuple_alone(other: Frame, own: int) -> None:
    assert paid([packet(UP, 0, 46), other], RULES)[1] == own


def test_tag_of_one_direction_alone() -> None:
    """`direction` says where the tag has to be seen; both are covered then."""
    uplink = replace(TAGGED, match=replace(TAGGED.match, direction="uplink"))
    rules = replace(RULES, rules=(uplink,))
    assert paid([packet(DOWN, 0, 46), packet(UP, 1)], rules)[:2] == (0, 2 * PACKET)
    assert paid([packet(DOWN, 0), packet(UP, 1, 46)], rules)[:2] == (2 * PACKET, 0)


def test_packets_wait_for_ten_seconds() -> None:
    before, tagged = packet(UP, 0), packet(UP, 10, 46)
    assert paid([before, tagged], RULES)[:2] == (2 * PACKET, 0)
    late = packet(UP, 10.5, 46)
    assert paid([before, late, packet(DOWN, 11)], RULES)[:2] == (2 * PACKET, PACKET)
    # another packet tells the time, too
    other = packet(("10.0.0.9", "192.0.2.1"), 10.5)
    assert paid([before, other, tagged], RULES)[:2] == (PACKET, 2 * PACKET)


def test_flow_that_was_idle_begins_anew() -> None:
    frames = [packet(UP, 0, 46), packet(UP, 300), packet(UP, 601)]
    assert paid(frames, RULES)[:2] == (2 * PACKET, PACKET)


def test_flow_that_was_idle_begins_anew_wherever_it_is_listed() -> None:
    """At 301 s it is listed behind another one, which is not idle yet at 520 s."""
    frames = [packet(UP, 0, 46), packet(UP, 200), packet(UP, 250, 46, client=1001),
              packet(UP, 301, client=1001), packet(UP, 520)]
    assert paid(frames, RULES)[:2] == (4 * PACKET, PACKET)


def test_rule_that_comes_first_wins_packet_by_packet() -> None:
    """An earlier rule takes what it matches; a later sticky one takes the rest, held ones too."""
    early = Rule("early", 10, Match(server=SERVERS, direction="downlink"), (Split("all"),))
    late = Rule("late", 30, Match(server=SERVERS), (Split("bank"),))
    frames = [packet(DOWN, 0), packet(UP, 1), packet(UP, 2, 46)]
    _, _, tally = paid(frames, replace(RULES, rules=(early, TAGGED, late)))
    assert dict(tally.sponsor_octets) == {"all": PACKET, "shop": 2 * PACKET, "bank": 0}
    _, _, tally = paid(frames[:2], replace(RULES, rules=(early, TAGGED, late)))
    assert dict(tally.sponsor_octets) == {"all": PACKET, "shop": 0, "bank": PACKET}


def test_flow_that_fulfils_two_rules_is_the_firsts() -> None:
    second = Rule("second", 30, Match(server=SERVERS, dscp=frozenset({12}), sticky=True),
                  (Split("bank"),))
    rules = replace(RULES, rules=(TAGGED, second))
    frames = [packet(UP, 0), packet(UP, 1, 12), packet(UP, 2), packet(UP, 3, 46), packet(DOWN, 4)]
    _, own, tally = paid(frames, rules)
    assert (dict(tally.sponsor_octets), own) == ({"shop": 5 * PACKET, "bank": 0, "all": 0}, 0)
    _, own, tally = paid([*frames[:3], packet(UP, 13, 46)], rules)
    assert (dict(tally.sponsor_octets), own) == (
        {"shop": PACKET, "bank": 3 * PACKET, "all": 0}, 0)


def test_fragments_belong_to_their_datagrams_flow() -> None:
    content = udp(1000, 443, bytes(72))
    cut = [frame(fragment(*UP, 1, first, content[first:end], end != 80), START_NS + n)
           for n, (first, end) in enumerate([(40, 80), (0, 40)])]
    assert paid([packet(UP, 0), *cut, packet(UP, 1, 46)], RULES)[:2] == (2 * PACKET + 120, 0)
    assert paid([packet(UP, 0), *cut], RULES)[:2] == (0, PACKET + 120)


def test_windows_that_end_meanwhile_keep_their_packets() -> None:
    rules = replace(RULES, meter=Meter(window_s=1))
    frames = [packet(UP, 0), packet(UP, 0.5), packet(UP, 1), packet(DOWN, 2.5, 46)]
    tally = fast(frames, rules)
    assert [(r.octets, r.subscriber_octets) for r in tally.usage] == [
        (2 * PACKET, 0), (PACKET, 0), (PACKET, 0)]
    assert_same(frames, rules)


# --- bounds --------------------------------------------------------------------------------------


def test_flows_for_which_there_is_no_room_are_metered_by_their_packets() -> None:
    """The one that is known has shown something, and stays."""
    frames = [packet(UP, 0, 46), packet(UP, 1, client=1001), packet(UP, 2, 46, client=1001),
              packet(DOWN, 3, client=1001), packet(DOWN, 4)]
    sponsored, own, tally = paid(frames, RULES, flows=1)
    assert (sponsored, own, tally.untracked.packets) == (3 * PACKET, 2 * PACKET, 3)


def test_flow_that_has_shown_nothing_makes_room() -> None:
    """What waited of it is its subscriber's; what it shows later covers what follows."""
    frames = [packet(UP, 0), packet(UP, 1, client=1001), packet(UP, 2, 46, client=1001),
              packet(DOWN, 3, client=1001), packet(UP, 4, 46), packet(DOWN, 5)]
    sponsored, own, tally = paid(frames, RULES, flows=1)
    assert (sponsored, own, tally.untracked.packets) == (4 * PACKET, 2 * PACKET, 3)
    sponsored, own, tally = paid(frames, RULES, flows=2)
    assert (sponsored, own, tally.untracked.packets) == (6 * PACKET, 0, 0)


def test_flood_of_flows_that_show_nothing_takes_nobodys_place() -> None:
    """Not from who has shown a tag before it, nor from who shows one while it goes on."""
    flood = [packet(("10.0.0.9", UP[1]), 10 + n / 100, client=2000 + n) for n in range(500)]
    others = [packet(UP, 12, client=1001), packet(UP, 12.5, 46, client=1001),
              packet(DOWN, 14.8, client=1001)]
    frames = sorted([packet(UP, 0, 46), *flood, *others, packet(DOWN, 15)],
                    key=lambda each: each.timestamp_ns)
    sponsored, own, tally = paid(frames, RULES, flows=100)
    assert (sponsored, own) == (5 * PACKET, 500 * PACKET)
    assert tally.untracked.packets == 500 - 98  # those that had to go before their ten seconds


def test_flow_that_shows_nothing_any_more_under_other_rules_makes_room() -> None:
    changed = replace(TAGGED, match=replace(TAGGED.match, dscp=frozenset({12})))
    old = Generation(RULES, bounds=Bounds(flows=1))
    new = Generation(replace(RULES, version="sha256:1", rules=(changed,)))
    first, second = old.worker(), new.meter()
    first.run(reader_of([packet(UP, 0, 46)]))
    first.hand_over(second)
    second.run(reader_of([packet(UP, 1), packet(UP, 2, 12, client=1001),
                          packet(DOWN, 3, client=1001)]))
    second.finish()
    assert figures(new, second) == ({"shop": 2 * PACKET, "bank": 0, "all": 0}, PACKET, 3)


def test_packets_that_wait_are_bounded() -> None:
    frames = [packet(UP, n, client=1000 + n) for n in range(4)] + [
        packet(UP, 4 + n, 46, client=1000 + n) for n in range(4)]
    sponsored, own, tally = paid(frames, RULES, held=2)
    assert (sponsored, own, tally.untracked.packets) == (6 * PACKET, 2 * PACKET, 2)


# --- meters that follow each other ---------------------------------------------------------------


def test_flows_go_on_when_a_meter_hands_over() -> None:
    generation = Generation(RULES)
    first, second = generation.worker(), generation.meter()
    first.run(reader_of([packet(UP, 0)]))
    assert first.seen == (0, 0)
    first.hand_over(second)
    second.run(reader_of([packet(UP, 1, 46), packet(DOWN, 2)]))
    second.finish()
    assert figures(generation, first)[1:] == (0, 0)
    assert figures(generation, second) == ({"shop": 3 * PACKET, "bank": 0, "all": 0}, 0, 3)


@pytest.mark.parametrize(("dscp", "goes_on"), [({46, 12}, True), ({12}, False)])
def test_flow_keeps_its_tag_when_rules_change(dscp: set[int], goes_on: bool) -> None:
    """The packet that showed it is asked anew; what waits when rules change is charged before."""
    changed = replace(TAGGED, match=replace(TAGGED.match, dscp=frozenset(dscp)))
    before = Rule("before", 1, Match(port=((22, 22),)), ())
    old, new = Generation(RULES), Generation(
        replace(RULES, version="sha256:1", rules=(before, changed)))
    first, second = old.worker(), new.worker()
    first.run(reader_of([packet(UP, 0, 46), packet(UP, 0, client=1001)]))
    first.succeed(second, START_NS + 5 * SECOND_NS)
    first.run(reader_of([packet(DOWN, 5), packet(DOWN, 4), packet(UP, 6, 46, client=1001)]))
    first.finish()
    first.hand_over(second)
    second.finish()
    assert figures(old, first) == ({"shop": 2 * PACKET, "bank": 0, "all": 0}, PACKET, 3)
    sponsored = PACKET * (goes_on + (46 in dscp))
    assert figures(new, second) == (
        {"shop": sponsored, "bank": 0, "all": 0}, 2 * PACKET - sponsored, 2)


# --- against the slow judge ----------------------------------------------------------------------

tags = st.sampled_from([0, 0, 0, 46, 12])
bounds = st.sampled_from([
    Bounds(), Bounds(), Bounds(flows=1), Bounds(flows=2, held=1), Bounds(held=2, fragments=1),
    Bounds(flow_idle_ns=3 * SECOND_NS, flow_hold_ns=2 * SECOND_NS, datagrams=1)])


@st.composite
def matches(draw: st.DrawFn) -> Match:
    return Match(
        server=draw(st.sampled_from([SERVERS, SERVERS[:1], None])),
        subscriber=draw(st.sampled_from([None, None, (prefix("10.0.0.7/32"),)])),
        port=draw(st.sampled_from([None, None, ((443, 443),)])),
        protocol=draw(st.sampled_from([None, None, frozenset({17})])),
        direction=draw(st.sampled_from(["both", "both", "uplink", "downlink"])),
        dscp=draw(st.sampled_from([None, frozenset({46}), frozenset({12, 46})])),
        sticky=draw(st.booleans()))


@st.composite
def sticky_rules(draw: st.DrawFn) -> RuleSet:
    drawn = draw(st.lists(matches(), max_size=4))
    drawn.insert(draw(st.integers(0, len(drawn))), TAGGED.match)
    rules = tuple(
        Rule(f"r{n}", n, match, (Split(("shop", "bank", "all")[n % 3], Fraction(1, n)),))
        for n, match in enumerate(drawn, 1))
    return replace(RULES, rules=rules, meter=Meter(
        window_s=draw(st.sampled_from([None, 1, 60]))))


@st.composite
def conversations(draw: st.DrawFn) -> list[Frame]:
    """Packets of a few flows, some in fragments, tagged now and then; late ones among them."""
    found: list[tuple[int, bytes]] = []
    at_ns = START_NS
    for _ in range(draw(st.integers(1, 14))):
        ends = draw(st.sampled_from(ENDS))
        ports = draw(st.sampled_from([(1000, 443), (443, 1000), (1000, 80), (443, 443)]))
        dscp = draw(tags)
        at_ns += draw(st.sampled_from([0, 1, SECOND_NS, 4 * SECOND_NS, 400 * SECOND_NS]))
        if draw(st.integers(0, 5)) == 0:
            content = udp(*ports, bytes(80))
            for part in draw(parts()):
                at_ns += 1
                found.append((at_ns, fragment(
                    *ends, 1, part.first, content[part.first : part.end], part.more)))
            continue
        build = ipv4 if "." in ends[0] else ipv6
        protocol, content = draw(st.sampled_from([
            (17, udp(*ports, bytes(12))), (17, udp(*ports, bytes(12))), (6, tcp(*ports, b"")),
            (50, bytes(20))]))
        late = draw(st.sampled_from([0, 0, 0, 2 * SECOND_NS]))
        found.append((at_ns - late, build(protocol, content, *ends, tos=dscp << 2)))
    return [frame(packet, at_ns, draw(st.sampled_from([None] * 5 + [36])))
            for at_ns, packet in found]


@few
@given(conversations(), sticky_rules(), bounds, st.sampled_from([1, 1, 3]))
def test_flows_core_equals_reference(
    frames: list[Frame], rules: RuleSet, bounds: Bounds, files: int
) -> None:
    assert_same(frames, rules, files=files, bounds=bounds)


@few
@given(conversations(), sticky_rules(), bounds, st.lists(st.sampled_from([0, 1, 2, 5]), max_size=6))
def test_flows_cost_the_same_however_frames_are_batched(
    frames: list[Frame], rules: RuleSet, bounds: Bounds, sizes: list[int]
) -> None:
    whole = fast(frames, rules, bounds=bounds)
    cut = meter([Pieces(frames, sizes, rules)], rules, workers=2, bounds=bounds)
    assert document(cut) == document(whole)


@few
@given(conversations(), sticky_rules(), bounds, st.lists(st.integers(0, 5), max_size=5))
def test_flows_cost_the_same_however_meters_follow_each_other(
    frames: list[Frame], rules: RuleSet, bounds: Bounds, sizes: list[int]
) -> None:
    rules = replace(rules, meter=Meter())
    judged: Any = slow(frames, rules, bounds=bounds)
    generation = Generation(rules, bounds=bounds)
    worker, counted, at = generation.worker(), [], 0
    for size in [*sizes, len(frames)]:
        worker.run(reader_of(frames[at : at + size]))
        at += size
        fresh = generation.meter()
        worker.hand_over(fresh)
        assert figures(generation, worker)  # whatever waits, each balances by itself
        counted.append(worker)
        worker = fresh
    worker.finish()
    counted.append(worker)
    assert sum_of(generation, counted) == judged["seen"]["packets"]


def sum_of(generation: Generation, counted: Sequence[Any]) -> int:
    whole = generation.meter()
    for each in counted:
        whole.absorb(each)
    return int(whole.seen[0])


