"""The octets of the generated traffic: pcap records with all headers, as columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.network import IPV6_SERVERS, IPV6_SUBSCRIBERS, Array

if TYPE_CHECKING:
    from benchmarks.traffic import Traffic

START_S = 1_793_491_200  # 2026-11-01T00:00:00Z
FCS_OCTETS = 4  # on the wire, never captured
NOISE_OCTETS = 65_521

PCAP_HEADER = np.array([0xA1B2C3D4, 2 | 4 << 16, 0, 0, 262_144, 1], "<u4")
RECORD = [("seconds", "<u4"), ("microseconds", "<u4"), ("captured", "<u4"), ("original", "<u4")]
ETHERNET = [("station_to", "S6"), ("station_from", "S6"), ("ethertype", ">u2")]
VLAN = [("vlan", ">u2"), ("vlan_ethertype", ">u2")]
SERVICE_VLAN = [("service_vlan", ">u2"), ("service_ethertype", ">u2")]
IPV4 = [
    ("version", "u1"), ("tos", "u1"), ("total_octets", ">u2"), ("identification", ">u2"),
    ("fragment", ">u2"), ("ttl", "u1"), ("protocol", "u1"), ("checksum", ">u2"),
    ("source", ">u4"), ("destination", ">u4"),
]
IPV6 = [
    ("version6", ">u4"), ("payload_octets", ">u2"), ("next_header", "u1"), ("hop_limit", "u1"),
    ("source_hi", ">u8"), ("source_lo", ">u8"), ("destination_hi", ">u8"),
    ("destination_lo", ">u8"),
]
TUNNEL = [("outer_" + name, kind) for name, kind in IPV4] + [
    ("outer_source_port", ">u2"), ("outer_destination_port", ">u2"), ("outer_length", ">u2"),
    ("outer_udp_checksum", ">u2"), ("gtp_flags", "u1"), ("gtp_type", "u1"),
    ("gtp_length", ">u2"), ("teid", ">u4"),
]
# Ports, then what follows them in a TCP header; UDP uses the first two octets of it.
TRANSPORT = [("source_port", ">u2"), ("destination_port", ">u2"), ("rest", "V16")]
HEADERS: dict[str, list[list[tuple[str, str]]]] = {
    "ipv4": [ETHERNET, IPV4],
    "ipv6": [ETHERNET, IPV6],
    "vlan": [ETHERNET, VLAN, IPV4],
    "qinq": [ETHERNET, SERVICE_VLAN, VLAN, IPV4],
    "gtpu": [ETHERNET, TUNNEL, IPV4],
}


def build_rows(traffic: Traffic, encapsulation: str, index: Array, ends: dict[str, Any]) -> Array:
    """Records with all headers, without the payload that follows them.

    index   i8[n], each packet's number in the capture
    ends    as Network.slab gives them, and `dscp`: u1[n] or 0
    """
    layers = HEADERS[encapsulation]
    fields = [pair for layer in (RECORD, *layers, TRANSPORT) for pair in layer]
    rows = np.zeros(len(index), np.dtype(fields))
    time_us = index * (traffic.duration_s * 1_000_000) // traffic.packets
    rows["seconds"] = START_S + time_us // 1_000_000
    rows["microseconds"] = time_us % 1_000_000
    # `wire` is the size of the plain IPv4 frame: an encapsulation adds to it.
    plain = sum(np.dtype(layer).itemsize for layer in HEADERS["ipv4"])
    added = sum(np.dtype(layer).itemsize for layer in layers) - plain
    rows["original"] = ends["wire"] + added
    rows["captured"] = rows["original"] - FCS_OCTETS
    rows["station_to"], rows["station_from"] = b"\x02\0\0\0\0\x01", b"\x02\0\0\0\0\x02"
    rows["ethertype"] = 0x86DD if encapsulation == "ipv6" else 0x0800
    behind_ip = ends["wire"] - FCS_OCTETS - plain
    if encapsulation in ("vlan", "qinq"):
        set_vlan(rows, ends)
    protocol = np.where(ends["tcp"], 6, 17)
    if encapsulation == "ipv6":
        set_ipv6_addresses(rows, ends)
        rows["version6"], rows["hop_limit"] = 6 << 28, 64
        rows["version6"] |= ends["dscp"] << np.uint32(22)
        rows["payload_octets"], rows["next_header"] = behind_ip, protocol
    else:
        near = ends["subscriber"] | np.uint32(10 << 24)
        rows["source"] = np.where(ends["uplink"], near, ends["server"])
        rows["destination"] = np.where(ends["uplink"], ends["server"], near)
        rows["tos"] = ends["dscp"] << np.uint32(2)
        set_ipv4(rows, "", behind_ip + 20, index & 0xFFFF)
        rows["protocol"] = protocol
        rows["checksum"] = ipv4_checksum(rows)
    if encapsulation == "gtpu":
        set_tunnel(rows, ends, behind_ip + 20, index)
    set_transport(rows, ends, behind_ip)
    return rows


def ipv4_checksum(rows: Array, prefix: str = "") -> Array:
    """RFC 791 §3.1, over the words of each row's header."""
    total = np.uint32(0x4500) + rows[prefix + "total_octets"].astype(np.uint32)
    total += rows[prefix + "tos"]
    total += rows[prefix + "identification"]
    total += rows[prefix + "ttl"].astype(np.uint32) << 8 | rows[prefix + "protocol"]
    for name in ("source", "destination"):
        address = rows[prefix + name].astype(np.uint32)
        total += (address >> 16) + (address & 0xFFFF)
    for _ in range(2):
        total = (total >> 16) + (total & 0xFFFF)
    return (~total & 0xFFFF).astype(np.uint16)


