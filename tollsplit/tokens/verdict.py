"""Whether a token is good: its MAC first, then its times. Nothing is remembered here."""

from __future__ import annotations

import hmac
import secrets
from enum import IntEnum

from ..errors import TokenError
from ..limits import TOKEN_LIFETIME_S_MAX
from ..rules.rule import Prefix, sponsor_digest
from .keys import Key, Keys
from .token import (
    EXPIRES_S_MAX,
    HEAD_OCTETS,
    NONCE_OCTETS,
    SPONSOR_OCTETS,
    TOKEN_OCTETS,
    VERSION,
    Binding,
    Token,
    binding_of,
)

SECOND_NS = 1_000_000_000


class Refusal(IntEnum):
    """Why a token opens nothing."""

    MALFORMED = 1
    UNKNOWN_KEY = 2
    WRONG_MAC = 3
    KEY_NOT_VALID = 4
    EXPIRED = 5
    TOO_EARLY = 6
    USED = 7
    CROWDED = 8

    @property
    def word(self) -> str:
        """As figures and documents name it."""
        return self.name.lower()

    @property
    def reason(self) -> str:
        return _REASONS[self]


_REASONS = {
    Refusal.MALFORMED: "its length, version or server prefix is none",
    Refusal.UNKNOWN_KEY: "no key has the id and sponsor that it names",
    Refusal.WRONG_MAC: "its MAC is wrong: it was changed, made without the key, or is for another "
                       "subscriber or server",
    Refusal.KEY_NOT_VALID: "its key is not valid at that time",
    Refusal.EXPIRED: "it has expired",
    Refusal.TOO_EARLY: f"it expires more than {TOKEN_LIFETIME_S_MAX:,} s later",
    Refusal.USED: "it opened another flow before",
    Refusal.CROWDED: "its sponsor has too many tokens that are used and not expired",
}  # fmt: skip


def judge(octets: bytes, binding: Binding, keys: Keys, at_ns: int) -> Key | Refusal:
    """The key that a token was made with, if it is good at that time, or why it is not.

    Which keys there are is no secret, so an unknown one is refused at once; the MAC is compared in
    constant time, and nothing that the token says is looked at before it holds.
    """
    if len(octets) != TOKEN_OCTETS or octets[0] != VERSION:
        return Refusal.MALFORMED
    key = keys.of(octets)
    if key is None:
        return Refusal.UNKNOWN_KEY
    try:
        mac = key.mac(octets[:HEAD_OCTETS], binding)
    except ValueError:
        return Refusal.MALFORMED
    if not hmac.compare_digest(mac, octets[HEAD_OCTETS:]):
        return Refusal.WRONG_MAC
    if not key.is_valid(at_ns):
        return Refusal.KEY_NOT_VALID
    expires_s, at_s = expiry_of(octets), at_ns // SECOND_NS
    if expires_s <= at_s:
        return Refusal.EXPIRED
    if expires_s > at_s + TOKEN_LIFETIME_S_MAX:
        return Refusal.TOO_EARLY
    return key


def expiry_of(octets: bytes) -> int:
    return int.from_bytes(octets[8:12], "big")


def mint(
    key: Key, subscriber: Prefix, server: Prefix, expires_s: int, nonce: bytes | None = None
) -> bytes:
    """A token for one flow of a subscriber with a server of that prefix. Raises TokenError.

    subscriber   the prefix that is one subscriber: an IPv4 address, of IPv6 mostly a /64
    expires_s    seconds since 1970-01-01 UTC
    nonce        of NONCE_OCTETS; None: at random
    """
    binding = binding_of(subscriber, server)
    if not 0 < expires_s <= EXPIRES_S_MAX:
        raise TokenError(f"expected an expiry of 1..{EXPIRES_S_MAX} s, got {expires_s}")
    if nonce is None:
        nonce = secrets.token_bytes(NONCE_OCTETS)
    head = Token(
        server.length, key.id, sponsor_digest(key.sponsor)[:SPONSOR_OCTETS], expires_s, nonce).head
    return head + key.mac(head, binding)
