"""Captures in, usage out: frames through the core by as many workers as asked for."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import NoReturn, Protocol

from tollsplit.cext.dissect import Dissection
from tollsplit.cext.merge import Merge
from tollsplit.cext.meter import Meter
from tollsplit.cext.reader import Astray, Reader
from tollsplit.cext.state import OWN_KEY, State
from tollsplit.engine.answers import Answers
from tollsplit.engine.bounds import Bounds
from tollsplit.engine.cells import Cells
from tollsplit.engine.usage import Prior, Provenance, Spent, Usage, gather
from tollsplit.errors import UsageError
from tollsplit.limits import MERGED_CAPTURES_MAX, WORKERS_MAX
from tollsplit.model import Volume
from tollsplit.rules.compile import Compiled
from tollsplit.rules.rule import At, Layer, RuleSet
from tollsplit.tokens.gate import Gate
from tollsplit.tokens.keys import keys_of


class Source(Protocol):
    """Where frames come from; tollsplit.capture has the real ones."""

    def chunks(self, parallel: bool) -> Iterator[Reader]:
        """Readers over consecutive regions; with `parallel`, each may be read by any thread."""
        ...

    def distrust(self) -> None:
        """Start over without guesses, after a reader of chunks(parallel=True) was Astray."""
        ...

    def again(self) -> Source | None:
        """The same capture from its beginning, for another thread; None: one thread reads it."""
        ...

    def fail(self, error: ValueError) -> NoReturn:
        """Raise what a reader found wrong, with the place."""
        ...


NOTHING = Volume()
BOUNDS = Bounds()


@dataclass(frozen=True, slots=True)
class Sums:
    """Where all frames ended up: each in exactly one bucket (accounting §2). Sums add up."""

    seen: Volume = NOTHING
    metered: Volume = NOTHING
    metered_twice: Volume = NOTHING
    unattributed: Volume = NOTHING
    non_ip: Volume = NOTHING
    control: Volume = NOTHING
    duplicate: Volume = NOTHING
    retransmitted: Volume = NOTHING  # what was sent before, on no bill
    faults: dict[str, Volume] = field(default_factory=dict)
    coalesced: Volume = NOTHING
    mismatch: Volume = NOTHING
    overlapping: Volume = NOTHING  # fragments of what their datagram had already
    untracked: Volume = NOTHING  # what its verdict depends on found no room
    suspicious: Volume = NOTHING  # sent again with other content
    unsolicited: Volume = NOTHING  # to a subscriber who said nothing in its flow
    refused_tokens: dict[str, Volume] = field(default_factory=dict)  # by reason, where they were
    tunnel_overhead_octets: int = 0
    subscriber_octets: int = 0
    sponsor_octets: dict[str, int] = field(default_factory=dict)
    owes_nobody: bool = True  # no payer has less than 0 octets of a record

    def __add__(self, other: Sums) -> Sums:
        return Sums(
            self.seen + other.seen,
            self.metered + other.metered,
            self.metered_twice + other.metered_twice,
            self.unattributed + other.unattributed,
            self.non_ip + other.non_ip,
            self.control + other.control,
            self.duplicate + other.duplicate,
            self.retransmitted + other.retransmitted,
            _added(self.faults, other.faults),
            self.coalesced + other.coalesced,
            self.mismatch + other.mismatch,
            self.overlapping + other.overlapping,
            self.untracked + other.untracked,
            self.suspicious + other.suspicious,
            self.unsolicited + other.unsolicited,
            _added(self.refused_tokens, other.refused_tokens),
            self.tunnel_overhead_octets + other.tunnel_overhead_octets,
            self.subscriber_octets + other.subscriber_octets,
            {name: self.sponsor_octets.get(name, 0) + other.sponsor_octets.get(name, 0)
             for name in {**self.sponsor_octets, **other.sponsor_octets}},
            self.owes_nobody and other.owes_nobody,
        )

    @property
    def identity_holds(self) -> bool:
        """Nothing was lost or made up, in packets and octets, and the payers pay it all."""
        out = sum(
            (self.unattributed, self.non_ip, self.control, self.duplicate, self.retransmitted,
             *self.faults.values()),
            self.metered,
        )
        twice = self.metered_twice
        return (
            self.seen == Volume(out.packets - twice.packets, out.octets - twice.octets)
            and self.subscriber_octets + sum(self.sponsor_octets.values()) == self.metered.octets
            and self.owes_nobody
        )


def _added(mine: dict[str, Volume], theirs: dict[str, Volume]) -> dict[str, Volume]:
    return {kind: mine.get(kind, NOTHING) + theirs.get(kind, NOTHING)
            for kind in sorted(mine.keys() | theirs.keys())}


@dataclass(frozen=True)
class Tally(Sums):
    """What one run counted, and its usage records."""

    usage: Usage = field(kw_only=True)


def dissection(
    rules: RuleSet, layer: Layer | None, at: At | None, trust_ip_length: bool
) -> Dissection:
    """The core's dissection for a rule set; `layer` and `at` override its own."""
    endpoints = rules.meter.tunnel_endpoints
    return Dissection(
        layer or rules.meter.layer,
        at or rules.meter.at,
        trust_ip_length,
        endpoints,
        rules.meter.retransmissions,
        rules.meter.duplicates_ns,
        rules.meter.unsolicited,
    )


