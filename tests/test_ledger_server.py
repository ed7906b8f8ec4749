"""A ledger on a server: who may reach it, what messages show, and who waits for whom."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import closing
from threading import Thread

import psycopg
import pytest
from bookings import MONEY, charge, held, record, run_of
from databases import Cluster, PostgresDatabase, Refused

from tollsplit.errors import LedgerError, OverdraftError
from tollsplit.ledger import Hold, Ledger, Transfer, open_ledger
from tollsplit.model import Posting


@pytest.fixture
def database(postgres: Cluster) -> PostgresDatabase:
    return postgres.database()


@pytest.fixture
def ledger(database: PostgresDatabase) -> Iterator[Ledger]:
    with open_ledger(database.url) as ledger:
        yield ledger
        assert ledger.verify().findings == ()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("postgresql://alice:hunter2@127.0.0.1:1/books", "postgresql://alice@127.0.0.1:1/books: "),
        ("postgresql://127.0.0.1:1/books?user=alice&password=hunter2", "alice@127.0.0.1:1/books: "),
        ("postgres://alice:hunter2%40x@127.0.0.1:1/books", "postgresql://alice@127.0.0.1:1/books"),
        ("postgresql://alice:hunter2@host:port/books", "expected postgresql://USER@HOST"),
        ("postgresql://alice:x@hunter2@host/books", "write @ as %40"),
        ("postgresql://alice:hunter2/x@host/books", "/ as %2F"),
        ("postgresql://alice:x/hunter2@host/books", "/ as %2F"),
        ("postgresql://alice:%hunter2@host/books", "expected postgresql://USER@HOST"),
    ],
)
def test_server_that_cannot_be_reached_shows_no_password(
    url: str, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(LedgerError, match=message) as caught:
        open_ledger(url, wait_s=2)
    shown = f"{caught.value} {caught.value.__cause__} {caught.value.__context__} {caplog.text}"
    assert "hunter2" not in shown


def test_server_url_shows_no_password(database: PostgresDatabase) -> None:
    url = database.url.replace("ledger@", "ledger:hunter2@")
    with open_ledger(url) as ledger:
        assert "hunter2" not in ledger.url and ledger.url.startswith("postgresql://ledger@/")
        assert "hunter2" not in ledger.verify().url
        with pytest.raises(LedgerError) as caught:
            ledger.balance("nobody", MONEY)
        assert "hunter2" not in str(caught.value)


def test_server_needs_psycopg(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    monkeypatch.delitem(sys.modules, "tollsplit.ledger.postgres", raising=False)
    with pytest.raises(LedgerError, match=r"install psycopg: pip install 'tollsplit\[postgres\]'"):
        open_ledger("postgresql://alice:hunter2@host/books")


def test_server_without_a_ledger_is_left_alone(database: PostgresDatabase) -> None:
    with pytest.raises(LedgerError, match="no such ledger; `tollsplit ledger init` makes one"):
        open_ledger(database.url, create=False)
    with pytest.raises(Refused):
        database.rows("SELECT * FROM ledger")
    open_ledger(database.url).close()
    open_ledger(database.url, create=False).close()


def test_server_schema_that_is_not_ours_is_left_alone(database: PostgresDatabase) -> None:
    database.rows("CREATE SCHEMA tollsplit")
    with pytest.raises(LedgerError, match='has a schema "tollsplit", but no tollsplit ledger'):
        open_ledger(database.url)


def test_server_with_a_newer_schema_is_refused(database: PostgresDatabase) -> None:
    open_ledger(database.url).close()
    database.rows("UPDATE ledger SET version = 99")
    with pytest.raises(LedgerError, match="schema version 99, this one knows 5; upgrade"):
        open_ledger(database.url)


def test_server_keeps_other_tables_apart(database: PostgresDatabase) -> None:
    database.rows("CREATE TABLE public.accounts (ours TEXT)")
    try:
        with open_ledger(database.url) as ledger:
            ledger.post(run_of(), [record()], [charge()])
            assert ledger.verify().holds
        assert database.rows("SELECT * FROM public.accounts") == []
    finally:
        database.rows("DROP TABLE public.accounts")


def test_server_commits_to_the_disk(ledger: Ledger) -> None:
    assert next(ledger._store.rows("SHOW synchronous_commit")) == ("on",)


def test_server_may_not_truncate(ledger: Ledger, database: PostgresDatabase) -> None:
    ledger.post(run_of(), [record()], [charge()])
    for table in ("accounts", "postings", "usage_records", "events", "holds"):
        with pytest.raises(Refused, match=r"append-only|not deleted"):
            database.rows(f"TRUNCATE {table} CASCADE")


def test_server_lock_is_waited_for_and_given_up(database: PostgresDatabase) -> None:
    with open_ledger(database.url, wait_s=0.3) as ledger:
        ledger.post(run_of(), [record()], [])
        with psycopg.connect(database.url) as other:
            other.execute("SELECT * FROM tollsplit.accounts FOR UPDATE")
            with pytest.raises(LedgerError, match=r"locked .* more than 0.3 s: let the other"):
                ledger.post(run_of("e2"), [record(epoch="e2")], [])
            assert held(ledger)["operator:traffic", "octet"] == 1_000  # readers don't wait
            other.rollback()
        assert ledger.post(run_of("e2"), [record(epoch="e2")], []).booked
        assert ledger.verify().holds


@pytest.mark.parametrize("locked", [
    "SELECT pg_advisory_xact_lock(1953264496)",  # whose turn it is to post a run
    "SELECT * FROM tollsplit.accounts WHERE name = 'alice' FOR UPDATE",
    "SELECT * FROM tollsplit.holds FOR UPDATE",
])  # fmt: skip
def test_server_hold_that_is_over_lets_nobody_wait_for_somebody_else(
    database: PostgresDatabase, locked: str
) -> None:
    """A run may take a minute to be posted; who transfers meanwhile comes first."""
    now_ns = 10**18
    with open_ledger(database.url, clock_ns=lambda: now_ns, wait_s=0.5) as ledger:
        for name in ("alice", "bob", "shop"):
            ledger.open_account(name, MONEY, "card")
        ledger.hold(Hold("h", "alice", MONEY, 5, 60))
        now_ns += 60 * 10**9
        with psycopg.connect(database.url) as other:
            other.execute(locked)
            ledger.transfer(Transfer("t", "payment", (
                Posting("bob", MONEY, -1), Posting("shop", MONEY, 1))))  # fmt: skip
            assert ledger.balance("alice", MONEY).held == 0
            other.rollback()
        ledger.expire_holds()
        assert ledger.held("h").state == "expired"
        assert ledger.verify().findings == ()


def test_server_connection_that_is_cut_books_nothing(database: PostgresDatabase) -> None:
    ledger = open_ledger(database.url)

    def records() -> Iterator[object]:
        yield record()
        database.rows("SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                      "WHERE application_name = 'tollsplit'")  # fmt: skip

    with closing(ledger), pytest.raises(LedgerError, match="what was booked is known by its key"):
        ledger.post(run_of(), records(), [])  # type: ignore[arg-type]
    with open_ledger(database.url) as again:
        assert again.balances() == []
        assert again.post(run_of(), [record()], []).booked


def test_server_writers_that_meet_wait_in_one_order(database: PostgresDatabase) -> None:
    """Each locks its accounts in their order, so no two ever wait for each other in a circle."""
    names = ["a", "b", "c", "d"]
    with open_ledger(database.url) as ledger:
        for name in names:
            ledger.open_account(name, MONEY, "card")
    failures: list[BaseException] = []

    def write(number: int) -> None:
        try:
            with open_ledger(database.url) as ledger:
                for turn in range(40):
                    there, back = (names, names[::-1])[number % 2][turn % 3:][:2]
                    ledger.transfer(Transfer(
                        f"{number}-{turn}", "payment",
                        (Posting(there, MONEY, -1), Posting(back, MONEY, 1)),
                    ))  # fmt: skip
        except BaseException as error:
            failures.append(error)

    threads = [Thread(target=write, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []
    with open_ledger(database.url) as ledger:
        assert ledger.verify().findings == ()
        assert sum(held(ledger).values()) == 0


def test_server_batches_that_share_keys_wait_in_one_order(database: PostgresDatabase) -> None:
    """Whoever comes second finds all keys of the first, in whatever order they stand."""
    with open_ledger(database.url) as ledger:
        for name in ("a", "b"):
            ledger.open_account(name, MONEY, "card")
    move = (Posting("a", MONEY, -1), Posting("b", MONEY, 1))
    outcomes: list[object] = []

    def write(step: int) -> None:
        with open_ledger(database.url) as ledger:
            for turn in range(10):
                batch = [Transfer(f"{turn}-{n}", "payment", move) for n in range(60)][::step]
                try:
                    outcomes.extend(posted.booked for posted in ledger.transfer_all(batch))
                except LedgerError as error:
                    outcomes.append(error)

    threads = [Thread(target=write, args=(step,)) for step in (1, -1, 1, -1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [o for o in outcomes if isinstance(o, LedgerError)] == []
    assert (outcomes.count(True), outcomes.count(False)) == (10 * 60, 3 * 10 * 60)


def test_server_key_that_two_bring_at_once_is_booked_once(database: PostgresDatabase) -> None:
    with open_ledger(database.url) as first, open_ledger(database.url) as second:
        for name, floor in (("a", 0), ("b", None)):
            first.open_account(name, MONEY, "card", floor)
        give = Transfer("give", "payment", (Posting("a", MONEY, 5), Posting("b", MONEY, -5)))
        take = Transfer("take", "payment", (Posting("a", MONEY, -5), Posting("b", MONEY, 5)))
        outcomes = []
        with first.atomic():
            assert first.transfer(give).booked
            waiting = Thread(target=lambda: outcomes.append(second.transfer(give)))
            waiting.start()
            time.sleep(0.2)
            assert outcomes == []
        waiting.join(10)
        assert [outcome.booked for outcome in outcomes] == [False]
        # A balance that changed while it was waited for is seen as it is.
        refused = []

        def take_too() -> None:
            try:
                second.transfer(Transfer("take too", "payment", take.postings))
            except OverdraftError as error:
                refused.append(error)

        with first.atomic():
            first.transfer(take)
            waiting = Thread(target=take_too)
            waiting.start()
            time.sleep(0.2)
        waiting.join(10)
        assert len(refused) == 1
        assert held(first)["a", MONEY] == 0
