"""What must hold whatever the traffic and the rules: a bill is a function of what was seen."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NoReturn

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from judges import Frame, core_rows
from packets import FAULT
from strategies import examples, rule_sets, traffic
from test_reference import capture, document

from tollsplit.cext.reader import Reader
from tollsplit.engine import Tally, meter
from tollsplit.rules.compile import Compiled
from tollsplit.rules.rule import RuleSet

PARTIAL = 4  # a flag: the transport header was cut off
law = settings(max_examples=examples(100), deadline=None, suppress_health_check=list(HealthCheck))


class Pieces:
    """A capture in memory, handed out in pieces of given numbers of frames.

    A piece shorter than the core's batch is a batch of its own.
    """

    def __init__(self, frames: list[Frame], sizes: list[int], rules: RuleSet) -> None:
        self.frames = frames
        self.sizes = sizes
        self.ingresses = {item.interface: n for n, item in enumerate(rules.ingresses.values(), 1)}

    def chunks(self, parallel: bool) -> Iterator[Reader]:
        at = 0
        for size in [*self.sizes, len(self.frames)]:
            reader = Reader(self.ingresses)
            reader.feed(capture(self.frames[at : at + size]), True)
            at += size
            yield reader

    def again(self) -> Pieces:
        return self

    def fail(self, error: ValueError) -> NoReturn:
        raise error


def bill(sources: list[Pieces], rules: RuleSet, workers: int) -> dict[str, Any]:
    tally: Tally = meter(sources, rules, workers=workers)
    assert tally.identity_holds
    return document(tally)


def in_order(frames: list[Frame]) -> list[Frame]:
    """By time, of which each has its own."""
    ordered = sorted(frames, key=lambda frame: frame.timestamp_ns)
    return [f._replace(timestamp_ns=f.timestamp_ns + n) for n, f in enumerate(ordered)]


@law
@given(st.data())
def test_any_cut_batch_order_and_number_of_workers_give_the_same_bill(data: st.DataObject) -> None:
    rules, start_s = data.draw(rule_sets())
    frames = data.draw(traffic(start_s)) * data.draw(st.sampled_from([1, 1, 40]))
    if Compiled(rules).classifier.tracks:  # times tell the order of all frames, and are kept
        frames = in_order(frames)
        shuffled: Sequence[int] = range(len(frames))
    elif len(frames) < 100:
        shuffled = data.draw(st.permutations(range(len(frames))))
    else:
        shuffled = range(len(frames) - 1, -1, -1)
    once = bill([Pieces(frames, [], rules)], rules, workers=1)
    others = [frames[i] for i in shuffled]
    files = data.draw(st.integers(1, 4))
    sizes = st.lists(st.sampled_from([0, 1, 2, 7, 63, 64, 65]), max_size=8)
    sources = [Pieces(others[n::files], data.draw(sizes), rules) for n in range(files)]
    assert bill(sources, rules, workers=data.draw(st.integers(1, 3))) == once


@law
@given(st.data())
def test_every_packet_is_paid_for_and_nobody_is_given_back(data: st.DataObject) -> None:
    """Sponsors and subscriber add up to the total after every packet, and none ever pays less."""
    rules, start_s = data.draw(rule_sets())
    # a budget is divided when its window is over
    rules = replace(rules, sponsors={
        name: replace(sponsor, budget=None) for name, sponsor in rules.sponsors.items()})
    frames = data.draw(traffic(start_s))
    before: dict[str, int] = {}
    for count in range(len(frames) + 1):
        tally = meter([Pieces(frames[:count], [], rules)], rules)
        assert tally.identity_holds
        payers = {"": tally.subscriber_octets, **tally.sponsor_octets}
        assert sum(payers.values()) == tally.metered.octets
        assert all(payers[payer] >= octets for payer, octets in before.items())
        before = payers


@pytest.mark.parametrize("layer", ["ip", "frame"])
@law
@given(data=st.data())
def test_snap_length_changes_no_bill(layer: Any, data: st.DataObject) -> None:
    """Captured octets are on no bill, as long as the headers that are needed are among them."""
    rules, start_s = data.draw(rule_sets())
    longer = [frame._replace(octets=frame.octets + bytes(1400), original=frame.original + 1400)
              for frame in data.draw(traffic(start_s)) if len(frame.octets) == frame.original]
    pairs = [(frame, frame._replace(octets=frame.octets[:-1400])) for frame in longer]
    kept = [pair for pair, row in zip(pairs, core_rows([cut for _, cut in pairs]), strict=True)
            if row["bucket"] != FAULT and not row["flags"] & PARTIAL]
    bills = [document(meter([Pieces(frames, [], rules)], rules, layer=layer))
             for frames in ([whole for whole, _ in kept], [cut for _, cut in kept])]
    assert bills[0] == bills[1]
