"""Running totals that go on from one generation of a live run to the next."""

from __future__ import annotations

from tollsplit.engine.cells import Cell, Cells, budget_start, period_start
from tollsplit.engine.usage import Prior, Spent, Usage
from tollsplit.rules.rule import RuleSet

# For how long after a period's end frames of it may still come.
LATE_NS = 60 * 1_000_000_000


class RunningTotals:
    """What splits go on from: each subscriber's octets under a rule in a period, and what sponsors
    with a budget have spent of it.

    prior, spent   what was booked before this run, in the periods that it begins in
    """

    def __init__(self, prior: Prior, spent: Spent) -> None:
        self.prior = dict(prior)
        self.spent = dict(spent)

    def add_earlier(self, prior: Prior, spent: Spent) -> None:
        """Take in what was booked before this run."""
        for key, octets in prior.items():
            self.prior[key] = self.prior.get(key, 0) + octets
        for budget, octets in spent.items():
            self.spent[budget] = self.spent.get(budget, 0) + octets

    def add(self, usage: Usage, now_ns: int) -> None:
        """Take in what a generation counted, as far as a later one can go on from it.

        now_ns   the totals of windows that are over by then are left out: they would be many
        """
        for key, octets in usage.running_totals(lambda cell: _open(cell, now_ns)):
            self.prior[key] = self.prior.get(key, 0) + octets
        for budget, octets in usage.spent():
            self.spent[budget] = self.spent.get(budget, 0) + octets

    def begun(self, rules: RuleSet, now_ns: int) -> dict[str, int]:
        """When the periods began of which frames may still come, in ns: by rule."""
        cell = _cell(rules, now_ns)
        return {rule.id: period_start(cell, rule.per) for rule in rules.rules if rule.splits}

    def forget(self, rules: RuleSet, now_ns: int) -> None:
        """Let go of the periods that are over."""
        since = self.begun(rules, now_ns)
        self.prior = {key: octets for key, octets in self.prior.items()
                      if key[3] >= since.get(key[2], key[3])}
        cell = _cell(rules, now_ns)
        budgets = {name: budget_start(cell, sponsor.budget.per)
                   for name, sponsor in rules.sponsors.items() if sponsor.budget}
        self.spent = {budget: octets for budget, octets in self.spent.items()
                      if budget[1] >= budgets.get(budget[0], budget[1])}


def _cell(rules: RuleSet, now_ns: int) -> Cell:
    cells = Cells(rules)
    cells.at(now_ns - LATE_NS)
    return cells.known[0]


def _open(cell: Cell, now_ns: int) -> bool:
    return cell.window is None or cell.window[1] > now_ns
