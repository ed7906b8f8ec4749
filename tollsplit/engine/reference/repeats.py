"""What was seen, sent or said before: copies of packets, retransmissions, calls."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from tollsplit.engine.bounds import Bounds
from tollsplit.engine.reference.datagrams import Item
from tollsplit.engine.reference.packet import LATER_FRAGMENT, Control, Cut, NonIp, Nonsense
from tollsplit.engine.reference.walk import Walk
from tollsplit.limits import (
    COPIES_MAX,
    EXEMPT_OPTIONS_MAX,
    EXEMPT_PAYLOAD_MIN,
    EXEMPT_TIMES_MAX,
    SENT_OF_ONE_MAX,
)
from tollsplit.rules.rule import Meter

TCP, PORTED, PORTS = 6, (6, 17, 132), 256
SYN, RST = 2, 4
PIECE_MAX = 0xFFFF
REACH = 2**29  # no window is so wide

Brings = Literal["new", "same", "other", "untracked"]


class Content(NamedTuple):
    """The metered packet of a frame, as far as it was captured."""

    packet: bytes
    packet_octets: int
    sequence: int = 0
    payload: bytes | None = None  # None: no TCP, or a part of a datagram
    payload_octets: int = 0
    segment_octets: int = 0


def content_of(
    octets: bytes, original: int, link_type: int, *, at: str, endpoints: Any,
    trust_ip_length: bool, segment_octets: int,
) -> Content | None:
    """What a frame's metered packet holds; None: there is no such packet."""
    walk = Walk(octets, original, endpoints, trust_ip_length)
    with suppress(Cut, Nonsense, NonIp, Control):
        walk.link(link_type)
    if not walk.packets:
        return None
    packet = walk.packets[0 if at == "outer" else -1]
    inside = octets[packet.start : min(packet.start + packet.octets, packet.wire_end)]
    if packet.protocol != TCP or not packet.payload_at:
        return Content(inside, packet.octets)
    payload = octets[packet.payload_at : packet.payload_at + packet.payload_octets]
    sequence = int.from_bytes(octets[packet.transport + 4 : packet.transport + 8], "big")
    return Content(inside, packet.octets, sequence, payload, packet.payload_octets, segment_octets)


@dataclass
class Lapsing:
    """When an entry was of use, and when it was listed."""

    last_ns: int
    listed_ns: int


class Lapsed(OrderedDict[Hashable, Any]):
    """Entries that lapse, by when they were listed."""

    def __init__(self, most: int, idle_ns: int) -> None:
        super().__init__()
        self.most = most
        self.idle_ns = idle_ns

    def known(self, key: Hashable, now_ns: int) -> Any:
        while self:
            first, entry = next(iter(self.items()))
            if now_ns - entry.listed_ns <= self.idle_ns:
                break
            if entry.last_ns <= entry.listed_ns:
                del self[first]
            else:
                entry.listed_ns += self.idle_ns
                self.move_to_end(first)
        entry = self.get(key)
        if entry is not None and now_ns - entry.last_ns > self.idle_ns:
            del self[key]
            return None
        return entry


@dataclass
class Sent:
    """A stretch of a stream, from one place up to another, as one segment brought it."""

    start: int
    end: int
    octets: bytes | None  # None: not captured as a whole
    exempted: int = 0


@dataclass
class Stream(Lapsing):
    top: int
    bottom: int = -(2**63)  # what lies before is not known any more
    sent: list[Sent] = field(default_factory=list)
    room: int = 0


