"""Minimums and taxes: hand-worked, and the laws that they keep however a month is cut into runs."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from datetime import datetime
from fractions import Fraction
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from quantities import SHANGHAI, Book, Quantity, flat, ns, rate, rated, used

from tollsplit.errors import LedgerError
from tollsplit.model import Tariff, Tax, Tier, TimeBand

VAT = Tax("vat", Fraction(13, 100), "tax:vat")
CITY = Tax("city", Fraction(1, 7), "tax:city")


def least(per: str, rounding_per: str, minimum: int = 100, **more: object) -> Tariff:
    """1 micro-unit an octet, and no less than the minimum."""
    return flat(Fraction(1), rounding_per=rounding_per, minimum_micros=Fraction(minimum),
                minimum_per=per, **more)  # fmt: skip


@pytest.mark.parametrize(
    ("what", "tariff", "quantities", "expected"),
    [
        ("a record below it costs the minimum",
         least("record", "record"), [used(30)], [(30, 30), (70, 0)]),
        ("a record of the minimum or more costs what it costs",
         least("record", "record"), [used(100, None, 0), used(130, None, 1)], [(230, 230)]),
        ("each record for itself, one line for all of a day's",
         least("record", "record"), [used(30, None, 0), used(40, None, 1), used(500, None, 2)],
         [(570, 570), (130, 0)]),
        ("the bands of one record make up one minimum",
         least("record", "record", bands=(TimeBand(18 * 3600, 20 * 3600,
                                                   (Tier(None, Fraction(2)),)),)),
         [used(30, "2026-11-03T17:00"), used(20, "2026-11-03T18:00")], [(70, 50), (30, 0)]),
        ("a session's records make up one minimum",
         least("session", "record"), [used(30, None, 0), used(40, None, 1)], [(70, 70), (30, 0)]),
        ("a session that is rounded once",
         least("session", "session"), [used(30, None, 0), used(40, None, 1)], [(70, 70), (30, 0)]),
        ("a day's records make up one minimum, each day one",
         least("day", "record"),
         [used(30, "2026-11-03T09:00"), used(40, "2026-11-03T10:00", 1),
          used(99, "2026-11-04T00:00", 2)], [(70, 70), (30, 0), (99, 99), (1, 0)]),
        ("a day's bands make up one minimum",
         least("day", "day", bands=(TimeBand(18 * 3600, 20 * 3600, (Tier(None, Fraction(2)),)),)),
         [used(30, "2026-11-03T17:00"), used(20, "2026-11-03T18:00", 1)],
         [(30, 30), (30, 0), (40, 20)]),
        ("a month's days make up one minimum, each month one",
         least("month", "day"),
         [used(30, "2026-11-03T09:00"), used(40, "2026-11-30T23:59", 1),
          used(10, "2026-12-01T00:00", 2)], [(30, 0), (30, 30), (40, 40), (10, 10), (90, 0)]),
        ("accounts have minimums of their own",
         least("day", "day"),
         [used(30, "2026-11-03T09:00"), used(10, "2026-11-03T09:00", 1, account="b")],
         [(30, 30), (70, 0), (10, 10), (90, 0)]),
        ("who uses nothing pays nothing", least("month", "day"), [used(0, "2026-11-03T09:00")], []),
        ("increments and tiers come before it",
         Tariff("standard", "CNY", (Tier(40, Fraction(1)), Tier(None, Fraction(0))), 50,
                minimum_micros=Fraction(100)),
         [used(1)], [(40, 1), (60, 0)]),
        ("a free tariff has one too", flat(Fraction(0), minimum_micros=Fraction(7)), [used(5)],
         [(0, 5), (7, 0)]),
    ],
)  # fmt: skip
def test_minimum_by_hand(
    what: str, tariff: Tariff, quantities: list[Quantity], expected: list[tuple[int, int]]
) -> None:
    charges = rate(quantities, {"standard": tariff}, SHANGHAI)
    assert [(c.amount_micros, c.octets) for c in charges] == expected, what


def test_minimum_begins_with_its_period() -> None:
    month = rate([used(1, "2026-11-03T09:00")], {"standard": least("month", "day")}, SHANGHAI)
    assert [c.period_start for c in month] == [
        datetime(2026, 11, day, tzinfo=ZoneInfo(SHANGHAI)) for day in (1, 3)]
    # Berlin's March has 743 hours, its last Sunday 23.
    berlin = Book({"standard": least("month", "day")}, "Europe/Berlin")
    for at, amount in (("2026-03-01T00:00", 100), ("2026-03-31T23:59", 0),
                       ("2026-04-01T00:00", 100)):  # fmt: skip
        charges = berlin.run([Quantity("a", "standard", 0, ns(at, "Europe/Berlin"), 10)])
        assert sum(c.amount_micros for c in charges) == amount, at


@pytest.mark.parametrize("per", ["day", "month"])
def test_minimum_is_given_back_as_octets_are_paid_for(per: str) -> None:
    book = Book({"standard": least(per, "day")})
    amounts = [[c.amount_micros for c in book.run([used(octets, "2026-11-03T09:00")])]
               for octets in (30, 50, 60, 10)]  # fmt: skip
    if per == "month":
        amounts = [part[::-1] for part in amounts]  # the month begins before the day
    assert amounts == [[30, 70], [50, -50], [60, -20], [10]]


def test_minimum_of_records_and_sessions_is_of_one_run() -> None:
    for per in ("record", "session"):
        book = Book({"standard": least(per, "record")})
        for _ in range(2):
            charges = book.run([used(30, "2026-11-03T09:00")])
            assert sorted(c.amount_micros for c in charges) == [30, 70], per


def test_minimum_that_was_changed_meanwhile_is_made_up() -> None:
    """More is charged, or given back, with the next octets of the month."""
    tariffs = {"standard": least("month", "day")}
    book = Book(tariffs)
    book.run([used(30, "2026-11-03T09:00")])
    for minimum, added in ((150, 40), (60, -100)):
        tariffs["standard"] = least("month", "day", minimum)
        charges = book.run([used(10, "2026-11-04T09:00")])
        assert [c.amount_micros for c in charges] == [added, 10]
    assert book.exact["10.0.0.7"] == 60


@pytest.mark.parametrize(("per", "rounding_per"), [
    ("record", "day"), ("session", "day"), ("record", "session"), ("day", "session"),
    ("month", "session"),
])  # fmt: skip
def test_minimum_of_less_than_is_rounded_is_refused(per: str, rounding_per: str) -> None:
    with pytest.raises(LedgerError, match=f"a minimum per {per} needs octets that are rounded"):
        rate([used(1, "2026-11-03T09:00")], {"standard": least(per, rounding_per)}, SHANGHAI)


def test_minimum_of_a_day_needs_a_day() -> None:
    with pytest.raises(LedgerError, match="goes by the time of day, the octets have none"):
        rate([used(1)], {"standard": least("day", "record")}, SHANGHAI)


# --- taxes -----------------------------------------------------------------------------


def taxed(prices: str, *taxes: Tax, price: Fraction = Fraction(1), **more: object) -> Tariff:
    return flat(price, taxes=taxes, prices=prices, **more)


@pytest.mark.parametrize(
    ("what", "tariff", "octets", "amount", "remainder", "taxes"),
    [
        ("on top", taxed("net", VAT), 100, 100, 0, [("vat", 13, 0)]),
        # 1 × 13/100
        ("rounded down", taxed("net", VAT), 1, 1, 0, [("vat", 0, Fraction(13, 100))]),
        # 7/3 = 2 1/3; 7/3 × 13/100 = 91/300
        ("of the exact price", taxed("net", VAT, price=Fraction(7, 3)), 1, 2, Fraction(1, 3),
         [("vat", 0, Fraction(91, 300))]),
        ("several, none on another", taxed("net", VAT, CITY), 700, 700, 0,
         [("city", 100, 0), ("vat", 91, 0)]),
        ("within", taxed("gross", VAT), 113, 100, 0, [("vat", 13, 0)]),
        # 100 with tax: 100 × 100/113 = 88 56/113, tax 11 57/113; 100 − 11 = 89 is 57/113 too much
        ("within, what is paid stays whole", taxed("gross", VAT), 100, 89, -Fraction(57, 113),
         [("vat", 11, Fraction(57, 113))]),
        # 1 + 13/100 + 1/7 = 891/700: 891 with taxes are 700 without
        ("several within", taxed("gross", VAT, CITY), 891, 700, 0,
         [("city", 100, 0), ("vat", 91, 0)]),
        ("of nothing", taxed("net", VAT, price=Fraction(0)), 5, 0, 0, [("vat", 0, 0)]),
    ],
)  # fmt: skip
def test_taxes_by_hand(
    what: str, tariff: Tariff, octets: int, amount: int, remainder: Fraction,
    taxes: list[tuple[str, int, Fraction]],
) -> None:  # fmt: skip
    [charge] = rate([used(octets)], {"standard": tariff}, SHANGHAI)
    assert (charge.amount_micros, Fraction(*charge.remainder)) == (amount, remainder), what
    assert sorted((t.tax, t.amount_micros, Fraction(*t.remainder)) for t in charge.taxes) == taxes
    assert charge.total_micros == amount + sum(tax[1] for tax in taxes)
    assert [t.account for t in charge.taxes] == [t.account for t in tariff.taxes]


def test_taxes_are_owed_on_a_minimum_and_given_back_with_it() -> None:
    book = Book({"standard": replace(least("day", "day", 113), taxes=(VAT,), prices="gross")})
    first, second = (book.run([used(octets, "2026-11-03T09:00")]) for octets in (30, 83))
    assert sum(c.total_micros for c in first) == 113
    assert [c.total_micros for c in second] == [83, -83]
    assert book.exact["10.0.0.7"] == 100


def test_currencies_are_never_mixed() -> None:
    """One account, three tariffs, two currencies: nothing of one is in another's charge."""
    tariffs = {
        "standard": flat(Fraction(1, 3)),
        "roaming": replace(flat(Fraction(1, 7)), name="roaming", currency="EUR"),
        "extra": replace(least("day", "day"), name="extra", currency="EUR", taxes=(VAT,)),
    }
    charges = rate(
        [used(1, "2026-11-03T09:00", tariff=name) for name in tariffs], tariffs, SHANGHAI)
    assert [(c.currency, c.tariff, c.amount_micros, Fraction(*c.remainder)) for c in charges] == [
        ("CNY", "standard", 0, Fraction(1, 3)), ("EUR", "extra", 1, 0), ("EUR", "extra", 99, 0),
        ("EUR", "roaming", 0, Fraction(1, 7)),
    ]  # fmt: skip


