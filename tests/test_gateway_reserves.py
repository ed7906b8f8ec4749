"""Prepaid accounts while a window is open: what it uses is held, and booked once, exactly."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest
from gateways import PROGRAM, Running, expect_sound, packet, rows, running, wait, write_rules

from tollsplit.cli.happenings import Happenings
from tollsplit.ledger import Balance, Hold, Transfer, open_ledger
from tollsplit.limits import RESERVE_LIFETIME_S
from tollsplit.model import Event, Posting

pytestmark = pytest.mark.window("1h")

ALICE = ("10.0.0.7", "CNY/1000000")
SPONSOR = ("sponsor:video-co", "octet")
PACKET = 1000  # octets; the sponsor pays 700 of them, its tariff and the subscriber's are the same


def open_accounts(home: Path, paid: int = 10**6, sponsor: int | None = None) -> None:
    with open_ledger(f"sqlite:///{home}/ledger.db") as ledger:
        ledger.open_account(*ALICE, "subscriber", floor=0)
        ledger.open_account("bank", ALICE[1], "settlement")
        top_up(home, paid)
        if sponsor is not None:
            ledger.open_account(*SPONSOR, "sponsor", floor=-sponsor)


def top_up(home: Path, amount: int) -> None:
    with open_ledger(f"sqlite:///{home}/ledger.db") as ledger:
        ledger.transfer(Transfer(f"top up {time.time_ns()}", "payment", (
            Posting("bank", ALICE[1], -amount), Posting(*ALICE, amount))))  # fmt: skip


def balance(home: Path, account: str = ALICE[0], unit: str = ALICE[1]) -> Balance:
    with open_ledger(f"sqlite:///{home}/ledger.db") as ledger:
        return ledger.balance(account, unit)


def give(run: Running, packets: int = 10) -> None:
    run.frames.lanes[0].give(
        b"".join(packet(time.time_ns() + i, PACKET) for i in range(packets)))


def cost(octets: int) -> int:
    """In micro-units, of what the subscriber pays of so many octets."""
    return (octets - octets * 7 // 10) * 10**6 // 2**20


def ends(run: Running) -> list[tuple[str | None, str | None]]:
    return [(e.account, e.unit) for e in run.told
            if isinstance(e, Event) and e.kind == "balance_end"]


def test_gateway_holds_what_the_open_window_uses(home: Path) -> None:
    open_accounts(home, sponsor=10**6)
    with running(home) as run:
        give(run, 10)
        wait(lambda: balance(home).held == cost(10_000))
        wait(lambda: balance(home, *SPONSOR).held == 7_000)
        give(run, 40)
        wait(lambda: balance(home).held == cost(50_000))
        assert rows(home, "SELECT count(*) FROM runs") == [(0,)]
        assert rows(home, "SELECT count(*), min(account_id) <> max(account_id) FROM holds "
                          "WHERE state = 'held'") == [(2, 1)]  # fmt: skip
    assert (balance(home).balance, balance(home).held) == (10**6 - cost(50_000), 0)
    assert balance(home, *SPONSOR).balance == -35_000
    assert rows(home, "SELECT DISTINCT state FROM holds") == [("voided",)]
    assert ends(run) == []
    expect_sound(home)


def test_gateway_holds_in_each_currency_what_is_owed_with_taxes(home: Path) -> None:
    """video-co owes EUR with a minimum and VAT, the subscriber CNY; they are never added up."""
    path = home / "rules.toml"
    text = path.read_text().replace(
        "[sponsors.video-co]", '[sponsors.video-co]\ntariff = "wholesale"').replace(
        'prefixes = ["10.0.0.0/8"]', 'prefixes = ["10.0.0.0/8"]\ntariff = "standard"')
    path.write_text(text + """
