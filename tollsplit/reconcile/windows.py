"""The windows of two parties, and the windows that both can be told by."""

from __future__ import annotations

import re
from datetime import date, timedelta
from math import inf
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from ..errors import ReconcileError, UsageError
from .line import Time
from .times import Window, local, midnight, month_after


class Calendar:
    """Windows, days or months; each window that lines are told by has a number, its cell."""

    def __init__(self, time: Time | None, zone: str, period: str | None) -> None:
        try:
            self._zone = ZoneInfo(zone)
        except (ZoneInfoNotFoundError, ValueError, OSError) as error:
            raise UsageError(
                f'zone: expected an IANA name as "Asia/Shanghai", got "{zone}"'
            ) from error
        self._time = time
        self._period = None if period is None else self._bounds(period)
        self.cells: dict[Window, int] = {}
        self._seen: dict[Window, tuple[int | None, str]] = {}

    def cell(self, window: Window, name: str) -> int | None:
        """The cell of a party's window; None: outside the period. Raises ReconcileError."""
        if window not in self._seen:
            told = self._told(window, name)
            self._seen[window] = (
                None if told is None else self.cells.setdefault(told, len(self.cells)), name
            )
        return self._seen[window][0]

    def day(self, start_ns: int | None, name: str) -> Window | None:
        """The day or month of a charge, (None, None) where it is not told; None: outside."""
        if self._period is not None:
            if start_ns is None:
                raise ReconcileError(f"{name}: a charge says no day; leave out --period")
            if not self._period[0] <= start_ns < self._period[1]:
                return None
        if start_ns is None or self._time is None:
            return (None, None)
        return self._around(start_ns, "month" if self._time == "month" else "day")

    def commons(self) -> tuple[list[Window], dict[int, int]]:
        """The windows that lines are compared by, in order of time, and cell → its window.

        Where the parties' windows have different lengths, these are the longest ones. Raises
        ReconcileError where two overlap and neither lies inside the other.
        """
        commons: list[Window] = []
        of: dict[int, int] = {}
        for window in sorted(self.cells, key=lambda w: (_start(w), -_end(w))):
            if not commons or _start(window) >= _end(commons[-1]):
                commons.append(window)
            elif _end(window) > _end(commons[-1]):
                one, other = commons[-1], window
                raise ReconcileError(
                    f"the windows {self.text(one)} ({self._seen[one][1]}) and {self.text(other)} "
                    f"({self._seen[other][1]}) overlap and neither lies inside the other: no "
                    "windows are common to both parties; choose --by day, --by month, or leave "
                    "the time out"
                )
            of[self.cells[window]] = len(commons) - 1
        return commons, of

    def text(self, window: Window) -> str:
        """A window for the eye."""
        start, end = window
        if start is None or end is None:
            return "of everything" if start is end else f"{self._point(start)}..{self._point(end)}"
        begins, ends = local(start, self._zone), local(end, self._zone)
        if begins.time() == ends.time() and (ends.date() - begins.date()).days == 1:
            return f"{begins:%Y-%m-%d}" if not begins.hour + begins.minute else (
                f"{begins:%Y-%m-%d %H:%M} + 1d")
        same = begins.date() == ends.date()
        return f"{begins:%Y-%m-%d %H:%M}..{ends:{'%H:%M' if same else '%Y-%m-%d %H:%M'}}"

    def _point(self, instant_ns: int | None) -> str:
        return "" if instant_ns is None else f"{local(instant_ns, self._zone):%Y-%m-%d %H:%M}"

    def _told(self, window: Window, name: str) -> Window | None:
        start, end = window
        if self._period is not None:
            if start is None or end is None:
                raise ReconcileError(f"{name}: has no windows; leave out --period")
            if not self._period[0] <= start < self._period[1]:
                return None
            if end > self._period[1]:
                raise ReconcileError(
                    f"{name}: the window {self.text(window)} goes on beyond the period"
                )
        if self._time is None:
            return (None, None)
        if self._time == "window":
            return window
        if start is None or end is None:
            raise ReconcileError(
                f"{name}: has no windows and cannot be told by {self._time}; "
                f"leave {self._time} out of --by"
            )
        around = self._around(start, self._time)
        if end > around[1]:
            raise ReconcileError(
                f"{name}: the window {self.text(window)} goes on beyond its {self._time} in "
                f"{self._zone.key}; choose another --by or --zone"
            )
        return around

    def _around(self, instant_ns: int, time: Time) -> tuple[int, int]:
        day = local(instant_ns, self._zone).date()
        if time == "month":
            first = day.replace(day=1)
            return midnight(first, self._zone), midnight(month_after(first), self._zone)
        return midnight(day, self._zone), midnight(day + timedelta(days=1), self._zone)

    def _bounds(self, period: str) -> tuple[int, int]:
        try:
            if re.fullmatch(r"\d{4}-\d{2}", period):
                first = date.fromisoformat(f"{period}-01")
                return midnight(first, self._zone), midnight(month_after(first), self._zone)
            if re.fullmatch(r"\d{4}-\d{2}-\d{2}", period):
                first = date.fromisoformat(period)
                after = first + timedelta(days=1)
                return midnight(first, self._zone), midnight(after, self._zone)
        except (ValueError, OverflowError):
            pass
        raise UsageError(
            f'period: expected a month as "2026-11" or a day as "2026-11-03", got "{period}"'
        )


def _start(window: Window) -> float:
    return -inf if window[0] is None else window[0]


def _end(window: Window) -> float:
    return inf if window[1] is None else window[1]
