"""A run's usage added up for the eye: over time, by rule, by subscriber. Sums are exact."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple
from zoneinfo import ZoneInfo

import numpy as np

if TYPE_CHECKING:
    from ..engine import Usage

SHOWN_SPONSORS = 5  # each with a colour of its own; the others share one
_COLUMNS_MAX = 96  # of less than a day each
_MONTH_S = 31 * 86_400
_DAYS_MAX = 124  # more could not be told apart: months then
_STEPS_S = (1, 5, 15, 30, 60, 300, 900, 3600)
_UNITS = (("day", 86_400), ("hour", 3600), ("minute", 60), ("second", 1))
_EPOCH = datetime(1970, 1, 1)


class Line(NamedTuple):
    """What one subscriber, or one rule, comes to."""

    name: str
    account: str
    packets: int
    uplink_octets: int
    downlink_octets: int
    paid: tuple[int, ...]  # by each of the payers

    @property
    def octets(self) -> int:
        return self.uplink_octets + self.downlink_octets


class Stretch(NamedTuple):
    """A column of the drawing: windows that begin in it, by wall time."""

    start: datetime  # without a zone
    paid: tuple[int, ...]


@dataclass(frozen=True)
class Times:
    """Octets over time, none left out."""

    step: str  # "hour", "15 minutes"
    clock: str  # the form in which a stretch's start is written
    zone: str
    stretches: Sequence[Stretch]


class Overview:
    """What is shown of a run's usage.

    payers  "subscribers", then sponsors, who pay most first; from the sixth on together
    paid    octets of each of them
    """

    def __init__(self, usage: Usage) -> None:
        self._usage = usage
        totals = usage.sponsor_totals()
        known = heapq.nlargest(SHOWN_SPONSORS, totals, key=lambda name: totals[name])
        others = [name for name in totals if name not in known]
        self.payers = ["subscribers", *(f"sponsor {name}" for name in known)]
        self._paid = [usage.subscriber_octets, *map(usage.paid_by, known)]
        if others:
            self.payers.append(f"{len(others):,} other sponsors")
            self._paid.append(sum(map(usage.paid_by, others), np.zeros(len(usage), np.int64)))
        self.paid = [int(column.sum()) for column in self._paid]
        self.subscriber_count = len(usage.subscribers)

    def rules(self) -> list[Line]:
        """What each rule that matched comes to, in the order of precedence, none last."""
        rules = self._usage.rules.rules
        number = self._usage.records["rule"]
        lines = list(self._lines(number, np.unique(number), lambda n: (
            rules[n - 1].id if n else "no rule", "")))  # fmt: skip
        if lines and not number.min():
            lines.append(lines.pop(0))
        return lines

    def subscribers(self, top: int) -> list[Line]:
        """The largest, largest first."""
        who = self._usage.subscribers
        largest = largest_subscribers(self._usage, top)
        return list(self._lines(self._usage.records["subscriber"], largest,
                                lambda n: (who.name(n), who.account(n))))

    def _lines(
        self, group: np.ndarray, wanted: np.ndarray, named: Callable[[int], tuple[str, str]]
    ) -> Iterator[Line]:
        records = self._usage.records
        size_ = int(group.max(initial=0)) + 1
        columns = [_sums(group, column, size_) for column in (
            self._usage.packets, records["uplink_octets"], records["downlink_octets"],
            *self._paid)]  # fmt: skip
        for number in wanted.tolist():
            packets, up, down, *paid = (int(column[number]) for column in columns)
            yield Line(*named(number), packets, up, down, tuple(paid))

    def times(self) -> Times | None:
        """Octets over time; None where there are no windows."""
        windows = self._usage.windows
        cells = self._usage.records["cell"]
        starts = {cell: window[0] for cell in np.unique(cells).tolist()
                  if (window := windows[cell]) is not None}  # fmt: skip
        if not starts:
            return None
        meter = self._usage.rules.meter
        zone = ZoneInfo(meter.zone)
        walls = {cell: _wall(start, zone) for cell, start in starts.items()}
        first, last = min(walls.values()), max(walls.values())
        length_s = _MONTH_S if meter.window_month else meter.window_s or 0
        step, clock, floor, after = _step(first, last, length_s)
        sums: dict[datetime, list[int]] = {}
        at = floor(first)
        while at <= last:
            sums[at] = [0] * len(self.payers)
            at = after(at)
        by_cell = [_sums(cells, column, len(windows)) for column in self._paid]
        for cell, wall in walls.items():
            for payer, column in enumerate(by_cell):
                sums[floor(wall)][payer] += int(column[cell])
        stretches = [Stretch(at, tuple(paid)) for at, paid in sums.items()]
        return Times(step, clock, meter.zone, stretches)


def largest_subscribers(usage: Usage, top: int) -> np.ndarray:
    """Numbers of the subscribers with most octets, i8[up to top], largest first."""
    totals = _sums(usage.records["subscriber"], usage.octets, len(usage.subscribers))
    return np.argsort(-totals, kind="stable")[:top]


def _sums(group: np.ndarray, column: np.ndarray, groups: int) -> np.ndarray:
    """i8[groups], a column's sum over each group; no sum of floats, as bincount's."""
    result = np.zeros(groups, np.int64)
    np.add.at(result, group, column.astype(np.int64))
    return result


def _wall(instant_ns: int, zone: ZoneInfo) -> datetime:
    """Wall time. Where clocks go back an hour is shown twice: it is one stretch then."""
    return datetime.fromtimestamp(instant_ns // 10**9, UTC).astimezone(zone).replace(tzinfo=None)


Move = Callable[[datetime], datetime]


def _step(first: datetime, last: datetime, window_s: int) -> tuple[str, str, Move, Move]:
    """The shortest step that leaves columns apart: its name, how starts are written, the start of
    the step that an instant lies in, and the next start.
    """
    for step_s in (window_s, *_STEPS_S):
        fits = (last - first) / timedelta(seconds=step_s) < _COLUMNS_MAX
        if window_s <= step_s < 86_400 and fits:
            clock = "%H:%M:%S" if step_s % 60 else "%H:%M"
            return duration(step_s), clock, *_even(timedelta(seconds=step_s))
    if window_s < _MONTH_S and (last - first).days < _DAYS_MAX:
        return "day", "%Y-%m-%d", *_even(timedelta(days=1))
    return ("month", "%Y-%m", lambda at: datetime(at.year, at.month, 1),
            lambda at: (at.replace(day=1) + timedelta(days=31)).replace(day=1))


def _even(step: timedelta) -> tuple[Move, Move]:
    return lambda at: _EPOCH + (at - _EPOCH) // step * step, lambda at: at + step


def duration(length_s: int) -> str:
    """Some seconds in the largest unit that divides them: "hour", "15 minutes"."""
    unit, unit_s = next(found for found in _UNITS if not length_s % found[1])
    count = length_s // unit_s
    return unit if count == 1 else f"{count:,} {unit}s"
