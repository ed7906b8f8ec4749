"""A ledger in one file: SQLite with a write-ahead log, every commit on the disk."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from functools import cache
from pathlib import Path
from types import TracebackType

from ..errors import LedgerError, UnbookableError
from ..limits import LEDGER_CACHE_OCTETS, LEDGER_LOG_OCTETS, LEDGER_WAIT_S, VERIFY_FINDINGS_MAX
from . import annex, chain
from .annex import Annex, Guard, Statement
from .schema import SCHEMA_VERSION, versions
from .store import Row, Turn

APPLICATION_ID = 0x746C7370  # "tlsp", in the file's header

_ROOM = "nothing was booked; make room there and run it again"
# What a person does about it, by SQLite's primary result code.
_REMEDIES = {
    sqlite3.SQLITE_BUSY: "let the other process finish, or end it, and run it again",
    sqlite3.SQLITE_LOCKED: "let the other process finish, or end it, and run it again",
    sqlite3.SQLITE_FULL: _ROOM,
    sqlite3.SQLITE_IOERR: _ROOM,
    sqlite3.SQLITE_READONLY: "make the file and its folder writable",
    sqlite3.SQLITE_CANTOPEN: "expected a file in an existing folder that you may write to",
    sqlite3.SQLITE_NOTADB: "expected a tollsplit ledger; name another file",
    sqlite3.SQLITE_CORRUPT: "the file is damaged; restore it from a backup",
}


class _Explained:
    """Says in our words what SQLite cannot do. Every statement runs inside."""

    def __init__(self, path: str, wait_s: float) -> None:
        self._path = path
        self._wait_s = wait_s

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if isinstance(error, sqlite3.Error):
            # The low octet is the primary code (sqlite.org/rescode.html).
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF
            found = str(error)
            if code == sqlite3.SQLITE_BUSY:
                found = f"locked by another process for more than {self._wait_s:g} s"
            elif code == sqlite3.SQLITE_IOERR:
                found = f"cannot be written or read ({error})"
            remedy = _REMEDIES.get(code)
            message = f"{found}: {remedy}" if remedy else found
            # What a row says is refused, whoever says it again.
            final = code == sqlite3.SQLITE_CONSTRAINT
            raise (UnbookableError if final else LedgerError)(
                f"{self._path}: {message}") from error
        if isinstance(error, OverflowError):
            raise UnbookableError(
                f"{self._path}: a number beyond 63 bits: {error}") from error
        if isinstance(error, UnicodeEncodeError):
            raise UnbookableError(
                f"{self._path}: {error.object!r} is not valid Unicode; rename it"
            ) from error


class Sqlite:
    """A Store in an SQLite file."""

    def __init__(
        self, url: str, path: str, *, create: bool, clock_ns: Callable[[], int],
        wait_s: float = LEDGER_WAIT_S,
    ) -> None:  # fmt: skip
        self.url = url
        self._clock_ns = clock_ns
        self._path = path
        self._wait_s = wait_s
        self._is_writing = False
        self._explained = _Explained(path, wait_s)
        # In this order: between two looks another process may have made the file.
        if not Path(path).exists():
            if not create:
                raise LedgerError(f"{path}: no such ledger; `tollsplit ledger init` makes one")
        elif not Path(path).is_file():
            raise LedgerError(f"{path}: expected a file, got something else")
        with self._explained:
            # Transactions begin and end where this module says so. Threads may hand it on to each
            # other: one at a time.
            self._connection = sqlite3.connect(
                path, timeout=wait_s, isolation_level=None, check_same_thread=False)
        try:
            with self._explained:
                self._open()
        except BaseException:
            self._connection.close()
            raise

    def _open(self) -> None:
        # Before anything else: a file that is not ours is not touched.
        if self._version() < SCHEMA_VERSION:
            self._switch_to_wal()
            with self.writing():
                # Asked again: another process may have been faster.
                self._migrate(self._version())
        self._switch_to_wal()
        for pragma in (
            "synchronous = FULL",
            "foreign_keys = ON",
            "recursive_triggers = ON",  # REPLACE deletes too
            f"wal_autocheckpoint = {LEDGER_LOG_OCTETS // self._pragma('page_size')}",
            f"cache_size = -{LEDGER_CACHE_OCTETS // 1024}",
        ):
            self._connection.execute(f"PRAGMA {pragma}")

    def _pragma(self, name: str) -> int:
        return int(self._connection.execute(f"PRAGMA {name}").fetchone()[0])

    def _version(self) -> int:
        """The schema's version, 0 of an empty database; raises LedgerError when it holds
        something else, or what only a newer tollsplit knows.
        """
        # In one statement: another process may be about to commit all three.
        application, version, tables = self._connection.execute(_STAMPS).fetchone()
        if not (application or version or tables):
            return 0
        if application != APPLICATION_ID:
            raise LedgerError(
                f"{self._path}: an SQLite database, but not a tollsplit ledger; name another file"
            )
        if version > SCHEMA_VERSION:
            raise LedgerError(
                f"{self._path}: written by a newer tollsplit: schema version {version}, "
                f"this one knows {SCHEMA_VERSION}; upgrade tollsplit"
            )
        return int(version)

    def _switch_to_wal(self) -> None:
        """Readers and the writer then don't wait for each other. The file remembers it."""
        deadline = time.monotonic() + self._wait_s
        while True:  # SQLite does not wait for this lock by itself
            try:
                mode = self._connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                    raise
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.01)
                continue
            if mode != "wal":
                raise LedgerError(
                    f"{self._path}: this file system cannot keep a write-ahead log; "
                    "put the ledger on a local disk"
                )
            return

    def _migrate(self, version: int) -> None:
        for statement in _steps(version):
            self._connection.execute(statement)
        self._connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        self._connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        if version < chain.SINCE_VERSION:
            chain.begin(self, self._clock_ns())

    @contextmanager
    def _transaction(self, begin: str) -> Iterator[None]:
        with self._explained:
            self._connection.execute(begin)
        try:
            yield
            with self._explained:
                self._connection.execute("COMMIT")
        except BaseException:
            # A full disk makes SQLite roll back by itself.
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise

    def _expect_transaction(self) -> None:
        if not self._connection.in_transaction:
            # Whatever was written from here on would be committed at once.
            raise LedgerError(f"{self._path}: the transaction around this one was undone")

    @contextmanager
    def _savepoint(self) -> Iterator[None]:
        self._expect_transaction()
        self._connection.execute("SAVEPOINT inner_transaction")
        try:
            yield
        except BaseException:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK TO inner_transaction")
                self._connection.execute("RELEASE inner_transaction")
            raise
        self._connection.execute("RELEASE inner_transaction")

    @contextmanager
    def writing(self) -> Iterator[None]:
        if self._is_writing:
            with self._savepoint():
                yield
            return
        with self._transaction("BEGIN IMMEDIATE"):
            self._is_writing = True
            try:
                yield
            finally:
                self._is_writing = False

    def reading(self) -> AbstractContextManager[None]:
        return nullcontext() if self._connection.in_transaction else self._snapshot()

    @contextmanager
    def _snapshot(self) -> Iterator[None]:
        with self._transaction("BEGIN"):
            self._connection.execute("PRAGMA query_only = ON")
            try:
                yield
            finally:
                self._connection.execute("PRAGMA query_only = OFF")

    def serialise(self, what: Turn = "runs") -> None:
        """Who writes has the whole file."""
        self._expect_transaction()

    def locking(self, alias: str, *, skipping: bool = False) -> str:
        return ""

    def rows(self, sql: str, *values: object) -> Iterator[Row]:
        with self._explained:
            yield from self._connection.execute(sql, values)

    def write(self, sql: str, rows: Iterable[Row]) -> int:
        with self._explained:
            return self._connection.executemany(sql, rows).rowcount

    def copy(self, table: str, columns: str, rows: Iterable[Row]) -> None:
        marks = ", ".join("?" * (columns.count(",") + 1))
        self.write(f"INSERT INTO {table} ({columns}) VALUES ({marks})", rows)

    def numbers(self, table: str, count: int) -> range:
        ((last,),) = self.rows(f"SELECT coalesce(max(id), 0) FROM {table}")
        return range(last + 1, last + 1 + count)

    def define(self, annexes: Sequence[Annex]) -> None:
        with self.writing(), self._explained:
            self._connection.execute(annex.VERSIONS)
            before = annex.found(self)
            annex.note(self, annexes, before)
            for statement in annex.statements(annexes, before):
                self._connection.execute(_native(statement))

    def annexes(self) -> dict[str, int]:
        there = list(self.rows("SELECT 1 FROM sqlite_schema WHERE name = 'service_annexes'"))
        return annex.found(self) if there else {}

    def integrity(self, annexes: Sequence[Annex] = ()) -> Iterator[str]:
        found = self.rows(f"PRAGMA integrity_check({VERIFY_FINDINGS_MAX})")
        yield from (f"file: {text}" for (text,) in found if text != "ok")
        for table, row, parent, _ in self.rows("PRAGMA foreign_key_check"):
            place = f"row {row}" if row is not None else "a row"
            yield f"table {table}: {place} names a row of {parent} that is not there"
        ours: dict[str, str] = dict(self.rows(_NAMES))
        expected = _expected() | _of_annexes(annex.as_found(annexes, self.annexes()))
        for name, sql in expected.items():
            if name not in ours:
                yield f"schema: {name} is missing"
            elif ours[name] != sql:
                yield f"schema: {name} was changed"
        for name in ours:
            if name not in expected and (annexes or not name.startswith(annex.PREFIX)):
                yield f"schema: {name} is not ours"

    def close(self) -> None:
        self._connection.close()


