"""Sizes, shares, prices, durations and names as an operator writes them, made exact.

Each function takes a value as tomllib gives it and raises ValueError, "expected …, got …",
with the remedy where there is one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from datetime import time
from difflib import get_close_matches
from fractions import Fraction
from zoneinfo import ZoneInfo, available_timezones

from tollsplit.limits import DUPLICATES_MS_MAX, SHARE_DENOMINATOR_MAX

DAY_S = 86_400
_OCTETS_MAX = 2**63 - 1
_SIZES = {"": 1, "B": 1, "octet": 1, "octets": 1} | {
    f"{prefix}{suffix}": base**power
    for power, prefixes in enumerate(("kK", "M", "G", "T", "P"), 1)
    for prefix in prefixes
    for suffix, base in (("B", 1000), ("iB", 1024))
    if f"{prefix}{suffix}" != "kiB"
}
_MOMENTS = {"us": 1_000, "ms": 1_000_000}
_DURATIONS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": DAY_S}
_NUMBER = r"\d+(?:\.\d+)?"
_SIZE = re.compile(rf"({_NUMBER}) ?([A-Za-z]*)", re.ASCII)
_PRICE = re.compile(rf"({_NUMBER}) ([A-Za-z]+) ?/ ?({_NUMBER})? ?([A-Za-z]+)", re.ASCII)
_MONEY = re.compile(rf"({_NUMBER}) ?([A-Za-z]+)", re.ASCII)
_DURATION = re.compile(r"(\d{1,6}) ?([a-z]+)", re.ASCII)
_SHARE = re.compile(rf"(-?{_NUMBER})%|(\d+)/(\d+)", re.ASCII)

# IANA protocol numbers, by the names that operators use.
PROTOCOLS = {
    "icmp": 1, "igmp": 2, "ipip": 4, "tcp": 6, "udp": 17, "dccp": 33, "ipv6": 41, "gre": 47,
    "esp": 50, "ah": 51, "icmp6": 58, "ospf": 89, "pim": 103, "vrrp": 112, "l2tp": 115,
    "sctp": 132, "udplite": 136,
}  # fmt: skip
PROTOCOLS_WITH_PORTS = frozenset(PROTOCOLS[n] for n in ("tcp", "udp", "dccp", "sctp", "udplite"))

# RFC 2474 §4.2.2, RFC 2597 §6, RFC 3246 §2.7, RFC 5865 §4, RFC 8622 §4.
DSCP = (
    {f"CS{n}": n * 8 for n in range(8)}
    | {f"AF{c}{d}": c * 8 + d * 2 for c in range(1, 5) for d in range(1, 4)}
    | {"EF": 46, "VA": 44, "LE": 1, "DF": 0, "BE": 0}
)


def shown(value: object) -> str:
    """A TOML value as a message quotes it."""
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list):
        return "an array"
    if isinstance(value, str):
        return json.dumps(value if len(value) <= 60 else value[:57] + "…", ensure_ascii=False)
    return str(value).lower() if isinstance(value, bool) else str(value)


def listed(words: Iterable[str]) -> str:
    """The words, quoted, as an enumeration: "a", "b" or "c"."""
    *most, last = (shown(w) for w in words)
    return f"{', '.join(most)} or {last}" if most else last


def nearest(word: str, known: Iterable[str]) -> str:
    """'; did you mean "…"?' where a known word is close, else nothing."""
    by_case = {k.casefold(): k for k in known}
    found = get_close_matches(word.casefold(), by_case, 1, 0.6)
    return f"; did you mean {shown(by_case[found[0]])}?" if found else ""


def expected(what: str, value: object, remedy: str = "") -> ValueError:
    return ValueError(f"expected {what}, got {shown(value)}{remedy}")


def string(value: object) -> str:
    """A string with something in it."""
    if not isinstance(value, str):
        raise expected("a string", value)
    if not value.strip():
        raise expected("a string with something in it", value)
    return value


def boolean(value: object) -> bool:
    if not isinstance(value, bool):
        raise expected("true or false", value)
    return value


def integer(low: int, high: int) -> Callable[[object], int]:
    """A reader of whole numbers from low to high."""

    def read(value: object) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise expected(f"a number {low}..{high}", value)
        return value

    return read


def choice(*words: str) -> Callable[[object], str]:
    """A reader of one of these words."""

    def read(value: object) -> str:
        if not isinstance(value, str) or value not in words:
            remedy = nearest(value, words) if isinstance(value, str) else ""
            raise expected(listed(words), value, remedy)
        return value

    return read


def named(numbers: dict[str, int], high: int, what: str) -> Callable[[object], int]:
    """A reader of numbers 0..high that have names too; case does not matter."""
    by_case = {name.casefold(): number for name, number in numbers.items()}

    def read(value: object) -> int:
        if isinstance(value, str):
            if value.casefold() in by_case:
                return by_case[value.casefold()]
            raise expected(f"{what} or a number 0..{high}", value, nearest(value, numbers))
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= high:
            raise expected(f"{what} or a number 0..{high}", value)
        return value

    return read


protocol = named(PROTOCOLS, 255, "a protocol's name")
dscp = named(DSCP, 63, "a code point's name (EF, AF41, CS1)")


def port(value: object) -> tuple[int, int]:
    """A port, or an inclusive range "8000-8100"."""
    what = 'a port 0..65535 or a range "8000-8100"'
    if isinstance(value, str):
        match = re.fullmatch(r"(\d{1,5})(?: ?- ?(\d{1,5}))?", value, re.ASCII)
        if not match:
            raise expected(what, value)
        low, high = int(match[1]), int(match[2] or match[1])
    elif isinstance(value, int) and not isinstance(value, bool):
        low = high = value
    else:
        raise expected(what, value)
    if not 0 <= low <= high <= 65_535:
        remedy = f'; did you mean "{high}-{low}"?' if high < low <= 65_535 else ""
        raise expected(what, value, remedy)
    return low, high


def size(value: object) -> int:
    """Octets, at least one: "50 MiB", "1 GB" (decimal) or a plain number."""
    what = 'a size such as "50 MiB", "1 GB" or a number of octets'
    if isinstance(value, int) and not isinstance(value, bool):
        octets = Fraction(value)
    elif isinstance(value, str) and (match := _SIZE.fullmatch(value.strip())):
        number, unit = match.groups()
        if unit not in _SIZES:
            raise expected(what, value, nearest(unit, _SIZES))
        octets = Fraction(number) * _SIZES[unit]
    else:
        raise expected(what, value)
    if octets.denominator != 1:
        raise expected("a whole number of octets", value)
    if not 1 <= octets <= _OCTETS_MAX:
        raise expected("a size of at least 1 octet and below 2^63", value)
    return int(octets)


def share(value: object) -> Fraction:
    """An exact share 0 < s ≤ 1: "70%", "33.333%" or "1/3"."""
    what = 'a share in quotes such as "70%" or "1/3"'
    if isinstance(value, float) and 0 < value <= 1:
        # A binary fraction is not what was meant: 0.1 is not one tenth.
        raise expected(what, value, f'; did you mean "{Fraction(str(value)) * 100}%"?')
    return _ratio(value, what, "leave the sponsor out instead")


def tax_rate(value: object) -> Fraction:
    """A tax's exact rate 0 < r ≤ 1: "13%" or "1/8"."""
    return _ratio(value, 'a rate in quotes such as "13%" or "1/8"', "leave the tax out instead")


