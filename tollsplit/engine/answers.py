"""What trusted resolvers have answered: which names an address was given for, and until when."""

from __future__ import annotations

import threading
from collections.abc import Hashable, Iterable

from tollsplit import limits

SECOND_NS = 1_000_000_000
Address = tuple[int, int]  # version, number


class Answers:
    """Names and their addresses, shared by all workers of a run.

    Only what answers a question counts that was seen before, from the same client and port to the
    same resolver. Both lists are bounded; the oldest go first.
    """

    def __init__(self) -> None:
        # A bit for each address that was ever given, by place_of(): who asks without Python's
        # lock asks here first, and mostly needs to ask no further.
        self.hints = bytearray(limits.DNS_HINTS // 8)
        self._asked: dict[Hashable, int] = {}
        self._given: dict[tuple[Address, int], tuple[bytes, int]] = {}
        self._keys: dict[Address, set[int]] = {}
        self._lock = threading.Lock()

    def ask(self, question: Hashable, now_ns: int) -> None:
        """Note a question that a client has put to a trusted resolver."""
        with self._lock:
            self._asked.pop(question, None)
            if len(self._asked) >= limits.DNS_QUESTIONS_MAX:
                del self._asked[next(iter(self._asked))]
            self._asked[question] = now_ns

    def answer(
        self,
        question: Hashable,
        name: bytes,
        facts: int,
        given: Iterable[tuple[int, int, int]],
        now_ns: int,
    ) -> bool:
        """Learn the addresses of a name; False: nobody has asked.

        facts   what the name is to the rules; of names that are the same to them, one is kept
        given   (version, address, ttl_s)
        """
        with self._lock:
            asked_ns = self._asked.pop(question, None)
            if asked_ns is None or now_ns - asked_ns > limits.DNS_WAIT_S * SECOND_NS:
                return False
            for version, number, ttl_s in given:
                ttl_s = min(max(ttl_s, limits.DNS_TTL_S_MIN), limits.DNS_TTL_S_MAX)
                self._learn((version, number), name, facts, now_ns + ttl_s * SECOND_NS)
            return True

    def names(self, version: int, number: int, now_ns: int) -> list[bytes]:
        """The names that an address is given for at this time."""
        address = version, number
        with self._lock:
            found = [self._given[address, facts] for facts in self._keys.get(address, ())]
        return [name for name, until_ns in found if now_ns <= until_ns]

    def _learn(self, address: Address, name: bytes, facts: int, until_ns: int) -> None:
        key = address, facts
        before = self._given.pop(key, None)
        if before is not None and before[1] > until_ns:
            name, until_ns = before
        if len(self._given) >= limits.DNS_GIVEN_MAX:
            self._forget(next(iter(self._given)))
        self._given[key] = name, until_ns
        self._keys.setdefault(address, set()).add(facts)
        place = place_of(*address)
        self.hints[place // 8] |= 1 << place % 8

    def _forget(self, key: tuple[Address, int]) -> None:
        address, facts = key
        del self._given[key]
        self._keys[address].remove(facts)
        if not self._keys[address]:
            del self._keys[address]


def place_of(version: int, number: int) -> int:
    """Where an address has its bit, as the core works it out too."""
    folded = (number ^ number >> 64 ^ version) & 0xFFFFFFFFFFFFFFFF
    return (folded * 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF) >> 48
