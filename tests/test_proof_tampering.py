"""Proof: whatever was tampered with in the ledger is found and named."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from itertools import product
from pathlib import Path

import pytest
from bookings import DAY3, MONEY, charge, record, run_of
from databases import Database, Refused, SqliteFile
from proofs import (
    REACHED,
    SPONSOR,
    Clock,
    book_november,
    closed,
    moved,
)

from tollsplit.ledger import Ledger, Transfer, chain, open_ledger, transfer
from tollsplit.ledger.signing import Signer, make_keys, read_signer

# A statement, and what is named. Forgers are as clever as each statement is.
TAMPERING = [
    ("UPDATE postings SET amount = amount * 2 WHERE transaction_id = 2", "transaction 2: it is"),
    ("DELETE FROM postings WHERE transaction_id = 2", "period 1 (2026-11): root"),
    ("UPDATE transactions SET fingerprint = 'sha256:0' WHERE id = 3", "transaction 3 is not"),
    ("UPDATE transactions SET created_at_ns = 5 WHERE id = 2", ": transaction 2 is not the one"),
    ("UPDATE transactions SET description = 'x' WHERE id = 1", "transaction 1 is not the one"),
    ("UPDATE transactions SET run_id = 1 WHERE id = 1", "transaction 1: posted usage, and names"),
    ("UPDATE transactions SET tariff = '' WHERE id = 1", "transaction 1: posted usage, and names"),
    ("DELETE FROM transactions WHERE id = 5", "transaction 5 is missing"),
    ("INSERT INTO transactions (id, kind, idempotency_key, fingerprint, created_at_ns, "
     "description) VALUES (77, 'gift', 'k', 'f', 1, '')", "transaction 77: it has 0 links"),
    ("UPDATE runs SET program = 'another'", "transaction 1 is not the one that was chained"),
    ("DELETE FROM runs", "transaction 1 is not the one that was chained"),
    ("UPDATE captures SET name = 'other.pcap'", "transaction 1 is not the one that was chained"),
    ("DELETE FROM captures", "the fingerprint differs"),
    ("UPDATE sponsors SET identity = 'shop-co'", "the fingerprint differs"),
    ("DELETE FROM sponsors", "the fingerprint differs"),
    ("UPDATE usage_records SET subscriber = '10.0.0.9'", 'account "sponsor:video-co": its records'),
    ("DELETE FROM usage_records WHERE sequence = 1", 'account "alice": its records'),
    ("UPDATE usage_shares SET octets = 600", 'account "sponsor:video-co": its records'),
    ("DELETE FROM usage_shares WHERE sequence = 1", 'account "sponsor:video-co": its records'),
    ("UPDATE charges SET tariff = 'gold' WHERE ordinal = 1", 'account "sponsor:video-co": its rec'),
    ("DELETE FROM charges WHERE ordinal = 1", 'account "sponsor:video-co": its records'),
    ("UPDATE charge_taxes SET amount_micros = 27", 'account "sponsor:video-co": its records'),
    ("UPDATE charge_taxes SET tax = 'gst'", 'account "sponsor:video-co": its records'),
    ("UPDATE charge_taxes SET remainder = '1/3'", 'account "sponsor:video-co": its records'),
    ("UPDATE charge_taxes SET account_id = (SELECT id FROM accounts WHERE name = 'operator:revenue'"
     " AND unit <> 'octet')", 'account "sponsor:video-co": its records'),
    ("DELETE FROM charge_taxes", 'account "sponsor:video-co": its records'),
    ("INSERT INTO charge_taxes SELECT 1, 0, 'gst', id, 0, '0/1' FROM accounts "
     "WHERE name = 'tax:vat'", 'account "alice": its records'),
    ("UPDATE uncollected SET amount = 30", "transaction 1 is not the one that was chained"),
    ("UPDATE uncollected SET amount = 30", 'account "sponsor:video-co": its records'),
    ("DELETE FROM uncollected", "transaction 1 is not the one that was chained"),
    ("DELETE FROM uncollected", 'account "sponsor:video-co": its records'),
    ("INSERT INTO uncollected SELECT 1, id, 5 FROM accounts WHERE name = 'alice' "
     "AND unit = 'octet'", 'account "alice": its records'),
    ("UPDATE remainders SET account_id = (SELECT id FROM accounts WHERE name = 'tax:vat') "
     "WHERE amount = '2/3'", "transaction 1 is not the one that was chained"),
    ("UPDATE remainders SET amount = '0'", "transaction 1 is not the one that was chained"),
    ("DELETE FROM remainders", "transaction 1 is not the one that was chained"),
    ("UPDATE holds SET amount = 99 WHERE idempotency_key = 'voided'", 'hold "voided": it is not'),
    ("UPDATE holds SET resolved_at_ns = 5 WHERE idempotency_key = 'voided'", "resolution 2 is not"),
    ("UPDATE holds SET state = 'expired' WHERE idempotency_key = 'voided'", "resolution 2 is not"),
    ("DELETE FROM holds WHERE idempotency_key = 'voided'", "hold 2 is missing"),
    ("UPDATE events SET octets = 6", "event 1 is not the one"),
    ("DELETE FROM events", "event 1 is missing"),
    ("UPDATE accounts SET floor = -99999 WHERE name = 'card'", 'account "card" (CNY/1000000): kin'),
    ("UPDATE accounts SET kind = 'operator' WHERE name = 'alice'", 'account "alice" (octet): kind'),
    ("INSERT INTO accounts (name, unit, kind) VALUES ('eve', 'octet', 'card')",
     'account "eve" (octet): it was never chained'),
    ("UPDATE accounts SET name = 'eve' WHERE name = 'alice'", 'account "eve" (octet): kind'),
    ("DELETE FROM accounts WHERE name = 'card'", "it was chained as"),
    ("DELETE FROM chain WHERE number = 5", "link 5 is missing"),
    ("DELETE FROM chain WHERE kind = 'ledger'", "link 1 is missing"),
    ("UPDATE chain SET number = 99999999999 WHERE kind = 'period'", "to 99999999998 are missing"),
    ("UPDATE chain SET digest = (SELECT digest FROM chain WHERE number = 3) "
     "WHERE number = 5", "link 5: "),
    ("UPDATE chain SET at_ns = at_ns + 1 WHERE number = 5", "link 6: its time is before that"),
    ("UPDATE chain SET subject = 5 - subject WHERE kind = 'transaction' AND subject IN (2, 3)",
     "transaction 3 is not the one that was chained here, or the link was changed or moved"),
    ("DELETE FROM periods", "period 1 is missing"),
    ("UPDATE periods SET signature = '00'", "its signature is not that of its public key"),
    ("UPDATE periods SET head = replace(head, '\"accounts\":7', '\"accounts\":4')",
     "period 1 (2026-11): accounts: 4 signed, the rows say 7"),
    ("UPDATE periods SET head = 'none'", "period 1 (2026-11): Expecting value"),
    ("UPDATE leaves SET digest = '00' WHERE account = 'alice'", 'account "alice": its records'),
    ("DELETE FROM leaves WHERE account = 'alice'", 'account "alice": its leaf is missing'),
    ("INSERT INTO leaves VALUES (1, 'eve', '00')", 'account "eve": a leaf, but no postings'),
]  # fmt: skip


@pytest.mark.parametrize(("sql", "finding"), TAMPERING, ids=[sql[:60] for sql, _ in TAMPERING])
def test_verify_names_what_was_tampered_with(
    database: Database, clock: Clock, signer: Signer, sql: str, finding: str
) -> None:
    with open_ledger(database.url, clock_ns=clock) as ledger:
        book_november(ledger)
        closed(ledger, clock, signer)
        assert ledger.verify().findings == ()
        with database.unguarded():
            database.rows(sql)
        found = ledger.verify().findings
    assert any(finding in text for text in found), found


def tampering(database: Database) -> Iterator[str]:
    """A statement for each row that may be removed, and for each column that may be changed, of a
    row of each kind and state.
    """
    for (table,) in database.rows(
        "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite%'"
    ):
        columns = database.rows(f"PRAGMA table_info({table})")
        kinds = {}
        for row in database.rows(f"SELECT * FROM {table}"):
            which = " AND ".join(
                f"{name} = {value!r}"
                for (_, name, *_, key), value in zip(columns, row, strict=True) if key
            )
            kinds[tuple(value for (_, name, *_), value in zip(columns, row, strict=True)
                        if name in ("kind", "state"))] = which  # fmt: skip
            yield f"DELETE FROM {table} WHERE {which}"
        assert kinds, table
        for which, (_, name, kind, *_) in product(kinds.values(), columns):
            other = {"TEXT": f"coalesce({name}, '') || 'x'", "BLOB": f"zeroblob(length({name}))",
                     "INTEGER": f"coalesce({name}, 0) + 1"}[kind]  # fmt: skip
            yield f"UPDATE {table} SET {name} = {other} WHERE {which}"


def test_verify_finds_any_row_that_is_gone_and_any_column_that_was_changed(
    tmp_path: Path, clock: Clock, signer: Signer
) -> None:
    """In every table; but for what the database refuses even without triggers."""
    database = SqliteFile(tmp_path / "ledger.db")
    with open_ledger(database.url, clock_ns=clock) as ledger:
        book_november(ledger)
        ledger.reserve(run_of("open", captures=()), {("card", MONEY): 7})
        closed(ledger, clock, signer)
        ledger.post(run_of("late"), [record(epoch="late")], [charge()])
    triggers = [sql for (sql,) in database.rows(
        "SELECT sql FROM sqlite_schema WHERE type = 'trigger'")]  # fmt: skip
    missed, tried = [], set()
    with database.unguarded():
        unguarded = database.path.read_bytes()
    for sql in list(tampering(database)):
        database.path.write_bytes(unguarded)
        with closing(sqlite3.connect(database.path, isolation_level=None)) as connection:
            connection.execute("PRAGMA synchronous = OFF")
            try:
                connection.execute("BEGIN")
                for statement in (sql, *triggers):
                    connection.execute(statement)
                connection.execute("COMMIT")
            except sqlite3.IntegrityError:
                continue
        with open_ledger(database.url, clock_ns=clock) as ledger:
            if ledger.verify().holds:
                missed.append(sql)
        tried.add(sql.split()[2 if sql.startswith("DELETE") else 1])
    assert missed == []
    assert {"charge_taxes", "uncollected", "chain", "periods", "leaves"} < tried
    assert len(tried) == 17


def forge(ledger: Ledger, database: Database) -> None:
    """Alter a transfer, and make anew all digests that cover it: its own and the chain's."""
    fingerprint = transfer.fingerprint_of(
        "payment", "a gift", (None,) * 4, None,
        [("card", MONEY, 500), (SPONSOR, MONEY, -500)],
    )  # fmt: skip
    database.rows(
        f"UPDATE transactions SET description = 'a gift', fingerprint = '{fingerprint}' "
        "WHERE idempotency_key = 'transfer pay'"
    )
    previous = chain.START
    for row in list(ledger._store.rows(chain._LINKS)):
        link = chain.Link(*row[:6])
        content = link.content or chain._content(ledger._store, link, row[6:])
        assert content is not None
        previous = chain.seal(
            previous, link.number, link.at_ns, link.kind, link.subject, content)
        octets = f"x'{previous.hex()}'" if database.kind == "sqlite" else f"'\\x{previous.hex()}'"
        database.rows(f"UPDATE chain SET digest = {octets} WHERE number = {link.number}")


