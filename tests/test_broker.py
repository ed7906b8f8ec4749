"""Many gateways, one book: a real broker between them, and whatever can happen on the way."""

from __future__ import annotations

import inspect
import os
import signal
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest
from batches import (
    SUBSCRIBERS,
    ask,
    booked_of,
    dispatching,
    ended,
    expect_booked,
    in_a_process,
    ingest,
    ingesting,
    make_streams,
    octets_of,
    segments,
    send,
    wait,
)
from brokers import Broker
from databases import Cluster, Database, PostgresDatabase
from gateways import packet, running, write_rules
from nats.aio.msg import Msg
from nats.js import JetStreamContext

from tollsplit.broker import dispatch as dispatches
from tollsplit.broker import streams
from tollsplit.broker.address import parse_url
from tollsplit.broker.dispatch import Dispatch
from tollsplit.engine.journal import read
from tollsplit.gateway.booking import book
from tollsplit.ledger import Ledger, open_ledger
from tollsplit.ledger.booking import Booking
from tollsplit.model import Event
from tollsplit.rules import RuleSet

pytestmark = pytest.mark.usefixtures("hurried")
DAILY = ', quota = "2 KiB", per = "day"'


@pytest.fixture
def rules(tmp_path: Path) -> RuleSet:
    return write_rules(tmp_path, more=DAILY, window="1m")


# --- what passes is what would be booked without a broker ---------------------------------


def test_broker_books_what_delivery_would(
    tmp_path: Path, rules: RuleSet, broker: Broker, database: Database
) -> None:
    """The same records, shares, charges and fingerprints, a day's quota and price included."""
    make_streams(broker)
    paths = segments(tmp_path / "journal", rules, 6)
    direct = f"sqlite:///{tmp_path}/direct.db"
    with open_ledger(direct) as ledger:
        for path in paths:
            book(ledger, read(path))
    send(broker, paths)
    found = ingest(broker, database.url)
    assert (found.batches, found.records, found.known) == (6, 6 * SUBSCRIBERS, 0)
    expect_booked(database.url, database.rows, octets_of(6))
    here = sqlite3.connect(tmp_path / "direct.db")
    assert booked_of(database.rows) == booked_of(lambda sql: here.execute(sql).fetchall())
    here.close()
    assert ingest(broker, database.url).batches == 0


def test_gateway_publishes_and_lets_go_of_what_is_booked(
    home: Path, broker: Broker, books: PostgresDatabase
) -> None:
    """A live run: windows of a second, events, and what is left for the next run."""
    make_streams(broker)

    def publish(leftovers: list[Path], noticed: Any) -> Dispatch:
        return Dispatch(parse_url(broker.url), "test", leftovers, noticed)

    finals: list[int] = []  # what goes on to collectors
    options: dict[str, Any] = {
        "ledger": None, "journal": home / "journal", "publish": publish, "booked": False,
        "final": lambda usage, at: finals.append(sum(record.octets for record in usage))}
    given = 0
    with running(home, **options) as run:
        for _ in range(12):
            run.frames.lanes[0].give(packet(time.time_ns()))
            given += 128
            time.sleep(0.1)
            ingest(broker, books.url)
    assert list((home / "journal").glob("*.segment"))  # the last window's nobody has booked yet
    ingest(broker, books.url)
    with running(home, **options) as run:
        wait(lambda: run.last.booked_records)
    assert not list((home / "journal").glob("*.segment"))
    expect_booked(books.url, books.rows, given)
    assert sum(finals) == given


def test_events_go_to_the_ledger_once(broker: Broker, database: Database) -> None:
    make_streams(broker)
    events = [Event("quota_end", 7, "gw1", "e", subscriber="10.0.0.1", period_start_ns=0),
              Event("lost", 8, "gw1", "e", octets=3)]
    for _ in range(2):
        with dispatching(broker) as dispatch:
            for event in events:
                dispatch.tell(event)
            wait(lambda dispatch=dispatch: not dispatch._events)  # type: ignore[misc]
        ingest(broker, database.url)
    with open_ledger(database.url) as ledger:
        assert ledger.events() == events


