"""The whole of accounting, one packet after the other."""

from __future__ import annotations

import ipaddress
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from fractions import Fraction
from math import floor
from typing import Any, NamedTuple

from tollsplit.engine.bounds import Bounds
from tollsplit.engine.reference.calendar import DAY_S, SECOND_NS, Unit, span
from tollsplit.engine.reference.datagrams import Clock, Datagrams, Item
from tollsplit.engine.reference.flows import Flows
from tollsplit.engine.reference.packet import (
    COALESCED,
    MISMATCH,
    PARTIAL,
    TRUSTED,
    Datagram,
    Segment,
    inside,
)
from tollsplit.engine.reference.repeats import Content, Repeats, content_of
from tollsplit.engine.reference.rows import (
    CONTROL,
    FAULT,
    FAULTS,
    METERED,
    NON_IP,
    PORTS,
    TAGS,
    read,
)
from tollsplit.rules.expression import evaluate
from tollsplit.rules.rule import At, Layer, Match, Pool, Rule, RuleSet

UPLINK, DOWNLINK = 0, 1
FLAG_NAMES = {COALESCED: "coalesced", MISMATCH: "mismatch", PARTIAL: "partial", TRUSTED: "trusted"}
# The order of subscribers in a bill; addresses come by their version before all others.
KINDS = ("gtp_teid", "vlan", "pppoe_session", "mac")
Row = dict[str, int]
BOUNDS = Bounds()
# timestamp_ns, captured octets, original length, link type, ingress, octets of a segment
Frame = tuple[int, bytes, int, int, int, int]


class Subscriber(NamedTuple):
    """One end that is billed; a change of holder makes another of it."""

    kind: int  # 4, 6, or 10 and up: KINDS
    value: tuple[int, ...]
    pool: int = 0
    tenure: int = 0  # 1 + index into the pool's directory; 0: nobody holds it
    length: int = 0  # of the key's prefix

    def __str__(self) -> str:
        value = self.value[-1]
        if self.kind in (4, 6):
            bits = 32 if self.kind == 4 else 128
            text = str(ipaddress.IPv4Address(value) if bits == 32 else ipaddress.IPv6Address(value))
            return text if self.length == bits else f"{text}/{self.length}"
        kind = KINDS[self.kind - 10]
        if kind == "gtp_teid":
            return f"teid:0x{value:08x}"
        if kind == "vlan":
            return f"vlan:{self.value[0]}" + (f".{value - 1}" if value else "")
        if kind == "pppoe_session":
            return f"pppoe:0x{value:04x}"
        return "mac:" + value.to_bytes(6, "big").hex(":")


class Key(NamedTuple):
    """What one usage record is about. Sorts as records stand in the document."""

    window_start: int
    subscriber: Subscriber
    precedence: int | float  # infinite: no rule


@dataclass
class Record:
    rule: Rule | None
    account: str
    window: tuple[int | None, int | None]
    packets: list[int] = field(default_factory=lambda: [0, 0])  # uplink, downlink
    octets: list[int] = field(default_factory=lambda: [0, 0])
    flags: int = 0
    first_ns: int = 2**63
    last_ns: int = 0
    sponsor_octets: dict[str, int] = field(default_factory=dict)


class Volume(dict[str, int]):
    def __init__(self) -> None:
        super().__init__(packets=0, octets=0)

    def count(self, octets: int, counts: bool = True) -> None:
        self["packets"] += counts
        self["octets"] += octets * counts


def account(
    frames: Iterable[Frame], rules: RuleSet, *, layer: Layer | None = None, at: At | None = None,
    trust_ip_length: bool = False, prior: Mapping[tuple[str, str, str, int], int] = {},
    spent: Mapping[tuple[str, int], int] = {}, bounds: Bounds = BOUNDS,
) -> dict[str, Any]:
    """The figures of `tollsplit account --format json`, without charges and times.

    prior   octets that earlier runs booked, by (subscriber, account, rule, start of period in ns)
    spent   … of a sponsor's budget, by (sponsor, start of period in ns; 0: the campaign)
    bounds  how much is remembered of packets
    """
    bill = Bill(rules, layer or rules.meter.layer, at or rules.meter.at, bounds)
    for timestamp_ns, octets, original, link_type, ingress, segment_octets in frames:
        row, datagram, segment = read(
            octets, original, link_type, layer=bill.layer, at=bill.at,
            trust_ip_length=trust_ip_length, endpoints=rules.meter.tunnel_endpoints,
            segment_octets=segment_octets)
        content = content_of(
            octets, original, link_type, at=bill.at, endpoints=rules.meter.tunnel_endpoints,
            trust_ip_length=trust_ip_length,
            segment_octets=segment_octets) if rules.meter.remembers else None
        bill.count(row, datagram, segment, timestamp_ns, ingress,
                   octets if link_type == 1 else b"", content)
    bill.finish()
    bill.split(prior, spent)
    return bill.document()


