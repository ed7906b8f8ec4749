"""Rating: what octets cost, exactly.

The rules:

- A tariff rounds octets up to its increment once per usage record, per day of the zone, or per
  session (the whole input). Its tiers run over the same period as its rounding: with
  `rounding_per = "day"` the first tier begins anew each day.
- The octets of a period are placed on that scale in the order of time. Each finds its price by
  the tier that it falls into, in the time band that its cell began in. The octets that rounding
  adds come last, at the price that then holds.
- A charge is what one account owes under one tariff for one day; there is one for the whole
  input where a tariff rounds per session, or where cells have no start. Records go to the day
  in which they begin.
- Prices are rationals. A charge is rounded once, down to a whole micro-unit, and carries the
  fraction that was left off: amount_micros + remainder is the exact price.

A worked example. 0.30 CNY per MB (10⁶ octets) up to 2 MB a day, then 0.10; from 22:00 to 06:00
half of either; increment 1 kB (1000 octets), rounded per day; zone Asia/Shanghai. In micro-units
per octet: 3/10, then 1/10; by night 3/20, then 1/20.

    2026-11-03  09:00  1,500,000 octets   at 3/10  450,000
                23:00    500,000 octets   at 3/20   75,000    2 MB: the first tier ends
                23:00    100,001 octets   at 1/20    5,000 1/20
                             999 octets   at 1/20       49 19/20    up to 2,101,000
    charge: 530,050 micros = 0.530050 CNY, remainder 0
    2026-11-04  00:30          1 octet    at 3/20        3/20    a new day, the first tier again
                             999 octets   at 3/20      149 17/20
    charge: 150 micros, remainder 0
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, time
from itertools import groupby
from operator import attrgetter, itemgetter
from zoneinfo import ZoneInfo

from ..errors import LedgerError
from ..model import Charge, Quantity, Tariff, Tier

NS = 1_000_000_000
# Stands for "from the beginning" and sorts before every instant.
BEGINNING = -(1 << 63)

# (end of the tier in octets or None, price in 1/denominator of a micro-unit per octet)
_Scale = tuple[tuple[int | None, int], ...]
# account, tariff, rounding period, start of the cell, octets
_Row = tuple[str, str, int, int, int]


def rate(
    quantities: Iterable[Quantity], tariffs: Mapping[str, Tariff], zone: str
) -> list[Charge]:
    """The charges for these quantities, by account, currency, tariff and day.

    zone    the IANA name of the zone whose days and wall times count

    The order of the quantities does not matter. Raises LedgerError.
    """
    clock = _Clock(zone)
    pricers = {name: _Pricer(tariff) for name, tariff in tariffs.items()}
    charges = []
    rows = _rows(quantities, pricers, clock)
    for (account, tariff), mine in groupby(rows, key=itemgetter(0, 1)):
        pricer = pricers[tariff]
        for day, (cost, octets, rated) in pricer.by_day(mine, clock).items():
            amount, remainder = pricer.round(cost)
            charges.append(
                Charge(
                    account, pricer.tariff.currency, amount, tariff, octets, rated,
                    clock.midnight(day), remainder,
                )
            )
    charges.sort(key=attrgetter("account", "currency"))  # stable: tariffs, days stay in order
    return charges


def _rows(
    quantities: Iterable[Quantity], pricers: Mapping[str, _Pricer], clock: _Clock
) -> list[_Row]:
    """The quantities that are not empty, sorted."""
    rows = []
    for quantity in quantities:
        octets, start = quantity.octets, quantity.start_ns
        if octets <= 0:
            if octets:
                raise _refused(quantity, f"expected 0 or more octets, got {octets}")
            continue
        pricer = pricers.get(quantity.tariff)
        if pricer is None:
            known = ", ".join(sorted(pricers)) or "none"
            raise _refused(quantity, f"no such tariff; there are: {known}")
        if start is None:
            if pricer.needs_time:
                raise _refused(quantity, "the tariff goes by the time of day, the octets have none")
            start = BEGINNING
        per = pricer.tariff.rounding_per
        if per == "record":
            period = quantity.record
        else:
            period = clock.day(start) if per == "day" else BEGINNING
        rows.append((quantity.account, quantity.tariff, period, start, octets))
    rows.sort()
    return rows


def _refused(quantity: Quantity, why: str) -> LedgerError:
    return LedgerError(
        f'rating: account "{quantity.account}", record {quantity.record}, '
        f'tariff "{quantity.tariff}": {why}'
    )


class _Clock:
    """Wall time in a zone. Distinct instants are few, so each is worked out once."""

    def __init__(self, zone: str) -> None:
        self._zone = ZoneInfo(zone)
        self._days: dict[int, int] = {BEGINNING: BEGINNING}
        self._midnights: dict[int, datetime | None] = {BEGINNING: None}
        self._seconds: dict[int, int] = {}

    def _wall(self, instant_ns: int) -> datetime:
        return datetime.fromtimestamp(instant_ns // NS, self._zone)

    def day(self, instant_ns: int) -> int:
        """The day's number in the calendar."""
        day = self._days.get(instant_ns)
        if day is None:
            date = self._wall(instant_ns).date()
            day = self._days[instant_ns] = date.toordinal()
            # Where clocks skip midnight this is the instant at which they did.
            self._midnights[day] = datetime.combine(date, time(), self._zone)
        return day

    def midnight(self, day: int) -> datetime | None:
        return self._midnights[day]

    def second(self, instant_ns: int) -> int:
        """Seconds of wall time since midnight."""
        second = self._seconds.get(instant_ns)
        if second is None:
            wall = self._wall(instant_ns)
            second = wall.hour * 3600 + wall.minute * 60 + wall.second
            self._seconds[instant_ns] = second
        return second


