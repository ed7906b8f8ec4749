"""Frames as rows: the slow counterpart of the core's PACKET."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tollsplit.engine.reference.packet import (
    COALESCED,
    PARTIAL,
    TRUSTED,
    Control,
    Cut,
    Datagram,
    NonIp,
    Nonsense,
    Packet,
    Segment,
)
from tollsplit.engine.reference.walk import Walk
from tollsplit.rules.rule import At, Layer, Prefix

# As in layout.pxd and layout.pyx: tests compare the numbers.
METERED, UNATTRIBUTED, NON_IP, CONTROL, DUPLICATE, FAULT = range(6)
FAULTS = (
    "none", "truncated", "link_type", "link_tags", "ip_version", "ip_header",
    "ip_length", "ip_exceeds_wire", "table_full", "cells_full",
)
TUNNELLED = 64
TAGS = {
    "vlan": 1, "vlan_inner": 2, "mpls": 4, "gtp_teid": 8, "qfi": 16, "gre_key": 32, "vni": 64,
    "pppoe_session": 128,
}
PORTS, FLOW_LABEL = 256, 512
SEGMENT_UNKNOWN = 0xFFFFFFFF
OCTETS_MAX = 0xFFFFFFFF  # of a row


def dissect(octets: bytes, original: int, link_type: int, **options: Any) -> dict[str, int]:
    """One frame's row; see read()."""
    return read(octets, original, link_type, **options)[0]


def read(
    octets: bytes, original: int, link_type: int, *, layer: Layer = "ip", at: At = "inner",
    trust_ip_length: bool = False, endpoints: Sequence[Prefix] | None = None,
    segment_octets: int = 0,
) -> tuple[dict[str, int], Datagram | None, Segment | None]:
    """One frame's row: the PACKET fields that dissecting fills, by name; a fragment's place too,
    and what a whole TCP packet carries.

    Addresses are plain integers. A fault has the outermost IP packet's length, or where there
    is none the frame without the link layers that were understood. With at="outer" a capture
    that is cut inside a tunnel is no fault: the packet that is metered is whole.

    segment_octets   payload of each segment of a coalesced packet; 0: it is one packet
    """
    walk = Walk(octets, original, endpoints, trust_ip_length)
    bucket, fault = METERED, "none"
    cut = False
    try:
        walk.link(link_type)
    except Cut:
        cut = True
        if at == "inner" or not walk.packets:
            bucket, fault = FAULT, "truncated"
    except Nonsense as nonsense:
        bucket, fault = FAULT, nonsense.args[0]
    except NonIp:
        bucket = NON_IP
    except Control:
        bucket = CONTROL
    packet = None
    if walk.packets:
        packet = walk.packets[0 if at == "outer" or bucket == FAULT else -1]
        if layer == "payload" and bucket == METERED and packet.flags & PARTIAL:
            bucket, fault = FAULT, "truncated"  # where the payload starts is not known
            packet = walk.packets[0]
    row = dict.fromkeys(
        ("version", "protocol", "source", "destination", "source_port", "destination_port",
         "ip_octets", "payload_octets", "tunnel_octets", "flow_label", "dscp", "ttl",
         "tcp_flags", "flags", "tags", *TAGS), 0)
    row |= walk.tags
    row["tags"] = sum(TAGS[tag] for tag in walk.tags)
    row |= {"bucket": bucket, "fault": FAULTS.index(fault), "depth": len(walk.packets),
            "frame_octets": original, "octets": original - walk.known}
    if packet is not None:
        row |= {name: getattr(packet, name) for name in (
            "version", "source", "destination", "protocol", "source_port", "destination_port",
            "payload_octets", "flow_label", "dscp", "ttl", "tcp_flags")}
        row["octets"] = row["ip_octets"] = packet.octets
        row["tunnel_octets"] = max(0, walk.packets[0].octets - packet.octets)
        row["tags"] |= PORTS * packet.ported | FLOW_LABEL * (packet.version == 6)
        row["flags"] = (packet.flags | walk.packets[0].flags & TRUSTED
                        | TUNNELLED * (len(walk.packets) > 1))
        if layer == "payload" and bucket != FAULT:
            row["octets"] = packet.payload_octets
        if bucket == METERED and segment_octets and (
                layer == "ip" or segment_octets == SEGMENT_UNKNOWN):
            row |= segmented(row, packet, [] if cut else walk.packets, segment_octets)
    if layer == "frame":
        row["octets"] = original
    if packet is None:
        return row, None, None
    segment = None
    if packet.protocol in (6, 17) and packet.payload_at:
        captured = octets[packet.payload_at : packet.payload_at + packet.payload_octets]
        segment = Segment(packet.sequence, captured, packet.payload_octets, segment_octets)
    return row, packet.datagram, segment


def segmented(
    row: dict[str, int], metered: Packet, packets: Sequence[Packet], segment_octets: int
) -> dict[str, int]:
    """What a coalesced packet's row has under layer ip: the headers of every segment count.

    packets   those met, from the outermost in; none: the capture ends before the payload

    Where it cannot be told what was cut into segments, the packet is one, and says so.
    """
    as_it_is = {"flags": row["flags"] | COALESCED}
    if segment_octets == SEGMENT_UNKNOWN or not packets:
        return as_it_is
    outermost, innermost = packets[0], packets[-1]
    end = innermost.wire_end
    if not 0 < innermost.payload_at < end or any(
            packet.start + packet.octets != end for packet in (outermost, metered)):
        return as_it_is
    payload = end - innermost.payload_at
    count = -(-payload // segment_octets)
    inside = packets.index(metered)
    overhead = metered.start - outermost.start - sum(p.jumbo_octets for p in packets[:inside])
    headers = innermost.payload_at - metered.start - sum(p.jumbo_octets for p in packets[inside:])
    if payload + count * (headers + overhead) > OCTETS_MAX:
        return as_it_is
    return {"octets": payload + count * headers, "tunnel_octets": count * overhead,
            "flags": row["flags"] & ~COALESCED}
