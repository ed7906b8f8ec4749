"""`tollsplit ledger open`: accounts by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from tollsplit.cli import main
from tollsplit.ledger import open_ledger

MONEY = "CNY/1000000"


class Books:
    def __init__(self, path: Path) -> None:
        self.url = f"sqlite:///{path}"
        assert self.run("init")[0] == 0

    def run(self, command: str, *arguments: str, typed: str = "") -> tuple[int, str]:
        """The exit code, and what was said."""
        with CliRunner().isolation(input=typed) as (out, err, _):
            code = main(["ledger", command, "--ledger", self.url, *arguments])
            return code, out.getvalue().decode() + err.getvalue().decode()

    def pay(self, payer: str, payee: str, micros: int) -> tuple[int, str]:
        return self.run("post", typed=json.dumps({
            "key": f"{payer} {payee} {micros}", "kind": "payment", "postings": [
                {"account": payer, "unit": MONEY, "amount": -micros},
                {"account": payee, "unit": MONEY, "amount": micros}]}))  # fmt: skip

    def balances(self) -> dict[str, tuple[int, int | None]]:
        with open_ledger(self.url, create=False) as ledger:
            return {b.account: (b.balance, b.floor) for b in ledger.balances()}


@pytest.fixture
def books(tmp_path: Path) -> Books:
    found = Books(tmp_path / "books.db")
    for account, more in (("bank", ()), ("alice", ("--kind", "subscriber", "--prepaid"))):
        code, said = found.run("open", "--account", account, "--unit", "CNY", *more)
        assert (code, said) == (0, f'"{account}": 0.000000 CNY\n')
    return found


def test_ledger_open_makes_prepaid_accounts_that_have_no_more_than_they_have(
    books: Books,
) -> None:
    assert books.pay("bank", "alice", 50_000_000)[0] == 0
    code, said = books.pay("alice", "bank", 50_000_001)
    assert (code, "below" in said) == (1, True)
    assert books.pay("alice", "bank", 50_000_000)[0] == 0
    assert books.balances() == {"alice": (0, 0), "bank": (0, None)}


def test_ledger_open_leaves_an_account_as_it_is(books: Books) -> None:
    books.pay("bank", "alice", 50_000_000)
    again = books.run("open", "--account", "alice", "--unit", "CNY", "--kind", "subscriber",
                      "--prepaid")  # fmt: skip
    assert again == (0, '"alice": 50.000000 CNY\n')
    code, said = books.run("open", "--account", "alice", "--unit", "CNY")
    assert (code, "is there already" in said) == (1, True)
    code, said = books.run("open", "--account", "bob", "--unit", "yuan")
    assert (code, 'expected "octet" or as "CNY/1000000"' in said) == (1, True)
    assert books.run("open", "--account", "bob", "--unit", "octet") == (0, '"bob": 0 octets\n')
