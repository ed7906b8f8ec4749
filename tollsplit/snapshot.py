"""What a live run shows of itself: its figures at one instant, and what happened to it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from .model import Volume

NoticeKind = Literal[
    "interface", "rules", "rules_refused", "journal", "booking", "recovered", "export",
    "sessions",
]


@dataclass(frozen=True, slots=True)
class Notice:
    """Something about the run itself that its operator should read; see model.Event for traffic."""

    kind: NoticeKind
    at_ns: int  # since 1970-01-01 UTC
    text: str


@dataclass(frozen=True, slots=True)
class Heavy:
    """A subscriber of the open window, among those with the most octets."""

    subscriber: str
    account: str
    packets: int
    uplink_octets: int
    downlink_octets: int
    subscriber_octets: int  # the part that the subscriber pays
    sponsor_octets: dict[str, int]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Sums since the run began, unless a line says otherwise; nothing in it changes afterwards.

    Everything but `lost` adds up: seen = metered − metered_twice + unattributed + non_ip +
    control + duplicate + retransmitted + Σ faults, in packets and octets (accounting §2).
    """

    taken_at_ns: int  # since 1970-01-01 UTC, the machine's clock
    running_s: float
    interfaces: tuple[str, ...]
    rules_version: str
    seen: Volume
    metered: Volume
    metered_twice: Volume
    unattributed: Volume
    non_ip: Volume
    control: Volume
    duplicate: Volume
    retransmitted: Volume
    faults: dict[str, Volume]
    coalesced: Volume
    mismatch: Volume
    overlapping: Volume
    untracked: Volume
    suspicious: Volume
    unsolicited: Volume
    refused_tokens: dict[str, Volume]  # by reason
    tunnel_overhead_octets: int
    subscriber_octets: int
    sponsor_octets: dict[str, int]  # by identity; every sponsor of the rules in force is there
    identity_holds: bool
    lost_kernel: int  # packets that found no room in a ring
    lost_interface: int  # packets that the interface gave up before
    window: tuple[int, int] | None  # [start, end) in ns of the open window; None: "all"
    subscribers: int  # with traffic in the open window
    heaviest: tuple[Heavy, ...] = ()  # of the open window, most octets first
    has_ledger: bool = True  # whether usage is booked at all
    unbooked_records_octets: int = 0  # of the journal, on the disk: not in the ledger yet
    unbooked_batches: int = 0
    booked_records: int = 0
    booking_error: str | None = None  # why the ledger takes nothing at present
    unflushed_octets: int = 0  # metered and not in the journal yet: what a power cut would lose
    events: dict[str, int] = field(default_factory=dict)  # how many of each kind were raised
