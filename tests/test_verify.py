"""Verifying: books that were tampered with or damaged are found out, down to the row."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from bookings import (
    DAY3,
    HOUR,
    MONEY,
    book_many,
    charge,
    record,
    run_of,
)
from databases import Database, Refused

from tollsplit.errors import LedgerError
from tollsplit.ledger import Ledger, open_ledger
from tollsplit.model import TaxPart


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


@pytest.fixture
def ledger(database: Database) -> Iterator[Ledger]:
    with open_ledger(database.url) as ledger:
        yield ledger
        assert ledger.verify().findings == ()  # whatever the test did


PRISTINE = [record(0), record(1, DAY3 + HOUR)]
PRISTINE_CHARGES = [
    charge(87, remainder=(1, 3)),
    charge(203, "sponsor:video-co", remainder=(1, 2),
           taxes=(TaxPart("vat", "tax:vat", 26, (2, 3)), TaxPart("city", "tax:city", 2, (1, 2)))),
]


def book_pristine(ledger: Ledger) -> None:
    """Two records, two charges with taxes, of which the sponsor could pay 200 alone."""
    ledger.open_account("sponsor:video-co", MONEY, "sponsor", floor=-200)
    ledger.post(run_of(), PRISTINE, PRISTINE_CHARGES)


@pytest.mark.parametrize(("table", "column"), [
    ("transactions", "kind"), ("postings", "amount"), ("runs", "source"), ("captures", "digest"),
    ("sponsors", "identity"), ("usage_records", "subscriber"), ("usage_shares", "octets"),
    ("charges", "tariff"), ("charge_taxes", "tax"), ("remainders", "carried"),
    ("uncollected", "amount"),
])  # fmt: skip
def test_ledger_is_append_only(ledger: Ledger, database: Database, table: str, column: str) -> None:
    book_pristine(ledger)
    for sql in (f"DELETE FROM {table}", f"UPDATE {table} SET {column} = {column}"):
        with pytest.raises(Refused, match="append-only"):
            database.rows(sql)


def test_accounts_keep_their_name_and_stay(ledger: Ledger, database: Database) -> None:
    ledger.post(run_of(), PRISTINE, [])
    with pytest.raises(Refused, match="keeps its name"):
        database.rows("UPDATE accounts SET name = 'mallory'")
    with pytest.raises(Refused, match="not deleted"):
        database.rows("DELETE FROM accounts")


TAMPERING = [
    ("UPDATE postings SET amount = amount - 1 WHERE amount < 0",
     "transaction 1: postings in octet sum to -2, expected 0"),
    ("UPDATE postings SET amount = amount + 1 WHERE amount = 2000", 'account "operator:traffic"'),
    ("DELETE FROM postings WHERE amount = -600", 'account "alice" (octet): posted 0, its usage'),
    ("DELETE FROM postings", "posted 0, its charges in this run sum to -87"),
    ("INSERT INTO postings SELECT 1, id, 5 FROM accounts "
     "WHERE name = 'operator:remainder'",
     "sum to 5, expected 0"),
    ("UPDATE accounts SET balance = 0 WHERE name = 'alice' AND unit = 'octet'",
     'account "alice" (octet): balance 0, its postings sum to -600'),
    ("UPDATE accounts SET unit = 'EUR/1000000' WHERE name = 'alice' AND unit <> 'octet'",
     "postings in EUR/1000000 sum to -87"),
    ("UPDATE accounts SET name = 'mallory' WHERE name = 'alice' AND unit = 'octet'",
     "the fingerprint differs"),
    ("UPDATE usage_records SET uplink_octets = 401 WHERE sequence = 1",
     "run 1: record 1: 1001 octets metered, 1000 split among payers"),
    ("UPDATE usage_records SET uplink_octets = 1000, subscriber_octets = 900 WHERE sequence = 1",
     'account "alice" (octet): posted -600, its usage in this run sum to -1200'),
    ("UPDATE usage_records SET uplink_octets = 600, downlink_octets = 400 WHERE sequence = 0",
     "the fingerprint differs"),
    ("UPDATE usage_records SET subscriber = '10.0.0.9' WHERE sequence = 0", "fingerprint differs"),
    ("UPDATE usage_records SET flags = 'partial' WHERE sequence = 0", "the fingerprint differs"),
    ("DELETE FROM usage_records WHERE sequence = 1", "records: 2 noted, 1 there"),
    ("INSERT INTO runs SELECT 7, 7, source, epoch, 1, 2, 0, NULL, rules_version, layer, at, "
     "program FROM runs", "epoch e1, from 1 on are in another run too"),
    ("DELETE FROM usage_records", "first packet"),
    ("UPDATE usage_shares SET octets = 600 WHERE sequence = 1", "1000 octets metered, 900 split"),
    ("DELETE FROM usage_shares WHERE sequence = 1", "1000 octets metered, 300 split"),
    ("UPDATE sponsors SET identity = 'shop-co'", "the fingerprint differs"),
    ("UPDATE charges SET amount_micros = 88 WHERE ordinal = 0",
     'account "alice" (CNY/1000000): posted -87, its charges in this run sum to -88'),
    ("UPDATE charges SET tariff = 'gold'", "the fingerprint differs"),
    ("UPDATE charges SET remainder = '1/4' WHERE ordinal = 0",
     "5/6 noted, its charges' sum to 3/4"),
    ("UPDATE charges SET remainder = 'a third' WHERE ordinal = 0", "got 'a third'"),
    ("UPDATE charges SET remainder = '1/0' WHERE ordinal = 0", "got '1/0'"),
    ("DELETE FROM charges WHERE ordinal = 1", "charges: 2 noted, 1 there"),
    ("UPDATE charge_taxes SET amount_micros = 27 WHERE tax = 'vat'",
     'account "tax:vat" (CNY/1000000): posted 26, what it gains in this run sum to 27'),
    ("UPDATE charge_taxes SET amount_micros = 27 WHERE tax = 'vat'",
     'account "sponsor:video-co" (CNY/1000000): posted -200, its charges in this run sum to -201'),
    ("UPDATE charge_taxes SET tax = 'gst' WHERE tax = 'vat'", "the fingerprint differs"),
    ("UPDATE charge_taxes SET remainder = '1/3' WHERE tax = 'vat'",
     "2/3 noted, its charges' sum to 1/3"),
    ("UPDATE charge_taxes SET account_id = (SELECT id FROM accounts WHERE name = 'tax:city')",
     'account "tax:vat" (CNY/1000000): posted 26, what it gains in this run sum to 0'),
    ("DELETE FROM charge_taxes WHERE tax = 'city'", "the fingerprint differs"),
    ("UPDATE uncollected SET amount = 30",
     'account "operator:uncollected" (CNY/1000000): posted -31, what it pays in this run sum to '
     "-30"),
    ("DELETE FROM uncollected",
     'account "sponsor:video-co" (CNY/1000000): posted -200, its charges in this run sum to -231'),
    ("UPDATE remainders SET carried = '1/6'", "1/6 carried on, expected 5/6"),
    ("UPDATE remainders SET amount = 'none'", "none noted"),
    ("DELETE FROM remainders", "not noted, its charges have some"),
    ("UPDATE runs SET rules_version = 'sha256:new'", "the fingerprint differs"),
    ("UPDATE runs SET first_sequence = 7", "first sequence: 7 noted, 0 there"),
    ("DELETE FROM runs", "names a row of runs that is not there"),
    ("UPDATE captures SET digest = 'sha256:else'", "the fingerprint differs"),
    ("DELETE FROM captures", "the fingerprint differs"),
    ("UPDATE transactions SET fingerprint = 'sha256:0'", "the fingerprint differs"),
    ("UPDATE transactions SET kind = 'gift'", "is of kind 'gift', expected 'usage'"),
    ("UPDATE transactions SET idempotency_key = 'other'", "idempotency key"),
    ("DELETE FROM transactions", "names a row of transactions that is not there"),
    ("DELETE FROM accounts WHERE name = 'alice'", "names a row of accounts that is not there"),
]  # fmt: skip
# What happens to the schema itself, by the kind of database.
SCHEMA_TAMPERING = {
    "sqlite": [
        ("DROP TRIGGER postings_no_update", "schema: postings_no_update is missing"),
        ("CREATE TRIGGER t AFTER INSERT ON runs BEGIN SELECT 1; END", "schema: t is not ours"),
        ("ALTER TABLE accounts ADD COLUMN pin TEXT", "schema: accounts was changed"),
    ],
    "postgresql": [
        ("DROP TRIGGER postings_stay ON postings", "schema: postings.postings_stay is missing"),
        ("ALTER TABLE postings DISABLE TRIGGER postings_stay", "postings_stay was changed"),
        ("CREATE OR REPLACE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS "
         "'BEGIN RETURN NULL; END'", "schema: refuse() was changed"),
        ("CREATE TRIGGER t BEFORE INSERT ON runs EXECUTE FUNCTION refuse('x')",
         "schema: runs.t is not ours"),
        ("CREATE RULE r AS ON INSERT TO charges DO INSTEAD NOTHING", "charges, rule r is not ours"),
        ("ALTER TABLE accounts ADD COLUMN pin TEXT", "schema: accounts was changed"),
        ("ALTER TABLE accounts DROP CONSTRAINT accounts_held_check",
         "schema: accounts.accounts_held_check is missing"),
        ("DROP INDEX postings_of_account", "schema: postings_of_account is missing"),
    ],
}


@pytest.mark.parametrize(("sql", "finding"), TAMPERING, ids=[sql for sql, _ in TAMPERING])
def test_verify_finds_tampering(database: Database, sql: str, finding: str) -> None:
    with open_ledger(database.url) as ledger:
        book_pristine(ledger)
        assert ledger.verify().holds
        with database.unguarded():
            database.rows(sql)
        verification = ledger.verify()
    assert not verification.holds
    assert any(finding in found for found in verification.findings), verification.findings


def test_verify_names_rows_that_are_missing(database: Database) -> None:
    with open_ledger(database.url) as ledger:
        ledger.post(run_of(), [record(n, DAY3 + n * HOUR) for n in range(5)], [charge()] * 3)
        with database.unguarded():
            database.rows("DELETE FROM usage_records WHERE sequence IN (1, 2)")
            database.rows("DELETE FROM charges WHERE ordinal = 1")
        findings = ledger.verify().findings
    assert {"run 1: records 1 to 2 are missing", "run 1: charge 1 is missing"} <= set(findings)


def test_verify_finds_a_changed_schema(databases: Callable[[], Database]) -> None:
    for sql, finding in SCHEMA_TAMPERING[databases().kind]:
        database = databases()
        with open_ledger(database.url) as ledger:
            database.rows(sql)
            findings = ledger.verify().findings
        assert any(finding in found for found in findings), (sql, findings)


@pytest.mark.parametrize("seed", range(12))
def test_verify_finds_a_damaged_file(path: Path, seed: int) -> None:
    """A page that the disk spoilt: a finding or a LedgerError, never an error of SQLite's."""
    with open_ledger(f"sqlite:///{path}") as ledger:
        book_many(ledger, "e1")
    content = bytearray(path.read_bytes())
    generator = random.Random(seed)
    page = generator.randrange(1, len(content) // 4096) * 4096
    content[page : page + 4096] = generator.randbytes(4096)
    path.write_bytes(content)
    try:
        with open_ledger(f"sqlite:///{path}") as ledger:
            verification = ledger.verify()
    except LedgerError as error:
        assert "ledger.db: " in str(error)
    else:
        assert not verification.holds


def test_verify_says_what_it_checked(ledger: Ledger) -> None:
    ledger.post(run_of(), PRISTINE, PRISTINE_CHARGES)
    checks = {check.name: check.rows for check in ledger.verify().checks}
    assert checks["records' octets are split among payers"] == 2
    assert checks["transactions sum to zero per unit"] == 1
    assert checks["usage and charges are posted"] == 8


def test_verify_takes_so_long_as_the_ledger_is_large(path: Path) -> None:
    """In steps of SQLite's machine: twice the accounts and records, about twice the steps."""
    found = []
    with open_ledger(f"sqlite:///{path}") as ledger:
        for number in range(2):
            accounts = [f"subscriber {n}" for n in range(600 * number, 600 * (number + 1))]
            ledger.post(
                run_of(f"e{number}"),
                [record(n, epoch=f"e{number}", account=account)
                 for n, account in enumerate(accounts)],
                [charge(7, account, remainder=(1, 3)) for account in accounts])
            steps: list[None] = []
            connection = ledger.store._connection  # type: ignore[attr-defined]
            connection.set_progress_handler(partial(steps.append, None), 1_000)
            assert ledger.verify().holds
            connection.set_progress_handler(None, 0)
            found.append(len(steps))
    assert found[1] < 3 * found[0], found
