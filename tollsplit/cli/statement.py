"""`tollsplit statement`: what an account used and owes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click

from ..errors import UsageError
from .output import FORMATS, Output

if TYPE_CHECKING:
    from ..ledger import Ledger, Statement

_COLUMNS = (
    "line", "day", "rule", "records", "uplink_packets", "uplink_octets", "downlink_packets",
    "downlink_octets", "subscriber_octets", "paid_octets", "tariff", "currency", "charges",
    "octets", "rated_octets", "amount_micros", "at", "description", "unit", "amount", "opening",
    "closing",
)


@click.command()
@click.option("--ledger", "url", metavar="URL", required=True,
              help="The ledger: sqlite:///PATH or postgresql://USER@HOST/DATABASE.")
@click.option("--account", metavar="NAME", help="Whose statement; all payers together if absent.")
@click.option("--period", metavar="PERIOD", help="A month (2026-11) or a day (2026-11-03).")
@click.option("--zone", metavar="ZONE", default="UTC", show_default=True,
              help="The zone whose days and months count (IANA name).")
@click.option("--format", "form", type=click.Choice(FORMATS), default="table", show_default=True,
              help="How the result is written.")
@click.option("--output", metavar="FILE", type=click.Path(path_type=Path),
              help="Write the result to FILE; it appears only when it is whole.")
@click.option("--proof", "proof", metavar="FILE", type=click.Path(path_type=Path),
              help="Of a closed period: show what was booked in it, and write to FILE what proves "
                   "it.")
def statement(
    url: str, account: str | None, period: str | None, zone: str, form: str, output: Path | None,
    proof: Path | None,
) -> None:
    """Show what an account used and owes, by day, rule and tariff.

    For each unit the closing balance is the opening balance less what was used or charged. A
    balance falls as the account uses octets and owes money.

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
            found = book.statement(account, period, zone)
        else:
            found = _prove(book, account, period, proof)
    with Output(output, form) as result:
        if form == "json":
            text = json.dumps(document(found), indent=1, ensure_ascii=False) + "\n"
            result.write_text(lambda stream: _write(stream, text))
        elif form == "csv":
            from ..report import write_lines

            result.write_text(
                lambda stream: write_lines(stream, _columns(found), _lines(found)))
        elif form == "parquet":
            from ..report import write_parquet

            result.write_binary(
                lambda stream: write_parquet(stream, _columns(found), _lines(found)))
        else:
            from .table import print_statement

            result.write_text(lambda stream: print_statement(found, stream))


def _prove(book: Ledger, account: str | None, period: str | None, path: Path) -> Statement:
    """The statement of what was booked in a closed period, whose proof is written."""
    if account is None or period is None:
        raise UsageError("--proof: expected --account and --period beside it")
    proved = book.prove(account, period)
    with Output(path, "json") as result:
        result.write_text(lambda stream: _write(stream, proved.text))
    return proved.statement


def _write(stream: IO[str], text: str) -> None:
    stream.write(text)


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
        "usage": [
            {"day": line.day.isoformat(), "rule": line.rule, "records": line.records,
             "uplink_packets": line.uplink_packets, "uplink_octets": line.uplink_octets,
             "downlink_packets": line.downlink_packets, "downlink_octets": line.downlink_octets,
             "subscriber_octets": line.subscriber_octets,
             "sponsor_octets": dict(line.sponsor_octets), "paid_octets": line.paid_octets}
            for line in found.usage],
        "charges": [
            {"day": line.day.isoformat(), "tariff": line.tariff, "currency": line.currency,
             "charges": line.charges, "octets": line.octets, "rated_octets": line.rated_octets,
             "amount_micros": line.amount_micros} for line in found.charges],
        "entries": [
            {"at": entry.at.isoformat(), "description": entry.description, "unit": entry.unit,
             "amount": entry.amount} for entry in found.entries],
    }


def _columns(found: Statement) -> tuple[str, ...]:
    return (*_COLUMNS, *(f"sponsor_octets.{name}" for name in found.sponsor_octets))


def _lines(found: Statement) -> Iterator[dict[str, Any]]:
    """The document as flat lines; the first column says of what."""
    whole = document(found)
    for entry in whole["usage"]:
        paid = entry.pop("sponsor_octets")
        entry.update((f"sponsor_octets.{name}", octets) for name, octets in paid.items())
        yield {"line": "usage", **entry}
    for entry in whole["charges"]:
        yield {"line": "charge", **entry}
    for entry in whole["entries"]:
        yield {"line": "entry", **entry}
    for unit, opening in found.opening.items():
        yield {"line": "balance", "unit": unit, "opening": opening,
               "closing": found.closing[unit]}
