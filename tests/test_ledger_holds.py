"""Holds: never more than there is, resolved once, by the server's clock."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from bookings import MONEY, Clock, charge, held, run_of
from databases import Database, Refused

from tollsplit.errors import (
    IdempotencyError,
    LedgerError,
    MissingError,
    OverdraftError,
    StateError,
)
from tollsplit.ledger import Hold, Ledger, Provenance, Transfer, open_ledger
from tollsplit.model import Posting

NOON = datetime(2026, 11, 3, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


@pytest.fixture
def clock() -> Clock:
    return Clock(NOON)


@pytest.fixture
def ledger(database: Database, clock: Clock) -> Iterator[Ledger]:
    """Alice has 1,000, to be spent to the last."""
    with open_ledger(database.url, clock_ns=clock) as ledger:
        ledger.open_account("alice", MONEY, "subscriber", floor=0)
        ledger.open_account("shop", MONEY, "card")
        ledger.transfer(Transfer("top-up", "payment", taken(-1_000)))
        yield ledger
        assert ledger.verify().findings == ()  # whatever the test did


def taken(amount: int) -> tuple[Posting, ...]:
    return Posting("alice", MONEY, -amount), Posting("shop", MONEY, amount)


def hold_of(amount: int = 300, key: str = "h1", **more: object) -> Hold:
    usual = Hold(key, "alice", MONEY, amount, 60, "a ride", Provenance("request 7"))
    return replace(usual, **more)  # type: ignore[arg-type]


def left(ledger: Ledger) -> tuple[int, int]:
    found = ledger.balance("alice", MONEY)
    return found.balance, found.held


def test_hold_sets_an_amount_aside_once(ledger: Ledger) -> None:
    placed = ledger.hold(hold_of())
    assert (placed.state, placed.amount, placed.captured) == ("held", 300, 0)
    assert (placed.expires_at, placed.transaction) == (NOON + MINUTE, None)
    assert ledger.hold(hold_of()) == placed == ledger.held("h1")
    assert left(ledger) == (1_000, 300)
    for other in (hold_of(301), hold_of(account="shop"), hold_of(lifetime_s=61),
                  hold_of(description=""), hold_of(provenance=Provenance())):  # fmt: skip
        with pytest.raises(IdempotencyError, match=r'"h1": its key was used at 2026-11-03T12:00'):
            ledger.hold(other)
    assert left(ledger) == (1_000, 300)


def test_hold_keeps_the_floor(ledger: Ledger) -> None:
    ledger.hold(hold_of(700))
    with pytest.raises(OverdraftError, match="-1 would be below 0"):
        ledger.hold(hold_of(301, "h2"))
    with pytest.raises(OverdraftError, match="-1 would be below 0"):
        ledger.transfer(Transfer("t", "payment", taken(301)))
    with pytest.raises(OverdraftError, match="300 is below 301 already"):
        ledger.set_floor("alice", MONEY, 301)
    assert ledger.hold(hold_of(300, "h3")).state == "held"
    assert left(ledger) == (1_000, 1_000)
    with pytest.raises(MissingError):
        ledger.held("h2")


@pytest.mark.parametrize(
    ("asked", "error"),
    [(hold_of(0), LedgerError), (hold_of(-5), LedgerError), (hold_of(lifetime_s=0), LedgerError),
     (hold_of(account="nobody"), MissingError), (hold_of(unit="octet"), MissingError)],
)  # fmt: skip
def test_hold_that_makes_no_sense_is_refused(
    ledger: Ledger, asked: Hold, error: type[Exception]
) -> None:
    with pytest.raises(error):
        ledger.hold(asked)


def test_hold_and_closing_exclude_each_other(ledger: Ledger) -> None:
    ledger.hold(hold_of())
    with pytest.raises(StateError, match="300 are held; resolve its holds first"):
        ledger.close_account("alice", MONEY)
    ledger.void("h1")
    ledger.close_account("alice", MONEY)
    with pytest.raises(StateError, match="it is closed"):
        ledger.hold(hold_of(1, "h2"))


@pytest.mark.parametrize("amount", [1, 299, 300])
def test_capture_takes_up_to_what_is_held_and_releases_the_rest(
    ledger: Ledger, amount: int
) -> None:
    ledger.hold(hold_of(100, "other"))
    ledger.hold(hold_of())
    captured = ledger.capture("h1", "payment", taken(amount), "the ride")
    assert (captured.state, captured.captured) == ("captured", amount)
    assert captured.transaction is not None
    assert ledger.postings(captured.transaction) == list(taken(amount))
    assert left(ledger) == (1_000 - amount, 100)
    assert ledger.capture("h1", "payment", taken(amount), "the ride") == captured
    assert ledger.hold(hold_of()) == captured
    with pytest.raises(IdempotencyError):
        ledger.capture("h1", "payment", taken(amount), "another ride")
    with pytest.raises(StateError, match="it was captured already"):
        ledger.void("h1")
    assert left(ledger) == (1_000 - amount, 100)


@pytest.mark.parametrize("amount", [301, 0, -1])
def test_capture_takes_no_more_than_is_held(ledger: Ledger, amount: int) -> None:
    ledger.hold(hold_of())
    with pytest.raises(LedgerError, match=r"expected 1 to 300 to be taken .*, got"):
        ledger.capture("h1", "payment", taken(amount))
    assert left(ledger) == (1_000, 300)
    with pytest.raises(MissingError, match='no hold "h9"'):
        ledger.capture("h9", "payment", taken(1))


def test_capture_of_all_that_there_is(ledger: Ledger) -> None:
    """Down to the floor: what is held is there."""
    ledger.hold(hold_of(1_000))
    ledger.capture("h1", "payment", taken(1_000))
    assert left(ledger) == (0, 0)


def test_capture_that_is_refused_keeps_the_hold(ledger: Ledger) -> None:
    ledger.hold(hold_of())
    with pytest.raises(MissingError):
        ledger.capture(
            "h1", "payment", (Posting("alice", MONEY, -1), Posting("nobody", MONEY, 1)))
    assert left(ledger) == (1_000, 300)
    assert ledger.capture("h1", "payment", taken(1)).state == "captured"


def test_capture_is_reversed_as_any_transaction(ledger: Ledger) -> None:
    ledger.hold(hold_of())
    captured = ledger.capture("h1", "payment", taken(200))
    assert captured.transaction is not None
    ledger.reverse(captured.transaction, "refund")
    assert left(ledger) == (1_000, 0)


def test_void_releases_a_hold_once(ledger: Ledger) -> None:
    ledger.hold(hold_of(100, "other"))
    ledger.hold(hold_of())
    voided = ledger.void("h1")
    assert (voided.state, left(ledger)) == ("voided", (1_000, 100))
    assert ledger.void("h1") == voided == ledger.hold(hold_of())
    with pytest.raises(StateError, match="it was voided already; nothing was captured"):
        ledger.capture("h1", "payment", taken(1))
    assert left(ledger) == (1_000, 100)
    with pytest.raises(MissingError):
        ledger.void("h9")


def test_hold_expires_by_the_clock(ledger: Ledger, clock: Clock) -> None:
    ledger.hold(hold_of())
    ledger.hold(hold_of(100, "longer", lifetime_s=120))
    clock.now = NOON + MINUTE - timedelta(microseconds=1)
    assert ledger.expire_holds() == 0
    clock.now = NOON + MINUTE
    assert left(ledger) == (1_000, 100)  # over is over, whether somebody has swept or not
    assert ledger.expire_holds() == 1
    assert (ledger.held("h1").state, left(ledger)) == ("expired", (1_000, 100))
    assert ledger.expire_holds() == 0
    assert ledger.void("h1").state == "expired"
    with pytest.raises(StateError, match="it expired at 2026-11-03T12:01:00Z; nothing was"):
        ledger.capture("h1", "payment", taken(1))


@pytest.mark.parametrize("write", ["capture", "void", "transfer", "hold", "post"])
def test_hold_that_is_over_stands_in_nobody_s_way(
    ledger: Ledger, clock: Clock, write: str
) -> None:
    """Whoever writes next releases it, be its owner as dead as may be."""
    ledger.hold(hold_of(1_000))
    clock.now = NOON + MINUTE
    if write == "capture":
        with pytest.raises(StateError, match="it expired at 2026-11-03T12:01:00Z"):
            ledger.capture("h1", "payment", taken(1_000))
    elif write == "void":
        assert ledger.void("h1").state == "expired"
    elif write == "transfer":
        ledger.transfer(Transfer("t", "payment", taken(1_000)))
    elif write == "hold":
        ledger.hold(hold_of(1_000, "h2"))
    else:
        ledger.post(run_of(), [], [charge(1_000)])
    assert ledger.held("h1").state == "expired"
    taken_of = {"transfer": (0, 0), "post": (0, 0), "hold": (1_000, 1_000)}
    assert left(ledger) == taken_of.get(write, (1_000, 0))


def test_hold_that_is_over_in_the_middle_of_a_transaction_is_not_captured(
    ledger: Ledger, clock: Clock
) -> None:
    ledger.hold(hold_of())
    with ledger.atomic():
        clock.now = NOON + MINUTE
        with pytest.raises(StateError, match="it expired at 2026-11-03T12:01:00Z"):
            ledger.capture("h1", "payment", taken(1))
    assert (ledger.held("h1").state, left(ledger)) == ("held", (1_000, 0))


def test_hold_stays_resolved_when_the_clock_steps_back(ledger: Ledger, clock: Clock) -> None:
    ledger.hold(hold_of())
    clock.now = NOON + MINUTE
    ledger.expire_holds()
    clock.now = NOON - 60 * MINUTE
    assert ledger.held("h1").state == "expired"
    with pytest.raises(StateError):
        ledger.capture("h1", "payment", taken(1))
    later = ledger.hold(hold_of(key="h2"))  # its lifetime begins where the clock is now
    assert later.expires_at == NOON - 59 * MINUTE
    assert ledger.capture("h2", "payment", taken(300)).state == "captured"
    assert left(ledger) == (700, 0)
    assert ledger.transfer(Transfer("t", "payment", taken(1))).booked_at < NOON


def test_holds_of_many_accounts_expire_together(ledger: Ledger, clock: Clock) -> None:
    with ledger.atomic():
        for number in range(600):
            ledger.open_account(f"s{number}", "octet", "subscriber", floor=-1)
            ledger.hold(Hold(f"x{number}", f"s{number}", "octet", 1, 60))
    ledger.hold(hold_of())
    ledger.hold(hold_of(1, "h2"))
    clock.now = NOON + MINUTE
    assert ledger.expire_holds() == 602
    assert {balance.held for balance in ledger.balances()} == {0}
    assert sum(held(ledger).values()) == 0


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("UPDATE holds SET amount = 1, state = 'voided', resolved_at_ns = 1 WHERE id = 1",
         "keeps its terms"),
        ("UPDATE holds SET expires_at_ns = 1, state = 'voided', resolved_at_ns = 1 WHERE id = 1",
         "keeps its terms"),
        ("UPDATE holds SET state = 'held', resolved_at_ns = NULL WHERE idempotency_key = 'void'",
         "resolved once"),
        ("UPDATE holds SET state = 'voided' WHERE idempotency_key = 'void'", "resolved once"),
        ("UPDATE holds SET state = 'voided' WHERE idempotency_key = 'open'", "(?i)check"),
        ("DELETE FROM holds", "not deleted"),
        ("UPDATE accounts SET held = 1001 WHERE name = 'alice'", "(?i)check"),
    ],
)  # fmt: skip
def test_hold_is_guarded_by_the_database(
    ledger: Ledger, database: Database, sql: str, message: str
) -> None:
    ledger.hold(hold_of(key="open"))
    ledger.hold(hold_of(key="void"))
    ledger.void("void")
    with pytest.raises(Refused, match=message):
        database.rows(sql)


@pytest.mark.parametrize(
    ("sql", "finding"),
    [
        ("UPDATE holds SET amount = 400 WHERE idempotency_key = 'open'", 'hold "open": it is not'),
        ("UPDATE holds SET expires_at_ns = expires_at_ns + 1000000000 WHERE id = 1",
         'hold "open": it is not the one that was asked for'),
        ("DELETE FROM holds WHERE idempotency_key = 'open'",
         'account "alice" (CNY/1000000): held 300, its open holds sum to 0'),
        ("UPDATE accounts SET held = 299 WHERE name = 'alice'", "held 299, its open holds sum to"),
        ("UPDATE holds SET captured = 199 WHERE id = 2", 'hold "taken": captured 199, its '
         "transaction took 200"),
        ("UPDATE holds SET transaction_id = 1 WHERE id = 2", "not by its own transaction"),
        ("DELETE FROM holds WHERE id = 2", "transaction 2: captures no hold"),
        ("UPDATE holds SET state = 'voided', captured = 0, transaction_id = NULL WHERE id = 2",
         "transaction 2: captures no hold"),
    ],
)  # fmt: skip
def test_verify_finds_tampering_with_holds(database: Database, sql: str, finding: str) -> None:
    with open_ledger(database.url) as ledger:
        ledger.open_account("alice", MONEY, "subscriber")
        ledger.open_account("shop", MONEY, "card")
        ledger.transfer(Transfer("top-up", "payment", taken(-1_000)))
        ledger.hold(hold_of(key="open"))
        ledger.hold(hold_of(key="taken"))
        ledger.capture("taken", "payment", taken(200))
        assert ledger.verify().holds
        with database.unguarded():
            database.rows(sql)
        findings = ledger.verify().findings
    assert any(finding in found for found in findings), findings
