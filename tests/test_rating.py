"""Rating: hand-worked prices, and the laws that any price list must keep."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from datetime import UTC, datetime
from fractions import Fraction
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from quantities import SHANGHAI, Book, Quantity, flat, ns, rate, rated, used

from tollsplit.errors import LedgerError
from tollsplit.model import Tariff, Tier, TimeBand

MIB = 1024 * 1024


# 0.29 CNY / MiB = 290,000 micros per 1,048,576 octets
CNY_029_PER_MIB = Fraction(290_000, MIB)


@pytest.mark.parametrize(
    ("what", "tariff", "quantities", "expected"),
    [
        ("one MiB costs its price",
         flat(CNY_029_PER_MIB), [used(MIB)], [(290_000, (0, 1), MIB)]),
        # 290000 / 1048576 = 18125 / 65536
        ("one octet costs a fraction: 0, and all of it is the remainder",
         flat(CNY_029_PER_MIB), [used(1)], [(0, (18_125, 65_536), 1)]),
        # 4 octets: 72500 / 65536 = 1 + 6964 / 65536 = 1 + 1741 / 16384
        ("octets of a day are added before money is rounded",
         flat(CNY_029_PER_MIB), [used(1, None, r) for r in range(4)], [(1, (1741, 16_384), 4)]),
        ("no octets, no charge", flat(CNY_029_PER_MIB), [used(0)], []),
        ("a free tariff still rounds octets up",
         flat(Fraction(0), increment_octets=1000), [used(1)], [(0, (0, 1), 1000)]),
        ("whole increments stay as they are",
         flat(Fraction(1), increment_octets=1000), [used(2000)], [(2000, (0, 1), 2000)]),
        ("per record: each of three records is rounded up",
         flat(Fraction(1), increment_octets=1000), [used(1, None, r) for r in range(3)],
         [(3000, (0, 1), 3000)]),
        ("per record: the cells of one record are rounded once",
         flat(Fraction(1), increment_octets=1000),
         [used(1, "2026-11-03T09:00"), used(1, "2026-11-03T10:00")], [(1000, (0, 1), 1000)]),
        ("per session: rounded once over days, one charge",
         flat(Fraction(1), increment_octets=1000, rounding_per="session"),
         [used(1, "2026-11-03T09:00"), used(1, "2026-11-04T09:00", 1)], [(1000, (0, 1), 1000)]),
        ("per day: rounded once each day",
         flat(Fraction(1), increment_octets=1000, rounding_per="day"),
         [used(1, "2026-11-03T09:00"), used(1, "2026-11-03T23:59", 1),
          used(1, "2026-11-04T00:00", 2)], [(1000, (0, 1), 1000), (1000, (0, 1), 1000)]),
    ],
)  # fmt: skip
def test_rating_by_hand(
    what: str, tariff: Tariff, quantities: list[Quantity],
    expected: list[tuple[int, tuple[int, int], int]],
) -> None:  # fmt: skip
    assert rated(tariff, quantities) == expected, what


TIERED = (Tier(100, Fraction(3)), Tier(300, Fraction(2)), Tier(None, Fraction(1)))


@pytest.mark.parametrize(
    ("octets", "amount"),
    [(1, 3), (99, 297), (100, 300), (101, 302), (299, 698), (300, 700), (301, 701), (1000, 1400)],
)
def test_rating_tiers_price_what_falls_into_them(octets: int, amount: int) -> None:
    assert rated(Tariff("standard", "CNY", TIERED), [used(octets)])[0][0] == amount


def test_rating_tiers_run_over_the_period_of_rounding() -> None:
    halves = [used(150, "2026-11-03T09:00", 0), used(150, "2026-11-03T10:00", 1)]
    for per, amount in (("record", 800), ("day", 700), ("session", 700)):
        tariff = Tariff("standard", "CNY", TIERED, 1, per)  # type: ignore[arg-type]
        assert rated(tariff, halves)[0][0] == amount, per


def test_rating_octets_added_by_rounding_cost_what_holds_then() -> None:
    # 100 octets at 3 fill the first tier; rounding adds 50 from the second, at 2.
    tariff = Tariff("standard", "CNY", TIERED, 150)
    assert rated(tariff, [used(100)]) == [(400, (0, 1), 150)]


def test_rating_a_day_goes_on_from_run_to_run() -> None:
    """Two captures of 1000 octets cost one increment of 1 MiB, however they are booked."""
    book = Book({"standard": flat(CNY_029_PER_MIB, increment_octets=MIB, rounding_per="day")})
    first, second = (book.run([used(1000, f"2026-11-03T{h}:00")]) for h in ("10", "09"))
    assert [(c.amount_micros, c.octets, c.rated_octets) for c in first + second] == [
        (290_000, 1000, MIB), (0, 1000, 0),
    ]  # fmt: skip
    (more,) = book.run([used(MIB, "2026-11-03T08:00")])
    assert (more.amount_micros, more.rated_octets) == (290_000, MIB)
    (tomorrow,) = book.run([used(1, "2026-11-04T08:00")])
    assert tomorrow.amount_micros == 290_000


@pytest.mark.parametrize(
    ("per", "amounts"),
    [("day", [300, 400, 1]), ("record", [300, 500, 3]), ("session", [300, 500, 3])],
)
def test_rating_tiers_go_on_from_run_to_run_by_day_only(per: str, amounts: list[int]) -> None:
    book = Book({"standard": Tariff("standard", "CNY", TIERED, 1, per)})  # type: ignore[arg-type]
    runs = [used(octets, "2026-11-03T09:00") for octets in (100, 200, 1)]
    assert [book.run([quantity])[0].amount_micros for quantity in runs] == amounts


def test_rating_bands_have_tiers_and_increments_of_their_own() -> None:
    bands = (TimeBand(18 * 3600, 22 * 3600, TIERED),)
    for per, starts in (("day", [0, 18]), ("record", [0]), ("session", [None])):
        tariff = Tariff("standard", "CNY", TIERED, 60, per, bands)  # type: ignore[arg-type]
        charges = rate(
            [used(90, "2026-11-03T17:00"), used(90, "2026-11-03T19:00"),
             used(1, "2026-11-03T23:00")], {"standard": tariff}, SHANGHAI,
        )  # fmt: skip
        # 91 and 90 octets, each rounded up to 120: 100 at 3, 20 at 2.
        assert sum(c.amount_micros for c in charges) == 2 * 340, per
        assert sum(c.rated_octets for c in charges) == 240, per
        assert [c.period_start and c.period_start.hour for c in charges] == starts, per


def test_rating_a_band_whose_beginning_the_clock_skips_begins_behind_the_gap() -> None:
    """Berlin, 29 March 2026: 02:00 to 03:00 does not exist. No two bands begin at one instant."""
    berlin = "Europe/Berlin"
    price = (Tier(None, Fraction(1)),)
    bands = [(1, 30, 2, 10), (2, 10, 2, 50), (2, 50, 3, 10), (3, 10, 3, 20), (23, 0, 0, 30)]
    tariff = Tariff("standard", "EUR", price, 100, "day", tuple(
        TimeBand(a * 3600 + b * 60, c * 3600 + d * 60, price) for a, b, c, d in bands))  # fmt: skip
    midnight = ns("2026-03-29T00:00", berlin)
    quantities = [Quantity("a", "standard", 0, midnight + m * 60 * 10**9, 1)
                  for m in range(0, 23 * 60, 10)]  # fmt: skip
    charges = rate(quantities, {"standard": tariff}, berlin)
    assert [(f"{c.period_start:%H:%M}", c.octets) for c in charges if c.period_start] == [
        ("00:00", 3 + 6), ("00:30", 6 + 118), ("01:30", 3), ("03:00", 1), ("03:10", 1),
    ]  # fmt: skip


EVENING = Tariff(
    "standard", "CNY", (Tier(None, Fraction(10)),), 1, "day",
    (TimeBand(18 * 3600, 22 * 3600, (Tier(None, Fraction(20)),)),
     TimeBand(22 * 3600, 6 * 3600, (Tier(None, Fraction(1)),))),
)  # fmt: skip


@pytest.mark.parametrize(
    ("start", "price"),
    [
        ("2026-11-03T00:00", 1), ("2026-11-03T05:59", 1), ("2026-11-03T06:00", 10),
        ("2026-11-03T17:59", 10), ("2026-11-03T18:00", 20), ("2026-11-03T21:59", 20),
        ("2026-11-03T22:00", 1), ("2026-11-03T23:59", 1),
    ],
)  # fmt: skip
def test_rating_bands_are_half_open_and_cross_midnight(start: str, price: int) -> None:
    assert rated(EVENING, [used(1, start)])[0][0] == price


def test_rating_bands_go_by_the_wall_in_summer_and_winter_time() -> None:
    """Berlin, 25 October 2026: 02:00 to 03:00 comes twice, and each time counts."""
    berlin = "Europe/Berlin"
    tariff = Tariff(
        "standard", "EUR", (Tier(None, Fraction(10)),), 1, "day",
        (TimeBand(9000, 10800, (Tier(None, Fraction(1)),)),),  # 02:30 to 03:00
    )  # fmt: skip
    cells = [
        ("2026-10-25T02:00", 0, 10), ("2026-10-25T02:30", 0, 1),
        ("2026-10-25T02:00", 1, 10), ("2026-10-25T02:30", 1, 1), ("2026-10-25T03:00", 0, 10),
    ]  # fmt: skip
    for start, fold, price in cells:
        quantity = Quantity("10.0.0.7", "standard", 0, ns(start, berlin, fold), 1)
        assert rated(tariff, [quantity], berlin)[0][0] == price, (start, fold)
    # The day has 25 hours and is one day; the next begins an hour later by UTC.
    hours = [Quantity("10.0.0.7", "standard", h, ns("2026-10-25T00:00", berlin) + h * 3600 * 10**9,
                      1) for h in range(26)]  # fmt: skip
    charges = rate(hours, {"standard": tariff}, berlin)
    assert [c.octets for c in charges] == [25, 1]
    starts = [c.period_start.astimezone(UTC) for c in charges if c.period_start]
    assert [s.isoformat() for s in starts] == [
        "2026-10-24T22:00:00+00:00", "2026-10-25T23:00:00+00:00",
    ]  # fmt: skip


def test_rating_keeps_accounts_tariffs_and_currencies_apart() -> None:
    tariffs = {
        "standard": flat(Fraction(1)),
        "euro": Tariff("euro", "EUR", (Tier(None, Fraction(2)),)),
        "cheap": Tariff("cheap", "CNY", (Tier(None, Fraction(1, 2)),)),
    }
    charges = rate(
        [used(10, tariff="euro"), used(10, account="a", tariff="euro"), used(10, tariff="cheap"),
         used(10, account="a")],
        tariffs, "UTC",
    )  # fmt: skip
    assert [(c.account, c.currency, c.tariff, c.amount_micros) for c in charges] == [
        ("10.0.0.7", "CNY", "cheap", 5), ("10.0.0.7", "EUR", "euro", 20),
        ("a", "CNY", "standard", 10), ("a", "EUR", "euro", 20),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("tariff", "quantity", "message"),
    [
        (flat(Fraction(1)), used(1, tariff="gold"), "no such tariff; there are: standard"),
        (flat(Fraction(1)), used(-1), "expected 0 or more octets, got -1"),
        (flat(Fraction(1), rounding_per="day"), used(1), "goes by the time of day"),
        (EVENING, used(1), "goes by the time of day"),
        (Tariff("standard", "CNY", ()), used(1), "expected tiers"),
        (Tariff("standard", "CNY", (Tier(5, Fraction(1)),)), used(1), "a last one without an end"),
        (Tariff("standard", "CNY", (Tier(None, Fraction(1)), Tier(None, Fraction(2)))), used(1),
         "expected tiers"),
        (Tariff("standard", "CNY", (Tier(5, Fraction(1)), Tier(5, Fraction(2)),
                                    Tier(None, Fraction(1)))), used(1), "one above the other"),
    ],
)  # fmt: skip
def test_rating_refuses(tariff: Tariff, quantity: Quantity, message: str) -> None:
    with pytest.raises(LedgerError, match=message):
        rate([quantity], {"standard": tariff}, SHANGHAI)


@pytest.mark.parametrize("per", ["record", "session", "day"])
def test_rating_is_exact_beyond_64_bits(per: str) -> None:
    """Three times 2^62 octets are no i8, their price over a common denominator even less."""
    tiers = (Tier(2**61, Fraction(1, 3)), Tier(2**65, Fraction(2, 10**9 + 7)),
             Tier(None, Fraction(9)))  # fmt: skip
    tariff = Tariff("standard", "CNY", tiers, 2**40 + 1, per)  # type: ignore[arg-type]
    sizes = [2**62, 2**62 + 1, 2**62 + 2]
    book = Book({"standard": tariff})
    book.run([used(size, "2026-11-03T09:00", 2**62 + i) for i, size in enumerate(sizes)])
    periods = sizes if per == "record" else [sum(sizes)]
    rounded = [-(-size // (2**40 + 1)) * (2**40 + 1) for size in periods]
    assert book.rated_octets["10.0.0.7"] == sum(rounded)
    assert book.exact["10.0.0.7"] == sum(
        Fraction(2**61, 3) + Fraction(2 * (octets - 2**61), 10**9 + 7) for octets in rounded)


# --- laws ------------------------------------------------------------------------------

prices = st.fractions(min_value=0, max_value=1000, max_denominator=10**7)


@st.composite
def tier_tables(draw: st.DrawFn) -> tuple[Tier, ...]:
    ends = sorted(draw(st.sets(st.integers(1, 5000), max_size=3)))
    return tuple(Tier(end, draw(prices)) for end in [*ends, None])


@st.composite
def tariffs(draw: st.DrawFn) -> Tariff:
    switches = sorted(draw(st.sets(st.integers(0, 23), min_size=2, max_size=4)))
    bands = [
        TimeBand(a * 3600, b * 3600, draw(tier_tables()))
        for a, b in zip(switches, [*switches[1:], switches[0]], strict=True)
        if draw(st.booleans())
    ]
    per = draw(st.sampled_from(["record", "session", "day"]))
    increment = draw(st.integers(1, 700))
    return Tariff("standard", "CNY", draw(tier_tables()), increment, per, tuple(bands))


quantity_lists = st.lists(
    st.builds(
        Quantity, st.sampled_from(["a", "b"]), st.just("standard"), st.integers(0, 4),
        st.integers(0, 80).map(lambda h: ns("2026-11-03T00:00") + h * 3600 * 10**9),
        st.integers(0, 3000),
    ),
    max_size=12,
)  # fmt: skip


def slow(tariff: Tariff, quantities: list[Quantity]) -> dict[str, Fraction]:
    """What each account owes, octet by octet: no code shared with the one under test."""
    zone = ZoneInfo(SHANGHAI)
    periods: dict[tuple[str, object, int | None], int] = defaultdict(int)
    for q in quantities:
        assert q.start_ns is not None
        wall = datetime.fromtimestamp(q.start_ns / 10**9, zone)
        period = {"record": q.record, "session": 0, "day": wall.date()}[tariff.rounding_per]
        number = None
        for i, band in enumerate(tariff.bands):
            hour, first, last = wall.hour, band.from_s // 3600, band.to_s // 3600
            if hour in (range(first, last) if first < last
                        else [*range(first, 24), *range(last)]):  # fmt: skip
                number = i
        periods[q.account, period, number] += q.octets
    owed: dict[str, Fraction] = defaultdict(Fraction)
    for (account, _, number), octets in periods.items():
        tiers = tariff.tiers if number is None else tariff.bands[number].tiers
        while octets % tariff.increment_octets:
            octets += 1
        for position in range(octets):
            owed[account] += next(
                t.price for t in tiers if t.up_to_octets is None or position < t.up_to_octets
            )
    return owed


@settings(max_examples=60, deadline=None)
@given(tariffs(), quantity_lists)
def test_rating_is_exact(tariff: Tariff, quantities: list[Quantity]) -> None:
    """amount + remainder is what the slow judge counts, octet by octet."""
    exact: dict[str, Fraction] = defaultdict(Fraction)
    for charge in rate(quantities, {"standard": tariff}, SHANGHAI):
        remainder = Fraction(*charge.remainder)
        assert 0 <= remainder < 1
        exact[charge.account] += charge.amount_micros + remainder
        assert charge.rated_octets >= charge.octets > 0  # nothing was rated before
    expected = {a: v for a, v in slow(tariff, quantities).items() if v}
    assert {a: v for a, v in exact.items() if v} == expected
    octets = sum(c.octets for c in rate(quantities, {"standard": tariff}, SHANGHAI))
    assert octets == sum(q.octets for q in quantities)


@settings(max_examples=40, deadline=None)
@given(tariffs(), quantity_lists, st.randoms(use_true_random=False))
def test_rating_does_not_depend_on_order(
    tariff: Tariff, quantities: list[Quantity], random: object
) -> None:
    before = rate(quantities, {"standard": tariff}, SHANGHAI)
    random.shuffle(quantities)  # type: ignore[attr-defined]
    assert rate(quantities, {"standard": tariff}, SHANGHAI) == before


@settings(max_examples=60, deadline=None)
@given(tariffs(), st.lists(quantity_lists, max_size=4), st.randoms(use_true_random=False))
def test_rating_by_day_does_not_depend_on_how_it_is_cut_into_runs(
    tariff: Tariff, runs: list[list[Quantity]], random: object
) -> None:
    """Any partition into booked runs, in any order, costs the same; with bands too."""
    by_day = {"standard": replace(tariff, rounding_per="day")}
    whole, cut, shuffled = Book(by_day), Book(by_day), Book(by_day)
    whole.run([quantity for run in runs for quantity in run])
    for run in runs:
        cut.run(run)
    random.shuffle(runs)  # type: ignore[attr-defined]
    for run in runs:
        shuffled.run(run)
    for book in (cut, shuffled):
        assert book.exact == whole.exact
        assert book.rated_octets == whole.rated_octets
