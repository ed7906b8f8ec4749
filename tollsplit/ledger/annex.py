"""Annexes: tables that other parts keep beside the books, in the same transactions.

Their statements are SQL that both databases know: TEXT and BIGINT, no INTEGER. All names begin with
"service_". What the database itself has to refuse is a Guard, which each store writes its own way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ..errors import LedgerError

if TYPE_CHECKING:
    from .store import Store

PREFIX = "service_"
VERSIONS = "CREATE TABLE IF NOT EXISTS service_annexes (name TEXT PRIMARY KEY, version BIGINT)"


@dataclass(frozen=True, slots=True)
class Guard:
    """A change of a table's rows that the database refuses, whoever asks for it."""

    name: str
    table: str
    event: Literal["UPDATE", "DELETE"]
    message: str
    columns: tuple[str, ...] = ()  # of an UPDATE: where one of these is set; none: always
    when: str = ""  # a condition on OLD and NEW; none: always

    @property
    def head(self) -> str:
        """The beginning of a trigger, as both databases know it."""
        of = f" OF {', '.join(self.columns)}" if self.columns else ""
        return f"CREATE TRIGGER {self.name} BEFORE {self.event}{of}"


Statement = str | Guard


def append_only(table: str, message: str) -> tuple[Guard, Guard]:
    """Rows that are written once and stay."""
    return (
        Guard(f"{table}_no_update", table, "UPDATE", message),
        Guard(f"{table}_no_delete", table, "DELETE", message),
    )


@dataclass(frozen=True, slots=True)
class Annex:
    """The tables of one part."""

    name: str
    versions: tuple[tuple[Statement, ...], ...]  # each the step from the version before
    # What `ledger verify` checks of them: a name, and what finds what is wrong.
    checks: tuple[tuple[str, Callable[[Store], Iterator[str]]], ...] = ()


def statements(annexes: Iterable[Annex], since: Mapping[str, int]) -> Iterator[Statement]:
    """What leads each annex from its version in `since` (none: 0) to its newest."""
    for annex in annexes:
        for version in annex.versions[since.get(annex.name, 0) :]:
            yield from version


def found(store: Store) -> dict[str, int]:
    """The versions that the store has of annexes whose table of versions is there."""
    return dict(store.rows("SELECT name, version FROM service_annexes"))


def note(store: Store, annexes: Sequence[Annex], before: Mapping[str, int]) -> None:
    """Write down the versions that the annexes have now. Raises LedgerError where one was newer."""
    for annex in annexes:
        if before.get(annex.name, 0) > len(annex.versions):
            raise LedgerError(
                f"{store.url}: tables of {annex.name} are of a newer tollsplit: version "
                f"{before[annex.name]}, this one knows {len(annex.versions)}; upgrade tollsplit"
            )
    store.write(_NOTE, [(annex.name, len(annex.versions)) for annex in annexes])


def as_found(annexes: Sequence[Annex], versions: Mapping[str, int]) -> Iterator[Statement]:
    """What made those of the annexes that are there, as far as they were brought."""
    if annexes and versions:
        yield VERSIONS
    for annex in annexes:
        for version in annex.versions[: versions.get(annex.name, 0)]:
            yield from version


_NOTE = """
    INSERT INTO service_annexes (name, version) VALUES (?, ?)
    ON CONFLICT (name) DO UPDATE SET version = excluded.version"""