def _ratio(value: object, what: str, instead: str) -> Fraction:
    match = _SHARE.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise expected(what, value)
    if match[1] is None and int(match[3]) == 0:
        raise expected(what, value)
    part = Fraction(match[1]) / 100 if match[1] else Fraction(int(match[2]), int(match[3]))
    if not 0 <= part <= 1:
        raise ValueError(f"expected 0%..100%, got {value}")
    if part == 0:
        raise ValueError(f"expected more than 0%, got {value}; {instead}")
    if part.denominator > SHARE_DENOMINATOR_MAX:
        raise expected(f"a fraction whose denominator is at most {SHARE_DENOMINATOR_MAX:,}", value)
    return part


def threshold(value: object) -> Fraction | int:
    """A share of a quota, "80%", or a size."""
    if isinstance(value, str) and _SHARE.fullmatch(value.strip()):
        return share(value)
    try:
        return size(value)
    except ValueError:
        raise expected('a share of the quota such as "80%" or a size such as "40 MiB"',
                       value) from None


def currency(value: object) -> str:
    """A currency's code by its form (ISO 4217)."""
    if not isinstance(value, str) or not re.fullmatch(r"[A-Z]{3}", value):
        upper = value.upper() if isinstance(value, str) else ""
        remedy = f'; did you mean "{upper}"?' if re.fullmatch(r"[A-Z]{3}", upper) else ""
        raise expected("a currency's three capital letters (ISO 4217)", value, remedy)
    return value


