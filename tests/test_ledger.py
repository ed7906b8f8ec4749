"""The ledger: what is booked balances, once, whatever happens meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from fractions import Fraction
from pathlib import Path

import dpkt
import pytest
from bookings import (
    DAY3,
    HOUR,
    MONEY,
    SPONSORS,
    charge,
    held,
    record,
    run_of,
)
from databases import Database, Refused
from hypothesis import given, settings
from hypothesis import strategies as st
from quantities import Quantity, rate

import tollsplit
from tollsplit.cli.demo.example import write_example
from tollsplit.errors import IdentityError, LedgerError
from tollsplit.ledger import Ledger, Receipt, Run, open_ledger
from tollsplit.ledger.store import instant_ns
from tollsplit.model import Charge, Tariff, Tax, Tier, TimeBand, UsageRecord


@pytest.fixture
def ledger(database: Database) -> Iterator[Ledger]:
    with open_ledger(database.url) as ledger:
        yield ledger
        assert ledger.verify().findings == ()  # whatever the test did


# --- posting ---------------------------------------------------------------------------


def test_ledger_books_octets_and_money_by_payer(ledger: Ledger) -> None:
    receipt = ledger.post(
        run_of(), [record(0), record(1, DAY3 + HOUR)], [charge(87), charge(203, "sponsor:video-co")]
    )
    assert (receipt.booked, receipt.records, receipt.charges) == (True, 2, 2)
    assert held(ledger) == {
        ("alice", "octet"): -600,
        ("sponsor:video-co", "octet"): -1400,
        ("operator:traffic", "octet"): 2000,
        ("alice", MONEY): -87,
        ("sponsor:video-co", MONEY): -203,
        ("operator:revenue", MONEY): 290,
        ("operator:remainder", MONEY): 0,
    }
    kinds = {(b.account, b.kind) for b in ledger.balances()}
    assert {("alice", "subscriber"), ("sponsor:video-co", "sponsor")} < kinds


def test_ledger_books_a_run_once(ledger: Ledger, database: Database) -> None:
    first = ledger.post(run_of(), [record()], [charge()])
    before, dump = held(ledger), database.rows("SELECT * FROM postings")
    again = ledger.post(run_of(), iter([record()]), iter([charge()]))
    assert again == Receipt(False, first.run, first.transaction, first.booked_at, 1, 1)
    assert (held(ledger), database.rows("SELECT * FROM postings")) == (before, dump)
    assert ledger.post(run_of("e2"), [record(epoch="e2")], []).booked


def test_ledger_books_a_renamed_capture_and_a_newer_program_once(ledger: Ledger) -> None:
    ledger.post(run_of(), [record()], [])
    same = run_of(captures=(("other.pcap", "sha256:capture e1"),), program="tollsplit 9")
    assert not ledger.post(same, [record()], []).booked


@pytest.mark.parametrize(
    ("run", "records", "charges", "message"),
    [
        (run_of(), [record(subscriber_octets=299, downlink_octets=599)], [charge()],
         "with other contents, by tollsplit 0.1.0; that booking stands"),
        (run_of(), [record()], [charge(88)], "other contents"),
        (run_of(), [record()], [charge(remainder=(1, 2))], "other contents"),
        (run_of(), [], [charge()], "other contents"),
        (run_of(captures=(("campus.pcap", "sha256:else"),)), [record()], [charge()],
         "other contents"),
        (run_of(rules_version="sha256:new"), [record(rules_version="sha256:new")], [charge()],
         "under other rules .sha256:rules, now sha256:new."),
    ],
)  # fmt: skip
def test_ledger_refuses_other_contents_under_the_same_key(
    ledger: Ledger, run: Run, records: list[UsageRecord], charges: list[Charge], message: str
) -> None:
    ledger.post(run_of(), [record()], [charge()])
    before = held(ledger)
    with pytest.raises(LedgerError, match=message):
        ledger.post(run, records, charges)
    assert held(ledger) == before


@pytest.mark.parametrize(
    ("records", "charges", "error", "message"),
    [
        ([record(subscriber_octets=299)], [], IdentityError, "1000 octets metered, 999 split"),
        ([record(), record(2)], [], LedgerError, "record 2: expected source, epoch, sequence"),
        ([record(), record()], [], LedgerError, "record 0: expected"),
        ([record(rules_version="sha256:new")], [], LedgerError, "rules version and layer"),
        ([record(source="else.pcap")], [], LedgerError, "campus.pcap: record 0: expected"),
        ([record(sponsor_octets={"who": 700})], [], LedgerError, "no account is known .* who"),
        ([record(account="operator:revenue")], [], LedgerError, "the operator's own"),
        ([record()], [charge(), charge(1, "operator:x")], LedgerError, "charge 1.*operator's own"),
        ([record(uplink_octets=-400, subscriber_octets=-500)], [], LedgerError, "(?i)check"),
        ([record(uplink_octets=2**63, subscriber_octets=2**63 - 100)], [], LedgerError, "63 bits"),
        ([record(i, uplink_octets=2**62, subscriber_octets=2**62 - 100) for i in range(3)], [],
         LedgerError, "overflow|63 bits"),
        ([record(subscriber="\udcff")], [], LedgerError, "not valid Unicode"),
        ([record()], [charge(rated_octets=-1)], LedgerError, "(?i)check"),
    ],
)  # fmt: skip
def test_ledger_books_all_or_nothing(
    ledger: Ledger, records: list[UsageRecord], charges: list[Charge],
    error: type[Exception], message: str,
) -> None:  # fmt: skip
    ledger.post(run_of("e0"), [record(epoch="e0")], [charge()])
    before = held(ledger)
    with pytest.raises(error, match=message):
        ledger.post(run_of(), records, charges)
    assert held(ledger) == before
    assert ledger.post(run_of(), [record()], []).run == 2


def test_ledger_takes_an_error_from_its_source_and_books_nothing(ledger: Ledger) -> None:
    def records() -> Iterator[UsageRecord]:
        yield record()
        raise OverflowError("the engine's own")

    with pytest.raises(OverflowError, match="the engine's own"):
        ledger.post(run_of(), records(), [])
    assert ledger.balances() == []


def test_ledger_books_an_empty_run(ledger: Ledger) -> None:
    assert ledger.post(run_of(), [], []).booked
    assert not ledger.post(run_of(), [], []).booked
    assert held(ledger) == {}


def test_ledger_books_the_batches_of_an_epoch(ledger: Ledger) -> None:
    """As the live journal will deliver them: keyed by where in the epoch they begin."""
    first, second = run_of(), run_of(first_sequence=2)
    ledger.post(first, [record(0), record(1)], [])
    ledger.post(second, [record(2)], [])
    assert not ledger.post(second, [record(2)], []).booked
    with pytest.raises(LedgerError, match="records 0 to 1 of this epoch are booked"):
        ledger.post(run_of(first_sequence=1), [record(1)], [])
    assert held(ledger)["operator:traffic", "octet"] == 3000


def test_ledger_carries_remainders_until_they_make_a_micro_unit(ledger: Ledger) -> None:
    thirds = [charge(10, remainder=(1, 3)), charge(10, "bob", remainder=(1, 6))]
    revenue = []
    for epoch in ("e1", "e2", "e3", "e4", "e5"):  # one half each
        ledger.post(run_of(epoch), [], thirds)
        balances = held(ledger)
        assert balances["alice", MONEY] == balances["bob", MONEY] == -10 * len(revenue) - 10
        revenue.append((balances["operator:revenue", MONEY],
                        balances["operator:remainder", MONEY]))  # fmt: skip
    # 20 a run, and the exact price is 20 1/2.
    assert revenue == [(20, 0), (41, -1), (61, -1), (82, -2), (102, -2)]


def test_ledger_never_mixes_currencies(ledger: Ledger) -> None:
    half = (1, 2)
    ledger.post(
        run_of(), [],
        [charge(5, remainder=half), charge(7, currency="EUR", remainder=half)],
    )  # fmt: skip
    assert held(ledger) == {
        ("alice", MONEY): -5, ("operator:revenue", MONEY): 5, ("operator:remainder", MONEY): 0,
        ("alice", "EUR/1000000"): -7, ("operator:revenue", "EUR/1000000"): 7,
        ("operator:remainder", "EUR/1000000"): 0,
    }  # fmt: skip


def test_ledger_database_itself_holds_floors(ledger: Ledger, database: Database) -> None:
    ledger.post(run_of(), [record()], [charge()])
    ledger.set_floor("alice", MONEY, -100)
    with pytest.raises(Refused, match=r"(?i)check"):
        database.rows("UPDATE accounts SET balance = -101 WHERE floor = -100")


amounts = st.integers(-(10**15), 10**15)
octets = st.integers(0, 10**15)
usages = st.lists(
    st.tuples(
        st.sampled_from(["alice", "bob", "sponsor:shop-co"]), octets,
        st.dictionaries(st.sampled_from(sorted(SPONSORS)), octets),
    ),
    max_size=6,
)  # fmt: skip
bills = st.lists(
    st.builds(
        charge, amounts, st.sampled_from(["alice", "bob", "sponsor:video-co"]),
        currency=st.sampled_from(["CNY", "EUR"]),
        remainder=st.fractions(-3, 3, max_denominator=10**6).map(
            lambda f: (f.numerator, f.denominator)
        ),
    ),
    max_size=6,
)  # fmt: skip


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(usages, bills), max_size=3))
def test_ledger_balances_whatever_is_booked(
    databases: Callable[[], Database], runs: list[tuple[list, list]]
) -> None:
    used: dict[str, int] = {}
    exact: dict[str, Fraction] = {}
    owed: dict[tuple[str, str], int] = {}
    with open_ledger(databases().url) as ledger:
        for number, (usage, charges) in enumerate(runs):
            epoch = f"e{number}"
            records = []
            for sequence, (account, own, shares) in enumerate(usage):
                total = own + sum(shares.values())
                records.append(record(
                    sequence, epoch=epoch, account=account, uplink_octets=total,
                    downlink_octets=0, subscriber_octets=own, sponsor_octets=shares,
                ))  # fmt: skip
                used[account] = used.get(account, 0) + own
                for sponsor, part in shares.items():
                    used[SPONSORS[sponsor]] = used.get(SPONSORS[sponsor], 0) + part
            for item in charges:
                key = (item.account, f"{item.currency}/1000000")
                owed[key] = owed.get(key, 0) + item.amount_micros
                price = item.amount_micros + Fraction(*item.remainder)
                exact[item.currency] = exact.get(item.currency, Fraction(0)) + price
            ledger.post(run_of(epoch), records, charges)
        balances = held(ledger)
        assert ledger.verify().findings == ()
        assert ledger.statement().closing.get("octet", 0) == -sum(used.values())
    for account, total in used.items():
        assert balances[account, "octet"] == -total
    for key, amount in owed.items():
        assert balances[key] == -amount
    for currency, price in exact.items():  # the operator gets the exact price, rounded down once
        assert balances["operator:revenue", f"{currency}/1000000"] == price // 1
    for unit in {unit for _, unit in balances}:
        assert sum(n for (_, u), n in balances.items() if u == unit) == 0


# --- quotas and budgets that go on ------------------------------------------------------


def bounds(start: datetime, end: datetime) -> tuple[int, int]:
    return instant_ns(start), instant_ns(end)


TODAY = ("pay-proxy", *bounds(DAY3, DAY3 + 24 * HOUR))
TOMORROW = ("pay-proxy", *bounds(DAY3 + 24 * HOUR, DAY3 + 48 * HOUR))


def test_ledger_prior_sums_by_subscriber_rule_and_period(ledger: Ledger) -> None:
    ledger.post(run_of(), [
        record(0), record(1, DAY3 + 23 * HOUR), record(2, DAY3 + 24 * HOUR),
        record(3, subscriber="10.0.0.8"), record(4, rule="other"), record(5, rule=None),
        record(6, account="bob"),
    ], [])  # fmt: skip
    assert ledger.prior([TODAY, TOMORROW, ("none", *TODAY[1:])], before=None) == {
        ("10.0.0.7", "alice", "pay-proxy", TODAY[1]): 2000,
        ("10.0.0.8", "alice", "pay-proxy", TODAY[1]): 1000,
        ("10.0.0.7", "bob", "pay-proxy", TODAY[1]): 1000,
        ("10.0.0.7", "alice", "pay-proxy", TOMORROW[1]): 1000,
    }


def test_ledger_prior_counts_a_record_across_a_boundary_on_both_sides(ledger: Ledger) -> None:
    first, last = TODAY[2] - 1, TODAY[2]
    ledger.post(run_of(), [record(start=None, first_packet_ns=first, last_packet_ns=last)], [])
    assert len(ledger.prior([TODAY, TOMORROW], before=None)) == 2
    ledger.post(run_of("e2"), [record(epoch="e2", start=None, first_packet_ns=first,
                                      last_packet_ns=first)], [])  # fmt: skip
    assert sorted(ledger.prior([TODAY, TOMORROW], before=None).values()) == [1000, 2000]


def test_ledger_prior_of_a_booked_run_is_what_it_was(ledger: Ledger) -> None:
    """So that the same run comes out the same, and is known as booked."""
    for epoch in ("e1", "e2", "e3"):
        ledger.post(run_of(epoch), [record(epoch=epoch)], [])
    for before, octets in ((run_of("e1"), 0), (run_of("e2"), 1000), (run_of("e3"), 2000),
                           (run_of("e4"), 3000), (None, 3000)):  # fmt: skip
        prior = ledger.prior([TODAY], before=before)
        assert prior.get(("10.0.0.7", "alice", "pay-proxy", TODAY[1]), 0) == octets
        assert ledger.spent("video-co", None, None, before=before) == octets * 7 // 10


def test_ledger_spent_sums_what_a_sponsor_paid(ledger: Ledger) -> None:
    both = {"video-co": 600, "shop-co": 100}
    ledger.post(run_of(), [record(0), record(1, DAY3 + 24 * HOUR, sponsor_octets=both)], [])
    assert ledger.spent("video-co", None, None, before=None) == 1300
    assert ledger.spent("video-co", TODAY[1], TODAY[2], before=None) == 700
    assert ledger.spent("shop-co", TODAY[1], TODAY[2], before=None) == 0
    assert ledger.spent("shop-co", TOMORROW[1], None, before=None) == 100
    assert ledger.spent("nobody", None, None, before=None) == 0


NOON = DAY3 + 12 * HOUR


def test_ledger_rated_sums_by_account_tariff_and_start(ledger: Ledger) -> None:
    for epoch in ("e1", "e2"):
        ledger.post(run_of(epoch), [], [
            charge(), charge(period_start=NOON), charge(tariff="other", currency="EUR"),
            charge(account="bob", rated_octets=0), charge(period_start=None),
        ])  # fmt: skip
    day, noon = instant_ns(DAY3), instant_ns(NOON)
    asked = {("alice", "standard", day), ("alice", "standard", noon), ("alice", "other", day),
             ("bob", "standard", noon), ("alice", "none", day)}  # fmt: skip
    for before, octets in ((run_of("e2"), 300), (run_of("e3"), 600), (None, 600)):
        assert ledger.rated(asked, before=before) == {
            ("alice", "standard", day): octets,
            ("alice", "standard", noon): octets,
            ("alice", "other", day): octets,
        }
    assert ledger.rated(asked, before=run_of("e1")) == {}


def test_ledger_refuses_a_run_whose_day_another_rated_meanwhile(
    ledger: Ledger, database: Database
) -> None:
    asked = {("alice", "standard", instant_ns(DAY3))}
    ledger.rated(asked, before=run_of("e2"))
    with open_ledger(database.url) as other:
        other.post(run_of("e0"), [], [charge(account="bob"), charge(period_start=NOON)])
        ledger.post(run_of("e1"), [], [charge()])  # other accounts and days do no harm
        ledger.rated(asked, before=run_of("e2"))
        other.post(run_of("e3"), [], [charge()])
    with pytest.raises(LedgerError, match=r"days of a tariff meanwhile; .* run it again"):
        ledger.post(run_of("e2"), [], [charge()])
    assert database.rows("SELECT count(*) FROM runs") == [(3,)]


TIERS = (Tier(700, Fraction(2, 3)), Tier(None, Fraction(1, 7)))
NIGHT = TimeBand(22 * 3600, 6 * 3600, (Tier(None, Fraction(1, 9)),))


VAT = Tax("vat", Fraction(13, 100), "tax:vat")
CITY = Tax("city", Fraction(1, 7), "tax:city")


@settings(max_examples=15, deadline=None)
@given(st.lists(st.lists(st.tuples(st.sampled_from(["alice", "bob"]), st.integers(0, 30),
                                   st.integers(1, 900)), max_size=4), max_size=4),
       st.builds(Tariff, st.just("standard"), st.just("CNY"), st.just(TIERS), st.just(250),
                 st.sampled_from(["day", "record"]), st.sampled_from([(), (NIGHT,)]),
                 st.sampled_from([Fraction(0), Fraction(1001, 3)]),
                 st.sampled_from(["day", "month"]), st.sampled_from([(), (VAT,), (VAT, CITY)]),
                 st.sampled_from(["net", "gross"])))  # fmt: skip
def test_ledger_a_day_costs_the_same_in_any_number_of_runs(
    databases: Callable[[], Database], runs: list[list[tuple[str, int, int]]], tariff: Tariff,
) -> None:  # fmt: skip
    """Revenue and taxes, to the micro-unit; each account pays at most one less a charge."""
    books = []
    for parts in (runs, runs[::-1], [[item for part in runs for item in part]]):
        with open_ledger(databases().url) as ledger:
            for number, part in enumerate(parts):
                run = run_of(f"e{number}")
                charges = rate(
                    [Quantity(who, "standard", i, instant_ns(DAY3 + hour * HOUR), octets)
                     for i, (who, hour, octets) in enumerate(part)],
                    {"standard": tariff}, "UTC", ledger.earlier(run),
                )  # fmt: skip
                assert ledger.post(run, [], charges).booked
            assert ledger.verify().findings == ()
            balances = held(ledger)
            books.append([balances.get((name, MONEY), 0)
                          for name in ("operator:revenue", "tax:vat", "tax:city")])
    assert books[0] == books[1] == books[2]


TWO_RUNS = """
[meter]
window = "1h"
tunnel_endpoints = []
[[pools]]
prefixes = ["10.20.0.0/16", "2001:db8:20::/48"]
[tariffs.standard]
currency = "CNY"
price = "0.29 CNY / MiB"
increment = "1 MiB"
rounding_per = "day"
"""


def test_account_books_the_halves_of_a_day_for_the_price_of_the_day(tmp_path: Path) -> None:
    write_example(tmp_path)
    (tmp_path / "rules.toml").write_text(TWO_RUNS)
    with open(tmp_path / "capture.pcap", "rb") as whole:
        packets = list(dpkt.pcap.Reader(whole))
    for half in (0, 1):
        with open(tmp_path / f"half{half}.pcap", "wb") as file:
            dpkt.pcap.Writer(file, snaplen=65535).writepkts(packets[half::2])
    rules, owed = tmp_path / "rules.toml", []
    for name, runs in (("one", [["half0.pcap", "half1.pcap"]]),
                       ("two", [["half0.pcap"], ["half1.pcap"]])):  # fmt: skip
        url = f"sqlite:///{tmp_path}/{name}.db"
        for captures in [*runs, runs[0]]:  # the first one again: it is known
            tollsplit.account([tmp_path / c for c in captures], rules, ledger=url)
        with open_ledger(url) as ledger:
            assert ledger.verify().holds
            owed.append(held(ledger))
    assert owed[0] == owed[1]


def test_ledger_refuses_a_run_whose_quota_another_used_meanwhile(
    ledger: Ledger, database: Database
) -> None:
    ledger.prior([TODAY], before=run_of("e2"))
    with open_ledger(database.url) as other:
        other.post(run_of("e0"), [record(epoch="e0", rule="other")], [])
        ledger.post(run_of("e1"), [record()], [])  # another rule's octets do no harm
        ledger.prior([TODAY], before=run_of("e2"))
        other.post(run_of("e3"), [record(epoch="e3")], [])
    with pytest.raises(LedgerError, match=r"against the same quotas, .* run it again"):
        ledger.post(run_of("e2"), [record(epoch="e2")], [])
    assert database.rows("SELECT count(*) FROM runs") == [(3,)]


def test_ledger_refuses_a_capture_that_another_run_booked(database: Database) -> None:
    with open_ledger(database.url) as ledger:
        ledger.post(run_of("a", captures=(("a.pcap", "sha256:a"),)), [record(epoch="a")], [])
        both = (("b.pcap", "sha256:b"), ("copy.pcap", "sha256:a"))
        with pytest.raises(LedgerError, match=r"copy\.pcap was booked at .* as a\.pcap"):
            ledger.post(run_of("b", captures=both), [record(epoch="b")], [])
        assert ledger.verify().holds
        assert len(ledger.prior([("pay-proxy", 0, 2**62)], before=None)) == 1
