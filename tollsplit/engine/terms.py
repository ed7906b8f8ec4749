"""On which terms sponsors pay: the splits of all rules, and their periods, as arrays."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tollsplit.engine.cells import Cell, period_start, windows_of
from tollsplit.engine.split import parts
from tollsplit.rules.rule import Period, RuleSet

PERIODS: tuple[Period, ...] = ("window", "day", "month", "session")


class Terms:
    """What tollsplit.cext.shares asks for, of the cells of one run in order of time.

    cells      as given
    window, window_first
               u4[cells], the window of each cell, and u4[windows], the first cell of each window
    steps, first, period, per   as divide() has them
    width      the most splits of a rule
    spanning   whether some rule's period runs over several windows
    """

    def __init__(self, rules: RuleSet, cells: Sequence[Cell]) -> None:
        steps = [parts(rule.splits) for rule in rules.rules]
        self.steps = np.concatenate(steps) if steps else parts(())
        self.first = np.zeros(len(steps) + 2, np.uint32)
        self.first[2:] = np.cumsum([len(rule.splits) for rule in rules.rules])
        self.width = max((len(rule.splits) for rule in rules.rules), default=0)
        self.per = np.array([0, *(PERIODS.index(rule.per) for rule in rules.rules)], np.uint8)
        self.period = np.zeros((len(PERIODS), len(cells)), np.uint32)
        self.cells = cells
        self.window, self.window_first = windows_of(cells)
        self.spanning = False
        for kind, per in enumerate(PERIODS):
            if any(rule.splits and rule.per == per for rule in rules.rules):
                numbers: dict[int, int] = {}
                mine = self.period[kind]
                mine[:] = [numbers.setdefault(period_start(cell, per), len(numbers) + 1)
                           for cell in cells]
                self.spanning |= bool(
                    ((mine[1:] == mine[:-1]) & (self.window[1:] != self.window[:-1])).any())
