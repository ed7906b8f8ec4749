"""Snapshots made by hand, whose buckets and payers add up."""

from __future__ import annotations

from tollsplit.model import Volume
from tollsplit.snapshot import Heavy, Snapshot

HOUR_NS = 3_600_000_000_000
START_NS = 1_793_505_600_000_000_000  # 2026-11-01 04:00 UTC


def snapshot(sponsors: int = 3, subscribers: int = 12_345, running_s: float = 3_723.4) -> Snapshot:
    """A run that has seen something of everything; sponsor i pays for i million octets."""
    sponsor_octets = {f"sponsor-{i}": i * 1_000_000 for i in range(1, sponsors + 1)}
    sponsored = sum(sponsor_octets.values())
    metered = Volume(900_000, 700_000_000 + sponsored)
    faults = {"truncated": Volume(7, 420), "ip_exceeds_wire": Volume(2, 3_000)}
    return Snapshot(
        taken_at_ns=START_NS + HOUR_NS // 2,
        running_s=running_s,
        interfaces=("eth0", "eth1"),
        rules_version="sha256:3f2a9c1b77",
        seen=Volume(900_000 - 11 + 500 + 40 + 5 + 3 + 9,
                    metered.octets - 9_000 + 60_000 + 2_400 + 300 + 200 + 3_420),
        metered=metered,
        metered_twice=Volume(11, 9_000),
        unattributed=Volume(500, 60_000),
        non_ip=Volume(40, 2_400),
        control=Volume(5, 300),
        duplicate=Volume(3, 200),
        retransmitted=Volume(),
        faults=faults,
        coalesced=Volume(12, 70_000),
        mismatch=Volume(6, 5_000),
        overlapping=Volume(5, 700),
        untracked=Volume(4, 300),
        suspicious=Volume(),
        unsolicited=Volume(),
        refused_tokens={"wrong_mac": Volume(), "used": Volume()},
        tunnel_overhead_octets=4_096,
        subscriber_octets=700_000_000,
        sponsor_octets=sponsor_octets,
        identity_holds=True,
        lost_kernel=0,
        lost_interface=0,
        window=(START_NS, START_NS + HOUR_NS),
        subscribers=subscribers,
        heaviest=tuple(
            Heavy(f"10.20.0.{i}", f"account-{i}", 1_000, 5_000_000 - i, 45_000_000, 40_000_000 - i,
                  {"sponsor-1": 9_000_000, "sponsor-2": 1_000_000})
            for i in range(min(subscribers, 40))),
        unbooked_records_octets=1_258_291,
        unbooked_batches=2,
        booked_records=98_765,
        unflushed_octets=2_048,
        events={"clock_step": 1, "rules_changed": 2},
    )