def meter(
    sources: Sequence[Source],
    rules: RuleSet,
    *,
    workers: int = 1,
    layer: Layer | None = None,
    at: At | None = None,
    trust_ip_length: bool = False,
    prior: Callable[[Cells], tuple[Prior, Spent]] | None = None,
    source: str = "",
    epoch: str = "",
    progress: Callable[[], None] | None = None,
    bounds: Bounds = BOUNDS,
) -> Tally:
    """Account all frames of the sources.

    workers    threads, at most WORKERS_MAX; any number gives the same figures. Where a packet's
               rule depends on other packets (Classifier.tracks) each goes through all sources, in
               order of (timestamp, source, position), and accounts its share of the flows
    prior      given the cells met, what an earlier run booked in their periods
    source, epoch
               the first two parts of every usage record's key
    progress   called after each chunk
    bounds     how much is remembered of packets, where rules depend on that

    Raises UsageError where too many sources have to be read side by side, RulesError where the
    keys of tokens cannot be read, and what a source's fail() raises; a where expression may import
    Numba.
    """
    compiled = Compiled(rules)
    dissect = dissection(rules, layer, at, trust_ip_length)
    workers = min(max(1, workers), WORKERS_MAX)
    if compiled.classifier.tracks:
        cells, counted = _count_in_order(
            sources, rules, compiled, dissect, workers, bounds, progress)
        return tally(
            rules, compiled, cells, counted, prior, Provenance(source, epoch, dissect.layer))
    try:
        cells, counted = _count(sources, rules, compiled, dissect, workers, progress)
    except Astray:  # what was counted since means nothing, and neither do the cells met
        for each in sources:
            each.distrust()
        cells, counted = _count(sources, rules, compiled, dissect, workers, progress)
    return tally(rules, compiled, cells, counted, prior, Provenance(source, epoch, dissect.layer))


def _count(
    sources: Sequence[Source],
    rules: RuleSet,
    compiled: Compiled,
    dissect: Dissection,
    workers: int,
    progress: Callable[[], None] | None,
) -> tuple[Cells, Meter]:
    cells = Cells(rules)
    meters = [Meter(dissect, compiled.classifier, cells.at) for _ in range(workers)]
    if len(meters) == 1:
        _run(meters[0], sources, progress)
    else:
        _run_all(meters, sources, progress)
    for other in meters[1:]:
        meters[0].annex(other)
    return cells, meters[0]


