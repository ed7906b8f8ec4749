"""Windows and periods of a zone, by listing every boundary of the days around an instant."""

from __future__ import annotations

from bisect import bisect_right
from datetime import date, datetime, timedelta
from functools import lru_cache
from typing import Literal
from zoneinfo import ZoneInfo

SECOND_NS = 10**9
DAY_S = 86_400
# Seconds that divide a day; or calendar months; or no boundary at all.
Unit = int | Literal["month"] | None


def span(zone: str, unit: Unit, instant_ns: int) -> tuple[int | None, int | None]:
    """The window [start, end) that an instant lies in, in nanoseconds; None: no such end."""
    if unit is None:
        return None, None
    day = datetime.fromtimestamp(instant_ns // SECOND_NS, ZoneInfo(zone)).date()
    around = [day + timedelta(n) for n in (-1, 0, 1)]
    if unit == "month":
        first = day.replace(day=1)
        around = [(first + timedelta(n)).replace(day=1) for n in (-1, 0, 31, 62)]
    boundaries = sorted({instant for d in around for instant in boundaries_of(zone, unit, d)})
    index = bisect_right(boundaries, instant_ns // SECOND_NS)
    return boundaries[index - 1] * SECOND_NS, boundaries[index] * SECOND_NS


@lru_cache(maxsize=64)
def boundaries_of(zone: str, unit: Unit, day: date) -> tuple[int, ...]:
    """The instants at which windows begin on one local day, in seconds since the epoch."""
    midnight = datetime.combine(day, datetime.min.time())
    if unit == "month" or unit == DAY_S:
        # Where clocks are put back over midnight, the day that repeats it is one day still.
        return instants(zone, midnight)[:1]
    assert isinstance(unit, int)
    return tuple(instant for second in range(0, DAY_S, unit)
                 for instant in instants(zone, midnight + timedelta(seconds=second)))


def instants(zone: str, wall: datetime) -> tuple[int, ...]:
    """When clocks show a wall time: once, twice, or the instant at which they skip it."""
    info = ZoneInfo(zone)
    folds = [int(wall.replace(tzinfo=info, fold=fold).timestamp()) for fold in (0, 1)]
    shown = sorted({s for s in folds if clock(info, s) == wall})
    if shown:
        return tuple(shown)
    late, early = folds  # read with the offset before the gap, and with the one behind it
    while late - early > 1:
        middle = (early + late) // 2
        if clock(info, middle) < wall:
            early = middle
        else:
            late = middle
    return (late,)


def clock(zone: ZoneInfo, instant_s: int) -> datetime:
    return datetime.fromtimestamp(instant_s, zone).replace(tzinfo=None)
