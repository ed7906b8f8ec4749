"""A table of packets and the rows they give: description, builder, what is expected.

Octets are worked out by hand: IPv4 20, IPv6 40, UDP 8, TCP 20, GRE 4, VXLAN and GTP-U 8,
Ethernet 14. Tags that a case does not name are absent; so are flags.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Mapping
from typing import NamedTuple

from scapy.contrib.mpls import MPLS
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    Jumbo,
    Pad1,
    PadN,
)
from scapy.layers.l2 import ARP, GRE, LLC, SNAP, CookedLinux, CookedLinuxV2, Dot1AD, Dot1Q, Ether
from scapy.layers.ppp import PPP, PPPoE
from scapy.layers.sctp import SCTP
from scapy.layers.vxlan import VXLAN
from scapy.packet import Packet, Raw

METERED, NON_IP, CONTROL, FAULT = 0, 2, 3, 5
NULL, ETHERNET, PPP_LINK, RAW, C_HDLC, LOOP, SLL = 0, 1, 9, 101, 104, 108, 113
RAW_BSD, PPP_HDLC, PPP_ETHER, PPP_WITH_DIR, IPV4, IPV6, SLL2 = 12, 50, 51, 204, 228, 229, 276


class Case(NamedTuple):
    description: str
    link_type: int
    octets: bytes  # as captured
    original: int
    row: Mapping[str, object]  # at="inner"
    outer: Mapping[str, object]  # at="outer": what differs
    trust: bool = False


CASES: list[Case] = []


def number(address: str) -> int:
    return int(ipaddress.ip_address(address))


def case(
    description: str, link_type: int, packet: Packet | bytes, row: Mapping[str, object],
    outer: Mapping[str, object] = {}, *, original: int | None = None,
    captured: int | None = None, trust: bool = False,
) -> None:
    octets = bytes(packet)
    CASES.append(Case(description, link_type, octets[:captured],
                      len(octets) if original is None else original, row, outer, trust))


def fault(kind: str, octets: int) -> dict[str, object]:
    return {"bucket": FAULT, "fault": kind, "octets": octets}


def non_ip(octets: int, **tags: int) -> dict[str, object]:
    return {"bucket": NON_IP, "octets": octets, **tags}


ETH = Ether(dst="02:00:00:00:00:01", src="02:00:00:00:00:02")
A, B = "10.0.0.7", "203.0.113.5"
A6, B6 = "2001:db8::7", "2001:db8:ffff::5"
OUT, IN = "192.0.2.1", "192.0.2.2"
OUT6, IN6 = "2001:db8:1::1", "2001:db8:1::2"
TEXT = Raw(b"x" * 20)

# The packet that most cases carry: 20 + 8 + 20 = 48 octets.
U4 = IP(src=A, dst=B, id=1) / UDP(sport=40000, dport=443) / TEXT
UDP4 = {"version": 4, "protocol": 17, "source": number(A), "destination": number(B),
        "source_port": 40000, "destination_port": 443, "octets": 48, "ip_octets": 48,
        "payload_octets": 20, "ttl": 64, "dscp": 0, "depth": 1}
# 40 + 8 + 20 = 68 octets.
U6 = IPv6(src=A6, dst=B6, tc=0xB8, fl=0x12345) / UDP(sport=40000, dport=443) / TEXT
UDP6 = {**UDP4, "version": 6, "source": number(A6), "destination": number(B6), "octets": 68,
        "ip_octets": 68, "dscp": 46, "flow_label": 0x12345}
# What a tunnel's outer packet looks like.
T4 = IP(src=OUT, dst=IN, id=1)
T6 = IPv6(src=OUT6, dst=IN6)


def of(row: Mapping[str, object], octets: int, **rest: object) -> dict[str, object]:
    """A row of a packet of so many octets."""
    return {**row, "octets": octets, "ip_octets": octets, **rest}


def inside(overhead: int, row: Mapping[str, object] = UDP4, **tags: object) -> dict[str, object]:
    """A row of a packet in one tunnel."""
    return {**row, "depth": 2, "tunnel_octets": overhead, "flags": ("tunnelled",), **tags}


def outermost(octets: int, protocol: int, payload: int, **rest: object) -> dict[str, object]:
    """What at="outer" gives of a tunnel's outer IPv4 packet."""
    return {"source": number(OUT), "destination": number(IN), "version": 4, "octets": octets,
            "ip_octets": octets, "protocol": protocol, "payload_octets": payload,
            "tunnel_octets": 0, "source_port": None, "destination_port": None, "dscp": 0,
            "flow_label": None, **rest}


def without_ports(row: Mapping[str, object]) -> dict[str, object]:
    return {k: v for k, v in row.items() if k not in ("source_port", "destination_port")}


def set_octets(packet: Packet | bytes, at: int, value: bytes) -> bytes:
    """The packet with some octets replaced: for what scapy would not build."""
    octets = bytes(packet)
    return octets[:at] + value + octets[at + len(value) :]


# --- one IP packet ---------------------------------------------------------------------------

