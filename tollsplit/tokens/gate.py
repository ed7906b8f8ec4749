"""What a token has to pass to open a flow. The workers of a run share one."""

from __future__ import annotations

from threading import Lock

from ..errors import TokenError
from .keys import Keys
from .token import TOKEN_OCTETS, Binding, octets_of
from .used import Used
from .verdict import Refusal, expiry_of, judge


class Gate:
    """Judges tokens by the keys in force, and lets each through once.

    Until its MAC holds a token costs no memory, whoever sends how many.

    keys   those in force; others may be put in their place at any time
    """

    def __init__(self, keys: Keys, used: Used | None = None) -> None:
        self.keys = keys
        self._used = used if used is not None else Used()
        self._alone = Lock()

    def __len__(self) -> int:
        """Tokens that are known to be used."""
        return len(self._used)

    def admit(self, octets: bytes, binding: Binding, at_ns: int) -> str | Refusal:
        """The sponsor of a flow that a token opens, or why it does not open one.

        octets   of the token, TOKEN_OCTETS
        at_ns    the packet's time
        """
        keys = self.keys
        key = judge(octets, binding, keys, at_ns)
        if isinstance(key, Refusal):
            return key
        with self._alone:
            refusal = self._used.add(
                octets, key.sponsor, expiry_of(octets), at_ns, len(keys.sponsors))
        return key.sponsor if refusal is None else refusal

    def ask(
        self, carried: bytes, version: int, subscriber: int, subscriber_length: int, server: int,
        at_ns: int,
    ) -> int:  # fmt: skip
        """What the core asks: what a token calls its sponsor, or a Refusal as a negative number.

        carried   the token's octets or, of another length, its text
        """
        octets = carried
        if len(carried) != TOKEN_OCTETS:
            try:
                octets = octets_of(carried.decode("ascii", "replace"))
            except TokenError:
                return -Refusal.MALFORMED
        found = self.admit(octets, Binding(version, subscriber, subscriber_length, server), at_ns)
        return -found if isinstance(found, Refusal) else int.from_bytes(octets[4:8], "big")
