"""Which fragments belong together: the first of a datagram has the ports of all."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from tollsplit.engine.bounds import Bounds
from tollsplit.engine.reference.packet import LATER_FRAGMENT, Datagram, Segment
from tollsplit.limits import CLOCK_BEHIND_NS, FRAGMENT_SPANS_MAX

PORTS = 256
TRANSPORT = ("protocol", "tcp_flags", "source_port", "destination_port")


@dataclass
class Item:
    """One metered packet, seen from one subscriber."""

    row: dict[str, int]
    timestamp_ns: int
    subscriber: Any
    account: str
    segment: Segment | None = None  # gone once it has waited for its datagram
    untracked: bool = False
    suspicious: bool = False


@dataclass
class Assembly:
    """What is known of a datagram."""

    since_ns: int
    transport: dict[str, int] | None = None  # what its first fragment says
    octets: int | None = None  # of the whole, by its last fragment
    spans: list[tuple[int, int]] = field(default_factory=list)
    waiting: list[Item] = field(default_factory=list)

    @property
    def whole(self) -> bool:
        """Nothing is missing."""
        return (self.transport is not None and self.octets is not None
                and len(self.spans) == 1 and self.spans[0][0] == 0
                and self.spans[0][1] >= self.octets)

    def add_span(self, first: int, end: int) -> bool:
        """Take in a stretch. Returns whether some of it was there before."""
        touching = [s for s in self.spans if s[0] <= end and first <= s[1]]
        overlaps = any(s[0] < end and first < s[1] for s in touching)
        apart = [s for s in self.spans if s not in touching]
        if len(apart) < FRAGMENT_SPANS_MAX:
            apart.append((min([first, *(s[0] for s in touching)]),
                          max([end, *(s[1] for s in touching)])))
        self.spans = apart
        return overlaps


class Clock:
    """The time by the packets' own timestamps."""

    def __init__(self) -> None:
        self.now_ns = 0

    def advance(self, timestamp_ns: int) -> int:
        """A packet comes: late ones change nothing, unless the clock was set back."""
        if not 0 <= self.now_ns - timestamp_ns <= CLOCK_BEHIND_NS:
            self.now_ns = timestamp_ns
        return self.now_ns


class Datagrams:
    """Fragmented datagrams, in two rows: those that lack something, and those that are whole."""

    def __init__(self, bounds: Bounds) -> None:
        self.bounds = bounds
        self.pending: OrderedDict[object, Assembly] = OrderedDict()
        self.complete: OrderedDict[object, Assembly] = OrderedDict()
        self.decided: list[Item] = []

    def meet(self, item: Item, datagram: Datagram, now_ns: int) -> tuple[bool, bool]:
        """Take in a fragment. Returns whether it waits, and whether it overlaps others."""
        row = item.row
        key = (row["version"], row["source"], row["destination"], row["direction"],
               row["protocol"] if row["version"] == 4 else None, datagram.identification,
               item.subscriber)
        is_first = not row["flags"] & LATER_FRAGMENT
        if is_first:
            self.complete.pop(key, None)
        assembly = self.pending.get(key) or self.complete.get(key)
        if assembly is None:
            if len(self.pending) + len(self.complete) >= self.bounds.datagrams:
                self.crowd_out(self.complete or self.pending)
            assembly = self.pending[key] = Assembly(now_ns)
        overlaps = assembly.add_span(datagram.first, datagram.end)
        if not datagram.more:
            assembly.octets = datagram.end
        if is_first and assembly.transport is None:
            assembly.transport = {**what_it_says(row), "tcp_flags": row["tcp_flags"]}
            self.decide(assembly)
        elif is_first and assembly.transport is not None and any(
                assembly.transport[name] != said for name, said in what_it_says(row).items()):
            assembly.transport |= {"ports": 0, "source_port": 0, "destination_port": 0}
        if assembly.transport is None:
            assembly.waiting.append(item)
            while sum(len(a.waiting) for a in self.pending.values()) > self.bounds.fragments:
                self.crowd_out(self.pending)
            return True, overlaps
        complete_row(row, assembly.transport)
        if key in self.pending and assembly.whole:
            del self.pending[key]
            assembly.since_ns = now_ns
            self.complete[key] = assembly
        return False, overlaps

    def crowd_out(self, some: OrderedDict[object, Assembly]) -> None:
        """Forget the oldest of some, before its time."""
        _, assembly = some.popitem(last=False)
        for item in assembly.waiting:
            item.untracked = assembly.transport is None
        self.decide(assembly)

    def decide(self, assembly: Assembly) -> None:
        for item in assembly.waiting:
            if assembly.transport is not None:
                complete_row(item.row, assembly.transport)
            self.decided.append(item)
        assembly.waiting = []

    def expire(self, now_ns: int) -> None:
        """Forget what is too old, from the oldest on."""
        for some in (self.pending, self.complete):
            while some:
                key, assembly = next(iter(some.items()))
                if now_ns - assembly.since_ns <= self.bounds.fragment_timeout_ns:
                    break
                del some[key]
                self.decide(assembly)

    def release(self) -> None:
        """No more packets come."""
        for assembly in self.pending.values():
            self.decide(assembly)

    def take(self) -> Iterator[Item]:
        """Those that wait no more."""
        while self.decided:
            yield self.decided.pop(0)


def what_it_says(row: dict[str, int]) -> dict[str, int]:
    """A first fragment's protocol and ports."""
    return {"ports": row["tags"] & PORTS, **{
        name: row[name] for name in ("protocol", "source_port", "destination_port")}}


def complete_row(row: dict[str, int], transport: dict[str, int]) -> None:
    """Say of a fragment what the first one of its datagram says."""
    row.update({name: transport[name] for name in TRANSPORT})
    row["flags"] &= ~LATER_FRAGMENT
    row["tags"] = row["tags"] & ~PORTS | transport["ports"]
    server, subscriber = ("source", "destination")[:: 1 if row["direction"] else -1]
    row["server_port"] = row[f"{server}_port"]
    row["subscriber_port"] = row[f"{subscriber}_port"]