case("IPv4, UDP", ETHERNET, ETH / U4, UDP4)
case("Ethernet padding is not billed", ETHERNET, bytes(ETH / U4) + bytes(18), UDP4)
case("IPv4, TCP with options", ETHERNET,
     ETH / IP(src=A, dst=B, tos=46 << 2, ttl=9) / TCP(
         sport=1, dport=2, flags="PA", options=[("MSS", 1460)]) / TEXT,
     of(UDP4, 64, protocol=6, source_port=1, destination_port=2, tcp_flags=0x18, dscp=46, ttl=9))
case("TCP whose data offset goes beyond the packet has no payload", ETHERNET,
     set_octets(ETH / IP(src=A, dst=B) / TCP(sport=1, dport=2, flags="S") / Raw(b"x" * 8),
                46, b"\xf0"),
     of(UDP4, 48, protocol=6, source_port=1, destination_port=2, tcp_flags=2, payload_octets=0))
case("TCP whose data offset is below 5 counts as 20 octets", ETHERNET,
     set_octets(ETH / IP(src=A, dst=B) / TCP(sport=1, dport=2, flags="S") / Raw(b"x" * 8),
                46, b"\x10"),
     of(UDP4, 48, protocol=6, source_port=1, destination_port=2, tcp_flags=2, payload_octets=8))
case("SCTP", ETHERNET, ETH / IP(src=A, dst=B) / SCTP(sport=5, dport=6) / Raw(b"x" * 16),
     of(UDP4, 48, protocol=132, source_port=5, destination_port=6, payload_octets=16))
case("ICMP has no ports", ETHERNET, ETH / IP(src=A, dst=B) / ICMP() / TEXT,
     without_ports(of(UDP4, 48, protocol=1, payload_octets=28)))
case("a packet quoted by an ICMP error is payload", ETHERNET,
     ETH / IP(src=A, dst=B) / ICMP(type=3, code=3) / U4,
     without_ports(of(UDP4, 76, protocol=1, payload_octets=56)))
case("IPv4 options", ETHERNET,
     ETH / IP(src=A, dst=B, options=[IPOption(b"\x94\x04\x00\x00")]) / UDP(
         sport=40000, dport=443) / TEXT, of(UDP4, 52))
case("IPv4 without payload", ETHERNET, ETH / IP(src=A, dst=B, proto=59),
     without_ports(of(UDP4, 20, protocol=59, payload_octets=0)))
case("UDP too short on the wire for its header has no ports", ETHERNET,
     ETH / IP(src=A, dst=B, proto=17) / Raw(b"1234567"),
     without_ports(of(UDP4, 27, payload_octets=0)))
case("IPv4, authentication header, UDP", ETHERNET,
     ETH / IP(src=A, dst=B, proto=51) / Raw(struct.pack(">BBHII12x", 17, 4, 0, 1, 1)) / UDP(
         sport=40000, dport=443) / TEXT, of(UDP4, 72))
case("ESP ends the chain", ETHERNET, ETH / IP(src=A, dst=B, proto=50) / Raw(b"x" * 40),
     without_ports(of(UDP4, 60, protocol=50, payload_octets=40)))
case("IPv4 first fragment", ETHERNET,
     ETH / IP(src=A, dst=B, flags="MF") / UDP(sport=40000, dport=443, len=4000) / TEXT,
     {**UDP4, "flags": ("fragment",)})
case("IPv4 later fragment has no ports", ETHERNET,
     ETH / IP(src=A, dst=B, frag=100, proto=17) / Raw(b"x" * 28),
     without_ports({**UDP4, "payload_octets": 28, "flags": ("fragment", "later_fragment")}))
case("IPv4 later fragment at the least offset", ETHERNET,
     ETH / IP(src=A, dst=B, frag=1, proto=17) / Raw(b"x" * 28),
     without_ports({**UDP4, "payload_octets": 28, "flags": ("fragment", "later_fragment")}))
case("IPv4 total length 0: the frame without its link header, coalesced", ETHERNET,
     set_octets(ETH / IP(src=A, dst=B) / UDP(sport=40000, dport=443) / Raw(b"x" * 3000),
                16, b"\0\0"), of(UDP4, 3028, payload_octets=3000, flags=("coalesced",)))
case("IPv4 total length below its header", ETHERNET, set_octets(ETH / U4, 16, b"\0\x13"),
     fault("ip_length", 48))
case("IPv4 longer than the wire", ETHERNET, set_octets(ETH / U4, 16, b"\x05\xdc"),
     fault("ip_exceeds_wire", 48))
case("IPv4 longer than the wire, trusted", ETHERNET, set_octets(ETH / U4, 16, b"\x05\xdc"),
     of(UDP4, 1500, payload_octets=1472, flags=("trusted",)), trust=True)
case("IPv4 header length below 5", ETHERNET, set_octets(ETH / U4, 14, b"\x44"),
     fault("ip_header", 48))
case("IPv4 header longer than the wire", ETHERNET,
     set_octets(ETH / IP(src=A, dst=B) / Raw(b"1234"), 14, b"\x4f"), fault("ip_header", 24))
case("IPv4 EtherType, version 6 inside", ETHERNET, set_octets(ETH / U4, 14, b"\x65"),
     fault("ip_version", 48))
