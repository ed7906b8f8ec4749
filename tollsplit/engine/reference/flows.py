"""What flows have shown: a tag that one packet carries can cover all of its flow."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from tollsplit.engine.bounds import Bounds
from tollsplit.engine.reference import initials
from tollsplit.engine.reference.datagrams import Item
from tollsplit.engine.reference.initials import Initials
from tollsplit.engine.reference.packet import FRAGMENT, LATER_FRAGMENT, Segment
from tollsplit.engine.reference.uplink import ACK, SYN, Uplink, begins, named, of_rules
from tollsplit.rules.rule import Match, Rule
from tollsplit.rules.seal import Seal

TCP, UDP = 6, 17
PORTED = (TCP, UDP, 132)
PORTS = 256
KEPT = 1 | 4 | 8  # coalesced, partial, trusted: what records keep

Holds = Callable[[Match, dict[str, int]], bool]


@dataclass
class Group:
    """Packets of one flow that would be one counter."""

    rule: Rule | None
    flags: int
    cell: int
    eligible: list[Rule]  # what may cover them
    items: list[Item] = field(default_factory=list)


@dataclass
class Flow:
    waits_ns: int
    last_ns: int
    listed_ns: int
    facts: set[tuple[str, str]] = field(default_factory=set)  # a rule's id, what it asked for
    groups: list[Group] = field(default_factory=list)
    uplink: Uplink | Initials = field(default_factory=Uplink)
    contradicted: bool = False
    talks: int = 0  # in order of beginning

    @property
    def known(self) -> set[tuple[str, str]]:
        """Its facts, those left out that are doubted."""
        return {f for f in self.facts if f[1] != "sni"} if self.uplink.doubted else self.facts


class Verdict(NamedTuple):
    """What a packet's flow says of it."""

    rule: Rule | None
    waits: bool = False
    untracked: bool = False  # there was no room to know
    mismatch: bool = False


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
        self.rules = [rule for rule in rules if rule.match.needs]
        self.named = of_rules(rules)
        # what QUIC may say: HTTP is hidden in it
        self.quic = [rule for rule in self.named if rule.match.host is None]
        self.seal = Seal() if self.quic else None
        self.holds = holds
        self.cell = cell
        self.bounds = bounds
        self.silent: OrderedDict[object, Flow] = OrderedDict()
        self.telling: OrderedDict[object, Flow] = OrderedDict()
        self.waiting: OrderedDict[object, Flow] = OrderedDict()
        self.decided: list[tuple[Item, Rule | None]] = []
        self.talks = 0

    def follow(self, item: Item, rule: Rule | None, mismatch: bool, now_ns: int) -> Verdict:
        """What a packet's flow says of it, which falls under a rule by itself.

        mismatch   the packet contradicts itself: it is its subscriber's whatever its flow is
        """
        row = item.row
        reachable = self.reachable(row)
        if not reachable or (mismatch and not any(r in self.named for r in reachable)):
            return Verdict(rule, mismatch=mismatch)
        possible = [r for r in reachable if self.holds(Match(server=r.match.server), row)]
        key = key_of(item)
        flow = self.silent.get(key) or self.telling.get(key)
        listens = row["direction"] == 0 and any(r in self.named for r in reachable)
        if flow is not None and (self.is_idle(flow, now_ns) or (
                any(r in self.named for r in reachable) and is_another(flow, item))):
            self.forget(key)
            flow = None
        if flow is None:
            if not possible and not (
                    listens and item.segment is not None and (
                        initials.begins if row["protocol"] == UDP else begins)(item.segment)):
                return Verdict(rule, mismatch=mismatch)
            if len(self.silent) + len(self.telling) >= self.bounds.flows and not self.make_room():
                return Verdict(rule, untracked=bool(possible) and not mismatch, mismatch=mismatch)
            flow = self.silent[key] = self.waiting[key] = Flow(now_ns, now_ns, now_ns)
            if row["protocol"] == UDP and self.seal is not None:
                flow.uplink = Initials(self.seal)
        flow.last_ns = now_ns
        if (row["protocol"] == TCP and flow.uplink.told and row["direction"] == 1
                and row["payload_octets"]):
            flow.uplink.hush()  # it has arrived
        before = set(flow.known), flow.uplink.told
        if listens and row["flags"] & FRAGMENT:
            flow.uplink.doubt()
            if flow.uplink.contradicted:
                flow.facts = {fact for fact in flow.facts if fact[1] != "sni"}
        flow.facts |= {(r.id, "packet") for r in possible
                       if r.match.sticky and self.holds(r.match, row)}
        for segment in pieces(item) if listens else ():
            if flow.uplink.listens(segment, any(kind == "sni" for _, kind in flow.facts)) and (
                    row["protocol"] == UDP or row["payload_octets"] or row["tcp_flags"] & SYN):
                self.listen(key, flow, item, segment, reachable, possible, now_ns)
        crowded, flow.uplink.crowded = flow.uplink.crowded, False
        there, other = ((self.silent, self.telling) if flow.facts
                        else (self.telling, self.silent))  # fmt: skip
        if key in there:
            other[key] = there.pop(key)
            flow.listed_ns = now_ns
        if before != (flow.known, flow.uplink.told):
            for group in list(flow.groups):
                group.rule = first([group.rule, *covered(flow, group.eligible)])
                if not self.may_come(flow, group.eligible, group.rule):
                    self.charge(flow, group)
        if mismatch:
            return Verdict(rule, untracked=crowded, mismatch=True)
        eligible = [r for r in possible if r.match.sticky or self.holds(r.match, row)]
        rule = first([rule, *covered(flow, eligible)])
        if rule is None and flow.contradicted:
            return Verdict(None, untracked=crowded, mismatch=True)
        if key not in self.waiting or not self.may_come(flow, eligible, rule):
            return Verdict(rule, untracked=crowded)
        self.hold(flow, item, rule, eligible)
        return Verdict(rule, waits=True, untracked=crowded)

    def reachable(self, row: dict[str, int]) -> list[Rule]:
        """The rules that a packet's flow may fulfil, those that ask for names at any server."""
        if row["flags"] & LATER_FRAGMENT or (row["protocol"] in PORTED and not row["tags"] & PORTS):
            return []
        spoken = {TCP: self.named, UDP: self.quic}.get(row["protocol"], [])
        return [r for r in self.rules if (
            self.holds(replace(lasting(r.match), server=None), row) if r in spoken
            else r not in self.named and self.holds(lasting(r.match), row))]

    def listen(
        self, key: object, flow: Flow, item: Item, segment: Segment, reachable: list[Rule],
        possible: list[Rule], now_ns: int,
    ) -> None:
        """Take in what a packet of the uplink says."""
        talking = [f for f in [*self.silent.values(), *self.telling.values()]
                   if f.uplink.kept is not None]
        if len(talking) >= self.bounds.talks and flow.uplink.kept is None:
            oldest = min(talking, key=lambda f: f.talks)
            self.crowd_out(oldest)
            oldest.uplink.hush()
            self.waiting.pop(next(k for k, f in self.waiting.items() if f is oldest))
        was, doubted = flow.uplink.kept is not None, flow.uplink.doubted
        again = doubted or flow.uplink.told
        found = flow.uplink.hear(segment, item.row["tcp_flags"], now_ns)
        names = [r for r in self.rules if found is not None and named(r.match, found)]
        if found is not None and again:  # as long as all connections name it
            names = [r for r in names if (r.id, "sni") in flow.facts]
            flow.facts -= {f for f in flow.facts if f[1] == "sni"} - {(r.id, "sni") for r in names}
        if names:
            flow.uplink.watch(segment)
        elif found is not None:
            flow.uplink.hush()
        if flow.uplink.contradicted:
            flow.facts = {fact for fact in flow.facts if fact[1] != "sni"}
        talks = flow.uplink.kept is not None
        if talks and not was:
            flow.talks = self.talks = self.talks + 1
        if talks and (not was or (flow.uplink.doubted and not doubted)):
            flow.waits_ns = now_ns
            self.waiting.pop(key, None)
            self.waiting[key] = flow
        flow.facts |= {(r.id, "sni") for r in names}
        flow.contradicted |= any(r in reachable and r not in possible for r in names)

    def may_come(self, flow: Flow, eligible: list[Rule], rule: Rule | None) -> bool:
        """Whether the flow could yet fulfil something that comes before a rule."""
        return any(first([r, rule]) is not rule for r in eligible
                   if r not in covered(flow, [r]) and not (flow.uplink.told and any(
                       (r.id, kind) not in flow.known for kind in r.match.needs
                       if kind in ("sni", "host"))))

    def hold(self, flow: Flow, item: Item, rule: Rule | None, eligible: list[Rule]) -> None:
        cell, flags = self.cell(item.timestamp_ns), item.row["flags"] & KEPT
        group = next((g for g in flow.groups
                      if (g.rule, g.flags, g.cell, g.eligible) == (rule, flags, cell, eligible)),
                     None)
        if group is None:
            group = Group(rule, flags, cell, eligible)
            flow.groups.append(group)
        group.items.append(item)
        while sum(len(f.groups) for f in self.waiting.values()) > self.bounds.held:
            _, oldest = self.waiting.popitem(last=False)
            self.crowd_out(oldest)
            oldest.uplink.hush()

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
            if now_ns - flow.waits_ns <= self.bounds.flow_hold_ns:
                break
            del self.waiting[key]
            self.charge_all(flow)
            flow.uplink.hush()
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