def subscriber_at(
    rules: RuleSet, row: Row, address: int, mac: bytes, timestamp_ns: int
) -> tuple[Subscriber, str] | None:
    """The subscriber at one end of a packet and the account that pays for it, if there is one.

    The pool is that with the longest prefix around the address, the first of equals.
    """
    version = row["version"]
    around = [(prefix.length, -number, pool) for number, pool in enumerate(rules.pools)
              for prefix in pool.prefixes if inside(version, address, (prefix,))]
    if not around:
        return None
    _, number, pool = max(around, key=lambda item: item[:2])
    kind, value, length = key_of(pool, row, address, mac)
    tenure = holder(pool, version, address, timestamp_ns)
    subscriber = Subscriber(kind, value, -number, tenure, length)
    return subscriber, pool.tenures[tenure - 1].account if tenure else str(subscriber)


def key_of(pool: Pool, row: Row, address: int, mac: bytes) -> tuple[int, tuple[int, ...], int]:
    """What makes a subscriber in a pool; the address where a packet lacks the pool's tag."""
    if pool.key == "mac" and mac:
        return 10 + KINDS.index("mac"), (int.from_bytes(mac, "big"),), 0
    if row["tags"] & TAGS.get(pool.key, 0):
        value: tuple[int, ...] = (row[pool.key],)
        if pool.key == "vlan":
            value = (*value, 1 + row["vlan_inner"] if row["tags"] & TAGS["vlan_inner"] else 0)
        return 10 + KINDS.index(pool.key), value, 0
    bits, length = (32, pool.ipv4_key) if row["version"] == 4 else (128, pool.ipv6_key)
    return row["version"], (address >> (bits - length) << (bits - length),), length


def holder(pool: Pool, version: int, address: int, timestamp_ns: int) -> int:
    """Who holds an address at an instant: the longest prefix that is valid then; 0: nobody.

    The number is that of the account's first tenure: who comes back is the same subscriber.
    """
    valid = [
        (t.prefix.length, number) for number, t in enumerate(pool.tenures, 1)
        if inside(version, address, (t.prefix,))
        and (t.valid_from_ns is None or t.valid_from_ns <= timestamp_ns)
        and (t.valid_to_ns is None or timestamp_ns < t.valid_to_ns)
    ]
    if not valid:
        return 0
    account = pool.tenures[max(valid)[1] - 1].account
    return 1 + [t.account for t in pool.tenures].index(account)


def holds(match: Match, row: Row, rules: RuleSet, *, server: bool = True) -> bool:
    """Whether all conditions of a rule hold; `server` False: all but that one."""
    if server and match.server is not None and not inside(
            row["version"], row["server"], match.server):
        return False
    if match.subscriber is not None and not inside(
            row["version"], row["near"], match.subscriber):
        return False
    if match.port is not None and not (row["tags"] & PORTS and any(
            low <= row["server_port"] <= high for low, high in match.port)):
        return False
    if match.direction != "both" and row["direction"] != ("uplink", "downlink").index(
            match.direction):
        return False
    if match.protocol is not None and row["protocol"] not in match.protocol:
        return False
    if match.dscp is not None and row["dscp"] not in match.dscp:
        return False
    if match.flow_label is not None and (
            row["version"] != 6 or row["flow_label"] not in match.flow_label):
        return False
    for tag in ("vlan", "vlan_inner", "mpls", "gtp_teid", "qfi", "gre_key", "vni"):
        allowed = getattr(match, tag)
        if allowed is not None and not (row["tags"] & TAGS[tag] and row[tag] in allowed):
            return False
    if match.ingress is not None:
        numbers = {name: n for n, name in enumerate(rules.ingresses, 1)}
        if row["ingress"] != numbers[match.ingress]:
            return False
    return match.where is None or evaluate(match.where, row)


