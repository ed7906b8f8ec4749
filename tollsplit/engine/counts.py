"""What was counted in one place, in a form that others can add to what they have counted."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from tollsplit.cext.dissect import Dissection
from tollsplit.cext.meter import Meter
from tollsplit.cext.state import State
from tollsplit.engine.cells import Cell, Cells, moment
from tollsplit.engine.pipeline import NoRoom, expect_room_for_one
from tollsplit.errors import ClusterError
from tollsplit.rules.compile import Compiled
from tollsplit.rules.rule import RuleSet

# Faults that a frame has for what was counted before it, wherever that was.
FULL = ("fault:cells_full", "fault:table_full")


@dataclass(frozen=True, slots=True)
class Counts:
    """Counters under one version of the rules; they add up, in any order, to the same sums.

    cells      the time cells, by the number that counters name them by
    counters, subscribers, totals
               as Meter.export() gives them
    room       how full memories were, as State.room says; of several, added up
    set_back   whether a clock was
    """

    cells: tuple[Cell, ...]
    counters: np.ndarray
    subscribers: np.ndarray
    totals: np.ndarray
    room: tuple[tuple[int, int], ...] = ()
    set_back: bool = False


def counts_of(cells: Cells, counted: Meter, remembered: State | None) -> Counts:
    """What a meter has counted, and how full the memory was that it had beside it."""
    room = tuple(remembered.room) if remembered else ()
    return Counts(tuple(cells.known), *counted.export(), room,
                  remembered is not None and remembered.set_back)


def gathered(
    several: Iterable[Counts], rules: RuleSet, compiled: Compiled, dissect: Dissection
) -> tuple[Cells, Meter]:
    """A meter that has counted what several have, and its cells.

    Raises NoRoom where that is more than one can count, ClusterError where time zones differ.
    """
    cells = Cells(rules)
    counted = Meter(dissect, compiled.classifier, cells.at)
    for each in several:
        numbers = np.array([_number(cells, cell) for cell in each.cells], np.uint32)
        counters = each.counters.copy()
        if len(counters):
            counters["cell"] = numbers[counters["cell"]]
        try:
            counted.load(counters, each.subscribers, each.totals, len(cells.known))
        except MemoryError as error:
            raise NoRoom from error
    return cells, counted


def add(
    several: Sequence[Counts], rules: RuleSet, compiled: Compiled, dissect: Dissection
) -> Counts:
    """What several have counted that were shown parts of the same input.

    Raises NoRoom where one would have counted otherwise, for want of room; and as gathered() does.
    """
    cells, counted = gathered(several, rules, compiled, dissect)
    _expect_no_fault_of_room(counted)
    room = tuple((sum(made for made, _ in parts), parts[0][1])
                 for parts in zip(*(each.room for each in several), strict=True))
    found = Counts(tuple(cells.known), *counted.export(), room,
                   any(each.set_back for each in several))
    expect_room_for_one([found])
    return found


def _expect_no_fault_of_room(counted: Meter) -> None:
    """Raise NoRoom where a frame found no counter: which one does depends on all before it."""
    sums = counted.sums()
    if any(name in sums for name in FULL):
        raise NoRoom


def _number(cells: Cells, cell: Cell) -> int:
    """A cell's number here, where it has to be the same stretch of time."""
    found = cells.at(cell.start_ns)
    if found is None:
        raise NoRoom
    if cells.known[found[2]] != cell:
        raise ClusterError(
            f"{cells.zone.key}: on one machine {moment(cell.start_ns)} begins what ends "
            f"{moment(cell.end_ns)}, on another it does not: install the same tzdata on both")
    return found[2]
