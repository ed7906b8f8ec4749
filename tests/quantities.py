"""Quantities to be rated, written one by one, and what earlier runs rated of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence, Set
from datetime import datetime
from fractions import Fraction
from typing import NamedTuple
from zoneinfo import ZoneInfo

import numpy as np

from tollsplit import ledger
from tollsplit.ledger.rating import Earlier, Paid, Period
from tollsplit.model import Charge, Quantities, Tariff, Tier

SHANGHAI = "Asia/Shanghai"  # UTC+8, no summer time


class Quantity(NamedTuple):
    """One row of Quantities."""

    account: str
    tariff: str
    record: int
    start_ns: int | None
    octets: int


def quantities(rows: Sequence[Quantity]) -> Quantities:
    accounts, tariffs, starts = (
        list(dict.fromkeys(column)) for column in
        ([row.account for row in rows], [row.tariff for row in rows],
         [row.start_ns for row in rows])
    )  # fmt: skip
    return Quantities(
        accounts, tariffs, starts,
        np.array([accounts.index(row.account) for row in rows], np.uint32),
        np.array([tariffs.index(row.tariff) for row in rows], np.uint32),
        np.array([starts.index(row.start_ns) for row in rows], np.uint32),
        np.array([row.record for row in rows], np.int64),
        np.array([row.octets for row in rows], np.int64),
    )  # fmt: skip


def rate(
    rows: Sequence[Quantity],
    tariffs: Mapping[str, Tariff],
    zone: str,
    earlier: Earlier | None = None,
) -> list[Charge]:
    return ledger.rate(quantities(rows), tariffs, zone, earlier)


def ns(text: str, zone: str = SHANGHAI, fold: int = 0) -> int:
    wall = datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone), fold=fold)
    return int(wall.timestamp()) * 10**9


def flat(price: Fraction, **more: object) -> Tariff:
    return Tariff("standard", "CNY", (Tier(None, price),), **more)  # type: ignore[arg-type]


def used(octets: int, start: str | None = None, record: int = 0, **more: str) -> Quantity:
    return Quantity(
        more.get("account", "10.0.0.7"), more.get("tariff", "standard"), record,
        None if start is None else ns(start), octets,
    )  # fmt: skip


def rated(
    tariff: Tariff, quantities: list[Quantity], zone: str = SHANGHAI
) -> list[tuple[int, tuple[int, int], int]]:
    """Amount, remainder and rated octets of each charge."""
    charges = rate(quantities, {tariff.name: tariff}, zone)
    return [(c.amount_micros, c.remainder, c.rated_octets) for c in charges]


class Book:
    """What earlier runs rated, as a ledger would answer it."""

    def __init__(self, tariffs: dict[str, Tariff], zone: str = SHANGHAI) -> None:
        self._tariffs, self._zone = tariffs, zone
        self._rated: dict[tuple[str, str, int], int] = defaultdict(int)
        self._charges: list[Charge] = []
        self.exact: dict[str, Fraction] = defaultdict(Fraction)
        self.rated_octets: dict[str, int] = defaultdict(int)

    def run(self, quantities: list[Quantity]) -> list[Charge]:
        charges = rate(quantities, self._tariffs, self._zone, Earlier(self._prior, self._paid))
        self._charges += charges
        for c in charges:
            if c.period_start is not None:
                start = int(c.period_start.timestamp()) * 10**9
                self._rated[c.account, c.tariff, start] += c.octets
            self.exact[c.account] += c.amount_micros + Fraction(*c.remainder)
            self.rated_octets[c.account] += c.rated_octets
        return charges

    def _prior(self, asked: Set[tuple[str, str, int]]) -> dict[tuple[str, str, int], int]:
        return {key: self._rated[key] for key in asked if key in self._rated}

    def _paid(self, asked: Set[Period]) -> dict[Period, Paid]:
        found: dict[Period, Paid] = {}
        for period in asked:
            account, currency, tariff, start, end = period
            mine = [c for c in self._charges
                    if (c.account, c.currency, c.tariff) == (account, currency, tariff)
                    and c.period_start and start <= c.period_start.timestamp() * 10**9 < end]
            if mine:
                both = [sum((c.amount_micros + Fraction(*c.remainder) for c in mine
                             if bool(c.octets) == of_octets), Fraction(0))
                        for of_octets in (True, False)]
                found[period] = Paid(*both)
        return found
