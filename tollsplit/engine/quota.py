"""Quotas, thresholds and budgets as they are reached, while traffic is metered."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from tollsplit.cext.columns import counters
from tollsplit.cext.meter import Meter
from tollsplit.cext.shares import paid
from tollsplit.engine.cells import period_start
from tollsplit.engine.live import Generation
from tollsplit.engine.split import parts
from tollsplit.engine.subscribers import INTERNED, Subscribers
from tollsplit.engine.totals import RunningTotals
from tollsplit.engine.usage import Prior, Usage
from tollsplit.model import Event
from tollsplit.rules.rule import Rule, RuleSet

# A subscriber's key in any meter, rule, start of the period in ns.
_Key = tuple[int | bytes, str, int]


class Quotas:
    """The running totals of rules that have a quota or thresholds, octet by octet.

    totals         what was counted before this run
    source, epoch  whose events these are
    """

    def __init__(self, totals: RunningTotals, source: str, epoch: str) -> None:
        self._totals = totals
        self._source = source
        self._epoch = epoch
        self._running: dict[_Key, int] = {}
        self._spent: set[tuple[str, int]] = set()  # budgets that have ended

    def watch(self, generation: Generation, counted: Meter, now_ns: int) -> Iterator[Event]:
        """Add what was counted since the last time. Yields what was reached by it."""
        rules = generation.rules.rules
        watched = [number for number, rule in enumerate(rules, 1) if _marks(rule)]
        if not watched:
            return
        table = counters(counted.table)
        table = table[np.isin(table["rule"], watched)]
        interned = counted.subscribers.subscribers()
        for number in watched:
            yield from self._reached(generation, rules[number - 1], interned,
                                     table[table["rule"] == number], now_ns)

    def _reached(
        self, generation: Generation, rule: Rule, interned: np.ndarray, mine: np.ndarray,
        now_ns: int,
    ) -> Iterator[Event]:
        starts = [period_start(cell, rule.per) for cell in generation.cells.known]
        octets = (mine["uplink_octets"] + mine["downlink_octets"]).tolist()
        members = (mine["subscriber"].astype(np.uint64)
                   + mine["interned"].astype(np.uint64) * np.uint64(INTERNED))
        names = Subscribers(generation.rules, generation.compiled, members, interned)
        before, after = [], []
        for index, (member, cell) in enumerate(
            zip(members.tolist(), mine["cell"].tolist(), strict=True)
        ):
            own = member if member < INTERNED else interned[member - INTERNED].tobytes()
            key = (own, rule.id, starts[cell])
            total = self._running.get(key)
            if total is None:
                total = self._totals.prior.get(
                    (names.name(index), names.account(index), rule.id, starts[cell]), 0
                ) if self._totals.prior else 0
            before.append(total)
            after.append(total + octets[index])
            self._running[key] = after[-1]
        yield from self._crossed(rule, before, after, now_ns, lambda index: (
            names.name(index), names.account(index), starts[int(mine["cell"][index])]))

    def catch_up(self, rules: RuleSet, earlier: Prior, now_ns: int) -> Iterator[Event]:
        """Yields what closed generations have reached before `earlier` was known.

        earlier   what was counted before this run; it is among the totals by now
        """
        for rule in rules.rules:
            if not _marks(rule):
                continue
            keys = [key for key in self._totals.prior if key[2] == rule.id]
            before = [earlier.get(key, 0) for key in keys]
            after = [self._totals.prior[key] for key in keys]
            whose = [(subscriber, account, start) for subscriber, account, _, start in keys]
            yield from self._crossed(rule, before, after, now_ns, whose.__getitem__)

    def _crossed(
        self, rule: Rule, before: Sequence[int], after: Sequence[int], now_ns: int,
        whose: Callable[[int], tuple[str, str, int]],
    ) -> Iterator[Event]:
        """What running totals have reached on their way.

        whose   subscriber, account and start of the period of the total with an index
        """
        terms = parts(rule.splits)
        earlier, later = (paid(np.array(t, np.int64), terms) for t in (before, after))
        for column, (split, marks) in enumerate(zip(rule.splits, _marks(rule), strict=True)):
            for mark in marks:
                crossed = (earlier[column] < mark) & (later[column] >= mark)
                for index in np.flatnonzero(crossed).tolist():
                    subscriber, account, start_ns = whose(index)
                    yield Event(
                        "quota_end" if mark == split.quota_octets else "threshold", now_ns,
                        self._source, self._epoch, subscriber=subscriber, account=account,
                        rule=rule.id, sponsor=split.sponsor, period_start_ns=start_ns or None,
                        octets=int(later[column][index]), threshold_octets=mark)

    def watch_budgets(
        self, generation: Generation, usage: Usage, now_ns: int
    ) -> Iterator[Event]:
        """Compare budgets with what sponsors have spent, the generation's usage included."""
        spent = dict(self._totals.spent)
        for budget, octets in usage.spent():
            spent[budget] = spent.get(budget, 0) + octets
        for (name, start), octets in spent.items():
            sponsor = generation.rules.sponsors.get(name)
            if sponsor is None or sponsor.budget is None or (name, start) in self._spent:
                continue
            if octets >= sponsor.budget.octets:
                self._spent.add((name, start))
                yield Event("budget_end", now_ns, self._source, self._epoch,
                            account=sponsor.account, sponsor=name,
                            period_start_ns=start or None, octets=octets,
                            threshold_octets=sponsor.budget.octets)

    def forget(self, rules: RuleSet) -> None:
        """Let go of the periods that are over."""
        since = self._totals.begun(rules)
        self._running = {key: octets for key, octets in self._running.items()
                         if key[2] >= since.get(key[1], key[2])}


def _marks(rule: Rule) -> list[tuple[int, ...]]:
    """What is watched for, split by split; empty where there is nothing."""
    marks = [split.threshold_octets if split.quota_octets is None
             else tuple(dict.fromkeys((*split.threshold_octets, split.quota_octets)))
             for split in rule.splits]
    return marks if any(marks) else []
