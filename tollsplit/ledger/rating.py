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
- Who uses octets under a tariff with a minimum pays no less than it in each record, session, day
  or month of its. What is missing is a charge of its own, over 0 octets, that begins with that
  period. As more octets of a day or month are paid for, it is given back: with M the minimum, P
  the price of all octets so far and B what was added so far, max(0, M − P) − B more is owed.
- A tax is its rate of the exact price, none is charged on another one. It is rounded down once,
  and carries its own fraction. Where prices include the taxes, their sum is what is rounded down,
  and the amount without taxes is what they leave of it.

docs/rating.md works an example by hand, step by step.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from fractions import Fraction
from itertools import repeat
from operator import attrgetter
from typing import NamedTuple

import numpy as np

from ..errors import LedgerError
from ..model import Charge, Quantities, Tariff, TaxPart
from .pricer import BEGINNING, LAST, Clock, Exact, Numbers, Pricer, Rounded

# (account, tariff, start of a charge in ns)
Day = tuple[str, str, int]
# (account, currency, tariff, start and end in ns) of a period that a minimum is paid for
Period = tuple[str, str, str, int, int]


class Paid(NamedTuple):
    """What earlier runs charged in a period, without taxes, in micro-units, exact."""

    octets: Fraction  # the price of octets
    minimum: Fraction  # what was added to it to make up a minimum


class Earlier(NamedTuple):
    """What earlier runs rated, each asked once (see Ledger.earlier)."""

    rated: Callable[[Set[Day]], Mapping[Day, int]]  # octets, where there are some
    paid: Callable[[Set[Period]], Mapping[Period, Paid]]  # where there is some


_NOTHING = Paid(Fraction(0), Fraction(0))


def rate(
    quantities: Quantities,
    tariffs: Mapping[str, Tariff],
    zone: str,
    earlier: Earlier | None = None,
) -> list[Charge]:
    """The charges for these quantities, by account, currency, tariff and day.

    zone      the IANA name of the zone whose days and wall times count
    earlier   what days and minimums go on from; None: there were no earlier runs

    The order of the quantities does not matter. Raises LedgerError.
    """
    clock = Clock(zone)
    pricers = {name: Pricer(tariff, clock) for name, tariff in tariffs.items()}
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
                pricer, clock, accounts, instants.tolist(), rank[quantities.account[mine]],
                instant[quantities.cell[mine]], quantities.record[mine], quantities.octets[mine],
            ))  # fmt: skip
    days = {day for bill in bills for day in bill.days()} if earlier is not None else set()
    before = earlier.rated(days) if earlier is not None and days else {}
    charges = [charge for bill in bills for charge in bill.charges(before, earlier)]
    if len(bills) > 1:
        charges.sort(key=attrgetter("account", "currency"))  # stable: tariffs, days stay in order
    return charges


