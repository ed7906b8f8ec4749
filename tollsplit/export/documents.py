"""The ledger as one JSON document, as CSV lines, and as Parquet tables."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import IO, Any

from ..ledger import Balance, Booked, BookedCharge, Journal
from ..limits import LEDGER_BATCH_RECORDS
from ..report import charge_entry, pyarrow_modules, usage_entry, write_lines

SCHEMA = "tollsplit.ledger/1"
Entry = dict[str, Any]

_ACCOUNT = ("account", "account_kind", "unit", "balance", "held", "floor", "state")
_TRANSACTION = (
    "transaction", "kind", "description", "idempotency_key", "fingerprint", "booked_at",
    "reverses", "service_request", "run", "tariff", "rules_version", "source", "epoch",
    "first_sequence", "layer", "at", "program", "captures",
)  # fmt: skip
_POSTING = ("transaction", "account", "account_kind", "unit", "amount")
_CHARGE = (
    "transaction", "source", "epoch", "ordinal", "account", "currency", "amount_micros", "tariff",
    "octets", "rated_octets", "period_start", "remainder", "tax_micros",
)  # fmt: skip
_USAGE = (
    "source", "epoch", "sequence", "rules_version", "layer", "window_start", "window_end",
    "subscriber", "account", "rule", "rating_group", "sponsor_identity", "asp_identity",
    "uplink_packets", "uplink_octets", "downlink_packets", "downlink_octets", "first_packet",
    "last_packet", "flags", "subscriber_octets", "sponsor_octets",
)  # fmt: skip


def _accounts(journal: Journal) -> Iterator[Entry]:
    for balance in journal.accounts():
        yield _account(balance)


def _account(balance: Balance) -> Entry:
    return {
        "account": balance.account, "account_kind": balance.kind, "unit": balance.unit,
        "balance": balance.balance, "held": balance.held, "floor": balance.floor,
        "state": balance.state,
    }  # fmt: skip


def _transactions(journal: Journal) -> Iterator[Entry]:
    for booked in journal.transactions():
        yield _transaction(booked)


def _transaction(booked: Booked) -> Entry:
    run = booked.run
    entry = {
        "transaction": booked.number, "kind": booked.kind, "description": booked.description,
        "idempotency_key": booked.idempotency_key, "fingerprint": booked.fingerprint,
        "booked_at": booked.booked_at.isoformat().replace("+00:00", "Z"),
        "reverses": booked.reverses, **asdict(booked.provenance),
    }  # fmt: skip
    if run is not None:
        entry |= {
            "source": run.source, "epoch": run.epoch, "first_sequence": run.first_sequence,
            "rules_version": run.rules_version, "layer": run.layer, "at": run.at,
            "program": run.program,
            "captures": [{"name": name, "digest": digest} for name, digest in run.captures],
        }  # fmt: skip
    return entry


def _postings(journal: Journal) -> Iterator[Entry]:
    for booked in journal.transactions():
        for posting in booked.postings:
            yield {
                "transaction": booked.number, "account": posting.account,
                "account_kind": posting.kind, "unit": posting.unit, "amount": posting.amount,
            }  # fmt: skip


def _usage(journal: Journal) -> Iterator[Entry]:
    for record in journal.usage():
        yield {**usage_entry(record), "rules_version": record.rules_version, "layer": record.layer}


def _charges(journal: Journal) -> Iterator[Entry]:
    for booked in journal.charges():
        yield _charge(booked)


def _charge(booked: BookedCharge) -> Entry:
    numerator, denominator = booked.charge.remainder
    return {
        "transaction": booked.transaction, "source": booked.source, "epoch": booked.epoch,
        "ordinal": booked.ordinal, **charge_entry(booked.charge),
        "remainder": f"{numerator}/{denominator}",
    }  # fmt: skip


# What each table is called, its columns, its entries.
TABLES: tuple[tuple[str, tuple[str, ...], Callable[[Journal], Iterator[Entry]]], ...] = (
    ("accounts", _ACCOUNT, _accounts),
    ("transactions", _TRANSACTION, _transactions),
    ("postings", _POSTING, _postings),
    ("usage", _USAGE, _usage),
    ("charges", _CHARGE, _charges),
)


def write_json(journal: Journal, stream: IO[str]) -> None:
    """Write one document, an entry a line, holding one at a time."""
    encode = json.JSONEncoder(ensure_ascii=False).encode
    stream.write(f'{{"schema": {encode(SCHEMA)}')
    for name, _, entries in TABLES:
        stream.write(f',\n "{name}": [')
        separator = "\n  "
        for entry in entries(journal):
            stream.write(separator + encode(entry))
            separator = ",\n  "
        stream.write("]")
    stream.write("}\n")


def write_csv(journal: Journal, stream: IO[str]) -> None:
    """Write a line for each account, transaction, posting, usage record, sponsor's share of one,
    charge and tax on one; the first column says which.
    """
    names = [column for _, columns, _ in TABLES for column in columns]
    columns = ("line", *dict.fromkeys(names), "sponsor", "tax")
    write_lines(stream, columns, _lines(journal))


def _lines(journal: Journal) -> Iterator[Entry]:
    for name, _, entries in TABLES:
        line = name.removesuffix("s")
        for entry in entries(journal):
            shares: Mapping[str, int] = entry.pop("sponsor_octets", {})
            taxes: Mapping[str, int] = entry.pop("tax_micros", {})
            for key, value in entry.items():
                if isinstance(value, list):
                    entry[key] = ",".join(
                        f"{item['name']} {item['digest']}" if isinstance(item, dict) else item
                        for item in value
                    )
            yield {"line": line, **entry}
            for sponsor, octets in shares.items():
                record = {key: entry[key] for key in ("source", "epoch", "sequence")}
                yield {"line": "share", **record, "sponsor": sponsor, "sponsor_octets": octets}
            for tax, amount in taxes.items():
                charge = {key: entry[key] for key in ("transaction", "ordinal", "currency")}
                yield {"line": "tax", **charge, "tax": tax, "tax_micros": amount}


def write_parquet(journal: Journal, folder: Path) -> None:
    """Write a file for each table into a folder that is there, holding some thousand entries."""
    pyarrow, parquet = pyarrow_modules()
    for name, columns, entries in TABLES:
        schema = pyarrow.schema([(column, _kind(pyarrow, column)) for column in columns])
        text = pyarrow.schema([
            field.with_type(pyarrow.string()) if field.name in _INSTANTS else field
            for field in schema
        ])
        with parquet.ParquetWriter(folder / f"{name}.parquet", schema) as writer:
            remaining: Iterable[Entry] = entries(journal)
            while batch := list(islice(remaining, LEDGER_BATCH_RECORDS)):
                for entry in batch:
                    for column in _MAPS & entry.keys():
                        entry[column] = list(entry[column].items())
                writer.write_table(pyarrow.Table.from_pylist(batch, text).cast(schema))


def _kind(pyarrow: Any, column: str) -> Any:
    """A column's type by its name: a name means the same in every table."""
    if column == "captures":
        return pyarrow.list_(pyarrow.struct([("name", pyarrow.string()),
                                             ("digest", pyarrow.string())]))  # fmt: skip
    if column == "flags":
        return pyarrow.list_(pyarrow.string())
    if column in _MAPS:
        return pyarrow.map_(pyarrow.string(), pyarrow.int64())
    if column in _INSTANTS:
        return pyarrow.timestamp("ns", tz="UTC")
    return pyarrow.int64() if column in _NUMBERS else pyarrow.string()


_MAPS = frozenset({"sponsor_octets", "tax_micros"})
_INSTANTS = frozenset({
    "booked_at", "window_start", "window_end", "first_packet", "last_packet", "period_start",
})  # fmt: skip
_NUMBERS = frozenset({
    "balance", "held", "floor", "transaction", "reverses", "run", "first_sequence", "amount",
    "ordinal", "amount_micros", "octets", "rated_octets", "sequence", "rating_group",
    "uplink_packets", "uplink_octets", "downlink_packets", "downlink_octets", "subscriber_octets",
})  # fmt: skip
