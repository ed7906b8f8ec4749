"""What the operator agreed with subscribers and sponsors, as frozen values."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Literal, NamedTuple

from ..model import Tariff as Tariff
from ..model import Tax as Tax
from ..model import Tier as Tier
from ..model import TimeBand as TimeBand
from .expression import check

Layer = Literal["ip", "frame", "payload"]
At = Literal["inner", "outer"]
Retransmissions = Literal["charge", "charge_if_identical", "exempt_if_identical"]
Period = Literal["window", "day", "month", "session"]
PoolKey = Literal["address", "gtp_teid", "vlan", "pppoe_session", "mac"]
CLAIMS = ("dscp", "flow_label", "sni", "host")
# Conditions that no packet fulfils by its headers: its flow does.
SPOKEN = ("sni", "host", "dns", "token")


class Prefix(NamedTuple):
    """An address prefix; `value` holds the address as an integer, host bits cleared."""

    version: int  # 4 or 6
    value: int  # 32 or 128 bits
    length: int


class Tenure(NamedTuple):
    """Who holds a prefix, from one instant up to (not including) another."""

    prefix: Prefix
    account: str
    valid_from_ns: int | None  # nanoseconds since 1970-01-01 UTC; None: always has
    valid_to_ns: int | None  # None: still does


@dataclass(frozen=True, slots=True)
class Pool:
    """Prefixes whose addresses are subscribers, and what makes one of them."""

    prefixes: tuple[Prefix, ...]
    ipv4_key: int = 32  # prefix length
    ipv6_key: int = 64
    key: PoolKey = "address"
    tenures: tuple[Tenure, ...] = ()  # the directory
    tariff: str | None = None
    directory: str | None = None  # its file, beside the rules

    @property
    def held_by_packet(self) -> bool:
        """Whether the holder is looked up for each packet, by its address and its time.

        Otherwise the subscriber's key says who holds it, and one look-up a subscriber will do.
        """
        return bool(self.tenures) and (
            self.key != "address"
            or any(t.valid_from_ns is not None or t.valid_to_ns is not None for t in self.tenures)
        )


@dataclass(frozen=True, slots=True)
class Budget:
    """What a sponsor pays for at most, over all subscribers."""

    octets: int
    per: Literal["day", "month"] | None = None  # None: for the whole campaign


@dataclass(frozen=True, slots=True)
class Sponsor:
    identity: str  # its key in the rules file
    account: str
    asp_identity: str | None = None
    budget: Budget | None = None
    tariff: str | None = None


def sponsor_digest(identity: str) -> bytes:
    """SHA-256 of a sponsor's identity; its first four octets stand for him in a token."""
    return hashlib.sha256(identity.encode()).digest()


@dataclass(frozen=True, slots=True)
class Split:
    """One sponsor's part: ⌊T · share⌋ of the rule's running total T, at most the quota."""

    sponsor: str
    share: Fraction = Fraction(1)  # of the rule's whole total, 0 < share ≤ 1
    quota_octets: int | None = None
    # Of the sponsor's octets: reaching one raises an event (volume threshold, TS 29.244 §8.2.13).
    threshold_octets: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Ingress:
    """An interface through which packets arrive, and whether its marks can be believed."""

    name: str
    interface: str  # capture interface name; "*" is any
    trusted: bool = False


@dataclass(frozen=True, slots=True)
class Match:
    """Conditions; all that are given must hold. None: no such condition.

    Numbers are sets of allowed values; `port` is the server's port, as inclusive ranges.
    """

    server: tuple[Prefix, ...] | None = None
    subscriber: tuple[Prefix, ...] | None = None  # the subscriber's own address
    port: tuple[tuple[int, int], ...] | None = None
    protocol: frozenset[int] | None = None  # IANA protocol numbers
    direction: Literal["uplink", "downlink", "both"] = "both"
    dscp: frozenset[int] | None = None
    flow_label: frozenset[int] | None = None
    vlan: frozenset[int] | None = None  # outermost 802.1Q VID
    vlan_inner: frozenset[int] | None = None  # the second one
    mpls: frozenset[int] | None = None  # top label
    gtp_teid: frozenset[int] | None = None
    qfi: frozenset[int] | None = None
    gre_key: frozenset[int] | None = None
    vni: frozenset[int] | None = None
    ingress: str | None = None
    where: str | None = None  # an expression over the packet row's fields
    sni: tuple[str, ...] | None = None  # names; "*.x" is what lies below x, "x" is x and that
    host: tuple[str, ...] | None = None
    dns: tuple[str, ...] | None = None
    token: frozenset[str] | None = None  # identities of sponsors
    ech: bool = False  # believe a hello's outer name even where it may hide another
    sticky: bool = False  # what one packet fulfils, its whole flow has fulfilled
    marks: str | None = None  # the file that gave server and tag, and gives others tomorrow

    @property
    def claims(self) -> tuple[str, ...]:
        """The conditions that a user's own packets can fulfil at will (accounting §4)."""
        used = check(self.where) if self.where is not None else ()
        return tuple(n for n in CLAIMS if getattr(self, n) is not None or n in used)

    @property
    def needs(self) -> tuple[str, ...]:
        """The kinds of facts that a flow must have shown; none: packets match by themselves."""
        spoken = tuple(n for n in SPOKEN if getattr(self, n) is not None)
        return ("packet", *spoken) if self.sticky else spoken

    @property
    def is_spoken(self) -> bool:
        """Whether no packet matches by its headers alone."""
        return any(getattr(self, n) is not None for n in SPOKEN)


@dataclass(frozen=True, slots=True)
class Rule:
    id: str
    precedence: int  # lower first (TS 29.244 §8.2.11), unique
    match: Match
    splits: tuple[Split, ...]  # nested two-way splits, in order
    per: Period = "window"  # the period over which T runs
    rating_group: int | None = None
    unverified: bool = False
    tariff: str | None = None
    line: int = 0  # where it stands in its file


@dataclass(frozen=True, slots=True)
class Meter:
    layer: Layer = "ip"
    at: At = "inner"
    window_s: int | None = None  # None: "all"; a divisor of a day, or a day
    window_month: bool = False  # window = "1mo"
    zone: str = "UTC"
    # Only tunnels between two of these addresses are looked into; None: every tunnel is.
    tunnel_endpoints: tuple[Prefix, ...] | None = None
    resolvers: tuple[Prefix, ...] = ()  # whose answers are believed
    retransmissions: Retransmissions = "charge"
    duplicates_ns: int = 0  # how long a packet's copies may come after it; 0: none is one
    unsolicited: bool = False  # note what comes to subscribers who did not ask for it

    @property
    def remembers(self) -> bool:
        """Whether what becomes of a packet depends on packets before, whatever the rules ask."""
        return self.retransmissions != "charge" or self.duplicates_ns > 0 or self.unsolicited


@dataclass(frozen=True, slots=True)
class RuleSet:
    """A parsed rules file. `rules` are in order of precedence."""

    path: str
    version: str  # "sha256:…" over the file and every file that it names
    meter: Meter = Meter()
    pools: tuple[Pool, ...] = ()
    sponsors: dict[str, Sponsor] = field(default_factory=dict)
    rules: tuple[Rule, ...] = ()
    tariffs: dict[str, Tariff] = field(default_factory=dict)
    ingresses: dict[str, Ingress] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    # Files of keys, as the rules name them. Never read with the rules: what they hold stays there.
    token_keys: tuple[str, ...] = ()
    # What the rules file ("") and the files that it names held.
    content: Mapping[str, bytes] = field(default_factory=dict, repr=False, compare=False)
