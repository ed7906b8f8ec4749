"""ClientHellos, from the wire's own words or from OpenSSL."""

from __future__ import annotations

import ssl
import struct

NAME, ENCRYPTED, TOKEN = 0, 0xFE0D, 0xFF70
Extension = tuple[int, bytes]


def vector(width: int, octets: bytes) -> bytes:
    return len(octets).to_bytes(width, "big") + octets


def names(*hosts: bytes, kind: int = 0) -> bytes:
    """What a server_name extension holds."""
    return vector(2, b"".join(bytes([kind]) + vector(2, host) for host in hosts))


def named(host: bytes) -> Extension:
    return (NAME, names(host))


def body_of(
    *extensions: Extension,
    version: bytes = b"\x03\x03",
    session: bytes = bytes(32),
    suites: bytes = b"\x13\x01\x13\x02",
    compressions: bytes = b"\0",
    tail: bytes | None = None,
) -> bytes:
    """A ClientHello without its header; `tail` is what stands for the extensions."""
    if tail is None:
        tail = vector(2, b"".join(struct.pack(">H", k) + vector(2, held) for k, held in extensions))
    return (version + bytes(range(32)) + vector(1, session) + vector(2, suites)
            + vector(1, compressions) + tail)  # fmt: skip


def message(body: bytes, kind: int = 1) -> bytes:
    return bytes([kind]) + vector(3, body)


def records(octets: bytes, sizes: tuple[int, ...] = (), kind: int = 22) -> bytes:
    """TLS records of so many octets each, and one with the rest."""
    parts = []
    for size in sizes:
        parts.append(octets[:size])
        octets = octets[size:]
    parts.append(octets)
    return b"".join(bytes([kind, 3, 1]) + vector(2, part) for part in parts if part)


def hello(*extensions: Extension) -> bytes:
    """A ClientHello message with these extensions."""
    return message(body_of(*extensions))


def first_flight(host: str, newest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> bytes:
    """What OpenSSL sends first to a server of that name."""
    context = ssl.create_default_context()
    context.maximum_version = newest
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(incoming, outgoing, server_hostname=host)
    try:
        client.do_handshake()
    except ssl.SSLWantReadError:
        return outgoing.read()
    raise AssertionError("a handshake without its server")


class Server:
    """OpenSSL's server: which name it takes from a client's first octets."""

    def __init__(self) -> None:
        self.name: str | None = None
        self.asked = False
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.sni_callback = self.ask

    def ask(self, _: ssl.SSLObject, name: str | None, __: ssl.SSLContext) -> None:
        self.asked, self.name = True, name

    def reads(self, octets: bytes) -> bool:
        """Whether it came so far as to look for a name; the name is then in `name`."""
        self.asked, self.name = False, None
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        incoming.write(octets)
        connection = self.context.wrap_bio(incoming, outgoing, server_side=True)
        try:
            connection.do_handshake()
        except ssl.SSLError:
            return self.asked
        raise AssertionError("a handshake without a certificate")
