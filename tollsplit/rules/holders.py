"""Who held which prefix when, out of what is told of it: beginnings, ends and leases."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from .rule import Prefix, Tenure


def settled(told: Iterable[Tenure]) -> tuple[Tenure, ...]:
    """Tenures none of which overlaps another of its prefix.

    Whatever begins last counts. Of the same account it says until when that holds the prefix, which
    may be sooner than was granted before. Where another account begins, the one before it has
    ended: whoever gave the prefix away knew that it was free.
    """
    held: dict[Prefix, list[Tenure]] = {}
    for tenure in told:
        held.setdefault(tenure.prefix, []).append(tenure)
    result: list[Tenure] = []
    for several in held.values():
        result += _in_turn(sorted(several, key=_start))
    return tuple(result)


def _start(tenure: Tenure) -> int:
    return -(1 << 63) if tenure.valid_from_ns is None else tenure.valid_from_ns


def _in_turn(told: Sequence[Tenure]) -> list[Tenure]:
    """Of one prefix, in order of their beginnings."""
    result: list[Tenure] = []
    for tenure in told:
        start, end = tenure.valid_from_ns, tenure.valid_to_ns
        if end is not None and end <= _start(tenure):
            continue
        last = result[-1] if result else None
        if last is not None and (last.valid_to_ns is None or _start(tenure) <= last.valid_to_ns):
            if last.account == tenure.account:
                result[-1] = last._replace(valid_to_ns=end)
                continue
            if _start(last) == _start(tenure):
                result.pop()
            else:
                result[-1] = last._replace(valid_to_ns=start)
        result.append(tenure)
    return result


class Place(NamedTuple):
    """What a session holds, and for whom."""

    account: str
    prefixes: tuple[Prefix, ...]
    since_ns: int | None


Session = tuple[str, str]  # whoever tells of it, and its id there


class Holders:
    """The sessions that are told of as they begin and end."""

    def __init__(self, earlier: Iterable[Tenure] = ()) -> None:
        """earlier   what was known before; what has no end goes on until somebody tells of it"""
        self._over: list[Tenure] = []
        self._open: dict[Session, Place] = {}
        for number, tenure in enumerate(earlier):
            if tenure.valid_to_ns is None:
                self._open["", str(number)] = Place(
                    tenure.account, (tenure.prefix,), tenure.valid_from_ns)
            else:
                self._over.append(tenure)

    def goes_on(
        self, session: Session, account: str, prefixes: Iterable[Prefix], since_ns: int
    ) -> bool:
        """A session has begun, or goes on since then. Returns whether that is news."""
        known, told = self._open.get(session), tuple(prefixes)
        since = since_ns if known is None else known.since_ns  # told again, it is no news
        place = Place(account, told or (known.prefixes if known else ()), since)
        if not place.prefixes or place == known:
            return False
        self._open[session] = place
        return True

    def ends(
        self, session: Session, account: str, prefixes: Iterable[Prefix], since_ns: int, at_ns: int
    ) -> bool:
        """A session has ended, having begun at `since_ns` if nobody told so earlier."""
        self.goes_on(session, account, prefixes, since_ns)
        place = self._open.pop(session, None)
        if place is None:
            return False
        self._close(place, at_ns)
        for other, known in list(self._open.items()):  # what was known of it before
            if not other[0] and known.account == account and known.prefixes[0] in place.prefixes:
                del self._open[other]
                self._close(known, at_ns)
        return True

    def all_end(self, teller: str, at_ns: int) -> bool:
        """Whoever tells of sessions has none any more."""
        gone = [session for session in self._open if session[0] == teller]
        for session in gone:
            self._close(self._open.pop(session), at_ns)
        return bool(gone)

    def _close(self, place: Place, at_ns: int) -> None:
        self._over += [Tenure(prefix, place.account, place.since_ns, at_ns)
                       for prefix in place.prefixes]

    def forget(self, before_ns: int) -> None:
        """Let go of what ended before an instant."""
        self._over = [tenure for tenure in self._over
                      if tenure.valid_to_ns is None or tenure.valid_to_ns >= before_ns]

    def tenures(self) -> tuple[Tenure, ...]:
        """Who holds what, and held it."""
        return settled([*self._over, *(
            Tenure(prefix, place.account, place.since_ns, None)
            for place in self._open.values() for prefix in place.prefixes)])