def test_forger_who_makes_the_chain_anew_is_found_by_what_was_signed(
    database: Database, clock: Clock, signer: Signer
) -> None:
    with open_ledger(database.url, clock_ns=clock) as ledger:
        book_november(ledger)
        closed(ledger, clock, signer)
        with database.unguarded():
            forge(ledger, database)
        found = ledger.verify().findings
    named = [re.sub("[0-9a-f]{64}", "…", text) for text in found]
    altered = "its records, charges, postings or balances are not those that were signed"
    assert named == [
        "period 1 (2026-11): chain: … signed, the rows say …",
        "period 1 (2026-11): root: … signed, the rows say …",
        f'period 1 (2026-11): account "card": {altered}: the leaf differs',
        f'period 1 (2026-11): account "sponsor:video-co": {altered}: the leaf differs',
    ]


def test_row_that_was_altered_is_named_by_a_proof_kept_elsewhere(
    database: Database, clock: Clock, signer: Signer
) -> None:
    with open_ledger(database.url, clock_ns=clock) as ledger:
        book_november(ledger)
        kept = closed(ledger, clock, signer)
        assert ledger.verify([kept]).findings == ()
        with database.unguarded():
            database.rows("UPDATE usage_records SET subscriber = '10.0.0.9' WHERE sequence = 1")
            database.rows("DELETE FROM charges WHERE ordinal = 1")
            database.rows("UPDATE uncollected SET amount = 30")
            database.rows("UPDATE postings SET amount = 61 WHERE amount = 60")
        found = [text for text in ledger.verify([kept]).findings if "proved" in text]
    assert [text.partition(": it ")[0] for text in found] == [
        f'account "sponsor:video-co" in 2026-11 (UTC): {what}' for what in (
            "record 1 of campus.pcap (epoch e1) was proved and is gone or altered",
            "charge 1 of link 12 was proved and is gone or altered",
            'tax "vat" on charge 1 of link 12 was proved and is gone or altered',
            "what transaction 1 did not collect in CNY/1000000 was proved and is gone or altered",
            "the posting of transaction 5 in CNY/1000000 was proved and is gone or altered",
            "record 1 of campus.pcap (epoch e1) is not the proved one",
            "what transaction 1 did not collect in CNY/1000000 is not the proved one",
            "the posting of transaction 5 in CNY/1000000 is not the proved one",
        )
    ]  # fmt: skip