def key_of(item: Item) -> object:
    """A packet's five-tuple as its subscriber sees it, and who that is."""
    row = item.row
    ends = (row["source"], row["destination"])
    return (row["version"], ends[:: -1 if row["direction"] else 1], row["protocol"],
            row["subscriber_port"], row["server_port"], item.subscriber)


def is_another(flow: Flow, item: Item) -> bool:
    """Whether a packet opens another connection than the one that its flow was so far."""
    row, segment = item.row, item.segment
    if row["protocol"] != TCP or not row["tcp_flags"] & SYN:
        return False
    if row["tcp_flags"] & ACK:  # after the server's first answer
        return row["direction"] == 1 and flow.uplink.told and flow.uplink.kept is None and any(
            kind == "sni" for _, kind in flow.facts)
    return row["direction"] == 0 and (
        segment is None or flow.uplink.told
        or flow.uplink.first != (segment.sequence + 1) % 2**32)


def pieces(item: Item) -> list[Segment]:
    """A packet's segment, or the datagrams that it was made of."""
    whole = item.segment
    if whole is None or item.row["protocol"] != UDP or not 0 < whole.piece < 65536:
        return [] if whole is None else [whole]
    return [Segment(0, whole.captured[at : at + whole.piece], min(whole.piece, whole.octets - at))
            for at in range(0, max(whole.octets, 1), whole.piece)]


def covered(flow: Flow, rules: list[Rule]) -> list[Rule]:
    """Those of some rules of which a flow has shown all that they ask for."""
    return [r for r in rules if all((r.id, kind) in flow.known for kind in r.match.needs)]


def lasting(match: Match) -> Match:
    """The conditions that all packets of a flow fulfil, or none."""
    return Match(server=match.server, subscriber=match.subscriber, port=match.port,
                 protocol=match.protocol)


def first(rules: Sequence[Rule | None]) -> Rule | None:
    """The one with the lowest precedence."""
    return min((r for r in rules if r is not None), key=lambda r: r.precedence, default=None)
