"""A ledger on a PostgreSQL server, in a schema of its own."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from itertools import chain as chain_rows
from itertools import count, islice
from typing import Any

import psycopg
from psycopg import errors
from psycopg.adapt import Loader
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import TransactionStatus
from psycopg.types.numeric import Int8Dumper

from ..errors import LedgerError, UnbookableError
from ..limits import LEDGER_WAIT_S
from . import annex, chain
from .annex import Annex, Guard, Statement
from .schema import SCHEMA_VERSION, versions
from .store import Row, Turn

SCHEMA = "tollsplit"
# Of advisory locks, which whole databases share: "tlsp" and what follows it.
LOCKS: dict[Turn, int] = {"runs": 0x746C7370, "chain": 0x746C7371}
_FEW = 16

# What a person does about it, by the class of the error.
_REMEDIES: tuple[tuple[type[psycopg.Error], str], ...] = (
    (errors.LockNotAvailable, "let the other process finish, or end it, and run it again"),
    (errors.DeadlockDetected, "nothing was booked; run it again"),
    (errors.DiskFull, "nothing was booked; make room there and run it again"),
    (errors.InsufficientPrivilege, "ask for the right to it, or name another user"),
    (errors.ReadOnlySqlTransaction, "name a server that takes writes"),
    # Also of a connection that was cut while it committed.
    (psycopg.OperationalError, "run it again: what was booked is known by its key"),
)


class Whole(Loader):
    """Sums of BIGINT are NUMERIC; all of ours are whole."""

    def load(self, data: Any) -> int:
        return int(bytes(data))


class Postgres:
    """A Store in a PostgreSQL database."""

    def __init__(
        self, url: str, *, create: bool, clock_ns: Callable[[], int],
        wait_s: float = LEDGER_WAIT_S,
    ) -> None:  # fmt: skip
        self.url = _shown(url)
        self._whole_url = url  # with its password: never shown
        self._cursors = count()
        self._wait_s = wait_s
        self._clock_ns = clock_ns
        self._is_reading = self._is_writing = False
        try:
            # Transactions begin and end where this module says so.
            self._connection = psycopg.connect(
                url, autocommit=True, cursor_factory=psycopg.RawCursor,
                connect_timeout=max(2, int(wait_s)), application_name="tollsplit",
            )  # fmt: skip
        except psycopg.Error as error:
            raise LedgerError(f"{self.url}: {_first_line(error)}") from error
        try:
            with self._explained():
                self._open(create)
        except BaseException:
            self._connection.close()
            raise

    def _open(self, create: bool) -> None:
        connection = self._connection
        connection.adapters.register_loader("numeric", Whole)
        connection.adapters.register_dumper(int, Int8Dumper)
        if connection.info.server_version < 140000:
            raise LedgerError(f"{self.url}: expected PostgreSQL 14 or newer")
        for setting in (
            f"search_path = {SCHEMA}",
            f"lock_timeout = {max(1, round(self._wait_s * 1000))}",
            "synchronous_commit = on",
            "client_encoding = 'UTF8'",
        ):
            connection.execute(f"SET {setting}")
        if self._version() < SCHEMA_VERSION:
            with self.writing():
                self.serialise()
                # Asked again: another process may have been faster.
                self._migrate(self._version(), create)

    def _version(self) -> int:
        """The schema's version, 0 where there is none; raises LedgerError as Sqlite does."""
        ours, any_schema = self._one(
            "SELECT to_regclass($1), to_regnamespace($2)", f"{SCHEMA}.ledger", SCHEMA
        )
        if ours is None and any_schema is None:
            return 0
        if ours is None:
            raise LedgerError(
                f'{self.url}: has a schema "{SCHEMA}", but no tollsplit ledger in it; name another '
                "database"
            )
        (version,) = self._one("SELECT version FROM ledger")
        if version > SCHEMA_VERSION:
            raise LedgerError(
                f"{self.url}: written by a newer tollsplit: schema version {version}, "
                f"this one knows {SCHEMA_VERSION}; upgrade tollsplit"
            )
        return int(version)

    def _migrate(self, version: int, create: bool) -> None:
        if version == 0:
            if not create:
                raise LedgerError(f"{self.url}: no such ledger; `tollsplit ledger init` makes one")
            self._connection.execute(f"CREATE SCHEMA {SCHEMA}")
        _build(self._connection, version)
        if version < chain.SINCE_VERSION:
            chain.begin(self, self._clock_ns())

    def _one(self, sql: str, *values: object) -> Row:
        [row] = self._connection.execute(sql.encode(), values).fetchall()
        return tuple(row)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Say in our words what PostgreSQL cannot do."""
        try:
            yield
        except psycopg.Error as error:
            found = _first_line(error)
            if isinstance(error, errors.LockNotAvailable):
                found = f"locked by another process for more than {self._wait_s:g} s"
            elif isinstance(error, errors.NumericValueOutOfRange):
                found = f"a number beyond 63 bits: {found}"
            for kind, remedy in _REMEDIES:
                if isinstance(error, kind):
                    found = f"{found}: {remedy}"
                    break
            # What a row says is refused, whoever says it again.
            final = isinstance(error, psycopg.DataError | psycopg.IntegrityError)
            raise (UnbookableError if final else LedgerError)(f"{self.url}: {found}") from error
        except UnicodeEncodeError as error:
            raise UnbookableError(
                f"{self.url}: {error.object!r} is not valid Unicode; rename it"
            ) from error

    @contextmanager
    def writing(self) -> Iterator[None]:
        was, self._is_writing = self._is_writing, True
        try:
            if was:
                self._expect_transaction()
            # Inside another one it is a savepoint.
            with self._explained(), self._connection.transaction():
                yield
                # Leaving a connection that was cut is no error to psycopg.
                self._expect_transaction()
        finally:
            self._is_writing = was

    def _expect_transaction(self) -> None:
        if self._connection.info.transaction_status != TransactionStatus.INTRANS:
            raise LedgerError(
                f"{self.url}: the transaction was undone meanwhile; run it again: what was booked "
                "is known by its key"
            )

    def reading(self) -> AbstractContextManager[None]:
        return nullcontext() if self._is_writing or self._is_reading else self._snapshot()

    @contextmanager
    def _snapshot(self) -> Iterator[None]:
        with self._explained(), self._connection.transaction():
            self._connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            self._is_reading = True
            try:
                yield
            finally:
                self._is_reading = False

    def serialise(self, what: Turn = "runs") -> None:
        self._expect_transaction()
        with self._explained():
            self._connection.execute("SELECT pg_advisory_xact_lock($1)", (LOCKS[what],))

    def locking(self, alias: str, *, skipping: bool = False) -> str:
        # Rows that refer to an account lock it too, and less than this.
        return f" FOR NO KEY UPDATE OF {alias}" + (" SKIP LOCKED" if skipping else "")

    def rows(self, sql: str, *values: object) -> Iterator[Row]:
        with self._explained():
            if self._is_reading:  # what is read may be larger than memory
                name = f"rows_{next(self._cursors)}"
                with psycopg.RawServerCursor(self._connection, name) as cursor:
                    cursor.itersize = 2_000
                    cursor.execute(_native(sql), values)
                    yield from cursor
            else:
                yield from self._connection.execute(_native(sql), values)

    def write(self, sql: str, rows: Iterable[Row]) -> int:
        native, batch = _native(sql), list(rows)
        with self._explained(), self._connection.cursor() as cursor:
            if len(batch) == 1:  # without the round trips of a pipeline
                cursor.execute(native, batch[0])
            elif batch:
                cursor.executemany(native, batch)
            return max(0, cursor.rowcount)  # -1: there was no row

    def copy(self, table: str, columns: str, rows: Iterable[Row]) -> None:
        remaining = iter(rows)
        few = list(islice(remaining, _FEW))
        if len(few) < _FEW:  # setting COPY up takes as long as some dozen of them
            marks = ", ".join("?" * (columns.count(",") + 1))
            self.write(f"INSERT INTO {table} ({columns}) VALUES ({marks})", few)
            return
        with self._explained(), self._connection.cursor() as cursor, cursor.copy(
            f"COPY {table} ({columns}) FROM STDIN"
        ) as copy:
            for row in chain_rows(few, remaining):
                copy.write_row(row)

    def numbers(self, table: str, count: int) -> Sequence[int]:
        found = self.rows(
            "SELECT nextval(CAST(?1 AS regclass)) FROM generate_series(1, ?2)", f"{table}_id_seq",
            count,
        )  # fmt: skip
        return [number for (number,) in found]

    def define(self, annexes: Sequence[Annex]) -> None:
        with self.writing(), self._explained():
            self.serialise()
            self._connection.execute("SET LOCAL client_min_messages = warning")
            self._connection.execute(annex.VERSIONS.encode())
            before = annex.found(self)
            annex.note(self, annexes, before)
            for statement in annex.statements(annexes, before):
                self._connection.execute(_defining(statement))

    def annexes(self) -> dict[str, int]:
        ((there,),) = self.rows("SELECT to_regclass('service_annexes') IS NOT NULL")
        return annex.found(self) if there else {}

    def integrity(self, annexes: Sequence[Annex] = ()) -> Iterator[str]:
        for table, parent, on, named in list(self.rows(_FOREIGN_KEYS)):
            for row in self.rows(
                f"SELECT CAST(c AS TEXT) FROM {table} c LEFT JOIN {parent} p ON {on} "
                f"WHERE {named} AND p IS NULL"
            ):
                yield f"table {table}: row {row[0]} names a row of {parent} that is not there"
        ours: dict[str, str] = dict(self.rows(_NAMES))
        expected = self._expected(annex.as_found(annexes, self.annexes()))
        for name, definition in expected.items():
            if name not in ours:
                yield f"schema: {name} is missing"
            elif ours[name] != definition:
                yield f"schema: {name} was changed"
        for name in ours:
            if name not in expected and (annexes or not name.startswith(annex.PREFIX)):
                yield f"schema: {name} is not ours"

    def _expected(self, others: Iterable[Statement]) -> dict[str, str]:
        """What a fresh ledger has, and what others made in it, made beside this one and undone."""
        with psycopg.connect(self._whole_url) as other:
            name = f"{SCHEMA}_{other.info.backend_pid}"
            other.execute(f"CREATE SCHEMA {name}")
            other.execute(f"SET LOCAL search_path = {name}")
            _build(other, 0)
            for statement in others:
                other.execute(_defining(statement))
            expected: dict[str, str] = dict(other.execute(_NAMES).fetchall())
            other.rollback()
        return expected

    def close(self) -> None:
        self._connection.close()


def _build(connection: psycopg.Connection[Any], version: int) -> None:
    """Lead the schema that comes first in the search path from a version to the newest."""
    for number, sql in versions("postgres.sql").items():
        if number > version:
            connection.execute(sql.encode())
    connection.execute("DELETE FROM ledger")
    connection.execute(f"INSERT INTO ledger (version) VALUES ({SCHEMA_VERSION})".encode())


def _shown(url: str) -> str:
    """The URL without what is secret in it."""
    try:
        found = conninfo_to_dict(url)
    except psycopg.Error:
        found = {"port": "?"}  # what libpq says of it may quote the password
    user, host, port, name = (
        str(found.get(key) or "") for key in ("user", "host", "port", "dbname")
    )
    # A password with "@" or "/" as they are ends too early; its rest stands in these.
    if "@" in host or "@" in name or not re.fullmatch(r"[\d,]*", port):
        raise LedgerError(
            "postgresql://…: expected postgresql://USER@HOST:PORT/DATABASE; in a password, write "
            "@ as %40 and / as %2F"
        )
    return f"postgresql://{user and f'{user}@'}{host}{port and f':{port}'}/{name}"


def _first_line(error: psycopg.Error) -> str:
    message = error.diag.message_primary or str(error)
    return message.partition("\n")[0]


def _defining(statement: Statement) -> bytes:
    """The statement in PostgreSQL's words; it would not take marks for values."""
    if not isinstance(statement, Guard):
        return statement.encode()
    message = statement.message.replace("'", "''")
    if statement.when:
        target = f"ON {statement.table} FOR EACH ROW WHEN ({statement.when})"
    else:
        truncating = " OR TRUNCATE" if statement.event == "DELETE" else ""
        target = f"{truncating} ON {statement.table}"
    return f"{statement.head} {target} EXECUTE FUNCTION refuse('{message}')".encode()