# --- ingesters that die -------------------------------------------------------------------


class Death:
    """Kills its process at one of the steps that it has wrapped."""

    def __init__(self, step: int) -> None:
        self._left = step

    def pass_(self) -> None:
        self._left -= 1
        if not self._left:
            os.kill(os.getpid(), signal.SIGKILL)

    def wrap(self, owner: Any, name: str) -> None:
        call = getattr(owner, name)

        def wrapped(*arguments: Any, **named: Any) -> Any:
            self.pass_()
            result = call(*arguments, **named)
            self.pass_()
            return result

        async def awaited(*arguments: Any, **named: Any) -> Any:
            self.pass_()
            result = await call(*arguments, **named)
            self.pass_()
            return result

        setattr(owner, name, awaited if inspect.iscoroutinefunction(call) else wrapped)


def ingest_until(broker: Broker, url: str, step: int) -> int:
    """Take in what there is in a process that is killed at a step; how it ended."""

    def work() -> None:
        death = Death(step)
        death.wrap(Ledger, "post")
        death.wrap(Booking, "write")  # inside the transaction
        death.wrap(JetStreamContext, "publish")  # the answer
        death.wrap(JetStreamContext, "purge_stream")
        death.wrap(Msg, "ack_sync")
        ingest(broker, url)

    return ended(in_a_process(work))


