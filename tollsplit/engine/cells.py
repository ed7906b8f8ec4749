"""Time cells: the stretches of time inside which nothing that matters changes.

A cell is what is left when the meter's windows, the days and months of quotas and budgets and
the switches of tariffs are laid over each other. The core counts per cell; a split needs only
the cells in their order, and a window or a period is a run of cells.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Literal, NamedTuple, Protocol
from zoneinfo import ZoneInfo

import numpy as np

from tollsplit.limits import CELLS_MAX
from tollsplit.rules.rule import Period, RuleSet

SECOND_NS = 1_000_000_000
END_NS = 2**64 - 1  # after every timestamp
SECOND = timedelta(seconds=1)


class Schedule(Protocol):
    """Boundaries in wall time.

    `repeats`: where clocks go back, a boundary shown twice counts twice. A day begins once.
    `by_wall`: what holds between boundaries goes by the time shown, so where clocks are changed
    something else may hold, and there is a boundary.
    """

    repeats: bool
    by_wall: bool

    def floor(self, wall: datetime) -> datetime: ...
    def after(self, boundary: datetime) -> datetime: ...


class Steps:
    """Every so many seconds from midnight on."""

    by_wall = False

    def __init__(self, seconds: int) -> None:
        self.seconds = seconds
        self.repeats = seconds < 86_400

    def floor(self, wall: datetime) -> datetime:
        midnight = wall.replace(hour=0, minute=0, second=0, microsecond=0)
        return midnight + timedelta(
            seconds=(wall - midnight).seconds // self.seconds * self.seconds
        )

    def after(self, boundary: datetime) -> datetime:
        return boundary + timedelta(seconds=self.seconds)


class Times:
    """At some times of each day, midnight among them."""

    repeats = True
    by_wall = True

    def __init__(self, seconds: set[int]) -> None:
        self.seconds = sorted(seconds | {0})

    def floor(self, wall: datetime) -> datetime:
        midnight = wall.replace(hour=0, minute=0, second=0, microsecond=0)
        at = bisect_right(self.seconds, (wall - midnight).seconds) - 1
        return midnight + timedelta(seconds=self.seconds[at])

    def after(self, boundary: datetime) -> datetime:
        midnight = boundary.replace(hour=0, minute=0, second=0, microsecond=0)
        at = bisect_right(self.seconds, (boundary - midnight).seconds)
        following = self.seconds[at] if at < len(self.seconds) else 86_400
        return midnight + timedelta(seconds=following)


class Months:
    """The first of each month."""

    repeats = False
    by_wall = False

    def floor(self, wall: datetime) -> datetime:
        return wall.replace(day=1, hour=0, minute=0, second=0, microsecond=0)

    def after(self, boundary: datetime) -> datetime:
        return (boundary + timedelta(days=32)).replace(day=1)


def span(schedule: Schedule, zone: ZoneInfo, instant_s: int) -> tuple[int, int]:
    """[start, end) in seconds of the stretch that an instant lies in.

    A boundary is an instant whose wall time the schedule names; where clocks jump over it, the
    jump is the boundary.
    """
    if schedule.repeats:
        return _begin(schedule, zone, instant_s), _end(schedule, zone, instant_s)
    today = schedule.floor(_wall(zone, instant_s))
    tomorrow = schedule.after(today)
    walls = (schedule.floor(today - SECOND), today, tomorrow, schedule.after(tomorrow))
    begins = [_first(zone, wall) for wall in walls]
    return (
        max(begin for begin in begins if begin <= instant_s),
        min(begin for begin in begins if begin > instant_s),
    )


def _begin(schedule: Schedule, zone: ZoneInfo, instant_s: int) -> int:
    """The last boundary up to an instant."""
    offset_s = _offset_s(zone, instant_s)
    wall = schedule.floor(_wall(zone, instant_s))
    begin = _read(wall, offset_s)
    if _offset_s(zone, begin) == offset_s:
        return begin
    change = _change(zone, begin, instant_s)  # clocks were changed since
    # Where they jumped over the boundary or to it, the jump is the boundary.
    if schedule.by_wall or wall >= _wall(zone, change - 1) + SECOND:
        return change
    return _begin(schedule, zone, change - 1)


def _end(schedule: Schedule, zone: ZoneInfo, instant_s: int) -> int:
    """The first boundary after an instant."""
    offset_s = _offset_s(zone, instant_s)
    end = _read(schedule.after(schedule.floor(_wall(zone, instant_s))), offset_s)
    if _offset_s(zone, end) == offset_s:
        return end
    change = _change(zone, instant_s, end)  # clocks are changed at the boundary or before
    return change if _begin(schedule, zone, change) == change else _end(schedule, zone, change)


def _wall(zone: ZoneInfo, instant_s: int) -> datetime:
    return datetime.fromtimestamp(instant_s, zone).replace(tzinfo=None)


def _offset_s(zone: ZoneInfo, instant_s: int) -> int:
    offset = datetime.fromtimestamp(instant_s, zone).utcoffset()
    return int(offset.total_seconds()) if offset else 0


def _read(wall: datetime, offset_s: int) -> int:
    """The instant at which clocks with an offset show a time."""
    return int(wall.replace(tzinfo=UTC).timestamp()) - offset_s


def _first(zone: ZoneInfo, wall: datetime) -> int:
    """When clocks first show a time; where they jump over it, the jump."""
    early, late = sorted(int(wall.replace(tzinfo=zone, fold=fold).timestamp()) for fold in (0, 1))
    for instant_s in (early, late):
        if _wall(zone, instant_s) == wall:
            return instant_s
    return _change(zone, early, late)


def _change(zone: ZoneInfo, low: int, high: int) -> int:
    """The first instant in (low, high] at which the zone's offset is that of `high`."""
    offset_s = _offset_s(zone, high)
    while high - low > 1:
        middle = (low + high) // 2
        if _offset_s(zone, middle) == offset_s:
            high = middle
        else:
            low = middle
    return high