# --- laws ------------------------------------------------------------------------------

prices = st.fractions(min_value=0, max_value=50, max_denominator=10**5)
PAIRS = [("record", "record"), ("record", "session"), ("record", "day"), ("record", "month"),
         ("session", "session"), ("day", "day"), ("day", "month")]  # fmt: skip


@st.composite
def tariffs(draw: st.DrawFn) -> Tariff:
    rounding_per, per = draw(st.sampled_from(PAIRS))
    tiers = (Tier(draw(st.integers(1, 900)), draw(prices)), Tier(None, draw(prices)))
    band = TimeBand(18 * 3600, 6 * 3600, (Tier(None, draw(prices)),))
    return Tariff(
        "standard", "CNY", tiers, draw(st.integers(1, 300)), rounding_per,
        draw(st.sampled_from([(), (band,)])), draw(prices) * 1000, per,
        draw(st.sampled_from([(), (VAT,), (VAT, CITY)])), draw(st.sampled_from(["net", "gross"])),
    )  # fmt: skip


quantity_lists = st.lists(
    st.builds(
        Quantity, st.sampled_from(["a", "b"]), st.just("standard"), st.integers(0, 3),
        st.integers(0, 70).map(lambda h: ns("2026-11-29T00:00") + h * 3600 * 10**9),
        st.integers(0, 2000),
    ),
    max_size=8,
)  # fmt: skip