def test_forger_who_makes_the_chain_anew_is_not_found_before_a_close(
    database: Database, clock: Clock
) -> None:
    """As docs/proof.md says: nothing is signed yet."""
    with open_ledger(database.url, clock_ns=clock) as ledger:
        book_november(ledger)
        with database.unguarded():
            forge(ledger, database)
        assert ledger.verify().findings == ()


@pytest.mark.parametrize("table", ["chain", "periods", "leaves"])
def test_chain_is_append_only(
    ledger: Ledger, clock: Clock, signer: Signer, database: Database, table: str
) -> None:
    book_november(ledger)
    closed(ledger, clock, signer)
    column = {"chain": "at_ns", "periods": "head", "leaves": "digest"}[table]
    for sql in (f"DELETE FROM {table}", f"UPDATE {table} SET {column} = {column}"):
        with pytest.raises(Refused, match="append-only"):
            database.rows(sql)
    assert ledger.verify().findings == ()


def test_head_that_was_swapped_is_found(
    database: Database, clock: Clock, signer: Signer, tmp_path: Path
) -> None:
    """By one that another key signed, over the same rows."""
    with open_ledger(database.url, clock_ns=clock) as ledger:
        book_november(ledger)
        clock.now = datetime(2027, 1, 1, tzinfo=UTC)
        for period in ("2026-11", "2026-12"):
            ledger.close_period(period, signer)
        make_keys(tmp_path / "other.key")
        other = read_signer(tmp_path / "other.key")
        text = ledger.closed_periods()[0].head.text
        with database.unguarded():
            database.rows(f"UPDATE periods SET public_key = '{other.public_key}', "
                          f"signature = '{other.sign(text)}' WHERE id = 1")  # fmt: skip
        found = ledger.verify().findings
        assert any("period 1 is not the one that was chained" in text for text in found), found
        assert any("period 2 (2026-12): it is signed by the key" in text for text in found), found
        found = ledger.verify(public_key=signer.public_key).findings
        assert any("period 1 (2026-11): it is signed by the key" in text for text in found), found


