"""What flows have shown: a tag that one packet carries can cover all of its flow."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from tollsplit.engine.bounds import Bounds
from tollsplit.engine.reference.datagrams import Item
from tollsplit.engine.reference.packet import LATER_FRAGMENT
from tollsplit.rules.rule import Match, Rule

PORTED = (6, 17, 132)
PORTS = 256
KEPT = 1 | 4 | 8  # coalesced, partial, trusted: what records keep

Holds = Callable[[Match, dict[str, int]], bool]


@dataclass
class Group:
    """Packets of one flow that would be one counter."""

    rule: Rule | None
    flags: int
    cell: int
    items: list[Item] = field(default_factory=list)


@dataclass
class Flow:
    opened_ns: int
    last_ns: int
    listed_ns: int
    fulfilled: list[Rule] = field(default_factory=list)
    groups: list[Group] = field(default_factory=list)


class Flows:
    """The flows that are known, by when they were listed, those that have shown nothing apart from
    the others; those that may hold something, by age.

    rules   all, by precedence
    holds   whether a packet fulfils a rule's conditions
    cell    where the time cell of an instant begins
    """

    def __init__(
        self, rules: Sequence[Rule], holds: Holds, cell: Callable[[int], int], bounds: Bounds
    ) -> None:
        self.sticky = [rule for rule in rules if rule.match.sticky]
        self.holds = holds
        self.cell = cell
        self.bounds = bounds
        self.silent: OrderedDict[object, Flow] = OrderedDict()
        self.telling: OrderedDict[object, Flow] = OrderedDict()
        self.waiting: OrderedDict[object, Flow] = OrderedDict()
        self.decided: list[tuple[Item, Rule | None]] = []

    def follow(self, item: Item, rule: Rule | None, now_ns: int) -> tuple[bool, Rule | None, bool]:
        """What a packet's flow says of it, which falls under a rule by itself.

        Returns whether it waits, its rule, and whether there was no room to know.
        """
        row = item.row
        possible = [r for r in self.sticky if self.holds(lasting(r.match), row)]
        if not possible or row["flags"] & LATER_FRAGMENT or (
                row["protocol"] in PORTED and not row["tags"] & PORTS):
            return False, rule, False
        ends = (row["source"], row["destination"])
        key = (row["version"], ends[:: -1 if row["direction"] else 1], row["protocol"],
               row["subscriber_port"], row["server_port"], item.subscriber)
        flow = self.silent.get(key) or self.telling.get(key)
        if flow is not None and self.is_idle(flow, now_ns):
            self.forget(key)
            flow = None
        if flow is None:
            if len(self.silent) + len(self.telling) >= self.bounds.flows and not self.make_room():
                return False, rule, True
            flow = self.silent[key] = self.waiting[key] = Flow(now_ns, now_ns, now_ns)
        flow.last_ns = now_ns
        shown = [r for r in possible if r not in flow.fulfilled and self.holds(r.match, row)]
        flow.fulfilled += shown
        if shown and key in self.silent:
            self.telling[key] = self.silent.pop(key)
            flow.listed_ns = now_ns
        rule = first([rule, *flow.fulfilled])
        if shown:
            for group in list(flow.groups):
                group.rule = first([group.rule, *flow.fulfilled])
                if not self.may_come(flow, possible, group.rule):
                    self.charge(flow, group)
        if key not in self.waiting or not self.may_come(flow, possible, rule):
            return False, rule, False
        self.hold(flow, item, rule)
        return True, rule, False

    def may_come(self, flow: Flow, possible: list[Rule], rule: Rule | None) -> bool:
        """Whether the flow could yet fulfil something that comes before a rule."""
        return any(r not in flow.fulfilled and first([r, rule]) is not rule for r in possible)

    def hold(self, flow: Flow, item: Item, rule: Rule | None) -> None:
        cell, flags = self.cell(item.timestamp_ns), item.row["flags"] & KEPT
        group = next((g for g in flow.groups if (g.rule, g.flags, g.cell) == (rule, flags, cell)),
                     None)
        if group is None:
            group = Group(rule, flags, cell)
            flow.groups.append(group)
        group.items.append(item)
        while sum(len(f.groups) for f in self.waiting.values()) > self.bounds.held:
            _, oldest = self.waiting.popitem(last=False)
            self.crowd_out(oldest)

    def make_room(self) -> bool:
        """Forget the flow that has shown nothing for longest; False: all have shown something."""
        if not self.silent:
            return False
        key, flow = next(iter(self.silent.items()))
        self.crowd_out(flow)
        self.forget(key)
        return True

    def crowd_out(self, flow: Flow) -> None:
        """Charge what waits of a flow before its time."""
        for group in flow.groups:
            for each in group.items:
                each.untracked = True
        self.charge_all(flow)

    def charge(self, flow: Flow, group: Group) -> None:
        flow.groups.remove(group)
        self.decided += [(item, group.rule) for item in group.items]

    def charge_all(self, flow: Flow) -> None:
        for group in list(flow.groups):
            self.charge(flow, group)

    def expire(self, now_ns: int) -> None:
        """End waits and flows that are too old."""
        while self.waiting:
            key, flow = next(iter(self.waiting.items()))
            if now_ns - flow.opened_ns <= self.bounds.flow_hold_ns:
                break
            del self.waiting[key]
            self.charge_all(flow)
        for some in (self.silent, self.telling):
            while some:
                key, flow = next(iter(some.items()))
                if now_ns - flow.listed_ns <= self.bounds.flow_idle_ns:
                    break
                if flow.last_ns <= flow.listed_ns:
                    self.forget(key)
                else:
                    flow.listed_ns += self.bounds.flow_idle_ns
                    some.move_to_end(key)

    def is_idle(self, flow: Flow, now_ns: int) -> bool:
        return now_ns - flow.last_ns > self.bounds.flow_idle_ns

    def forget(self, key: object) -> None:
        self.charge_all((self.silent if key in self.silent else self.telling).pop(key))
        self.waiting.pop(key, None)

    def release(self) -> None:
        """No more packets come."""
        for flow in self.waiting.values():
            self.charge_all(flow)

    def take(self) -> Iterator[tuple[Item, Rule | None]]:
        while self.decided:
            yield self.decided.pop(0)


def lasting(match: Match) -> Match:
    """The conditions that all packets of a flow fulfil, or none."""
    return Match(server=match.server, subscriber=match.subscriber, port=match.port,
                 protocol=match.protocol)


def first(rules: Sequence[Rule | None]) -> Rule | None:
    """The one with the lowest precedence."""
    return min((r for r in rules if r is not None), key=lambda r: r.precedence, default=None)
