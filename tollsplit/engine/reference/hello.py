"""The server's name in a TLS ClientHello: the slow counterpart of the core's reader."""

from __future__ import annotations

from dataclasses import dataclass

SERVER_NAME, ENCRYPTED = 0, 0xFE0D


class More(Exception):
    """What there is may be the beginning of a hello."""


@dataclass(frozen=True)
class Hello:
    """What a hello says; the name is empty where it has none."""

    name: bytes = b""
    encrypted: bool = False


class Octets:
    """Octets that are taken from the front; Broken where there are too few."""

    def __init__(self, octets: bytes) -> None:
        self.left = octets

    def take(self, count: int) -> bytes:
        if count > len(self.left):
            raise ValueError("too short")
        taken, self.left = self.left[:count], self.left[count:]
        return taken

    def number(self, width: int) -> int:
        return int.from_bytes(self.take(width), "big")

    def vector(self, width: int) -> Octets:
        return Octets(self.take(self.number(width)))


def read(stream: bytes) -> Hello | None:
    """The hello that a connection's first octets are; None: they are none. Raises More."""
    message = b""
    while True:
        if not b"\x16\x03".startswith(stream[:2]):
            return None
        if len(stream) < 5:
            raise More
        octets = int.from_bytes(stream[3:5], "big")
        message += stream[5 : 5 + octets]
        if message[:1] not in (b"", b"\x01"):
            return None
        try:
            return of_message(message)
        except More:
            pass
        if len(stream) <= 5 + octets:
            raise More
        stream = stream[5 + octets :]


def of_message(message: bytes) -> Hello | None:
    """The hello that a handshake's first octets are; None: they are none. Raises More."""
    if message[:1] not in (b"", b"\x01"):
        return None
    octets = int.from_bytes(message[1:4], "big")
    if len(message) < 4 or len(message) < 4 + octets:
        raise More
    try:
        return extensions(Octets(message[4 : 4 + octets]))
    except ValueError:
        return None


def extensions(body: Octets) -> Hello:
    """What a whole ClientHello's extensions say; of several names none. Raises ValueError."""
    body.take(34)  # version and random
    body.vector(1)
    body.vector(2)
    body.vector(1)
    names, encrypted = [], False
    held = body.vector(2) if body.left else body
    while held.left:
        kind, content = held.number(2), held.vector(2)
        if kind == ENCRYPTED:
            encrypted = True
        if kind == SERVER_NAME:
            entries = content.vector(2)
            while entries.left:
                kind, entry = entries.number(1), entries.vector(2).left
                names.append(entry if kind == 0 else b"")
    return Hello(names[0] if len(names) == 1 else b"", encrypted)
