"""Closed periods and their proofs, for the tests of both."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from bookings import DAY3, HOUR, MONEY, Clock, charge, record, run_of
from databases import Database

from tollsplit.ledger import Hold, Ledger, Proof, Transfer, open_ledger, proof
from tollsplit.ledger.signing import Signer, is_signed, make_keys, read_public_key, read_signer
from tollsplit.model import Event, Posting, TaxPart

SPONSOR = "sponsor:video-co"
TAX = TaxPart("vat", "tax:vat", 26, (2, 3))
DECEMBER = datetime(2026, 12, 1, tzinfo=UTC)
REACHED = Event("quota-reached", 1, "campus.pcap", "e1", "10.0.0.7", "alice", None, None, 0, 5, 4)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "ledger.key"
    make_keys(path)
    return path


@pytest.fixture
def signer(keys: Path) -> Signer:
    return read_signer(keys)


@pytest.fixture
def ledger(database: Database, clock: Clock) -> Iterator[Ledger]:
    with open_ledger(database.url, clock_ns=clock) as ledger:
        yield ledger


def book_november(ledger: Ledger) -> None:
    """One of every kind of row; the sponsor's balance does not cover 29 of what he owes."""
    ledger.open_account(SPONSOR, MONEY, "sponsor", floor=-200)
    ledger.post(run_of(), [record(0), record(1, DAY3 + HOUR)],
                [charge(87, remainder=(1, 3)),
                 charge(203, SPONSOR, remainder=(1, 2), taxes=(TAX,))])  # fmt: skip
    ledger.set_floor(SPONSOR, MONEY, None)
    ledger.open_account("card", MONEY, "card", floor=0)
    ledger.transfer(Transfer("pay", "payment", moved(500), "topped up"))
    ledger.reverse(ledger.transfer(Transfer("slip", "payment", moved(1))).transaction, "back")
    for key in ("kept", "voided", "captured"):
        ledger.hold(Hold(key, "card", MONEY, 100, 3_600, "a ride"))
    ledger.void("voided")
    ledger.capture("captured", "payment", moved(-60))
    ledger.record_events([REACHED])


def moved(amount: int) -> tuple[Posting, ...]:
    return Posting("card", MONEY, amount), Posting(SPONSOR, MONEY, -amount)


def closed(ledger: Ledger, clock: Clock, signer: Signer, period: str = "2026-11") -> Proof:
    clock.now = max(clock.now, DECEMBER + HOUR)
    ledger.close_period(period, signer)
    return ledger.prove(SPONSOR, period)


def findings(found: Proof, keys: Path) -> list[str]:
    """What the proof's file shows, read back."""
    key = read_public_key(keys.with_name("ledger.key.pub"))
    return list(proof.astray(proof.read(found.text, "proof.json"), key, is_signed))