case("IPv6 EtherType, version 4 inside", ETHERNET, ETH / Raw(bytes(U4)), fault("ip_version", 48))
CASES[-1] = CASES[-1]._replace(octets=set_octets(CASES[-1].octets, 12, b"\x86\xdd"))
case("IPv4 header cut by the capture", ETHERNET, ETH / U4, fault("truncated", 48), captured=33)
case("IPv4 options cut by the capture", ETHERNET,
     ETH / IP(src=A, dst=B, options=[IPOption(b"\x94\x04\x00\x00")]) / UDP(
         sport=40000, dport=443) / TEXT, fault("truncated", 52), captured=36)
case("IPv4 header beyond the wire", ETHERNET, bytes(ETH / U4)[:30], fault("ip_header", 16))
case("UDP header cut by the capture: no ports, but metered", ETHERNET, ETH / U4,
     {**without_ports(UDP4), "flags": ("partial",)}, captured=41)
case("TCP header cut by the capture", ETHERNET,
     ETH / IP(src=A, dst=B) / TCP(sport=1, dport=2) / TEXT,
     without_ports(of(UDP4, 60, protocol=6, flags=("partial",))), captured=53)
case("a snap length behind the transport header changes nothing", ETHERNET, ETH / U4, UDP4,
     captured=42)

case("IPv6, UDP: flow label and traffic class", ETHERNET, ETH / U6, UDP6)
case("ICMPv6", ETHERNET, ETH / IPv6(src=A6, dst=B6) / ICMPv6EchoRequest(data=b"x" * 20),
     without_ports(of(UDP6, 68, protocol=58, payload_octets=28, dscp=0, flow_label=0)))
case("IPv6 hop-by-hop, destination options, routing", ETHERNET,
     ETH / IPv6(src=A6, dst=B6, tc=0xB8, fl=0x12345)
     / IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt() / IPv6ExtHdrRouting(addresses=[B6])
     / UDP(sport=40000, dport=443) / TEXT, of(UDP6, 68 + 8 + 8 + 24))
case("IPv6 authentication header: length in 4 octets, not 8", ETHERNET,
     ETH / IPv6(src=A6, dst=B6, tc=0xB8, fl=0x12345, nh=51)
     / Raw(struct.pack(">BBHII12x", 17, 4, 0, 1, 1)) / UDP(sport=40000, dport=443) / TEXT,
     of(UDP6, 92))
case("IPv6 eight extension headers", ETHERNET,
     ETH / IPv6(src=A6, dst=B6, tc=0xB8, fl=0x12345, nh=60)
     / Raw((b"\x3c" + bytes(7)) * 7 + b"\x11" + bytes(7)) / UDP(sport=40000, dport=443) / TEXT,
     of(UDP6, 132))
# What follows its own header may be nonsense: the packet is forwarded, and metered, all the same.
UNREAD6 = without_ports({**UDP6, "protocol": 60, "dscp": 0, "flow_label": 0})
case("IPv6 nine extension headers: the ninth is not read", ETHERNET,
     ETH / IPv6(src=A6, dst=B6, nh=60)
     / Raw((b"\x3c" + bytes(7)) * 8 + b"\x11" + bytes(7)) / TEXT,
     of(UNREAD6, 40 + 72 + 20, payload_octets=8 + 20))
case("IPv6 extension header beyond the packet", ETHERNET,
     ETH / IPv6(src=A6, dst=B6, nh=60) / Raw(b"\x11\x02" + bytes(14)),
     of(UNREAD6, 56, payload_octets=16))
case("IPv6 extension header cut by the capture", ETHERNET,
     ETH / IPv6(src=A6, dst=B6) / IPv6ExtHdrDestOpt() / UDP() / TEXT,
     of(UNREAD6, 76, payload_octets=36, flags=("partial",)), captured=58)
case("IPv4 authentication header cut by the capture", ETHERNET,
     ETH / IP(src=A, dst=B, proto=51) / Raw(struct.pack(">BBHII12x", 17, 4, 0, 1, 1)) / UDP(
         sport=40000, dport=443) / TEXT,
     without_ports(of(UDP4, 72, protocol=51, payload_octets=52, flags=("partial",))), captured=50)
case("IPv6 unknown extension header ends the chain", ETHERNET,
     ETH / IPv6(src=A6, dst=B6, nh=253) / TEXT,
     without_ports(of(UDP6, 60, protocol=253, payload_octets=20, dscp=0, flow_label=0)))
case("IPv6 first fragment", ETHERNET,
     ETH / IPv6(src=A6, dst=B6, tc=0xB8, fl=0x12345) / IPv6ExtHdrFragment(m=1)
     / UDP(sport=40000, dport=443, len=2000) / TEXT, of(UDP6, 76, flags=("fragment",)))
case("IPv6 later fragment", ETHERNET,
     ETH / IPv6(src=A6, dst=B6, tc=0xB8, fl=0x12345) / IPv6ExtHdrFragment(offset=5, nh=17)
     / Raw(b"x" * 24),
     without_ports(of(UDP6, 72, payload_octets=24, flags=("fragment", "later_fragment"))))
case("IPv6 later fragment at the least offset", ETHERNET,
     ETH / IPv6(src=A6, dst=B6, tc=0xB8, fl=0x12345) / IPv6ExtHdrFragment(offset=1, nh=17)
     / Raw(b"x" * 24),
     without_ports(of(UDP6, 72, payload_octets=24, flags=("fragment", "later_fragment"))))