def asks_transport(rules: RuleSet) -> bool:
    """Whether some rule asks for what only the first fragment of a datagram has, or for flows, or
    the meter for what was met before."""
    return rules.meter.remembers or any(
        rule.match.needs or rule.match.port is not None or rule.match.protocol is not None
        or any(name in (rule.match.where or "") for name in ("port", "protocol", "tcp_flags"))
        for rule in rules.rules)


class Bill:
    """Counters of one run, and what becomes of them."""

    def __init__(self, rules: RuleSet, layer: Layer, at: At, bounds: Bounds) -> None:
        self.rules = rules
        self.layer = layer
        self.at = at
        meter = rules.meter
        self.unit: Unit = "month" if meter.window_month else meter.window_s  # a window's length
        self.buckets = {name: Volume() for name in (
            "seen", "metered", "metered_twice", "unattributed", "non_ip", "control", "duplicate",
            "retransmitted", "coalesced", "mismatch", "overlapping", "untracked", "suspicious",
            "unsolicited")}
        self.clock = Clock()
        self.datagrams = Datagrams(bounds) if asks_transport(rules) else None
        self.flows = Flows(
            rules.rules, lambda match, row: holds(match, row, rules),
            lambda at_ns: span(rules.meter.zone, self.unit, at_ns)[0] or 0, bounds)
        self.repeats = Repeats(meter, bounds)
        self.faults: dict[str, Volume] = {}
        self.tunnel_overhead_octets = 0
        self.records: dict[Key, Record] = {}
        # Octets of each record by the periods that its split and its budgets run over.
        self.cells: dict[Key, dict[tuple[int, ...], int]] = defaultdict(lambda: defaultdict(int))

    # --- counting ------------------------------------------------------------------------

    def count(
        self, row: Row, datagram: Datagram | None, segment: Segment | None, timestamp_ns: int,
        ingress: int, ethernet: bytes, content: Content | None,
    ) -> None:
        """Put a frame into its bucket, and each subscriber's packet into a record, now or later."""
        now_ns = self.clock.advance(timestamp_ns)
        if self.datagrams is not None:
            self.datagrams.expire(now_ns)
        self.flows.expire(now_ns)
        octets = row["octets"]
        self.buckets["seen"].count(octets)
        if row["bucket"] in (METERED, CONTROL):
            copy, crowded = self.repeats.is_copy(row, content, now_ns)
            self.buckets["untracked"].count(octets, crowded)
            if copy:
                self.buckets["duplicate"].count(octets)
                return
        self.tunnel_overhead_octets += row["tunnel_octets"]
        if row["bucket"] == FAULT:
            self.faults.setdefault(FAULTS[row["fault"]], Volume()).count(octets)
            return
        if row["bucket"] != METERED:
            self.buckets[{NON_IP: "non_ip", CONTROL: "control"}[row["bucket"]]].count(octets)
            return
        found = list(self.ends(row, timestamp_ns, ingress, ethernet))
        brings = self.repeats.brings(found[0], content, now_ns) if found else "new"
        if brings == "same":
            self.buckets["retransmitted"].count(octets)
            return
        self.buckets["coalesced"].count(octets, bool(row["flags"] & COALESCED))
        for item in found:
            item.segment = segment
            item.suspicious = brings == "other"
            self.buckets["metered"].count(octets)
            self.buckets["suspicious"].count(octets, item.suspicious)
            self.buckets["untracked"].count(octets, brings == "untracked")
        if not found:
            self.buckets["unattributed"].count(octets)
        elif len(found) == 2:
            self.buckets["metered_twice"].count(octets)
        for item in reversed(found):
            if not self.waits(item, datagram):
                self.meter(item)
        self.meter_decided()

    def ends(
        self, row: Row, timestamp_ns: int, ingress: int, ethernet: bytes
    ) -> Iterator[Item]:
        """A packet as each of its subscribers has it."""
        ends = (("source", "destination", ethernet[6:12]),
                ("destination", "source", ethernet[:6]))
        for direction, (near, far, mac) in enumerate(ends):
            end = subscriber_at(self.rules, row, row[near], mac, timestamp_ns)
            if end is not None:
                seen = row | {
                    "direction": direction, "ingress": ingress, "server": row[far],
                    "near": row[near],
                    "server_port": row[f"{far}_port"], "subscriber_port": row[f"{near}_port"]}
                yield Item(seen, timestamp_ns, *end)

    def waits(self, item: Item, datagram: Datagram | None) -> bool:
        """Whether a packet has to wait for its datagram's first fragment."""
        if datagram is None or self.datagrams is None:
            return False
        waits, overlaps = self.datagrams.meet(item, datagram, self.clock.now_ns)
        if overlaps:
            self.buckets["overlapping"].count(item.row["octets"])
        return waits

    def meter_decided(self) -> None:
        for item in self.datagrams.take() if self.datagrams is not None else ():
            if item.untracked:
                self.buckets["untracked"].count(item.row["octets"])
                item.untracked = False
            self.meter(item)
        for item, rule in self.flows.take():
            if item.untracked:
                self.buckets["untracked"].count(item.row["octets"])
            self.record(item, rule, item.row["flags"] & (COALESCED | PARTIAL | TRUSTED))

    def finish(self) -> None:
        """No more packets come: what waits is decided by what is known of it."""
        if self.datagrams is not None:
            self.datagrams.release()
            self.meter_decided()
        self.flows.release()
        self.meter_decided()

    def meter(self, item: Item) -> None:
        """Find a packet's rule, and add it to its record, unless it waits for its flow."""
        row = item.row
        heard = self.repeats.hear(item, self.clock.now_ns)
        if heard is not None:
            self.buckets[heard].count(row["octets"])
        if item.suspicious:
            self.record(item, None, row["flags"] & (COALESCED | PARTIAL | TRUSTED))
            return
        alone = [r for r in self.rules.rules if not r.match.is_spoken]
        rule = next((r for r in alone if holds(r.match, row, self.rules)), None)
        flags = row["flags"] & (COALESCED | PARTIAL | TRUSTED)
        mismatch = rule is None and any(
            r.match.claims and r.match.server is not None
            and holds(r.match, row, self.rules, server=False) for r in alone)
        verdict = self.flows.follow(item, rule, mismatch, self.clock.now_ns)
        if verdict.untracked:
            self.buckets["untracked"].count(row["octets"])
        if verdict.waits:
            return
        rule = verdict.rule
        if verdict.mismatch:
            flags |= MISMATCH
            self.buckets["mismatch"].count(row["octets"])
        self.record(item, rule, flags)

    def record(self, item: Item, rule: Rule | None, flags: int) -> None:
        """Add a packet to its record."""
        row, timestamp_ns, subscriber = item.row, item.timestamp_ns, item.subscriber
        window = span(self.rules.meter.zone, self.unit, timestamp_ns)
        key = Key(window[0] or 0, subscriber, rule.precedence if rule else float("inf"))
        record = self.records.setdefault(key, Record(rule, item.account, window))
        record.packets[row["direction"]] += 1
        record.octets[row["direction"]] += row["octets"]
        record.flags |= flags
        record.first_ns = min(record.first_ns, timestamp_ns)
        record.last_ns = max(record.last_ns, timestamp_ns)
        if rule is not None:
            periods = [self.period(rule.per, timestamp_ns, key)]
            for split in rule.splits:
                budget = self.rules.sponsors[split.sponsor].budget
                periods.append(self.period(budget.per if budget else None, timestamp_ns, key))
            self.cells[key][tuple(periods)] += row["octets"]

    def period(self, per: str | None, timestamp_ns: int, key: Key) -> int:
        """The start of a period; 0 where it is the whole input or campaign."""
        if per == "window":
            return key.window_start
        units: dict[str | None, Unit] = {"day": DAY_S, "month": "month"}
        return span(self.rules.meter.zone, units.get(per), timestamp_ns)[0] or 0

    # --- splitting -----------------------------------------------------------------------

    def split(
        self, prior: Mapping[tuple[str, str, str, int], int], spent: Mapping[tuple[str, int], int]
    ) -> None:
        """Give each record's octets to its payers: shares and quotas, then budgets."""
        totals: dict[tuple[Subscriber, str, int], int] = {}
        # Octets asked of a sponsor, by (budget's period, window), then by record.
        demands: dict[str, dict[tuple[int, int], dict[Key, int]]] = {}
        for key in sorted(self.records):
            record = self.records[key]
            rule = record.rule
            for periods in sorted(self.cells[key]) if rule else ():
                assert rule is not None
                total_key = key.subscriber, rule.id, periods[0]
                before = totals.get(total_key)
                if before is None:
                    who = str(key.subscriber), record.account
                    before = prior.get((*who, rule.id, periods[0]), 0)
                after = totals[total_key] = before + self.cells[key][periods]
                for split, start, old, new in zip(
                        rule.splits, periods[1:], shares(rule, before), shares(rule, after),
                        strict=True):
                    pieces = demands.setdefault(split.sponsor, {})
                    piece = pieces.setdefault((start, key.window_start), {})
                    piece[key] = piece.get(key, 0) + new - old
        for sponsor, pieces in demands.items():
            budget = self.rules.sponsors[sponsor].budget
            left: dict[int, int] = {}
            for start, window_start in sorted(pieces):
                granted = pieces[start, window_start]
                if budget is not None:
                    unspent = max(0, budget.octets - spent.get((sponsor, start), 0))
                    granted = grant(granted, left.setdefault(start, unspent))
                    left[start] -= sum(granted.values())
                for key, octets in granted.items():
                    paid = self.records[key].sponsor_octets
                    paid[sponsor] = paid.get(sponsor, 0) + octets

    # --- the document --------------------------------------------------------------------

    def document(self) -> dict[str, Any]:
        usage = [self.usage(key, self.records[key]) for key in sorted(self.records)]
        sponsor_octets: dict[str, int] = defaultdict(int)
        for record in usage:
            for sponsor, octets in record["sponsor_octets"].items():
                sponsor_octets[sponsor] += octets
        counted = self.buckets
        return {
            "rules_version": self.rules.version, "layer": self.layer, "at": self.at, **counted,
            "metered": {
                **counted["metered"],
                "subscriber_octets": sum(r["subscriber_octets"] for r in usage),
                "sponsor_octets": dict(sponsor_octets)},
            "faults": self.faults, "tunnel_overhead_octets": self.tunnel_overhead_octets,
            "lost": {"kernel": 0, "interface": 0}, "identity": {"holds": self.identity_holds()},
            "usage": usage}

    def identity_holds(self) -> bool:
        """seen = metered − metered twice + unattributed + non-IP + control + faults."""
        parts = [self.buckets[name] for name in (
            "metered", "unattributed", "non_ip", "control", "duplicate", "retransmitted")]
        return all(
            self.buckets["seen"][unit] + self.buckets["metered_twice"][unit]
            == sum(part[unit] for part in (*parts, *self.faults.values()))
            for unit in ("packets", "octets"))

    def usage(self, key: Key, record: Record) -> dict[str, Any]:
        rule = record.rule
        sponsor = self.rules.sponsors[rule.splits[0].sponsor] if rule and rule.splits else None
        return {
            "window_start": moment(record.window[0]), "window_end": moment(record.window[1]),
            "subscriber": str(key.subscriber), "account": record.account,
            "rule": rule.id if rule else None,
            "rating_group": rule.rating_group if rule else None,
            "sponsor_identity": sponsor.identity if sponsor else None,
            "asp_identity": sponsor.asp_identity if sponsor else None,
            "uplink_packets": record.packets[UPLINK], "uplink_octets": record.octets[UPLINK],
            "downlink_packets": record.packets[DOWNLINK],
            "downlink_octets": record.octets[DOWNLINK],
            "subscriber_octets": sum(record.octets) - sum(record.sponsor_octets.values()),
            "sponsor_octets": {s: n for s, n in record.sponsor_octets.items() if n},
            "first_packet_ns": record.first_ns, "last_packet_ns": record.last_ns,
            "flags": [name for flag, name in FLAG_NAMES.items() if record.flags & flag]}


def shares(rule: Rule, total: int) -> list[int]:
    """What each split of a rule pays of a running total: nested floors, then quotas."""
    paid = []
    rest, share_left = total, Fraction(1)
    for split in rule.splits:
        part = floor(rest * split.share / share_left) if share_left else 0
        rest -= part
        share_left -= split.share
        paid.append(part if split.quota_octets is None else min(part, split.quota_octets))
    return paid


def grant(demands: Mapping[Key, int], left: int) -> dict[Key, int]:
    """What is left of a budget, pro rata by largest remainder; ties in the records' order."""
    wanted = sum(demands.values())
    if wanted <= left:
        return dict(demands)
    granted = {key: demand * left // wanted for key, demand in demands.items()}
    remainders = sorted(demands, key=lambda key: (-(demands[key] * left % wanted), key))
    for key in remainders[: left - sum(granted.values())]:
        granted[key] += 1
    return granted


def moment(instant_ns: int | None) -> str | None:
    if instant_ns is None:
        return None
    return datetime.fromtimestamp(instant_ns // SECOND_NS, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