@cache
def _native(sql: str) -> bytes:
    """The statement with PostgreSQL's own marks for values."""
    numbers = count(1)
    return re.sub(r"\?(\d*)", lambda mark: f"${mark[1] or next(numbers)}", sql).encode()


# Tables with their columns, constraints, indexes, triggers and functions, as the server sees them.
_NAMES = """
    SELECT c.relname, string_agg(format('%s %s %s %s %s', a.attname,
        format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attidentity,
        pg_get_expr(d.adbin, d.adrelid)), ', ' ORDER BY a.attnum)
    FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
    LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
    WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind IN ('r', 'v', 'm', 'p', 'f')
    GROUP BY c.relname
    UNION ALL
    SELECT format('%s.%s', t.relname, k.conname), pg_get_constraintdef(k.oid)
    FROM pg_constraint k JOIN pg_class t ON t.oid = k.conrelid
    WHERE k.connamespace = current_schema()::regnamespace
    UNION ALL
    SELECT i.relname, replace(pg_get_indexdef(i.oid), format(' %I.', current_schema()), ' ')
    FROM pg_class i WHERE i.relnamespace = current_schema()::regnamespace AND i.relkind = 'i'
    UNION ALL
    SELECT format('%s.%s', c.relname, g.tgname), format('%s %s', g.tgenabled, replace(
        pg_get_triggerdef(g.oid), format(' %I.', current_schema()), ' '))
    FROM pg_trigger g JOIN pg_class c ON c.oid = g.tgrelid
    WHERE c.relnamespace = current_schema()::regnamespace AND NOT g.tgisinternal
    UNION ALL
    SELECT format('%s()', p.proname), p.prosrc
    FROM pg_proc p WHERE p.pronamespace = current_schema()::regnamespace
    UNION ALL
    SELECT format('%s, rule %s', tablename, rulename), definition
    FROM pg_rules WHERE schemaname = current_schema()"""
_FOREIGN_KEYS = """
    SELECT CAST(k.conrelid::regclass AS TEXT), CAST(k.confrelid::regclass AS TEXT),
        string_agg(format('c.%I = p.%I', a.attname, b.attname), ' AND '),
        string_agg(format('c.%I IS NOT NULL', a.attname), ' AND ')
    FROM pg_constraint k
    CROSS JOIN LATERAL unnest(k.conkey, k.confkey) AS n (child, parent)
    JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = n.child
    JOIN pg_attribute b ON b.attrelid = k.confrelid AND b.attnum = n.parent
    WHERE k.contype = 'f' AND k.connamespace = current_schema()::regnamespace
    GROUP BY k.oid, k.conrelid, k.confrelid ORDER BY k.conrelid::regclass::text"""
