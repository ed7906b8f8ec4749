"""Usage records and charges as Arrow tables of one schema, whatever run or ledger they come from.

Octets and packets are unsigned 64-bit numbers, money is decimal in the currency's own units,
instants have nanoseconds and are in UTC: nothing is ever a float.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import numpy as np

from ..ledger.calendar import QUARTER_NS, Calendar
from ..ledger.store import instant_ns
from ..model import Charge, UsageRecord
from ..report import pyarrow_modules

if TYPE_CHECKING:
    from ..report import Report

SCHEMA = "tollsplit.dataset/1"
_MICROS_DIGITS = 6


def _schema(name: str, **columns: Any) -> Any:
    pyarrow, _ = pyarrow_modules()
    return pyarrow.schema(
        list(columns.items()), {"tollsplit.schema": SCHEMA, "tollsplit.table": name})


def usage_schema() -> Any:
    """A row for each usage record; its key is (source, epoch, sequence)."""
    pa, _ = pyarrow_modules()
    text, number, instant = pa.string(), pa.uint64(), pa.timestamp("ns", tz="UTC")
    return _schema(
        "usage", source=text, epoch=text, sequence=number, window_start=instant,
        window_end=instant, subscriber=text, account=text, rule=text, rules_version=text,
        layer=text, rating_group=pa.int64(), sponsor_identity=text, asp_identity=text,
        uplink_packets=number, uplink_octets=number, downlink_packets=number,
        downlink_octets=number, subscriber_octets=number,
        shares=pa.list_(pa.struct([("sponsor", text), ("octets", number)])),
        first_packet=instant, last_packet=instant, flags=pa.list_(text),
    )  # fmt: skip


def charge_schema() -> Any:
    """A row for each charge; its key is (source, epoch, first_sequence, ordinal)."""
    pa, _ = pyarrow_modules()
    text, number, money = pa.string(), pa.uint64(), pa.decimal128(38, _MICROS_DIGITS)
    return _schema(
        "charges", source=text, epoch=text, first_sequence=number, ordinal=number, account=text,
        currency=text, amount=money, tariff=text, octets=number, rated_octets=number,
        period_start=pa.timestamp("ns", tz="UTC"), remainder=text,
        taxes=pa.list_(pa.struct([("tax", text), ("account", text), ("amount", money)])),
    )  # fmt: skip


def run_schema() -> Any:
    """A row for each run that is in the dataset as a whole; its key is (source, epoch,
    first_sequence).
    """
    pa, _ = pyarrow_modules()
    text, number = pa.string(), pa.uint64()
    return _schema(
        "runs", source=text, epoch=text, first_sequence=number, records=number, charges=number,
        rules_version=text, layer=text, at=text, program=text,
        captures=pa.list_(pa.struct([("name", text), ("digest", text)])),
        transaction=pa.int64(), booked_at=pa.timestamp("us", tz="UTC"), seen_packets=number,
        seen_octets=number,
        buckets=pa.list_(pa.struct([("bucket", text), ("sign", pa.int64()), ("packets", number),
                                    ("octets", number)])),
    )  # fmt: skip


# --- rows ------------------------------------------------------------------------------


def record_table(records: Iterable[UsageRecord]) -> Any:
    """Usage records, one by one, as a table."""
    pa, _ = pyarrow_modules()
    schema = usage_schema()
    plain = [name for name in schema.names
             if name not in ("shares", "first_packet", "last_packet", "flags")]  # fmt: skip
    return pa.Table.from_pylist([
        {
            **{name: getattr(record, name) for name in plain},
            "shares": [{"sponsor": sponsor, "octets": octets}
                       for sponsor, octets in sorted(record.sponsor_octets.items()) if octets],
            "first_packet": record.first_packet_ns, "last_packet": record.last_packet_ns,
            "flags": list(record.flags),
        }
        for record in records
    ], schema)  # fmt: skip


def charge_table(
    charges: Sequence[Charge], ordinal: int, source: str, epoch: str, first_sequence: int
) -> Any:
    """Charges of one run as a table.

    charges  one at least
    ordinal  of the first among the run's charges
    """
    pa, _ = pyarrow_modules()
    account, currency, micros, tariff, octets, rated, start, remainder, taxes = zip(
        *charges, strict=True)  # fmt: skip
    count = len(charges)
    columns = {
        "source": [source] * count, "epoch": [epoch] * count,
        "first_sequence": [first_sequence] * count, "ordinal": range(ordinal, ordinal + count),
        "account": account, "currency": currency, "amount": map(_money, micros),
        "tariff": tariff, "octets": octets, "rated_octets": rated, "period_start": start,
        "remainder": (f"{numerator}/{denominator}" for numerator, denominator in remainder),
        "taxes": ([{"tax": part.tax, "account": part.account, "amount": _money(part.amount_micros)}
                   for part in sorted(parts)] for parts in taxes),
    }  # fmt: skip
    schema = charge_schema()
    return pa.table([pa.array(columns[field.name], field.type) for field in schema], schema)


def _money(amount_micros: int) -> Decimal:
    return Decimal(amount_micros).scaleb(-_MICROS_DIGITS)


# --- columns ---------------------------------------------------------------------------


def usage_table(report: Report) -> Any:
    """All usage records of a run as a table: what `record_table` makes of them, from columns."""
    pa, _ = pyarrow_modules()
    usage = report.usage
    whole = usage.to_arrow()
    provenance, schema = usage.provenance, usage_schema()
    first = provenance.first_sequence
    columns = {name: whole[name] for name in whole.column_names if name in schema.names}
    columns |= {
        name: pa.repeat(value, whole.num_rows)
        for name, value in (("source", provenance.source), ("epoch", provenance.epoch),
                            ("rules_version", report.rules_version), ("layer", provenance.layer))
    }  # fmt: skip
    columns["sequence"] = pa.array(np.arange(first, first + whole.num_rows, dtype=np.uint64))
    columns["shares"] = _shares(whole, sorted(usage.rules.sponsors))
    columns["flags"] = _flags(whole["flags"])
    return pa.table([columns[name] for name in schema.names], schema.names).cast(schema)


def _shares(whole: Any, sponsors: Sequence[str]) -> Any:
    """Who pays something of each record, and what."""
    pa, _ = pyarrow_modules()
    paid = np.zeros((whole.num_rows, len(sponsors)), np.int64)
    for column, sponsor in enumerate(sponsors):
        paid[:, column] = whole[f"sponsor_octets.{sponsor}"].to_numpy()
    rows, who = np.nonzero(paid)
    ends = np.cumsum(np.count_nonzero(paid, axis=1), dtype=np.int32)
    names = pa.array(sponsors, pa.string()).take(pa.array(who))
    octets = pa.array(paid[rows, who].astype(np.uint64))
    return pa.ListArray.from_arrays(
        pa.array(np.concatenate([np.zeros(1, np.int32), ends])),
        pa.StructArray.from_arrays([names, octets], ["sponsor", "octets"]))


def _flags(texts: Any) -> Any:
    pa, _ = pyarrow_modules()
    coded = texts.combine_chunks().dictionary_encode()
    lists = [text.split(",") if text else [] for text in coded.dictionary.to_pylist()]
    return pa.array(lists, pa.list_(pa.string())).take(coded.indices)


# --- days ------------------------------------------------------------------------------


def usage_instants(table: Any) -> np.ndarray:
    """When each record counts, i8[rows] in ns: as its window begins; without windows as its
    first packet came.
    """
    pa, _ = pyarrow_modules()
    from pyarrow import compute

    start = compute.coalesce(table["window_start"], table["first_packet"])
    return np.asarray(start.cast(pa.int64()).to_numpy())


def charge_instants(charges: Iterable[Charge], otherwise_ns: int) -> np.ndarray:
    """When each charge counts, i8[charges] in ns.

    otherwise_ns  of charges that are of no period: the run's first packet
    """
    return np.array([
        otherwise_ns if charge.period_start is None else instant_ns(charge.period_start)
        for charge in charges
    ], np.int64)  # fmt: skip


def by_day(table: Any, instants_ns: np.ndarray, calendar: Calendar) -> list[tuple[str, Any]]:
    """A table's rows of each day ("2026-11-01"), days ascending."""
    pa, _ = pyarrow_modules()
    quarters, inverse = np.unique(instants_ns // QUARTER_NS, return_inverse=True)
    days = np.array([calendar.day(int(q)) for q in quarters], "datetime64[D]")
    of_row = days[inverse]
    return [(str(day), table.filter(pa.array(of_row == day))) for day in np.unique(days)]
