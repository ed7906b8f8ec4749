"""A rules file as tables that are read key by key, every fault noted with its line."""

from __future__ import annotations

import hashlib
import os
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

from tollsplit.errors import RulesError
from tollsplit.limits import FINDINGS_MAX
from tollsplit.rules.position import Path as KeyPath
from tollsplit.rules.position import Positions
from tollsplit.rules.units import expected, listed, nearest, shown

T = TypeVar("T")
D = TypeVar("D")


class Document:
    """A rules file, the files it names, and all that was found wrong or odd in them.

    content   what they hold, by name, "" for the rules file itself; None: it is read from disk
    """

    def __init__(
        self, path: str | os.PathLike[str], content: Mapping[str, bytes] | None = None
    ) -> None:
        self.name = os.fspath(path)
        self._given = content
        self.errors: list[tuple[str, int, str]] = []
        self.warnings: list[tuple[int, str]] = []
        self._files: dict[str, bytes] = {}
        try:
            self._content = self._read("")
        except (OSError, ValueError) as error:
            raise RulesError(f"{self.name}: cannot be read: {_cause(error)}") from None
        values, self.positions = self._parsed()
        self.root = Table(self, (), values, "")

    def _parsed(self) -> tuple[dict[str, object], Positions]:
        try:
            text = self._content.decode("utf-8-sig")
            return tomllib.loads(text), Positions(text)
        except UnicodeDecodeError as error:
            line = self._content.count(b"\n", 0, error.start) + 1
            message = f"expected UTF-8 text, got the octet {self._content[error.start]:#04x}"
        except tomllib.TOMLDecodeError as error:
            cause = str(error)
            place = re.search(r" \(at line (\d+), column (\d+)\)$", cause)
            # Without a place it is the end of the document.
            line = int(place[1]) if place else self._content.rstrip().count(b"\n") + 1
            column = f" (column {place[2]})" if place else " (at the end)"
            message = f"not valid TOML: {cause.rsplit(' (at ', 1)[0]}{column}"
        except (RecursionError, ValueError) as error:  # an integer of 5,000 digits
            cause = "nested too deeply" if isinstance(error, RecursionError) else str(error)
            line, message = 1, f"not valid TOML: {cause}"
        raise RulesError(f"{self.name}:{line}: {message}")

    def _read(self, name: str) -> bytes:
        if self._given is None:
            return (Path(self.name).parent / name if name else Path(self.name)).read_bytes()
        if name not in self._given:
            raise ValueError("it is not among what was handed over with the rules")
        return self._given[name]

    @property
    def content(self) -> dict[str, bytes]:
        """All that was read: the rules file under "", the files that it names as it names them."""
        return {"": self._content, **self._files}

    def read(self, name: str) -> bytes:
        """The content of a file that the rules name, relative to them. Raises ValueError."""
        if name not in self._files:
            try:
                self._files[name] = self._read(name)
            except (OSError, ValueError) as error:
                raise ValueError(f"{shown(name)} cannot be read: {_cause(error)}") from None
        return self._files[name]

    def beside(self, name: str) -> str:
        """The name of such a file as messages give it."""
        return str(Path(self.name).parent / name)

    @property
    def version(self) -> str:
        """SHA-256 over the rules and the files that they name, each with its name and length."""
        digest = hashlib.sha256()
        # The rules come first and without a name: to move or rename them changes nothing.
        for name, content in sorted(self.content.items()):
            encoded = name.encode()
            digest.update(b"%d:%s%d:" % (len(encoded), encoded, len(content)))
            digest.update(content)
        return f"sha256:{digest.hexdigest()}"

    def finish(self) -> tuple[str, ...]:
        """The warnings in order of their lines. Raises RulesError when there are errors."""
        if self.errors:
            # Stable: what one line got wrong stays in order of discovery.
            ordered = sorted(self.errors, key=lambda e: (e[0] != self.name, e[0], e[1]))
            messages = list(dict.fromkeys(f"{f}:{n}: {text}" for f, n, text in ordered))
            if len(messages) > FINDINGS_MAX:
                rest = len(messages) - FINDINGS_MAX
                messages[FINDINGS_MAX:] = [f"{self.name}: and {rest:,} more errors"]
            raise RulesError("\n".join(messages))
        ordered_warnings = sorted(self.warnings, key=lambda w: w[0])
        return tuple(f"{self.name}:{line}: {text}" for line, text in ordered_warnings)


