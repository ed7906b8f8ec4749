"""QUIC's Initial packets of a client, sealed by aioquic."""

from __future__ import annotations

from aioquic.buffer import Buffer
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.crypto import CryptoPair

V1, V2 = 0x00000001, 0x6B3343CF
ID = bytes.fromhex("8394c8f03e515708")
DATAGRAM_OCTETS = 1200
TAG_OCTETS = 16


def varint(value: int) -> bytes:
    buffer = Buffer(capacity=8)
    buffer.push_uint_var(value)
    return bytes(buffer.data)


def crypto(octets: bytes, offset: int = 0) -> bytes:
    """A CRYPTO frame."""
    return b"\x06" + varint(offset) + varint(len(octets)) + octets


def initial(
    payload: bytes,
    number: int = 0,
    version: int = V1,
    to: bytes = ID,
    sealed_for: bytes | None = None,
    token: bytes = b"",
    octets: int = DATAGRAM_OCTETS,
    number_octets: int = 4,
    fixed: int = 0x40,
) -> bytes:
    """A client's Initial packet, its payload padded to so many octets.

    fixed        the bit that is 1 but where both ends know better (RFC 9287)
    sealed_for   the number that the connection's first packet went to; None: as this one
    """
    kind = 0 if version == V1 else 1
    front = (bytes([0x80 | fixed | kind << 4 | number_octets - 1]) + version.to_bytes(4, "big")
             + bytes([len(to)]) + to + b"\0" + varint(len(token)) + token)  # fmt: skip
    short = octets - len(front) - 2 - number_octets - TAG_OCTETS
    payload = payload.ljust(max(short, 4), b"\0")
    length = number_octets + len(payload) + TAG_OCTETS
    written = (number % 256**number_octets).to_bytes(number_octets, "big")
    header = front + (0x4000 | length).to_bytes(2, "big") + written
    pair = CryptoPair()
    pair.setup_initial(to if sealed_for is None else sealed_for, is_client=True, version=version)
    return bytes(pair.encrypt_packet(header, payload, number))


def first_flight(host: str, version: int = V1) -> list[bytes]:
    """The datagrams that aioquic's client sends first."""
    configuration = QuicConfiguration(is_client=True, server_name=host, alpn_protocols=["h3"])
    configuration.original_version = version
    configuration.supported_versions = [version]
    connection = QuicConnection(configuration=configuration)
    connection.connect(("192.0.2.1", 443), now=0.0)
    return [datagram for datagram, _ in connection.datagrams_to_send(now=0.0)]