class Cell(NamedTuple):
    """Starts in nanoseconds since 1970-01-01 UTC; None: from the beginning."""

    start_ns: int
    end_ns: int
    window: tuple[int, int] | None
    day: int | None
    month: int | None


class Cells:
    """The cells of one run, numbered as they are met; any thread may ask."""

    def __init__(self, rules: RuleSet) -> None:
        self.zone = ZoneInfo(rules.meter.zone)
        periods = {r.per for r in rules.rules if r.splits}
        periods |= {s.budget.per for s in rules.sponsors.values() if s.budget and s.budget.per}
        bands = {b for t in rules.tariffs.values() for band in t.bands
                 for b in (band.from_s % 86_400, band.to_s % 86_400)}  # fmt: skip
        daily = any(t.rounding_per == "day" or (t.minimum_micros and t.minimum_per in (
            "day", "month")) for t in rules.tariffs.values())
        self.window: Schedule | None = None
        if rules.meter.window_month:
            self.window = Months()
        elif rules.meter.window_s is not None:
            self.window = Steps(rules.meter.window_s)
        self.days = Steps(86_400) if "day" in periods or daily else None
        self.months = Months() if "month" in periods else None
        self.bands = Times(bands) if bands else None
        self.bounded = any((self.window, self.days, self.months, self.bands))
        self.known: list[Cell] = []
        self._numbers: dict[int, int] = {}
        self._lock = threading.Lock()

    def at(self, timestamp_ns: int) -> tuple[int, int, int] | None:
        """(start_ns, end_ns, number) of an instant's cell; None beyond CELLS_MAX of them."""
        cell = self._cell(timestamp_ns)
        with self._lock:
            number = self._numbers.get(cell.start_ns)
            if number is None:
                if len(self.known) >= CELLS_MAX:
                    return None
                number = self._numbers[cell.start_ns] = len(self.known)
                self.known.append(cell)
        return cell.start_ns, cell.end_ns, number

    def _cell(self, timestamp_ns: int) -> Cell:
        start, end = 0, END_NS

        def narrow(schedule: Schedule | None) -> tuple[int, int] | None:
            nonlocal start, end
            if schedule is None:
                return None
            first, last = span(schedule, self.zone, timestamp_ns // SECOND_NS)
            bounds = max(first * SECOND_NS, 0), last * SECOND_NS
            start, end = max(start, bounds[0]), min(end, bounds[1])
            return bounds

        window, day, month = narrow(self.window), narrow(self.days), narrow(self.months)
        narrow(self.bands)
        return Cell(start, end, window, day[0] if day else None, month[0] if month else None)


def period_start(cell: Cell, per: Period) -> int:
    """When the period of a kind that a cell lies in began; 0: with the input."""
    if per == "day":
        assert cell.day is not None
        return cell.day
    if per == "month":
        assert cell.month is not None
        return cell.month
    if per == "window" and cell.window is not None:
        return cell.window[0]
    return 0


def budget_start(cell: Cell, per: Literal["day", "month"] | None) -> int:
    """When the period of a budget that a cell lies in began; 0: with the campaign."""
    return 0 if per is None else period_start(cell, per)


def windows_of(cells: Sequence[Cell]) -> tuple[np.ndarray, np.ndarray]:
    """The window of each of the cells, u4[cells], and the first cell of each window, u4[windows].

    cells   in order of time, as the windows are numbered
    """
    numbers: dict[tuple[int, int] | None, int] = {}
    windows = np.array([numbers.setdefault(c.window, len(numbers)) for c in cells], np.uint32)
    return windows, np.searchsorted(windows, np.arange(len(numbers))).astype(np.uint32)


@lru_cache(maxsize=1024)
def moment(timestamp_ns: int) -> datetime:
    """An instant as a UTC datetime, microseconds kept."""
    return datetime.fromtimestamp(timestamp_ns // SECOND_NS, UTC) + timedelta(
        microseconds=timestamp_ns % SECOND_NS // 1000
    )
