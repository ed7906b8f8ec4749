"""The databases that a ledger may be in, seen from behind the ledger's back."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Protocol

import pytest


class Database(Protocol):
    """An empty place for a ledger; statements here bypass it."""

    url: str

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """Run one statement and commit it; its rows. Refused by the database: Refused."""

    def unguarded(self) -> Any:
        """Inside, triggers and keys are off: whoever owns the database can do that."""


class Refused(Exception):
    """The database itself refuses a statement."""


class SqliteFile:
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


@pytest.fixture
def database(tmp_path: Path) -> Database:
    return SqliteFile(tmp_path / "ledger.db")
