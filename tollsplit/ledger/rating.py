"""Rating: what octets cost, exactly.

The rules:

- A tariff rounds octets up to its increment once per usage record, per day of the zone, or per
  session (the whole input). Its tiers run over the same period as its rounding: with
  `rounding_per = "day"` the first tier begins anew each day.
- Time bands are counted apart: tiers and increment run over what a period has in each band, and
  what lies in no band is one more. So a price is a function of octets, not of their order.
- A day goes on from run to run. Where earlier runs rated P octets of an account, tariff, day and
  band, Q more cost price(P + Q) − price(P); they may be rated as 0 octets, inside an increment
  that is paid for. However a day is cut into runs, and in whatever order they are booked, the
  exact prices add up to the same. After a change of prices or tiers, the octets rated before it
  still count. After a change of the bands, those of a band that begins elsewhere don't. Records
  and sessions are of one run: cut into two, they are rounded twice.
- A charge is what one account owes under one tariff for one day; of a day's bands each has its
  own, which begins where the band first holds on that day. There is one for the whole input where
  a tariff rounds per session, or where cells have no start. Records go to the day in which they
  begin.
- Prices are rationals. A charge is rounded once, down to a whole micro-unit, and carries the
  fraction that was left off: amount_micros + remainder is the exact price.

A worked example. 0.30 CNY per MB (10⁶ octets) up to 2 MB a day, then 0.10; from 22:00 to 06:00
half of either; increment 1 kB (1000 octets), rounded per day; zone Asia/Shanghai. In micro-units
per octet: 3/10, then 1/10; by night 3/20, then 1/20.

    2026-11-03  09:00  1,500,000 octets   at 3/10  450,000
                18:00    500,000 octets   at 3/10  150,000    2 MB: the first tier ends
                         100,001 octets   at 1/10   10,000 1/10
                             999 octets   at 1/10       99 9/10    up to 2,101,000
    charge from 06:00: 610,100 micros = 0.610100 CNY, remainder 0
                23:00          1 octet    at 3/20        3/20      the night has tiers of its own
                             999 octets   at 3/20      149 17/20
    charge from 00:00, when it was night too: 150 micros, remainder 0

Another run has 499 octets of 01:00 on that day: the increment is paid for, the charge is 0. One
octet of 2026-11-04 begins the night's first tier anew: 150 micros.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence, Set
from datetime import datetime, time, timedelta
from functools import cache
from itertools import repeat
from operator import attrgetter
from typing import Any, TypeAlias
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from ..errors import LedgerError
from ..model import Charge, Quantities, Tariff, Tier

NS = 1_000_000_000
DAY_S = 86_400
# Stands for "from the beginning" and sorts before every instant.
BEGINNING = -(1 << 63)
LAST = (1 << 63) - 1

# (end of the tier in octets or None, price in 1/denominator of a micro-unit per octet)
_Scale = tuple[tuple[int | None, int], ...]
# (account, tariff, start of a charge in ns) → octets
Rated = Mapping[tuple[str, str, int], int]
_Numbers: TypeAlias = NDArray[np.int64]
# i8 where a bound on all sums shows that none overflows, or else Python's integers: the same
# expressions are exact either way.
_Exact: TypeAlias = NDArray[Any]


def rate(
    quantities: Quantities,
    tariffs: Mapping[str, Tariff],
    zone: str,
    prior: Callable[[Set[tuple[str, str, int]]], Rated] | None = None,
) -> list[Charge]:
    """The charges for these quantities, by account, currency, tariff and day.

    zone    the IANA name of the zone whose days and wall times count
    prior   asked once for the octets that earlier runs rated of each day (see Ledger.rated)

    The order of the quantities does not matter. Raises LedgerError.
    """
    clock = _Clock(zone)
    pricers = {name: _Pricer(tariff, clock) for name, tariff in tariffs.items()}
    _expect_payable(quantities, pricers)
    order = sorted(range(len(quantities.accounts)), key=quantities.accounts.__getitem__)
    accounts = [quantities.accounts[number] for number in order]
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    starts = [BEGINNING if start is None else start for start in quantities.starts_ns]
    instants, instant = np.unique(np.array(starts, np.int64), return_inverse=True)
    bills = []
    for pricer in sorted(pricers.values(), key=attrgetter("tariff.currency", "tariff.name")):
        if pricer.tariff.name not in quantities.tariffs:
            continue
        number = quantities.tariffs.index(pricer.tariff.name)
        mine = np.flatnonzero((quantities.tariff == number) & (quantities.octets > 0))
        if len(mine):
            bills.append(_Bill(
                pricer, accounts, instants.tolist(), rank[quantities.account[mine]],
                instant[quantities.cell[mine]], quantities.record[mine], quantities.octets[mine],
            ))  # fmt: skip
    asked = {day for bill in bills for day in bill.days()} if prior is not None else set()
    before = prior(asked) if prior is not None and asked else {}
    charges = [charge for bill in bills for charge in bill.charges(before)]
    if len(bills) > 1:
        charges.sort(key=attrgetter("account", "currency"))  # stable: tariffs, days stay in order
    return charges


def _expect_payable(quantities: Quantities, pricers: Mapping[str, _Pricer]) -> None:
    """Raise LedgerError at the first row that no tariff can price."""
    octets = quantities.octets
    unknown = np.array([name not in pricers for name in quantities.tariffs], bool)
    timed = np.array([name in pricers and pricers[name].needs_time for name in quantities.tariffs],
                     bool)  # fmt: skip
    timeless = np.array([start is None for start in quantities.starts_ns], bool)
    bad = octets < 0
    bad |= (octets > 0) & (
        unknown[quantities.tariff] | timed[quantities.tariff] & timeless[quantities.cell])
    if not bad.any():
        return
    row = int(np.argmax(bad))
    tariff = quantities.tariffs[quantities.tariff[row]]
    if octets[row] < 0:
        why = f"expected 0 or more octets, got {octets[row]}"
    elif tariff not in pricers:
        why = f"no such tariff; there are: {', '.join(sorted(pricers)) or 'none'}"
    else:
        why = "the tariff goes by the time of day, the octets have none"
    raise LedgerError(
        f'rating: account "{quantities.accounts[quantities.account[row]]}", '
        f'record {quantities.record[row]}, tariff "{tariff}": {why}'
    )


class _Bill:
    """What all accounts owe under one tariff.

    A rounding period is what an account has of one record, day or session, in one time band.
    """

    def __init__(
        self, pricer: _Pricer, accounts: Sequence[str], instants: Sequence[int],
        account: _Numbers, instant: _Numbers, record: _Numbers, octets: _Numbers,
    ) -> None:  # fmt: skip
        """accounts   names in their order; each row's `account` is a position in it
        instants   ascending; likewise
        """
        self._pricer = pricer
        self._accounts = accounts
        begins, begin = np.unique(
            np.array([pricer.charged_from(at) for at in instants], np.int64), return_inverse=True)
        self._begins: list[int] = begins.tolist()
        band = np.array([pricer.band(at) for at in instants], np.int64)[instant]
        by_record = pricer.tariff.rounding_per == "record"
        order, first = _grouped(account, record if by_record else begin[instant])
        # A record's charge is that of its first cell, in whichever band it lies.
        least = np.minimum.reduceat(instant[order], first)
        whole = np.repeat(np.arange(len(first)), np.diff(np.append(first, len(order))))
        in_band, first = _grouped(whole, band[order])
        order = order[in_band]
        at = order[first]
        self._account = account[at]
        self._begin = begin[least[whole[in_band[first]]]]
        self._band = band[at]
        self._octets = np.add.reduceat(_exact(octets, _total(octets))[order], first)

    def days(self) -> list[tuple[str, str, int]]:
        """(account, tariff, start) of each period, where they go on from earlier runs."""
        tariff = self._pricer.tariff
        if tariff.rounding_per != "day":
            return []
        return [(self._accounts[who], tariff.name, self._begins[start]) for who, start
                in zip(self._account.tolist(), self._begin.tolist(), strict=True)]  # fmt: skip

    def charges(self, before: Rated) -> list[Charge]:
        """In order of account and start."""
        pricer, tariff = self._pricer, self._pricer.tariff
        earlier: _Exact = np.zeros(len(self._octets), object if before else np.int64)
        if before:
            earlier[:] = [before.get(day, 0) for day in self.days()] or 0
        most = _total(self._octets) + _total(earlier) + len(earlier) * tariff.increment_octets
        octets = _exact(self._octets, most * pricer.dearest)
        low = earlier.astype(octets.dtype)
        low, high = pricer.rounded_up(low), pricer.rounded_up(low + octets)
        cost = pricer.cost(high, self._band) - pricer.cost(low, self._band)
        order, first = _grouped(self._account, self._begin)
        cost, octets, rated = (
            np.add.reduceat(each[order], first) for each in (cost, octets, high - low))
        at = order[first]
        walls = [pricer.wall(begin) for begin in self._begins]
        amount, *remainder = (column.tolist() for column in pricer.round(cost))
        return list(map(Charge._make, zip(
            map(self._accounts.__getitem__, self._account[at].tolist()), repeat(tariff.currency),
            amount, repeat(tariff.name), octets.tolist(), rated.tolist(),
            map(walls.__getitem__, self._begin[at].tolist()), zip(*remainder, strict=True),
            strict=False)))  # fmt: skip


def _total(octets: _Exact) -> int:
    """The sum of i8[n] or of Python's integers, whatever its size."""
    return int((octets >> 32).sum()) * 2**32 + int((octets & 0xFFFFFFFF).sum())


