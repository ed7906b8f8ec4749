"""What a live run has counted, and what its shares and quotas go on from."""

from __future__ import annotations

import time
from collections.abc import Iterator

from ..cext.meter import Meter
from ..engine.live import Generation
from ..engine.pipeline import Sums, Tally
from ..engine.quota import Quotas
from ..engine.totals import RunningTotals
from ..engine.usage import Prior, Provenance, Spent
from ..model import Event
from .picture import sums_of


class Figures:
    """The generation in force, counter by counter; those before it as sums.

    source, epoch   of records and events
    known           whether there were no earlier runs; if there may have been some, quotas are
                    watched from begin() on
    document        keep all usage since the rules in force are
    """

    def __init__(
        self, generation: Generation, source: str, epoch: str, *, known: bool, document: bool
    ) -> None:
        self.first_sequence = 0  # of the records of the generation in force
        self.whole = generation.meter()
        self._sums = Sums()
        self._source = source
        self._epoch = epoch
        self._totals = RunningTotals({}, {})
        self._quotas = Quotas(self._totals, source, epoch)
        self._known = known
        self._document = generation.meter() if document else None
        self._document_from: tuple[Prior, Spent] = ({}, {})

    def add(self, generation: Generation, counted: Meter) -> Iterator[Event]:
        """Add what was counted since the last time. Yields which quotas it has reached."""
        self.whole.absorb(counted)
        self._totals.clock.look()
        if self._known:
            yield from self._quotas.watch(generation, counted, time.time_ns())

    def begin(self, generation: Generation, prior: Prior, spent: Spent) -> Iterator[Event]:
        """Take in what earlier runs used up. Yields what this one has reached by now."""
        self._document_from = (prior, spent)
        self._totals.add_earlier(prior, spent)
        self._known = True
        yield from self._quotas.catch_up(generation.rules, prior, time.time_ns())
        yield from self._quotas.watch(generation, self.whole, time.time_ns())

    def look(self, generation: Generation) -> tuple[Tally, Sums]:
        """The generation in force as if it ended now, and the sums since the run began."""
        copy = generation.meter()
        copy.absorb(self.whole)
        tally = self._tally(generation, copy)
        return tally, self._sums + sums_of(tally)

    def budgets(self, generation: Generation, tally: Tally) -> Iterator[Event]:
        """Which sponsors have used up their budgets, by the tally of the generation in force."""
        if self._known:
            yield from self._quotas.watch_budgets(generation, tally.usage, time.time_ns())

    def close(self, generation: Generation) -> Tally:
        """End the generation in force; its counters are taken out."""
        if self._document is not None:
            self._document.absorb(self.whole)
        tally = self._tally(generation, self.whole)
        self._sums += sums_of(tally)
        self.first_sequence += len(tally.usage)
        return tally

    def go_on(self, following: Generation, tally: Tally) -> None:
        """Begin another generation, with the running totals that the closed one's tally leaves."""
        self._totals.add(tally.usage)
        self._totals.forget(following.rules)
        self._quotas.forget(following.rules)
        self.whole = following.meter()
        if self._document is not None and following.rules is not tally.usage.rules:
            self._document = following.meter()
            self._document_from = dict(self._totals.prior), dict(self._totals.spent)

    def document(self, generation: Generation) -> Tally:
        """All usage since the rules in force are; it is taken out."""
        assert self._document is not None
        return generation.tally(self._document, *self._document_from,
                                Provenance("", "", generation.rules.meter.layer))

    def _tally(self, generation: Generation, counted: Meter) -> Tally:
        return generation.tally(
            counted, self._totals.prior, self._totals.spent,
            Provenance(self._source, self._epoch, generation.rules.meter.layer,
                       self.first_sequence))
