"""Why a packet falls under a rule: each rule's conditions beside what the packet says."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Any

from tollsplit.cext.layout import TAGS
from tollsplit.rules.expression import FIELDS, check, evaluate
from tollsplit.rules.facts import Facts
from tollsplit.rules.rule import Match, Prefix, Rule, RuleSet

UPLINK, DOWNLINK = 0, 1  # direction_e

# A field of the row, and the tag without which it does not exist.
_NUMBERS = {
    "protocol": None, "dscp": None, "flow_label": "flow_label", "vlan": "vlan",
    "vlan_inner": "vlan_inner", "mpls": "mpls", "gtp_teid": "gtp_teid", "qfi": "qfi",
    "gre_key": "gre_key", "vni": "vni",
}  # fmt: skip
_TAGGED = {name: tag for name, tag in FIELDS.items() if tag not in (None, "ports")}
_SHOWN_MAX = 4  # values of a long condition that are spelled out
_HEXADECIMAL = frozenset({"gtp_teid", "flow_label", "gre_key"})


# Whether a flow has shown what no packet fulfils by its headers.
_SAID = {
    "host": ("its request is for such a host", "its request is for no such host"),
    "dns": ("its server had such a name", "its server had no such name"),
    "token": ("its flow has brought such a token", "its flow has brought no such token"),
}
# Those that a packet waits for, and those in which packets of a flow do not differ.
_COMING = frozenset({"sni", "host", "token"})
_FIXED = frozenset({"server", "subscriber", "port", "protocol", "dns"})


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of a packet's flow."""

    facts: int  # a bit each, as Facts numbers them
    sni: bytes  # the name that it has said last
    host: bytes  # whom its last request was for
    doubted: bool  # several connections of it do not agree on a name


@dataclass(frozen=True, slots=True)
class Condition:
    """One condition of a rule, and whether a packet fulfils it."""

    name: str
    expected: str
    found: str
    holds: bool


@dataclass(frozen=True, slots=True)
class Judgement:
    """A rule beside a packet; it matches when all conditions hold."""

    rule: Rule
    conditions: tuple[Condition, ...]

    @property
    def holds(self) -> bool:
        return all(condition.holds for condition in self.conditions)

    @property
    def may_hold_yet(self) -> bool:
        """Whether what it lacks may come after the packet, in the packet's flow."""
        missing = {condition.name for condition in self.conditions if not condition.holds}
        other = missing - _COMING
        return bool(missing) and (not other or (self.rule.match.sticky and not other & _FIXED))


@dataclass(frozen=True, slots=True)
class Side:
    """One packet seen from one subscriber; a packet between two has two sides."""

    subscriber: str
    account: str
    direction: str
    judgements: tuple[Judgement, ...]  # by precedence
    rule: Rule | None  # the first that holds
    octets: int
    period_start_ns: int  # of the running total; 0: the beginning
    before: int  # the running total before the packet
    sponsor_octets: tuple[tuple[str, int], ...]  # of this packet, by sponsor in order
    mismatch: bool
    suspicious: bool

    @property
    def subscriber_octets(self) -> int:
        return self.octets - sum(octets for _, octets in self.sponsor_octets)


@dataclass(frozen=True, slots=True)
class Explanation:
    """What became of one packet, and why."""

    number: int  # 1 is the first
    bucket: str  # "metered", …, "fault:truncated"
    fields: tuple[tuple[str, str], ...]  # of the row, in order, those that the packet has
    sides: tuple[Side, ...]


def fields(row: Any) -> tuple[tuple[str, str], ...]:
    """What a row of PACKET says, as text."""
    version = int(row["version"])
    said: list[tuple[str, str]] = []
    if version:
        for end in ("source", "destination"):
            text = address_text(version, int(row[f"{end}_hi"]), int(row[f"{end}_lo"]))
            port = number_of(row, f"{end}_port", "ports")
            said.append((end, text if port is None else f"{text} port {port}"))
        said += [(name, str(int(row[name]))) for name in ("protocol", "dscp", "ttl")]
    for name, tag in _TAGGED.items():
        number = number_of(row, name, tag)
        if number is not None:
            said.append((name, _spelled(name, number)))
    said.append(("octets", f"{int(row['octets']):,}"))
    said.append(("frame_octets", f"{int(row['frame_octets']):,}"))
    if version:
        said += [(name, f"{int(row[name]):,}") for name in
                 ("ip_octets", "payload_octets", "tunnel_octets")]
        said.append(("ip_headers", str(int(row["depth"]))))
    return tuple(said)


