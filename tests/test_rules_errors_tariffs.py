"""Broken tariffs and taxes: each with the exact message and line that a person gets."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_rules_errors import check_broken

# (what is wrong, document, files beside it, messages)
BROKEN: list[tuple[str, str, dict[str, str], list[str]]] = [
    (
        "currency",
        '[tariffs.standard]\ncurrency = "cny"\nprice = "0.29 CNY / MiB"',
        {},
        [
            'rules.toml:2: tariff "standard": key "currency": expected a currency\'s three '
            'capital letters (ISO 4217), got "cny"; did you mean "CNY"?'
        ],
    ),
    (
        "price",
        '[tariffs.standard]\ncurrency = "CNY"\nprice = "0.29 EUR / MiB"\nincrement = 1.5',
        {},
        [
            'rules.toml:3: tariff "standard": key "price": expected a price in CNY, the '
            'tariff\'s currency, got "0.29 EUR / MiB"',
            'rules.toml:4: tariff "standard": key "increment": expected a size such as "50 MiB", '
            '"1 GB" or a number of octets, got 1.5',
        ],
    ),
    (
        "no price",
        '[tariffs.standard]\nrounding_per = "week"',
        {},
        [
            'rules.toml:1: tariff "standard": key "currency" is missing',
            'rules.toml:1: tariff "standard": expected either "price" or "tiers", got neither',
            'rules.toml:2: tariff "standard": key "rounding_per": expected "record", "session" or '
            '"day", got "week"',
        ],
    ),
    (
        "tiers",
        '[tariffs.standard]\ncurrency = "CNY"\ntiers = [\n'
        '  { up_to = "1 GiB", price = "2 CNY / MiB" },\n'
        '  { up_to = "1 MiB", price = "1 CNY / MiB" },\n'
        '  { price = "1 CNY / MiB" },\n'
        '  { up_to = "2 GiB", price = "1 CNY per MiB" },\n]',
        {},
        [
            'rules.toml:5: tariff "standard": tier 2: key "up_to": expected more than the tier '
            "before (1073741824 octets)",
            'rules.toml:6: tariff "standard": tier 3: key "up_to" is missing; only the last tier '
            "has no end",
            'rules.toml:7: tariff "standard": tier 4: key "price": expected a price such as '
            '"0.29 CNY / MiB", got "1 CNY per MiB"',
            'rules.toml:7: tariff "standard": tier 4: key "up_to": expected no end of the last '
            'tier; remove "up_to" or add a tier',
        ],
    ),
    (
        "bands",
        '[tariffs.standard]\ncurrency = "CNY"\nprice = "1 CNY / MiB"\nbands = [\n'
        '  { from = "22:00", to = "06:00", price = "0 CNY / MiB" },\n'
        '  { from = "05:00", to = "07:00", price = "0 CNY / MiB" },\n'
        '  { from = "8:00", to = "25:00", price = "0 CNY / MiB" },\n'
        '  { from = "09:00", to = "09:00", price = "0 CNY / MiB" },\n]',
        {},
        [
            'rules.toml:6: tariff "standard": band 2: expected bands that do not overlap, '
            "got one inside band 1",
            'rules.toml:7: tariff "standard": band 3: key "from": expected a time of day such as '
            '"08:00", got "8:00"',
            'rules.toml:7: tariff "standard": band 3: key "to": expected a time of day such as '
            '"08:00", got "25:00"',
            'rules.toml:8: tariff "standard": band 4: key "from": expected a band that begins '
            'before it ends; a whole day is "00:00" to "24:00"',
        ],
    ),
    (
        "minimum",
        '[tariffs.standard]\ncurrency = "CNY"\nprice = "1 CNY / MiB"\nminimum = "0.10 EUR"\n'
        '[tariffs.b]\ncurrency = "CNY"\nprice = "1 CNY / MiB"\nminimum = 0.10\n'
        '[tariffs.c]\ncurrency = "CNY"\nprice = "1 CNY / MiB"\nminimum = "0 CNY"\n'
        '[tariffs.d]\ncurrency = "CNY"\nprice = "1 CNY / MiB"\nminimum_per = "day"\n'
        '[tariffs.e]\ncurrency = "CNY"\nprice = "1 CNY / MiB"\nrounding_per = "day"\n'
        'minimum = "1 CNY"\nminimum_per = "record"\n'
        '[tariffs.f]\ncurrency = "CNY"\nprice = "1 CNY / MiB"\nrounding_per = "session"\n'
        'minimum = "1 CNY"\nminimum_per = "month"\n'
        '[tariffs.g]\ncurrency = "CNY"\nprice = "1 CNY / MiB"\nminimum = "1 CNY"\n'
        'minimum_per = "week"\n',
        {},
        [
            'rules.toml:4: tariff "standard": key "minimum": expected an amount in CNY, the '
            'tariff\'s currency, got "0.10 EUR"',
            'rules.toml:8: tariff "b": key "minimum": expected an amount such as "0.10 CNY", got '
            "0.1",
            'rules.toml:12: tariff "c": key "minimum": expected more than 0, got "0 CNY"; leave '
            "the key out instead",
            'rules.toml:16: tariff "d": key "minimum_per": expected a "minimum" beside it',
            'rules.toml:22: tariff "e": key "minimum_per": expected "day" or "month" where octets '
            'are rounded per day, got "record"',
            'rules.toml:28: tariff "f": key "minimum_per": expected "session" where octets are '
            'rounded per session, got "month"',
            'rules.toml:33: tariff "g": key "minimum_per": expected "record", "session", "day" or '
            '"month", got "week"',
        ],
    ),
    (
        "taxes",
        '[taxes.vat]\n[taxes.city]\nrate = 0.13\naccount = "operator:revenue"\n'
        '[taxes.no]\nrate = "0%"\n[taxes.much]\nrate = "101%"\n[taxes.split]\nrate = "1/0"\n'
        '[taxes.none]\nrate = "1%"\naccount = "tax:"\nof = "x"\n',
        {},
        [
            'rules.toml:1: tax "vat": key "rate" is missing',
            'rules.toml:3: tax "city": key "rate": expected a rate in quotes such as "13%" or '
            '"1/8", got 0.13',
            'rules.toml:4: tax "city": key "account": expected a name that begins with "tax:", '
            'such as "tax:vat", got "operator:revenue"',
            'rules.toml:6: tax "no": key "rate": expected more than 0%, got 0%; leave the tax '
            "out instead",
            'rules.toml:8: tax "much": key "rate": expected 0%..100%, got 101%',
            'rules.toml:10: tax "split": key "rate": expected a rate in quotes such as "13%" or '
            '"1/8", got "1/0"',
            'rules.toml:13: tax "none": key "account": expected a name that begins with "tax:", '
            'such as "tax:vat", got "tax:"',
            'rules.toml:14: tax "none": unknown key "of"; expected "rate" or "account"',
        ],
    ),
    (
        "taxes of a tariff",
        '[taxes.vat]\nrate = "13%"\n'
        '[tariffs.standard]\ncurrency = "CNY"\nprice = "1 CNY / MiB"\ntaxes = ["vat", "vta", '
        '"vat"]\n'
        '[tariffs.b]\ncurrency = "CNY"\nprice = "1 CNY / MiB"\nprices = "gross"\n'
        '[tariffs.c]\ncurrency = "CNY"\nprice = "1 CNY / MiB"\ntaxes = "vat"\nprices = "nett"\n',
        {},
        [
            'rules.toml:3: tariff "standard": key "prices" is missing: expected "net", where taxes '
            'come on top of prices, or "gross", where prices include them',
            'rules.toml:6: tariff "standard": key "taxes": unknown tax "vta"; did you mean "vat"?',
            'rules.toml:6: tariff "standard": key "taxes": expected each tax once, got "vat" again',
            'rules.toml:10: tariff "b": key "prices": expected "taxes" beside it',
            'rules.toml:15: tariff "c": key "prices": expected "net" or "gross", got "nett"; did '
            'you mean "net"?',
        ],
    ),
    (
        "unknown tariff",
        '[tariffs.standard]\ncurrency = "CNY"\nprice = "1 CNY / MiB"\n'
        '[sponsors.video-co]\ntariff = "standart"',
        {},
        [
            'rules.toml:5: sponsor "video-co": key "tariff": unknown tariff "standart"; '
            'did you mean "standard"?'
        ],
    ),
    (
        "several tariffs and no choice",
        '[tariffs.day]\ncurrency = "CNY"\nprice = "1 CNY / MiB"\n'
        '[tariffs.night]\ncurrency = "CNY"\nprice = "1 CNY / MiB"\n'
        '[[pools]]\nprefixes = ["10.0.0.0/8"]\ntariff = "night"\n[sponsors.video-co]',
        {},
        [
            'rules.toml:10: sponsor "video-co": key "tariff" is missing: expected "day" or '
            '"night", or a tariff called "standard" for everybody who names none'
        ],
    ),
]


@pytest.mark.parametrize(
    ("document", "files", "messages"), [pytest.param(*row[1:], id=row[0]) for row in BROKEN]
)
def test_broken_tariffs_say_what_and_where(
    document: str,
    files: dict[str, str],
    messages: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    check_broken(document, files, messages)