def _count_in_order(
    sources: Sequence[Source],
    rules: RuleSet,
    compiled: Compiled,
    dissect: Dissection,
    workers: int,
    bounds: Bounds,
    progress: Callable[[], None] | None,
) -> tuple[Cells, Meter]:
    """Each worker reads everything and remembers its share of it.

    Where one would not have had room for all that they remember, what was counted is thrown away,
    and one counts.
    """
    cells = Cells(rules)
    gate = Gate(keys_of(rules))
    sights = [sources, *_sights(sources, workers - 1 if has_shares(rules) else 0)]
    states = [state(bounds, gate, share, len(sights)) for share in range(len(sights))]
    meters = [Meter(dissect, compiled.classifier, cells.at, each) for each in states]
    if len(meters) == 1:
        _run_in_order(meters[0], sources, progress)
        return cells, meters[0]

    def tell() -> None:
        expect_room_for_one(states)
        if progress:
            progress()

    try:
        with ThreadPoolExecutor(len(meters)) as pool:
            for done in [pool.submit(_run_in_order, *each, tell)
                         for each in zip(meters, sights, strict=True)]:
                done.result()
        expect_room_for_one(states)
    except NoRoom:
        return _count_in_order(sources, rules, compiled, dissect, 1, bounds, progress)
    for other in meters[1:]:
        meters[0].annex(other)
    return cells, meters[0]


def _run_in_order(
    worker: Meter, sources: Sequence[Source], progress: Callable[[], None] | None
) -> None:
    if len(sources) == 1:
        _run(worker, sources, progress)
    else:
        _run_merged(worker, sources, progress)
    worker.finish()


def has_shares(rules: RuleSet) -> bool:
    """Whether packets of one pair of addresses say nothing of another's."""
    return not any(rule.match.dns or rule.match.token for rule in rules.rules)


def _sights(sources: Sequence[Source], most: int) -> Iterator[Sequence[Source]]:
    """The same sources for other workers, where they can be had."""
    for _ in range(most):
        others = [source.again() for source in sources]
        seen = [other for other in others if other is not None]
        if len(seen) < len(sources):
            return
        yield seen


def count_share(
    sources: Sequence[Source],
    rules: RuleSet,
    compiled: Compiled,
    dissect: Dissection,
    share: int,
    shares: int,
    key: bytes,
    progress: Callable[[], None] | None = None,
    bounds: Bounds = BOUNDS,
) -> tuple[Cells, Meter, State | None]:
    """What one of several processes counts: all frames of its sources; or, where a packet's rule
    depends on other packets, its share of them, and what it remembers.

    key        what shares are drawn by, the same for all processes
    progress   called after each chunk; what it raises ends the counting

    Raises Astray where a source's guess was wrong, and what meter() raises.
    """
    cells = Cells(rules)
    if not compiled.classifier.tracks:
        counted = Meter(dissect, compiled.classifier, cells.at)
        _run(counted, sources, progress)
        return cells, counted, None
    remembered = state(bounds, Gate(keys_of(rules)), share, shares, key=key)
    counted = Meter(dissect, compiled.classifier, cells.at, remembered)
    _run_in_order(counted, sources, progress)
    return cells, counted, remembered


class NoRoom(Exception):
    """One worker would have had to forget what several remember."""


class Remembered(Protocol):
    """How far a worker's memory was full; a State says it."""

    @property
    def room(self) -> Sequence[tuple[int, int]]: ...
    @property
    def set_back(self) -> bool: ...


def expect_room_for_one(states: Sequence[Remembered]) -> None:
    """Raise NoRoom, unless one worker would remember all that these do: then bills are the same.

    When something is forgotten depends on its own packets and the time alone, but for want of
    room, and where the clock is set back: then what is behind another in a list waits for it.
    """
    together = zip(*(each.room for each in states), strict=True)
    if any(each.set_back for each in states) or any(
            sum(count for count, _ in parts) > parts[0][1] for parts in together):
        raise NoRoom


def state(
    bounds: Bounds, gate: Gate, share: int = 0, shares: int = 1, answers: Answers | None = None,
    key: bytes = OWN_KEY,
) -> State:
    """What a worker remembers: nothing so far.

    gate            judges tokens, for all workers of a run
    answers         of resolvers, that it shares with others; None: it is alone
    share, shares   which of the workers it is that are shown the same frames
    key             what shares are drawn by, the same for all of these
    """
    return State(
        bounds.datagrams, bounds.fragments, bounds.fragment_timeout_ns,
        bounds.flows, bounds.held, bounds.flow_idle_ns, bounds.flow_hold_ns,
        bounds.copies, bounds.streams, bounds.sent, bounds.calls, bounds.talks,
        bounds.requests, gate, share, shares,
        answers=answers if answers is not None else Answers(), key=key)


