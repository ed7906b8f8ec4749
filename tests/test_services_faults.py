"""Whatever dies, hangs or gets lost: each call is done once, and the books balance."""

from __future__ import annotations

import os
import random
import resource
import sqlite3
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from typing import Any

import httpx2
import pytest
from bookings import MONEY
from commands import tollsplit
from databases import Database, SqliteFile
from service_process import Process, process, until
from serving import Served, on_sqlite, serving
from test_services import GIVE, LOOK, SERVICE, TAKE, Give, Look, Take

from tollsplit.ledger import Ledger, Transfer, open_ledger
from tollsplit.limits import SERVICE_STOP_S
from tollsplit.model import Posting
from tollsplit.services import catalog, device, inbox
from tollsplit.services.books import Books
from tollsplit.services.client import Client, UnreachableError
from tollsplit.services.problem import Problem
from tollsplit.services.signature import DeviceKey
from tollsplit.services.wire import new_id

SERVICES = (device.SERVICE, inbox.SERVICE, SERVICE)
FUNDS = 1_000_000
KILLS = int(os.environ.get("TOLLSPLIT_KILLS", "40")) // 10


def fund(ledger: Ledger) -> None:
    ledger.open_account("alice", MONEY, "subscriber", floor=0)
    ledger.open_account("gifts", MONEY, "settlement")
    ledger.transfer(Transfer("top-up", "top-up", (
        Posting("alice", MONEY, FUNDS), Posting("gifts", MONEY, -FUNDS))))  # fmt: skip


def balance(url: str) -> int:
    with open_ledger(url) as ledger:
        return ledger.balance("alice", MONEY).balance


def enrolled(url: str, origin: str, **more: Any) -> Client:
    """A client of a service in another process."""
    with open_ledger(url) as ledger, ledger.atomic():
        made = device.enrol(ledger.store, "terminal", "alice", time.time_ns())
    key = DeviceKey.new()
    client = Client(origin, key, **more)
    client.call(device.REGISTER, device.Register(made.token, key.public_key, "phone"))
    return client


@pytest.fixture
def running(database: Database) -> Iterator[Process]:
    """The service in a process of its own, and alice's account."""
    with open_ledger(database.url) as ledger:
        fund(ledger)
    with process(database.url) as made:
        yield made


def test_kill_9_at_any_moment_leaves_each_gift_given_once(
    database: Database, running: Process
) -> None:
    """Devices ask again under their keys until they are answered, whatever dies meanwhile."""
    generator = random.Random(11)
    over = threading.Event()
    answers: dict[str, str] = {}

    def give(client: Client) -> None:
        while not over.is_set():
            key = new_id()
            while key not in answers:
                try:
                    gift = client.call(GIVE, Give(1), key=key).gift
                    client.call(TAKE, Take(gift), key=key)
                    answers[key] = gift
                except (UnreachableError, Problem):
                    time.sleep(0.01)  # it is about to come back

    clients = [enrolled(database.url, running.origin, retries=0) for _ in range(3)]
    threads = [threading.Thread(target=give, args=(client,)) for client in clients]
    for thread in threads:
        thread.start()
    for _ in range(KILLS):
        before = len(answers)
        until(lambda before=before: len(answers) > before + 2)
        time.sleep(generator.uniform(0, 0.1))
        running.kill()
        running.start()
    over.set()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    assert balance(database.url) == FUNDS - len(answers)
    assert len(answers) == len(set(answers.values())) > 2 * KILLS
    states = database.rows("SELECT state, count(*) FROM service_gifts GROUP BY state")
    assert states == [("taken", len(answers))]
    assert running.stop() == 0
    with open_ledger(database.url) as ledger:
        assert ledger.verify(annexes=catalog.annexes(SERVICES)).findings == ()
    for client in clients:
        client.close()


@on_sqlite
def test_stop_ends_streams_at_once_and_answers_what_was_begun(
    database: Database, running: Process
) -> None:
    alice = enrolled(database.url, running.origin, retries=300, wait=lambda _: time.sleep(0.1))
    alice.call(GIVE, Give(1))
    listener = Client(running.origin, alice.key, retries=0)
    notices = listener.notices()
    assert next(notices).kind == "gift.offered"
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(alice.call, GIVE, Give(1)) for _ in range(20)]
        until(lambda: sum(one.done() for one in asked) > 4)
        begun = time.monotonic()
        assert running.stop() == 0
        assert time.monotonic() - begun < SERVICE_STOP_S - 1  # it was not what ended them
        running.start()  # those that came too late ask again
        assert len({one.result(60).gift for one in asked}) == 20
    assert balance(database.url) == FUNDS - 21
    notices.close()
    listener.close()
    alice.close()


@on_sqlite
def test_full_disk_is_told_and_gone_on_from(database: Database, running: Process) -> None:
    """A limit on the size of files stands for the disk."""
    alice, key = enrolled(database.url, running.origin, retries=0), new_id()
    resource.prlimit(running.pid, resource.RLIMIT_FSIZE, (8192, resource.RLIM_INFINITY))
    with pytest.raises(Problem) as caught:
        for _ in range(50):
            alice.call(GIVE, Give(1), key=key)
            key = new_id()
    assert caught.value.kind.name == "unavailable"
    assert alice.http.get(f"{running.origin}/openapi.json").status_code == 200
    unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    resource.prlimit(running.pid, resource.RLIMIT_FSIZE, unlimited)
    gift = alice.call(GIVE, Give(1), key=key).gift
    assert alice.call(LOOK, Look(gift)).state == "offered"
    assert running.stop() == 0
    with open_ledger(database.url) as ledger:
        assert ledger.verify(annexes=catalog.annexes(SERVICES)).findings == ()
    alice.close()


