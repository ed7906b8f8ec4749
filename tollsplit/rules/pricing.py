"""The tariffs of a rules file, and who pays by which."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, TypeVar, cast

from tollsplit.rules import units
from tollsplit.rules.document import Document, Table
from tollsplit.rules.rule import Pool, Sponsor, Tariff, Tier, TimeBand

P = TypeVar("P", Pool, Sponsor)
STANDARD = "standard"


def read_tariffs(root: Table) -> dict[str, Tariff]:
    """[tariffs.NAME]: a price or tiers, an increment, bands of the day."""
    return {name: _tariff(table, name) for name, table in root.entries("tariffs", "tariff")}


def _tariff(table: Table, name: str) -> Tariff:
    # Without a currency of its own a wrong one would be blamed on every price.
    currency = table.require("currency", units.currency, None)
    tiers = _tiers(table, currency)
    increment = table.read("increment", units.size, 1)
    rounding_per = table.read("rounding_per", units.choice("record", "session", "day"), "record")
    bands = _bands(table, currency)
    table.close()
    return Tariff(
        name,
        currency or "",
        tiers,
        increment,
        cast(Literal["record", "session", "day"], rounding_per),
        bands,
    )


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


def unused_tariffs(document: Document, tariffs: dict[str, Tariff], used: set[str | None]) -> None:
    """Warn of tariffs that nobody pays by."""
    for name in tariffs:
        if name not in used:
            line = document.positions.line(("tariffs", name))
            document.warnings.append((line, f"tariff {units.shown(name)}: nobody pays by it"))