class Streams:
    """Directions of TCP connections; every octet of what is remembered is kept."""

    def __init__(self, bounds: Bounds) -> None:
        self.bounds = bounds
        self.known = Lapsed(bounds.streams, bounds.flow_idle_ns)

    def meet(self, key: Hashable, row: dict[str, int], found: Content, now_ns: int) -> Brings:
        """What a TCP packet brings."""
        opens, ends = row["tcp_flags"] & SYN, row["tcp_flags"] & RST
        if not found.payload_octets and not opens and not ends:
            return "new"
        stream: Stream | None = self.known.known(key, now_ns)
        if stream is not None and (opens or ends):
            del self.known[key]
            stream = None
        if ends or found.payload is None or not found.payload_octets:
            return "new"
        sequence = (found.sequence + bool(opens)) % 2**32
        if found.payload_octets == 1 and (
                stream is None or (sequence + 1 - stream.top) % 2**32 == 0):
            return "new"
        if stream is None:
            if len(self.known) >= self.known.most:
                return "untracked"
            stream = self.known[key] = Stream(now_ns, now_ns, top=sequence)
        stream.last_ns = now_ns
        start = stream.top + (sequence - stream.top + 2**31) % 2**32 - 2**31
        if abs(start - stream.top) > REACH:
            stream.sent, stream.bottom, stream.top = [], -(2**63), start
        return self.take(stream, start, row, found)

    def take(self, stream: Stream, start: int, row: dict[str, int], found: Content) -> Brings:
        payload = found.payload or b""
        end = start + found.payload_octets
        touched = [s for s in stream.sent if s.start < end and s.end > start]
        whole = [s for s in touched if s.start >= start and s.end <= end]
        differs = any(
            s.octets is not None and s.octets != payload[s.start - start : s.end - start]
            for s in whole if s.end - start <= len(payload))
        covered = sum(s.end - s.start for s in whole) == end - start
        same = covered and not differs and all(
            s.octets is not None and s.end - start <= len(payload) for s in whole)
        kept = True
        at = max(start, min(end, stream.bottom))
        for gap_end, after in [*((s.start, s.end) for s in touched), (end, end)]:
            if at < gap_end:
                kept = self.keep(stream, start, at, gap_end, found) and kept
            at = max(at, after)
        if end > stream.top:
            stream.top = end
            self.forget(stream, sum(stream.top - s.start > REACH for s in stream.sent))
        if differs:
            return "other"
        if not kept:
            return "untracked"
        headers = found.packet_octets - found.payload_octets
        lean = found.payload_octets >= EXEMPT_PAYLOAD_MIN and (
            headers - (40 if row["version"] == 4 else 60) <= EXEMPT_OPTIONS_MAX)
        if not same or not lean or any(s.exempted == EXEMPT_TIMES_MAX for s in whole):
            return "new"
        for each in whole:
            each.exempted += 1
        return "same"

    def keep(self, stream: Stream, start: int, at: int, end: int, found: Content) -> bool:
        """Remember what is new between two places; False: there is no room at all."""
        payload = found.payload or b""
        piece = found.segment_octets if 0 < found.segment_octets < PIECE_MAX else PIECE_MAX
        while at < end:
            until = min(end, start + ((at - start) // piece + 1) * piece)
            index = sum(s.start < at for s in stream.sent)
            if len(stream.sent) >= stream.room and not self.grow(stream):
                dropped = min(index, -(-len(stream.sent) // 4))
                if not dropped:
                    return stream.room > 0
                self.forget(stream, dropped)
                index -= dropped
            octets = payload[at - start : until - start]
            stream.sent.insert(index, Sent(
                at, until, octets if len(octets) == until - at else None))
            at = until
        return True

    def grow(self, stream: Stream) -> bool:
        room = max(4, 2 * stream.room)
        others = sum(s.room for s in self.known.values()) - stream.room
        if room > SENT_OF_ONE_MAX or others + room > self.bounds.sent:
            return False
        stream.room = room
        return True

    @staticmethod
    def forget(stream: Stream, count: int) -> None:
        if count:
            stream.bottom = stream.sent[count - 1].end
            del stream.sent[:count]


class Copies:
    """Packets by all that a router leaves alone."""

    def __init__(self, bounds: Bounds, within_ns: int) -> None:
        self.most = bounds.copies
        self.within_ns = within_ns
        self.seen: OrderedDict[Hashable, list[int]] = OrderedDict()  # when, and how often again

    def is_copy(self, row: dict[str, int], found: Content, now_ns: int) -> tuple[bool, bool]:
        """Whether a packet was seen before, and whether another one had to make room."""
        while self.seen:
            first, (since_ns, _) = next(iter(self.seen.items()))
            if now_ns - since_ns <= self.within_ns:
                break
            del self.seen[first]
        if len(found.packet) < found.packet_octets:
            return False, False
        octets = bytearray(found.packet)
        for at in (8, 10, 11) if row["version"] == 4 else (7,):
            octets[at] = 0
        key = bytes(octets)
        if key in self.seen:
            self.seen[key][1] += 1
            if self.seen[key][1] <= COPIES_MAX:
                return True, False
            del self.seen[key]
        crowded = len(self.seen) >= self.most
        if crowded:
            self.seen.popitem(last=False)
        self.seen[key] = [now_ns, 0]
        return False, crowded


class Calls:
    """Flows in which the subscriber has said something."""

    def __init__(self, bounds: Bounds) -> None:
        self.known = Lapsed(bounds.calls, bounds.flow_idle_ns)

    def hear(self, item: Item, now_ns: int) -> Literal["unsolicited", "untracked"] | None:
        """What is to be counted of a packet."""
        row = item.row
        if row["flags"] & LATER_FRAGMENT or (
                row["protocol"] in PORTED and not row["tags"] & PORTS):
            return None
        key = flow(item)
        call = self.known.known(key, now_ns)
        if row["direction"]:
            if call is not None:
                return None
            return "untracked" if len(self.known) >= self.known.most else "unsolicited"
        if row["protocol"] == TCP and row["tcp_flags"] & RST:
            self.known.pop(key, None)
        elif call is not None:
            call.last_ns = now_ns
        elif len(self.known) >= self.known.most:
            return "untracked"
        else:
            self.known[key] = Lapsing(now_ns, now_ns)
        return None


class Repeats:
    """All of it, as far as the rules' meter asks."""

    def __init__(self, meter: Meter, bounds: Bounds) -> None:
        self.exempts = meter.retransmissions == "exempt_if_identical"
        self.copies = Copies(bounds, meter.duplicates_ns) if meter.duplicates_ns else None
        self.streams = Streams(bounds) if meter.retransmissions != "charge" else None
        self.calls = Calls(bounds) if meter.unsolicited else None

    def is_copy(
        self, row: dict[str, int], found: Content | None, now_ns: int
    ) -> tuple[bool, bool]:
        if self.copies is None or found is None:
            return False, False
        return self.copies.is_copy(row, found, now_ns)

    def brings(self, item: Item, found: Content | None, now_ns: int) -> Brings:
        """What a packet of a subscriber brings; `same` where that is exempt."""
        if self.streams is None or found is None or found.payload is None:
            return "new"
        brings = self.streams.meet((flow(item), item.row["direction"]), item.row, found, now_ns)
        return "new" if brings == "same" and not self.exempts else brings

    def hear(self, item: Item, now_ns: int) -> Literal["unsolicited", "untracked"] | None:
        return self.calls.hear(item, now_ns) if self.calls is not None else None


def flow(item: Item) -> Hashable:
    """What makes a packet's flow: both directions are one."""
    row = item.row
    ends = (row["source"], row["destination"])[:: -1 if row["direction"] else 1]
    return (row["version"], ends, row["protocol"], row["subscriber_port"], row["server_port"],
            item.subscriber)
