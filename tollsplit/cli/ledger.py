"""`tollsplit ledger`: make a ledger, read its balances, verify it, export it."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from ..ledger import Journal

_LEDGER = click.option("--ledger", "url", metavar="URL", required=True,
                       help="The ledger: sqlite:///PATH or postgresql://USER@HOST/DATABASE.")
_FORMAT = click.option("--format", "form", type=click.Choice(("table", "json", "csv")),
                       default="table", show_default=True, help="How the result is written.")


@click.group()
def ledger() -> None:
    """Make a ledger, read its balances, verify it, export it.

    \b
    Exit codes: 0 done, 1 failed, 2 usage, 4 the books do not balance.

    \b
    Example:
      tollsplit ledger balance --ledger sqlite:///books.db
    """


@ledger.command()
@_LEDGER
def init(url: str) -> None:
    """Make an empty ledger; one that is there is left as it is.

    \b
    Exit codes: 0 done, 1 failed, 2 usage.

    \b
    Example:
      tollsplit ledger init --ledger sqlite:///books.db
    """
    from ..ledger import open_ledger

    with open_ledger(url) as book:
        click.echo(f"{book.url}: ready, {len(book.balances()):,} accounts")


@ledger.command()
@_LEDGER
@_FORMAT
def balance(url: str, form: str) -> None:
    """Show what every account holds.

    A balance falls as an account uses octets and owes money; the operator's own accounts gain
    the same, so that each unit sums to zero.

    \b
    Exit codes: 0 done, 1 failed, 2 usage.

    \b
    Example:
      tollsplit ledger balance --ledger sqlite:///books.db --format csv
    """
    from ..ledger import open_ledger

    with open_ledger(url, create=False) as book:
        balances = book.balances()
    columns = ("account", "kind", "unit", "balance", "held", "floor", "state")
    lines = [{name: getattr(balance, name) for name in columns} for balance in balances]
    if form == "json":
        click.echo(json.dumps({"schema": "tollsplit.balance/1", "balances": lines},
                              indent=1, ensure_ascii=False))
    elif form == "csv":
        from ..report import write_lines

        write_lines(sys.stdout, columns, lines)
    else:
        from .table import print_balances

        print_balances(balances, sys.stdout)


@ledger.command()
@_LEDGER
def verify(url: str) -> None:
    """Recompute everything from the rows, and say what was checked.

    \b
    Exit codes: 0 all holds, 1 failed, 2 usage, 4 the books do not balance.

    \b
    Example:
      tollsplit ledger verify --ledger sqlite:///books.db
    """
    from ..errors import IdentityError
    from ..ledger import open_ledger

    with open_ledger(url, create=False) as book:
        found = book.verify()
    for check in found.checks:
        verdict = "holds" if not check.findings else "DOES NOT HOLD"
        rows = f" ({check.rows:,} rows)" if check.rows else ""
        click.echo(f"{verdict}: {check.name}{rows}")
    for check in found.checks:
        for finding in check.findings:
            click.echo(f"tollsplit: {finding}", err=True)
        if check.more:
            click.echo(f"tollsplit: and {check.more:,} more of this kind", err=True)
    if not found.holds:
        raise IdentityError(f"{found.url}: the books do not balance")


@ledger.command()
@_LEDGER
@click.option("--format", "form", required=True,
              type=click.Choice(("hledger", "beancount", "json", "csv", "parquet")),
              help="How the ledger is written.")
@click.option("--output", metavar="PATH", type=click.Path(path_type=Path),
              help="Write to a file, or to a folder for Parquet; it appears only when whole.")
def export(url: str, form: str, output: Path | None) -> None:
    """Write the whole ledger for other programs.

    hledger and beancount get a journal: each transaction with its postings and where it comes
    from, in the order of booking, and at the end every balance as an assertion that these programs
    check. An account is called by its kind and name; what such a name must not hold is escaped,
    as %3A for hledger, as -3A for Beancount. Octets and currencies are commodities.

    json, csv and parquet have accounts, transactions, postings, usage records and charges; parquet
    is a folder with a file for each.

    \b
    Exit codes: 0 done, 1 failed, 2 usage.

    \b
    Example:
      tollsplit ledger export --ledger sqlite:///books.db --format hledger --output books.journal
    """
    from .. import export as forms
    from ..errors import UsageError
    from ..ledger import open_ledger
    from .output import Output

    if form == "parquet" and output is None:
        raise UsageError("parquet is a folder of files: name it with --output PATH")
    writers = {
        "hledger": forms.Hledger().write, "beancount": forms.Beancount().write,
        "json": forms.write_json, "csv": forms.write_csv,
    }  # fmt: skip
    with open_ledger(url, create=False) as book, book.journal() as journal:
        if form == "parquet" and output is not None:
            _export_folder(journal, output)
            return
        with Output(output, form) as result:
            result.write_text(lambda stream: writers[form](journal, stream))


def _export_folder(journal: Journal, folder: Path) -> None:
    """Write into a folder beside it, which then takes its name."""
    from ..errors import TollsplitError
    from ..export import write_parquet

    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise TollsplitError(f"{folder}: is there already; name a new folder")
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    try:
        partial.mkdir()
        try:
            write_parquet(journal, partial)
            partial.replace(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise TollsplitError(f"{folder}: cannot be written: {error.strerror or error}") from error
