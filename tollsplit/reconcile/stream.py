"""JSON of any size, element by element."""

from __future__ import annotations

import json
from collections.abc import Iterator, Set
from typing import IO, Any

from ..errors import ReconcileError
from ..limits import RECONCILE_RECORD_CHARACTERS_MAX

_CHUNK_CHARACTERS = 1024 * 1024
_SPACE = " \t\n\r"


def elements(stream: IO[str], name: str, wanted: Set[str]) -> Iterator[tuple[str, Any]]:
    """Each element of the arrays at the wanted paths ("data.usage"), with its array's path, and
    each other member with its own. Elements of a top-level array, and objects that stand one
    after the other (JSON Lines), have the path "". Raises ReconcileError with the place.
    """
    text = _Text(stream, name)
    if text.next() == "[":
        yield from (("", value) for value in _array(text))
        text.expect("")
        return
    while text.next():
        yield from _outermost(text, wanted)


def _outermost(text: _Text, wanted: Set[str]) -> Iterator[tuple[str, Any]]:
    """A document with arrays in it, or an object that is an element itself."""
    held: dict[str, Any] = {}
    text.has_arrays = False
    for path, value in _object(text, wanted, ""):
        if text.has_arrays:
            yield from held.items()
            held.clear()
            yield path, value
        else:
            held[path] = value
    if text.has_arrays:
        yield from held.items()
    else:
        yield "", held


def _object(text: _Text, wanted: Set[str], prefix: str) -> Iterator[tuple[str, Any]]:
    text.expect("{")
    if text.next() == "}":
        text.expect("}")
        return
    while True:
        text.next()
        key = text.value()
        if not isinstance(key, str):
            raise text.error("expected a key")
        text.expect(":")
        path = f"{prefix}{key}"
        begins = text.next()
        if path in wanted and begins == "[":
            text.has_arrays = True
            yield from ((path, value) for value in _array(text))
        elif begins == "{" and any(p.startswith(f"{path}.") for p in wanted):
            yield from _object(text, wanted, f"{path}.")
        else:
            yield path, text.value()
        if text.next() != ",":
            text.expect("}")
            return
        text.expect(",")


def _array(text: _Text) -> Iterator[Any]:
    text.expect("[")
    if text.next() == "]":
        text.expect("]")
        return
    while True:
        text.next()
        yield text.value()
        if text.next() != ",":
            text.expect("]")
            return
        text.expect(",")


class _Text:
    """A window on the text; it moves on as it is read."""

    def __init__(self, stream: IO[str], name: str) -> None:
        self._stream = stream
        self._name = name
        self._decode = json.JSONDecoder().raw_decode
        self._buffer = ""
        self._at = 0
        self._passed = 0  # characters before the buffer
        self._ended = False
        self.has_arrays = False  # of those that are wanted; maybe empty ones

    def _more(self) -> None:
        self._passed += self._at
        try:
            chunk = self._stream.read(_CHUNK_CHARACTERS)
        except UnicodeDecodeError as error:
            raise ReconcileError(f"{self._name}: expected UTF-8 text: {error.reason}") from error
        self._buffer = self._buffer[self._at :] + chunk
        self._at = 0
        self._ended = not chunk

    def next(self) -> str:
        """The next character that is no space; "" at the end. It stays."""
        while True:
            buffer, at = self._buffer, self._at
            while at < len(buffer) and buffer[at] in _SPACE:
                at += 1
            self._at = at
            if at < len(buffer):
                return buffer[at]
            if self._ended:
                return ""
            self._more()

    def expect(self, char: str) -> None:
        """Pass over a character; "" is the end."""
        found = self.next()
        if found != char:
            raise self.error(f"expected {char or 'the end'}, got {found or 'the end'}")
        self._at += len(char)

    def value(self) -> Any:
        """The value that begins at the next character."""
        while True:
            try:
                value, end = self._decode(self._buffer, self._at)
            except json.JSONDecodeError as error:
                held = len(self._buffer) - self._at
                if self._ended or held > RECONCILE_RECORD_CHARACTERS_MAX:
                    self._at = error.pos
                    raise self.error(f"not valid JSON: {error.msg}") from error
            except (RecursionError, ValueError) as error:  # a number of 5,000 digits
                raise self.error("not valid JSON: nested too deeply or too long") from error
            else:
                if end < len(self._buffer) or self._ended:
                    self._at = end
                    return value
            self._more()

    def error(self, message: str) -> ReconcileError:
        place = self._passed + self._at
        return ReconcileError(f"{self._name}: at character {place:,}: {message}")
