"""Accounting sessions out of usage records: who began, what came to it so far, who is silent.

A session is one payer's part of a subscriber's traffic; those of one subscriber have a
multi-session id in common, and add up to what was metered.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from ..model import UsageRecord

Status = Literal["Start", "Interim-Update", "Stop"]
Cause = Literal["Idle-Timeout", "NAS-Request"]
SUBSCRIBER = "subscriber"  # the payer's name where it is nobody's sponsorship
SECOND_NS = 1_000_000_000


class Counters(NamedTuple):
    """What came to a session since it began."""

    input_octets: int = 0  # from the subscriber: uplink
    output_octets: int = 0
    input_packets: int = 0
    output_packets: int = 0

    def plus(self, other: Counters) -> Counters:
        return Counters(*(one + more for one, more in zip(self, other, strict=True)))


@dataclass(frozen=True, slots=True)
class Session:
    """One payer's part of a subscriber's traffic.

    payer   a sponsor's identity, or "subscriber"
    """

    id: str
    multi_id: str
    subscriber: str
    account: str
    payer: str
    began_ns: int
    last_ns: int
    counters: Counters

    @property
    def seconds(self) -> int:
        return (self.last_ns - self.began_ns) // SECOND_NS


class Report(NamedTuple):
    """What an accounting request says."""

    status: Status
    session: Session
    cause: Cause | None = None  # of a Stop

    @property
    def at_s(self) -> int:
        """When it was so, in seconds since 1970-01-01 UTC."""
        at_ns = self.session.began_ns if self.status == "Start" else self.session.last_ns
        return at_ns // SECOND_NS


Key = tuple[str, str, str]  # subscriber, account, payer


class Sessions:
    """The sessions that are open.

    run   names the run: ids of different runs are different

    A subscriber that a batch of records says nothing of is silent: its sessions end.
    """

    def __init__(self, run: str) -> None:
        self._name = hashlib.sha256(run.encode()).hexdigest()[:12]
        self._open: dict[Key, Session] = {}
        self._multi: dict[tuple[str, str], str] = {}
        self._made = 0

    def take(self, records: Iterable[UsageRecord]) -> Iterator[Report]:
        """What is to be reported after another batch of usage records."""
        changed: dict[Key, Session] = {}
        for record in records:
            for payer, counters in _parts(record).items():
                key = record.subscriber, record.account, payer
                session = changed.get(key) or self._open.get(key)
                if session is None:
                    if payer != SUBSCRIBER and not any(counters):
                        continue
                    session = self._begun(key, record.first_packet_ns)
                    yield Report("Start", session)
                changed[key] = replace(
                    session, counters=session.counters.plus(counters),
                    last_ns=max(session.last_ns, record.last_packet_ns))
        heard = {key[:2] for key in changed}
        for key, session in list(self._open.items()):
            if key[:2] not in heard:
                del self._open[key]
                self._multi.pop(key[:2], None)
                yield Report("Stop", session, "Idle-Timeout")
        self._open |= changed
        for session in changed.values():
            yield Report("Interim-Update", session)

    def end(self) -> Iterator[Report]:
        """The end of the run is the end of all."""
        for session in self._open.values():
            yield Report("Stop", session, "NAS-Request")
        self._open, self._multi = {}, {}

    def _begun(self, key: Key, at_ns: int) -> Session:
        multi = self._multi.get(key[:2])
        if multi is None:
            multi = self._multi[key[:2]] = self._new_id()
        return Session(self._new_id(), multi, *key, at_ns, at_ns, Counters())

    def _new_id(self) -> str:
        self._made += 1
        return f"{self._name}-{self._made:x}"


def _parts(record: UsageRecord) -> Mapping[str, Counters]:
    """What each payer pays for, by direction.

    A split knows the octets of both together, so sponsors' are divided as the record's are: of the
    running total over sponsors, so that no direction has more than the record. The subscriber has
    the rest of each. Packets are not divided: they are the subscriber's.
    """
    up, down = record.uplink_octets, record.downlink_octets
    result: dict[str, Counters] = {}
    paid = 0
    for sponsor, octets in record.sponsor_octets.items():
        before = paid * up // max(up + down, 1)
        paid += octets
        share = paid * up // max(up + down, 1) - before
        result[sponsor] = Counters(share, octets - share)
    result[SUBSCRIBER] = Counters(
        up - sum(part.input_octets for part in result.values()),
        down - sum(part.output_octets for part in result.values()),
        record.uplink_packets, record.downlink_packets)
    return result
