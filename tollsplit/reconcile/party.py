"""Where a party's records are: a document or CSV of tollsplit's, a ledger, an operator's file."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from typing import IO, Any

from ..errors import LedgerError, ReconcileError, UsageError
from .columns import CHARGES, SPONSOR, USAGE, Columns, load_columns
from .line import Amount, Line, Party
from .rows import Rows
from .stream import elements
from .times import nanoseconds

SCHEMA = "tollsplit.account/1"
_OURS = frozenset({"usage", "charges"})
# Where records are in a document that no mapping describes.
_THEIRS = frozenset({"usage", "records"})
_SNIFFED = 4096  # characters; more than blanks before a document
_GUARDED = ("'=", "'+", "'-", "'@", "'\t", "'\r")


def open_party(name: str, mapping: str | None = None) -> Party:
    """A party by the URL of its ledger or the path of its file.

    mapping  the file that says which column means what; None: it shows by their names

    Raises ReconcileError, RulesError (of the mapping), UsageError.
    """
    if "://" in name:
        if mapping is not None:
            raise UsageError(f"{name}: a ledger needs no mapping of columns")
        return LedgerParty(name)
    columns = Columns() if mapping is None else load_columns(mapping)
    with _reading(name) as stream:
        begins = stream.read(_SNIFFED).lstrip()[:1]
    if not begins:
        raise ReconcileError(f"{name}: empty; expected usage records as JSON or CSV")
    if begins not in "{[":
        return CsvParty(name, columns)
    if mapping is None and _is_ours(name):
        return DocumentParty(name)
    return JsonParty(name, columns)


@contextmanager
def _reading(name: str) -> Iterator[IO[str]]:
    try:
        with open(name, encoding="utf-8-sig", newline="") as stream:
            yield stream
    except OSError as error:
        raise ReconcileError(f"{name}: cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise ReconcileError(f"{name}: expected UTF-8 text: {error.reason}") from None


def _is_ours(name: str) -> bool:
    """Whether a JSON file is a document of tollsplit's. Raises ReconcileError where it is one of
    another kind.
    """
    with _reading(name) as stream:
        for path, value in elements(stream, name, _OURS):
            if path == "" and isinstance(value, dict) and "schema" in value:
                path, value = "schema", value["schema"]
            if path == "schema":
                if value != SCHEMA:
                    raise ReconcileError(f'{name}: expected schema "{SCHEMA}", got "{value}"')
                return True
            if path in ("", *_OURS):
                break
    return False


class DocumentParty:
    """What `tollsplit account --format json` wrote."""

    states = USAGE.states
    sponsors: frozenset[str] | None = None

    def __init__(self, name: str) -> None:
        self.name = name
        self.layers: frozenset[str] = frozenset()

    def lines(self) -> Iterator[Line | Amount]:
        rows = {"usage": Rows(USAGE, str), "charges": Rows(CHARGES, str)}
        number = dict.fromkeys(rows, 0)
        with _reading(self.name) as stream:
            for path, entry in elements(stream, self.name, _OURS):
                if path in rows:
                    number[path] += 1
                    yield from rows[path].read(entry, f"{self.name}: {path} {number[path]}")
                elif path == "layer":
                    self.layers = frozenset({str(entry)})


class JsonParty:
    """An operator's JSON: an array of records, alone or in a document, or a record a line."""

    layers: frozenset[str] = frozenset()

    def __init__(self, name: str, columns: Columns) -> None:
        self.name = name
        self._wanted = frozenset({columns.records}) if columns.records else _THEIRS
        first: Any = next(self._records(), None)
        if not isinstance(first, dict):
            raise ReconcileError(
                f"{name}: no records found; say where they are in a mapping file (--map): "
                'records = "path.to.array"'
            )
        self._columns = columns.of(first, name)
        self.states = self._columns.states
        self.sponsors = _sponsors(self._columns)

    def _records(self) -> Iterator[Any]:
        with _reading(self.name) as stream:
            for path, value in elements(stream, self.name, self._wanted):
                if path == "" or path in self._wanted:
                    yield value

    def lines(self) -> Iterator[Line | Amount]:
        rows = Rows(self._columns, str)
        for number, record in enumerate(self._records(), 1):
            yield from rows.read(record, f"{self.name}: record {number}")


