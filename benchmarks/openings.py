"""How flows begin: what the first packets of each say to those who ask for names or tokens."""

from __future__ import annotations

import os
import ssl
from base64 import urlsafe_b64encode
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.frames import START_S
from benchmarks.network import Array
from tollsplit.rules.rule import Prefix
from tollsplit.tokens.carrier import prefix
from tollsplit.tokens.keys import Key
from tollsplit.tokens.token import TOKEN_OCTETS
from tollsplit.tokens.verdict import mint

NAME = "shop.example"
PSH_ACK, SYN, SYN_ACK = 0x18, 0x02, 0x12
BODY_OCTETS = 10**9
EXPIRES_S = START_S + 3_600
# A key that everybody may know: what it opens is generated traffic.
KEY = Key("shop", 1, bytes(range(32)))
KEYS = "shop.keys"


@dataclass(frozen=True)
class Step:
    """One of a flow's first packets.

    payload   the same in each flow
    made      another one in each, as long, of subscribers and servers: (n,), (n,) → (n, octets)
    """

    payload: bytes = b""
    uplink: bool = True
    flags: int = PSH_ACK
    made: Callable[[Array, Array], Array] | None = None

    @property
    def sent(self) -> int:
        """How far it takes its direction's sequence numbers."""
        return len(self.payload) + (self.flags & SYN != 0)

    def payloads(self, subscribers: Array, servers: Array) -> Array:
        """uint8 of shape (flows, octets)."""
        if self.made:
            return self.made(subscribers, servers)
        one = np.frombuffer(self.payload, np.uint8)
        return np.broadcast_to(one, (len(subscribers), len(one)))


def tls() -> bytes:
    """What OpenSSL sends first."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname=NAME)
    try:
        client.do_handshake()
    except ssl.SSLWantReadError:
        return outgoing.read()
    raise AssertionError("a handshake without its server")


def quic() -> bytes:
    """The first datagram that aioquic sends."""
    from aioquic.quic.configuration import QuicConfiguration
    from aioquic.quic.connection import QuicConnection

    client = QuicConnection(configuration=QuicConfiguration(
        is_client=True, server_name=NAME, alpn_protocols=["h3"]))
    client.connect(("192.0.2.1", 443), now=0.0)
    return bytes(client.datagrams_to_send(now=0.0)[0][0])


def request() -> tuple[Step, ...]:
    """A handshake, a request and its answer, neither of which comes to its end."""
    length = f"Content-Length: {BODY_OCTETS}\r\n\r\n"
    return (Step(flags=SYN), Step(uplink=False, flags=SYN_ACK),
            Step(f"POST /video HTTP/1.1\r\nHost: {NAME}\r\n{length}".encode()),
            Step(f"HTTP/1.1 200 OK\r\n{length}".encode(), uplink=False))


def token() -> Step:
    """A token in front of a stream."""
    return Step(prefix(bytes(TOKEN_OCTETS)), made=tokens)


def write_keys(folder: Path) -> None:
    """The file of keys that the rules of tokens name."""
    with open(folder / KEYS, "x", opener=partial(os.open, mode=0o600)) as file:
        file.write(f'[[keys]]\nsponsor = "{KEY.sponsor}"\nid = {KEY.id}\n'
                   f'secret = "{urlsafe_b64encode(KEY.secret).decode()}"\n')


def tokens(subscribers: Array, servers: Array) -> Array:
    """One for each flow."""
    octets = [prefix(mint(KEY, Prefix(4, int(near), 32), Prefix(4, int(far), 32), EXPIRES_S))
              for near, far in zip(subscribers, servers, strict=True)]
    return np.frombuffer(b"".join(octets), np.uint8).reshape(len(octets), -1)
