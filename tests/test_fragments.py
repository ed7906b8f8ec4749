"""Fragments: charged to their datagram's flow, whatever comes first, and however many there are."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from fragments import SECOND_NS, fragment, fragmented, frame, gtpu
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from judges import Frame
from strategies import capture, ipv4, prefix, tcp, udp
from test_laws import Pieces, bill
from test_meter import reader_of
from test_reference import assert_same, document, fast, slow

from tollsplit.cext.meter import Meter as Core
from tollsplit.engine import Tally, meter
from tollsplit.engine.bounds import Bounds
from tollsplit.engine.live import Generation
from tollsplit.engine.usage import Provenance
from tollsplit.rules.compile import Compiled
from tollsplit.rules.rule import Match, Meter, Pool, Rule, RuleSet, Split, Sponsor
from tollsplit.run import explain

START_NS = 1_793_505_600 * SECOND_NS
HTTPS = ((443, 443),)
SPONSORS = {name: Sponsor(name, f"sponsor:{name}") for name in ("web", "names")}
POOLS = (Pool((prefix("10.0.0.0/8"), prefix("2001:db8::/48"))),)
RULES = RuleSet("fragments", "sha256:0", Meter(), POOLS, SPONSORS, (
    Rule("https", 10, Match(server=(prefix("203.0.113.0/24"), prefix("2001:db8:ffff::/48"),
                                    prefix("10.0.0.0/8")), port=HTTPS), (Split("web"),)),
    Rule("names", 20, Match(port=((53, 53),), protocol=frozenset({17})),
         (Split("names", Fraction(1, 3)),))))
CLIENT, SERVER = "10.0.0.7", "203.0.113.5"
CONTENT = udp(1000, 443, bytes(72))  # 80 octets
few = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))

Parts = Sequence[tuple[int, int]]
bounds = st.sampled_from([
    Bounds(), Bounds(), Bounds(datagrams=1), Bounds(datagrams=2, fragments=1),
    Bounds(fragments=2), Bounds(fragments=3, fragment_timeout_ns=SECOND_NS)])


def sent(parts: Parts, *, content: bytes = CONTENT, ends: tuple[str, str] = (CLIENT, SERVER),
         number: int = 1, apart_ns: int = SECOND_NS, at_ns: int = START_NS) -> list[Frame]:
    """Stretches of one datagram, one after the other; what ends it says so."""
    return [frame(fragment(*ends, number, first, content[first:end], end != len(content)),
                  at_ns + n * apart_ns) for n, (first, end) in enumerate(parts)]


def paid(frames: list[Frame], rules: RuleSet = RULES, **bounds: int) -> tuple[int, int, Tally]:
    """(octets of the sponsors, of the subscribers, the figures); the judge says the same."""
    tally = fast(frames, rules, bounds=Bounds(**bounds))
    assert tally.identity_holds
    judged = slow(frames, rules, bounds=Bounds(**bounds))
    assert judged["metered"]["subscriber_octets"] == tally.subscriber_octets
    return sum(tally.sponsor_octets.values()), tally.subscriber_octets, tally


# --- worked by hand: 20 octets of header (48 with IPv6) are on each fragment ---------------------

ALL = 80 + 4 * 20
ORDERS = {
    "in order": [(0, 16), (16, 40), (40, 56), (56, 80)],
    "backwards": [(56, 80), (40, 56), (16, 40), (0, 16)],
    "the first one last": [(16, 40), (40, 56), (56, 80), (0, 16)],
    "the last one first": [(56, 80), (0, 16), (16, 40), (40, 56)],
}


@pytest.mark.parametrize("parts", ORDERS.values(), ids=ORDERS.keys())
def test_fragments_are_their_datagrams_in_any_order(parts: Parts) -> None:
    assert paid(sent(parts))[:2] == (ALL, 0)
    assert paid(sent(parts, content=udp(1000, 80, bytes(72))))[:2] == (0, ALL)


@pytest.mark.parametrize("parts", ORDERS.values(), ids=ORDERS.keys())
def test_fragments_of_ipv6_are_their_datagrams(parts: Parts) -> None:
    ends = ("2001:db8::7", "2001:db8:ffff::5")
    assert paid(sent(parts, ends=ends))[:2] == (80 + 4 * 48, 0)


@pytest.mark.parametrize("parts", ORDERS.values(), ids=ORDERS.keys())
def test_fragments_inside_a_tunnel_are_their_datagrams(parts: Parts) -> None:
    inner = [fragment(CLIENT, SERVER, 1, first, CONTENT[first:end], end != 80)
             for first, end in parts]
    assert paid([frame(gtpu(packet), START_NS + n) for n, packet in enumerate(inner)])[:2] == (
        ALL, 0)


def test_fragments_of_a_downlink_are_their_datagrams() -> None:
    content = udp(443, 1000, bytes(72))
    assert paid(sent(ORDERS["backwards"], content=content, ends=(SERVER, CLIENT)))[:2] == (ALL, 0)


def test_fragments_between_two_subscribers_are_metered_for_both() -> None:
    """Server port 443 is what the uplink sees; for the downlink the server's port is 1000."""
    sponsored, own, tally = paid(sent(ORDERS["backwards"], ends=(CLIENT, "10.0.0.8")))
    assert (sponsored, own) == (ALL, ALL)
    assert tally.metered_twice.octets == tally.seen.octets == ALL


