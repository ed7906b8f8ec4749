"""`tollsplit ledger`: make a ledger, read its balances, verify it."""

from __future__ import annotations

import json
import sys

import click

_LEDGER = click.option("--ledger", "url", metavar="URL", required=True,
                       help="The ledger: sqlite:///PATH or postgresql://USER@HOST/DATABASE.")
_FORMAT = click.option("--format", "form", type=click.Choice(("table", "json", "csv")),
                       default="table", show_default=True, help="How the result is written.")


@click.group()
def ledger() -> None:
    """Make a ledger, read its balances, verify it.

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