case("IPv6 atomic fragment is no fragment", ETHERNET,
     ETH / IPv6(src=A6, dst=B6, tc=0xB8, fl=0x12345) / IPv6ExtHdrFragment()
     / UDP(sport=40000, dport=443) / TEXT, of(UDP6, 76))
case("IPv6 no next header", ETHERNET, ETH / IPv6(src=A6, dst=B6, nh=59, plen=0) / Raw(bytes(60)),
     without_ports(of(UDP6, 40, protocol=59, payload_octets=0, dscp=0, flow_label=0)))
case("IPv6 payload length 0 in a padded frame: 40 octets", ETHERNET,
     ETH / IPv6(src=A6, dst=B6, nh=17, plen=0) / Raw(bytes(6)),
     without_ports(of(UDP6, 40, payload_octets=0, dscp=0, flow_label=0)))
case("IPv6 payload length 0: offload, the frame without its link header", ETHERNET,
     ETH / IPv6(src=A6, dst=B6, tc=0xB8, fl=0x12345, plen=0) / UDP(sport=40000, dport=443)
     / Raw(b"x" * 3000), of(UDP6, 3048, payload_octets=3000, flags=("coalesced",)))
JUMBO = IPv6(src=A6, dst=B6, tc=0xB8, fl=0x12345, plen=0) / IPv6ExtHdrHopByHop(
    options=[Jumbo(jumboplen=70_000)]) / UDP(sport=40000, dport=443, len=0) / TEXT
case("IPv6 jumbogram", ETHERNET, ETH / JUMBO,
     of(UDP6, 70_040, payload_octets=70_000 - 8 - 8), original=14 + 70_040)
case("IPv6 jumbogram, its option behind padding", ETHERNET,
     ETH / IPv6(src=A6, dst=B6, tc=0xB8, fl=0x12345, plen=0) / IPv6ExtHdrHopByHop(
         options=[Pad1(), PadN(optdata=b"\0\0\0"), Jumbo(jumboplen=70_000)])
     / UDP(sport=40000, dport=443, len=0) / TEXT,
     of(UDP6, 70_040, payload_octets=70_000 - 16 - 8), original=14 + 70_040)
case("IPv6 jumbogram longer than the wire", ETHERNET, ETH / JUMBO,
     fault("ip_exceeds_wire", 70_039), original=14 + 70_039)
case("IPv6 jumbo length that is none", ETHERNET,
     ETH / IPv6(src=A6, dst=B6, plen=0) / IPv6ExtHdrHopByHop(options=[Jumbo(jumboplen=36)])
     / UDP() / TEXT, fault("ip_length", 76))
case("IPv6 longer than the wire", ETHERNET, set_octets(ETH / U6, 18, b"\x05\xdc"),
     fault("ip_exceeds_wire", 68))
case("IPv6 header cut by the capture", ETHERNET, ETH / U6, fault("truncated", 68), captured=53)

# --- link layers -----------------------------------------------------------------------------

case("ARP", ETHERNET, ETH / ARP(), non_ip(28))
case("a frame shorter than its link header", ETHERNET, bytes(13), fault("truncated", 13))
case("a capture shorter than the link header", ETHERNET, ETH / U4, fault("truncated", 62),
     captured=5)
case("802.1Q", ETHERNET, ETH / Dot1Q(vlan=100, prio=5) / U4, {**UDP4, "vlan": 100})
case("802.1Q, priority only", ETHERNET, ETH / Dot1Q(vlan=0, prio=5) / U4, {**UDP4, "vlan": 0})
case("QinQ: 88a8 outside, 8100 inside", ETHERNET, ETH / Dot1AD(vlan=30) / Dot1Q(vlan=100) / U4,
     {**UDP4, "vlan": 30, "vlan_inner": 100})
case("QinQ with 9100", ETHERNET, set_octets(ETH / Dot1Q(vlan=7) / Dot1Q(vlan=8) / U4,
                                            12, b"\x91\x00"),
     {**UDP4, "vlan": 7, "vlan_inner": 8})
case("three tags: the outer two count", ETHERNET,
     ETH / Dot1Q(vlan=1) / Dot1Q(vlan=2) / Dot1Q(vlan=3) / U4,
     {**UDP4, "vlan": 1, "vlan_inner": 2})
STACK = bytes(ETH)[:12] + b"\x81\x00\x00\x05" * 8
case("eight tags", ETHERNET, STACK + b"\x08\x00" + bytes(U4),
     {**UDP4, "vlan": 5, "vlan_inner": 5})
case("nine tags", ETHERNET, STACK + b"\x81\x00\x00\x05\x08\x00" + bytes(U4),
     fault("link_tags", 4 + 48))
case("VLAN tag cut by the capture", ETHERNET, ETH / Dot1Q(vlan=100) / U4, fault("truncated", 52),
     captured=17)
case("ARP in a VLAN", ETHERNET, ETH / Dot1Q(vlan=9) / ARP(), non_ip(28, vlan=9))
case("provider backbone bridging (802.1ah)", ETHERNET,
     bytes(ETH)[:12] + b"\x88\xe7\0\x12\x34\x56" + bytes(ETH / Dot1Q(vlan=5) / U4),
     {**UDP4, "vlan": 5})
