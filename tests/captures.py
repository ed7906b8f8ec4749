"""Captures built by hand, piece by piece, from the formats' own words."""

from __future__ import annotations

import struct
from dataclasses import dataclass

Frame = tuple[bytes, int, int, int, int, int]  # as Reader.frames gives it

MICROSECONDS = 0xA1B2C3D4
NANOSECONDS = 0xA1B23C4D
MODIFIED = 0xA1B2CD34


@dataclass(frozen=True)
class Piece:
    """A file header, a record or a block, and the frame that it holds."""

    octets: bytes
    frame: Frame | None = None


def octets_of(pieces: list[Piece]) -> bytes:
    return b"".join(piece.octets for piece in pieces)


def frames_of(pieces: list[Piece]) -> list[Frame]:
    return [piece.frame for piece in pieces if piece.frame is not None]


def pcap_header(
    order: str = "<",
    magic: int = MICROSECONDS,
    snap: int = 65535,
    link: int = 1,
    version: tuple[int, int] = (2, 4),
) -> Piece:
    return Piece(struct.pack(order + "IHHiIII", magic, *version, 0, 0, snap, link))


def record(
    order: str,
    magic: int,
    seconds: int,
    fraction: int,
    octets: bytes,
    original: int | None = None,
    link: int = 1,
) -> Piece:
    """A pcap record; what it should be read as is worked out from the format's words."""
    wire = len(octets) if original is None else original
    head = struct.pack(order + "IIII", seconds, fraction, len(octets), wire)
    if magic == MODIFIED:
        head += struct.pack(order + "IHBx", 7, 0x0800, 4)
    scale = 1 if magic == NANOSECONDS else 1000
    held = octets[:wire] if wire else octets
    time = seconds * 1_000_000_000 + fraction * scale
    return Piece(head + octets, (held, time, wire, link, 0, 0))


def pcap(order: str, magic: int, link: int = 1) -> list[Piece]:
    """A small capture: plain, cut by a snap length, empty, odd in length, late in the day."""
    return [
        pcap_header(order, magic, link=link),
        record(order, magic, 1_700_000_000, 999_999, bytes(range(60)), link=link),
        record(order, magic, 1_700_000_000, 5, bytes(range(7)), 1500, link=link),
        record(order, magic, 1_700_000_001, 0, b"", link=link),
        record(order, magic, 0xFFFFFFFF, 999_999, b"odd", link=link),
    ]


def padded(octets: bytes) -> bytes:
    return octets + bytes(-len(octets) % 4)


def block(order: str, kind: int, body: bytes) -> bytes:
    length = 12 + len(padded(body))
    return struct.pack(order + "II", kind, length) + padded(body) + struct.pack(order + "I", length)


def section(order: str, options: bytes = b"") -> Piece:
    head = struct.pack(order + "IHHq", 0x1A2B3C4D, 1, 0, -1)
    return Piece(block(order, 0x0A0D0D0A, head + options))


def option(order: str, code: int, value: bytes) -> bytes:
    return struct.pack(order + "HH", code, len(value)) + padded(value)


def interface(order: str, link: int = 1, snap: int = 65535, options: bytes = b"") -> Piece:
    return Piece(block(order, 1, struct.pack(order + "HHI", link, 0, snap) + options))


def enhanced(
    order: str,
    number: int,
    ticks: int,
    octets: bytes,
    frame: Frame | None = None,
    original: int | None = None,
    options: bytes = b"",
) -> Piece:
    wire = len(octets) if original is None else original
    head = struct.pack(order + "IIIII", number, ticks >> 32, ticks & 0xFFFFFFFF, len(octets), wire)
    return Piece(block(order, 6, head + padded(octets) + options), frame)


def pcapng(order: str = "<", other: str = ">") -> list[Piece]:
    """Every kind of block, in two sections of different byte order."""
    comment = option(order, 1, b"by hand") + option(order, 0, b"")
    names = option(order, 2, b"eth0\0") + option(order, 9, b"\x09") + option(order, 0, b"")
    late = option(other, 9, b"\x83") + option(other, 14, struct.pack(other + "q", 1_000))
    thirteen = bytes(range(13))
    return [
        section(order, comment),
        interface(order, 1, 10, names),
        interface(order, 12),
        enhanced(order, 0, 1_700_000_000_123_456_789, b"0123456789", original=1500, frame=(
            b"0123456789", 1_700_000_000_123_456_789, 1500, 1, 3, 0), options=comment),
        enhanced(order, 1, 1_700_000_000_123_456, thirteen, frame=(
            thirteen, 1_700_000_000_123_456_000, 13, 101, 9, 0)),
        Piece(block(order, 3, struct.pack(order + "I", 60) + b"simple, ten"[:10]),
              (b"simple, te", 0, 60, 1, 3, 0)),
        Piece(block(order, 3, struct.pack(order + "I", 3) + b"abc"), (b"abc", 0, 3, 1, 3, 0)),
        Piece(block(order, 2, struct.pack(order + "HHIIII", 1, 5, 0, 77, 4, 4) + b"oldy"),
              (b"oldy", 77_000, 4, 101, 9, 0)),
        Piece(block(order, 4, b"\0\0\0\0")),  # name resolution
        Piece(block(order, 5, bytes(12))),  # interface statistics
        Piece(block(order, 10, bytes(8))),  # decryption secrets
        Piece(block(order, 9, b"__REALTIME_TIMESTAMP=1")),  # systemd journal
        Piece(block(order, 0xBAD, bytes(8))),  # custom
        Piece(block(order, 0x40000BAD, bytes(4))),
        Piece(block(order, 0x80001234, b"")),  # for local use
        section(other),
        interface(other, 113, 0, late),
        enhanced(other, 0, 17, b"cooked", frame=(b"cooked", 1_002_125_000_000, 6, 113, 9, 0)),
        Piece(block(other, 3, struct.pack(other + "I", 5) + b"whole"), (b"whole", 0, 5, 113, 9, 0)),
    ]


INGRESSES = {"eth0": 3, "*": 9}


def with_ingress(pieces: list[Piece], ingress: int) -> list[Piece]:
    return [Piece(piece.octets, piece.frame and (*piece.frame[:4], ingress, 0)) for piece in pieces]


CAPTURES: dict[str, list[Piece]] = {
    f"pcap {name} {order_name}": with_ingress(pcap(order, magic), 9)
    for name, magic in (("µs", MICROSECONDS), ("ns", NANOSECONDS), ("modified", MODIFIED))
    for order_name, order in (("little-endian", "<"), ("big-endian", ">"))
} | {
    "pcapng little-endian first": pcapng("<", ">"),
    "pcapng big-endian first": pcapng(">", "<"),
}
