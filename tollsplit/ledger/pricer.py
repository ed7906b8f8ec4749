"""What a tariff's octets cost at an instant, in integers over one denominator."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from datetime import datetime, time, timedelta
from fractions import Fraction
from functools import cache
from typing import Any, NamedTuple, TypeAlias
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from ..errors import LedgerError
from ..model import MINIMUM_PERIODS, Tariff, Tier

NS = 1_000_000_000
DAY_S = 86_400
# Stands for "from the beginning" and sorts before every instant.
BEGINNING = -(1 << 63)
LAST = (1 << 63) - 1

# (end of the tier in octets or None, price in 1/denominator of a micro-unit per octet)
_Scale = tuple[tuple[int | None, int], ...]
Numbers: TypeAlias = NDArray[np.int64]
# i8 where a bound on all sums shows that none overflows, or else Python's integers: the same
# expressions are exact either way.
Exact: TypeAlias = NDArray[Any]


class Rounded(NamedTuple):
    """Whole micro-units, and the fraction left off: numerator and denominator."""

    amount: Exact
    numerator: Exact
    denominator: Exact


class Clock:
    """Wall time in a zone. Distinct instants are few, so each is worked out once."""

    def __init__(self, zone: str) -> None:
        self._zone = ZoneInfo(zone)
        self.wall = cache(self._wall)
        self.midnight = cache(self._midnight)
        self.month = cache(self._month)

    def _wall(self, instant_ns: int) -> datetime:
        return datetime.fromtimestamp(instant_ns // NS, self._zone)

    def _midnight(self, instant_ns: int) -> int:
        """The instant at which the day of an instant begins."""
        return self.showing(instant_ns, 0)

    def _month(self, instant_ns: int) -> tuple[int, int]:
        """[start, end) of the month that an instant lies in."""
        first = self.wall(instant_ns).replace(day=1)
        # Noon is on every day, whatever clocks do.
        noon = first.replace(hour=12, minute=0, second=0, fold=0)
        start, end = (self.midnight(int(day.timestamp()) * NS)
                      for day in (noon, (noon + timedelta(days=31)).replace(day=1)))
        return start, end

    def day(self, instant_ns: int) -> tuple[int, int]:
        """[start, end) of the day that an instant lies in."""
        midnight = self.midnight(instant_ns)
        noon = self.wall(midnight).replace(hour=12, minute=0, second=0, fold=0)
        return midnight, self.midnight(int((noon + timedelta(days=1)).timestamp()) * NS)

    def second(self, instant_ns: int) -> int:
        """Seconds of wall time since midnight."""
        wall = self.wall(instant_ns)
        return wall.hour * 3600 + wall.minute * 60 + wall.second

    def showing(self, instant_ns: int, second: int) -> int:
        """When the wall first shows a second of that day; if it never does, when it skips it."""
        midnight = datetime.combine(self.wall(instant_ns).date(), time(), self._zone)

        def is_shown(second: int) -> bool:
            wall = midnight + timedelta(seconds=second)
            before, after = wall.utcoffset(), wall.replace(fold=1).utcoffset()
            assert before is not None and after is not None  # a zone has an offset
            return after <= before

        if not is_shown(second):
            second += bisect_left(range(second, DAY_S), True, key=is_shown)
        return int((midnight + timedelta(seconds=second)).timestamp()) * NS


class Pricer:
    """A tariff in integers: all its prices over one common denominator."""

    def __init__(self, tariff: Tariff, clock: Clock) -> None:
        self.tariff = tariff
        self._clock = clock
        if tariff.minimum_micros and tariff.minimum_per not in MINIMUM_PERIODS[
            tariff.rounding_per
        ]:
            raise LedgerError(
                f'rating: tariff "{tariff.name}": a minimum per {tariff.minimum_per} needs octets '
                f"that are rounded within it, not per {tariff.rounding_per}"
            )
        tables = [*(band.tiers for band in tariff.bands), tariff.tiers]
        # Rates as whole numbers of a share: 13 % and 6 % are 13 and 6 of 100.
        self._share = math.lcm(1, *(tax.rate.denominator for tax in tariff.taxes))
        self._rates = [int(tax.rate * self._share) for tax in tariff.taxes]
        self._with_taxes = self._share + sum(self._rates)
        # What prices and minimum are without taxes.
        self._net = Fraction(
            self._share, self._with_taxes if tariff.prices == "gross" else self._share)
        self.minimum = tariff.minimum_micros * self._net
        self.denominator = math.lcm(
            self.minimum.denominator,
            *((t.price * self._net).denominator for tiers in tables for t in tiers))
        # By the band's number; the last one is for what lies in none.
        self._scales = [self._scale(tiers) for tiers in tables]
        # No sum of octets that is below 2^63 by this factor overflows, nor do its price and taxes.
        self.dearest = self._with_taxes * max(
            self.denominator, *(price for s in self._scales for _, price in s))
        self.needs_time = (bool(tariff.bands) or tariff.rounding_per == "day"
                           or (bool(self.minimum) and tariff.minimum_per in ("day", "month")))
        switches = {second for band in tariff.bands for second in (band.from_s, band.to_s)}
        self._switches = sorted({0, *switches} - {DAY_S})
        self.band = cache(self._band_at)
        self._begins = cache(self._bands_of)

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
        return tuple((t.up_to_octets, int(t.price * self._net * self.denominator)) for t in tiers)

    def _band_at(self, start: int) -> int:
        """The number of the band that holds at an instant."""
        bands = self.tariff.bands
        second = self._clock.second(start) if bands else 0
        for number, band in enumerate(bands):
            across_midnight = band.from_s >= band.to_s
            since, until = second >= band.from_s, second < band.to_s
            if (since or until) if across_midnight else (since and until):
                return number
        return len(bands)

    def _bands_of(self, midnight: int) -> dict[int, int]:
        """The bands of a day, each with the instant at which it first holds."""
        begins: dict[int, int] = {}
        for second in self._switches:
            instant = self._clock.showing(midnight, second)
            # Where the clock skips a switch, another band may follow at once.
            begins.setdefault(self.band(instant), instant)
        return begins

    def _day(self, start: int) -> int:
        """The day and band of an instant: when that band first holds on that day."""
        return self._begins(self._clock.midnight(start))[self.band(start)]

    def charged_from(self, start: int) -> int:
        """When the charge begins that an instant belongs to."""
        if start == BEGINNING or self.tariff.rounding_per == "session":
            return BEGINNING
        by_day = self.tariff.rounding_per == "day"
        return self._day(start) if by_day else self._clock.midnight(start)

    def wall(self, begin: int) -> datetime | None:
        return None if begin == BEGINNING else self._clock.wall(begin)

    def rounded_up(self, octets: Exact) -> Exact:
        return -(-octets // self.tariff.increment_octets) * self.tariff.increment_octets

    def cost(self, totals: Exact, band: Numbers) -> Exact:
        """The price, over the denominator, of the first octets of periods in these bands."""
        cost = np.zeros_like(totals)
        for number, scale in enumerate(self._scales):
            mine = np.flatnonzero(band == number)
            below: Exact | int = 0
            for end, price in scale:
                up_to = totals[mine]
                if end is not None:
                    up_to = np.minimum(up_to, end if totals.dtype == object else min(end, LAST))
                cost[mine] += (up_to - below) * price
                below = up_to
        return cost

    def round(self, cost: Exact, denominator: Exact | int) -> tuple[Rounded, list[Rounded]]:
        """Costs without taxes, and each of the taxes on them, in whole micro-units.

        Each is rounded down once. Where prices include the taxes it is the sum that is rounded
        down, and the cost is what the taxes leave of it; its fraction may then be below 0.
        """
        taxes = [_down(cost * rate, denominator * self._share) for rate in self._rates]
        if self.tariff.prices == "net":
            return _down(cost, denominator), taxes
        amount = cost * self._with_taxes // (denominator * self._share)
        for tax in taxes:
            amount = amount - tax.amount
        return _left(cost, denominator, amount), taxes


def _down(cost: Exact, denominator: Exact | int) -> Rounded:
    return _left(cost, denominator, cost // denominator)


def _left(cost: Exact, denominator: Exact | int, amount: Exact) -> Rounded:
    left = cost - amount * denominator
    shared = np.gcd(left, denominator)
    return Rounded(amount, left // shared, denominator // shared)