def test_ledger_that_was_rewritten_whole_is_found_by_a_head_kept_elsewhere(
    databases: Callable[[], Database], clock: Clock, signer: Signer
) -> None:
    """Who has the database and the key makes all of it anew: within itself it holds."""
    with open_ledger(databases().url, clock_ns=clock) as ledger:
        book_november(ledger)
        kept = closed(ledger, clock, signer).signed
        assert ledger.verify([kept]).holds
        other_period = replace(kept, head=replace(kept.head, accounts=4))
        [finding] = ledger.verify([other_period]).findings
        assert "did not close that period, or closed it otherwise" in finding
        other_chain = replace(kept, head=replace(kept.head, chain="00" * 32))
        [finding] = ledger.verify([other_chain]).findings
        assert "is another: the ledger was rewritten" in finding
    clock.now = DAY3
    with open_ledger(databases().url, clock_ns=clock) as ledger:
        book_november(ledger)
        closed(ledger, clock, signer)
        assert ledger.verify().holds
        [finding] = ledger.verify([kept]).findings
        assert "it is of the ledger" in finding


def test_older_copy_is_found_only_by_a_head_kept_elsewhere(
    tmp_path: Path, clock: Clock, signer: Signer
) -> None:
    database = SqliteFile(tmp_path / "ledger.db")
    with open_ledger(database.url, clock_ns=clock) as ledger:
        book_november(ledger)
    old = database.path.read_bytes()
    with open_ledger(database.url, clock_ns=clock) as ledger:
        ledger.transfer(Transfer("more", "payment", moved(9)))
        kept = closed(ledger, clock, signer).signed
    database.path.write_bytes(old)
    with open_ledger(database.url, clock_ns=clock) as ledger:
        assert ledger.verify().findings == ()  # it cannot know
        [finding] = ledger.verify([kept]).findings
        assert "put back to an older copy, or its end was cut off" in finding