case("802.3 with LLC", ETHERNET, bytes(ETH)[:12] + b"\0\x26\x42\x42\x03" + bytes(43), non_ip(46))
case("802.3 with SNAP", ETHERNET,
     bytes(ETH)[:12] + struct.pack(">H", 56) + bytes(LLC() / SNAP(code=0x0800) / U4), UDP4)
case("SNAP of another organisation", ETHERNET,
     bytes(ETH)[:12] + struct.pack(">H", 56) + bytes(LLC() / SNAP(OUI=12, code=0x2000) / TEXT),
     non_ip(28))
case("MPLS, one label", ETHERNET, ETH / MPLS(label=29, s=1) / U4, {**UDP4, "mpls": 29})
case("MPLS, two labels: the top one counts", ETHERNET,
     ETH / MPLS(label=18, s=0) / MPLS(label=16, s=1) / U6, {**UDP6, "mpls": 18})
case("MPLS, nine labels", ETHERNET,
     bytes(ETH)[:12] + b"\x88\x47" + b"\0\x01\x20\x40" * 8 + b"\0\x01\x21\x40" + bytes(U4),
     fault("link_tags", 4 + 48))
case("MPLS pseudowire with control word", ETHERNET,
     ETH / MPLS(label=16, s=1) / Raw(bytes(4)) / Raw(bytes(ETH / Dot1Q(vlan=3) / U4)),
     {**UDP4, "mpls": 16, "vlan": 3})
case("MPLS over something else", ETHERNET, ETH / MPLS(label=16, s=1) / Raw(b"\x10" + bytes(19)),
     non_ip(20, mpls=16))
case("VLAN, then MPLS", ETHERNET, ETH / Dot1Q(vlan=4) / MPLS(label=5, s=1) / U4,
     {**UDP4, "vlan": 4, "mpls": 5})
case("PPPoE session", ETHERNET, ETH / PPPoE(sessionid=0x11) / PPP(proto=0x21) / U4,
     {**UDP4, "pppoe_session": 0x11})
case("PPPoE session, IPv6", ETHERNET, ETH / PPPoE(sessionid=0x11) / PPP(proto=0x57) / U6,
     {**UDP6, "pppoe_session": 0x11})
case("PPPoE over QinQ", ETHERNET,
     ETH / Dot1Q(vlan=1) / Dot1Q(vlan=2) / PPPoE(sessionid=7) / PPP(proto=0x21) / U4,
     {**UDP4, "vlan": 1, "vlan_inner": 2, "pppoe_session": 7})
case("PPPoE session whose version and code are none is billed all the same", ETHERNET,
     set_octets(ETH / PPPoE(sessionid=7) / PPP(proto=0x21) / U4, 14, b"\x21\x01"),
     {**UDP4, "pppoe_session": 7})
case("PPPoE session, LCP", ETHERNET,
     ETH / PPPoE(sessionid=7) / Raw(b"\xc0\x21\x09\x01\0\x08\0\0\0\0"),
     non_ip(8, pppoe_session=7))
case("PPPoE discovery", ETHERNET, bytes(ETH)[:12] + b"\x88\x63\x11\x09" + bytes(28), non_ip(30))
case("PPPoE link type", PPP_ETHER, PPPoE(sessionid=7) / PPP(proto=0x21) / U4,
     {**UDP4, "pppoe_session": 7})
case("NULL, IPv4, little-endian host", NULL, b"\x02\0\0\0" + bytes(U4), UDP4)
case("NULL, IPv4, big-endian host", NULL, b"\0\0\0\x02" + bytes(U4), UDP4)
case("NULL, IPv6 of macOS", NULL, b"\x1e\0\0\0" + bytes(U6), UDP6)
case("NULL, IPv6 of FreeBSD", NULL, b"\0\0\0\x1c" + bytes(U6), UDP6)
case("NULL, another family", NULL, b"\x07\0\0\0" + bytes(20), non_ip(20))
case("LOOP, IPv6 of OpenBSD, network order", LOOP, b"\0\0\0\x18" + bytes(U6), UDP6)
case("LOOP in the host's order is another family", LOOP, b"\x02\0\0\0" + bytes(U4), non_ip(48))
case("raw IPv4", RAW, U4, UDP4)
case("raw IPv6", RAW, U6, UDP6)
case("raw IP as BSD numbers it", RAW_BSD, U4, UDP4)
case("raw, neither 4 nor 6", RAW, b"\x10" + bytes(47), fault("ip_version", 48))
case("link type IPv4", IPV4, U4, UDP4)
case("link type IPv6", IPV6, U6, UDP6)
case("link type IPv6, version 4", IPV6, U4, fault("ip_version", 48))
case("Linux cooked", SLL, CookedLinux() / U4, UDP4)
case("Linux cooked, VLAN", SLL, CookedLinux(proto=0x8100) / Dot1Q(vlan=6) / U6,
     {**UDP6, "vlan": 6})
