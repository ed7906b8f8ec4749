"""What a ledger promises holds whatever dies, fills up or comes at the same time."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from threading import Barrier, Thread

import crashes
import pytest
from bookings import MONEY, charge, held, record, run_of
from databases import Database

from tollsplit.errors import LedgerError, OverdraftError, StateError
from tollsplit.ledger import Hold, Ledger, Teller, Transfer, open_ledger
from tollsplit.model import Posting

# Over both databases; 200 before a release, or by a patient person.
KILLS = int(os.environ.get("TOLLSPLIT_KILLS", "40"))
WRITERS = 16
# Programs of the tests find their neighbours.
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join([os.environ["PYTHONPATH"], str(Path(__file__).parent)]),
}


def test_ledger_survives_kill_9(databases: Callable[[], Database], tmp_path: Path) -> None:
    """Killed at random points: what was told is there, the books hold, and the same work again
    comes to what it comes to without any of it.
    """
    generator = random.Random(7)
    database = databases()
    file = tmp_path / "done"
    with open_ledger(database.url) as ledger:
        crashes.open_accounts(ledger)
    rounds = max(1, KILLS // 2)
    firsts = [number * 100_000 + 1 for number in range(rounds)]
    with subprocess.Popen(
        [sys.executable, crashes.__file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        text=True, env=ENVIRONMENT,
    ) as program:  # fmt: skip
        assert program.stdin and program.stdout
        for first in firsts:
            way = generator.choice(["alone", "together"])
            program.stdin.write(f"{way} {first} {file} {database.url}\n")
            program.stdin.flush()
            child = int(program.stdout.readline())
            time.sleep(generator.uniform(0.01, 0.25))
            os.kill(child, signal.SIGKILL)
            assert program.stdout.readline() == "gone 9\n"  # not by itself
            with open_ledger(database.url) as ledger:
                assert ledger.verify().findings == ()
    done = {int(line) for line in file.read_text().split()}
    assert len(done) > rounds  # they got somewhere
    told = [(f"transfer t{n}",) for n in done]
    assert set(told) <= set(database.rows("SELECT idempotency_key FROM transactions"))
    # Each was cut off within its last steps: do all of them, the unknown ones too.
    numbers = [
        number for first in firsts for number in range(
            first, max((n for n in done if first <= n < first + 100_000), default=first) + 6
        )
    ]  # fmt: skip
    with open_ledger(database.url) as ledger:
        again(ledger, numbers)
        found, events = ledger.balances(), ledger.events()
        assert ledger.verify().findings == ()
    with open_ledger(f"sqlite:///{tmp_path}/undisturbed.db") as ledger:
        crashes.open_accounts(ledger)
        again(ledger, numbers)
        assert ledger.balances() == found
        assert len(ledger.events()) == len(events)


def again(ledger: Ledger, numbers: list[int]) -> None:
    with ledger.atomic():
        for number in numbers:
            crashes.do(ledger, number)


# --- many at once -----------------------------------------------------------------------


def race(work: Callable[[int], object]) -> list[object]:
    """What each of sixteen threads gets that begin at the same moment: a result or an error."""
    barrier = Barrier(WRITERS)
    outcomes: list[object] = [None] * WRITERS

    def run(number: int) -> None:
        barrier.wait(20)
        try:
            outcomes[number] = work(number)
        except Exception as error:
            outcomes[number] = error

    threads = [Thread(target=run, args=(number,)) for number in range(WRITERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return outcomes


def pay(key: str, amount: int) -> Transfer:
    return Transfer(
        key, "payment", (Posting("alice", MONEY, -amount), Posting("shop", MONEY, amount)))


@pytest.fixture
def books(database: Database) -> Database:
    """Alice has 1,000."""
    with open_ledger(database.url) as ledger:
        ledger.open_account("alice", MONEY, "subscriber", floor=0)
        ledger.open_account("shop", MONEY, "settlement")
        ledger.transfer(pay("top-up", -1_000))
    return database


@pytest.fixture(params=["connections", "teller"])
def call(request: pytest.FixtureRequest, books: Database) -> Callable[..., object]:
    """Does work on the ledger: each caller by a connection of its own, or all by one teller."""
    if request.param == "teller":
        teller = Teller(partial(open_ledger, books.url))
        request.addfinalizer(teller.close)
        return teller.do

    def alone(work: Callable[[Ledger], object]) -> object:
        with open_ledger(books.url) as ledger:
            return work(ledger)

    return alone


def test_ledger_lets_one_of_sixteen_overdraw_nothing(
    books: Database, call: Callable[..., object]
) -> None:
    outcomes = race(lambda n: call(lambda ledger: ledger.transfer(pay(f"k{n}", 600))))
    refused = [outcome for outcome in outcomes if isinstance(outcome, OverdraftError)]
    assert len(refused) == WRITERS - 1, outcomes
    with open_ledger(books.url) as ledger:
        assert held(ledger)["alice", MONEY] == 400
        assert ledger.verify().findings == ()


def test_ledger_holds_no_more_than_there_is_for_sixteen(
    books: Database, call: Callable[..., object]
) -> None:
    outcomes = race(
        lambda n: call(lambda ledger: ledger.hold(Hold(f"h{n}", "alice", MONEY, 300, 600))))
    assert sum(isinstance(outcome, OverdraftError) for outcome in outcomes) == WRITERS - 3
    with open_ledger(books.url) as ledger:
        assert ledger.balance("alice", MONEY).held == 900
        assert ledger.verify().findings == ()


def test_ledger_books_a_key_once_for_sixteen(
    books: Database, call: Callable[..., object]
) -> None:
    outcomes = race(lambda n: call(lambda ledger: ledger.transfer(pay("same", 600))))
    assert sorted(outcome.booked for outcome in outcomes) == [False] * 15 + [True]  # type: ignore[attr-defined]
    with open_ledger(books.url) as ledger:
        assert held(ledger)["alice", MONEY] == 400


def test_ledger_resolves_a_hold_once_for_sixteen(
    books: Database, call: Callable[..., object]
) -> None:
    """Some capture it, others void it: one way wins, for everybody."""
    with open_ledger(books.url) as ledger:
        ledger.hold(Hold("h", "alice", MONEY, 600, 600))

    def resolve(number: int) -> object:
        if number % 2:
            return call(lambda ledger: ledger.void("h"))
        return call(lambda ledger: ledger.capture("h", "payment", pay("h", 500).postings))

    outcomes = race(resolve)
    with open_ledger(books.url) as ledger:
        resolved = ledger.held("h")
        assert resolved.state in ("captured", "voided")
        winners = [outcome for outcome in outcomes if outcome == resolved]
        losers = [outcome for outcome in outcomes if isinstance(outcome, StateError)]
        assert (len(winners), len(losers)) == (8, 8), outcomes
        account = ledger.balance("alice", MONEY)
        assert account.held == 0
        assert account.balance == (500 if resolved.state == "captured" else 1_000)
        assert ledger.verify().findings == ()


def test_ledger_reverses_once_for_sixteen(books: Database, call: Callable[..., object]) -> None:
    with open_ledger(books.url) as ledger:
        posted = ledger.transfer(pay("one", 600))
    outcomes = race(
        lambda n: call(lambda ledger: ledger.reverse(posted.transaction, f"r{n}")))
    assert sum(isinstance(outcome, StateError) for outcome in outcomes) == WRITERS - 1, outcomes
    with open_ledger(books.url) as ledger:
        assert held(ledger)["alice", MONEY] == 1_000
        assert ledger.verify().findings == ()


def test_ledger_posts_runs_of_sixteen_beside_their_payments(
    books: Database, call: Callable[..., object]
) -> None:
    def book(number: int) -> object:
        epoch = f"e{number}"
        if number % 2:
            return call(lambda ledger: ledger.post(
                run_of(epoch), [record(i, epoch=epoch) for i in range(20)], [charge(10)]))
        return call(lambda ledger: ledger.transfer(pay(epoch, 10)))

    outcomes = race(book)
    assert all(outcome.booked for outcome in outcomes), outcomes  # type: ignore[attr-defined]
    with open_ledger(books.url) as ledger:
        assert held(ledger)["operator:traffic", "octet"] == 8 * 20 * 1_000
        assert held(ledger)["alice", MONEY] == 1_000 - 16 * 10
        assert ledger.verify().findings == ()


# --- full disks -------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["alone", "together"])
def test_ledger_on_a_full_disk_keeps_what_it_told(tmp_path: Path, way: str) -> None:
    """A limit on the size of files stands for the disk; the ledger goes on where there is room."""
    path, done = tmp_path / "ledger.db", tmp_path / "done"
    with open_ledger(f"sqlite:///{path}") as ledger:
        crashes.open_accounts(ledger)
    code = (
        "import os, crashes; "
        f"crashes.{way}('sqlite:///{path}', 1, os.open('{done}', os.O_WRONLY | os.O_CREAT))"
    )
    ran = subprocess.run(
        ["prlimit", "--fsize=1500000", sys.executable, "-c", code], env=ENVIRONMENT, text=True,
        capture_output=True, timeout=120, check=False,
    )  # fmt: skip
    assert "make room" in ran.stderr, ran.stderr
    told = {int(line) for line in done.read_text().split()}
    with open_ledger(f"sqlite:///{path}") as ledger:
        assert ledger.verify().findings == ()
        again(ledger, sorted(told))
        before = held(ledger)
        again(ledger, sorted(told))
        assert held(ledger) == before
        try:
            crashes.do(ledger, max(told) + crashes.THREADS)
        except LedgerError as error:
            raise AssertionError("there is room again") from error
        assert ledger.verify().findings == ()
