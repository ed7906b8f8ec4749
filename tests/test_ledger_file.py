"""The ledger's file: what is none is refused, and nothing half-booked survives anything."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import bookings
import pytest
from bookings import (
    RECORDS,
    book_many,
    charge,
    held,
    record,
    rows,
    run_of,
)

from tollsplit.errors import LedgerError
from tollsplit.ledger import open_ledger
from tollsplit.ledger.schema import SCHEMA_VERSION

VERSION_1 = Path(__file__).with_name("ledger_version_1.sql")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


# --- files that are no ledgers ----------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("mysql://user:secret@host/db", "expected sqlite:///PATH, .* got mysql://…"),
        ("sqlite://ledger.db", "expected sqlite:///PATH"),
        ("sqlite:///", "expected sqlite:///PATH"),
        ("sqlite:///:memory:", "expected sqlite:///PATH"),
        ("ledger.db", "expected sqlite:///PATH"),
        ("postgresql:user:secret@host/db", "expected sqlite:///PATH"),
    ],
)
def test_ledger_url_is_refused(url: str, message: str) -> None:
    with pytest.raises(LedgerError, match=message) as caught:
        open_ledger(url)
    assert "secret" not in str(caught.value)


def test_ledger_url_may_be_relative(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(path.parent)
    open_ledger("sqlite:///ledger.db").close()
    assert path.is_file()
    open_ledger(f"sqlite:///{path}", create=False).close()


def test_ledger_file_that_is_not_ours_is_left_alone(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE songs (title TEXT)")
    before = path.read_bytes()
    with pytest.raises(LedgerError, match="not a tollsplit ledger; name another file"):
        open_ledger(f"sqlite:///{path}")
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.write_text("not a database" * 100), "expected a tollsplit ledger"),
        (lambda path: path.mkdir(), "expected a file"),
        (lambda path: None, "no such ledger"),
        (lambda path: path.parent.rmdir(), "no such ledger"),
    ],
    ids=["text", "folder", "missing", "no folder"],
)
def test_ledger_that_is_none_is_refused(path: Path, make: object, message: str) -> None:
    make(path)  # type: ignore[operator]
    with pytest.raises(LedgerError, match=message):
        open_ledger(f"sqlite:///{path}", create=False)


def test_ledger_in_a_folder_that_is_missing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="expected a file in an existing folder"):
        open_ledger(f"sqlite:///{tmp_path}/none/ledger.db")


def test_ledger_of_a_newer_schema_is_refused(path: Path) -> None:
    open_ledger(f"sqlite:///{path}").close()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(LedgerError, match="schema version 99, this one knows 5; upgrade"):
        open_ledger(f"sqlite:///{path}")


@pytest.fixture
def old(path: Path) -> Path:
    """A ledger that schema version 1 made."""
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(VERSION_1.read_text("utf-8"))
    return path


def test_ledger_of_an_older_schema_is_migrated_in_place(old: Path) -> None:
    with open_ledger(f"sqlite:///{old}", create=False) as ledger:
        assert ledger.verify().findings == ()  # the schema is that of a new one, too
        assert held(ledger)["operator:traffic", "octet"] == 3000
        assert not ledger.post(
            run_of("e2"), [record(epoch="e2", account="bob", subscriber="10.0.0.8")],
            [charge(44, "bob", remainder=(2, 3))],
        ).booked  # fmt: skip
        assert ledger.post(run_of("e3"), [record(epoch="e3")], [charge()]).booked
    assert rows(old, "PRAGMA user_version") == [(SCHEMA_VERSION,)]


def test_ledger_that_cannot_be_migrated_stays_as_it_was(old: Path) -> None:
    with closing(sqlite3.connect(old)) as connection:
        connection.execute("CREATE TABLE events (ours TEXT)")
    before = rows(old, "SELECT name, sql FROM sqlite_schema")
    with pytest.raises(LedgerError, match="table events already exists"):
        open_ledger(f"sqlite:///{old}")
    assert rows(old, "SELECT name, sql FROM sqlite_schema") == before
    assert rows(old, "PRAGMA user_version") == [(1,)]


# --- other processes, dying ones, full disks --------------------------------------------

def start(path: Path, epoch: str, *prefix: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*prefix, sys.executable, bookings.__file__, f"sqlite:///{path}", epoch],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def finish(process: subprocess.Popen[str]) -> tuple[str, str]:
    output, errors = process.communicate("\n", timeout=60)
    return output, errors


def test_ledger_books_once_for_two_processes_at_once(path: Path) -> None:
    processes = [start(path, "e1") for _ in range(2)]
    outcomes = sorted(finish(process)[0].split()[-1] for process in processes)
    assert outcomes == ["booked", "known"]
    with open_ledger(f"sqlite:///{path}") as ledger:
        assert held(ledger)["operator:traffic", "octet"] == 1000 * RECORDS
        assert ledger.verify().holds


@pytest.mark.parametrize("blocks", [16, 64, 128])
def test_ledger_on_a_full_disk_books_nothing(path: Path, blocks: int) -> None:
    """A limit on the size of files, in KiB, stands for the disk."""
    with open_ledger(f"sqlite:///{path}") as ledger:
        ledger.post(run_of(), [record()], [charge()])
        before = held(ledger)
    limit = ("prlimit", f"--fsize={path.stat().st_size + blocks * 1024}")
    _, errors = finish(start(path, "e2", *limit))
    assert "LedgerError" in errors and "nothing was booked; make room" in errors, errors
    with open_ledger(f"sqlite:///{path}") as ledger:
        assert held(ledger) == before
        assert ledger.verify().holds
        assert book_many(ledger, "e2").booked


def test_ledger_that_stays_locked_is_waited_for_and_given_up(path: Path) -> None:
    with open_ledger(f"sqlite:///{path}", wait_s=0.2) as ledger:
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            began = time.monotonic()
            with pytest.raises(LedgerError, match=r"locked .* more than 0.2 s: let the other"):
                ledger.post(run_of(), [record()], [])
            assert 0.15 < time.monotonic() - began < 10
            assert ledger.balances() == []  # readers don't wait
        assert ledger.post(run_of(), [record()], []).booked


def test_ledger_keeps_every_commit(path: Path) -> None:
    """What a booking promises rests on these settings."""
    with open_ledger(f"sqlite:///{path}") as ledger:
        store = ledger._store
        found = [next(store.rows(f"PRAGMA {name}"))[0]
                 for name in ("journal_mode", "synchronous", "foreign_keys")]  # fmt: skip
    assert found == ["wal", 2, 1]


def test_ledger_is_made_once_by_many_who_open_it_at_once(tmp_path: Path) -> None:
    """Whoever comes while another makes the file finds a ledger, too."""
    failed: list[BaseException] = []

    def enter(path: Path, together: threading.Barrier) -> None:
        together.wait()
        try:
            open_ledger(f"sqlite:///{path}").close()
        except LedgerError as error:
            failed.append(error)

    for number in range(40):
        together = threading.Barrier(4)
        threads = [threading.Thread(target=enter, args=(tmp_path / f"{number}.db", together))
                   for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert failed == []
