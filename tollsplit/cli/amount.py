"""Amounts as people write them: "12.50 CNY", "5000 octets"."""

from __future__ import annotations

import re

import click

# Micro-units are the least that a ledger holds of a currency.
_AMOUNT = re.compile(r"([0-9]{1,10})(?:\.([0-9]{1,6}))? ?(?:([A-Z]{3})|octets?)")


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