def _exact(octets: _Exact, most: int) -> _Exact:
    """The octets as numbers that hold everything up to `most`."""
    return octets if most <= LAST else octets.astype(object)


def _grouped(major: _Numbers, minor: _Numbers) -> tuple[_Numbers, _Numbers]:
    """The rows in order of two numbers, and where other ones begin."""
    order = np.lexsort((minor, major))
    major, minor = major[order], minor[order]
    new = np.append(True, (major[1:] != major[:-1]) | (minor[1:] != minor[:-1]))
    return order, np.flatnonzero(new)


class _Clock:
    """Wall time in a zone. Distinct instants are few, so each is worked out once."""

    def __init__(self, zone: str) -> None:
        self._zone = ZoneInfo(zone)
        self.wall = cache(self._wall)
        self.midnight = cache(self._midnight)

    def _wall(self, instant_ns: int) -> datetime:
        return datetime.fromtimestamp(instant_ns // NS, self._zone)

    def _midnight(self, instant_ns: int) -> int:
        """The instant at which the day of an instant begins."""
        return self.showing(instant_ns, 0)

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


class _Pricer:
    """A tariff in integers: all its prices over one common denominator."""

    def __init__(self, tariff: Tariff, clock: _Clock) -> None:
        self.tariff = tariff
        self._clock = clock
        tables = [*(band.tiers for band in tariff.bands), tariff.tiers]
        self._denominator = math.lcm(*(t.price.denominator for tiers in tables for t in tiers))
        # By the band's number; the last one is for what lies in none.
        self._scales = [self._scale(tiers) for tiers in tables]
        # No sum of octets that is below 2^63 by this factor overflows, nor does its price.
        self.dearest = max(self._denominator, *(price for s in self._scales for _, price in s))
        self.needs_time = bool(tariff.bands) or tariff.rounding_per == "day"
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
        return tuple((t.up_to_octets, int(t.price * self._denominator)) for t in tiers)

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

    def rounded_up(self, octets: _Exact) -> _Exact:
        return -(-octets // self.tariff.increment_octets) * self.tariff.increment_octets

    def cost(self, totals: _Exact, band: _Numbers) -> _Exact:
        """The price, over the denominator, of the first octets of periods in these bands."""
        cost = np.zeros_like(totals)
        for number, scale in enumerate(self._scales):
            mine = np.flatnonzero(band == number)
            below: _Exact | int = 0
            for end, price in scale:
                up_to = totals[mine]
                if end is not None:
                    up_to = np.minimum(up_to, end if totals.dtype == object else min(end, LAST))
                cost[mine] += (up_to - below) * price
                below = up_to
        return cost

    def round(self, cost: _Exact) -> tuple[_Exact, _Exact, _Exact]:
        """Whole micro-units, rounded down, and the fraction left off."""
        amount = cost // self._denominator
        left = cost - amount * self._denominator
        shared = np.gcd(left, self._denominator)
        return amount, left // shared, self._denominator // shared
