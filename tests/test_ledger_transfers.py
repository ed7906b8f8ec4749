"""Transfers: booked once, balanced, never below a floor, and taken back once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from bookings import DAY3, HOUR, MONEY, charge, held, record, run_of
from databases import Database, Refused

from tollsplit.errors import (
    IdempotencyError,
    IdentityError,
    LedgerError,
    MissingError,
    OverdraftError,
    StateError,
)
from tollsplit.ledger import Ledger, Provenance, Transfer, open_ledger
from tollsplit.ledger.store import instant_ns
from tollsplit.model import Posting

NOON = datetime(2026, 11, 3, 12, tzinfo=UTC)


@pytest.fixture
def ledger(database: Database) -> Iterator[Ledger]:
    """Alice has 1,000, to be spent to the last; the shop and the tax office may owe."""
    with open_ledger(database.url, clock_ns=lambda: instant_ns(NOON)) as ledger:
        ledger.open_account("alice", MONEY, "subscriber", floor=0)
        ledger.open_account("shop", MONEY, "card")
        ledger.open_account("tax", MONEY, "settlement")
        ledger.transfer(pay(-1_000, "top-up"))
        yield ledger
        assert ledger.verify().findings == ()  # whatever the test did


def pay(amount: int = 300, key: str = "k1", **more: object) -> Transfer:
    """From Alice to the shop."""
    usual = Transfer(
        key, "payment", (Posting("alice", MONEY, -amount), Posting("shop", MONEY, amount)),
        "one thing", Provenance("request 7", None, "standard", "sha256:rules"),
    )  # fmt: skip
    return replace(usual, **more)  # type: ignore[arg-type]


# --- booked once ------------------------------------------------------------------------


def test_transfer_moves_an_amount_once(ledger: Ledger) -> None:
    first = ledger.transfer(pay())
    assert (first.booked, first.booked_at) == (True, NOON)
    assert ledger.transfer(pay()) == replace(first, booked=False)
    assert held(ledger) == {("alice", MONEY): 700, ("shop", MONEY): -700, ("tax", MONEY): 0}
    assert ledger.postings(first.transaction) == list(pay().postings)
    assert ledger.postings(99) == []


def test_transfer_may_have_many_postings_in_several_units(ledger: Ledger) -> None:
    ledger.open_account("alice", "octet", "subscriber")
    ledger.open_account("carol", "octet", "subscriber")
    posted = ledger.transfer(pay(postings=(
        Posting("alice", MONEY, -110), Posting("shop", MONEY, 100), Posting("tax", MONEY, 10),
        Posting("carol", "octet", -5_000), Posting("alice", "octet", 5_000),
    )))  # fmt: skip
    assert len(ledger.postings(posted.transaction)) == 5
    balances = held(ledger)
    assert (balances["alice", MONEY], balances["alice", "octet"]) == (890, 5_000)
    assert (balances["tax", MONEY], balances["carol", "octet"]) == (10, -5_000)


@pytest.mark.parametrize(
    "other",
    [
        pay(301), pay(kind="gift"), pay(description="another"), pay(provenance=Provenance()),
        pay(postings=(Posting("alice", MONEY, -300), Posting("tax", MONEY, 300))),
    ],
    ids=["amount", "kind", "description", "provenance", "account"],
)  # fmt: skip
def test_transfer_key_is_not_used_for_another(ledger: Ledger, other: Transfer) -> None:
    ledger.transfer(pay())
    before = held(ledger)
    with pytest.raises(IdempotencyError, match=r'"k1": its key was used at 2026-11-03T12:00:00Z'):
        ledger.transfer(other)
    assert held(ledger) == before


def test_transfer_key_is_free_again_after_a_refusal(ledger: Ledger) -> None:
    with pytest.raises(OverdraftError):
        ledger.transfer(pay(1_001))
    assert ledger.transfer(pay(1_000)).booked


@pytest.mark.parametrize(
    ("asked", "error", "message"),
    [
        (pay(1_001), OverdraftError, r'"alice" \(CNY/1000000\): -1 would be below 0'),
        (pay(postings=(Posting("alice", MONEY, -3), Posting("shop", MONEY, 2))), IdentityError,
         r"postings in CNY/1000000 sum to -1, expected 0"),
        (pay(postings=(Posting("alice", MONEY, -3), Posting("shop", "octet", 3))), IdentityError,
         "postings in CNY/1000000 sum to -3"),
        (pay(postings=(Posting("alice", MONEY, -3), Posting("alice", MONEY, 3))), LedgerError,
         "two or more accounts, one to each"),
        (pay(postings=(Posting("alice", MONEY, -3), Posting("shop", MONEY, 1),
                       Posting("shop", MONEY, 2))), LedgerError, "one to each"),
        (pay(postings=()), LedgerError, "two or more accounts"),
        (pay(0), LedgerError, "posting of nothing"),
        (pay(postings=(Posting("nobody", MONEY, -3), Posting("shop", MONEY, 3))), MissingError,
         'no account "nobody"'),
        (pay(postings=(Posting("alice", "EUR/1000000", -3), Posting("shop", "EUR/1000000", 3))),
         MissingError, r'no account "alice" \(EUR/1000000\)'),
        (pay(kind="usage"), LedgerError, 'kind "usage" is the ledger\'s own'),
        (pay(kind="reversal"), LedgerError, "the ledger's own"),
        (pay(-(2**63)), LedgerError, "63 bits|out of range"),
        (pay(provenance=Provenance(run=7)), LedgerError, "(?i)foreign key"),
    ],
)  # fmt: skip
def test_transfer_that_is_refused_changes_nothing(
    ledger: Ledger, asked: Transfer, error: type[Exception], message: str
) -> None:
    before = ledger.balances()
    with pytest.raises(error, match=message):
        ledger.transfer(asked)
    assert ledger.balances() == before
    assert ledger.transfer(pay()).booked


def test_transfers_are_booked_all_or_none_in_their_order(ledger: Ledger) -> None:
    batch = [pay(600, "a"), pay(-200, "b"), pay(600, "c")]
    with pytest.raises(OverdraftError, match=r'"c".*: -200 would be below 0'):
        ledger.transfer_all([batch[0], batch[2]])
    # What comes in later does not help what goes out first.
    with pytest.raises(OverdraftError, match='"c"'):
        ledger.transfer_all([batch[0], batch[2], batch[1]])
    assert held(ledger)["alice", MONEY] == 1_000
    assert [p.booked for p in ledger.transfer_all(batch)] == [True] * 3
    assert held(ledger)["alice", MONEY] == 0


def test_transfers_of_one_batch_share_a_key_once(ledger: Ledger) -> None:
    ledger.transfer(pay(1, "old"))
    posted = ledger.transfer_all([pay(2, "z"), pay(1, "old"), pay(3, "a"), pay(2, "z")])
    assert [p.booked for p in posted] == [True, False, True, False]
    assert posted[0].transaction == posted[3].transaction
    assert held(ledger)["alice", MONEY] == 994
    with pytest.raises(IdempotencyError):
        ledger.transfer_all([pay(2, "y"), pay(3, "y")])


def test_transfers_of_many_accounts_are_one_batch(ledger: Ledger) -> None:
    with ledger.atomic():
        for number in range(1_300):
            ledger.open_account(f"s{number}", MONEY, "subscriber", floor=-1)
    batch = [
        Transfer(str(n), "fee", (Posting(f"s{n}", MONEY, -1), Posting("shop", MONEY, 1)))
        for n in range(1_300)
    ]
    assert all(p.booked for p in ledger.transfer_all(batch))
    assert not any(p.booked for p in ledger.transfer_all(batch))
    assert held(ledger)["shop", MONEY] == 300
    assert ledger.transfer_all([]) == []


def test_atomic_is_all_or_nothing(ledger: Ledger) -> None:
    with pytest.raises(OverdraftError), ledger.atomic():
        ledger.transfer(pay(400, "a"))
        ledger.transfer(pay(700, "b"))
    assert held(ledger)["alice", MONEY] == 1_000
    with ledger.atomic():
        ledger.transfer(pay(400, "a"))
        with pytest.raises(OverdraftError):
            ledger.transfer(pay(700, "b"))
        assert ledger.balance("alice", MONEY).balance == 600  # it sees what it has done
        ledger.post(run_of(), [record()], [charge(100)])
    assert held(ledger)["alice", MONEY] == 500


# --- accounts ---------------------------------------------------------------------------


def test_account_is_opened_once(ledger: Ledger) -> None:
    opened = ledger.open_account("carol", "octet", "card", floor=-5)
    assert (opened.balance, opened.held, opened.floor, opened.state) == (0, 0, -5, "open")
    assert ledger.open_account("carol", "octet", "card", floor=-5) == opened
    for kind, floor in (("sponsor", -5), ("card", -6), ("card", None)):
        with pytest.raises(StateError, match="is there already: open, of kind card, floor -5"):
            ledger.open_account("carol", "octet", kind, floor)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "unit", "kind", "floor", "message"),
    [
        ("x", "bytes", "card", None, 'unit: expected "octet" or as "CNY/1000000", got "bytes"'),
        ("x", "CNY/100", "card", None, "unit: expected"),
        ("operator:x", "octet", "card", None, "the operator's own"),
        ("x", "octet", "friend", None, "(?i)check"),
        ("x", "octet", "card", 1, "(?i)check"),
    ],
)
def test_account_that_makes_no_sense_is_refused(
    ledger: Ledger, name: str, unit: str, kind: str, floor: int | None, message: str
) -> None:
    with pytest.raises(LedgerError, match=message):
        ledger.open_account(name, unit, kind, floor)  # type: ignore[arg-type]


def test_account_floor_moves_while_it_is_kept(ledger: Ledger) -> None:
    assert ledger.set_floor("alice", MONEY, 1_000).floor == 1_000
    with pytest.raises(OverdraftError, match="999 would be below 1000"):
        ledger.transfer(pay(1))
    with pytest.raises(OverdraftError, match="1000 is below 1001 already"):
        ledger.set_floor("alice", MONEY, 1_001)
    assert ledger.set_floor("alice", MONEY, None).floor is None
    assert ledger.transfer(pay(5_000)).booked
    with pytest.raises(MissingError):
        ledger.set_floor("nobody", MONEY, 0)


def test_account_that_is_closed_takes_part_in_nothing(ledger: Ledger) -> None:
    posted = ledger.transfer(pay(10, "before"))
    assert ledger.close_account("shop", MONEY).state == "closed"
    assert ledger.close_account("shop", MONEY).state == "closed"
    with pytest.raises(StateError, match=r'"shop" \(CNY/1000000\): it is closed'):
        ledger.transfer(pay())
    with pytest.raises(StateError, match="it is closed"):
        ledger.reverse(posted.transaction, "back")
    with pytest.raises(StateError, match="is there already: closed"):
        ledger.open_account("shop", MONEY, "card")
    with pytest.raises(MissingError):
        ledger.close_account("nobody", MONEY)


# --- reversals --------------------------------------------------------------------------


def test_reversal_takes_a_transfer_back_once(ledger: Ledger) -> None:
    posted = ledger.transfer(pay())
    back = ledger.reverse(posted.transaction, "back", "it was broken")
    assert back.booked and held(ledger)["alice", MONEY] == 1_000
    assert ledger.reverse(posted.transaction, "back", "it was broken") == replace(
        back, booked=False)
    with pytest.raises(StateError, match=f"reversed already, by transaction {back.transaction}"):
        ledger.reverse(posted.transaction, "again")
    with pytest.raises(IdempotencyError):
        ledger.reverse(posted.transaction, "back", "another reason")
    with pytest.raises(StateError, match="is a reversal itself"):
        ledger.reverse(back.transaction, "forth")
    with pytest.raises(MissingError, match="no transaction 99"):
        ledger.reverse(99, "nothing")
    assert held(ledger)["alice", MONEY] == 1_000


def test_reversal_may_not_overdraw(ledger: Ledger) -> None:
    ledger.transfer(pay())
    top_up = ledger.transfer(pay(-1_000, "top-up"))
    with pytest.raises(OverdraftError, match="-300 would be below 0"):
        ledger.reverse(top_up.transaction, "back")


def test_reversal_of_a_run_gives_quotas_and_budgets_back(ledger: Ledger) -> None:
    period = ("pay-proxy", instant_ns(DAY3), instant_ns(DAY3 + 24 * HOUR))
    day = {("alice", "standard", instant_ns(DAY3))}

    def gone(before: str | None) -> list[int]:
        run = None if before is None else run_of(before)
        return [
            sum(ledger.prior([period], before=run).values()),
            ledger.spent("video-co", None, None, before=run),
            sum(ledger.rated(day, before=run).values()),
        ]

    first = ledger.post(run_of("e1"), [record()], [charge()])
    ledger.post(run_of("e2"), [record(epoch="e2")], [charge()])
    assert gone(None) == [2_000, 1_400, 600]
    ledger.reverse(first.transaction, "wrong rules")
    assert gone(None) == [1_000, 700, 300]
    # What was worked out before it stays what it was: the same run again is known as booked.
    assert gone("e2") == [1_000, 700, 300]
    assert not ledger.post(run_of("e2"), [record(epoch="e2")], [charge()]).booked
    assert not ledger.post(run_of("e1"), [record()], [charge()]).booked
    statement = ledger.statement("alice")
    assert statement.closing == {"octet": -300, MONEY: 1_000 - 87}
    assert [e.amount for e in statement.entries if e.unit == "octet"] == [300]


def test_reversal_meanwhile_refuses_a_run_that_counted_on_it(
    ledger: Ledger, database: Database
) -> None:
    first = ledger.post(run_of("e1"), [record()], [])
    period = ("pay-proxy", instant_ns(DAY3), instant_ns(DAY3 + 24 * HOUR))
    ledger.prior([period], before=run_of("e2"))
    with open_ledger(database.url) as other:
        other.reverse(first.transaction, "wrong rules")
    with pytest.raises(LedgerError, match="run it again"):
        ledger.post(run_of("e2"), [record(epoch="e2")], [])


# --- tampering --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sql", "finding"),
    [
        ("UPDATE transactions SET kind = 'gift' WHERE id = 2", "transaction 2: it is not the one"),
        ("UPDATE transactions SET description = '' WHERE id = 2", "transaction 2: it is not"),
        ("UPDATE transactions SET service_request = NULL WHERE id = 2", "transaction 2: it is not"),
        ("UPDATE transactions SET fingerprint = 'sha256:0' WHERE id = 1", "transaction 1: it is"),
        ("UPDATE postings SET amount = amount * 2 WHERE transaction_id = 2", "transaction 2: it"),
        ("DELETE FROM postings WHERE transaction_id = 2", "transaction 2: it is not the one"),
        ("UPDATE transactions SET reverses = NULL WHERE id = 3", "kind 'reversal', reverses None"),
        ("UPDATE transactions SET reverses = 1 WHERE id = 3",
         'transaction 3: account "alice" (CNY/1000000): 1300 is left of what it reverses'),
        ("UPDATE transactions SET kind = 'reversal' WHERE id = 2",
         "transaction 3: reverses transaction 2, of kind 'reversal'"),
        ("UPDATE accounts SET floor = 1001 WHERE name = 'alice'", "CHECK"),
        ("UPDATE accounts SET held = 1 WHERE name = 'shop'",
         'account "shop" (CNY/1000000): held 1, its open holds sum to 0'),
    ],
)  # fmt: skip
def test_verify_finds_tampering_with_transfers(
    database: Database, sql: str, finding: str
) -> None:
    with open_ledger(database.url) as ledger:
        ledger.open_account("alice", MONEY, "subscriber", floor=0)
        ledger.open_account("shop", MONEY, "card")
        ledger.transfer(pay(-1_000, "top-up"))
        ledger.reverse(ledger.transfer(pay()).transaction, "back")
        assert ledger.verify().holds
        with database.unguarded():
            if finding == "CHECK":
                with pytest.raises(Refused, match=r"(?i)check"):
                    database.rows(sql)
                return
            database.rows(sql)
        findings = ledger.verify().findings
    assert any(finding in found for found in findings), findings
