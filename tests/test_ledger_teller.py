"""The teller: many callers, one writer, few commits, and everybody's own answer."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
from bookings import MONEY, held
from databases import Database

from tollsplit.errors import LedgerError, OverdraftError
from tollsplit.ledger import Ledger, Posted, Teller, Transfer, open_ledger
from tollsplit.model import Posting


def pay(key: str, amount: int = 1) -> Transfer:
    return Transfer(
        key, "payment", (Posting("alice", MONEY, -amount), Posting("shop", MONEY, amount)))


def booked(asked: Transfer) -> Callable[[Ledger], Posted]:
    return lambda ledger: ledger.transfer(asked)


@pytest.fixture
def books(database: Database) -> Database:
    """Alice has 100."""
    with open_ledger(database.url) as ledger:
        ledger.open_account("alice", MONEY, "subscriber", floor=0)
        ledger.open_account("shop", MONEY, "settlement")
        ledger.transfer(pay("top-up", -100))
    return database


def commits(teller: Teller, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by the pieces of work of each commit."""
    counted: list[int] = []
    commit = teller._commit

    def count(ledger: Ledger, done: list[object]) -> None:
        commit(ledger, done)  # type: ignore[arg-type]
        counted.append(len(done))

    monkeypatch.setattr(teller, "_commit", count)
    return counted


def test_teller_answers_each_caller_and_shares_commits(
    books: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = threading.Event()

    def slow(ledger: Ledger) -> str:
        assert go_on.wait(10)
        return "slow"

    with Teller(partial(open_ledger, books.url)) as teller:
        counted = commits(teller, monkeypatch)
        first = teller.submit(slow)
        # While the writer is busy, eleven more come: one of them is refused, two share a key.
        rest = [teller.submit(booked(pay(f"k{n}"))) for n in range(8)]
        refused = teller.submit(booked(pay("all", 200)))
        same = [teller.submit(booked(pay("same", 2))) for _ in range(2)]
        go_on.set()
        assert first.result(10) == "slow"
        assert all(future.result(10).booked for future in rest)
        with pytest.raises(OverdraftError):
            refused.result(10)
        assert [future.result(10).booked for future in same] == [True, False]
        assert counted == [12]
        assert teller.do(booked(pay("later"))).booked
        assert counted == [12, 1]
    with open_ledger(books.url) as ledger:
        assert held(ledger)["alice", MONEY] == 100 - 8 - 2 - 1
        assert ledger.verify().findings == ()


def test_teller_work_is_all_or_nothing(books: Database) -> None:
    def two(ledger: Ledger) -> None:
        ledger.transfer(pay("one", 60))
        ledger.transfer(pay("two", 60))

    def broken(ledger: Ledger) -> None:
        ledger.transfer(pay("three", 60))
        raise ZeroDivisionError("the caller's own")

    with Teller(partial(open_ledger, books.url)) as teller:
        with pytest.raises(OverdraftError):
            teller.do(two)
        with pytest.raises(ZeroDivisionError, match="the caller's own"):
            teller.do(broken)
        assert teller.do(lambda ledger: held(ledger))["alice", MONEY] == 100


def test_teller_answers_after_the_commit(books: Database) -> None:
    with Teller(partial(open_ledger, books.url)) as teller, open_ledger(books.url) as other:
        for number in range(20):
            teller.do(booked(pay(f"k{number}")))
            assert held(other)["alice", MONEY] == 99 - number


def test_teller_finishes_what_was_handed_in(books: Database) -> None:
    teller = Teller(partial(open_ledger, books.url))
    futures = [teller.submit(booked(pay(f"k{n}"))) for n in range(50)]
    teller.close()
    assert all(future.done() and future.result().booked for future in futures)
    with pytest.raises(LedgerError, match="the teller is closed"):
        teller.submit(booked(pay("late")))
    teller.close()
    with open_ledger(books.url) as ledger:
        assert held(ledger)["alice", MONEY] == 50


def test_teller_whose_ledger_cannot_be_opened_says_so(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="no such ledger"):
        Teller(partial(open_ledger, f"sqlite:///{tmp_path}/none.db", create=False))


# As a full disk does, and a server that is stopped.
UNDOING = {"sqlite": "ROLLBACK", "postgresql": "SELECT pg_terminate_backend(pg_backend_pid())"}


def test_teller_goes_on_after_a_commit_that_failed(books: Database) -> None:
    """All of the commit is told so, each by an error of its own, and nothing of it is booked."""
    go_on = threading.Event()

    def spoil(ledger: Ledger) -> None:
        assert go_on.wait(10)
        with suppress(Exception):
            ledger._store._connection.execute(UNDOING[books.kind])  # type: ignore[attr-defined]

    with Teller(partial(open_ledger, books.url)) as teller:
        futures: list[Future[object]] = [
            teller.submit(booked(pay("before"))), teller.submit(spoil),
            *(teller.submit(booked(pay(f"k{n}"))) for n in range(3)),
        ]  # fmt: skip
        go_on.set()
        errors = [future.exception(10) for future in futures]
        assert all(isinstance(error, LedgerError) for error in errors), errors
        assert len({id(error) for error in errors}) == 5
        assert teller.do(booked(pay("k0"))).booked
    with open_ledger(books.url) as ledger:
        assert held(ledger)["alice", MONEY] == 99
        assert ledger.verify().findings == ()
