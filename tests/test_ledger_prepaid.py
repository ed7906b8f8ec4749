"""Usage and those who cannot pay for it: balances with floors, closed accounts, ended budgets."""

from __future__ import annotations

from collections.abc import Iterator
from threading import Thread

import pytest
from bookings import DAY3, HOUR, MONEY, charge, held, record, run_of
from databases import Database

from tollsplit.errors import LedgerError, OverdraftError, StaleError, StateError
from tollsplit.ledger import Hold, Ledger, Transfer, open_ledger
from tollsplit.ledger.statement import Entry
from tollsplit.ledger.store import instant_ns
from tollsplit.model import Posting, TaxPart

UNCOLLECTED = ("operator:uncollected", MONEY)


@pytest.fixture
def ledger(database: Database) -> Iterator[Ledger]:
    """Alice has paid 100 in advance."""
    with open_ledger(database.url) as ledger:
        ledger.open_account("alice", MONEY, "subscriber", floor=0)
        ledger.open_account("bank", MONEY, "settlement")
        top_up(ledger, 100)
        yield ledger
        assert ledger.verify().findings == ()  # whatever the test did


def top_up(ledger: Ledger, amount: int) -> None:
    ledger.transfer(Transfer(f"top up {amount}", "payment", (
        Posting("bank", MONEY, -amount), Posting("alice", MONEY, amount))))  # fmt: skip


@pytest.mark.parametrize(
    ("amount", "on_hold", "balance", "uncollected"),
    [(99, 0, 1, 0), (100, 0, 0, 0), (101, 0, 0, 1), (250, 0, 0, 150),
     (60, 40, 40, 0), (61, 40, 40, 1)],
)  # fmt: skip
def test_prepaid_usage_takes_what_is_there_and_the_rest_is_uncollected(
    ledger: Ledger, amount: int, on_hold: int, balance: int, uncollected: int
) -> None:
    if on_hold:
        ledger.hold(Hold("purchase", "alice", MONEY, on_hold, 3600))
    assert ledger.post(run_of(), [record()], [charge(amount)]).booked
    balances = held(ledger)
    assert balances["alice", MONEY] == balance
    assert balances.get(UNCOLLECTED, 0) == -uncollected
    assert balances["operator:revenue", MONEY] == amount
    assert balances["alice", "octet"] == -300


def test_prepaid_taxes_are_owed_as_prices_are(ledger: Ledger) -> None:
    taxes = (TaxPart("vat", "tax:vat", 13),)
    ledger.post(run_of(), [], [charge(100, taxes=taxes), charge(50, "bob", taxes=taxes)])
    balances = held(ledger)
    assert balances["alice", MONEY] == 0
    assert balances["bob", MONEY] == -63  # without a floor it is a debt on his own account
    assert balances[UNCOLLECTED] == -13
    assert balances["tax:vat", MONEY] == 26
    assert balances["operator:revenue", MONEY] == 150


def test_prepaid_volume_has_a_floor_too(ledger: Ledger) -> None:
    ledger.open_account("alice", "octet", "subscriber", floor=-500)
    ledger.open_account("sponsor:video-co", "octet", "sponsor", floor=-1000)
    ledger.post(run_of(), [record(0), record(1, DAY3 + HOUR)], [])
    balances = held(ledger)
    assert balances["alice", "octet"] == -500
    assert balances["sponsor:video-co", "octet"] == -1000
    assert balances["operator:uncollected", "octet"] == -500
    assert balances["operator:traffic", "octet"] == 2000


def test_prepaid_balance_of_several_windows_ends_once(ledger: Ledger) -> None:
    """As a live run's windows come: each is booked, nothing stands in the way of the next."""
    for number in range(4):
        assert ledger.post(run_of(f"e{number}"), [], [charge(40)]).booked
    assert held(ledger)["alice", MONEY] == 0
    assert held(ledger)[UNCOLLECTED] == -60
    top_up(ledger, 50)
    ledger.post(run_of("e4"), [], [charge(40)])  # what was owed before is settled by a transfer
    assert held(ledger)["alice", MONEY] == 10
    settled = (Posting("alice", MONEY, -10), Posting("operator:uncollected", MONEY, 10))
    ledger.transfer(Transfer("settle", "settlement", settled))
    with pytest.raises(OverdraftError):  # floors still bound everything else
        ledger.transfer(Transfer("more", "settlement", settled))
    assert (held(ledger)["alice", MONEY], held(ledger)[UNCOLLECTED]) == (0, -50)


def test_prepaid_closed_account_does_not_stop_usage(ledger: Ledger) -> None:
    ledger.close_account("alice", MONEY)
    ledger.post(run_of(), [record()], [charge(30)])
    assert held(ledger)["alice", MONEY] == 100
    assert held(ledger)[UNCOLLECTED] == -30
    ledger.post(run_of("e2"), [], [charge(-10)])  # a minimum given back: no posting to it either
    assert held(ledger)["alice", MONEY] == 100
    assert held(ledger)[UNCOLLECTED] == -20


