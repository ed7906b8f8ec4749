"""What earlier runs used up of quotas and budgets, and which of them can be known."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from .engine.cells import SECOND_NS, Cells, period_start, span
from .engine.usage import Prior, Spent
from .errors import RulesError
from .ledger import Ledger, Run
from .rules.rule import Period, RuleSet


def expect_bookable(rules: RuleSet) -> None:
    """Raise RulesError where a running total ends inside a window.

    The ledger keeps records by window: what a day used up of a month's record is not in it.
    """
    totals: list[tuple[str, str | None]] = [
        (f'rule "{rule.id}"', rule.per) for rule in rules.rules if rule.splits]
    totals += [(f'sponsor "{name}"', sponsor.budget.per)
               for name, sponsor in rules.sponsors.items() if sponsor.budget]
    month = rules.meter.window_month
    window = "1mo" if month else "all"
    for place, per in totals:
        if rules.meter.window_s is None and (per == "day" or (per == "month" and not month)):
            raise RulesError(
                f'{rules.path}: {place}: key "per": a total per {per} goes on over booked runs '
                f'only if no window is longer than a {per}, got "{window}"; set '
                f'window = "{"1d" if per == "day" else "1mo"}" or shorter, or leave out the ledger')


def carryover(
    book: Ledger, run: Run | None, rules: RuleSet
) -> Callable[[Cells], tuple[Prior, Spent]]:
    """What is asked of the ledger once the time cells of a run are known.

    run   where it was booked already, only what was booked before it counts
    """

    def ask(cells: Cells) -> tuple[Prior, Spent]:
        totals: dict[tuple[str, str, str, int], int] = {}
        for rule in rules.rules:
            periods = sorted(_periods(cells, rule.per)) if rule.splits else []
            whole = [(rule.id, start, end) for start, end in _hull(periods)]
            # Most runs follow none in the same windows: one question then answers for all.
            if book.prior(whole, before=run):
                each = [(rule.id, start, end) for start, end in periods]
                totals.update(book.prior(each, before=run))
        spent: dict[tuple[str, int], int] = {}
        for name, sponsor in rules.sponsors.items():
            if sponsor.budget is None:
                continue
            if sponsor.budget.per is None:
                spent[name, 0] = book.spent(name, None, None, before=run)
                continue
            for start, end in _periods(cells, sponsor.budget.per):
                spent[name, start] = book.spent(name, start, end, before=run)
        return totals, spent

    return ask


def _periods(cells: Cells, per: Period) -> set[tuple[int, int]]:
    """[start, end) in ns of every period of a kind that the input touches.

    What runs over the whole input, a session or the window "all", goes on from nothing.
    """
    if per == "window":
        return {cell.window for cell in cells.known if cell.window is not None}
    schedule = {"day": cells.days, "month": cells.months, "session": None}[per]
    if schedule is None:
        return set()
    return {
        (start, span(schedule, cells.zone, start // SECOND_NS)[1] * SECOND_NS)
        for start in {period_start(cell, per) for cell in cells.known}}


def _hull(periods: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    return [(periods[0][0], periods[-1][1])] if periods else []