def test_fragment_without_its_first_is_the_subscribers() -> None:
    assert paid(sent([(16, 40), (40, 56), (56, 80)]))[:2] == (0, ALL - 36)


def test_fragment_that_comes_too_late_is_the_subscribers() -> None:
    """30 s are kept; at 31 s the datagram is unknown again, and the rest waits in vain."""
    frames = sent([(0, 16), (16, 40)]) + sent([(40, 80)], at_ns=START_NS + 30 * SECOND_NS)
    assert paid(frames)[:2] == (80 + 3 * 20, 0)
    frames = sent([(0, 16), (16, 40)]) + sent([(40, 80)], at_ns=START_NS + 31 * SECOND_NS)
    assert paid(frames)[:2] == (40 + 2 * 20, 60)


def test_first_fragment_that_comes_too_late_finds_nobody_waiting() -> None:
    frames = sent([(16, 80)]) + sent([(0, 16)], at_ns=START_NS + 31 * SECOND_NS)
    assert paid(frames)[:2] == (36, 84)


def test_fragment_waits_by_the_time_of_other_packets() -> None:
    """Whatever passes tells the time; a packet that is late does not turn it back."""
    other = frame(ipv4(6, tcp(1, 2, b""), "10.9.9.9", "192.0.2.1"), START_NS + 40 * SECOND_NS)
    late = sent([(0, 16)], at_ns=START_NS + 5 * SECOND_NS)
    assert paid([*sent([(16, 80)]), *late])[:2] == (36 + 84, 0)
    assert paid([*sent([(16, 80)]), other, *late])[:2] == (36, 84 + 40)


def test_next_datagram_of_the_same_number_is_another_one() -> None:
    parts = ORDERS["in order"]
    frames = sent(parts) + sent(parts, content=udp(1000, 80, bytes(72)), at_ns=START_NS + 9)
    assert paid(frames)[:2] == (ALL, ALL)


def test_fragment_that_is_seen_twice_is_its_datagrams_and_overlaps() -> None:
    parts = [part for part in ORDERS["in order"] for _ in range(2)]
    sponsored, own, tally = paid(sent(parts, apart_ns=1))
    assert (sponsored, own) == (2 * ALL, 0)
    assert (tally.overlapping.packets, tally.overlapping.octets) == (4, ALL)


def test_fragment_that_overlaps_is_counted_and_paid_by_its_own_length() -> None:
    sponsored, own, tally = paid(sent([(0, 40), (32, 64), (64, 80)]))
    assert (sponsored, own, tally.overlapping.octets) == (88 + 60, 0, 52)


def test_forged_first_fragment_does_not_turn_what_was_said() -> None:
    """Another first fragment while the datagram is incomplete: the one that came first counts."""
    forged = sent([(0, 16)], content=udp(1000, 443, bytes(72)), at_ns=START_NS + 1)
    frames = sent([(0, 16)], content=udp(1000, 80, bytes(72))) + forged + sent([(16, 80)])
    assert paid(frames)[:2] == (0, 36 + 36 + 84)


def test_rules_without_ports_need_nothing_of_other_fragments() -> None:
    plain = RuleSet("plain", "sha256:0", Meter(), POOLS, SPONSORS, (
        Rule("server", 1, Match(server=(prefix("203.0.113.0/24"),), dscp=frozenset({0})),
             (Split("web"),)),))
    assert not Compiled(plain).classifier.tracks
    assert paid(sent([(16, 40), (40, 80)]), plain)[:2] == (64 + 40, 0)


@pytest.mark.parametrize(("text", "tracks"), [
    ("server_port == 443", True), ("protocol == udp", True), ("octets > 100", False)])
def test_expression_that_asks_for_ports_waits_for_the_first_fragment(
    text: str, tracks: bool
) -> None:
    rules = RuleSet("where", "sha256:0", Meter(), POOLS, SPONSORS, (
        Rule("w", 1, Match(where=text), (Split("web"),)),))
    assert Compiled(rules).classifier.tracks == tracks
    assert_same(sent(ORDERS["backwards"]), rules)


def test_no_truncation_of_a_fragment_loses_an_octet() -> None:
    whole = sent(ORDERS["backwards"])
    for packet in range(len(whole)):
        for captured in range(len(whole[packet].octets) + 1):
            cut = [f._replace(octets=f.octets[:captured]) if n == packet else f
                   for n, f in enumerate(whole)]
            assert_same(cut, RULES)