def test_cut_end_is_found_where_a_period_was_closed_after_it(
    database: Database, clock: Clock, signer: Signer
) -> None:
    with open_ledger(database.url, clock_ns=clock) as ledger:
        ledger.transfer_all([])
        book_november(ledger)
        closed(ledger, clock, signer)
        ((last,),) = database.rows("SELECT max(number) FROM chain")
        with database.unguarded():
            database.rows(f"DELETE FROM chain WHERE number = {last}")  # the close itself
        assert any("period 1: it has 0 links" in text for text in ledger.verify().findings)


def test_ledger_of_an_older_version_is_chained_once(tmp_path: Path, signer: Signer) -> None:
    database = SqliteFile(tmp_path / "ledger.db")
    with sqlite3.connect(database.path) as connection:
        connection.executescript(
            Path(__file__).with_name("ledger_version_1.sql").read_text("utf-8"))
    connection.close()
    with open_ledger(database.url) as ledger:
        [name] = [c.name for c in ledger.verify().checks if "chained" in c.name]
        assert re.search(r"chained since 20..-..-..T..:..:..Z, when \d+ rows were", name), name
        assert ledger.verify().findings == ()
        before = database.rows("SELECT * FROM chain")
    with open_ledger(database.url) as ledger:
        assert database.rows("SELECT * FROM chain") == before
        assert ledger.post(run_of("e9"), [record(epoch="e9")], []).booked
        assert ledger.verify().findings == ()
    with database.unguarded():
        database.rows("DELETE FROM chain")
    with open_ledger(database.url) as ledger:  # not made anew
        assert any("never chained" in text for text in ledger.verify().findings)


def test_ledger_is_chained_with_all_its_rows_when_it_is_migrated(
    tmp_path: Path, clock: Clock
) -> None:
    """Taxes and what is uncollected were there before the chain was."""
    database = SqliteFile(tmp_path / "ledger.db")
    with open_ledger(database.url, clock_ns=clock) as ledger:
        book_november(ledger)
    for table in ("chain", "leaves", "periods"):
        database.rows(f"DROP TABLE {table}")
    with database.unguarded():  # of a kind that there was not yet
        database.rows("DELETE FROM events WHERE unit IS NOT NULL")
    database.rows("ALTER TABLE events DROP COLUMN unit")
    database.rows(f"PRAGMA user_version = {chain.SINCE_VERSION - 1}")
    with open_ledger(database.url, clock_ns=clock) as ledger:
        assert ledger.verify().findings == ()
        with database.unguarded():
            database.rows("DELETE FROM uncollected")
        found = ledger.verify().findings
    assert any("transaction 1 is not the one that was chained" in text for text in found), found


def test_ledger_whose_events_had_no_unit_yet_is_as_it_was_chained(
    tmp_path: Path, clock: Clock
) -> None:
    database = SqliteFile(tmp_path / "ledger.db")
    with open_ledger(database.url, clock_ns=clock) as ledger:
        ledger.record_events([REACHED])
    database.rows("ALTER TABLE events DROP COLUMN unit")
    database.rows("PRAGMA user_version = 4")
    with open_ledger(database.url, clock_ns=clock) as ledger:
        assert ledger.verify().findings == ()
        assert ledger.record_events([REACHED]) == 0
        ledger.record_events([replace(REACHED, kind="balance_end", unit=MONEY)])
        assert ledger.verify().findings == ()
        with database.unguarded():
            database.rows("UPDATE events SET unit = 'octet'")
        found = ledger.verify().findings
    assert {text.partition(":")[0] for text in found} >= {"event 1", "event 2"}


def test_row_that_was_undone_is_not_chained(ledger: Ledger, database: Database) -> None:
    ledger.open_account("a", MONEY, "card")
    ledger.open_account(SPONSOR, MONEY, "sponsor")
    with ledger.atomic():
        ledger.open_account("card", MONEY, "card")
        with pytest.raises(ZeroDivisionError), ledger.atomic():
            ledger.transfer(Transfer("t", "payment", moved(1)))
            ledger.open_account("b", MONEY, "card")
            ledger.record_events([REACHED])
            raise ZeroDivisionError
        ledger.transfer(Transfer("u", "payment", moved(2)))
    assert ledger.verify().findings == ()
    kinds = [kind for (kind,) in database.rows("SELECT kind FROM chain ORDER BY number")]
    assert kinds == ["ledger", "account", "account", "account", "transaction"]
    with pytest.raises(ZeroDivisionError), ledger.atomic():
        ledger.transfer(Transfer("v", "payment", moved(3)))
        raise ZeroDivisionError
    ledger.transfer(Transfer("w", "payment", moved(4)))
    assert ledger.verify().findings == ()