[taxes.mwst]
rate = "19%"
[tariffs.wholesale]
currency = "EUR"
price = "2 EUR / MiB"
minimum = "0.50 EUR"
minimum_per = "day"
rounding_per = "day"
taxes = ["mwst"]
prices = "net"
""")
    euros = (SPONSOR[0], "EUR/1000000")
    open_accounts(home)
    with open_ledger(f"sqlite:///{home}/ledger.db") as ledger:
        ledger.open_account(*euros, "sponsor", floor=-(10**6))
        ledger.open_account(SPONSOR[0], ALICE[1], "sponsor", floor=-(10**6))
    with running(home) as run:
        give(run, 10)
        # The price and what is missing to the minimum are rounded down apart, and VAT on either.
        wait(lambda: balance(home, *euros).held == 499_999 + 94_999)
        assert balance(home).held == cost(10_000)
        give(run, 990)
        net = 700_000 * 2 * 10**6 // 2**20
        wait(lambda: balance(home, *euros).held == 10**6)
        assert net * 119 // 100 > 10**6
    assert balance(home, *euros).balance == -(10**6)
    assert balance(home, SPONSOR[0], ALICE[1]) == Balance(
        SPONSOR[0], "sponsor", ALICE[1], 0, 0, -(10**6), "open")
    assert ends(run) == [euros]
    expect_sound(home)


def test_gateway_without_prepaid_accounts_holds_nothing(home: Path) -> None:
    with running(home, watched=False) as run:
        give(run)
        time.sleep(1)
        assert run.looks == []
    assert rows(home, "SELECT count(*) FROM holds") == [(0,)]


def test_gateway_takes_up_an_account_that_is_opened_meanwhile(home: Path) -> None:
    with running(home, watched=False) as run:
        give(run)
        open_accounts(home)
        wait(lambda: balance(home).held == cost(10_000))
    expect_sound(home)


def test_gateway_tells_the_end_of_a_balance_once_while_the_window_is_open(home: Path) -> None:
    open_accounts(home, paid=cost(20_000))
    events = home / "events.jsonl"
    with running(home) as run, Happenings(events, None) as happenings:
        give(run, 10)
        wait(lambda: balance(home).held == cost(10_000))
        assert ends(run) == []
        give(run, 30)
        wait(lambda: ends(run))
        assert balance(home).held == cost(20_000)
        wait(lambda: run.gateway.latest and run.gateway.latest.events["balance_end"] == 1)
        give(run, 30)
        time.sleep(0.6)
        [told] = [e for e in run.told if isinstance(e, Event)]
        happenings.tell(told)
    assert ends(run) == [ALICE]
    assert told.source == "test" and abs(time.time_ns() - told.at_ns) < 60 * 10**9
    found = json.loads(events.read_text())
    assert (found["kind"], found["account"], found["unit"]) == ("balance_end", *ALICE)
    assert rows(home, "SELECT kind, account, unit FROM events") == [("balance_end", *ALICE)]
    assert (balance(home).balance, balance(home).held) == (0, 0)
    assert balance(home, "operator:uncollected", ALICE[1]).balance == cost(20_000) - cost(70_000)
    expect_sound(home)


def test_gateway_tells_the_end_of_a_balance_again_after_a_top_up(home: Path) -> None:
    open_accounts(home, paid=100)
    with running(home) as run:
        give(run, 10)
        wait(lambda: len(ends(run)) == 1)
        top_up(home, 10**6)
        wait(lambda: balance(home).held == cost(10_000))
        give(run, 4_000)
        wait(lambda: len(ends(run)) == 2)
    expect_sound(home)


def test_gateway_tells_the_end_that_the_last_booking_brings(home: Path) -> None:
    open_accounts(home, paid=cost(10_000))
    with running(home, flush_s=30.0) as run:
        give(run, 10)
    assert ends(run) == [ALICE]
    assert run.looks[-1].events["balance_end"] == 1
    expect_sound(home)


def test_gateways_at_once_see_what_each_other_uses(home: Path) -> None:
    open_accounts(home, paid=cost(10_000) + 100)
    with running(home) as one, running(
        home, interface="test1", source="other", journal=home / "journal1"
    ) as two:
        give(one, 10)
        wait(lambda: balance(home).held == cost(10_000))
        give(two, 10)
        wait(lambda: balance(home).held == cost(10_000) + 100)
        wait(lambda: ends(two))
    assert ends(one) == []
    assert (balance(home).balance, balance(home).held) == (0, 0)
    assert balance(home, "operator:uncollected", ALICE[1]).balance == 100 - cost(10_000)
    expect_sound(home)


@pytest.mark.window("1s")
def test_gateway_of_short_windows_leaves_nothing_held(home: Path) -> None:
    open_accounts(home, sponsor=10**9)
    with running(home) as run:
        end = time.monotonic() + 3
        while time.monotonic() < end:
            give(run, 3)
            time.sleep(0.05)
    assert balance(home).held == balance(home, *SPONSOR).held == 0
    [(held,)] = rows(home, "SELECT count(*) FROM holds")
    assert held > 2
    expect_sound(home)


def test_gateway_holds_again_once_the_ledger_is_back(home: Path) -> None:
    open_accounts(home)
    with running(home) as run:
        wait(lambda: run.gateway._books and run.gateway._books.asks)
        with closing(sqlite3.connect(home / "ledger.db", isolation_level=None)) as other:
            other.execute("CREATE TRIGGER away BEFORE INSERT ON holds "
                          "BEGIN SELECT RAISE(ABORT, 'it is away'); END")  # fmt: skip
            give(run)
            wait(lambda: "booking" in run.kinds())
            other.execute("DROP TRIGGER away")
        wait(lambda: balance(home).held == cost(10_000))
        wait(lambda: run.kinds().count("booking") == 2)  # that it takes bookings again
    assert (balance(home).balance, balance(home).held) == (10**6 - cost(10_000), 0)
    expect_sound(home)


def test_gateway_that_is_killed_leaves_a_hold_that_its_journal_or_time_ends(home: Path) -> None:
    """The next run books what the dead one counted, and releases it; until then it is owed."""
    open_accounts(home)
    process = subprocess.Popen(
        [sys.executable, str(PROGRAM), str(home / "rules.toml"), f"sqlite:///{home}/ledger.db",
         str(home / "journal"), str(home / "fed")])  # fmt: skip
    try:
        wait(lambda: balance(home).held, 20)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait(10)
    held = balance(home).held
    assert held > 0
    later_ns = time.time_ns() + (RESERVE_LIFETIME_S + 1) * 10**9
    with open_ledger(f"sqlite:///{home}/ledger.db", clock_ns=lambda: later_ns) as ledger:
        assert ledger.balance(*ALICE).held == 0
    with running(home):
        wait(lambda: rows(home, "SELECT count(*) FROM runs") == [(1,)])
        assert balance(home).held == 0
    assert 10**6 - balance(home).balance >= held  # nothing that was held was not used
    expect_sound(home)


def test_gateway_does_not_take_what_a_service_holds(home: Path) -> None:
    open_accounts(home, paid=1_000)
    with open_ledger(f"sqlite:///{home}/ledger.db") as ledger:
        ledger.hold(Hold("ride", *ALICE, 900, 3600))
    write_rules(home, window="1h")
    with running(home) as run:
        give(run, 10)
        wait(lambda: balance(home).held == 1_000)
    assert (balance(home).balance, balance(home).held) == (900, 900)
    assert ends(run) == [ALICE]
    expect_sound(home)
