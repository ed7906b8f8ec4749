"""Amounts as people write and read them: "12.50 CNY", "5000 octets", "1.2 MiB"."""

from __future__ import annotations

import re

import click

# Micro-units are the least that a ledger holds of a currency.
_AMOUNT = re.compile(r"([0-9]{1,10})(?:\.([0-9]{1,6}))? ?(?:([A-Z]{3})|octets?)")
UNITS = ("octets", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")


def read_amount(ctx: click.Context, param: click.Parameter, value: str) -> tuple[int, str]:
    """An option's amount in the ledger's unit, and that unit."""
    match = _AMOUNT.fullmatch(value)
    if match is not None:
        whole, fraction, currency = match.groups()
        micros = int(whole) * 1_000_000 + int((fraction or "").ljust(6, "0") or 0)
        if currency and micros:
            return micros, f"{currency}/1000000"
        if not currency and not fraction and int(whole):
            return int(whole), "octet"
    raise click.BadParameter(
        f'expected an amount above 0 such as "12.50 CNY" or "5000 octets", got {value!r}')


AMOUNT = click.option("--amount", metavar="AMOUNT", required=True, callback=read_amount,
                      help='How much: "25.00 CNY", "5000 octets".')


def size(octets: int) -> str:
    """Octets for the eye: "1.2 MiB"."""
    value = float(octets)
    for unit in UNITS:
        if abs(value) < 1024 or unit == UNITS[-1]:
            break
        value /= 1024
    return f"{octets} octets" if unit == "octets" else f"{value:.1f} {unit}"


def share(octets: int, whole: int) -> str:
    """A part of a whole: "79.9 %"; "-" where there is nothing to share."""
    return f"{100 * octets / whole:.1f} %" if whole else "-"


def money(amount_micros: int, currency: str) -> str:
    """An amount, exact to the micro-unit: "1.234567 CNY"."""
    sign = "-" if amount_micros < 0 else ""
    units, micros = divmod(abs(amount_micros), 1_000_000)
    return f"{sign}{units:,}.{micros:06} {currency}"


def quantity(amount: int, unit: str) -> str:
    """An amount of a ledger's unit."""
    currency, slash, _ = unit.partition("/")
    return money(amount, currency) if slash else f"{amount:,} {unit}s"
