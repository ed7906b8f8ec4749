"""Statements: what an account used and owes in a period, to the octet and the micro-unit."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime

import pytest
from bookings import DAY3, HOUR, MONEY, charge, held, record, run_of
from databases import Database

from tollsplit.errors import LedgerError
from tollsplit.ledger import Ledger, open_ledger
from tollsplit.ledger.store import instant_ns


@pytest.fixture
def ledger(database: Database) -> Iterator[Ledger]:
    with open_ledger(database.url) as ledger:
        yield ledger
        assert ledger.verify().findings == ()  # whatever the test did


@pytest.fixture
def told(ledger: Ledger) -> Ledger:
    """Alice on the 3rd and 4th of November and the 1st of December, Bob on the 4th."""
    days = [DAY3, DAY3 + 23 * HOUR, DAY3 + 24 * HOUR, datetime(2026, 12, 1, tzinfo=UTC)]
    ledger.post(
        run_of(),
        [*(record(i, day) for i, day in enumerate(days)),
         record(4, days[2], account="bob", subscriber="10.0.0.8", rule=None, rating_group=None,
                sponsor_identity=None, subscriber_octets=1000, sponsor_octets={})],
        [charge(87, period_start=days[0]), charge(43, period_start=days[2]),
         charge(44, period_start=days[3]), charge(290, "bob", period_start=days[2]),
         charge(609, "sponsor:video-co", period_start=None)],
    )  # fmt: skip
    return ledger


def test_statement_of_a_subscriber_by_day_and_rule(told: Ledger) -> None:
    statement = told.statement("alice", "2026-11")
    assert [(u.day, u.rule, u.records, u.uplink_octets, u.downlink_octets, u.subscriber_octets,
             u.sponsor_octets, u.paid_octets) for u in statement.usage] == [
        (date(2026, 11, 3), "pay-proxy", 2, 800, 1200, 600, {"video-co": 1400}, 600),
        (date(2026, 11, 4), "pay-proxy", 1, 400, 600, 300, {"video-co": 700}, 300),
    ]  # fmt: skip
    assert [(c.day, c.tariff, c.amount_micros) for c in statement.charges] == [
        (date(2026, 11, 3), "standard", 87), (date(2026, 11, 4), "standard", 43),
    ]  # fmt: skip
    assert statement.opening == {"octet": 0, MONEY: 0}
    assert statement.closing == {"octet": -900, MONEY: -130}
    assert statement.charged_micros == {"CNY": 130}
    assert (statement.uplink_octets, statement.downlink_octets) == (1200, 1800)
    assert (statement.subscriber_octets, statement.sponsor_octets) == (900, {"video-co": 2100})
    december = told.statement("alice", "2026-12")
    assert december.opening == statement.closing
    assert december.closing == {"octet": -1200, MONEY: -174}
    assert told.statement("alice", "2026-11-04").opening == {"octet": -600, MONEY: -87}


def test_statement_of_a_sponsor(told: Ledger) -> None:
    statement = told.statement("sponsor:video-co")
    assert [u.paid_octets for u in statement.usage] == [1400, 700, 700]
    assert [u.subscriber_octets for u in statement.usage] == [600, 300, 300]
    # A charge without a day of its own stands at the run's first packet.
    assert [(c.day, c.amount_micros) for c in statement.charges] == [(date(2026, 11, 3), 609)]
    assert statement.closing == {"octet": -2800, MONEY: -609}


def test_statement_of_all_payers_closes_with_their_balances(told: Ledger) -> None:
    statement = told.statement()
    balances = held(told)
    for unit in ("octet", MONEY):
        paid = sum(n for (a, u), n in balances.items() if u == unit and "operator" not in a)
        assert statement.closing[unit] == paid
    assert statement.paid_octets == balances["operator:traffic", "octet"] == 5000
    assert [u.rule for u in statement.usage if u.day == date(2026, 11, 4)] == ["pay-proxy", None]


def test_statement_of_every_account_closes_with_its_balance(told: Ledger) -> None:
    for account in {balance.account for balance in told.balances()}:
        expected = {u: n for (a, u), n in held(told).items() if a == account}
        assert told.statement(account).closing == expected, account


def test_statement_of_the_operator_lists_its_postings(told: Ledger) -> None:
    entries = told.statement("operator:revenue").entries
    assert [(e.description, e.amount) for e in entries] == [("usage of campus.pcap", 1073)]


def test_statement_days_are_those_of_the_zone(told: Ledger) -> None:
    """23:00 UTC is the next day in Shanghai, midnight UTC still is the day before in Honolulu."""
    assert told.statement("alice", "2026-11-04", "Asia/Shanghai").paid_octets == 600
    assert told.statement("alice", "2026-11-02", "Pacific/Honolulu").paid_octets == 300
    assert told.statement("alice", "2026-11", "Pacific/Honolulu").paid_octets == 1200


def test_statement_counts_usage_on_the_day_its_window_begins(ledger: Ledger) -> None:
    """Its packets came on the 4th in Tokyo. Without windows the first of them decides."""
    first = instant_ns(DAY3 + 15 * HOUR + HOUR / 2)
    packets = {"first_packet_ns": first, "last_packet_ns": first + 3600 * 10**9}
    ledger.post(run_of(), [record(window_end=DAY3 + 24 * HOUR, **packets)], [])
    ledger.post(run_of("e2"), [record(epoch="e2", start=None, **packets)], [])
    lines = ledger.statement("alice", None, "Asia/Kathmandu").usage  # UTC+5:45
    assert [(line.day.day, line.records) for line in lines] == [(3, 2)]
    lines = ledger.statement("alice", None, "Asia/Tokyo").usage  # 00:30 on the 4th
    assert [(line.day.day, line.records) for line in lines] == [(3, 1), (4, 1)]


@pytest.mark.parametrize(
    ("account", "period", "zone", "message"),
    [
        ("nobody", None, "UTC", 'no account "nobody"'),
        ("alice", "2026-13", "UTC", 'period: expected a month as "2026-11"'),
        ("alice", "2026-11-31", "UTC", "period: expected"),
        ("alice", "november", "UTC", "period: expected"),
        ("alice", None, "Mars/Olympus", 'zone: expected an IANA name .*"Mars/Olympus"'),
        ("alice", None, "../../etc/passwd", "zone: expected"),
    ],
)
def test_statement_refuses(
    told: Ledger, account: str, period: str | None, zone: str, message: str
) -> None:
    with pytest.raises(LedgerError, match=message):
        told.statement(account, period, zone)