case("Linux cooked, LLC", SLL, CookedLinux(proto=4) / TEXT, non_ip(20))
case("Linux cooked, version 2", SLL2, CookedLinuxV2() / U4, UDP4)
case("PPP", PPP_LINK, b"\xff\x03\0\x21" + bytes(U4), UDP4)
case("PPP without address and control", PPP_LINK, b"\0\x57" + bytes(U6), UDP6)
case("PPP with a protocol field of one octet", PPP_LINK, b"\x21" + bytes(U4), UDP4)
case("PPP, MPLS", PPP_LINK, b"\xff\x03\x02\x81" + bytes(MPLS(label=9, s=1) / U4),
     {**UDP4, "mpls": 9})
case("PPP, IPCP", PPP_LINK, b"\xff\x03\x80\x21" + bytes(10), non_ip(10))
case("PPP in HDLC framing", PPP_HDLC, b"\xff\x03\0\x21" + bytes(U4), UDP4)
case("PPP with direction", PPP_WITH_DIR, b"\x01\xff\x03\0\x21" + bytes(U4), UDP4)
case("Cisco HDLC", C_HDLC, b"\x0f\0\x08\0" + bytes(U4), UDP4)
case("Cisco HDLC under link type NULL", NULL, b"\x0f\0\x08\0" + bytes(U4), UDP4)
case("Cisco HDLC, keepalive", C_HDLC, b"\x8f\0\x80\x35" + bytes(18), non_ip(18))
case("a link type that is counted only (--skip-links)", 0xFFFF, bytes(40), fault("link_type", 40))

# --- tunnels ---------------------------------------------------------------------------------

case("IPv4 in IPv4", ETHERNET, ETH / T4 / U4, inside(20), outermost(68, 4, 48))
case("IPv6 in IPv4 (6in4)", ETHERNET, ETH / T4 / U6, inside(20, UDP6), outermost(88, 41, 68))
case("IPv4 in IPv6", ETHERNET, ETH / T6 / U4, inside(40), {
    **outermost(88, 4, 48), "version": 6, "source": number(OUT6), "destination": number(IN6),
    "flow_label": 0})
case("IPv6 in IPv6 behind destination options", ETHERNET,
     ETH / T6 / IPv6ExtHdrDestOpt() / U6, inside(48, UDP6), {
         **outermost(116, 41, 68), "version": 6, "source": number(OUT6),
         "destination": number(IN6), "flow_label": 0})
case("GRE", ETHERNET, ETH / T4 / GRE() / U4, inside(24), outermost(72, 47, 52))
case("GRE with checksum, key and sequence", ETHERNET,
     ETH / T4 / GRE(chksum_present=1, key_present=1, seqnum_present=1, key=77) / U4,
     inside(36, gre_key=77), outermost(84, 47, 64))
case("GRE with Ethernet and a VLAN inside", ETHERNET,
     ETH / T4 / GRE(proto=0x6558, key_present=1, key=5) / ETH / Dot1Q(vlan=8) / U4,
     inside(20 + 8 + 18, gre_key=5, vlan=8), outermost(94, 47, 74))
case("GRE with MPLS inside", ETHERNET, ETH / T4 / GRE(proto=0x8847) / MPLS(label=3, s=1) / U4,
     inside(28, mpls=3), outermost(76, 47, 56))
case("GRE version 1 (PPTP): its key is no tenant's", ETHERNET,
     ETH / T4 / Raw(struct.pack(">HHHHII", 0x3081, 0x880B, 52, 6, 1, 1) + b"\xff\x03\0\x21") / U4,
     {}, {})
CASES[-1] = CASES[-1]._replace(
    octets=set_octets(CASES[-1].octets, 23, b"\x2f"), row=inside(20 + 16 + 4),
    outer=outermost(88, 47, 68))
case("GRE with a source route is not followed", ETHERNET,
     set_octets(ETH / T4 / GRE() / U4, 34, b"\x40"), outermost(72, 47, 52, depth=1, ttl=64))
case("GRE with an unknown protocol keeps its key", ETHERNET,
     ETH / T4 / GRE(proto=0x88BE, key_present=1, key=5) / TEXT,
     outermost(48, 47, 28, depth=1, ttl=64, gre_key=5))
case("MPLS in IP", ETHERNET, ETH / IP(src=OUT, dst=IN, proto=137) / MPLS(label=3, s=1) / U4,
     inside(24, mpls=3), outermost(72, 137, 52))
ALONE = {"depth": 1, "ttl": 64}
# What the inner packet's cut does not concern.
WHOLE = {"bucket": METERED, "fault": "none"}
UDP_OUT = {"source_port": 9, "destination_port": 4789}
case("VXLAN", ETHERNET, ETH / T4 / UDP(sport=9, dport=4789) / VXLAN(vni=100, flags=8) / ETH / U4,
     inside(20 + 8 + 8 + 14, vni=100), outermost(98, 17, 70, **UDP_OUT))
case("VXLAN without a valid VNI is UDP", ETHERNET,
     ETH / T4 / UDP(sport=9, dport=4789) / VXLAN(vni=100, flags=0) / ETH / U4,
     outermost(98, 17, 70, **UDP_OUT, depth=1, ttl=64))
case("ARP in VXLAN is metered by the outer packet", ETHERNET,
     ETH / T4 / UDP(sport=9, dport=4789) / VXLAN(vni=100, flags=8) / ETH / ARP(),
     outermost(78, 17, 50, **UDP_OUT, depth=1, ttl=64, vni=100))
