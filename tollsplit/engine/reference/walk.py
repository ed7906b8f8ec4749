"""A walk along one frame's headers, from the link layer to the innermost transport."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import dpkt

from tollsplit.engine.reference.packet import (
    COALESCED,
    FRAGMENT,
    LATER_FRAGMENT,
    PARTIAL,
    TRUSTED,
    Control,
    Cut,
    Datagram,
    NonIp,
    Nonsense,
    Packet,
    fields,
    inside,
)
from tollsplit.limits import EXTENSION_HEADERS_MAX, GTP_EXTENSIONS_MAX, LINK_TAGS_MAX, TUNNELS_MAX
from tollsplit.rules.rule import Prefix

VLAN_TYPES = (0x8100, 0x88A8, 0x9100)
EXTENSION_HEADERS = (0, 43, 44, 51, 60, 135, 139, 140)
NO_NEXT_HEADER = 59
# Transports with ports and their shortest headers.
TRANSPORTS: dict[int, Any] = {6: dpkt.tcp.TCP, 17: dpkt.udp.UDP, 132: dpkt.sctp.SCTP}
TRANSPORT_OCTETS = {6: 20, 17: 8, 132: 12}
# A padded Ethernet frame leaves this much to its network layer.
ETHERNET_PAYLOAD_MIN = 46


class Walk:
    """One frame's headers, from the link layer to the innermost transport."""

    def __init__(self, octets: bytes, original: int, endpoints: Sequence[Prefix] | None,
                 trust_ip_length: bool) -> None:
        self.octets = octets
        self.original = original
        self.endpoints = endpoints
        self.trust_ip_length = trust_ip_length
        self.link_tags = 0
        self.known = 0  # octets of link layers that were understood, before the first IP header
        self.tags: dict[str, int] = {}
        self.packets: list[Packet] = []

    def take(self, at: int, count: int, end: int, nonsense: str = "truncated") -> bytes:
        """`count` octets at `at`, which have to lie before `end` on the wire."""
        if at + count > end:
            raise Nonsense(nonsense)
        if at + count > len(self.octets):
            raise Cut
        return self.octets[at : at + count]

    def number(self, at: int, count: int, end: int, nonsense: str = "truncated") -> int:
        return int.from_bytes(self.take(at, count, end, nonsense), "big")

    def understood(self, at: int) -> int:
        if not self.packets:
            self.known = at
        return at

    def one_more_tag(self) -> None:
        self.link_tags += 1
        if self.link_tags > LINK_TAGS_MAX:
            raise Nonsense("link_tags")

    # --- link layers ---------------------------------------------------------------------

    def link(self, link_type: int) -> None:
        end = self.original
        # Some hosts write Cisco's HDLC under NULL: an address that is no family.
        if link_type == 0 and self.take(0, 4, end)[:2] in (b"\x0f\0", b"\x8f\0"):
            link_type = 104
        if link_type == 1:
            self.ethernet(0, end)
        elif link_type in (0, 108):  # NULL in the host's order, whose we do not know; LOOP
            family = self.take(0, 4, end)
            families = {int.from_bytes(family, "big")}
            if link_type == 0:
                families.add(int.from_bytes(family, "little"))
            self.understood(4)
            if 2 in families:
                self.ip(4, end, 4)
            elif families & {10, 24, 28, 30}:
                self.ip(4, end, 6)
            else:
                raise NonIp
        elif link_type in (12, 14, 101):
            version = self.number(0, 1, end) >> 4
            if version not in (4, 6):
                raise Nonsense("ip_version")
            self.ip(0, end, version)
        elif link_type in (228, 229):
            self.ip(0, end, 4 if link_type == 228 else 6)
        elif link_type in (9, 50):
            self.ppp(0, end)
        elif link_type == 204:  # one octet of direction in front
            self.take(0, 1, end)
            self.ppp(self.understood(1), end)
        elif link_type == 51:
            self.pppoe(0, end)
        elif link_type == 104:
            kind = self.number(2, 2, end)
            self.ethertype(kind, self.understood(4), end)
        elif link_type == 113:
            kind = self.number(14, 2, end)
            self.ethertype(kind, self.understood(16), end)
        elif link_type == 276:
            kind = int.from_bytes(self.take(0, 20, end)[:2], "big")
            self.ethertype(kind, self.understood(20), end)
        else:
            raise Nonsense("link_type")

    def ethernet(self, at: int, end: int) -> None:
        kind = self.number(at + 12, 2, end)
        at = self.understood(at + 14)
        if kind >= 1536:
            self.ethertype(kind, at, end)
            return
        # IEEE 802.3: a length, then LLC; SNAP with an empty OUI brings an EtherType.
        if at + 8 > end:
            raise NonIp
        header = self.take(at, 8, end)
        if header[:6] != b"\xaa\xaa\x03\0\0\0":
            raise NonIp
        kind = int.from_bytes(header[6:], "big")
        self.ethertype(kind, self.understood(at + 8), end)

    def ethertype(self, kind: int, at: int, end: int) -> None:
        while kind in VLAN_TYPES:
            control, kind = struct.unpack(">HH", self.take(at, 4, end))
            self.one_more_tag()
            at = self.understood(at + 4)
            self.tags.setdefault("vlan_inner" if "vlan" in self.tags else "vlan", control & 0xFFF)
        if kind == 0x0800:
            self.ip(at, end, 4)
        elif kind == 0x86DD:
            self.ip(at, end, 6)
        elif kind in (0x8847, 0x8848):
            self.mpls(at, end)
        elif kind == 0x8864:
            self.pppoe(at, end)
        elif kind == 0x88E7:  # a provider backbone's service tag, then a customer's frame
            self.take(at, 4, end)
            self.one_more_tag()
            self.ethernet(self.understood(at + 4), end)
        else:
            raise NonIp

    def mpls(self, at: int, end: int) -> None:
        bottom = False
        while not bottom:
            entry = self.number(at, 4, end)
            self.one_more_tag()
            at = self.understood(at + 4)
            self.tags.setdefault("mpls", entry >> 12)
            bottom = bool(entry & 0x100)
        nibble = self.number(at, 1, end) >> 4
        if nibble in (4, 6):
            self.ip(at, end, nibble)
        elif nibble == 0:  # a pseudowire's control word (RFC 4385 §3)
            self.take(at, 4, end)
            self.ethernet(self.understood(at + 4), end)
        else:
            raise NonIp

    def pppoe(self, at: int, end: int) -> None:
        session = int.from_bytes(self.take(at, 6, end)[2:4], "big")
        self.tags.setdefault("pppoe_session", session)
        self.ppp(self.understood(at + 6), end)

    def ppp(self, at: int, end: int) -> None:
        if self.take(at, 2, end) == b"\xff\x03":
            # Address and control, where they are not compressed (RFC 1662 §3.1).
            at = self.understood(at + 2)
        protocol = self.number(at, 2, end)
        if protocol & 0x0100:  # compressed to one octet (RFC 1661 §6.5)
            protocol >>= 8
            at = self.understood(at + 1)
        else:
            at = self.understood(at + 2)
        if protocol == 0x0021:
            self.ip(at, end, 4)
        elif protocol == 0x0057:
            self.ip(at, end, 6)
        elif protocol == 0x0281:
            self.mpls(at, end)
        else:
            raise NonIp

    # --- IP ------------------------------------------------------------------------------

    def ip(self, at: int, end: int, version: int) -> None:
        packet = self.ipv4(at, end) if version == 4 else self.ipv6(at, end)
        self.packets.append(packet)
        self.transport(packet)
        if packet.flags & LATER_FRAGMENT:
            return
        if packet.version == 4 and packet.protocol == 51:
            packet.transport, packet.protocol, flags, _ = self.extensions(
                packet.transport, packet.wire_end, 51, (51,), 0)
            packet.flags |= flags
            self.transport(packet)
        if len(self.packets) == TUNNELS_MAX:
            return
        if self.endpoints is not None and not (
            inside(packet.version, packet.source, self.endpoints)
            and inside(packet.version, packet.destination, self.endpoints)
        ):
            return
        with suppress(Nonsense, NonIp):  # no tunnel after all: this packet is the innermost
            self.tunnel(packet)

    def length(self, at: int, end: int, octets: int) -> int:
        """Check an IP packet's length against what encloses it. Returns extra flags."""
        outer = self.packets[-1] if self.packets else None
        if outer is None:
            if at + octets <= end:
                return 0
            if self.trust_ip_length:
                return TRUSTED
            raise Nonsense("ip_exceeds_wire")
        # The rest of a fragmented outer packet's content is in its later fragments.
        if not outer.flags & FRAGMENT and at + octets > outer.start + outer.octets:
            raise Nonsense("ip_exceeds_wire")
        return 0

    def wire_end(self, at: int, end: int, octets: int, flags: int) -> int:
        return at + octets if flags & TRUSTED else min(end, at + octets)

    def header(self, at: int, count: int, end: int, version: int) -> bytes:
        """The fixed part of an IP header."""
        if self.number(at, 1, end, "ip_header") >> 4 != version:
            raise Nonsense("ip_version")
        return self.take(at, count, end, "ip_header")

    def ipv4(self, at: int, end: int) -> Packet:
        header = fields(dpkt.ip.IP, self.header(at, 20, end, 4))
        if header.hl < 5 or at + header.hl * 4 > end:
            raise Nonsense("ip_header")
        flags = 0
        octets = header.len
        if octets == 0:
            octets = end - at
            flags |= COALESCED
        elif octets < header.hl * 4:
            raise Nonsense("ip_length")
        flags |= self.length(at, end, octets)
        self.take(at, header.hl * 4, end)
        if header.offset:
            flags |= FRAGMENT | LATER_FRAGMENT
        elif header.mf:
            flags |= FRAGMENT
        wire_end = self.wire_end(at, end, octets, flags)
        datagram = None
        if flags & FRAGMENT:
            first = header.offset * 8
            datagram = Datagram(
                header.id, first, first + octets - header.hl * 4, bool(header.mf))
        return Packet(
            at, 4, int.from_bytes(header.src, "big"), int.from_bytes(header.dst, "big"), header.p,
            octets, wire_end, at + header.hl * 4, header.tos >> 2, header.ttl, 0, flags,
            datagram=datagram)

    def ipv6(self, at: int, end: int) -> Packet:
        header = fields(dpkt.ip6.IP6, self.header(at, 40, end, 6))
        flags = jumbo_octets = 0
        octets = 40 + header.plen
        if header.plen == 0:
            jumbo = self.jumbo(at + 40, end) if header.nxt == 0 else None
            if jumbo is not None:
                # RFC 2675 asks for more (§3), and for no fragmentation (§4)
                if jumbo <= 0xFFFF or (self.packets and self.packets[-1].flags & FRAGMENT):
                    raise Nonsense("ip_length")
                octets = 40 + jumbo
                jumbo_octets = 8 if self.octets[at + 41] == 0 else 0  # that option and no other
            elif header.nxt != NO_NEXT_HEADER and end - at > ETHERNET_PAYLOAD_MIN:
                octets = end - at
                flags |= COALESCED
        flags |= self.length(at, end, octets)
        wire_end = self.wire_end(at, end, octets, flags)
        transport, protocol, fragment, datagram = self.extensions(
            at + 40, wire_end, header.nxt, EXTENSION_HEADERS, at + octets)
        return Packet(
            at, 6, int.from_bytes(header.src, "big"), int.from_bytes(header.dst, "big"), protocol,
            octets, wire_end, transport, header.fc >> 2, header.hlim, header.flow,
            flags | fragment, jumbo_octets=jumbo_octets, datagram=datagram)

    def jumbo(self, at: int, end: int) -> int | None:
        """The jumbo payload length of a hop-by-hop header, if there is one (RFC 2675 §2)."""
        try:
            options = self.extension(at, end, 0)[2:]
        except Nonsense:
            return None
        while options:
            if options[0] == 0:  # Pad1 has no length
                options = options[1:]
                continue
            if len(options) < 2:
                return None
            if options[0] == 0xC2 and options[1] == 4 and len(options) >= 6:
                return int.from_bytes(options[2:6], "big")
            options = options[2 + options[1] :]
        return None

    def extensions(
        self, at: int, end: int, protocol: int, followed: Sequence[int], packet_end: int
    ) -> tuple[int, int, int, Datagram | None]:
        """Where the transport header starts, its protocol, flags of fragments, and their place.

        packet_end   by the packet's own length

        A header that is one too many, or not there as a whole, ends the chain: routers forward
        the packet all the same.
        """
        flags = 0
        datagram = None
        for _ in range(EXTENSION_HEADERS_MAX):
            if protocol not in followed:
                break
            try:
                header = self.extension(at, end, protocol)
            except Cut:
                return at, protocol, flags | PARTIAL, datagram
            except Nonsense:
                break
            at += len(header)
            following = header[0]
            if protocol == 44:
                offset = int.from_bytes(header[2:4], "big")
                first = offset & 0xFFF8
                if offset & 0xFFF9:
                    datagram = Datagram(int.from_bytes(header[4:8], "big"), first,
                                        first + packet_end - at, bool(offset & 1))
                if first:
                    return at, following, FRAGMENT | LATER_FRAGMENT, datagram
                if offset & 1:
                    flags |= FRAGMENT
            protocol = following
        return at, protocol, flags, datagram

    def extension(self, at: int, end: int, protocol: int) -> bytes:
        """A whole extension header."""
        size = self.take(at, 12 if protocol == 51 else 8, end)[1]
        if protocol == 44:
            return self.take(at, 8, end)
        if protocol == 51:
            return self.take(at, (size + 2) * 4, end)  # RFC 4302 §2.2
        return self.take(at, (size + 1) * 8, end)

    def transport(self, packet: Packet) -> None:
        """Read ports, TCP's flags and the payload's length."""
        size = 0
        if packet.protocol in TRANSPORTS and not packet.flags & LATER_FRAGMENT:
            size = TRANSPORT_OCTETS[packet.protocol]
            at = packet.transport
            try:
                header = fields(
                    TRANSPORTS[packet.protocol], self.take(at, size, packet.wire_end))
            except Cut:
                packet.flags |= PARTIAL
            except Nonsense:
                pass  # too short on the wire to have ports
            else:
                packet.source_port, packet.destination_port = header.sport, header.dport
                packet.ported = True
                if packet.protocol == 6:
                    packet.tcp_flags = header.flags & 0xFF
                    packet.sequence = header.seq
                    size = max(size, header.off * 4)
                if packet.protocol != 132 and not packet.flags & FRAGMENT:
                    packet.payload_at = packet.transport + size
        behind_ip = packet.octets - (packet.transport - packet.start)
        packet.payload_octets = max(0, behind_ip - size)

    # --- tunnels -------------------------------------------------------------------------

    def tunnel(self, packet: Packet) -> None:
        at, end = packet.transport, packet.wire_end
        if packet.protocol == 4:
            self.ip(at, end, 4)
        elif packet.protocol == 41:
            self.ip(at, end, 6)
        elif packet.protocol == 137:
            self.mpls(at, end)
        elif packet.protocol == 47:
            self.gre(at, end)
        elif packet.protocol == 17 and packet.ported:
            at += 8
            if packet.destination_port == 2152:
                self.gtp(at, end)
            elif packet.destination_port == 4789:
                self.vxlan(at, end)
            elif packet.destination_port == 6081:
                self.geneve(at, end)
            elif 1701 in (packet.destination_port, packet.source_port):
                self.l2tp(at, end)
            elif packet.source_port == 2152:
                self.gtp(at, end)

    def carried(self, kind: int, at: int, end: int) -> None:
        """What GRE and Geneve carry, by its EtherType."""
        if kind in (0x0800, 0x86DD, 0x8847, 0x8848):
            self.ethertype(kind, at, end)
        elif kind == 0x6558:
            self.ethernet(at, end)
        elif kind == 0x880B:
            self.ppp(at, end)
        else:
            raise NonIp

    def gre(self, at: int, end: int) -> None:
        flags, kind = struct.unpack(">HH", self.take(at, 4, end))
        at += 4
        version = flags & 7
        if flags & 0x4000 or version > 1:  # source routes are obsolete (RFC 2784 §2.3)
            raise NonIp
        if version == 1:
            # PPTP (RFC 2637 §4.1): the key holds a length and a call, no tenant's key.
            if kind != 0x880B or flags & 0xA000 != 0x2000:
                raise NonIp
            words = 1 + bool(flags & 0x1000) + bool(flags & 0x0080)
            self.take(at, words * 4, end)
        else:
            words = bool(flags & 0x8000) + bool(flags & 0x2000) + bool(flags & 0x1000)
            self.take(at, words * 4, end)
            if flags & 0x2000:
                self.tags["gre_key"] = self.number(at + 4 * bool(flags & 0x8000), 4, end)
        self.carried(kind, at + words * 4, end)

    def vxlan(self, at: int, end: int) -> None:
        header = self.take(at, 8, end)
        if not header[0] & 0x08:  # I: the VNI is valid (RFC 7348 §5)
            raise NonIp
        self.tags["vni"] = int.from_bytes(header[4:7], "big")
        self.ethernet(at + 8, end)

    def geneve(self, at: int, end: int) -> None:
        header = self.take(at, 8, end)
        if header[0] >> 6:
            raise NonIp
        size = 8 + (header[0] & 0x3F) * 4
        self.take(at, size, end)
        self.tags["vni"] = int.from_bytes(header[4:7], "big")
        self.carried(int.from_bytes(header[2:4], "big"), at + size, end)

    def l2tp(self, at: int, end: int) -> None:
        flags = self.number(at, 2, end)
        if flags & 0xF != 2:
            raise NonIp
        if flags & 0x8000:
            raise Control
        size = 2 + 2 * bool(flags & 0x4000) + 4 + 4 * bool(flags & 0x0800)
        if flags & 0x0200:  # O: an offset, and as much padding (RFC 2661 §3.1)
            size += 2 + self.number(at + size, 2, end)
        self.take(at, size, end)
        self.ppp(at + size, end)

    def gtp(self, at: int, end: int) -> None:
        header = self.take(at, 8, end)
        if header[0] & 0xF0 != 0x30:  # version 1, PT 1 (TS 29.281 §5.1)
            raise NonIp
        if header[1] != 255:
            raise Control
        at += 8
        qfi = None
        if header[0] & 7:  # E, S, PN: any set adds 4 octets (TS 29.281 §5.1)
            following = self.take(at, 4, end)[3]
            if not header[0] & 4:  # without E the type octet is not evaluated
                following = 0
            at += 4
            count = 0
            while following:
                count += 1
                if count > GTP_EXTENSIONS_MAX:
                    raise NonIp
                size = self.take(at, 4, end)[0] * 4
                if size == 0:
                    raise NonIp
                extension = self.take(at, size, end)
                if following == 0x85:  # PDU session container (TS 38.415 §5.5.2)
                    qfi = extension[2] & 0x3F
                following = extension[-1]
                at += size
        self.tags["gtp_teid"] = int.from_bytes(header[4:8], "big")
        if qfi is not None:
            self.tags["qfi"] = qfi
        version = self.number(at, 1, end) >> 4
        if version not in (4, 6):
            raise NonIp
        self.ip(at, end, version)
