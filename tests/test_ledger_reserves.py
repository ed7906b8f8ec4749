"""Reserves: what open batches of usage have used is held, and no bill depends on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from threading import Thread

import pytest
from bookings import DAY3, MONEY, Clock, charge, held, record, run_of
from databases import Database

from tollsplit.errors import LedgerError, OverdraftError, StateError
from tollsplit.ledger import Hold, Ledger, Transfer, open_ledger
from tollsplit.ledger.store import instant_ns
from tollsplit.limits import RESERVE_LIFETIME_S
from tollsplit.model import Event, Posting, TaxPart

ALICE = ("alice", MONEY)
SPONSOR = ("sponsor:video-co", "octet")
HOUR = timedelta(hours=1)
RUN = run_of(captures=())
NAMED = 'reserve ["usage", "campus.pcap", "e1", 0] '


@pytest.fixture
def ledger(database: Database, clock: Clock) -> Iterator[Ledger]:
    """Alice has paid 1,000 in advance, video-co may use 10,000 octets."""
    with open_ledger(database.url, clock_ns=clock) as ledger:
        ledger.open_account(*ALICE, "subscriber", floor=0)
        ledger.open_account(*SPONSOR, "sponsor", floor=-10_000)
        ledger.open_account("bank", MONEY, "settlement")
        top_up(ledger, 1_000)
        yield ledger
        assert ledger.verify().findings == ()  # whatever the test did


def top_up(ledger: Ledger, amount: int, key: str = "top up") -> None:
    ledger.transfer(Transfer(key, "payment", (
        Posting("bank", MONEY, -amount), Posting(*ALICE, amount))))  # fmt: skip


def left(ledger: Ledger) -> tuple[int, int]:
    found = ledger.balance(*ALICE)
    return found.balance, found.held


def ends(ledger: Ledger) -> list[tuple[str, str | None, str | None]]:
    return [(e.source, e.account, e.unit) for e in ledger.events() if e.kind == "balance_end"]


def test_reserve_is_seen_and_ends_with_the_booking_that_takes_it(
    ledger: Ledger, database: Database
) -> None:
    ledger.open_account("card 7", MONEY, "card", floor=0)
    assert ledger.bounded() == {ALICE, SPONSOR}
    assert ledger.reserve(RUN, {ALICE: 300, SPONSOR: 700}) == ()
    assert left(ledger) == (1_000, 300)
    assert ledger.balance(*SPONSOR).held == 700
    with pytest.raises(OverdraftError):
        ledger.hold(Hold("h", *ALICE, 701, 60))
    ledger.post(RUN, [record()], [charge(340)])
    assert left(ledger) == (660, 0)
    assert ledger.balance(*SPONSOR).held == 0
    assert held(ledger)[SPONSOR] == -700
    assert database.rows("SELECT state, captured, resolved_at_ns FROM holds") == [
        ("voided", 0, instant_ns(DAY3))] * 2  # fmt: skip
    assert ledger.reserve(RUN, {ALICE: 500}) == ()  # it comes too late
    assert left(ledger) == (660, 0)


def test_reserve_of_one_batch_grows_by_being_replaced(ledger: Ledger, database: Database) -> None:
    steps = [(100, 100), (150, 100), (200, 200), (249, 200), (250, 250), (251, 250), (240, 240),
             (980, 980), (999, 999), (1_000, 1_000), (5_000, 1_000)]  # fmt: skip
    for used, seen in steps:
        ledger.reserve(RUN, {ALICE: used})
        assert left(ledger) == (1_000, seen), used
    ledger.reserve(run_of("e2", captures=()), {ALICE: 1})  # there is nothing for another lane
    assert database.rows("SELECT count(*) FROM holds WHERE state = 'held'") == [(1,)]
    ledger.reserve(RUN, {ALICE: 0})
    assert left(ledger) == (1_000, 0)


def test_reserves_of_several_lanes_share_a_balance(ledger: Ledger) -> None:
    other = run_of("e2", captures=())
    ledger.reserve(RUN, {ALICE: 600})
    ledger.reserve(other, {ALICE: 700})
    assert left(ledger) == (1_000, 1_000)
    ledger.post(other, [], [charge(700)])  # what the other lane used is not taken from it
    assert left(ledger) == (600, 600)
    assert held(ledger)["operator:uncollected", MONEY] == -300
    ledger.post(RUN, [], [charge(600)])
    assert left(ledger) == (0, 0)
    assert held(ledger)["operator:uncollected", MONEY] == -300


@pytest.mark.parametrize("reserved", [0, 1, 400, 999, 1_000, 2_000])
@pytest.mark.parametrize("due", [1, 400, 1_000, 1_500, -20])
def test_reserve_changes_no_bill(ledger: Ledger, reserved: int, due: int) -> None:
    if reserved:
        ledger.reserve(RUN, {ALICE: reserved})
    ledger.post(RUN, [record()], [charge(due, taxes=(TaxPart("vat", "tax:vat", 0),))])
    assert left(ledger) == (1_000 - min(due, 1_000), 0)
    assert held(ledger).get(("operator:uncollected", MONEY), 0) == min(0, 1_000 - due)
    assert held(ledger)["operator:revenue", MONEY] == due


def test_reserve_of_a_batch_that_nobody_books_expires(ledger: Ledger, clock: Clock) -> None:
    ledger.reserve(RUN, {ALICE: 400})
    clock.now += timedelta(seconds=RESERVE_LIFETIME_S)
    assert left(ledger) == (1_000, 0)
    ledger.hold(Hold("h", *ALICE, 1_000, 60))
    ledger.void("h")
    ledger.post(RUN, [], [charge(400)])
    assert left(ledger) == (600, 0)


def test_reserve_of_a_long_window_is_renewed_before_it_expires(
    ledger: Ledger, clock: Clock
) -> None:
    for _ in range(10):
        ledger.reserve(RUN, {ALICE: 400})
        assert left(ledger) == (1_000, 400)
        clock.now += HOUR * 2 / 5
    ledger.post(RUN, [], [charge(400)])
    assert left(ledger) == (600, 0)


def test_reserve_heeds_what_became_of_the_account(ledger: Ledger) -> None:
    ledger.reserve(RUN, {ALICE: 400})
    with pytest.raises(StateError, match="400 are held"):
        ledger.close_account(*ALICE)
    ledger.set_floor(*ALICE, None)
    ledger.reserve(RUN, {ALICE: 800})  # without a floor nothing is held of it
    assert left(ledger) == (1_000, 400)
    ledger.post(RUN, [], [charge(1_300)])
    assert left(ledger) == (-300, 0)


def test_reserves_are_nobody_else_s(ledger: Ledger, database: Database) -> None:
    ledger.reserve(RUN, {ALICE: 400})
    [(key,)] = database.rows("SELECT idempotency_key FROM holds")
    assert key.startswith(NAMED)
    taken = (Posting(*ALICE, -1), Posting("bank", MONEY, 1))
    for attempt in (
        lambda: ledger.hold(Hold("reserve mine", *ALICE, 1, 60)), lambda: ledger.void(key),
        lambda: ledger.capture(key, "payment", taken),
    ):  # fmt: skip
        with pytest.raises(LedgerError, match="are the ledger's own; choose another"):
            attempt()
    assert ledger.held(key).state == "held"


def test_reserve_of_another_run_whose_name_begins_alike_stays(ledger: Ledger) -> None:
    later = run_of(captures=(), first_sequence=1)
    tenth = run_of(captures=(), first_sequence=10)
    for run in (RUN, later, tenth):
        ledger.reserve(run, {ALICE: 100})
    ledger.post(later, [], [])
    assert left(ledger) == (1_000, 200)


def test_reserves_and_everybody_else_at_once_take_what_is_there(
    ledger: Ledger, database: Database
) -> None:
    """Lanes reserve and book while payments and holds want the same balances; nobody waits in a
    circle, and to the last micro-unit each account is spent once.
    """
    names = [f"s{number}" for number in range(6)]
    with ledger.atomic():
        for name in names:
            ledger.open_account(name, MONEY, "subscriber", floor=0)
            ledger.transfer(Transfer(f"top up {name}", "payment", (
                Posting("bank", MONEY, -1_000), Posting(name, MONEY, 1_000))))  # fmt: skip
    failed: list[BaseException] = []

    def lane(own: Ledger, number: int) -> None:
        order = names if number % 2 else names[::-1]
        for window in range(4):
            run = run_of(f"lane {number}", captures=(), first_sequence=window)
            for used in (20, 45, 100):
                own.reserve(run, {(name, MONEY): used for name in order})
            own.post(run, [], [charge(120, name) for name in sorted(order)])

    def payer(own: Ledger, number: int) -> None:
        for turn in range(8):
            own.expire_holds()
            with suppress(OverdraftError):
                own.transfer(Transfer(f"p{number} {turn}", "payment", (
                    Posting(names[turn % 6], MONEY, -30), Posting(names[turn % 5], MONEY, 30)
                    if turn % 6 != turn % 5 else Posting("bank", MONEY, 30))))  # fmt: skip
            with suppress(OverdraftError):
                own.hold(Hold(f"h{number} {turn}", names[-turn % 6], MONEY, 50, 60))
                own.void(f"h{number} {turn}")

    def guarded(work: Callable[[Ledger, int], None], number: int) -> None:
        try:
            with open_ledger(database.url, clock_ns=lambda: instant_ns(DAY3)) as own:
                work(own, number)
        except BaseException as error:
            failed.append(error)

    threads = [Thread(target=guarded, args=(lane if number < 4 else payer, number))
               for number in range(8)]  # fmt: skip
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failed == []
    balances = ledger.balances()
    assert sum(b.balance for b in balances if b.unit == MONEY) == 0
    assert {b.held for b in balances} == {0}
    assert held(ledger)["operator:revenue", MONEY] == 4 * 4 * 6 * 120
    assert ledger.verify().findings == ()


# --- the end of a balance ---------------------------------------------------------------


def test_balance_end_is_told_once_by_the_reserve(ledger: Ledger) -> None:
    [told] = ledger.reserve(RUN, {ALICE: 1_200})
    assert told == Event("balance_end", instant_ns(DAY3), "campus.pcap", "e1", account="alice",
                         unit=MONEY)  # fmt: skip
    assert ledger.reserve(RUN, {ALICE: 1_300}) == ()
    assert ledger.post(RUN, [], [charge(1_400)]).events == ()
    assert ledger.post(run_of("e2"), [], [charge(10)]).events == ()
    assert ends(ledger) == [("campus.pcap", *ALICE)]


def test_balance_end_is_told_by_the_booking_where_nothing_was_reserved(ledger: Ledger) -> None:
    ledger.reserve(RUN, {ALICE: 500})
    receipt = ledger.post(RUN, [], [charge(1_000)])
    assert [(e.kind, e.account, e.unit) for e in receipt.events] == [("balance_end", *ALICE)]
    assert ledger.post(RUN, [], [charge(1_000)]).events == ()  # the same again
    assert ends(ledger) == [("campus.pcap", *ALICE)]


def test_balance_end_comes_again_after_the_balance_did(ledger: Ledger, clock: Clock) -> None:
    for number in range(3):
        ledger.post(run_of(f"e{number}"), [], [charge(1_000)])
        ledger.post(run_of(f"f{number}"), [], [charge(1_000)])
        clock.now += HOUR
        top_up(ledger, 1_000, f"again {number}")
    assert len(ends(ledger)) == 3


def test_balance_end_of_an_account_without_a_floor_is_none(ledger: Ledger) -> None:
    assert ledger.post(RUN, [record(account="bob")], [charge(10, "bob")]).events == ()
    assert ends(ledger) == []


def test_balance_end_by_a_payment_or_a_hold_is_told_too(ledger: Ledger, clock: Clock) -> None:
    ledger.hold(Hold("h1", *ALICE, 999, 60))
    assert ends(ledger) == []
    ledger.transfer(Transfer("t", "payment", (Posting(*ALICE, -1), Posting("bank", MONEY, 1))))
    assert ends(ledger) == [("ledger", *ALICE)]
    clock.now += timedelta(seconds=1)
    ledger.void("h1")
    ledger.hold(Hold("h2", *ALICE, 999, 60))
    assert ends(ledger) == [("ledger", *ALICE)] * 2
    ledger.capture("h2", "payment", (Posting(*ALICE, -999), Posting("bank", MONEY, 999)))
    assert ends(ledger) == [("ledger", *ALICE)] * 2


def test_balance_end_that_was_undone_was_none(ledger: Ledger) -> None:
    with pytest.raises(ZeroDivisionError), ledger.atomic():
        assert ledger.reserve(RUN, {ALICE: 1_000})
        raise ZeroDivisionError
    assert (ends(ledger), left(ledger)) == ([], (1_000, 0))


# --- verifying --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("UPDATE holds SET state = 'held', resolved_at_ns = NULL WHERE id = 1",
         "held, though transaction 2 booked its batch"),
        ("UPDATE holds SET state = 'captured', captured = 1, transaction_id = 2 WHERE id = 1",
         "captured; what an open batch used is released when it is booked"),
        ("UPDATE holds SET idempotency_key = 'reserve it 2' WHERE id = 2",
         "its key names no batch of usage, or another hold"),
        (f"UPDATE holds SET idempotency_key = '{NAMED}3' WHERE id = 2",
         "its key names no batch of usage, or another hold"),
        ("INSERT INTO holds SELECT 3, replace(idempotency_key, '] 2', '] 3'), fingerprint, "
         "account_id, amount, description, service_request, run_id, tariff, rules_version, "
         "created_at_ns, expires_at_ns, state, captured, transaction_id, resolved_at_ns "
         "FROM holds WHERE id = 2",
         f'account "alice" ({MONEY}): its batch has another one'),
    ],
)  # fmt: skip
def test_reserve_that_is_astray_is_named(
    ledger: Ledger, database: Database, sql: str, message: str
) -> None:
    ledger.reserve(RUN, {ALICE: 400})
    ledger.post(RUN, [], [charge(400)])
    ledger.reserve(run_of("e2", captures=()), {ALICE: 100})
    assert ledger.verify().findings == ()
    before = database.rows("SELECT * FROM holds ORDER BY id")
    with database.unguarded():
        database.rows(sql)
    [check] = [c for c in ledger.verify().checks if c.name.startswith("what open batches use is")]
    assert len(check.findings) == 1 and message in check.findings[0], check
    with database.unguarded():  # as it was
        database.rows("DELETE FROM holds WHERE id = 3")
        for number, key, *_, state, captured, transaction, resolved in before:
            database.rows(
                f"UPDATE holds SET idempotency_key = '{key}', state = '{state}', captured = "
                f"{captured}, transaction_id = {transaction or 'NULL'}, resolved_at_ns = "
                f"{resolved or 'NULL'} WHERE id = {number}")  # fmt: skip