case("VXLAN whose inner length exceeds it is metered by the outer packet", ETHERNET,
     set_octets(ETH / T4 / UDP(sport=9, dport=4789) / VXLAN(vni=100, flags=8) / ETH / U4,
                66, b"\0\x31"), outermost(98, 17, 70, **UDP_OUT, depth=1, ttl=64, vni=100))
case("VXLAN, VLAN inside and outside: the outer one counts", ETHERNET,
     ETH / Dot1Q(vlan=1) / T4 / UDP(sport=9, dport=4789) / VXLAN(vni=100, flags=8) / ETH
     / Dot1Q(vlan=2) / U4, inside(54, vni=100, vlan=1, vlan_inner=2),
     outermost(102, 17, 74, **UDP_OUT))
case("VXLAN cut by the capture in the inner header", ETHERNET,
     ETH / T4 / UDP(sport=9, dport=4789) / VXLAN(vni=100, flags=8) / ETH / U4,
     fault("truncated", 98), outermost(98, 17, 70, **UDP_OUT, **ALONE, **WHOLE, vni=100),
     captured=14 + 36 + 14 + 19)
case("VXLAN header cut by the capture", ETHERNET,
     ETH / T4 / UDP(sport=9, dport=4789) / VXLAN(vni=100, flags=8) / ETH / U4,
     fault("truncated", 98), outermost(98, 17, 70, **UDP_OUT, **ALONE, **WHOLE),
     captured=14 + 28 + 4)
GENEVE = {"source_port": 9, "destination_port": 6081}
case("Geneve with options", ETHERNET,
     ETH / T4 / UDP(sport=9, dport=6081) / Raw(b"\x02\0\x65\x58\0\0\xc8\0" + bytes(8)) / ETH / U4,
     inside(20 + 8 + 16 + 14, vni=200), outermost(106, 17, 78, **GENEVE))
case("Geneve carrying IP", ETHERNET,
     ETH / T4 / UDP(sport=9, dport=6081) / Raw(b"\0\0\x08\0\0\0\xc8\0") / U4,
     inside(36, vni=200), outermost(84, 17, 56, **GENEVE))
case("Geneve of an unknown version is UDP", ETHERNET,
     ETH / T4 / UDP(sport=9, dport=6081) / Raw(b"\x40\0\x08\0\0\0\xc8\0") / U4,
     outermost(84, 17, 56, **GENEVE, depth=1, ttl=64))


def gtp(flags: int, kind: int, rest: bytes, teid: int = 0xBEEF) -> Raw:
    return Raw(struct.pack(">BBHI", flags, kind, len(rest), teid) + rest)


G = ETH / T4 / UDP(sport=2152, dport=2152)
GTP = {"source_port": 2152, "destination_port": 2152}
case("GTP-U", ETHERNET, G / gtp(0x30, 255, bytes(U4)), inside(36, gtp_teid=0xBEEF),
     outermost(84, 17, 56, **GTP))
case("GTP-U with a sequence number", ETHERNET, G / gtp(0x32, 255, bytes(4) + bytes(U6)),
     inside(40, UDP6, gtp_teid=0xBEEF), outermost(108, 17, 80, **GTP))
case("GTP-U: without E the type of the next extension is not looked at", ETHERNET,
     G / gtp(0x32, 255, b"\0\0\0\x85" + bytes(U4)), inside(40, gtp_teid=0xBEEF),
     outermost(88, 17, 60, **GTP))
case("GTP-U with a PDU session container", ETHERNET,
     G / gtp(0x34, 255, b"\0\0\0\x85\x01\0\xc9\0" + bytes(U4)),
     inside(44, gtp_teid=0xBEEF, qfi=9), outermost(92, 17, 64, **GTP))
case("GTP-U with two extension headers", ETHERNET,
     G / gtp(0x34, 255, b"\0\0\0\xc0\x01\0\0\x85\x02\0\x05\0\0\0\0\0" + bytes(U4)),
     inside(52, gtp_teid=0xBEEF, qfi=5), outermost(100, 17, 72, **GTP))
case("GTP-U with an extension header of length 0", ETHERNET,
     G / gtp(0x34, 255, b"\0\0\0\x85\0\0\xc9\0" + bytes(U4)),
     outermost(92, 17, 64, **GTP, **ALONE))
case("GTP-U with nine extension headers", ETHERNET,
     G / gtp(0x34, 255, b"\0\0\0\xc0" + b"\x01\0\0\xc0" * 8 + b"\x01\0\0\0" + bytes(U4)),
     outermost(124, 17, 96, **GTP, **ALONE))
case("GTP-U carrying something else keeps its TEID", ETHERNET,
     G / gtp(0x30, 255, b"\xff\x03" + bytes(18)),
     outermost(56, 17, 28, **GTP, **ALONE, gtp_teid=0xBEEF))
case("GTP' is UDP", ETHERNET, G / gtp(0x20, 255, bytes(U4)), outermost(84, 17, 56, **GTP, **ALONE))
case("GTP-U echo request", ETHERNET, G / gtp(0x32, 1, bytes(4), 0),
     {"bucket": CONTROL, "octets": 40})
