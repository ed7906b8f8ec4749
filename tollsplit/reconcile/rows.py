"""Rows of a party's file as lines, whether they are lists (CSV) or objects (JSON)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from decimal import Decimal, InvalidOperation
from typing import Any

from ..errors import ReconcileError
from .columns import Columns
from .line import FIGURES, KEYS, Amount, Line
from .times import Times, Window

_NUMBER_MAX = 2**63 - 1
_UNSTATED: Window = (None, None)


class Rows:
    """Makes lines of the rows of one file."""

    def __init__(self, columns: Columns, at: Callable[[str], Any]) -> None:
        """columns  all of them in the file
        at       where a row has a column: its index, or its name
        """
        self._columns = columns
        self._times = Times(columns.zone, columns.time_format, columns.window)
        self._at = {what: at(column) for what, column in columns.names.items()}
        self._figures = [self._at.get(name) for name in FIGURES]
        values = columns.values
        self._keys = [(self._at.get(key), values.get(key) or {}) for key in KEYS]
        self._sponsors = [(identity, at(column)) for identity, column in columns.sponsors.items()]
        self._windows: dict[tuple[Any, Any], Window] = {}
        states = columns.states
        self._has_usage = not states <= {"window", "amount", *KEYS}
        self._has_amount = "amount" in states

    def read(self, row: Any, place: str) -> Iterator[Line | Amount]:
        """A row's usage and amount. Raises ReconcileError."""
        try:
            window = self._window(row)
            if self._has_usage:
                yield self._line(row, window)
            if self._has_amount:
                yield self._amount(row, window)
        except (ValueError, LookupError, TypeError):
            raise ReconcileError(f"{place}: {self._fault(row)}") from None

    def _line(self, row: Any, window: Window) -> Line:
        """Budget: 4 µs a row."""
        figures: list[Any] = []
        for at in self._figures:
            if at is None:
                figures.append(None)
                continue
            number = row[at]
            if type(number) is not int:
                number = _whole(number)
            if number < 0:
                raise ValueError
            figures.append(number)
        keys: list[Any] = []
        for at, renamed in self._keys:
            text = None if at is None else row[at]
            if text is None or text == "":
                keys.append(None)
                continue
            if type(text) is not str:
                text = str(text)
            keys.append(renamed.get(text, text))
        if keys[3] is not None:
            keys[3] = octets(keys[3])
        sponsor = self._name(row, "sponsor_identity")
        shares = {identity: _part(row[at]) for identity, at in self._sponsors}
        if "sponsor_octets" in self._at:
            shares = _shares(row[self._at["sponsor_octets"]], sponsor)
        return Line._make((*window, *keys, *figures, sponsor, shares))

    def _amount(self, row: Any, window: Window) -> Amount:
        at = self._at
        micros = (
            _micros(row[at["amount"]]) if "amount" in at else _whole(row[at["amount_micros"]])
        )
        currency = self._name(row, "currency") or self._columns.currency
        account = self._name(row, "account") or self._name(row, "subscriber")
        return Amount(window[0], account, _currency(currency), micros)

    def _window(self, row: Any) -> Window:
        at = self._at
        start, end = at.get("window_start", at.get("day")), at.get("window_end")
        if start is None:
            return _UNSTATED
        key = row[start], None if end is None else row[end]
        if key not in self._windows:  # they are few
            is_day = "window_start" not in at
            self._windows[key] = self._times.day(key[0]) if is_day else self._times.window(*key)
        return self._windows[key]

    def _name(self, row: Any, what: str) -> str | None:
        at = self._at.get(what)
        if at is None:
            return None
        value = row[at]
        if value is None or value == "":
            return None
        text = value if isinstance(value, str) else str(value)
        renamed = self._columns.values.get(what)
        return renamed.get(text, text) if renamed else text

    def _fault(self, row: Any) -> str:
        """What is wrong with a row, after something was."""
        readers: dict[str, Callable[[Any], object]] = {
            **dict.fromkeys(FIGURES, octets), "amount": _micros,
            "amount_micros": _whole, "day": self._times.day, "window_start": self._times.instant,
            "window_end": self._times.instant,
        }  # fmt: skip
        columns = [(c, self._at[w], readers.get(w, str)) for w, c in self._columns.names.items()]
        sponsors = zip(self._columns.sponsors.values(), self._sponsors, strict=True)
        columns += [(column, at, _part) for column, (_, at) in sponsors]
        for column, at, reader in columns:
            try:
                reader(row[at])
            except ValueError as error:
                return f'column "{column}": {error}'
            except (LookupError, TypeError):
                return f'expected a column "{column}", found none'
        # Each column by itself is right.
        try:
            window = self._window(row)
            if self._has_usage:
                self._line(row, window)
            self._amount(row, window)
        except ValueError as error:
            return str(error)
        raise AssertionError(row)


def octets(value: Any) -> int:
    """A count. Raises ValueError."""
    number = _whole(value)
    if number < 0:
        raise ValueError(f'expected a whole number from 0 on, got "{value}"')
    return number


def _part(value: Any) -> int:
    """A sponsor's octets; nothing is none."""
    return 0 if value is None or value == "" else octets(value)


def _shares(value: Any, sponsor: str | None) -> dict[str, int]:
    """Octets by sponsor's identity, or those of one. Raises ValueError."""
    if isinstance(value, dict):
        return {identity: octets(part) for identity, part in value.items()}
    part = _part(value)
    if sponsor is None and part:
        raise ValueError(f'expected nothing where no sponsor is named, got "{value}"')
    return {} if sponsor is None else {sponsor: part}


def _whole(value: Any) -> int:
    number = value
    if isinstance(value, str):
        try:
            number = int(value)
        except ValueError:
            number = None
    if type(number) is not int or abs(number) > _NUMBER_MAX:
        raise ValueError(f'expected a whole number below 2^63, got "{value}"')
    return number


def _micros(value: Any) -> int:
    """Exact micro-units of an amount as people write it: "1.234567"."""
    try:
        micros = Decimal(str(value)) * 1_000_000
        if micros == int(micros):
            return _whole(int(micros))
    except (InvalidOperation, OverflowError):
        pass
    raise ValueError(
        f'expected an amount with at most six decimals as "1.234567", got "{value}"'
    )


def _currency(value: str | None) -> str:
    if value is None or not re.fullmatch("[A-Z]{3}", value):
        raise ValueError(f'expected a currency as "CNY", got "{value or ""}"')
    return value

