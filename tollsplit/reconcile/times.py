"""Times and windows as a party writes them, in nanoseconds since 1970-01-01 UTC."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

_MICROSECOND = timedelta(microseconds=1)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DAY_S = 86_400
_UNIX_DIGITS_MAX = 11  # more is a date without hyphens

Window = tuple[int | None, int | None]  # None: unbounded


def nanoseconds(instant: datetime) -> int:
    return (instant - _EPOCH) // _MICROSECOND * 1000


def local(instant_ns: int, zone: ZoneInfo) -> datetime:
    return (_EPOCH + timedelta(microseconds=instant_ns // 1000)).astimezone(zone)


def midnight(day: date, zone: ZoneInfo) -> int:
    """When a day begins."""
    return nanoseconds(datetime.combine(day, time(), zone))


def month_after(day: date) -> date:
    """The first day of the next month."""
    return (day.replace(day=1) + timedelta(days=31)).replace(day=1)


class Times:
    """Reads times in one form; where they have no offset, they are of a zone."""

    def __init__(
        self, zone: str = "UTC", form: str | None = None,
        length: tuple[int | None, bool] | None = None,
    ) -> None:  # fmt: skip
        """form    as strptime has it; None: ISO 8601, or Unix seconds
        length  of windows whose end is not stated, as rules.units.window has it
        """
        self.zone = ZoneInfo(zone)
        self._form = form
        self._length = length

    def instant(self, value: Any) -> int | None:
        """Raises ValueError; nothing is None."""
        if value is None or value == "":
            return None
        try:
            if self._form is not None:
                found = datetime.strptime(str(value), self._form)
            elif str(value).isdecimal() and len(str(value)) <= _UNIX_DIGITS_MAX:
                return int(value) * 1_000_000_000
            else:
                found = datetime.fromisoformat(str(value))
            return nanoseconds(found if found.tzinfo else found.replace(tzinfo=self.zone))
        except (ValueError, OverflowError):
            what = f'as "{self._form}"' if self._form else "of ISO 8601, or Unix seconds"
            raise ValueError(f'expected a time {what}, got "{value}"') from None

    def day(self, value: Any) -> Window:
        """The window of a day. Raises ValueError."""
        try:
            first = date.fromisoformat(str(value))
            after = first + timedelta(days=1)
        except (ValueError, OverflowError):
            raise ValueError(f'expected a day as "2026-11-03", got "{value}"') from None
        return midnight(first, self.zone), midnight(after, self.zone)

    def window(self, start: Any, end: Any) -> Window:
        """From start to end; where there is no end, windows have their known length. Raises
        ValueError.
        """
        begins, ends = self.instant(start), self.instant(end)
        if begins is not None and ends is None and self._length is not None:
            ends = self._end(begins, *self._length)
        if begins is not None and ends is not None and ends <= begins:
            raise ValueError(f"expected an end after {start}, got {end}")
        return begins, ends

    def _end(self, begins_ns: int, seconds: int | None, month: bool) -> int | None:
        day = local(begins_ns, self.zone).date()
        if month:
            return midnight(month_after(day), self.zone)
        if seconds == _DAY_S:  # of 23 to 25 hours
            return midnight(day + timedelta(days=1), self.zone)
        return None if seconds is None else begins_ns + seconds * 1_000_000_000