def set_ipv4(rows: Array, prefix: str, octets: Array, number: Array) -> None:
    rows[prefix + "version"] = 0x45
    rows[prefix + "total_octets"] = octets
    rows[prefix + "identification"] = number
    rows[prefix + "ttl"] = 64


def set_vlan(rows: Array, ends: dict[str, Any]) -> None:
    """The customer's tag, by subscriber, and before it the service's (IEEE 802.1Q §9.5)."""
    rows["ethertype"], rows["vlan_ethertype"] = 0x8100, 0x0800
    rows["vlan"] = 1 + ends["subscriber"] % 4094
    if "service_vlan" in (rows.dtype.names or ()):
        rows["ethertype"], rows["service_ethertype"] = 0x88A8, 0x8100
        rows["service_vlan"] = 1 + ends["subscriber"] // 4094 % 4094


def set_transport(rows: Array, ends: dict[str, Any], octets: Array) -> None:
    """Ports, and the length of UDP or the fixed fields of TCP; checksums are left to offload."""
    uplink, tcp = ends["uplink"], ends["tcp"]
    near, far = ends["subscriber_port"], ends["server_port"]
    rows["source_port"] = np.where(uplink, near, far)
    rows["destination_port"] = np.where(uplink, far, near)
    # RFC 9293 §3.1: sequence, acknowledgment, offset 5 with ACK and PSH, window.
    rest = np.zeros((len(rows), 16), np.uint8)
    rest[tcp, 8:12] = (0x50, 0x18, 0x20, 0x00)
    rest[~tcp, 0:2] = octets[~tcp].astype(">u2").view(np.uint8).reshape(-1, 2)
    rows["rest"] = rest.view("V16").ravel()


def set_ipv6_addresses(rows: Array, ends: dict[str, Any]) -> None:
    near = np.uint64(IPV6_SUBSCRIBERS) | ends["subscriber"].astype(np.uint64)
    far = np.uint64(IPV6_SERVERS) | ends["server"].astype(np.uint64)
    rows["source_hi"] = np.where(ends["uplink"], near, far)
    rows["destination_hi"] = np.where(ends["uplink"], far, near)
    rows["source_lo"] = rows["destination_lo"] = 1


def set_tunnel(rows: Array, ends: dict[str, Any], inner_octets: Array, index: Array) -> None:
    """The outer IPv4, UDP 2152 and GTP-U headers of a T-PDU (TS 29.281 §5.1)."""
    radio, core = 0xC0A80001, 0xC0A80002
    set_ipv4(rows, "outer_", inner_octets + 36, index & 0xFFFF)
    rows["outer_protocol"] = 17
    rows["outer_source"] = np.where(ends["uplink"], radio, core)
    rows["outer_destination"] = np.where(ends["uplink"], core, radio)
    rows["outer_checksum"] = ipv4_checksum(rows, "outer_")
    rows["outer_source_port"] = rows["outer_destination_port"] = 2152
    rows["outer_length"] = inner_octets + 16
    rows["gtp_flags"], rows["gtp_type"] = 0x30, 255
    rows["gtp_length"], rows["teid"] = inner_octets, 1 + ends["subscriber"]


def noise(seed: int) -> Array:
    """What payloads are cut from."""
    return np.random.default_rng([seed, 2**32 - 1]).integers(0, 256, NOISE_OCTETS, np.uint8)


def records(parts: Sequence[tuple[Array, Array]], payload: Array) -> Array:
    """The octets of a slab's records, each row followed by its payload.

    parts   (places, rows): the rows of one encapsulation and where in the slab they stand
    """
    sizes = np.empty(sum(len(rows) for _, rows in parts), np.int64)
    for places, rows in parts:
        sizes[places] = rows["captured"].astype(np.int64) + 16
    if len(parts) == 1 and (sizes == sizes[0]).all():
        [(_, rows)] = parts
        header = rows.dtype.itemsize
        packed = np.empty((len(rows), int(sizes[0])), np.uint8)
        packed[:, :header] = rows.view(np.uint8).reshape(-1, header)
        packed[:, header:] = payload[: int(sizes[0]) - header]
        return packed.ravel()
    starts = np.cumsum(sizes) - sizes
    stream = np.resize(payload, int(sizes.sum()))
    for places, rows in parts:
        header = rows.dtype.itemsize
        at = starts[places][:, None] + np.arange(header)
        stream[at.ravel()] = rows.view(np.uint8)
    return stream
