"""Retransmissions: what was sent before, compared by content and on no bill, or under suspicion."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from fragments import SECOND_NS
from hypothesis import given
from hypothesis import strategies as st
from judges import Frame
from resends import (
    ACK,
    DOWN,
    FIN,
    FRIEND,
    RST,
    SYN,
    TIMESTAMPS,
    UNIT,
    UP,
    at,
    content,
    segment,
    streams,
)
from strategies import capture
from test_fragments import POOLS, few
from test_laws import Pieces
from test_meter import reader_of
from test_reference import assert_same, document, fast

from tollsplit.engine import Tally, meter
from tollsplit.engine.bounds import Bounds
from tollsplit.engine.live import Generation
from tollsplit.engine.usage import Provenance
from tollsplit.limits import EXEMPT_PAYLOAD_MIN
from tollsplit.rules.rule import Match, Meter, Rule, RuleSet, Split, Sponsor
from tollsplit.run import explain

SHOP = Rule("shop", 10, Match(), (Split("shop"),))
RULES = RuleSet("resends", "sha256:0", Meter(retransmissions="exempt_if_identical"), POOLS,
                {"shop": Sponsor("shop", "sponsor:shop")}, (SHOP,))
VERIFYING = replace(RULES, meter=Meter(retransmissions="charge_if_identical"))
HEADERS = 40  # of IPv4 and TCP
# Where a segment begins and ends, and what of it is other content than at first.
Segment = tuple[int, int] | tuple[int, int, int]


def resent(frames: Sequence[Frame], rules: RuleSet = RULES, **bounds: int) -> Tally:
    """The figures of frames; the judge says the same, and everything adds up."""
    tally = fast(list(frames), rules, bounds=Bounds(**bounds))
    assert tally.identity_holds
    assert_same(list(frames), rules, bounds=Bounds(**bounds))
    return tally


def in_units(place: Segment) -> Segment:
    """Where a segment lies in octets; one of a single unit has a single octet."""
    first, last, *kind = place
    if last - first == 1:  # at the end of what was sent, or behind it
        first = UNIT * last - 1 if last % 100 == 0 else UNIT * first
        return (first, first + 1, *kind)
    return (UNIT * first, UNIT * last, *kind)


def buckets(segments: Sequence[Segment], base: int = 1, **options: int) -> str:
    """A letter for each segment: is it (m)etered as usual, e(x)empt, or (s)uspicious?"""
    frames = [at(segment(base + first, content(first, last - first, *kind)), 300 * n)
              for n, (first, last, *kind) in enumerate(map(in_units, segments))]
    figures = [resent(frames[:n], **options) for n in range(len(frames) + 1)]
    letters = ""
    for before, after in pairwise(figures):
        exempt = after.retransmitted.packets - before.retransmitted.packets
        suspicious = after.suspicious.packets - before.suspicious.packets
        letters += "x" if exempt else "s" if suspicious else "m"
        assert after.metered.packets - before.metered.packets == 1 - exempt
    return letters


# --- worked by hand ------------------------------------------------------------------------------

A, B, C = (0, 100), (100, 200), (200, 300)


@pytest.mark.parametrize("base", [1, 2**32 - 150 * UNIT, 2**31 - 150 * UNIT],
                         ids=["low", "wraps", "signed"])
@pytest.mark.parametrize(("segments", "expected"), [
    ([A, B, A, B], "mmxx"),
    ([A, B, (0, 200)], "mmx"),  # both in one packet
    ([(0, 200), A, B], "mmm"),  # in two: neither ends where a segment did
    ([A, B, (0, 100, 1)], "mms"),
    ([A, B, (0, 200, 1)], "mms"),
    ([A, (0, 150), A, (100, 150)], "mmxx"),  # old and new: charged, and known from then on
    ([A, (0, 150, 1)], "ms"),
    ([A, (50, 150), (50, 150)], "mmm"),  # begins within a segment
    ([A, C, B, A, B, C], "mmmxxx"),  # fills a hole: that was not sent before
    ([A, C, (100, 300), (0, 300)], "mmmx"),
    ([A, C, (0, 300), (0, 300)], "mmmx"),
    ([A, C, (50, 250)], "mmm"),
    ([B, A, (0, 200)], "mmx"),  # before all that is known
    ([A, A, A, A, A, A, A], "mxxxxmm"),  # four times, and no more
    ([A, A, A, A, B, A, (0, 200)], "mxxxmxm"),
    ([A, (99, 100), (99, 100)], "mmm"),  # a keep-alive
    ([A, (99, 100, 1)], "mm"),  # … of garbage
    ([A, (100, 101), (100, 101), (100, 101), (100, 200)], "mmmmm"),  # probes of a zero window
    ([A, (100, 101), (100, 101), (100, 200), (0, 200)], "mmmmx"),
    ([A, (40, 60, 1)], "mm"),  # within a segment: it can't be told
])
def test_retransmission_by_segments(base: int, segments: list[Segment], expected: str) -> None:
    assert buckets(segments, base) == expected


def test_retransmission_is_on_nobodys_bill() -> None:
    frames = [at(segment(1, content(0, 600))), at(segment(1, content(0, 600)), 300)]
    tally = resent(frames)
    assert (tally.retransmitted.packets, tally.retransmitted.octets) == (1, 600 + HEADERS)
    assert tally.sponsor_octets == {"shop": 600 + HEADERS}
    for other in (VERIFYING, replace(RULES, meter=Meter())):
        tally = resent(frames, other)
        assert tally.retransmitted.packets == 0
        assert tally.sponsor_octets == {"shop": 2 * (600 + HEADERS)}


@pytest.mark.parametrize("rules", [RULES, VERIFYING], ids=["exempt", "charge"])
def test_other_content_is_the_subscribers(rules: RuleSet) -> None:
    tally = resent([at(segment(1, content(0, 600))), at(segment(1, content(0, 600, 1)), 300)],
                   rules)
    assert (tally.suspicious.packets, tally.suspicious.octets) == (1, 600 + HEADERS)
    assert (tally.sponsor_octets, tally.subscriber_octets) == (
        {"shop": 600 + HEADERS}, 600 + HEADERS)


def test_charging_everything_looks_at_nothing() -> None:
    tally = resent([at(segment(1, content(0, 600))), at(segment(1, content(0, 600, 1)), 300)],
                   replace(RULES, meter=Meter()))
    assert (tally.suspicious.packets, tally.sponsor_octets["shop"]) == (0, 1280)


@pytest.mark.parametrize(("packets", "exempt"), [
    # each direction is a stream of its own, and each five-tuple has two
    ([segment(1, content(0, 600)), segment(1, content(0, 600), ends=DOWN)], 0),
    ([segment(1, content(0, 600), ends=DOWN), segment(1, content(0, 600), ends=DOWN)], 1),
    ([segment(1, content(0, 600)), segment(1, content(0, 600), client=1001)], 0),
    ([segment(1, content(0, 600)), segment(1, content(0, 600), port=80)], 0),
    ([segment(1, content(0, 600)), segment(1, content(0, 600), flags=ACK | FIN)], 1),
    # what has no payload is charged: SYN, FIN, acknowledgements
    ([segment(1, flags=SYN), segment(1, flags=SYN), segment(2, flags=FIN),
      segment(2, flags=FIN), segment(3), segment(3)], 0),
    # a connection ends and another one begins
    ([segment(1, content(0, 600)), segment(601, flags=RST), segment(1, content(0, 600))], 0),
    ([segment(1, content(0, 600)), segment(7000, flags=SYN), segment(1, content(0, 600))], 0),
    ([segment(1, content(0, 600)), segment(601, content(0, 600, 1), flags=RST),
      segment(601, content(0, 600), flags=RST)], 0),  # a diagnosis is no part of a stream
    # what comes with a SYN begins behind it (RFC 7413)
    ([segment(1, content(0, 600), flags=SYN), segment(2, content(0, 600))], 1),
    # headers that have room for more than timestamps cost something
    ([segment(1, content(0, 600)), segment(1, content(0, 600), options=TIMESTAMPS)], 1),
    ([segment(1, content(0, 600)),
      segment(1, content(0, 600), options=TIMESTAMPS + bytes(4))], 0),
    # IPv6
    ([segment(1, content(0, 600), ends=("2001:db8::7", "2001:db8:ffff::5"), options=TIMESTAMPS)]
     * 2, 1),
    # a sequence that is far from all before
    ([segment(1, content(0, 600)), segment(1 + 2**30, content(0, 600, 1)),
      segment(1 + 2**30, content(0, 600, 1)), segment(1, content(0, 600))], 1),
])
def test_retransmission_of_a_stream(packets: list[bytes], exempt: int) -> None:
    tally = resent([at(packet, 300 * n) for n, packet in enumerate(packets)])
    assert (tally.retransmitted.packets, tally.suspicious.packets) == (exempt, 0)


def test_what_was_not_captured_is_not_exempt() -> None:
    whole, cut = segment(1, content(0, 600)), segment(1, content(0, 600, 1))
    for frames in ([at(whole), at(cut, 300, 80)], [at(whole, 0, 80), at(whole, 300)]):
        tally = resent(frames)
        assert (tally.retransmitted.packets, tally.suspicious.packets) == (0, 0)
    # the first of two segments was captured, and differs
    frames = [at(segment(1, content(0, 10))), at(segment(11, content(10, 90)), 1),
              at(segment(1, content(0, 600, 1)), 300, 14 + HEADERS + 20)]
    assert resent(frames).suspicious.packets == 1


@pytest.mark.parametrize("octets", [2, 7, 8, 55, 56, 57, 58, 112, 113, 114, 1448])
def test_any_octet_that_differs_is_found(octets: int) -> None:
    frames = []
    for place in range(octets):
        first = bytearray(content(place, octets))
        frames.append(at(segment(1, bytes(first), client=2000 + place)))
        first[place] ^= 1 << place % 8
        frames.append(at(segment(1, bytes(first), client=2000 + place), 300))
    tally = fast(sorted(frames, key=lambda f: f.timestamp_ns), RULES)
    assert (tally.suspicious.packets, tally.retransmitted.packets) == (octets, 0)


def test_segments_of_a_coalesced_packet_are_known_apart() -> None:
    joined = at(segment(1, content(0, 3000)))._replace(segment_octets=1200)
    again = [at(segment(1 + first, content(first, last - first)), 300 + first)
             for first, last in [(0, 1200), (1200, 2400), (2400, 3000), (0, 3000)]]
    assert resent([joined, *again]).retransmitted.packets == 4
    unknown = joined._replace(segment_octets=2**32 - 1)
    assert resent([unknown, *again]).retransmitted.packets == 1


def test_packet_between_two_subscribers_is_exempt_once() -> None:
    ends = (UP[0], FRIEND)
    frames = [at(segment(1, content(0, 600, kind), ends=ends), 300 * n)
              for n, kind in enumerate([0, 0, 1])]
    tally = resent(frames)
    assert tally.retransmitted.packets == 1
    assert tally.suspicious.packets == tally.metered_twice.packets == 2


def test_stream_that_was_idle_is_another() -> None:
    frames = [at(segment(1, content(0, 600, kind)), seconds * 1000)
              for seconds, kind in [(0, 0), (300, 0), (601, 1), (602, 1)]]
    tally = resent(frames)
    assert (tally.retransmitted.packets, tally.suspicious.packets) == (2, 0)


# --- attacks -------------------------------------------------------------------------------------


def test_tunnel_in_fake_retransmissions_is_paid_for() -> None:
    """Go et al., NDSS 2014: one honest segment, then whatever one likes under its sequence."""
    honest = at(segment(1, content(0, 1000)))
    fakes = [at(segment(1, content(n, 1000, 1 + n)), n) for n in range(1, 101)]
    tally = resent([honest, *fakes])
    assert tally.retransmitted.packets == 0
    assert tally.suspicious.packets == 100
    assert tally.subscriber_octets == 100 * (1000 + HEADERS)
    # cut otherwise, so that nothing can be compared: then it is charged as anything else is
    fakes = [at(segment(1 + n, content(n, 900, 1 + n)), n) for n in range(1, 101)]
    tally = resent([honest, *fakes])
    assert tally.retransmitted.packets == 0
    assert tally.metered.octets == 1040 + 100 * 940


@pytest.mark.parametrize("octets", [2, 100, EXEMPT_PAYLOAD_MIN - 1])
def test_short_segments_are_free_at_no_time(octets: int) -> None:
    """Else their headers would carry more than is paid for."""
    assert resent([at(segment(1, content(0, octets)), 300 * n) for n in range(3)]
                  ).retransmitted.packets == 0


def test_tunnel_in_headers_of_true_retransmissions_carries_a_sixth_at_most() -> None:
    """Of what is sent again and again four packets are free, with 12 octets of options."""
    step = EXEMPT_PAYLOAD_MIN
    frames = [at(segment(1 + step * turn, content(step * turn, step), options=TIMESTAMPS),
                 turn + n / 10) for turn in range(50) for n in range(5)]
    tally = resent(frames)
    assert tally.retransmitted.packets == 4 * 50
    carried = 4 * 50 * 2 * len(TIMESTAMPS)
    assert carried * 5 < tally.metered.octets


def test_bill_is_not_inflated_by_retransmissions() -> None:
    """The usage-inflation attack: who is sent the same again and again pays for it once, with the
    headers of what cannot be told apart from a new connection left out."""
    frames = [at(segment(1 + 1000 * n, content(n, 1000), ends=DOWN), n) for n in range(20)]
    again = [at(segment(1 + 1000 * n, content(n, 1000), ends=DOWN), 1000 + 100 * times + n)
             for times in range(4) for n in range(20)]
    tally = resent(frames + again)
    assert tally.metered.octets == 20 * 1040
    assert tally.retransmitted.octets == 80 * 1040
    plain = resent(frames + again, replace(RULES, meter=Meter()))
    assert plain.metered.octets == 100 * 1040


# --- bounds --------------------------------------------------------------------------------------


def test_streams_for_which_there_is_no_room_are_charged() -> None:
    frames = [at(segment(1, content(0, 600), client=1000 + n % 2), 300 * n) for n in range(4)]
    tally = resent(frames, streams=1)
    assert (tally.retransmitted.packets, tally.untracked.packets) == (1, 2)


def test_oldest_segments_are_forgotten() -> None:
    frames = [at(segment(1 + 600 * n, content(600 * n, 600)), n) for n in range(6)]
    again = [at(segment(1 + 600 * n, content(600 * n, 600)), 300 + n) for n in range(6)]
    assert resent(frames + again, sent=4).retransmitted.packets == 4
    assert resent(frames + again).retransmitted.packets == 6
    tally = resent(frames + again, sent=3)
    assert (tally.retransmitted.packets, tally.untracked.packets) == (0, 12)


def test_segments_of_one_stream_are_bounded() -> None:
    frames = [at(segment(1 + 512 * n, bytes(512)), n / 100) for n in range(1100)]
    again = [at(segment(1 + 512 * n, bytes(512)), 300 + n / 100) for n in range(1100)]
    assert 768 <= resent(frames + again).retransmitted.packets <= 1024


# --- runs ----------------------------------------------------------------------------------------


def test_streams_go_on_when_a_meter_hands_over() -> None:
    generation = Generation(RULES)
    first, second = generation.worker(), generation.meter()
    first.run(reader_of([at(segment(1, content(0, 600)))]))
    first.hand_over(second)
    second.run(reader_of([at(segment(1, content(0, 600)), 300)]))
    second.finish()
    tally = generation.tally(second, {}, {}, Provenance("", "", "ip"))
    assert (tally.retransmitted.packets, tally.metered.packets) == (1, 0)


def test_explain_says_what_became_of_a_retransmission(tmp_path: Path) -> None:
    path = tmp_path / "resent.pcap"
    path.write_bytes(capture([at(segment(1, content(0, 600, kind)), 300 * n)
                              for n, kind in enumerate([0, 0, 1])]))
    found = [explain(path, RULES, number) for number in (1, 2, 3)]
    assert [each.bucket for each in found] == ["metered", "retransmitted", "metered"]
    assert found[0].sides[0].rule is not None
    assert found[2].sides[0].rule is None
    assert found[2].sides[0].suspicious


# --- against the slow judge ----------------------------------------------------------------------

bounds = st.sampled_from([
    Bounds(), Bounds(), Bounds(streams=1), Bounds(sent=8), Bounds(sent=4), Bounds(copies=1),
    Bounds(calls=1), Bounds(flow_idle_ns=SECOND_NS)])
meters = st.builds(
    Meter, layer=st.sampled_from(["ip", "frame", "payload"]), at=st.sampled_from(
        ["inner", "inner", "outer"]), window_s=st.sampled_from([None, 60]),
    retransmissions=st.sampled_from(["charge", "charge_if_identical", "exempt_if_identical"]),
    duplicates_ns=st.sampled_from([0, 0, 1_000_000]), unsolicited=st.booleans())
TAGGED = Rule("tagged", 5, Match(server=(*POOLS[0].prefixes,), port=((443, 443),)),
              (Split("shop"),))


@few
@given(streams(), meters, bounds, st.sampled_from([1, 1, 3]), st.booleans())
def test_repeats_core_equals_reference(
    frames: list[Frame], settings: Meter, bounds: Bounds, files: int, tagged: bool
) -> None:
    rules = replace(RULES, meter=settings, rules=(TAGGED, SHOP) if tagged else (SHOP,))
    assert_same(frames, rules, files=files, bounds=bounds)


@few
@given(streams(), meters, bounds, st.lists(st.sampled_from([0, 1, 2, 5]), max_size=6))
def test_repeats_cost_the_same_however_frames_are_batched(
    frames: list[Frame], settings: Meter, bounds: Bounds, sizes: list[int]
) -> None:
    rules = replace(RULES, meter=settings)
    whole = fast(frames, rules, bounds=bounds)
    cut = meter([Pieces(frames, sizes, rules)], rules, workers=2, bounds=bounds)
    assert document(cut) == document(whole)