def _run_merged(
    worker: Meter, sources: Sequence[Source], progress: Callable[[], None] | None
) -> None:
    """All sources at the same time, whichever has the earliest frame first."""
    if len(sources) > MERGED_CAPTURES_MAX:
        raise UsageError(
            f"{len(sources):,} captures: with rules that ask for ports or flows at most "
            f"{MERGED_CAPTURES_MAX} are read side by side; join some before, with mergecap")
    merge = Merge(len(sources))
    chunks = [iter(source.chunks(parallel=False)) for source in sources]
    readers = [next(each, None) for each in chunks]
    for number, reader in enumerate(readers):
        merge.feed(number, reader)
    while True:
        worker.run(merge)
        number = merge.waiting
        if number < 0:
            return
        reader = readers[number]
        assert reader is not None
        _check(sources[number], reader)
        if progress:
            progress()
        readers[number] = next(chunks[number], None)
        merge.feed(number, readers[number])


def _run(
    worker: Meter, sources: Sequence[Source], progress: Callable[[], None] | None
) -> None:
    for source in sources:
        for reader in source.chunks(parallel=False):
            worker.run(reader)
            _check(source, reader)
            if progress:
                progress()


def _check(source: Source, reader: Reader) -> None:
    try:
        reader.check()
    except ValueError as error:
        source.fail(error)


def _run_all(
    meters: Sequence[Meter], sources: Sequence[Source], progress: Callable[[], None] | None
) -> None:
    """Each worker takes the next chunk when it is done with its last."""
    lock = threading.Lock()
    chunks = ((s, reader) for s in sources for reader in s.chunks(parallel=True))

    def work(worker: Meter) -> None:
        while True:
            with lock:
                chunk = next(chunks, None)
            if chunk is None:
                return
            source, reader = chunk
            worker.run(reader)
            _check(source, reader)
            if progress:
                progress()

    with ThreadPoolExecutor(len(meters)) as pool:
        for done in [pool.submit(work, worker) for worker in meters]:
            done.result()


def tally(
    rules: RuleSet,
    compiled: Compiled,
    cells: Cells,
    counted: Meter,
    prior: Callable[[Cells], tuple[Prior, Spent]] | None,
    provenance: Provenance,
) -> Tally:
    """The figures of what was counted; its counters are taken out."""
    sums = {name: Volume(packets, octets) for name, (packets, octets) in counted.sums().items()}
    terms, columns, subscribers = gather(rules, compiled, cells, counted)
    booked: tuple[Prior, Spent] = prior(cells) if prior else ({}, {})
    usage = Usage(rules, terms, cells.bounded, subscribers, columns, provenance, *booked)
    return Tally(
        seen=sums["seen"],
        metered=usage.metered,
        metered_twice=sums["metered_twice"],
        unattributed=sums["unattributed"],
        non_ip=sums["non_ip"],
        control=sums["control"],
        duplicate=sums["duplicate"],
        retransmitted=sums["retransmitted"],
        faults=_kinds(sums, "fault:"),
        coalesced=sums["coalesced"],
        mismatch=sums["mismatch"],
        overlapping=sums["overlapping"],
        untracked=sums["untracked"],
        suspicious=sums["suspicious"],
        unsolicited=sums["unsolicited"],
        refused_tokens=_kinds(sums, "refused:"),
        tunnel_overhead_octets=sums["tunnel"].octets,
        subscriber_octets=usage.subscriber_total,
        sponsor_octets=usage.sponsor_totals(),
        owes_nobody=usage.owes_nobody,
        usage=usage,
    )


def _kinds(sums: dict[str, Volume], what: str) -> dict[str, Volume]:
    """Those of the sums whose names begin so, by the rest of their names."""
    return {name.removeprefix(what): volume for name, volume in sorted(sums.items())
            if name.startswith(what)}
