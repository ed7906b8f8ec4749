"""CSV as spreadsheets open it: what they would change is written so that they leave it."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from ipaddress import ip_network
from typing import IO, Any

from ..report import guarded

_DIGITS_MAX = 15  # a spreadsheet's numbers are doubles: of more digits the last become 0
_MARK = "\ufeff"  # without it Excel takes UTF-8 for the code page of the country
_SECOND = re.compile(r"(\d{4}-\d\d-\d\d)T(\d\d:\d\d:\d\d)Z")
_INSTANT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[\d.]*Z")
# Numbers, dates and times in any country's way of writing; "MAR1" in some countries'.
_MONTHS = (
    "jan|ene|feb|f[eé]v|mar|m[aä]r|apr|avr|abr|ma[iy]|jun|jui|jul|aug|ao[uû]|ago|set|sep|o[ck]t|nov"
    "|de[cz]|d[eé]c"
)
_OTHERWISE = re.compile(
    rf"\s*[($€£¥]?\s*\d.*|({_MONTHS})[^\W\d_]*[ .,/-]*\d+|true|false", re.I | re.S)
_OF_UNIT = ("amount", "opening", "closing")  # where a line names a unit, they are in it


def write_spreadsheet(
    stream: IO[str], columns: Sequence[str], lines: Iterable[Mapping[str, Any]]
) -> None:
    """Write lines as RFC 4180 has them, marked as UTF-8.

    Money is in the currency's units: what was a column of micro-units is one of "money". Instants
    of whole seconds are dates (UTC). A name that would become a number, a date or a formula, and a
    number that would lose digits, have an apostrophe before them.
    """
    stream.write(_MARK)
    names = {name: re.sub(r"_micros\b", "_money", name) for name in columns}
    writer = csv.writer(stream)
    writer.writerow(names.values())
    for line in lines:
        row = dict(line)
        currency, slash, _ = str(row.get("unit", "")).partition("/")
        if slash:
            row["unit"] = currency
        for name, value in row.items():
            if isinstance(value, int) and (
                names[name] != name or (slash and name in _OF_UNIT)
            ):
                row[name] = Decimal(value).scaleb(-6)
        writer.writerow([_cell(row.get(name)) for name in columns])


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, int | Decimal):
        text = format(value, "f") if isinstance(value, Decimal) else str(value)
        return f"'{text}" if sum(map(str.isdigit, text.lstrip("-0."))) > _DIGITS_MAX else text
    text = str(guarded(str(value)))
    second = _SECOND.fullmatch(text)
    if second is not None:
        return f"{second[1]} {second[2]}"
    if _OTHERWISE.fullmatch(text) and not _INSTANT.fullmatch(text) and not _is_address(text):
        return f"'{text}"
    return text


def _is_address(text: str) -> bool:
    """Spreadsheets leave "10.0.0.7" and "2001:db8::/64" as they are."""
    try:
        ip_network(text, strict=False)
    except ValueError:
        return False
    return not text.isdigit()
