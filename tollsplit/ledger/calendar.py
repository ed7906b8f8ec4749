"""Months and days of a zone, which statements and closed periods are of."""

from __future__ import annotations

import re
from datetime import date, datetime, time, timedelta
from functools import cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from ..errors import LedgerError
from .store import instant_at, instant_ns

# Since 1972 clocks everywhere are set off by whole quarters of an hour: days begin with one.
QUARTER_NS = 900 * 1_000_000_000


class Calendar:
    """Days of a zone, before a period, in it and after it."""

    def __init__(self, zone: str, period: str | None) -> None:
        try:
            self._zone = ZoneInfo(zone)
        except (ZoneInfoNotFoundError, ValueError, OSError) as error:
            raise LedgerError(
                f'zone: expected an IANA name as "Asia/Shanghai", got "{zone}"'
            ) from error
        first, after = _days(period)
        self.start = None if first is None else datetime.combine(first, time(), self._zone)
        self.end = None if after is None else datetime.combine(after, time(), self._zone)
        self._first, self._after = first or date.min, after or date.max
        self.day = cache(self._day)  # quarters of an hour are few

    def day_of(self, instant_ns: int) -> date:
        return self.day(instant_ns // QUARTER_NS)

    @property
    def bounds_ns(self) -> tuple[int, int]:
        """From the period's start to its end."""
        return (
            -(1 << 63) if self.start is None else instant_ns(self.start),
            (1 << 63) - 1 if self.end is None else instant_ns(self.end),
        )

    def _day(self, quarter: int) -> date:
        return instant_at(quarter * QUARTER_NS).astimezone(self._zone).date()

    def before(self, day: date) -> bool:
        return day < self._first

    def beyond(self, day: date) -> bool:
        return day >= self._after


def _days(period: str | None) -> tuple[date | None, date | None]:
    """The first day of a period and of what follows it."""
    if period is None:
        return None, None
    try:
        if re.fullmatch(r"\d{4}-\d{2}", period):
            first = date.fromisoformat(f"{period}-01")
            return first, (first + timedelta(days=31)).replace(day=1)
        if re.fullmatch(r"\d{4}-\d{2}-\d{2}", period):
            first = date.fromisoformat(period)
            return first, first + timedelta(days=1)
    except (ValueError, OverflowError):
        pass
    raise LedgerError(
        f'period: expected a month as "2026-11" or a day as "2026-11-03", got "{period}"'
    )
