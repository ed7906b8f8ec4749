"""The databases that a ledger may be in, seen from behind the ledger's back.

psycopg is imported where it is needed: the tests of the core run on builds of ours that its own
libraries need not stand.
"""

from __future__ import annotations

import os
import pwd
import shutil
import sqlite3
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

import pytest


class Refused(Exception):
    """The database itself refuses a statement."""


class Database(Protocol):
    """An empty place for a ledger; what is done here bypasses it."""

    url: str
    kind: str

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """Run one statement and commit it; its rows. Raises Refused."""

    def unguarded(self) -> AbstractContextManager[None]:
        """Inside, triggers and foreign keys are off: who owns the database can do that."""


class SqliteFile:
    kind = "sqlite"

    def __init__(self, path: Path) -> None:
        self.path = path
        self.url = f"sqlite:///{path}"

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(self.path)) as connection:
            try:
                found = connection.execute(sql).fetchall()
            except sqlite3.Error as error:
                raise Refused(str(error)) from error
            connection.commit()
            return found

    @contextmanager
    def unguarded(self) -> Iterator[None]:
        triggers = self.rows("SELECT name, sql FROM sqlite_schema WHERE type = 'trigger'")
        for name, _ in triggers:
            self.rows(f"DROP TRIGGER {name}")
        yield
        for _, sql in triggers:
            self.rows(sql)


class PostgresDatabase:
    kind = "postgresql"

    def __init__(self, url: str) -> None:
        self.url = url
        self._settings = ["search_path = tollsplit"]

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        import psycopg

        with psycopg.connect(self.url, autocommit=True) as connection:
            try:
                for setting in self._settings:
                    connection.execute(f"SET {setting}")
                cursor = connection.execute(sql)
                return cursor.fetchall() if cursor.description else []
            except psycopg.Error as error:
                raise Refused(str(error)) from error

    @contextmanager
    def unguarded(self) -> Iterator[None]:
        self._settings.append("session_replication_role = replica")
        yield
        self._settings.pop()


class Cluster:
    """A PostgreSQL server of our own, reached by a socket in its folder alone.

    It refuses to run as root, so root runs it as the user that Debian's package made.

    disk   where its data lies; None: beside its socket
    """

    def __init__(self, disk: Path | None = None) -> None:
        self._programs = find_programs()
        self._user = None if os.geteuid() else "postgres"
        self._folder = Path(tempfile.mkdtemp(prefix="ledger-"))
        for folder in (self._folder, disk) if self._user else ():
            if folder is not None:
                shutil.chown(folder, self._user)
        self._data = (disk or self._folder) / "data"
        self._run("initdb", "-D", self._data, "-A", "trust", "-U", "ledger", "-E", "UTF8",
                  "--locale=C.UTF-8", "--no-sync", "--wal-segsize=1")  # fmt: skip
        self._start("start")

    def _start(self, *how: str) -> None:
        options = f"-k {self._folder} -c listen_addresses= -c fsync=off -c max_connections=60"
        self._run("pg_ctl", "-D", self._data, "-w", "-t", "60", "-l", self._folder / "log", "-o",
                  options, *how)  # fmt: skip

    def restart(self) -> None:
        """Start it anew, whether it still runs or died."""
        self._start("restart", "-m", "immediate")

    def _run(self, program: str, *arguments: str | Path) -> None:
        ran = subprocess.run(
            [self._programs / program, *arguments], user=self._user, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=self._folder,
            env={**os.environ, "LC_ALL": "C.UTF-8"}, check=False,
        )  # fmt: skip
        log = self._folder / "log"
        assert ran.returncode == 0, ran.stdout + (log.read_text() if log.exists() else "")

    @property
    def url(self) -> str:
        return f"postgresql://ledger@/postgres?host={quote(str(self._folder), safe='')}"

    def database(self) -> PostgresDatabase:
        """Always the same one, emptied: making another takes ten times as long."""
        import psycopg

        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute("SET client_min_messages = error")
            connection.execute("DROP SCHEMA IF EXISTS tollsplit CASCADE")
        return PostgresDatabase(self.url)

    def stop(self) -> None:
        self._run("pg_ctl", "-D", self._data, "-m", "immediate", "-w", "stop")
        shutil.rmtree(self._folder)


def find_programs() -> Path:
    """The folder of PostgreSQL's programs; skips the test where there is none that may run."""
    if not os.geteuid():
        try:
            pwd.getpwnam("postgres")
        except KeyError:
            pytest.skip("PostgreSQL refuses to run as root, and there is no user postgres "
                        "(Debian's package postgresql makes one)")  # fmt: skip
    known = [*sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)]
    on_path = shutil.which("initdb")
    if on_path:
        known.append(Path(on_path).resolve().parent)
    for folder in known:
        if (folder / "initdb").is_file() and (folder / "pg_ctl").is_file():
            return folder
    pytest.skip("no initdb and pg_ctl: install PostgreSQL (Debian's package postgresql)")


@pytest.fixture(scope="session")
def postgres() -> Iterator[Cluster]:
    postgres = Cluster()
    yield postgres
    postgres.stop()


@pytest.fixture(scope="session", params=["sqlite", "postgresql"])
def databases(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[], Database]:
    """Makes an empty database each time it is called; the one before is not used any more."""
    if request.param == "postgresql":
        postgres: Cluster = request.getfixturevalue("postgres")
        return postgres.database
    return lambda: SqliteFile(tmp_path_factory.mktemp("books") / "ledger.db")


@pytest.fixture
def database(databases: Callable[[], Database]) -> Database:
    return databases()
