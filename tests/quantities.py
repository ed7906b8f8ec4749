"""Quantities to be rated, written one by one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from tollsplit import ledger
from tollsplit.ledger.rating import Earlier
from tollsplit.model import Charge, Quantities, Tariff


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