def test_ingester_killed_at_each_step_books_all_once(
    tmp_path: Path, rules: RuleSet, broker: Broker, books: PostgresDatabase,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Before COMMIT, between COMMIT and the answer, before parts are purged, before and after the
    acknowledgement: each batch in parts; whenever one dies, another goes on.
    """
    monkeypatch.setattr(streams, "BROKER_SILENT_S", 0.1)
    monkeypatch.setattr(dispatches, "BROKER_PIECE_OCTETS", 300)
    make_streams(broker)
    paths = segments(tmp_path / "journal", rules, 9)
    with dispatching(broker, paths) as dispatch:
        wait(lambda: dispatch.is_through)
        assert ask(broker, lambda js: js.stream_info("tollsplit")).state.messages >= 27
        for step in range(1, 11):
            assert ingest_until(broker, books.url, step) == -signal.SIGKILL
            expect_true_answers(broker, books)
        ingest(broker, books.url)
        wait(lambda: not dispatch.batches)
    assert dispatch.records == 9 * SUBSCRIBERS
    assert not [path for path in paths if path.exists()]
    assert ask(broker, lambda js: js.stream_info("tollsplit")).state.messages == 0
    expect_booked(books.url, books.rows, octets_of(9))


def expect_true_answers(broker: Broker, books: PostgresDatabase) -> None:
    """Each batch that has an answer is in the ledger, whoever dies next."""
    info = ask(broker, lambda js: js.stream_info("tollsplit_answers", subjects_filter=">"))
    booked = {f"{first}" for (first,) in books.rows("SELECT first_sequence FROM runs")}
    assert {subject.rpartition(".")[2] for subject in info.state.subjects or ()} <= booked


def test_two_ingesters_at_once_share_the_work(
    tmp_path: Path, rules: RuleSet, broker: Broker, books: PostgresDatabase
) -> None:
    make_streams(broker)
    open_ledger(books.url).close()
    for gateway in range(4):
        send(broker, segments(tmp_path / f"journal{gateway}", rules, 10, source=f"gw{gateway}"),
             f"gw{gateway}")
    done = tmp_path / "done"

    def work() -> None:
        found = ingest(broker, books.url)
        with done.open("a") as file:
            file.write(f"{found.batches}\n")

    assert [ended(child) for child in (in_a_process(work), in_a_process(work))] == [0, 0]
    shares = [int(line) for line in done.read_text().split()]
    assert sum(shares) == 40 and min(shares) > 0
    expect_booked(books.url, books.rows, 4 * octets_of(10))


# --- what is sent more than once ----------------------------------------------------------


def test_batches_sent_again_beyond_the_window_are_booked_once(
    tmp_path: Path, rules: RuleSet, broker: Broker, books: PostgresDatabase,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(streams, "BROKER_DUPLICATES_S", 0.1)
    make_streams(broker)
    paths = segments(tmp_path / "journal", rules, 5)
    for _ in range(3):
        send(broker, paths)
        # What waits and comes again takes the place of what waits.
        assert ask(broker, lambda js: js.stream_info("tollsplit")).state.messages == 5
        time.sleep(0.25)
    assert ingest(broker, books.url).batches == 5
    copies = {path: path.read_bytes() for path in paths}
    ask(broker, lambda js: js.purge_stream("tollsplit_answers"))
    for _ in range(2):
        send(broker, paths)
        found = ingest(broker, books.url)
        assert (found.batches, found.known) == (0, 5)
        time.sleep(0.25)
        ask(broker, lambda js: js.purge_stream("tollsplit_answers"))
    assert {path: path.read_bytes() for path in paths} == copies
    expect_booked(books.url, books.rows, octets_of(5))


def test_dispatch_that_dies_sends_again_and_lets_go(
    tmp_path: Path, rules: RuleSet, broker: Broker, books: PostgresDatabase
) -> None:
    """Killed after the broker has it: the next run finds it on the disk, and that it is booked."""
    make_streams(broker)
    paths = segments(tmp_path / "journal", rules, 3)

    def work() -> None:
        with dispatching(broker, paths) as dispatch:
            wait(lambda: any(batch.sent_s is not None for batch in dispatch._batches))
            os.kill(os.getpid(), signal.SIGKILL)

    assert ended(in_a_process(work)) == -signal.SIGKILL
    assert all(path.exists() for path in paths)
    ingest(broker, books.url)
    with dispatching(broker, paths) as dispatch:
        wait(lambda: ingest(broker, books.url) and not dispatch.batches)
    expect_booked(books.url, books.rows, octets_of(3))


# --- brokers, ledgers and gateways that are away --------------------------------------------


def test_broker_restarted_meanwhile_loses_nothing(
    tmp_path: Path, rules: RuleSet, broker: Broker, books: PostgresDatabase
) -> None:
    """Ended, killed, and started again, under an ingester and a gateway that stay."""
    make_streams(broker)
    paths = segments(tmp_path / "journal", rules, 12)
    told: list[str] = []
    with ingesting(broker, books.url, told), dispatching(broker) as dispatch:
        for number, path in enumerate(paths):
            if number in (3, 7):
                broker.stop(signal.SIGKILL if number == 7 else signal.SIGTERM)
            dispatch.add(path)
            if number in (5, 9):
                wait(lambda: dispatch.error is not None)
                broker.start()
                wait(lambda: dispatch.error is None)
        wait(lambda: not dispatch.batches)
    assert any("is back" in text for text in told)
    expect_booked(books.url, books.rows, octets_of(12))


def test_broker_that_lost_its_disk_is_sent_it_again(
    tmp_path: Path, rules: RuleSet, broker: Broker, books: PostgresDatabase,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its acknowledgement is not believed for ever: what is not booked is still on our disk."""
    monkeypatch.setattr(dispatches, "BROKER_RESEND_S", 0.5)
    make_streams(broker)
    with dispatching(broker, segments(tmp_path / "journal", rules, 4)) as dispatch:
        wait(lambda: dispatch.is_through)
        broker.lose_everything()
        make_streams(broker)
        wait(lambda: ingest(broker, books.url) and not dispatch.batches)
    expect_booked(books.url, books.rows, octets_of(4))


def test_gateway_offline_for_an_hour_books_each_minute_once(
    tmp_path: Path, rules: RuleSet, broker: Broker, books: PostgresDatabase
) -> None:
    """Sixty windows close while nobody answers; the run that counted them dies over the last."""
    make_streams(broker)
    broker.stop()
    paths = segments(tmp_path / "journal", rules, 59)
    torn = segments(tmp_path / "journal", rules, 1, epoch="2026-11-18T00:59:00Z", seal=False)
    with dispatching(broker, [*paths, *torn]) as dispatch:
        wait(lambda: dispatch.error is not None)
        assert dispatch.batches == 60
        broker.start()
        with ingesting(broker, books.url):
            wait(lambda: not dispatch.batches)
    notices = [one.text for one in dispatch.told]  # type: ignore[attr-defined]
    assert len(notices) == 3
    assert "what it counted since its last flush is lost" in notices[-1] + notices[-2]
    expect_booked(books.url, books.rows, octets_of(60))


def test_broker_that_is_full_takes_nothing_and_loses_nothing(
    tmp_path: Path, rules: RuleSet, broker: Broker, books: PostgresDatabase
) -> None:
    make_streams(broker, octets=8000)
    paths = segments(tmp_path / "journal", rules, 12)
    with dispatching(broker, paths) as dispatch:
        wait(lambda: dispatch.error is not None)
        assert "maximum bytes exceeded" in str(dispatch.error)
        assert all(path.exists() for path in paths)
        with ingesting(broker, books.url):
            wait(lambda: not dispatch.batches)
        assert dispatch.error is None
    expect_booked(books.url, books.rows, octets_of(12))


# A cursor on the server goes with the server; psycopg says so when it is collected.
@pytest.mark.filterwarnings("ignore:Exception ignored in.*ServerCursor")
def test_ledger_away_keeps_batches_in_the_broker(
    tmp_path: Path, rules: RuleSet, broker: Broker, postgres: Cluster, books: PostgresDatabase
) -> None:
    """The server is restarted, at once, while batches are booked."""
    make_streams(broker)
    open_ledger(books.url).close()
    paths = segments(tmp_path / "journal", rules, 20)
    told: list[str] = []
    with ingesting(broker, books.url, told), dispatching(broker) as dispatch:
        for number, path in enumerate(paths):
            dispatch.add(path)
            if number in (5, 12):
                wait(lambda: dispatch.records)
                postgres.restart()
        wait(lambda: not dispatch.batches)
    expect_booked(books.url, books.rows, octets_of(20))


def test_dispatch_outlives_whatever_its_client_does(
    tmp_path: Path, rules: RuleSet, broker: Broker, books: PostgresDatabase,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Metering ends with the thread that delivers: an answer that makes no sense must not end it,
    nor a credentials file that has gone.
    """
    make_streams(broker)
    credentials = tmp_path / "credentials"

    async def fail(*arguments: Any, **named: Any) -> None:
        raise KeyError("stream")

    with dispatching(broker, segments(tmp_path / "journal", rules, 1),
                     options=f"?credentials={credentials}") as dispatch:
        wait(lambda: "cannot be read" in str(dispatch.error))
        with monkeypatch.context() as broken:
            broken.setattr(JetStreamContext, "publish", fail)
            credentials.write_text("gw1:secret")
            wait(lambda: "stream" in str(dispatch.error))
        wait(lambda: ingest(broker, books.url) and not dispatch.batches)
    expect_booked(books.url, books.rows, octets_of(1))


def test_dispatch_of_two_runs_that_share_a_journal_books_once(
    tmp_path: Path, rules: RuleSet, broker: Broker, books: PostgresDatabase
) -> None:
    """The second takes what the first has sealed for its leftovers; one lets go of it first."""
    make_streams(broker)
    paths = segments(tmp_path / "journal", rules, 12)
    with dispatching(broker, paths) as one, dispatching(broker, paths) as other, \
            ingesting(broker, books.url):
        wait(lambda: not one.batches and not other.batches)
    assert not list((tmp_path / "journal").glob("*.segment*"))
    expect_booked(books.url, books.rows, octets_of(12))
