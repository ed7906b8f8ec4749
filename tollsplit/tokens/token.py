"""A token's octets: what stands in them, what is bound to them, how they are written.

docs/tokens.md describes all of it for who writes another implementation.
"""

from __future__ import annotations

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import NamedTuple

from ..errors import TokenError
from ..rules.prefixes import prefix_text
from ..rules.rule import Prefix

VERSION = 1
TOKEN_OCTETS = 36
HEAD_OCTETS = 20  # what comes before the MAC
MAC_OCTETS = 16
SPONSOR_OCTETS = 4
NONCE_OCTETS = 8
KEY_IDS = range(1 << 16)
EXPIRES_S_MAX = (1 << 32) - 1  # 2106-02-07
ADDRESS_BITS = {4: 32, 6: 128}
# A version that binds other things gets another label, so no MAC is good for two of them. It fills
# half a block of SHA-256 and the sponsor the other half: keys are prepared up to there.
LABEL = b"tollsplit sponsored data token 1"
_TEXT = re.compile(r"[A-Za-z0-9_-]{48}", re.ASCII)
_HEX = re.compile(r"[0-9A-Fa-f]{72}", re.ASCII)


class Binding(NamedTuple):
    """Between whom a packet goes. It is not in the token: it is taken from the packet."""

    version: int  # of IP, at both ends
    subscriber: int  # the address, host bits and all
    subscriber_length: int  # of the prefix that is one subscriber
    server: int  # the address


class Token(NamedTuple):
    """What a token says of itself; nothing of it is true before its MAC is."""

    server_length: int  # of the prefix that the server has to lie in
    key_id: int
    sponsor: bytes  # the first octets of its identity's digest
    expires_s: int  # the first second since 1970-01-01 UTC at which it is no good
    nonce: bytes

    @property
    def head(self) -> bytes:
        return b"".join((
            bytes((VERSION, self.server_length)), self.key_id.to_bytes(2, "big"), self.sponsor,
            self.expires_s.to_bytes(4, "big"), self.nonce))  # fmt: skip


def read(octets: bytes) -> Token:
    """What a token's octets say. Raises ValueError: another length, another version."""
    if len(octets) != TOKEN_OCTETS:
        raise ValueError(f"expected {TOKEN_OCTETS} octets, got {len(octets)}")
    if octets[0] != VERSION:
        raise ValueError(f"expected version {VERSION}, got {octets[0]}")
    return Token(octets[1], int.from_bytes(octets[2:4], "big"), octets[4:8],
                 int.from_bytes(octets[8:12], "big"), octets[12:20])  # fmt: skip


def bound(head: bytes, binding: Binding) -> bytes:
    """What a MAC is computed over, behind LABEL and the digest of the sponsor's identity.

    Every part has a fixed length, so no two bindings have the same octets.

    Raises ValueError where the token's server prefix is none of this version of IP.
    """
    bits = ADDRESS_BITS[binding.version]
    length = head[1]
    if not 1 <= length <= bits:
        raise ValueError(f"expected a server prefix of 1..{bits} bits, got {length}")
    own, other = bits - binding.subscriber_length, bits - length
    return b"".join((
        head, bytes((binding.version, binding.subscriber_length)),
        (binding.subscriber >> own << own).to_bytes(16, "big"),
        (binding.server >> other << other).to_bytes(16, "big")))  # fmt: skip


def binding_of(subscriber: Prefix, server: Prefix) -> Binding:
    """The binding of a token that is to be minted, or of a packet. Raises TokenError."""
    if subscriber.version != server.version:
        raise TokenError(
            f"{prefix_text(subscriber)} and {prefix_text(server)}: expected both ends of one "
            "version of IP")
    if not server.length:
        raise TokenError(
            f"{prefix_text(server)} is everybody: name the sponsor's own servers")
    return Binding(subscriber.version, subscriber.value, subscriber.length, server.value)


def text_of(octets: bytes) -> str:
    """A token as text: base64url (RFC 4648 §5) of 48 characters, which leaves no bit over."""
    return urlsafe_b64encode(octets).decode()


def octets_of(text: str) -> bytes:
    """The octets that a text names, base64url or hexadecimal. Raises TokenError."""
    if _TEXT.fullmatch(text):
        return urlsafe_b64decode(text)
    if _HEX.fullmatch(text):
        return bytes.fromhex(text)
    raise TokenError(
        f"expected a token of 48 characters (A-Z a-z 0-9 - _), or 72 hexadecimal ones, got "
        f"{len(text)} characters")