def price(code: str | None) -> Callable[[object], Fraction]:
    """A reader of prices in the currency `code`: micro-units per octet, exact."""

    def read(value: object) -> Fraction:
        example = f'a price such as "0.29 {code or "CNY"} / MiB"'
        match = _PRICE.fullmatch(value.strip()) if isinstance(value, str) else None
        if match is None:
            raise expected(example, value)
        amount, found, count, unit = match.groups()
        if unit not in _SIZES:
            raise expected(example, value, nearest(unit, _SIZES))
        if code is not None and found != code:
            raise expected(f"a price in {code}, the tariff's currency", value)
        step: Fraction = Fraction(count or 1) * _SIZES[unit]
        if step == 0:
            raise expected(example, value)
        return Fraction(amount) * 1_000_000 / step

    return read


def money(code: str | None) -> Callable[[object], Fraction]:
    """A reader of amounts in the currency `code`: micro-units, exact."""

    def read(value: object) -> Fraction:
        match = _MONEY.fullmatch(value.strip()) if isinstance(value, str) else None
        if match is None:
            raise expected(f'an amount such as "0.10 {code or "CNY"}"', value)
        if code is not None and match[2] != code:
            raise expected(f"an amount in {code}, the tariff's currency", value)
        if not Fraction(match[1]):
            raise expected("more than 0", value, "; leave the key out instead")
        return Fraction(match[1]) * 1_000_000

    return read


def tax_account(value: object) -> str:
    """The name of an account that a tax is posted to."""
    name = string(value)
    if not re.fullmatch(r"tax:\S.*", name):
        raise expected('a name that begins with "tax:", such as "tax:vat"', value)
    return name


def window(value: object) -> tuple[int | None, bool]:
    """(seconds, False) for a divisor of a day, (None, False) for "all", (None, True) for "1mo"."""
    if value == "all":
        return None, False
    if value == "1mo":
        return None, True
    what = '"all", "1mo" or a duration that divides a day ("15m", "1h", "1d")'
    match = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if match is None or match[2] not in _DURATIONS:
        raise expected(what, value)
    count, unit = int(match[1]), _DURATIONS[match[2]]
    seconds = count * unit
    if seconds == 0 or DAY_S % seconds:
        # Only neighbours in the operator's own unit help.
        fitting = [n for n in range(1, DAY_S // unit + 1) if DAY_S % (n * unit) == 0]
        lower = max((n for n in fitting if n <= count), default=fitting[0])
        upper = min((n for n in fitting if n >= count), default=fitting[-1])
        near = listed(f"{n}{match[2]}" for n in sorted({lower, upper}))
        raise expected(what, value, f"; did you mean {near}?")
    return seconds, False


def moment(value: object) -> int:
    """Nanoseconds of "500us" or "2ms"."""
    match = _DURATION.fullmatch(value) if isinstance(value, str) else None
    found_ns = int(match[1]) * _MOMENTS.get(match[2], 0) if match else 0
    if not 0 < found_ns <= DUPLICATES_MS_MAX * _MOMENTS["ms"]:
        raise expected(f'a duration up to {DUPLICATES_MS_MAX} ms ("500us", "2ms")', value)
    return found_ns


def duration(value: object) -> int:
    """Seconds of "90s", "5m", "1h" or "2d", at least one."""
    match = _DURATION.fullmatch(value) if isinstance(value, str) else None
    seconds = int(match[1]) * _DURATIONS.get(match[2], 0) if match else 0
    if not seconds:
        raise expected('a duration such as "90s", "5m" or "1h"', value)
    return seconds


def time_of_day(value: object) -> int:
    """Seconds after midnight of "08:00" or "08:00:30"; "24:00" is the day's end."""
    if isinstance(value, time) and not value.microsecond:
        return value.hour * 3600 + value.minute * 60 + value.second
    match = (
        re.fullmatch(r"(\d\d):([0-5]\d)(?::([0-5]\d))?", value, re.ASCII)
        if isinstance(value, str)
        else None
    )
    seconds = -1
    if match:
        seconds = int(match[1]) * 3600 + int(match[2]) * 60 + int(match[3] or 0)
    if not 0 <= seconds <= DAY_S:
        raise expected('a time of day such as "08:00"', value)
    return seconds


def zone(value: object) -> str:
    """The name of a time zone that this system knows."""
    name = string(value)
    try:
        ZoneInfo(name)
    except (OSError, ValueError, LookupError):  # whichever a name that is none leads to
        remedy = nearest(name, available_timezones())
        raise expected('a time zone such as "Asia/Shanghai"', value, remedy) from None
    return name
