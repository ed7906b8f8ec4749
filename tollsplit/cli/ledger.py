"""`tollsplit ledger`: make a ledger, read its balances, verify it, export it, close its periods."""

from __future__ import annotations

import json
import os
import shutil
import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import IO, TYPE_CHECKING

import click

from ..errors import PostingError, UsageError
from ..limits import LEDGER_BATCH_RECORDS
from .proof import read_text
from .serve import MISSING

if TYPE_CHECKING:
    from ..ledger import AccountKind, Annex, Journal, Ledger

_LEDGER = click.option("--ledger", "url", metavar="URL", required=True,
                       help="The ledger: sqlite:///PATH or postgresql://USER@HOST/DATABASE.")
_FORMAT = click.option("--format", "form", type=click.Choice(("table", "json", "csv")),
                       default="table", show_default=True, help="How the result is written.")

_PATH = click.Path(path_type=Path)
_KINDS = ("subscriber", "sponsor", "operator", "card", "settlement", "remainder")


@click.group()
def ledger() -> None:
    """Make a ledger, open accounts, verify it, export it, close and prove its periods.

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


@ledger.command("open")
@_LEDGER
@click.option("--account", metavar="NAME", required=True, help="What it is called.")
@click.option("--unit", metavar="UNIT", required=True, help='A currency ("CNY"), or "octet".')
@click.option("--kind", type=click.Choice(_KINDS), default="settlement", show_default=True,
              help="What it is.")
@click.option("--prepaid", is_flag=True,
              help="It never falls below zero; if absent there is no bound.")
def open_account(url: str, account: str, unit: str, kind: AccountKind, prepaid: bool) -> None:
    """Open an account; one that is there as asked is left as it is.

    Accounts of those whose traffic is booked open by themselves, without a bound.

    \b
    Exit codes: 0 done, 1 failed (it is there and is another), 2 usage.

    \b
    Example:
      tollsplit ledger open --ledger sqlite:///books.db --account alice --unit CNY \\
        --kind subscriber --prepaid
    """
    from ..ledger import open_ledger
    from .amount import quantity

    with open_ledger(url, create=False) as book:
        found = book.open_account(account, unit if unit == "octet" else f"{unit}/1000000", kind,
                                  0 if prepaid else None)  # fmt: skip
    click.echo(f'"{found.account}": {quantity(found.balance, found.unit)}')


@ledger.command()
@_LEDGER
@click.argument("transactions", type=click.Path(), default="-")
def post(url: str, transactions: str) -> None:
    """Book TRANSACTIONS, lines of JSON, all of them or none; what was booked before stays as it is.

    Each line is an object with "key", by which the same is booked once, "kind" ("payment"), and
    "postings": two or more objects with "account", "unit" ("octet", or "CNY/1000000" for
    micro-units) and "amount", which sum to zero in each unit. It may have "description" and
    "service_request". If TRANSACTIONS is absent, or "-", standard input is read.

    \b
    Such a line, which stands here in three:
      {"key": "top-up 1", "kind": "top-up", "postings": [
        {"account": "bank", "unit": "CNY/1000000", "amount": -50000000},
        {"account": "alice", "unit": "CNY/1000000", "amount": 50000000}]}

    \b
    Exit codes: 0 booked, or they were before; 1 refused, 2 usage, 3 bad input, 4 postings do not
    sum to zero.

    \b
    Example:
      tollsplit ledger post --ledger sqlite:///books.db payments.jsonl
    """
    from ..ledger import open_ledger, read_transfers

    place = "standard input" if transactions == "-" else transactions
    with _lines(transactions) as lines:
        asked = list(read_transfers(lines, place))  # before the ledger is kept from others
    with open_ledger(url, create=False) as book, book.atomic():
        booked = sum(
            posted.booked
            for start in range(0, len(asked), LEDGER_BATCH_RECORDS)
            for posted in book.transfer_all(asked[start : start + LEDGER_BATCH_RECORDS])
        )
    click.echo(f"{booked:,} booked, {len(asked) - booked:,} were booked before")


def _lines(name: str) -> AbstractContextManager[IO[bytes]]:
    if name == "-":
        return nullcontext(sys.stdin.buffer)
    try:
        return open(name, "rb")
    except OSError as error:
        raise PostingError(f"{name}: cannot be read: {error.strerror}") from error


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
@click.option("--head", "heads", metavar="FILE", multiple=True, type=_PATH,
              help="A signed head or a proof that was kept elsewhere: the ledger has to go on "
                   "from it, and to have what it proves.")
@click.option("--public-key", metavar="FILE", type=_PATH,
              help="By whom closed periods have to be signed; if absent, all by one.")
def verify(url: str, heads: tuple[Path, ...], public_key: Path | None) -> None:
    """Recompute everything from the rows, and say what was checked.

    A ledger by itself cannot tell whether it was put back to an older copy; with --head it can.

    \b
    Exit codes: 0 all holds, 1 failed, 2 usage, 3 a head or key cannot be read, 4 the books do not
    balance.

    \b
    Example:
      tollsplit ledger verify --ledger sqlite:///books.db --head head.json
    """
    from ..errors import IdentityError
    from ..ledger import open_ledger
    from ..ledger.proof import read_kept

    kept = [read_kept(read_text(path), str(path)) for path in heads]
    key = None
    if public_key is not None:
        from ..ledger.signing import read_public_key

        key = read_public_key(public_key)
    with open_ledger(url, create=False) as book:
        found = book.verify(kept, key, _annexes(book))
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


def _annexes(book: Ledger) -> list[Annex]:
    """The tables that services keep in a ledger, where they do."""
    if not book.store.annexes():
        return []
    try:
        from ..services.catalog import annexes
    except ImportError as error:
        raise UsageError(
            f"{book.url}: services keep tables in it, and cannot be asked about them: "
            f"{MISSING.format(error)}"
        ) from error
    return annexes()


@ledger.command()
@_LEDGER
@click.option("--format", "form", required=True,
              type=click.Choice(("hledger", "beancount", "json", "csv", "parquet", "dataset")),
              help="How the ledger is written.")
@click.option("--output", metavar="PATH", type=click.Path(path_type=Path),
              help="Write to a file, or to a folder for Parquet; it appears only when whole.")
@click.option("--zone", metavar="ZONE",
              help="Of a dataset: the zone whose days partition it (IANA name).  [default: the "
              "dataset's own; UTC for a new one]")
def export(url: str, form: str, output: Path | None, zone: str | None) -> None:
    """Write the whole ledger for other programs.

    hledger and beancount get a journal: each transaction with its postings and where it comes
    from, in the order of booking, and at the end every balance as an assertion that these programs
    check. An account is called by its kind and name; what such a name must not hold is escaped,
    as %3A for hledger, as -3A for Beancount. Octets and currencies are commodities.

    json, csv and parquet have accounts, transactions, postings, usage records and charges; parquet
    is a folder with a file for each.

    dataset adds usage and charges of the runs that a folder has not yet, as Parquet files by day
    and gateway, and takes out those that were reversed (docs/data.md). Of a live run it has each
    window that is booked.

    \b
    Exit codes: 0 done, 1 failed, 2 usage.

    \b
    Example:
      tollsplit ledger export --ledger sqlite:///books.db --format hledger --output books.journal
    """
    from .. import export as forms
    from ..ledger import open_ledger
    from .output import Output, print_written

    if form in ("parquet", "dataset") and output is None:
        raise UsageError(f"{form} is a folder of files: name it with --output PATH")
    if zone is not None and form != "dataset":
        raise UsageError("--zone: expected --format dataset beside it")
    writers = {
        "hledger": forms.Hledger().write, "beancount": forms.Beancount().write,
        "json": forms.write_json, "csv": forms.write_csv,
    }  # fmt: skip
    with open_ledger(url, create=False) as book, book.journal() as journal:
        if form == "dataset" and output is not None:
            print_written(output, forms.add_ledger(journal, output, zone))
            return
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


@ledger.command()
@click.option("--key", metavar="FILE", type=_PATH, required=True,
              help="Where the private key is written; the public one goes to FILE.pub.")
def keygen(key: Path) -> None:
    """Make a pair of keys: one to close periods with, one to give to whom proofs are for.

    The private key is for its owner's eyes alone (mode 0600). Nothing is overwritten.

    \b
    Exit codes: 0 done, 2 usage, 3 a file is there already or cannot be written.

    \b
    Example:
      tollsplit ledger keygen --key ledger.key
    """
    from ..ledger.signing import make_keys, read_public_key

    public = make_keys(key)
    click.echo(f"{key}: the private key, keep it\n{public}: the public key "
               f"{read_public_key(public)}, give it to sponsors and auditors")


@ledger.command()
@_LEDGER
@click.option("--period", metavar="PERIOD", required=True,
              help="A month (2026-11) or a day (2026-11-03) that is over.")
@click.option("--key", metavar="FILE", type=_PATH, required=True, help="The private key.")
@click.option("--zone", metavar="ZONE",
              help="Whose months and days count (IANA name); if absent that of the period before, "
                   "UTC for the first.")
@click.option("--output", metavar="FILE", type=_PATH, help="Write the signed head to FILE.")
def close(url: str, period: str, key: Path, zone: str | None, output: Path | None) -> None:
    """Close a period that is over, and sign what was booked in it.

    From then on nothing can be booked in it any more: what comes late belongs to the period in
    which it is booked. Periods follow each other without gaps. Keep the signed head elsewhere,
    or let sponsors have it: it shows whether the ledger was put back to an older copy.

    \b
    Exit codes: 0 done, 1 failed (not over, closed already, not the next), 2 usage, 3 the key cannot
    be read.

    \b
    Example:
      tollsplit ledger close --ledger sqlite:///books.db --period 2026-11 --key ledger.key
    """
    from ..ledger import open_ledger
    from ..ledger.signing import read_signer
    from .output import Output

    signer = read_signer(key)
    with open_ledger(url, create=False) as book, Output(output, "json") as result:
        signed = book.close_period(period, signer, zone)
        if output is not None:
            result.write_text(lambda stream: json.dump(signed.document, stream))
    head = signed.head
    click.echo(
        f"{head.title}: closed with links {head.first_link:,} to {head.last_link:,}, "
        f"{head.accounts:,} accounts\nroot {head.root}\nchain {head.chain}\n"
        f"signed by {signed.public_key}"
    )


@ledger.command("check-proof")
@click.argument("proof", type=_PATH)
@click.option("--public-key", metavar="FILE", type=_PATH, required=True,
              help="The ledger's public key, from elsewhere than the proof.")
@click.option("--after", metavar="FILE", type=_PATH,
              help="The proof of the period before: this one has to follow it.")
@click.option("--statement", metavar="FILE", type=_PATH,
              help="A statement (--format json) that has to be what the proof comes to.")
def check_proof(
    proof: Path, public_key: Path, after: Path | None, statement: Path | None
) -> None:
    """Check a statement's proof, without the ledger, and say what it proves.

    \b
    Exit codes: 0 it holds, 2 usage, 3 a file cannot be read, 4 it does not hold.

    \b
    Example:
      tollsplit ledger check-proof proof.json --public-key ledger.key.pub
    """
    from .proof import report

    report(proof, public_key, after, statement)