def judge(rules: RuleSet, row: Any, known: Known) -> tuple[Judgement, ...]:
    """Every rule, by precedence, beside one metered row of PACKET."""
    facts = Facts.of(rules.rules)
    needs = dict(facts.rules)
    judgements = []
    for index, rule in enumerate(rules.rules):
        met = needs.get(index, 0) & known.facts
        told = {kind for kind, bits in facts.kinds.items() if met & bits}
        judgements.append(Judgement(rule, (
            *_conditions(rule.match, row, rules), *_of_flow(rule.match, told, known))))
    return tuple(judgements)


def address_text(version: int, hi: int, lo: int) -> str:
    """An address as the row holds it."""
    return str(IPv4Address(lo) if version == 4 else IPv6Address(hi << 64 | lo))


def number_of(row: Any, name: str, tag: str | None) -> int | None:
    """A field's value; None where the packet has no such field."""
    if tag is not None and not int(row["tags"]) & TAGS[tag]:
        return None
    return int(row[name])


def _conditions(match: Match, row: Any, rules: RuleSet) -> Iterator[Condition]:
    if match.server is not None:
        yield _address("server", match.server, row)
    if match.subscriber is not None:
        yield _address("subscriber", match.subscriber, row)
    if match.port is not None:
        port = number_of(row, "server_port", "ports")
        holds = port is not None and any(low <= port <= high for low, high in match.port)
        ranges = [str(low) if low == high else f"{low}-{high}" for low, high in match.port]
        yield Condition("port", _listed(ranges), _found(port), holds)
    if match.direction != "both":
        found = "uplink" if row["direction"] == UPLINK else "downlink"
        yield Condition("direction", match.direction, found, found == match.direction)
    for name, tag in _NUMBERS.items():
        wanted: frozenset[int] | None = getattr(match, name)
        if wanted is not None:
            number = number_of(row, name, tag)
            spelled = [_spelled(name, value) for value in sorted(wanted)]
            found = "none" if number is None else _spelled(name, number)
            yield Condition(name, _listed(spelled), found, number in wanted)
    if match.ingress is not None:
        names = ("none", *rules.ingresses)
        found = names[int(row["ingress"])]
        yield Condition("ingress", match.ingress, found, found == match.ingress)
    if match.where is not None:
        numbers = {name: number_of(row, name, FIELDS[name]) for name in check(match.where)}
        used = ", ".join(f"{name} {_found(number)}" for name, number in numbers.items())
        yield Condition("where", " ".join(match.where.split()), used, evaluate(match.where, row))


def _of_flow(match: Match, told: set[str], known: Known) -> Iterator[Condition]:
    """What no packet fulfils by its headers, and whether the packet's flow has."""
    for kind in ("sni", *_SAID):
        wanted: Collection[str] | None = getattr(match, kind)
        if wanted is not None:
            listed = _listed(sorted(wanted)[:_SHOWN_MAX], len(wanted))
            found = _said(known) if kind == "sni" else _SAID[kind][kind not in told]
            if kind == "host" and known.host:
                found += f"; the last one was for {known.host.decode('ascii', 'replace')}"
            yield Condition(kind, listed, found, kind in told)


def _said(known: Known) -> str:
    """The name that a flow has said."""
    if not known.sni:
        return "its flow has said no name"
    doubt = ", and is in doubt" if known.doubted else ""
    return f"its flow has said {known.sni.decode('ascii', 'replace')}{doubt}"


def _address(name: str, prefixes: tuple[Prefix, ...], row: Any) -> Condition:
    is_destination = (row["direction"] == UPLINK) == (name == "server")
    end = "destination" if is_destination else "source"
    version, hi, lo = int(row["version"]), int(row[f"{end}_hi"]), int(row[f"{end}_lo"])
    address, bits = (lo, 32) if version == 4 else (hi << 64 | lo, 128)
    covering = [
        prefix for prefix in prefixes
        if prefix.version == version and (address ^ prefix.value) >> (bits - prefix.length) == 0]
    shown = covering or prefixes
    return Condition(name, _listed([_prefix_text(prefix) for prefix in shown[:_SHOWN_MAX]],
                                       len(shown)), address_text(version, hi, lo), bool(covering))


def _prefix_text(prefix: Prefix) -> str:
    hi, lo = divmod(prefix.value, 1 << 64)
    return f"{address_text(prefix.version, hi, lo)}/{prefix.length}"


def _listed(values: list[str], count: int | None = None) -> str:
    left = (len(values) if count is None else count) - _SHOWN_MAX
    return " ".join(values[:_SHOWN_MAX]) + (f" and {left:,} more" if left > 0 else "")


def _spelled(name: str, number: int) -> str:
    return f"0x{number:x}" if name in _HEXADECIMAL else str(number)


def _found(number: int | None) -> str:
    return "none" if number is None else str(number)
