"""The tariffs and taxes of a rules file, and who pays by which."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Literal, TypeVar, cast

from tollsplit.model import MINIMUM_PERIODS
from tollsplit.rules import units
from tollsplit.rules.document import Document, Table
from tollsplit.rules.rule import Pool, Sponsor, Tariff, Tax, Tier, TimeBand

P = TypeVar("P", Pool, Sponsor)
STANDARD = "standard"


def read_taxes(root: Table) -> dict[str, Tax]:
    """[taxes.NAME]: a rate, and the account that gains the tax."""
    taxes = {}
    for name, table in root.entries("taxes", "tax"):
        rate = table.require("rate", units.tax_rate, Fraction(0))
        account = table.read("account", units.tax_account, f"tax:{name}")
        table.close()
        taxes[name] = Tax(name, rate, account)
    return taxes


def read_tariffs(root: Table, taxes: dict[str, Tax]) -> dict[str, Tariff]:
    """[tariffs.NAME]: a price or tiers, an increment, bands of the day, a minimum, taxes."""
    return {name: _tariff(table, name, taxes) for name, table in root.entries("tariffs", "tariff")}


def _tariff(table: Table, name: str, taxes: dict[str, Tax]) -> Tariff:
    # Without a currency of its own a wrong one would be blamed on every price.
    currency = table.require("currency", units.currency, None)
    tiers = _tiers(table, currency)
    increment = table.read("increment", units.size, 1)
    rounding_per = table.read("rounding_per", units.choice("record", "session", "day"), "record")
    bands = _bands(table, currency)
    minimum, minimum_per = _minimum(table, currency, rounding_per)
    charged = _charged_taxes(table, taxes)
    prices = _prices(table, bool(charged))
    table.close()
    tariff = Tariff(
        name,
        currency or "",
        tiers,
        increment,
        cast(Literal["record", "session", "day"], rounding_per),
        bands,
        minimum,
        cast(Literal["record", "session", "day", "month"], minimum_per),
        charged,
        cast(Literal["net", "gross"], prices),
    )
    if minimum and tiers and all(band.tiers for band in bands):
        least = min(_price(each, increment) for each in (tiers, *(band.tiers for band in bands)))
        if least >= minimum:
            table.warn('"minimum" adds nothing: the first increment costs as much', "minimum")
    return tariff


def _minimum(table: Table, currency: str | None, rounding_per: str) -> tuple[Fraction, str]:
    """What is paid at least, in micro-units, and for what; 0: there is no minimum."""
    minimum = table.read("minimum", units.money(currency), Fraction(0))
    read = units.choice("record", "session", "day", "month")
    per = table.read("minimum_per", read, rounding_per)
    if "minimum" not in table and "minimum_per" in table:
        table.error('expected a "minimum" beside it', "minimum_per")
    elif per not in MINIMUM_PERIODS[rounding_per]:
        table.error(
            f"expected {units.listed(MINIMUM_PERIODS[rounding_per])} where octets are rounded per "
            f'{rounding_per}, got {units.shown(per)}', "minimum_per")  # fmt: skip
    return minimum, per if minimum else "record"


def _charged_taxes(table: Table, taxes: dict[str, Tax]) -> tuple[Tax, ...]:
    names = table.several("taxes", units.string) or ()
    for index, name in enumerate(names):
        if name not in taxes:
            remedy = units.nearest(name, taxes) or "; define it as a table under [taxes]"
            table.error(f"unknown tax {units.shown(name)}{remedy}", "taxes", index)
        elif name in names[:index]:
            table.error(f"expected each tax once, got {units.shown(name)} again", "taxes", index)
    return tuple(taxes[name] for name in dict.fromkeys(names) if name in taxes)


def _prices(table: Table, taxed: bool) -> str:
    """Whether prices and minimum are without taxes or include them; with taxes it must be said."""
    prices = table.read("prices", units.choice("net", "gross"), "net")
    if "taxes" in table and "prices" not in table:
        table.error('key "prices" is missing: expected "net", where taxes come on top of prices, '
                    'or "gross", where prices include them')  # fmt: skip
    if "prices" in table and "taxes" not in table:
        table.error('expected "taxes" beside it', "prices")
    return prices


def _price(tiers: tuple[Tier, ...], octets: int) -> Fraction:
    """Of the first octets of a period, in micro-units."""
    price, below = Fraction(0), 0
    for tier in tiers:
        up_to = octets if tier.up_to_octets is None else min(octets, tier.up_to_octets)
        price += max(up_to - below, 0) * tier.price
        below = max(up_to, below)
    return price


def _tiers(table: Table, currency: str | None) -> tuple[Tier, ...]:
    price = table.read("price", units.price(currency), None)
    steps = table.tables("tiers", lambda number, _: f"{table.label}: tier {number}")
    if ("price" in table) == ("tiers" in table):
        found = "both" if steps else "neither"
        table.error(f'expected either "price" or "tiers", got {found}')
    if not steps:
        return (Tier(None, price),) if price is not None else ()
    tiers = []
    last = 0
    for step in steps:
        up_to = step.read("up_to", units.size, None)
        step_price = step.require("price", units.price(currency), None)
        step.close()
        if up_to is None and "up_to" not in step and step is not steps[-1]:
            step.error('key "up_to" is missing; only the last tier has no end')
        if up_to is not None and step is steps[-1]:
            step.error('expected no end of the last tier; remove "up_to" or add a tier', "up_to")
        if up_to is not None and up_to <= last:
            step.error(f"expected more than the tier before ({last} octets)", "up_to")
        last = up_to or last
        if step_price is not None:
            tiers.append(Tier(up_to, step_price))
    return tuple(tiers)


def _bands(table: Table, currency: str | None) -> tuple[TimeBand, ...]:
    bands: list[TimeBand] = []
    taken: list[tuple[int, int, int]] = []  # start, end, number of the band
    for number, entry in enumerate(
        table.tables("bands", lambda number, _: f"{table.label}: band {number}"), 1
    ):
        start = entry.require("from", units.time_of_day, None)
        end = entry.require("to", units.time_of_day, None)
        tiers = _tiers(entry, currency)
        entry.close()
        if start is None or end is None:
            continue
        if start == end or start == units.DAY_S:
            entry.error('expected a band that begins before it ends; a whole day is "00:00" to '
                        '"24:00"', "from")  # fmt: skip
            continue
        parts = [(start, end)] if start < end else [(start, units.DAY_S), (0, end)]
        clashes = sorted({n for a, b, n in taken for c, d in parts if a < d and c < b})
        if clashes:
            entry.error(f"expected bands that do not overlap, got one inside band {clashes[0]}")
        taken += [(*part, number) for part in parts]
        bands.append(TimeBand(start, end, tiers))
    return tuple(bands)


def named_tariff(table: Table, tariffs: dict[str, Tariff]) -> str | None:
    """The tariff that a pool, a sponsor or a rule names; it must be there."""
    name = table.read("tariff", units.string, None)
    if name is not None and name not in tariffs:
        remedy = units.nearest(name, tariffs) or "; define it as a table under [tariffs]"
        table.error(f"unknown tariff {units.shown(name)}{remedy}", "tariff")
    return name


def with_tariff(payer: P, tariffs: dict[str, Tariff], table: Table) -> P:
    """The payer with the tariff that applies where it names none.

    A single tariff applies to everybody, of several the one called "standard".
    """
    if payer.tariff is not None or not tariffs:
        return payer
    if len(tariffs) == 1:
        return replace(payer, tariff=next(iter(tariffs)))
    if STANDARD not in tariffs:
        table.error(
            f'key "tariff" is missing: expected {units.listed(tariffs)}, '
            f'or a tariff called "{STANDARD}" for everybody who names none'
        )
    return replace(payer, tariff=STANDARD)


def unused(
    document: Document, tariffs: dict[str, Tariff], taxes: dict[str, Tax], used: set[str | None]
) -> None:
    """Warn of tariffs that nobody pays by, and of taxes that no tariff names."""
    for name in tariffs:
        if name not in used:
            line = document.positions.line(("tariffs", name))
            document.warnings.append((line, f"tariff {units.shown(name)}: nobody pays by it"))
    charged = {tax.name for tariff in tariffs.values() for tax in tariff.taxes}
    for name in taxes:
        if name not in charged:
            line = document.positions.line(("taxes", name))
            document.warnings.append((line, f"tax {units.shown(name)}: no tariff names it"))
