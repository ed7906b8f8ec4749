"""Who has to pay for how many octets, by what a plain packet socket saw and the rules' own words.

Nothing here is the engine's: headers are read by hand, shares are worked out from sums.
"""

from __future__ import annotations

import re
import sqlite3
import struct
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from ipaddress import IPv4Address
from pathlib import Path

from .judge import Seen
from .program import StoryError
from .stage import SPONSOR

ETHERNET_OCTETS = 14
IPV4 = b"\x08\x00"
DAY_NS = 86_400 * 1_000_000_000
# As rules.toml has it.
REQUESTS_SHARE = Fraction(7, 10)
ANSWERS_QUOTA_OCTETS = 256 * 1024


@dataclass(frozen=True)
class MarkInForce:
    """A mark of a session, and from when to when it was in force."""

    subscriber: IPv4Address  # whose packets alone it means
    dscp: int
    begin_ns: int
    end_ns: int


@dataclass(frozen=True)
class Due:
    """What a subscriber's traffic came to, and what of it is the sponsor's to pay."""

    uplink: int
    downlink: int
    marked_uplink: int
    marked_downlink: int
    sponsor: int

    @property
    def subscriber(self) -> int:
        return self.uplink + self.downlink - self.sponsor


def marks_in_force(ledger: Path) -> list[MarkInForce]:
    """Those of all sessions until now."""
    with closing(sqlite3.connect(f"file:{ledger}?mode=ro", uri=True)) as books:
        rows = books.execute("SELECT mark, in_force_ns, withdrawn_ns FROM service_session_marks "
                             "WHERE in_force_ns IS NOT NULL").fetchall()  # fmt: skip
    marks = []
    for text, begin, end in rows:
        found = re.fullmatch(r"\S+ dscp=(\d+) subscriber=([\d.]+)/32", text)
        if found is None:
            raise StoryError(f"{ledger}: not a mark of this story: {text}")
        marks.append(MarkInForce(
            IPv4Address(found[2]), int(found[1]), begin, end or 2**63 - 1))  # fmt: skip
    return marks


def due(
    seen: Iterable[Seen], addresses: Collection[str], marks: Sequence[MarkInForce]
) -> Due:
    """What a subscriber's packets come to.

    seen        on the subscriber's interface
    addresses   the subscriber's; at most one of them has sessions
    """
    own, proxy = set(map(IPv4Address, addresses)), IPv4Address(SPONSOR.ipv4)
    whole: Counter[str] = Counter()
    marked: Counter[tuple[str, int]] = Counter()  # way and day
    for one in seen:
        packet = one.octets[ETHERNET_OCTETS:]
        if one.octets[12:14] != IPV4:
            continue
        # RFC 791 §3.1: type of service, total length; source and destination
        tos, length = struct.unpack_from("!xBH", packet)
        source, destination = map(IPv4Address, (packet[12:16], packet[16:20]))
        if own.isdisjoint((source, destination)):
            continue
        way, who, other = (("uplink", source, destination) if source in own
                           else ("downlink", destination, source))  # fmt: skip
        whole[way] += length
        if other == proxy and any(
            (mark.subscriber, mark.dscp) == (who, tos >> 2)
            and mark.begin_ns <= one.timestamp_ns < mark.end_ns for mark in marks
        ):  # fmt: skip
            marked[way, one.timestamp_ns // DAY_NS] += length
    sponsor = sum(
        int(octets * REQUESTS_SHARE) if way == "uplink" else min(octets, ANSWERS_QUOTA_OCTETS)
        for (way, _), octets in marked.items())  # fmt: skip
    sums = {way: sum(n for (which, _), n in marked.items() if which == way)
            for way in ("uplink", "downlink")}  # fmt: skip
    return Due(whole["uplink"], whole["downlink"], sums["uplink"], sums["downlink"], sponsor)
