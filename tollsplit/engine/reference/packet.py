"""One IP packet of a nest of them, and how a walk to it can end."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import dpkt

from tollsplit.rules.rule import Prefix

# As in layout.pxd: tests compare the numbers.
COALESCED, MISMATCH, PARTIAL, TRUSTED, FRAGMENT, LATER_FRAGMENT = 1, 2, 4, 8, 16, 32


class Cut(Exception):
    """The capture ends inside a header that was on the wire."""


class Nonsense(Exception):
    """What was on the wire contradicts itself; the argument is the kind of fault."""


class NonIp(Exception):
    """A chain of headers that leads to no IP packet."""


class Control(Exception):
    """A tunnel's own message, carried by the last IP packet met."""


class Datagram(NamedTuple):
    """Where in its datagram a fragment lies, in octets."""

    identification: int
    first: int
    end: int
    more: bool


class Segment(NamedTuple):
    """What a TCP packet brings of its direction's octets."""

    sequence: int  # of its header
    captured: bytes
    octets: int  # how many it had on the wire
    piece: int = 0  # octets of each that it was made of; 0: it is one


@dataclass
class Packet:
    """One IP packet of a nest. Positions are offsets into the frame."""

    start: int
    version: int
    source: int
    destination: int
    protocol: int
    octets: int  # its length by its own header
    wire_end: int  # what of it was on the wire ends here
    transport: int  # where the transport header starts
    dscp: int
    ttl: int
    flow_label: int
    flags: int
    source_port: int = 0
    destination_port: int = 0
    ported: bool = False
    tcp_flags: int = 0
    sequence: int = 0  # TCP's
    payload_octets: int = 0
    payload_at: int = 0  # where the transport payload starts; 0: not known
    jumbo_octets: int = 0  # of a header that only a jumbogram has
    datagram: Datagram | None = None  # None: no fragment


def fields(header: Any, octets: bytes) -> Any:
    """dpkt's decoding of one fixed header, without what it thinks of the rest."""
    packet = header.__new__(header)
    dpkt.Packet.unpack(packet, octets)
    return packet


def inside(version: int, address: int, prefixes: Iterable[Prefix]) -> bool:
    """Whether an address lies in one of some prefixes."""
    bits = 32 if version == 4 else 128
    return any(
        p.version == version and address >> (bits - p.length) == p.value >> (bits - p.length)
        for p in prefixes
    )
