"""The nouns that every part shares. Nothing here knows packets, files or databases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import IntEnum
from fractions import Fraction
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    import numpy as np


class Direction(IntEnum):
    """Which way octets flow, seen from the subscriber (TS 29.244)."""

    UPLINK = 0
    DOWNLINK = 1


@dataclass(frozen=True, slots=True)
class Volume:
    """Packets and octets of one bucket."""

    packets: int = 0
    octets: int = 0

    def __add__(self, other: Volume) -> Volume:
        return Volume(self.packets + other.packets, self.octets + other.octets)


@dataclass(frozen=True, slots=True)
class UsageRecord:
    """The traffic of one subscriber under one rule in one window (TS 32.298, TS 29.244).

    A record is a delta. Its key is (source, epoch, sequence): sent again, it changes nothing.
    Octets are of the metered layer; the octets by payer add up to uplink + downlink.
    """

    source: str
    epoch: str
    sequence: int
    window_start: datetime | None  # None: from the beginning (window "all")
    window_end: datetime | None
    subscriber: str  # "10.0.0.7", "2001:db8:0:7::/64", "teid:0x0000beef", "vlan:100.200"
    account: str  # from the directory; the subscriber itself where nobody holds it
    rule: str | None
    rules_version: str
    rating_group: int | None
    sponsor_identity: str | None  # the first sponsor of the rule's split
    asp_identity: str | None
    layer: str
    uplink_packets: int
    uplink_octets: int
    downlink_packets: int
    downlink_octets: int
    subscriber_octets: int
    sponsor_octets: Mapping[str, int] = field(default_factory=dict)
    first_packet_ns: int = 0  # nanoseconds since 1970-01-01 UTC
    last_packet_ns: int = 0
    flags: tuple[str, ...] = ()  # coalesced, mismatch, partial, trusted

    @property
    def key(self) -> tuple[str, str, int]:
        return (self.source, self.epoch, self.sequence)

    @property
    def octets(self) -> int:
        return self.uplink_octets + self.downlink_octets


EventKind = Literal[
    "threshold", "quota_end", "budget_end", "balance_end", "clock_step", "lost"
]
# These come once in a period, whenever they are noticed; the others each time they happen.
ONCE_PER_PERIOD: frozenset[EventKind] = frozenset({"threshold", "quota_end", "budget_end"})


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened while metering and that somebody may have to be told.

    What it does not concern is None. Told again, it is the same event: see `identity`.
    """

    kind: EventKind
    at_ns: int  # when it was noticed, nanoseconds since 1970-01-01 UTC
    source: str
    epoch: str
    subscriber: str | None = None
    account: str | None = None
    rule: str | None = None
    sponsor: str | None = None  # the sponsor's identity
    period_start_ns: int | None = None  # of the quota's, budget's or threshold's period
    octets: int | None = None  # that the sponsor has paid for; of `lost`, the packets
    threshold_octets: int | None = None
    unit: str | None = None  # of the account whose balance came to its end

    @property
    def identity(self) -> tuple[str | int | None, ...]:
        """What makes it this event and no other."""
        return (
            self.kind, self.source, self.epoch, self.subscriber, self.account, self.rule,
            self.sponsor, self.period_start_ns, self.threshold_octets,
            None if self.kind in ONCE_PER_PERIOD else self.at_ns,
            *(() if self.unit is None else (self.unit,)),
        )  # fmt: skip


class TaxPart(NamedTuple):
    """What one tax adds to a charge."""

    tax: str
    account: str  # that gains it
    amount_micros: int  # rounded down, once
    remainder: tuple[int, int] = (0, 1)  # as a charge's


class Charge(NamedTuple):
    """What one account owes for its octets: rated, not yet booked.

    A charge over 0 octets is what a tariff's minimum adds, or gives back as octets are paid for.
    """

    account: str
    currency: str
    amount_micros: int  # millionths of the currency, without taxes, rounded once
    tariff: str
    octets: int
    rated_octets: int  # after rounding up to the tariff's increment
    period_start: datetime | None
    remainder: tuple[int, int] = (0, 1)  # exact amount − amount_micros, a fraction in micros
    taxes: tuple[TaxPart, ...] = ()

    @property
    def total_micros(self) -> int:
        """What the account pays, taxes included."""
        return self.amount_micros + sum(part.amount_micros for part in self.taxes)


@dataclass(frozen=True, slots=True)
class Posting:
    """One line of a transaction: an account gains (+) or loses (−) an amount of one unit."""

    account: str
    unit: str  # "octet", or "CNY/1000000": micro-units of a currency
    amount: int


@dataclass(frozen=True, slots=True, eq=False)
class Quantities:
    """The octets that accounts have to pay for: a row for each payer of a record's time cell."""

    accounts: Sequence[str]  # their names, none twice
    tariffs: Sequence[str]  # likewise
    starts_ns: Sequence[int | None]  # of the time cells; None: from the beginning
    account: np.ndarray  # u4[n], a position in `accounts`, as are the next two in theirs
    tariff: np.ndarray  # u4[n]
    cell: np.ndarray  # u4[n]
    record: np.ndarray  # i8[n], the usage record's sequence
    octets: np.ndarray  # i8[n]


@dataclass(frozen=True, slots=True)
class Tier:
    """Price of the octets from the last tier's end up to `up_to` of a period's total."""

    up_to_octets: int | None  # None: no end
    price: Fraction  # micro-units of the currency per octet


@dataclass(frozen=True, slots=True)
class TimeBand:
    """Prices inside a part of the day, wall time of the meter's zone, half-open."""

    from_s: int  # seconds after midnight
    to_s: int  # may be below from_s: the band crosses midnight
    tiers: tuple[Tier, ...]


@dataclass(frozen=True, slots=True)
class Tax:
    name: str
    rate: Fraction  # of the price without taxes
    account: str  # that gains it


# What a minimum may be paid for, by what octets are rounded per: it holds the latter whole.
MINIMUM_PERIODS: Mapping[str, tuple[str, ...]] = {
    "record": ("record", "session", "day", "month"),
    "session": ("session",),
    "day": ("day", "month"),
}


@dataclass(frozen=True, slots=True)
class Tariff:
    name: str
    currency: str  # ISO 4217
    tiers: tuple[Tier, ...]
    increment_octets: int = 1  # octets are rounded up to its multiples …
    rounding_per: Literal["record", "session", "day"] = "record"  # … once per each of these
    bands: tuple[TimeBand, ...] = ()
    minimum_micros: Fraction = Fraction(0)  # who uses anything pays no less …
    minimum_per: Literal["record", "session", "day", "month"] = "record"  # … in each of these
    taxes: tuple[Tax, ...] = ()  # none is charged on another one
    prices: Literal["net", "gross"] = "net"  # gross: prices and minimum include the taxes