def test_explain_says_of_a_fragment_what_its_datagram_is(tmp_path: Path) -> None:
    (tmp_path / "capture.pcapng").write_bytes(capture(sent(ORDERS["in order"])))
    (tmp_path / "rules.toml").write_text('''
[[pools]]
prefixes = ["10.0.0.0/8"]
[sponsors.web]
[[rules]]
id = "https"
precedence = 1
match = { port = 443 }
split = { sponsor = "web" }
''')
    found = explain(tmp_path / "capture.pcapng", tmp_path / "rules.toml", 3)
    [side] = found.sides
    assert side.rule is not None and side.rule.id == "https"
    assert (side.octets, side.before) == (36, 36 + 44)


# --- bounds --------------------------------------------------------------------------------------


def test_datagram_that_came_first_makes_room_and_complete_ones_before_it() -> None:
    parts = ORDERS["the first one last"]
    first, second = sent(parts), sent(parts, number=2)
    between = [f for pair in zip(first, second, strict=True) for f in pair]
    assert paid(between, datagrams=2)[:2] == (2 * ALL, 0)
    sponsored, own, tally = paid(between, datagrams=1)
    assert sponsored + own == 2 * ALL and sponsored < 2 * ALL
    assert tally.untracked.packets > 0
    done = sent(ORDERS["in order"], number=3)
    assert paid([*done, *first], datagrams=1)[2].untracked.packets == 0


def test_complete_datagram_makes_room_before_one_that_waits() -> None:
    waiting = sent([(16, 80)], at_ns=START_NS)
    done = sent(ORDERS["in order"], number=2, apart_ns=1, at_ns=START_NS + 1)
    another = sent([(0, 16)], number=3, at_ns=START_NS + 9)
    first = sent([(0, 16)], at_ns=START_NS + 10)
    sponsored, own, tally = paid([*waiting, *done, *another, *first], datagrams=2)
    assert (sponsored, own) == (84 + ALL + 36 + 36, 0)
    assert tally.untracked.packets == 0


def test_fragments_of_ipv6_may_name_different_headers() -> None:
    """The first one's next header is what counts (RFC 8200 §4.5)."""
    ends = ("2001:db8::7", "2001:db8:ffff::5")
    first = fragment(*ends, 1, 0, CONTENT[:16], True)
    later = fragment(*ends, 1, 16, CONTENT[16:], False, protocol=60)
    for pair in ([first, later], [later, first]):
        assert paid([frame(packet, START_NS + n) for n, packet in enumerate(pair)])[:2] == (
            80 + 2 * 48, 0)


def test_fragments_that_wait_are_bounded() -> None:
    sponsored, own, tally = paid(sent(ORDERS["the first one last"]), fragments=2)
    assert (sponsored, own) == (36, 44 + 36 + 44)
    assert (tally.untracked.packets, tally.untracked.octets) == (3, 44 + 36 + 44)


def test_flood_of_fragments_loses_no_octet_and_leaves_others_alone() -> None:
    """200,000 datagrams that never begin, and one in between that does, late."""
    draw = random.Random(1)
    flood = [frame(fragment(f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}", SERVER, draw.randrange(
        65_536), 8 * draw.randrange(1, 8000), bytes(8), True), START_NS + n) for n in range(20_000)]
    honest = sent(ORDERS["the first one last"], ends=("10.200.0.1", SERVER))
    for place, one in zip((5_000, 5_500, 6_000, 6_500), honest, strict=True):
        flood[place:place] = [one._replace(timestamp_ns=START_NS + place)]
    tally = fast(flood, RULES, bounds=Bounds(datagrams=4096, fragments=4096))
    assert tally.identity_holds
    assert sum(tally.sponsor_octets.values()) == ALL
    assert tally.subscriber_octets == 20_000 * 28
    assert tally.untracked.packets == 20_000 - 4_096


# --- meters that follow each other ---------------------------------------------------------------


def figures(generation: Generation, *counted: Core) -> tuple[dict[str, int], int, int]:
    """(octets by sponsor, of the subscribers, packets seen) of what some meters have counted."""
    whole = generation.meter()
    for each in counted:
        whole.absorb(each)
    tally = generation.tally(whole, {}, {}, Provenance("", "", "ip"))
    assert tally.identity_holds
    return dict(tally.sponsor_octets), tally.subscriber_octets, tally.seen.packets


def test_fragments_wait_on_when_a_meter_hands_over() -> None:
    frames = sent(ORDERS["the first one last"])
    generation = Generation(RULES)
    first, second = generation.worker(), generation.meter()
    first.run(reader_of(frames[:3]))
    assert first.seen == (0, 0)  # nothing is seen that is not decided
    first.hand_over(second)
    second.run(reader_of(frames[3:]))
    second.finish()
    assert figures(generation, first) == ({"web": 0, "names": 0}, 0, 0)
    assert figures(generation, second) == ({"web": ALL, "names": 0}, 0, 4)