# --- in this process --------------------------------------------------------------------


@contextmanager
def served_gifts(database: Database) -> Iterator[Served]:
    with serving(database, SERVICES, wait_s=0.2) as served:
        if not database.rows("SELECT 1 FROM accounts"):
            served.write(fund)
        yield served


def test_lost_answer_and_retry_have_one_effect(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    with served_gifts(database) as served:
        alice = served.device()
        send, answers = alice.http.send, []

        def losing(request: httpx2.Request, **more: Any) -> httpx2.Response:
            answers.append(send(request, **more).json())
            if len(answers) < 3:
                raise httpx2.ReadError("lost on the way", request=request)
            return send(request, **more) if len(answers) > 3 else _again(answers[-1])

        monkeypatch.setattr(alice.http, "send", losing)
        gift = alice.call(GIVE, Give(5)).gift
        assert [answer["gift"] for answer in answers] == [gift] * 3
        assert balance(database.url) == FUNDS - 5


def _again(answer: dict[str, Any]) -> httpx2.Response:
    return httpx2.Response(201, json=answer)


def test_key_of_a_hundred_at_two_services_of_one_ledger_has_one_effect(database: Database) -> None:
    with served_gifts(database) as one, served_gifts(database) as other:
        alice, key = one.device(retries=0), new_id()
        clients = [alice, other.client(alice.key, retries=0)]

        def once(number: int) -> str:
            try:
                return clients[number % 2].call(GIVE, Give(7), key=key).gift
            except Problem as problem:
                return problem.kind.name

        with ThreadPoolExecutor(32) as pool:
            outcomes = set(pool.map(once, range(100)))
        gifts = outcomes - {"key-in-progress", "unavailable"}
        assert len(gifts) == 1, outcomes
        assert clients[1].call(GIVE, Give(7), key=key).gift in gifts
        assert balance(database.url) == FUNDS - 7


@contextmanager
def locked(database: Database) -> Iterator[None]:
    """Another process has what a gift needs."""
    if isinstance(database, SqliteFile):
        with closing(sqlite3.connect(database.path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            yield
        return
    import psycopg

    with psycopg.connect(database.url) as other:
        other.execute("SELECT * FROM tollsplit.accounts FOR UPDATE")
        yield


def test_locked_database_is_told_and_gone_on_from(database: Database) -> None:
    with served_gifts(database) as served:
        alice, key = served.device(retries=0), new_id()
        with locked(database):
            with pytest.raises(Problem) as caught:
                alice.call(GIVE, Give(3), key=key)
            assert caught.value.kind.name == "unavailable"
            assert caught.value.headers["retry-after"] == "1"
            # Reading waits for nobody.
            assert alice.call(device.MYSELF, device.Myself()).account == "alice"
        assert alice.call(GIVE, Give(3), key=key).state == "offered"
        assert balance(database.url) == FUNDS - 3


@pytest.mark.parametrize("databases", ["postgresql"], indirect=True)
def test_cut_connections_are_made_anew(database: Database) -> None:
    with served_gifts(database) as served:
        alice = served.device(retries=0)
        for _ in range(3):
            key = new_id()
            database.rows("SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                          "WHERE application_name = 'tollsplit'")  # fmt: skip
            assert alice.call(device.MYSELF, device.Myself()).account == "alice"
            with pytest.raises(Problem) as caught:  # the writer's: nothing was booked
                alice.call(GIVE, Give(1), key=key)
            assert caught.value.kind.name == "unavailable"
            alice.call(GIVE, Give(1), key=key)
        assert balance(database.url) == FUNDS - 3


@on_sqlite
def test_verify_checks_what_services_keep(database: Database) -> None:
    with serving(database) as served:
        served.device()
    found = tollsplit("ledger", "verify", "--ledger", database.url)
    assert found.returncode == 0 and "holds: devices: devices are those" in found.stdout
    with database.unguarded():
        database.rows("UPDATE service_devices SET role = 'operator'")
        database.rows("UPDATE service_answers SET fingerprint = 'x'")
        database.rows("CREATE TABLE service_strange (id TEXT)")
    found = tollsplit("ledger", "verify", "--ledger", database.url)
    assert found.returncode == 4
    assert 'operator of "alice" was never enrolled' in found.stderr
    assert "it is not as answers are kept" in found.stderr
    assert "service_strange is not ours" in found.stderr
    assert "holds: devices: enrolments go from state to state" in found.stdout


def test_readers_that_broke_are_not_used_again(database: Database) -> None:
    open_ledger(database.url).close()
    opened: list[Ledger] = []

    def open_one() -> Ledger:
        opened.append(open_ledger(database.url))
        return opened[-1]

    def broken(ledger: Ledger) -> None:
        raise ZeroDivisionError

    with Books(open_one) as books:
        for work in (lambda ledger: None, lambda ledger: None):
            books.read(work)
        assert len(opened) == 2  # the teller's and one reader's
        with pytest.raises(ZeroDivisionError):
            books.read(broken)
        books.read(lambda ledger: None)
        assert len(opened) == 3