def slow(tariff: Tariff, quantities: list[Quantity]) -> dict[str, Fraction]:
    """What each account owes, taxes included where prices do: no code shared."""
    zone = ZoneInfo(SHANGHAI)
    walls = {}
    for q in quantities:
        if q.octets:
            wall = datetime.fromtimestamp(q.start_ns / 10**9, zone)  # type: ignore[operator]
            key = q.account, q.record
            walls[key] = min(walls.get(key, wall), wall)
    used: dict[tuple[object, ...], int] = defaultdict(int)
    for q in quantities:
        if not q.octets:
            continue
        own = datetime.fromtimestamp(q.start_ns / 10**9, zone)  # type: ignore[operator]
        by_record = tariff.rounding_per == "record"
        at = walls[q.account, q.record] if by_record else own
        late = bool(tariff.bands) and not 6 <= own.hour < 18
        rounding = {"record": q.record, "session": 0, "day": at.date()}[tariff.rounding_per]
        least = {"record": q.record, "session": 0, "day": at.date(),
                 "month": (at.year, at.month)}[tariff.minimum_per]  # fmt: skip
        used[q.account, least, rounding, late] += q.octets
    costs: dict[tuple[object, object], Fraction] = defaultdict(Fraction)
    for (account, least, _, late), octets in used.items():
        tiers = tariff.bands[0].tiers if late else tariff.tiers
        octets = -(-octets // tariff.increment_octets) * tariff.increment_octets
        first = octets if tiers[0].up_to_octets is None else min(octets, tiers[0].up_to_octets)
        costs[account, least] += first * tiers[0].price + (octets - first) * tiers[-1].price
    owed: dict[str, Fraction] = defaultdict(Fraction)
    for (account, _), cost in costs.items():
        owed[str(account)] += max(cost, tariff.minimum_micros)
    return owed


@settings(max_examples=150, deadline=None)
@given(tariffs(), quantity_lists)
def test_minimums_and_taxes_are_exact(tariff: Tariff, quantities: list[Quantity]) -> None:
    charges = rate(quantities, {"standard": tariff}, SHANGHAI)
    rates = sum((tax.rate for tax in tariff.taxes), Fraction(0))
    net: dict[str, Fraction] = defaultdict(Fraction)
    for charge in charges:
        exact = charge.amount_micros + Fraction(*charge.remainder)
        net[charge.account] += exact
        for tax, part in zip(tariff.taxes, charge.taxes, strict=True):
            fraction = Fraction(*part.remainder)
            assert 0 <= fraction < 1
            assert part.amount_micros + fraction == exact * tax.rate
        whole = exact * (1 + rates) if tariff.prices == "gross" else exact
        paid = charge.total_micros if tariff.prices == "gross" else charge.amount_micros
        assert paid == whole // 1
    expected = slow(tariff, quantities)
    if tariff.prices == "gross":
        expected = {account: owed / (1 + rates) for account, owed in expected.items()}
    assert {a: v for a, v in net.items() if v} == {a: v for a, v in expected.items() if v}


@settings(max_examples=80, deadline=None)
@given(tariffs(), st.lists(quantity_lists, max_size=4), st.randoms(use_true_random=False))
def test_minimum_does_not_depend_on_how_a_month_is_cut_into_runs(
    tariff: Tariff, runs: list[list[Quantity]], random: object
) -> None:
    if tariff.minimum_per not in ("day", "month"):
        tariff = replace(tariff, rounding_per="day", minimum_per="month")
    # A record is of one run.
    runs = [[q._replace(record=10 * number + q.record) for q in run]
            for number, run in enumerate(runs)]  # fmt: skip
    by_name = {"standard": tariff}
    whole, cut, shuffled = Book(by_name), Book(by_name), Book(by_name)
    whole.run([quantity for run in runs for quantity in run])
    for run in runs:
        cut.run(run)
    random.shuffle(runs)  # type: ignore[attr-defined]
    for run in runs:
        shuffled.run(run)
    assert {a: v for a, v in cut.exact.items() if v} == {
        a: v for a, v in whole.exact.items() if v}
    assert cut.exact == shuffled.exact


def test_minimums_and_taxes_are_exact_beyond_64_bits() -> None:
    tariff = Tariff("standard", "CNY", (Tier(None, Fraction(2, 10**9 + 7)),), 1, "day",
                    minimum_micros=Fraction(10**30, 3), taxes=(VAT,), prices="gross")  # fmt: skip
    tariff = replace(tariff, minimum_per="day")
    charges = rate([used(2**62, "2026-11-03T09:00", n) for n in range(3)], {"standard": tariff},
                   SHANGHAI)  # fmt: skip
    exact = sum(c.amount_micros + Fraction(*c.remainder) for c in charges)
    assert exact == Fraction(10**30, 3) * Fraction(100, 113)
    assert rated(tariff, [used(1, "2026-11-03T09:00")])[0][2] == 1