def test_fragments_wait_on_where_the_same_rules_succeed() -> None:
    """A window ends between them: each is in the window of its own time."""
    rules = replace(RULES, meter=Meter(window_s=2))
    generation = Generation(rules)
    following = Generation(rules, following=generation)
    first, second = generation.worker(), following.worker()
    first.succeed(second, START_NS + 2 * SECOND_NS)
    first.run(reader_of(sent(ORDERS["the first one last"])))
    first.finish()
    first.hand_over(second)
    second.finish()
    ours, theirs = figures(generation, first), figures(following, second)
    assert ours[0]["web"] + theirs[0]["web"] == ALL
    assert ours[1:] == (0, 0) and theirs[1:] == (0, 4)


def test_fragments_wait_no_more_when_other_rules_come() -> None:
    """What waits then is the subscriber's; who has his ports keeps them under the new rules."""
    begun = sent([(0, 16)], number=2)
    rest = sent([(40, 80)], number=2, at_ns=START_NS + 5 * SECOND_NS)
    late = sent([(0, 16)], at_ns=START_NS + 6 * SECOND_NS)
    frames = [*sent([(16, 40)]), *begun, *rest, *late]
    old, new = Generation(RULES), Generation(replace(RULES, version="sha256:1"))
    first, second = old.worker(), new.worker()
    first.run(reader_of(frames[:2]))
    first.succeed(second, START_NS + 5 * SECOND_NS)
    first.run(reader_of(frames[2:]))
    first.finish()
    first.hand_over(second)
    second.finish()
    assert figures(old, first) == ({"web": 36, "names": 0}, 44, 2)
    assert figures(new, second) == ({"web": 60 + 36, "names": 0}, 0, 2)


def test_meter_of_such_rules_refuses_to_forget_everything() -> None:
    with pytest.raises(ValueError, match="need a state"):
        Generation(RULES).meter().run(reader_of(sent([(0, 16)])))


@few
@given(fragmented(START_NS), bounds, st.lists(st.integers(0, 8), max_size=5), st.booleans())
def test_fragments_cost_the_same_however_meters_follow_each_other(
    frames: list[Frame], bounds: Bounds, sizes: list[int], succeeds: bool
) -> None:
    """Handed over between any two frames; in the middle of the time another generation follows."""
    judged = slow(frames, RULES, bounds=bounds)["metered"]
    generation = Generation(RULES, bounds=bounds)
    worker, counted = generation.worker(), []
    middle_ns = frames[len(frames) // 2].timestamp_ns
    following = Generation(RULES, following=generation, keep_cells=True)
    if succeeds:
        successor = following.worker()
        worker.succeed(successor, middle_ns)
        worker.run(reader_of(frames))
        worker.finish()
        worker.hand_over(successor)
        successor.finish()
        counted = [worker, successor]
    else:
        at = 0
        for size in [*sizes, len(frames)]:
            worker.run(reader_of(frames[at : at + size]))
            at += size
            fresh = generation.meter()
            worker.hand_over(fresh)
            counted.append(worker)
            worker = fresh
        worker.finish()
        counted.append(worker)
    sponsors, subscriber, seen = figures(generation, *counted)
    assert {name: octets for name, octets in sponsors.items() if octets} == {
        name: octets for name, octets in judged["sponsor_octets"].items() if octets}
    assert (subscriber, seen) == (judged["subscriber_octets"], len(frames))


# --- against the slow judge ----------------------------------------------------------------------


@few
@given(fragmented(START_NS), bounds, st.sampled_from([(1, 1), (1, 2), (3, 1)]),
       st.sampled_from(["ip", "ip", "frame", "payload"]), st.sampled_from(["inner", "outer"]))
def test_fragments_core_equals_reference(
    frames: list[Frame], bounds: Bounds, how: tuple[int, int], layer: Any, at: Any
) -> None:
    files, workers = how
    assert_same(frames, RULES, files=files, workers=workers, bounds=bounds, layer=layer, at=at)


@few
@given(fragmented(START_NS), bounds, st.lists(st.sampled_from([0, 1, 2, 3, 7]), max_size=6))
def test_fragments_cost_the_same_however_frames_are_batched(
    frames: list[Frame], bounds: Bounds, sizes: list[int]
) -> None:
    whole = fast(frames, RULES, bounds=bounds)
    cut = meter([Pieces(frames, sizes, RULES)], RULES, workers=2, bounds=bounds)
    assert document(cut) == document(whole)
    assert bill([Pieces(frames, sizes, RULES)], RULES, 1) == document(fast(frames, RULES))
