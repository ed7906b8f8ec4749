"""`tollsplit statement`: what an account used and owes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import UsageError
from .output import FORMATS, Output

if TYPE_CHECKING:
    from ..ledger import ChargeLine, Ledger, Statement, TaxLine, UsageLine

_COLUMNS = (
    "line", "day", "rule", "records", "uplink_packets", "uplink_octets", "downlink_packets",
    "downlink_octets", "subscriber_octets", "paid_octets", "tariff", "currency", "charges",
    "octets", "rated_octets", "amount_micros", "first_transaction", "last_transaction", "origins",
    "tax", "at", "description", "unit", "amount", "transaction", "opening", "closing",
)
# Of records: they are apart from the lines that they add up to.
_RECORD_COLUMNS = tuple(f"record.{name}" for name in (
    "day", "source", "epoch", "sequence", "window_start", "window_end", "subscriber", "account",
    "rule", "rating_group", "uplink_packets", "uplink_octets", "downlink_packets",
    "downlink_octets", "first_packet", "last_packet", "subscriber_octets", "sponsor_octets",
    "paid_octets", "transaction", "ordinal", "tariff", "currency", "octets", "rated_octets",
    "amount_micros", "tax_micros", "period_start",
))  # fmt: skip
_FORMS = (*FORMATS, "spreadsheet", "html")


@click.command()
@click.option("--ledger", "url", metavar="URL", required=True,
              help="The ledger: sqlite:///PATH or postgresql://USER@HOST/DATABASE.")
@click.option("--account", metavar="NAME", help="Whose statement; all payers together if absent.")
@click.option("--period", metavar="PERIOD", help="A month (2026-11) or a day (2026-11-03).")
@click.option("--zone", metavar="ZONE", default="UTC", show_default=True,
              help="The zone whose days and months count (IANA name).")
@click.option("--format", "form", type=click.Choice(_FORMS), default="table", show_default=True,
              help="How the result is written; html is a page to print.")
@click.option("--output", metavar="FILE", type=click.Path(path_type=Path),
              help="Write the result to FILE; it appears only when it is whole.")
@click.option("--records", is_flag=True,
              help="With every usage record and charge behind the lines.")
@click.option("--proof", "proof", metavar="FILE", type=click.Path(path_type=Path),
              help="Of a closed period: show what was booked in it, and write to FILE what proves "
                   "it.")
def statement(
    url: str,
    account: str | None,
    period: str | None,
    zone: str,
    form: str,
    output: Path | None,
    records: bool,
    proof: Path | None,
) -> None:
    """Show what an account used and owes, by day, rule and tariff.

    A subscriber's statement has its own traffic, a sponsor's the traffic that he pays a part of.
    For each unit the closing balance is the opening balance less what was used, charged and
    taxed. A balance falls as the account uses octets and owes money; what it could not cover is
    among the other entries, uncollected.

    Each line says which records it adds up, by source, epoch and sequence. The html page is one
    file without scripts, legible on a screen and on A4.

    Lines are of the period's days, whenever they were booked. With --proof they are what was
    booked in the period, whatever its days: late usage stands in the period that booked it. Its
    zone is the one in which the period was closed.

    \b
    Exit codes: 0 done, 1 failed (no such ledger, account or period), 2 usage, 4 the books do not
    balance.

    \b
    Example:
      tollsplit statement --ledger sqlite:///books.db --account alice --period 2026-11
    """
    from ..ledger import open_ledger

    with open_ledger(url, create=False) as book:
        if proof is None:
            found = book.statement(account, period, zone, records=records)
        elif records:
            raise UsageError("--records: a proof shows them itself, each on a line of its own")
        else:
            found = _prove(book, account, period, proof)
    with Output(output, form) as result:
        if form == "json":
            result.write(json.dumps(document(found), indent=1, ensure_ascii=False) + "\n")
        elif form == "csv":
            from ..report import write_lines

            result.write_text(
                lambda stream: write_lines(stream, _columns(found), _lines(found)))
        elif form == "spreadsheet":
            from .spreadsheet import write_spreadsheet

            result.write_text(
                lambda stream: write_spreadsheet(stream, _columns(found), _lines(found)))
        elif form == "parquet":
            from ..report import write_parquet

            result.write_binary(
                lambda stream: write_parquet(stream, _columns(found), _lines(found)))
        elif form == "html":
            from .statement_page import statement_page

            result.write(statement_page(found))
        else:
            from .table import print_statement

            result.write_text(lambda stream: print_statement(found, stream))


def _prove(book: Ledger, account: str | None, period: str | None, path: Path) -> Statement:
    """The statement of what was booked in a closed period, whose proof is written."""
    if account is None or period is None:
        raise UsageError("--proof: expected --account and --period beside it")
    proved = book.prove(account, period)
    with Output(path, "json") as result:
        result.write(proved.text)
    return proved.statement


def document(found: Statement) -> dict[str, Any]:
    """The statement as one document."""
    return {
        "schema": "tollsplit.statement/1",
        "account": found.account,
        "period": found.period,
        "zone": found.zone,
        "start": found.start.isoformat() if found.start else None,
        "end": found.end.isoformat() if found.end else None,
        "opening": dict(found.opening),
        "closing": dict(found.closing),
        "uplink_octets": found.uplink_octets,
        "downlink_octets": found.downlink_octets,
        "subscriber_octets": found.subscriber_octets,
        "sponsor_octets": found.sponsor_octets,
        "paid_octets": found.paid_octets,
        "charged_micros": found.charged_micros,
        "tax_micros": found.tax_micros,
        "usage": list(map(_usage, found.usage)),
        "charges": list(map(_dated, found.charges)),
        "taxes": list(map(_dated, found.taxes)),
        "entries": [
            {"at": entry.at.isoformat(), "description": entry.description, "unit": entry.unit,
             "amount": entry.amount, "transaction": entry.transaction}
            for entry in found.entries],
        **_records(found),
    }  # fmt: skip


def _usage(line: UsageLine) -> dict[str, Any]:
    return {
        "day": line.day.isoformat(), "rule": line.rule, "records": line.records,
        "uplink_packets": line.uplink_packets, "uplink_octets": line.uplink_octets,
        "downlink_packets": line.downlink_packets, "downlink_octets": line.downlink_octets,
        "subscriber_octets": line.subscriber_octets,
        "sponsor_octets": dict(line.sponsor_octets), "paid_octets": line.paid_octets,
        "origins": list(map(asdict, line.origins)),
    }  # fmt: skip


def _dated(line: ChargeLine | TaxLine) -> dict[str, Any]:
    return {**asdict(line), "day": line.day.isoformat()}


def _records(found: Statement) -> dict[str, Any]:
    """Every record and charge, where they were asked for."""
    from ..report import charge_entry, usage_entry

    if found.records is None or found.charge_records is None:
        return {}
    return {
        "records": [
            {"day": line.day.isoformat(), **usage_entry(line.record),
             "paid_octets": line.paid_octets} for line in found.records],
        "charge_records": [
            {"day": day.isoformat(), "source": booked.source, "epoch": booked.epoch,
             "transaction": booked.transaction, "ordinal": booked.ordinal,
             **charge_entry(booked.charge)} for day, booked in found.charge_records],
    }  # fmt: skip


def _columns(found: Statement) -> tuple[str, ...]:
    sponsors = (f"sponsor_octets.{name}" for name in found.sponsor_octets)
    return (*_COLUMNS, *sponsors, *(_RECORD_COLUMNS if found.records is not None else ()))


def _lines(found: Statement) -> Iterator[dict[str, Any]]:
    """The document as flat lines; the first column says of what."""
    for usage in found.usage:
        entry = _usage(usage)
        paid = entry.pop("sponsor_octets")
        entry.update((f"sponsor_octets.{name}", octets) for name, octets in paid.items())
        entry["origins"] = ", ".join(
            f"{o.source}/{o.epoch}/{o.first_sequence}-{o.last_sequence}" for o in usage.origins)
        yield {"line": "usage", **entry}
    for charge in found.charges:
        yield {"line": "charge", **_dated(charge)}
    for tax in found.taxes:
        yield {"line": "tax", **_dated(tax)}
    whole = document(found)
    for entry in whole["entries"]:
        yield {"line": "entry", **entry}
    for unit, opening in found.opening.items():
        yield {"line": "balance", "unit": unit, "opening": opening,
               "closing": found.closing[unit]}
    for line, name in (("record", "records"), ("charge record", "charge_records")):
        for entry in whole.get(name, ()):
            for key in ("sponsor_octets", "tax_micros"):
                if key in entry:
                    entry[key] = ", ".join(f"{name}: {n}" for name, n in entry[key].items())
            known = {f"record.{key}": value for key, value in entry.items()}
            yield {"line": line, **{key: known[key] for key in _RECORD_COLUMNS if key in known}}
