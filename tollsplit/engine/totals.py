"""Running totals that go on from one generation of a live run to the next."""

from __future__ import annotations

import time

from tollsplit.engine.cells import Cell, Cells, budget_start, period_start
from tollsplit.engine.usage import Prior, Spent, Usage
from tollsplit.rules.rule import Period, Rule, RuleSet

MINUTE_NS = 60 * 1_000_000_000
# For how long after a period's end frames of it may still come, or the clock be set back into it.
# Windows may be short, and then many end in that time.
LATE_MINUTES: dict[Period, int] = {"window": 1, "day": 60, "month": 60, "session": 60}


class SteadyClock:
    """The wall clock, less what it was set forward by of late: it may be set back again."""

    def __init__(self) -> None:
        # Minute of the monotonic clock → by how much the wall clock was ahead of that, at least.
        self._ahead_ns: dict[int, int] = {}

    def look(self) -> int:
        """See whether the wall clock was set. Returns the monotonic one's time, in ns."""
        monotonic_ns = time.monotonic_ns()
        ahead_ns = time.time_ns() - monotonic_ns
        minute = monotonic_ns // MINUTE_NS
        self._ahead_ns[minute] = min(ahead_ns, self._ahead_ns.get(minute, ahead_ns))
        for old in [m for m in self._ahead_ns if m < minute - max(LATE_MINUTES.values())]:
            del self._ahead_ns[old]
        return monotonic_ns

    def now_ns(self, minutes: int) -> int:
        """In ns since 1970-01-01 UTC.

        minutes   for so long what it was set forward by is left out
        """
        monotonic_ns = self.look()
        since = monotonic_ns // MINUTE_NS - minutes
        return monotonic_ns + min(ahead for m, ahead in self._ahead_ns.items() if m >= since)


class RunningTotals:
    """What splits go on from: each subscriber's octets under a rule in a period, and what sponsors
    with a budget have spent of it.

    prior, spent   what was booked before this run, in the periods that it begins in
    clock          is to look at each flush
    """

    def __init__(self, prior: Prior, spent: Spent) -> None:
        self.prior = dict(prior)
        self.spent = dict(spent)
        self.clock = SteadyClock()

    def add_earlier(self, prior: Prior, spent: Spent) -> None:
        """Take in what was booked before this run."""
        for key, octets in prior.items():
            self.prior[key] = self.prior.get(key, 0) + octets
        for budget, octets in spent.items():
            self.spent[budget] = self.spent.get(budget, 0) + octets

    def add(self, usage: Usage) -> None:
        """Take in what a generation counted, as far as a later one can go on from it.

        The totals of windows that are over are left out, for they would be many, and without one
        a share is less than an octet off. A quota would begin anew: under one they stay.
        """
        minutes = LATE_MINUTES["window"]
        now_ns = self.clock.now_ns(minutes)

        def goes_on(rule: Rule, cell: Cell) -> bool:
            if rule.per != "window" or cell.window is None:
                return True
            quota = any(split.quota_octets is not None for split in rule.splits)
            return cell.window[1] > (now_ns - minutes * MINUTE_NS if quota else now_ns)

        for key, octets in usage.running_totals(goes_on):
            self.prior[key] = self.prior.get(key, 0) + octets
        for budget, octets in usage.spent():
            self.spent[budget] = self.spent.get(budget, 0) + octets

    def begun(self, rules: RuleSet) -> dict[str, int]:
        """When the periods began of which frames may still come, in ns: by rule."""
        split = [rule for rule in rules.rules if rule.splits]
        cells = {per: self._cell(rules, per) for per in {rule.per for rule in split}}
        return {rule.id: period_start(cells[rule.per], rule.per) for rule in split}

    def forget(self, rules: RuleSet) -> None:
        """Let go of the periods that are over."""
        since = self.begun(rules)
        self.prior = {key: octets for key, octets in self.prior.items()
                      if key[3] >= since.get(key[2], key[3])}
        cell = self._cell(rules, "day")  # a month's totals may come late for as long
        budgets = {name: budget_start(cell, sponsor.budget.per)
                   for name, sponsor in rules.sponsors.items() if sponsor.budget}
        self.spent = {budget: octets for budget, octets in self.spent.items()
                      if budget[1] >= budgets.get(budget[0], budget[1])}

    def _cell(self, rules: RuleSet, per: Period) -> Cell:
        """The earliest that frames may still lie in, of periods of a kind."""
        cells = Cells(rules)
        minutes = LATE_MINUTES[per]
        cells.at(self.clock.now_ns(minutes) - minutes * MINUTE_NS)
        return cells.known[0]
