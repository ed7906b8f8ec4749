"""`tollsplit ledger open` and `transfer`: accounts and bookings by hand."""

from __future__ import annotations

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

    def run(self, command: str, *arguments: str) -> tuple[int, str]:
        """The exit code, and what was said."""
        with CliRunner().isolation() as (out, err, _):
            code = main(["ledger", command, "--ledger", self.url, *arguments])
            return code, out.getvalue().decode() + err.getvalue().decode()

    def transfer(self, amount: str, reference: str = "top-up 1", *, to: str = "alice",
                 payer: str = "bank") -> tuple[int, str]:
        return self.run("transfer", "--from", payer, "--to", to, "--amount", amount,
                        "--reference", reference, "--kind", "top-up")

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


def test_ledger_transfer_is_booked_once_by_its_reference(books: Books) -> None:
    assert books.transfer("50 CNY") == (0, '50.000000 CNY from "bank" to "alice": booked\n')
    code, said = books.transfer("50 CNY")
    assert (code, "was booked at" in said) == (0, True)
    assert books.balances() == {"alice": (50_000_000, 0), "bank": (-50_000_000, None)}
    code, said = books.transfer("51 CNY")
    assert (code, "top-up 1" in said) == (1, True)


def test_ledger_transfer_takes_from_a_prepaid_account_what_it_has(books: Books) -> None:
    books.transfer("50 CNY")
    code, said = books.transfer("50.000001 CNY", "back", to="bank", payer="alice")
    assert (code, "below" in said) == (1, True)
    assert books.transfer("50 CNY", "back", to="bank", payer="alice")[0] == 0
    assert books.balances() == {"alice": (0, 0), "bank": (0, None)}


def test_ledger_open_leaves_an_account_as_it_is(books: Books) -> None:
    books.transfer("50 CNY")
    again = books.run("open", "--account", "alice", "--unit", "CNY", "--kind", "subscriber",
                      "--prepaid")  # fmt: skip
    assert again == (0, '"alice": 50.000000 CNY\n')
    code, said = books.run("open", "--account", "alice", "--unit", "CNY")
    assert (code, "is there already" in said) == (1, True)
    code, said = books.run("open", "--account", "bob", "--unit", "yuan")
    assert (code, 'expected "octet" or as "CNY/1000000"' in said) == (1, True)
    assert books.run("open", "--account", "bob", "--unit", "octet") == (0, '"bob": 0 octets\n')
