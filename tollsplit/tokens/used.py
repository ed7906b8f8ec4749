"""Tokens that have opened a flow: each opens one, so it is known until it expires."""

from __future__ import annotations

from ..limits import CLOCK_BEHIND_NS, TOKEN_BUCKET_S, TOKENS_USED_MAX
from .verdict import SECOND_NS, Refusal

CLOCK_BEHIND_S = CLOCK_BEHIND_NS // SECOND_NS


class _Shelf:
    """The used tokens of one sponsor, in buckets by when they expire."""

    def __init__(self) -> None:
        self.buckets: dict[int, set[int]] = {}
        self.count = 0
        self.dropped = 0  # buckets below this one are gone

    def drop(self, before: int) -> None:
        """Forget the buckets below one; they never come back, whatever the clock does."""
        if before <= self.dropped:
            return
        self.dropped = before
        for number in [number for number in self.buckets if number < before]:
            self.count -= len(self.buckets.pop(number))


class Used:
    """Each sponsor has an equal part of the room, so that nobody's tokens crowd another's out.

    One thread at a time calls it.

    most   tokens that are known at a time
    """

    def __init__(self, most: int = TOKENS_USED_MAX) -> None:
        self._most = most
        self._shelves: dict[str, _Shelf] = {}

    def __len__(self) -> int:
        return sum(shelf.count for shelf in self._shelves.values())

    def add(
        self, token: bytes, sponsor: str, expires_s: int, at_ns: int, sponsors: int
    ) -> Refusal | None:
        """Note that a good token is used; None: it was not before.

        token      its octets, whose MAC holds: so they are all of one length, and no two are alike
        at_ns      the packet's time; what expired a minute before any of those is forgotten
        sponsors   how many share the room
        """
        shelf = self._shelves.setdefault(sponsor, _Shelf())
        bucket = expires_s // TOKEN_BUCKET_S
        shelf.drop((at_ns // SECOND_NS - CLOCK_BEHIND_S) // TOKEN_BUCKET_S)
        if bucket < shelf.dropped:
            return Refusal.EXPIRED  # a clock was set back: nobody knows any more
        mark = int.from_bytes(token[-8:], "big")
        if mark in shelf.buckets.get(bucket, ()):
            return Refusal.USED
        if shelf.count >= self._most // max(1, sponsors):
            return Refusal.CROWDED
        shelf.buckets.setdefault(bucket, set()).add(mark)
        shelf.count += 1
        return None