def _expect_payable(quantities: Quantities, pricers: Mapping[str, Pricer]) -> None:
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
        self, pricer: Pricer, clock: Clock, accounts: Sequence[str], instants: Sequence[int],
        account: Numbers, instant: Numbers, record: Numbers, octets: Numbers,
    ) -> None:  # fmt: skip
        """accounts   names in their order; each row's `account` is a position in it
        instants   ascending; likewise
        """
        self._pricer = pricer
        self._clock = clock
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
        self._whole = whole[in_band[first]]  # the record, day or session
        self._begin = begin[least[self._whole]]
        self._band = band[at]
        self._octets = np.add.reduceat(_exact(octets, _total(octets))[order], first)

    def days(self) -> list[Day]:
        """Of each period, where they go on from earlier runs."""
        tariff = self._pricer.tariff
        if tariff.rounding_per != "day":
            return []
        return [(self._accounts[who], tariff.name, self._begins[start]) for who, start
                in zip(self._account.tolist(), self._begin.tolist(), strict=True)]  # fmt: skip

    def charges(self, before: Mapping[Day, int], earlier: Earlier | None) -> list[Charge]:
        """In order of account and start; what a minimum adds comes after what it is added to."""
        pricer, tariff = self._pricer, self._pricer.tariff
        rated: Exact = np.zeros(len(self._octets), object if before else np.int64)
        if before:
            rated[:] = [before.get(day, 0) for day in self.days()] or 0
        most = _total(self._octets) + _total(rated) + len(rated) * tariff.increment_octets
        octets = _exact(self._octets, most * pricer.dearest)
        low = rated.astype(octets.dtype)
        low, high = pricer.rounded_up(low), pricer.rounded_up(low + octets)
        cost = pricer.cost(high, self._band) - pricer.cost(low, self._band)
        order, first = _grouped(self._account, self._begin)
        summed, octets, rated = (
            np.add.reduceat(each[order], first) for each in (cost, octets, high - low))
        at = order[first]
        charges = list(self._charged(
            self._account[at].tolist(), [self._begins[n] for n in self._begin[at].tolist()],
            *pricer.round(summed, pricer.denominator), octets.tolist(), rated.tolist()))
        missing = self._missing(cost, earlier) if pricer.minimum else {}
        if missing:
            charges += self._charged(
                [who for who, _ in missing], [begin for _, begin in missing],
                *pricer.round(_column(f.numerator for f in missing.values()),
                              _column(f.denominator for f in missing.values())),
                repeat(0), repeat(0))
            charges.sort(key=lambda c: (c.account, c.period_start.timestamp() if c.period_start
                                        else -math.inf))  # fmt: skip
        return charges

    def _charged(
        self, accounts: Iterable[int], begins: Sequence[int], cost: Rounded,
        taxes: list[Rounded], octets: Iterable[int], rated: Iterable[int],
    ) -> Iterator[Charge]:  # fmt: skip
        """accounts, begins   positions of the former, instants of the latter"""
        pricer, tariff = self._pricer, self._pricer.tariff
        walls = {begin: pricer.wall(begin) for begin in set(begins)}
        parts = zip(*(
            map(TaxPart._make, zip(repeat(tax.name), repeat(tax.account), part.amount.tolist(),
                                   _fractions(part), strict=False))
            for tax, part in zip(tariff.taxes, taxes, strict=True)), strict=True)
        return map(Charge._make, zip(
            map(self._accounts.__getitem__, accounts), repeat(tariff.currency),
            cost.amount.tolist(), repeat(tariff.name), octets, rated,
            map(walls.__getitem__, begins), _fractions(cost),
            parts if tariff.taxes else repeat(()), strict=False))  # fmt: skip

    def _missing(
        self, cost: Exact, earlier: Earlier | None
    ) -> dict[tuple[int, int], Fraction]:
        """What accounts owe beyond the price of their octets, by position and start: 0 is left
        out, below 0 they get back what they paid before they used up their minimum.

        cost   of each period, over the pricer's denominator
        """
        tariff, minimum = self._pricer.tariff, self._pricer.minimum
        span = self._spanning(tariff.minimum_per)
        spans = [span(begin) for begin in self._begins]
        by_record = tariff.minimum_per == "record"
        sums: dict[tuple[int, tuple[int, int], int], int] = defaultdict(int)
        for who, begin, whole, price in zip(
            self._account.tolist(), self._begin.tolist(), self._whole.tolist(), cost.tolist(),
            strict=True,
        ):
            sums[who, spans[begin], whole if by_record else 0] += price
        periods = {
            (who, its): (self._accounts[who], tariff.currency, tariff.name, *its)
            for who, its, _ in sums if tariff.minimum_per in ("day", "month")
        }  # fmt: skip
        known = earlier.paid(set(periods.values())) if earlier is not None and periods else {}
        missing: dict[tuple[int, int], Fraction] = defaultdict(Fraction)
        for (who, its, _), price in sums.items():
            paid = known.get(periods[who, its], _NOTHING) if known else _NOTHING
            used = paid.octets + Fraction(price, self._pricer.denominator)
            missing[who, its[0]] += max(minimum - used, Fraction(0)) - paid.minimum
        return {key: owed for key, owed in missing.items() if owed}

    def _spanning(self, per: str) -> Callable[[int], tuple[int, int]]:
        """What gives the period of a minimum that a charge belongs to, by the charge's start."""
        if per in ("day", "month"):
            return self._clock.day if per == "day" else self._clock.month
        return lambda begin: (begin, begin) if per == "record" else (BEGINNING, BEGINNING)


def _column(numbers: Iterable[int]) -> Exact:
    """Python's integers as an array."""
    listed = list(numbers)
    column = np.empty(len(listed), object)
    column[:] = listed
    return column


def _fractions(rounded: Rounded) -> Iterator[tuple[int, int]]:
    return zip(rounded.numerator.tolist(), rounded.denominator.tolist(), strict=True)


def _total(octets: Exact) -> int:
    """The sum of i8[n] or of Python's integers, whatever its size."""
    return int((octets >> 32).sum()) * 2**32 + int((octets & 0xFFFFFFFF).sum())


def _exact(octets: Exact, most: int) -> Exact:
    """The octets as numbers that hold everything up to `most`."""
    return octets if most <= LAST else octets.astype(object)


def _grouped(major: Numbers, minor: Numbers) -> tuple[Numbers, Numbers]:
    """The rows in order of two numbers, and where other ones begin."""
    order = np.lexsort((minor, major))
    major, minor = major[order], minor[order]
    new = np.append(True, (major[1:] != major[:-1]) | (minor[1:] != minor[:-1]))
    return order, np.flatnonzero(new)