def _cause(error: OSError | ValueError) -> str:
    """Why a file cannot be read, without the path that the message has already."""
    return (isinstance(error, OSError) and error.strerror) or str(error)


class Table:
    """One table of the document. A key that nobody asked for is an error when it is closed.

    Readers raise ValueError; that becomes an error at the key's line, the fallback is returned,
    and reading goes on: a run tells all faults at once.
    """

    def __init__(
        self, document: Document, path: KeyPath, values: dict[str, object], label: str
    ) -> None:
        self.document = document
        self.label = label  # what messages call it: 'rule "video"'
        self._path = path
        self._values = values
        self._asked: dict[str, None] = {}

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def line(self, *key: str | int) -> int:
        """The line of a key, of an element of its array, or of the table itself."""
        return self.document.positions.line((*self._path, *key))

    def error(self, message: str, *key: str | int) -> None:
        """Note a fault of the table or of one of its keys."""
        where = [self.label] if self.label else []
        where += [f"key {shown(key[0])}"] if key else []
        text = ": ".join([*where, message])
        self.document.errors.append((self.document.name, self.line(*key), text))

    def warn(self, message: str, *key: str | int) -> None:
        text = f"{self.label}: {message}" if self.label else message
        self.document.warnings.append((self.line(*key), text))

    def _value(self, key: str) -> object:
        self._asked[key] = None
        return self._values.get(key)

    def read(self, key: str, reader: Callable[[object], T], fallback: D) -> T | D:
        """The key's value through `reader`; the fallback where it is absent or wrong."""
        value = self._value(key)
        if value is None:
            return fallback
        try:
            return reader(value)
        except ValueError as error:
            self.error(str(error), key)
            return fallback

    def require(self, key: str, reader: Callable[[object], T], fallback: D) -> T | D:
        """As `read`, but an absent key is an error."""
        if key not in self._values:
            self._asked[key] = None
            self.error(f"key {shown(key)} is missing")
        return self.read(key, reader, fallback)

    def several(
        self, key: str, reader: Callable[[object], T], may_be_empty: bool = False
    ) -> tuple[T, ...] | None:
        """The values of an array, or the single value; None where the key is absent."""
        value = self._value(key)
        if value is None:
            return None
        found: list[T] = []
        items = value if isinstance(value, list) else [value]
        if not items and not may_be_empty:
            self.error("expected at least one, got an empty array", key)
        for index, item in enumerate(items):
            try:
                found.append(reader(item))
            except ValueError as error:
                self.error(str(error), key, index)
        return tuple(found)

    def table(self, key: str, label: str) -> Table:
        """The table below a key; an empty one where the key is absent or no table."""
        value = self._value(key)
        if not isinstance(value, dict | None):
            self.error(str(expected("a table", value)), key)
        return self._below((key,), value, label)

    def tables(self, key: str, label: Callable[[int, Table], str]) -> list[Table]:
        """The tables of an array, or the single table, each with its label by number."""
        value = self._value(key)
        items = [] if value is None else value if isinstance(value, list) else [value]
        found = []
        for index, item in enumerate(items):
            path = (key, index) if isinstance(value, list) else (key,)
            if not isinstance(item, dict):
                self.error(str(expected("a table", item)), *path)
                continue
            table = self._below(path, item, "")
            table.label = label(index + 1, table)
            found.append(table)
        return found

    def entries(self, key: str, kind: str) -> Iterator[tuple[str, Table]]:
        """The named tables below a key: [sponsors.NAME]."""
        parent = self.table(key, key)
        for name in parent:
            if not name.strip():
                parent.error("expected a name, got an empty one", name)
            yield name, parent.table(name, f"{kind} {shown(name)}")

    def peek(self, key: str) -> object:
        """The value as it stands; the key still has to be read."""
        return self._values.get(key)

    def _below(self, path: KeyPath, value: object, label: str) -> Table:
        values = value if isinstance(value, dict) else {}
        return Table(self.document, (*self._path, *path), values, label)

    def close(self) -> None:
        """Note every key that was never asked for."""
        for key in self._values:
            if key not in self._asked:
                remedy = nearest(key, self._asked) or f"; expected {listed(self._asked)}"
                where = f"{self.label}: " if self.label else ""
                text = f"{where}unknown key {shown(key)}{remedy}"
                self.document.errors.append((self.document.name, self.line(key), text))
