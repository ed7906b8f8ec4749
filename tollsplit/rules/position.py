"""The line of every key and element of a TOML document, by its path.

tomllib alone says what a document means; it keeps no positions, and no well-kept library for
Python does. This index walks the words of a document that tomllib has already accepted, so it
needs to know strings, comments and brackets, and nothing of values.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator

Path = tuple[str | int, ...]

_WORD = re.compile(
    r"""
    (?P<skipped> [ \t]+ | \#[^\n]* )
  | (?P<string>  \"{3} (?: [^"\\] | \\. | \"{1,2}(?!\") )* \"{3,5}
               | '{3} (?: [^'] | '{1,2}(?!') )* '{3,5}
               | " (?: [^"\\\n] | \\. )* "
               | ' [^'\n]* ' )
  | (?P<mark>    [\[\]{},=\n] )
  | (?P<bare>    [^\s"'\#\[\]{},=]+ )
    """,
    re.VERBOSE | re.DOTALL,
)
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


class Positions:
    """Lines of a valid document's keys and elements; `line` answers for the nearest parent too."""

    def __init__(self, document: str) -> None:
        self._lines: dict[Path, int] = {(): 1}
        self._tables: dict[Path, int] = {}  # arrays of tables: how many so far
        self._words = self._scan(document.replace("\r\n", "\n"))
        self._word, self._line = "\n", 1
        self._document()

    def line(self, path: Path) -> int:
        """The line on which the thing at `path` begins."""
        while path not in self._lines:
            path = path[:-1]
        return self._lines[path]

    def paths(self) -> set[Path]:
        """Every path of the document."""
        return set(self._lines)

    @staticmethod
    def _scan(document: str) -> Iterator[tuple[str, int]]:
        line = 1
        for match in _WORD.finditer(document):
            word = match.group()
            if match.lastgroup != "skipped":
                yield word, line
            line += word.count("\n")

    def _next(self) -> str:
        self._word, self._line = next(self._words, ("", self._line))
        return self._word

    def _key(self, end: str) -> tuple[str, ...]:
        """The parts of the dotted key that ends before the word `end`, which is left current."""
        words = [self._word]
        while self._next() != end:
            words.append(self._word)
        text = "".join(words)
        if _BARE_KEY.fullmatch(text):
            return (text,)
        parts, table = [], tomllib.loads(f"{text}=0")
        while isinstance(table, dict):
            ((part, table),) = table.items()
            parts.append(part)
        return tuple(parts)

    def _note(self, table: Path, parts: tuple[str, ...], line: int) -> Path:
        """Record a key and the tables that its dots imply; an array means its last table."""
        path = table
        for part in parts:
            path = (*path, part)
            self._lines.setdefault(path, line)
            if path in self._tables:
                path = (*path, self._tables[path] - 1)
        return path

    def _document(self) -> None:
        table: Path = ()
        while self._next():
            if self._word == "\n":
                continue
            line = self._line
            if self._word == "[":
                table = self._header(line)
            else:
                self._pair(table)

    def _header(self, line: int) -> Path:
        is_array = self._next() == "["
        if is_array:
            self._next()
        *parents, last = self._key("]")
        if is_array:
            self._next()
        path = (*self._note((), tuple(parents), line), last)
        self._lines.setdefault(path, line)
        if is_array:
            index = self._tables.get(path, 0)
            self._tables[path] = index + 1
            path = (*path, index)
            self._lines[path] = line
        return path

    def _pair(self, table: Path) -> None:
        line = self._line
        path = self._note(table, self._key("="), line)
        self._lines[path] = line
        self._next()
        self._value(path)

    def _value(self, path: Path) -> None:
        """Walk one value; the word behind it is left current."""
        if self._word == "[":
            index = 0
            while self._next() != "]":
                while self._word not in ("]", ",", "\n"):
                    self._lines[(*path, index)] = self._line
                    self._value((*path, index))
                    index += 1
                if self._word == "]":
                    break
            self._next()
        elif self._word == "{":
            while self._next() != "}":
                while self._word not in ("}", ",", "\n"):
                    self._pair(path)
                if self._word == "}":
                    break
            self._next()
        else:
            while self._word not in (",", "]", "}", "\n", ""):
                self._next()
