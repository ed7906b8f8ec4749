"""IPFIX messages: templates and data records in sets (RFC 7011 §3)."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import NamedTuple

from .element import ENCODERS, Element

VERSION = 10
TEMPLATE_SET = 2
OPTIONS_TEMPLATE_SET = 3
DATA_SET_MIN = 256  # from here on a set's number is its template's
HEADER = struct.Struct(">HHIII")  # version, length, export time, sequence, observation domain
SET_HEADER = struct.Struct(">HH")  # what it holds, its length with this header
# A message says its length in 16 bits.
OCTETS_MAX = 65_535


class Template(NamedTuple):
    """What the records of one kind hold, in order.

    scopes   how many of the fields say what the others are about; 0: the records are flows
    """

    number: int
    fields: tuple[Element, ...]
    scopes: int = 0

    @property
    def definition(self) -> bytes:
        """As a template record."""
        scopes = struct.pack(">H", self.scopes) if self.scopes else b""
        head = struct.pack(">HH", self.number, len(self.fields)) + scopes
        return head + b"".join(element.specifier for element in self.fields)

    def record(self, values: Sequence[object]) -> bytes:
        """Values of the fields as a data record."""
        return b"".join(ENCODERS[element.type][1](value)
                        for element, value in zip(self.fields, values, strict=True))


class Body(NamedTuple):
    """A message without its header."""

    octets: bytes
    records: int  # data records, which sequence numbers count


class Stream:
    """Gives messages their headers, in one observation domain over one transport session.

    now_s   seconds since 1970-01-01 UTC

    A message's sequence number is how many data records went before it in the session.
    """

    def __init__(self, domain: int, now_s: Callable[[], float]) -> None:
        self._domain = domain
        self._now_s = now_s
        self._records = 0

    def message(self, body: Body) -> bytes:
        """The next message, whole; `sent` makes it one that went before."""
        return HEADER.pack(
            VERSION, HEADER.size + len(body.octets), int(self._now_s()) & 0xFFFFFFFF,
            self._records & 0xFFFFFFFF, self._domain) + body.octets

    def sent(self, body: Body) -> None:
        self._records += body.records

    def restart(self) -> None:
        """Begin another session."""
        self._records = 0


class Packer:
    """Puts templates and data records into as few bodies as they need.

    octets_max   of a message, header and all
    send         is given each body when it is full, and at flush()
    """

    def __init__(self, octets_max: int, send: Callable[[Body], None]) -> None:
        self._room = octets_max - HEADER.size
        self._send = send
        self._sets: list[tuple[int, list[bytes]]] = []
        self._octets = 0
        self._records = 0

    def define(self, template: Template) -> None:
        """Say what the records of a template hold; it has to come before the first of them."""
        self._add(OPTIONS_TEMPLATE_SET if template.scopes else TEMPLATE_SET, template.definition)

    def add(self, *records: tuple[Template, Sequence[object]]) -> bool:
        """Add data records that belong together, as templates and values.

        Returns False where one is too long for a message; then none is added.
        """
        entries = [(template.number, template.record(values)) for template, values in records]
        if any(SET_HEADER.size + len(octets) > self._room for _, octets in entries):
            return False
        for number, octets in entries:
            self._add(number, octets)
        return True

    def _add(self, number: int, octets: bytes) -> None:
        opens = not self._sets or self._sets[-1][0] != number
        if self._octets + len(octets) + opens * SET_HEADER.size > self._room:
            self.flush()
            opens = True
        if opens:
            self._sets.append((number, []))
            self._octets += SET_HEADER.size
        self._sets[-1][1].append(octets)
        self._octets += len(octets)
        self._records += number >= DATA_SET_MIN

    def flush(self) -> None:
        """Send what there is."""
        if not self._sets:
            return
        body = Body(b"".join(_set(number, records) for number, records in self._sets),
                    self._records)
        self._sets, self._octets, self._records = [], 0, 0
        self._send(body)


def _set(number: int, records: Sequence[bytes]) -> bytes:
    octets = b"".join(records)
    return SET_HEADER.pack(number, SET_HEADER.size + len(octets)) + octets
