"""Counts of several places: added up in any order, they are those of one place."""

from __future__ import annotations

import dataclasses
import pickle
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from judges import Frame
from strategies import rule_sets, traffic
from test_flows import RULES as STICKY
from test_flows import UP, packet
from test_laws import Pieces, law
from test_reference import document
from test_shares_of_flows import busy

from tollsplit.engine import cells, meter
from tollsplit.engine.bounds import Bounds
from tollsplit.engine.counts import Counts, add, counts_of, gathered
from tollsplit.engine.pipeline import NoRoom, count_share, dissection, tally
from tollsplit.engine.usage import Provenance
from tollsplit.errors import ClusterError
from tollsplit.rules.compile import Compiled
from tollsplit.rules.rule import RuleSet

KEY = bytes(range(24))


def counts(
    sources: list[Any], rules: RuleSet, share: int = 0, shares: int = 1, **options: Any
) -> Counts:
    return counts_of(*count_share(
        sources, rules, Compiled(rules), dissection(rules, None, None, False), share, shares,
        KEY, **options))


def added(several: list[Counts], rules: RuleSet) -> Counts:
    return add(several, rules, Compiled(rules), dissection(rules, None, None, False))


def bill(counted: Counts, rules: RuleSet) -> dict[str, Any]:
    compiled = Compiled(rules)
    found = gathered([counted], rules, compiled, dissection(rules, None, None, False))
    return document(tally(rules, compiled, *found, None, Provenance("", "", "ip")))


def dealt(frames: list[Frame], places: int, in_turn: bool) -> list[list[Frame]]:
    """One frame for each place after the other, or one stretch of time for each."""
    if in_turn:
        return [frames[place::places] for place in range(places)]
    ordered = sorted(frames, key=lambda frame: frame.timestamp_ns)
    ends = [len(ordered) * place // places for place in range(places + 1)]
    return [ordered[start:end] for start, end in pairwise(ends)]


@law
@given(data=st.data())
def test_counts_add_up_to_one_places_bill(data: st.DataObject) -> None:
    rules, start_s = data.draw(rule_sets())
    frames = data.draw(traffic(start_s))
    if Compiled(rules).classifier.tracks:
        return
    once = document(meter([Pieces(frames, [], rules)], rules))
    places = data.draw(st.integers(1, 4))
    several = [pickle.loads(pickle.dumps(counts([Pieces(part, [], rules)], rules)))
               for part in dealt(frames, places, data.draw(st.booleans()))]
    several = data.draw(st.permutations(several))
    while len(several) > 1:
        several = [added(several[:2], rules), *several[2:]]
    assert bill(several[0], rules) == once


@pytest.mark.parametrize("shares", [2, 3, 5])
def test_counts_of_shares_add_up_to_one_places_bill(shares: int) -> None:
    sources = [Pieces(busy()[n::2], [], STICKY) for n in range(2)]
    several = [counts(sources, STICKY, share, shares) for share in range(shares)]
    assert bill(added(several, STICKY), STICKY) == document(meter(sources, STICKY))
    assert sum(len(each.counters) > 0 for each in several) > 1


def test_counts_are_refused_where_one_place_has_no_room() -> None:
    sources = [Pieces(busy(), [], STICKY)]
    for flows, fits in ((39, False), (1000, True)):
        several = [counts(sources, STICKY, share, 2, bounds=Bounds(flows=flows))
                   for share in range(2)]
        if fits:
            added(several, STICKY)
            continue
        with pytest.raises(NoRoom):
            added(several, STICKY)


def test_counts_are_refused_where_a_clock_was_set_back() -> None:
    frames = [*busy(), packet(UP, 9_000, 46), packet(UP, 1, client=3)]
    several = [counts([Pieces(frames, [], STICKY)], STICKY, share, 2) for share in range(2)]
    with pytest.raises(NoRoom):
        added(several, STICKY)


def test_counts_of_machines_whose_time_zones_differ_are_refused() -> None:
    """A cell would hold what lies in another one by the zone's rules here."""
    berlin, utc = (
        dataclasses.replace(STICKY, rules=(), meter=dataclasses.replace(
            STICKY.meter, window_s=86_400, zone=zone)) for zone in ("Europe/Berlin", "UTC"))
    frames = [packet(UP, second) for second in range(3)]
    found = counts([Pieces(frames, [], berlin)], berlin)
    assert added([found, found], berlin).cells == found.cells
    with pytest.raises(ClusterError, match="install the same tzdata"):
        added([found, found], utc)


def test_counts_are_refused_beyond_the_time_cells_of_one_place(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which frames find none depends on all before them."""
    rules = dataclasses.replace(
        STICKY, rules=(), meter=dataclasses.replace(STICKY.meter, window_s=1))
    frames = [packet(UP, second) for second in range(6)]
    halves = [counts([Pieces(part, [], rules)], rules) for part in (frames[:3], frames[3:])]
    assert [len(half.cells) for half in halves] == [3, 3]
    assert bill(added(halves, rules), rules) == document(meter([Pieces(frames, [], rules)], rules))
    assert len(added(halves, rules).cells) == 6
    monkeypatch.setattr(cells, "CELLS_MAX", 5)
    with pytest.raises(NoRoom):
        added(halves, rules)
    full = counts([Pieces(frames, [], rules)], rules)  # its sixth packet is a fault
    with pytest.raises(NoRoom):
        added([full, counts([Pieces([], [], rules)], rules)], rules)