class CsvParty:
    """A CSV file with a header; what `tollsplit account --format csv` wrote, or an operator's."""

    layers: frozenset[str] = frozenset()

    def __init__(self, name: str, columns: Columns) -> None:
        self.name = name
        with _reading(name) as stream:
            top = stream.readline()
        self._delimiter = columns.delimiter or max(",;\t|", key=top.count)
        self._header = next(self._rows())[1]
        if self._header[0] == "line" and not columns.names:  # of usage, buckets and charges
            sponsors = {c.removeprefix(SPONSOR): c for c in self._header if c.startswith(SPONSOR)}
            names = {what: c for what, c in USAGE.names.items() if what != "sponsor_octets"}
            self._kinds = {"usage": replace(USAGE, names=names, sponsors=sponsors),
                           "charge": CHARGES}
            for kind in self._kinds.values():
                kind.of(self._header, name)
            self.states = USAGE.states
            self.sponsors: frozenset[str] | None = None
        else:
            found = columns.of(self._header, name)
            self._kinds = {"": found}
            self.states = found.states
            self.sponsors = _sponsors(found)

    def _rows(self) -> Iterator[tuple[int, list[str]]]:
        """Each row that is not empty, with its line."""
        with _reading(self.name) as stream:
            reader = csv.reader(stream, delimiter=self._delimiter, strict=True)
            try:
                for row in reader:
                    if row:
                        yield reader.line_num, row
            except csv.Error as error:
                raise ReconcileError(f"{self.name}: line {reader.line_num}: {error}") from None

    def lines(self) -> Iterator[Line | Amount]:
        rows = {kind: Rows(columns, self._header.index) for kind, columns in self._kinds.items()}
        ours = "" not in rows
        width = len(self._header)
        records = self._rows()
        next(records)
        for number, row in records:
            if len(row) != width:
                raise ReconcileError(
                    f"{self.name}: line {number}: expected {width} cells, got {len(row)}"
                )
            if not ours:
                yield from rows[""].read(row, f"{self.name}: line {number}")
            elif row[0] in rows:
                cells = [cell[1:] if cell.startswith(_GUARDED) else cell for cell in row]
                yield from rows[row[0]].read(cells, f"{self.name}: line {number}")


def _sponsors(columns: Columns) -> frozenset[str] | None:
    return frozenset(columns.sponsors) if columns.sponsors else None


class LedgerParty:
    """The usage and charges in a ledger that no reversal took back."""

    states = USAGE.states
    sponsors: frozenset[str] | None = None

    def __init__(self, url: str) -> None:
        from ..ledger import open_ledger

        self.name = re.sub(r"(://[^:/@]*):[^@]*@", r"\1@", url)  # no password into a message
        self.layers: frozenset[str] = frozenset()
        try:
            self._book = open_ledger(url, create=False)
        except LedgerError as error:
            raise ReconcileError(str(error)) from error

    def lines(self) -> Iterator[Line | Amount]:
        ns = cache(lambda instant: None if instant is None else nanoseconds(instant))
        with self._book, self._book.journal() as journal:
            self.layers = frozenset(journal.layers())
            for record in journal.usage(standing=True):
                yield Line(
                    ns(record.window_start), ns(record.window_end), record.subscriber,
                    record.account, record.rule, record.rating_group, record.uplink_packets,
                    record.uplink_octets, record.downlink_packets, record.downlink_octets, None,
                    None, record.subscriber_octets, record.sponsor_identity,
                    record.sponsor_octets,
                )  # fmt: skip
            for booked in journal.charges(standing=True):
                charge = booked.charge
                yield Amount(
                    ns(charge.period_start), charge.account, charge.currency, charge.amount_micros
                )
