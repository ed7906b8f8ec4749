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
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from datetime import datetime, time, timedelta
from functools import cache
from itertools import groupby
from operator import attrgetter, itemgetter
from zoneinfo import ZoneInfo

from ..errors import LedgerError
from ..model import Charge, Quantity, Tariff, Tier

NS = 1_000_000_000
DAY_S = 86_400
# Stands for "from the beginning" and sorts before every instant.
BEGINNING = -(1 << 63)

# (end of the tier in octets or None, price in 1/denominator of a micro-unit per octet)
_Scale = tuple[tuple[int | None, int], ...]
# account, tariff, rounding period, start of the cell, octets
_Row = tuple[str, str, int, int, int]
# (account, tariff, start of a charge in ns) → octets
Rated = Mapping[tuple[str, str, int], int]


def rate(
    quantities: Iterable[Quantity],
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
    rows = _rows(quantities, pricers)
    asked = {row[:3] for row in rows if pricers[row[1]].tariff.rounding_per == "day"}
    before = prior(asked) if prior is not None and asked else {}
    charges = []
    for (account, tariff), mine in groupby(rows, key=itemgetter(0, 1)):
        pricer = pricers[tariff]
        for start, (cost, octets, rated) in pricer.charged(mine, before).items():
            amount, remainder = pricer.round(cost)
            charges.append(
                Charge(
                    account, pricer.tariff.currency, amount, tariff, octets, rated,
                    None if start == BEGINNING else clock.wall(start), remainder,
                )
            )
    charges.sort(key=attrgetter("account", "currency"))  # stable: tariffs, days stay in order
    return charges


def _rows(quantities: Iterable[Quantity], pricers: Mapping[str, _Pricer]) -> list[_Row]:
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
            period = pricer.day(start) if per == "day" else BEGINNING
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
        self.wall = cache(self._wall)
        self.midnight = cache(self._midnight)

    def _wall(self, instant_ns: int) -> datetime:
        return datetime.fromtimestamp(instant_ns // NS, self._zone)

    def _midnight(self, instant_ns: int) -> int:
        """The instant at which the day of an instant begins."""
        return BEGINNING if instant_ns == BEGINNING else self.showing(instant_ns, 0)

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
        self.needs_time = bool(tariff.bands) or tariff.rounding_per == "day"
        switches = {second for band in tariff.bands for second in (band.from_s, band.to_s)}
        self._switches = sorted({0, *switches} - {DAY_S})
        self._band = cache(self._band_at)
        self._begins = cache(self._bands_of)
        self.day = cache(self._day)

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
            begins.setdefault(self._band(instant), instant)
        return begins

    def _day(self, start: int) -> int:
        """The day and band of an instant: when that band first holds on that day."""
        return self._begins(self._clock.midnight(start))[self._band(start)]

    def charged(self, rows: Iterable[_Row], before: Rated) -> dict[int, tuple[int, int, int]]:
        """Start of each charge → cost (over the denominator), octets and rated octets, of one
        account's rows.
        """
        by_record = self.tariff.rounding_per == "record"
        charges: dict[int, tuple[int, int, int]] = {}
        for key, cells in groupby(rows, key=itemgetter(0, 1, 2)):
            first, cost, octets, rated = self._period(cells, before.get(key, 0))
            start = self._clock.midnight(first) if by_record else key[2]
            known = charges.get(start, (0, 0, 0))
            charges[start] = (known[0] + cost, known[1] + octets, known[2] + rated)
        # Records need not be numbered in the order of time.
        return dict(sorted(charges.items())) if by_record and len(charges) > 1 else charges

    def _period(self, cells: Iterable[_Row], before: int) -> tuple[int, int, int, int]:
        """One rounding period: first start, cost (over the denominator), octets, rated octets.

        before   octets that earlier runs rated; a day's period then has one band only
        """
        first = None
        totals: dict[int, int] = defaultdict(int)
        for _, _, _, start, octets in cells:
            first = start if first is None else first
            totals[self._band(start)] += octets
        assert first is not None  # a group has a row
        cost = rated = 0
        for band, octets in totals.items():
            low, high = self._rounded_up(before), self._rounded_up(before + octets)
            cost += _cost(self._scales[band], low, high)
            rated += high - low
        return first, cost, sum(totals.values()), rated

    def _rounded_up(self, octets: int) -> int:
        return -(-octets // self.tariff.increment_octets) * self.tariff.increment_octets

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