case("GTP-U end marker", ETHERNET, G / gtp(0x30, 254, b""), {"bucket": CONTROL, "octets": 36})
case("GTP-U echo response to another port", ETHERNET,
     ETH / T4 / UDP(sport=2152, dport=999) / gtp(0x32, 2, bytes(4), 0),
     {"bucket": CONTROL, "octets": 40})
case("a T-PDU from the tunnel's port to another", ETHERNET,
     ETH / T4 / UDP(sport=2152, dport=999) / gtp(0x30, 255, bytes(U4)),
     inside(36, gtp_teid=0xBEEF),
     outermost(84, 17, 56, source_port=2152, destination_port=999))
case("GTP-U in the first fragment of a longer packet", ETHERNET,
     ETH / IP(src=OUT, dst=IN, flags="MF") / UDP(sport=2152, dport=2152, len=1500)
     / gtp(0x30, 255, set_octets(U4, 2, b"\x05\xaa")),
     inside(0, of(UDP4, 1450, payload_octets=1422), gtp_teid=0xBEEF),
     outermost(84, 17, 56, **GTP, flags=("fragment", "tunnelled")))
case("a jumbogram claimed inside a first fragment is no packet", ETHERNET,
     ETH / IP(src=OUT, dst=IN, flags="MF", proto=41)
     / IPv6(src=A6, dst=B6, plen=0) / IPv6ExtHdrHopByHop(options=[Jumbo(jumboplen=4_000_000_000)])
     / UDP() / TEXT,
     outermost(96, 41, 76, flags=("fragment",), **ALONE))
case("a later fragment is never a tunnel", ETHERNET,
     ETH / IP(src=OUT, dst=IN, frag=100, proto=17) / Raw(bytes(UDP(dport=2152)) + b"x" * 40),
     outermost(68, 17, 48, flags=("fragment", "later_fragment"), **ALONE))
case("GTP-U over IPv6, VLAN outside", ETHERNET,
     ETH / Dot1Q(vlan=9) / T6 / UDP(sport=2152, dport=2152) / gtp(0x30, 255, bytes(U4)),
     inside(56, gtp_teid=0xBEEF, vlan=9), {
         **outermost(104, 17, 56, **GTP), "version": 6, "source": number(OUT6),
         "destination": number(IN6), "flow_label": 0})
case("VXLAN in GTP-U: three IP headers, the innermost counts", ETHERNET,
     G / gtp(0x30, 255, bytes(IP(src=A, dst=B) / UDP(sport=9, dport=4789)
                              / VXLAN(vni=1, flags=8) / ETH / U4)),
     inside(36 + 50, gtp_teid=0xBEEF, vni=1, depth=3), outermost(134, 17, 106, **GTP))
L = ETH / T4 / UDP(sport=1701, dport=1701)
L2TP = {"source_port": 1701, "destination_port": 1701}
case("L2TP data", ETHERNET, L / Raw(b"\0\x02\0\x01\0\x02\xff\x03\0\x21") / U4,
     inside(20 + 8 + 6 + 4), outermost(86, 17, 58, **L2TP))
case("L2TP data with length, sequence and offset", ETHERNET,
     L / Raw(b"\x4a\x02\0\x50\0\x01\0\x02\0\0\0\0\0\x02zz\0\x21") / U4,
     inside(20 + 8 + 16 + 2), outermost(94, 17, 66, **L2TP))
case("L2TP control", ETHERNET, L / Raw(b"\xc8\x02\0\x0c" + bytes(8)),
     {"bucket": CONTROL, "octets": 40})
case("L2TP data, LCP inside", ETHERNET, L / Raw(b"\0\x02\0\x01\0\x02\xc0\x21" + bytes(8)),
     outermost(44, 17, 16, **L2TP, **ALONE))
case("L2TP of version 3 is UDP", ETHERNET, L / Raw(b"\0\x03\0\x01\0\x02\xff\x03\0\x21") / U4,
     outermost(86, 17, 58, **L2TP, **ALONE))


def nest(count: int) -> Packet:
    packet = U4
    for _ in range(count):
        packet = T4 / packet
    return packet


case("eight IP headers", ETHERNET, ETH / nest(7), inside(140, depth=8), outermost(188, 4, 168))
case("nine IP headers: the eighth counts", ETHERNET, ETH / nest(8),
     inside(140, outermost(68, 4, 48, ttl=64), depth=8), {
         "octets": 208, "ip_octets": 208, "tunnel_octets": 0, "payload_octets": 188})
case("an inner IPv4 header that is none", ETHERNET,
     set_octets(ETH / T4 / U4, 34, b"\x43"), outermost(68, 4, 48, **ALONE))
case("an inner header beyond the outer packet, in the padding", ETHERNET,
     ETH / IP(src=OUT, dst=IN, proto=4, len=30) / U4, outermost(30, 4, 10, **ALONE))
case("inner total length 0: to the end of the outer packet", ETHERNET,
     bytes(set_octets(ETH / T4 / U4, 36, b"\0\0")) + bytes(9),
     inside(20, flags=("tunnelled", "coalesced")), outermost(68, 4, 48, flags=("tunnelled",)))