def test_prepaid_same_run_again_is_the_same_whatever_the_balance_is(ledger: Ledger) -> None:
    first = ledger.post(run_of(), [], [charge(150)])
    top_up(ledger, 1000)
    again = ledger.post(run_of(), [], [charge(150)])
    assert (again.booked, again.transaction) == (False, first.transaction)
    assert held(ledger)["alice", MONEY] == 1000


def test_prepaid_reversal_gives_back_what_each_paid(ledger: Ledger) -> None:
    receipt = ledger.post(run_of(), [], [charge(150)])
    ledger.reverse(receipt.transaction, "oops")
    assert (held(ledger)["alice", MONEY], held(ledger)[UNCOLLECTED]) == (100, 0)


def test_prepaid_statement_adds_up_and_names_what_is_uncollected(ledger: Ledger) -> None:
    receipt = ledger.post(run_of(), [record()], [
        charge(150, taxes=(TaxPart("vat", "tax:vat", 19),))])  # fmt: skip
    statement = ledger.statement("alice", zone="UTC")
    assert statement.closing == {MONEY: 0, "octet": -300}
    assert statement.charged_micros == {"CNY": 150}
    assert statement.tax_micros == {"CNY": 19}
    assert [(t.day, t.tax, t.amount_micros) for t in statement.taxes] == [
        (DAY3.date(), "vat", 19)]  # fmt: skip
    assert Entry(
        receipt.booked_at, "not covered, uncollected: usage of campus.pcap", MONEY, 69,
        receipt.transaction,
    ) in statement.entries
    detailed = ledger.statement("alice", records=True)
    [(_, booked)] = detailed.charge_records or ()
    assert booked.charge.taxes == (TaxPart("vat", "tax:vat", 19),)
    assert ledger.statement("tax:vat").closing == {MONEY: 19}
    assert ledger.statement().closing[MONEY] == 0
    december = ledger.statement("alice", "2099-12")
    assert december.opening == december.closing == {MONEY: 0, "octet": -300}


@pytest.mark.parametrize(
    "name",
    ["operator:traffic", "operator:revenue", "operator:remainder", "operator:remainder:tax:vat",
     "operator:uncollected", "tax:vat"],
)  # fmt: skip
def test_accounts_that_usage_is_posted_to_cannot_refuse_it(ledger: Ledger, name: str) -> None:
    ledger.post(run_of(), [record()], [charge(150, taxes=(TaxPart("vat", "tax:vat", 1),))])
    for refused in (
        lambda: ledger.close_account(name, MONEY),
        lambda: ledger.set_floor(name, MONEY, -1000),
        lambda: ledger.open_account(name, "EUR/1000000", "operator", floor=0),
    ):
        with pytest.raises(StateError, match="usage is posted to it: it stays open"):
            refused()


@pytest.mark.parametrize("account", ["tax:vat", "tax:", "operator:x"])
def test_payers_have_no_names_of_taxes(ledger: Ledger, account: str) -> None:
    with pytest.raises(LedgerError, match="are the operator's own; choose another"):
        ledger.post(run_of(), [], [charge(1, account)])
    with pytest.raises(LedgerError, match="are the operator's own; choose another"):
        ledger.post(run_of(), [record(account=account)], [])
    with pytest.raises(LedgerError, match="are the operator's own; choose another"):
        ledger.open_account(account, MONEY, "subscriber")
    with pytest.raises(LedgerError, match='expected an account whose name begins with "tax:"'):
        ledger.post(run_of(), [], [charge(1, taxes=(TaxPart("vat", "bob", 1),))])


# --- budgets of sponsors ----------------------------------------------------------------


def test_budget_is_never_exceeded_by_runs_that_race_for_it(database: Database) -> None:
    """Ten gateways of 700 sponsored octets each and a budget of 2,500: exactly that is paid."""
    day = instant_ns(DAY3), instant_ns(DAY3 + 24 * HOUR)
    with open_ledger(database.url):
        pass
    stale: list[str] = []
    failed: list[BaseException] = []

    def book(epoch: str) -> None:
        with open_ledger(database.url) as own:
            run = run_of(epoch)
            while True:
                spent = own.spent("video-co", *day, before=run)
                paid = min(700, 2500 - spent)
                try:
                    own.post(run, [record(epoch=epoch, subscriber_octets=1000 - paid,
                                          sponsor_octets={"video-co": paid})], [])  # fmt: skip
                    return
                except StaleError:
                    stale.append(epoch)
                    assert len(stale) < 100  # each time another run was booked: 45 at most

    def guarded(epoch: str) -> None:
        try:
            book(epoch)
        except BaseException as error:
            failed.append(error)

    threads = [Thread(target=guarded, args=(f"e{number}",)) for number in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failed
    with open_ledger(database.url) as ledger:
        balances = held(ledger)
        assert ledger.verify().findings == ()
    assert balances["sponsor:video-co", "octet"] == -2500
    assert balances["alice", "octet"] == -7500
    assert database.rows("SELECT count(*) FROM runs") == [(10,)]