_STAMPS = """
    SELECT application_id, user_version, (SELECT count(*) FROM sqlite_schema)
    FROM pragma_application_id, pragma_user_version"""
_NAMES = "SELECT name, sql FROM sqlite_schema WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite_%'"


def _steps(version: int) -> Iterator[str]:
    """The statements that lead from a version to the newest."""
    for number, sql in versions("sqlite.sql").items():
        statement = ""
        for line in sql.splitlines(True) if number > version else ():
            statement += line
            if sqlite3.complete_statement(statement):
                yield statement
                statement = ""


def _native(statement: Statement) -> str:
    """The statement in SQLite's words."""
    if not isinstance(statement, Guard):
        return statement
    when = f" WHEN {statement.when}" if statement.when else ""
    message = statement.message.replace("'", "''")
    return (
        f"{statement.head} ON {statement.table}{when} BEGIN SELECT RAISE(ABORT, '{message}'); END"
    )


def _of_annexes(statements: Iterable[Statement]) -> dict[str, str]:
    """Tables, indexes and triggers of other parts, as they are made."""
    with closing(sqlite3.connect(":memory:")) as connection:
        for statement in statements:
            connection.execute(_native(statement))
        return dict(connection.execute(_NAMES))


@cache
def _expected() -> dict[str, str]:
    """Tables, indexes and triggers as a fresh ledger has them."""
    connection = sqlite3.connect(":memory:")
    try:
        for statement in _steps(0):
            connection.execute(statement)
        return dict(connection.execute(_NAMES))
    finally:
        connection.close()
