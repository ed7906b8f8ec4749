"""Annexes: other parts' tables in the ledger, on both databases."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from bookings import MONEY
from databases import Database, Refused

from tollsplit.errors import LedgerError
from tollsplit.ledger import Annex, Guard, Ledger, append_only, open_ledger
from tollsplit.ledger.store import Store


def named_nobody(store: Store) -> Iterator[str]:
    for (name,) in store.rows("SELECT id FROM service_notes WHERE author = 'nobody'"):
        yield f"note {name}: by nobody"


NOTES = Annex(
    "notes",
    (
        (
            "CREATE TABLE service_notes (id TEXT PRIMARY KEY, author TEXT NOT NULL, "
            "state TEXT NOT NULL)",
            Guard("service_notes_end", "service_notes", "UPDATE", "it's over",
                  ("state",), "OLD.state = 'over'"),
        ),
        (
            "CREATE TABLE service_words (word TEXT PRIMARY KEY)",
            *append_only("service_words", "words stay"),
        ),
    ),
    (("somebody wrote them", named_nobody),),
)  # fmt: skip
FIRST = replace(NOTES, versions=NOTES.versions[:1])


@pytest.fixture
def ledger(database: Database) -> Iterator[Ledger]:
    with open_ledger(database.url) as ledger:
        yield ledger


def test_annex_is_made_once_and_brought_to_its_newest_version(ledger: Ledger) -> None:
    for annex in (FIRST, FIRST, NOTES, NOTES):
        ledger.define([annex])
        assert ledger.store.annexes() == {"notes": len(annex.versions)}
    ledger.store.write("INSERT INTO service_words (word) VALUES (?)", [("octet",)])
    with pytest.raises(LedgerError, match="notes are of a newer tollsplit: version 2, this one"):
        ledger.define([FIRST])


def test_annex_writes_with_the_books_or_not_at_all(ledger: Ledger) -> None:
    ledger.define([NOTES])
    with pytest.raises(ZeroDivisionError), ledger.atomic():
        ledger.store.write("INSERT INTO service_words (word) VALUES (?)", [("octet",)])
        ledger.open_account("alice", MONEY, "subscriber")
        raise ZeroDivisionError
    with ledger.reading():
        assert list(ledger.store.rows("SELECT word FROM service_words")) == []
        assert ledger.balances() == []


def test_annex_is_not_written_where_one_reads(ledger: Ledger) -> None:
    ledger.define([NOTES])
    with pytest.raises(LedgerError, match=r"read.?only"), ledger.reading(), ledger.reading():
        ledger.store.write("INSERT INTO service_words (word) VALUES (?)", [("octet",)])
    ledger.store.write("INSERT INTO service_words (word) VALUES (?)", [("octet",)])
    with ledger.reading():
        assert list(ledger.store.rows("SELECT word FROM service_words")) == [("octet",)]


def test_annex_guards_are_the_databases_own(ledger: Ledger, database: Database) -> None:
    ledger.define([NOTES])
    database.rows("INSERT INTO service_notes (id, author, state) VALUES ('n', 'a', 'open')")
    database.rows("INSERT INTO service_words (word) VALUES ('octet')")
    database.rows("UPDATE service_notes SET state = 'over'")
    database.rows("UPDATE service_notes SET author = 'b'")
    for statement, message in (
        ("UPDATE service_notes SET state = 'open'", "it's over"),
        ("UPDATE service_words SET word = 'byte'", "words stay"),
        ("DELETE FROM service_words", "words stay"),
    ):
        with pytest.raises(Refused, match=message):
            database.rows(statement)


def test_annex_is_verified_with_the_ledger(ledger: Ledger, database: Database) -> None:
    assert ledger.verify(annexes=[NOTES]).findings == ()  # not there: nothing to check
    ledger.define([FIRST])
    assert ledger.verify(annexes=[NOTES]).findings == ()  # of an older version
    ledger.define([NOTES])
    found = ledger.verify(annexes=[NOTES])
    assert found.findings == () and found.checks[-1].name == "notes: somebody wrote them"
    assert ledger.verify().findings == ()  # who does not know them leaves them alone
    database.rows("INSERT INTO service_notes (id, author, state) VALUES ('n', 'nobody', 'open')")
    assert ledger.verify(annexes=[NOTES]).findings == ("note n: by nobody",)
    database.rows("DROP TABLE service_words")
    database.rows("CREATE TABLE service_strange (id TEXT)")
    findings = "\n".join(ledger.verify(annexes=[NOTES]).findings)
    assert "service_words is missing" in findings
    assert "service_strange is not ours" in findings