class _Pricer:
    """A tariff in integers: all its prices over one common denominator."""

    def __init__(self, tariff: Tariff) -> None:
        self.tariff = tariff
        tables = [tariff.tiers, *(band.tiers for band in tariff.bands)]
        self._denominator = math.lcm(*(t.price.denominator for tiers in tables for t in tiers))
        self._default = self._scale(tariff.tiers)
        self._bands = [
            (band.from_s, band.to_s, self._scale(band.tiers)) for band in tariff.bands
        ]
        self.needs_time = bool(tariff.bands) or tariff.rounding_per == "day"

    def _scale(self, tiers: Sequence[Tier]) -> _Scale:
        ends = [tier.up_to_octets for tier in tiers]
        inner = [end for end in ends[:-1] if end is not None]
        if not ends or ends[-1] is not None or len(inner) < len(ends) - 1 or any(
            low >= high for low, high in zip([0, *inner], inner, strict=False)
        ):
            raise LedgerError(
                f'rating: tariff "{self.tariff.name}": expected tiers that end one above the '
                f"other and a last one without an end, got {ends}"
            )
        # A multiple of the price's own denominator: the product is whole.
        return tuple((t.up_to_octets, int(t.price * self._denominator)) for t in tiers)

    def _scale_at(self, second: int) -> _Scale:
        for start, end, scale in self._bands:
            across_midnight = start >= end and (second >= start or second < end)
            if start <= second < end or across_midnight:
                return scale
        return self._default

    def by_day(self, rows: Iterable[_Row], clock: _Clock) -> dict[int, tuple[int, int, int]]:
        """Day → cost (over the denominator), octets and rated octets of one account's rows."""
        by_record = self.tariff.rounding_per == "record"
        days: dict[int, tuple[int, int, int]] = {}
        for period, cells in groupby(rows, key=itemgetter(2)):
            start, cost, octets, rated = self._period(cells, clock)
            day = clock.day(start) if by_record else period
            if day in days:
                before = days[day]
                days[day] = (before[0] + cost, before[1] + octets, before[2] + rated)
            else:
                days[day] = (cost, octets, rated)
        # Records need not be numbered in the order of time.
        return dict(sorted(days.items())) if by_record and len(days) > 1 else days

    def _period(self, cells: Iterable[_Row], clock: _Clock) -> tuple[int, int, int, int]:
        """One rounding period: first start, cost (over the denominator), octets, rated octets."""
        first = None
        cost = octets = 0
        scale = self._default
        for _, _, _, start, more in cells:
            if first is None:
                first = start
            if self._bands:
                scale = self._scale_at(clock.second(start))
            cost += _cost(scale, octets, octets + more)
            octets += more
        assert first is not None  # a group has a row
        increment = self.tariff.increment_octets
        rated = -(-octets // increment) * increment
        return first, cost + _cost(scale, octets, rated), octets, rated

    def round(self, cost: int) -> tuple[int, tuple[int, int]]:
        """Whole micro-units, rounded down, and the fraction left off."""
        amount, left = divmod(cost, self._denominator)
        shared = math.gcd(left, self._denominator)
        return amount, (left // shared, self._denominator // shared)


def _cost(scale: _Scale, start: int, stop: int) -> int:
    """The price of the octets from `start` up to `stop` of a period's running total."""
    cost = 0
    for end, price in scale:
        if end is None or stop <= end:
            return cost + (stop - start) * price
        if start < end:
            cost += (end - start) * price
            start = end
    raise AssertionError("the last tier has no end")
