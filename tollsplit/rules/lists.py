"""Lists of prefixes, names and marks: in the rules file, or in files that it names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import PurePath

from tollsplit import limits
from tollsplit.rules import units
from tollsplit.rules.document import Document, Table
from tollsplit.rules.marks import Marks, read_marks
from tollsplit.rules.names import name, read_names
from tollsplit.rules.prefixes import Finding, prefix, read_prefixes
from tollsplit.rules.rule import Prefix


class Lists:
    """Reads lists; a file that several rules name is read once."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._prefixes: dict[str, tuple[Prefix, ...]] = {}
        self._names: dict[str, tuple[str, ...]] = {}
        self._counts = {"prefixes": 0, "names": 0}

    def prefixes(
        self, table: Table, key: str, may_be_empty: bool = False
    ) -> tuple[Prefix, ...] | None:
        """The prefixes of an array, or those of the file that a string names."""
        if isinstance(table.peek(key), str):
            found = table.read(key, self._prefix_file, ())
        else:
            several = table.several(key, prefix, may_be_empty)
            if several is None:
                return None
            found = tuple(dict.fromkeys(several))
        self._counts["prefixes"] += len(found)
        return found

    def names(self, table: Table, key: str) -> tuple[str, ...] | None:
        """The names of an array, or those of the file that a string names."""
        if isinstance(table.peek(key), str):
            found = table.read(key, self._name_file, ())
        else:
            several = table.several(key, name)
            if several is None:
                return None
            found = tuple(dict.fromkeys(several))
        self._counts["names"] += len(found)
        return found

    def marks(self, table: Table) -> Marks | None:
        """What a file of marks says instead of "server" and a tag."""
        marks = table.read("marks", self._marks_file, None)
        for key in Marks._fields if "marks" in table else ():
            if key in table:
                table.error(f'"marks" names the {key} too; leave one of them out', key)
        self._counts["prefixes"] += len(marks.server) if marks else 0
        return marks

    def check_counts(self, root: Table) -> None:
        """Note what there is too much of."""
        for kind, most in (("prefixes", limits.PREFIXES_MAX), ("names", limits.NAMES_MAX)):
            if self._counts[kind] > most:
                root.error(f"expected at most {most:,} {kind}, got {self._counts[kind]:,}")

    def note(self, name: str, findings: list[Finding]) -> None:
        """Note what is wrong with a file."""
        file = self._document.beside(name)
        self._document.errors += [(file, line, message) for line, message in findings]

    def _prefix_file(self, value: object) -> tuple[Prefix, ...]:
        path = units.string(value)
        if path not in self._prefixes:
            content = self._content(path, _address_remedy)
            self._prefixes[path], findings = read_prefixes(content)
            self.note(path, findings)
        return self._prefixes[path]

    def _name_file(self, value: object) -> tuple[str, ...]:
        path = units.string(value)
        if path not in self._names:
            content = self._content(path, _name_remedy)
            self._names[path], findings = read_names(content)
            self.note(path, findings)
        return self._names[path]

    def _marks_file(self, value: object) -> Marks:
        path = units.string(value)
        marks, findings = read_marks(self._document.read(path))
        self.note(path, findings)
        return marks

    def _content(self, path: str, remedy: Callable[[str], str]) -> bytes:
        try:
            return self._document.read(path)
        except ValueError as error:
            raise ValueError(f"{error}{remedy(path)}") from None


def _address_remedy(path: str) -> str:
    """A string is a file's name; an address was meant as a list."""
    try:
        prefix(path)
    except ValueError as error:
        if "did you mean" not in str(error):
            return ""
    return f'; prefixes stand in brackets: ["{PurePath(path)}"]'


def _name_remedy(path: str) -> str:
    try:
        name(path)
    except ValueError:
        return ""
    return f'; names stand in brackets: ["{path}"]'
