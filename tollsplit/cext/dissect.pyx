"""Frames → PACKET rows: link layers, tunnels, IPv4 and IPv6, transport."""

import numpy as np

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memset

from tollsplit.cext.layout cimport *
from tollsplit.cext.layout import PACKET
from tollsplit.cext.lpm cimport Trie, lookup4, lookup6, trie_s

# Bounds; tollsplit.limits gives the reasons, tests/test_layout.py holds them equal.
cdef enum:
    LINK_TAGS_MAX = 8
    TUNNELS_MAX = 8
    EXTENSION_HEADERS_MAX = 8
    GTP_EXTENSIONS_MAX = 8

cdef enum:
    ETHERTYPE_IPV4 = 0x0800
    ETHERTYPE_VLAN = 0x8100
    ETHERTYPE_IPV6 = 0x86DD
    ETHERTYPE_MPLS = 0x8847
    ETHERTYPE_MPLS_UPSTREAM = 0x8848
    ETHERTYPE_PPPOE = 0x8864
    ETHERTYPE_PPP = 0x880B
    ETHERTYPE_QINQ = 0x88A8
    ETHERTYPE_QINQ_OLD = 0x9100
    ETHERTYPE_PBB = 0x88E7       # provider backbone bridges
    ETHERTYPE_TEB = 0x6558       # transparent Ethernet bridging

cdef enum:
    PROTOCOL_HOP_BY_HOP = 0
    PROTOCOL_IPV4 = 4
    PROTOCOL_TCP = 6
    PROTOCOL_UDP = 17
    PROTOCOL_IPV6 = 41
    PROTOCOL_ROUTING = 43
    PROTOCOL_FRAGMENT = 44
    PROTOCOL_GRE = 47
    PROTOCOL_AH = 51
    PROTOCOL_NONE = 59
    PROTOCOL_DESTINATION = 60
    PROTOCOL_SCTP = 132
    PROTOCOL_MOBILITY = 135
    PROTOCOL_MPLS = 137
    PROTOCOL_HIP = 139
    PROTOCOL_SHIM6 = 140

cdef enum:
    PORT_L2TP = 1701
    PORT_GTPU = 2152
    PORT_VXLAN = 4789
    PORT_GENEVE = 6081

# What stands at the cursor.
cdef enum next_e:
    NEXT_NOTHING                 # no IP here, or nothing that is followed
    NEXT_ETHERNET
    NEXT_ETHERTYPE               # cursor_s.ethertype says what
    NEXT_MPLS
    NEXT_PPP
    NEXT_NIBBLE                  # the first four bits are an IP version
    NEXT_IPV4
    NEXT_IPV6
    NEXT_CONTROL                 # a tunnel's own signalling
    NEXT_CUT                     # the capture ends inside a header
    NEXT_NONSENSE                # what was on the wire contradicts itself

# The checked cursor: a header is read only after has() granted its octets.
cdef struct cursor_s:
    const uint8_t *octets
    uint32_t at
    uint32_t captured            # octets in memory, never more than `wire`
    uint32_t wire                # octets of the enclosing packet on the wire
    uint16_t ethertype
    uint8_t link_tags
    bint fragment                # inside a first fragment: inner lengths exceed the wire


cdef inline bint has(const cursor_s *c, uint32_t count) noexcept nogil:
    return count <= c.captured - c.at


cdef inline next_e short_of(const cursor_s *c, uint32_t count) noexcept nogil:
    """Why has() said no: the snap length, or the wire itself."""
    return NEXT_NONSENSE if count > c.wire - c.at else NEXT_CUT


cdef inline uint16_t be16(const uint8_t *p) noexcept nogil:
    return <uint16_t>(p[0] << 8 | p[1])


cdef inline uint32_t be32(const uint8_t *p) noexcept nogil:
    return <uint32_t>p[0] << 24 | <uint32_t>p[1] << 16 | <uint32_t>p[2] << 8 | p[3]


cdef inline uint64_t be64(const uint8_t *p) noexcept nogil:
    return <uint64_t>be32(p) << 32 | be32(p + 4)


# --- link layers -----------------------------------------------------------------------


cdef next_e link_layer(cursor_s *c, uint16_t link_type) noexcept nogil:
    """Step over the header that a capture's link type names (tcpdump.org/linktypes.html)."""
    cdef const uint8_t *p = c.octets
    cdef uint32_t family
    if link_type == LINK_ETHERNET:
        return NEXT_ETHERNET
    if link_type in (LINK_RAW, LINK_RAW_BSD, LINK_RAW_OPENBSD):
        return NEXT_NIBBLE
    if link_type == LINK_IPV4:
        return NEXT_IPV4
    if link_type == LINK_IPV6:
        return NEXT_IPV6
    if link_type in (LINK_NULL, LINK_LOOP):
        if not has(c, 4):
            return NEXT_CUT
        c.at = 4
        family = be32(p)
        if link_type == LINK_NULL and family > 0xFFFF:  # in the order of whoever captured
            family = (p[0] | <uint32_t>p[1] << 8 | <uint32_t>p[2] << 16
                      | <uint32_t>p[3] << 24)
        if family == 2:
            return NEXT_IPV4
        if family in (10, 24, 28, 30):  # Linux, NetBSD and OpenBSD, FreeBSD, Darwin
            return NEXT_IPV6
        if link_type == LINK_NULL:  # some writers put an EtherType into the last two octets
            if be16(p + 2) == ETHERTYPE_IPV4:
                return NEXT_IPV4
            if be16(p + 2) == ETHERTYPE_IPV6:
                return NEXT_IPV6
        return NEXT_NOTHING
    if link_type == LINK_LINUX_SLL:
        if not has(c, 16):
            return NEXT_CUT
        c.at = 16
        c.ethertype = be16(p + 14)
        return NEXT_ETHERTYPE
    if link_type == LINK_LINUX_SLL2:
        if not has(c, 20):
            return NEXT_CUT
        c.at = 20
        c.ethertype = be16(p)
        return NEXT_ETHERTYPE
    if link_type == LINK_PPP_WITH_DIR:
        if not has(c, 1):
            return NEXT_CUT
        c.at = 1
        return NEXT_PPP
    if link_type == LINK_PPP or link_type == LINK_PPP_HDLC:
        return NEXT_PPP
    if link_type == LINK_PPP_ETHER:
        c.ethertype = ETHERTYPE_PPPOE
        return NEXT_ETHERTYPE
    if link_type == LINK_C_HDLC:
        if not has(c, 4):
            return NEXT_CUT
        c.at = 4
        c.ethertype = be16(p + 2)
        return NEXT_ETHERTYPE
    return NEXT_NOTHING


cdef next_e ethernet(cursor_s *c) noexcept nogil:
    cdef const uint8_t *p
    cdef uint32_t size
    if not has(c, 14):
        return short_of(c, 14)
    p = c.octets + c.at
    c.at += 14
    c.ethertype = be16(p + 12)
    if c.ethertype < 1536:  # IEEE 802.3 §3.2.6: a length, LLC follows
        size = c.wire - c.at
        if size < 8:
            return NEXT_NOTHING
        if not has(c, 8):
            return NEXT_CUT
        p = c.octets + c.at
        # SNAP with the Ethernet OUI (RFC 1042)
        if be32(p) != 0xAAAA0300U or p[4] != 0 or p[5] != 0:
            return NEXT_NOTHING
        c.ethertype = be16(p + 6)
        c.at += 8
    return NEXT_ETHERTYPE


cdef next_e ethertype(cursor_s *c, packet_s *row) noexcept nogil:
    """Follow an EtherType through tags and PPPoE up to IP."""
    cdef const uint8_t *p
    cdef uint16_t vid
    while True:
        if c.ethertype == ETHERTYPE_IPV4:
            return NEXT_IPV4
        if c.ethertype == ETHERTYPE_IPV6:
            return NEXT_IPV6
        if c.ethertype in (ETHERTYPE_VLAN, ETHERTYPE_QINQ, ETHERTYPE_QINQ_OLD):
            if not has(c, 4):
                return short_of(c, 4)
            c.link_tags += 1
            if c.link_tags > LINK_TAGS_MAX:
                return NEXT_NONSENSE
            p = c.octets + c.at
            vid = be16(p) & 0x0FFF
            if not row.tags & TAG_VLAN:
                row.vlan = vid
                row.tags |= TAG_VLAN
            elif not row.tags & TAG_VLAN_INNER:
                row.vlan_inner = vid
                row.tags |= TAG_VLAN_INNER
            c.ethertype = be16(p + 2)
            c.at += 4
            continue
        if c.ethertype in (ETHERTYPE_MPLS, ETHERTYPE_MPLS_UPSTREAM):
            return NEXT_MPLS
        if c.ethertype == ETHERTYPE_PPP:
            return NEXT_PPP
        if c.ethertype == ETHERTYPE_TEB:
            return NEXT_ETHERNET
        if c.ethertype == ETHERTYPE_PBB:  # an I-TAG, then Ethernet (IEEE 802.1ah)
            if not has(c, 4):
                return short_of(c, 4)
            c.link_tags += 1
            if c.link_tags > LINK_TAGS_MAX:
                return NEXT_NONSENSE
            c.at += 4
            return NEXT_ETHERNET
        if c.ethertype == ETHERTYPE_PPPOE:
            if not has(c, 6):
                return short_of(c, 6)
            p = c.octets + c.at
            c.at += 6
            if not row.tags & TAG_PPPOE:
                row.pppoe_session = be16(p + 2)
                row.tags |= TAG_PPPOE
            return NEXT_PPP
        return NEXT_NOTHING


cdef next_e mpls(cursor_s *c, packet_s *row) noexcept nogil:
    """Step over a label stack (RFC 3032) and guess what it carries (RFC 4928 §3)."""
    cdef const uint8_t *p
    cdef uint32_t entry
    while True:
        if not has(c, 4):
            return short_of(c, 4)
        c.link_tags += 1
        if c.link_tags > LINK_TAGS_MAX:
            return NEXT_NONSENSE
        entry = be32(c.octets + c.at)
        c.at += 4
        if not row.tags & TAG_MPLS:
            row.mpls = entry >> 12
            row.tags |= TAG_MPLS
        if entry & 0x100:  # bottom of stack
            break
    if not has(c, 1):
        return short_of(c, 1)
    p = c.octets + c.at
    if p[0] >> 4 == 4:
        return NEXT_IPV4
    if p[0] >> 4 == 6:
        return NEXT_IPV6
    if p[0] >> 4 == 0:  # a pseudowire's control word (RFC 4385 §3), then Ethernet
        if not has(c, 4):
            return short_of(c, 4)
        c.at += 4
        return NEXT_ETHERNET
    return NEXT_NOTHING


cdef next_e ppp(cursor_s *c) noexcept nogil:
    """Step over a PPP header: address and control optional, protocol of one or two octets."""
    cdef const uint8_t *p
    cdef uint32_t protocol
    if not has(c, 2):
        return short_of(c, 2)
    p = c.octets + c.at
    if p[0] == 0xFF and p[1] == 0x03:  # RFC 1662 §3.1
        c.at += 2
        if not has(c, 2):
            return short_of(c, 2)
        p += 2
    if p[0] & 1:  # compressed protocol field (RFC 1661 §6.5)
        protocol = p[0]
        c.at += 1
    else:
        protocol = be16(p)
        c.at += 2
    if protocol == 0x0021:
        return NEXT_IPV4
    if protocol == 0x0057:
        return NEXT_IPV6
    if protocol == 0x0281:
        return NEXT_MPLS
    return NEXT_NOTHING


# --- network layer ---------------------------------------------------------------------


cdef inline void clear_ip(packet_s *row) noexcept nogil:
    """Forget the enclosing packet; tags and frame stay."""
    row.flags &= ~<uint16_t>(FLAG_COALESCED | FLAG_FRAGMENT | FLAG_LATER_FRAGMENT | FLAG_PARTIAL)
    row.tags &= ~<uint16_t>(TAG_PORTS | TAG_FLOW_LABEL)
    row.source_port = 0
    row.destination_port = 0
    row.flow_label = 0
    row.tcp_flags = 0
    row.payload_octets = 0


cdef fault_e ipv4(cursor_s *c, packet_s *row, const meter_s *meter) noexcept nogil:
    """Read an IPv4 header (RFC 791 §3.1); the cursor ends behind it, bounded by its length."""
    cdef const uint8_t *p = c.octets + c.at
    cdef uint32_t left = c.wire - c.at
    cdef uint32_t header, total, fragment
    if not has(c, 1):
        return FAULT_IP_HEADER if left < 1 else FAULT_TRUNCATED
    if p[0] >> 4 != 4:
        return FAULT_IP_VERSION
    if not has(c, 20):
        return FAULT_IP_HEADER if left < 20 else FAULT_TRUNCATED
    header = (p[0] & 15) * 4
    if header < 20 or header > left:
        return FAULT_IP_HEADER
    if not has(c, header):
        return FAULT_TRUNCATED
    total = be16(p + 2)
    if total == 0:
        total = left  # segmentation offload
        row.flags |= FLAG_COALESCED
    elif total < header:
        return FAULT_IP_LENGTH
    elif total > left and not c.fragment:
        if not meter.trust_ip_length or row.depth:  # an inner one has its outer one's word
            return FAULT_IP_EXCEEDS_WIRE
        row.flags |= FLAG_TRUSTED
        c.wire = c.at + total
    row.version = 4
    row.source_hi = 0
    row.source_lo = be32(p + 12)
    row.destination_hi = 0
    row.destination_lo = be32(p + 16)
    row.protocol = p[9]
    row.dscp = p[1] >> 2
    row.ttl = p[8]
    row.ip_octets = total
    fragment = be16(p + 6)
    if fragment & 0x3FFF:  # offset or more fragments
        row.flags |= FLAG_FRAGMENT
        if fragment & 0x1FFF:
            row.flags |= FLAG_LATER_FRAGMENT
        else:
            c.fragment = True
    row.payload_octets = total - header
    bound(c, total)
    c.at += header
    return FAULT_NONE


cdef inline void bound(cursor_s *c, uint32_t length) noexcept nogil:
    """What the cursor may see ends with this packet: padding behind it is nobody's."""
    if length > c.wire - c.at:
        return
    c.wire = c.at + length
    if c.captured > c.wire:
        c.captured = c.wire


cdef fault_e ipv6(cursor_s *c, packet_s *row, const meter_s *meter) noexcept nogil:
    """Read an IPv6 header and its extension headers (RFC 8200 §3, §4)."""
    cdef const uint8_t *p = c.octets + c.at
    cdef uint32_t left = c.wire - c.at
    cdef uint32_t start = c.at
    cdef uint32_t payload, word
    cdef uint64_t total
    cdef fault_e fault
    if not has(c, 1):
        return FAULT_IP_HEADER if left < 1 else FAULT_TRUNCATED
    if p[0] >> 4 != 6:
        return FAULT_IP_VERSION
    if not has(c, 40):
        return FAULT_IP_HEADER if left < 40 else FAULT_TRUNCATED
    word = be32(p)
    payload = be16(p + 4)
    total = 40 + <uint64_t>payload
    if payload == 0 and p[6] != PROTOCOL_NONE:
        if p[6] == PROTOCOL_HOP_BY_HOP:
            fault = jumbogram(c, &total)
            if fault != FAULT_NONE:
                return fault
        if total == 40 and left > 46:  # offload; up to 46 octets are Ethernet's padding
            total = left
            row.flags |= FLAG_COALESCED
    if total > left and not c.fragment:
        if not meter.trust_ip_length or row.depth or total + c.at > 0xFFFFFFFFU:
            return FAULT_IP_EXCEEDS_WIRE
        row.flags |= FLAG_TRUSTED
        c.wire = c.at + <uint32_t>total
    row.version = 6
    row.source_hi = be64(p + 8)
    row.source_lo = be64(p + 16)
    row.destination_hi = be64(p + 24)
    row.destination_lo = be64(p + 32)
    row.dscp = <uint8_t>(word >> 22 & 63)
    row.flow_label = word & 0xFFFFF
    row.tags |= TAG_FLOW_LABEL
    row.ttl = p[7]
    row.ip_octets = <uint32_t>total
    bound(c, row.ip_octets)
    c.at += 40
    fault = extension_headers(c, row, p[6])
    if fault != FAULT_NONE:
        return fault
    row.payload_octets = row.ip_octets - (c.at - start) if row.ip_octets > c.at - start else 0
    return FAULT_NONE


cdef fault_e jumbogram(const cursor_s *c, uint64_t *total) noexcept nogil:
    """The length in a hop-by-hop jumbo payload option (RFC 2675 §2), if there is one."""
    cdef const uint8_t *p = c.octets + c.at + 40
    cdef uint32_t left = c.wire - c.at
    cdef uint32_t size, at
    if left < 48:
        return FAULT_NONE
    if not has(c, 48):
        return FAULT_TRUNCATED
    size = 8 + 8 * <uint32_t>p[1]
    if left < 40 + size:
        return FAULT_NONE
    if not has(c, 40 + size):
        return FAULT_TRUNCATED
    at = 2
    while at < size:
        if p[at] == 0:  # Pad1
            at += 1
            continue
        if at + 2 > size or at + 2 + p[at + 1] > size:
            return FAULT_NONE
        if p[at] == 0xC2 and p[at + 1] == 4:
            total[0] = 40 + <uint64_t>be32(p + at + 2)
            return FAULT_NONE if total[0] > 40 + 65535 else FAULT_IP_LENGTH  # RFC 2675 §3
        at += 2 + p[at + 1]
    return FAULT_NONE


cdef fault_e extension_headers(cursor_s *c, packet_s *row, uint8_t protocol) noexcept nogil:
    """Walk the extension headers that are known; the transport protocol ends the chain."""
    cdef const uint8_t *p
    cdef uint32_t size, fragment
    cdef int count = 0
    while protocol in (
        PROTOCOL_HOP_BY_HOP, PROTOCOL_ROUTING, PROTOCOL_FRAGMENT, PROTOCOL_AH,
        PROTOCOL_DESTINATION, PROTOCOL_MOBILITY, PROTOCOL_HIP, PROTOCOL_SHIM6,
    ):
        count += 1
        if count > EXTENSION_HEADERS_MAX:
            return FAULT_EXTENSION_HEADERS
        if not has(c, 8):
            return FAULT_IP_LENGTH if short_of(c, 8) == NEXT_NONSENSE else FAULT_TRUNCATED
        p = c.octets + c.at
        if protocol == PROTOCOL_FRAGMENT:
            size = 8
            fragment = be16(p + 2)
            if fragment & 0xFFF9:  # RFC 6946: neither offset nor M is no fragment
                row.flags |= FLAG_FRAGMENT
                if fragment & 0xFFF8:
                    row.flags |= FLAG_LATER_FRAGMENT
                else:
                    c.fragment = True
        elif protocol == PROTOCOL_AH:
            size = 8 + 4 * <uint32_t>p[1]  # RFC 4302 §2.2: in words, minus 2
        else:
            size = 8 + 8 * <uint32_t>p[1]
        if not has(c, size):
            return FAULT_IP_LENGTH if short_of(c, size) == NEXT_NONSENSE else FAULT_TRUNCATED
        protocol = p[0]
        c.at += size
        if row.flags & FLAG_LATER_FRAGMENT:
            break
    row.protocol = protocol
    return FAULT_NONE


# --- transport and tunnels -------------------------------------------------------------


cdef inline bint endpoints(const packet_s *row, const meter_s *meter) noexcept nogil:
    """Whether both ends of a tunnel are the operator's own."""
    if not meter.bounded:
        return True
    if row.version == 4:
        return (lookup4(meter.endpoints4, <uint32_t>row.source_lo) != 0
                and lookup4(meter.endpoints4, <uint32_t>row.destination_lo) != 0)
    return (lookup6(meter.endpoints6, row.source_hi, row.source_lo) != 0
            and lookup6(meter.endpoints6, row.destination_hi, row.destination_lo) != 0)


cdef next_e transport(cursor_s *c, packet_s *row, const meter_s *meter) noexcept nogil:
    """Read ports and payload length; says whether a tunnel follows."""
    cdef const uint8_t *p
    cdef uint32_t size, header
    if row.flags & FLAG_LATER_FRAGMENT:
        return NEXT_NOTHING
    if row.protocol == PROTOCOL_AH:  # behind IPv4; behind IPv6 it was stepped over
        if not has(c, 12):
            return NEXT_NOTHING if short_of(c, 12) == NEXT_NONSENSE else NEXT_CUT
        size = 8 + 4 * <uint32_t>c.octets[c.at + 1]  # RFC 4302 §2.2: in words, minus 2
        if not has(c, size):
            return NEXT_NOTHING if short_of(c, size) == NEXT_NONSENSE else NEXT_CUT
        row.protocol = c.octets[c.at]
        row.payload_octets -= min(size, row.payload_octets)
        c.at += size
    if row.protocol == PROTOCOL_TCP:
        size = 20
    elif row.protocol == PROTOCOL_UDP:
        size = 8
    elif row.protocol == PROTOCOL_SCTP:
        size = 12
    elif not endpoints(row, meter):
        return NEXT_NOTHING
    elif row.protocol == PROTOCOL_IPV4:
        return NEXT_IPV4
    elif row.protocol == PROTOCOL_IPV6:
        return NEXT_IPV6
    elif row.protocol == PROTOCOL_GRE:
        return gre(c, row)
    elif row.protocol == PROTOCOL_MPLS:
        return NEXT_MPLS
    else:
        return NEXT_NOTHING
    if not has(c, size):
        if short_of(c, size) == NEXT_CUT:
            row.flags |= FLAG_PARTIAL
        row.payload_octets = row.payload_octets - size if row.payload_octets > size else 0
        return NEXT_NOTHING
    p = c.octets + c.at
    row.source_port = be16(p)
    row.destination_port = be16(p + 2)
    row.tags |= TAG_PORTS
    header = size
    if row.protocol == PROTOCOL_TCP:
        row.tcp_flags = p[13]
        header = max(20, (p[12] >> 4) * 4)
    row.payload_octets = row.payload_octets - header if row.payload_octets > header else 0
    if row.protocol != PROTOCOL_UDP:
        return NEXT_NOTHING
    c.at += 8
    return udp_tunnel(c, row, meter)


cdef inline next_e udp_tunnel(cursor_s *c, packet_s *row, const meter_s *meter) noexcept nogil:
    """What a UDP port promises."""
    cdef uint16_t source = row.source_port, destination = row.destination_port
    if not tunnel_port(source, destination) or not endpoints(row, meter):
        return NEXT_NOTHING
    if destination == PORT_GTPU:
        return gtpu(c, row)
    if destination == PORT_VXLAN:
        return vxlan(c, row)
    if destination == PORT_GENEVE:
        return geneve(c, row)
    if destination == PORT_L2TP:
        return l2tp(c)
    if source == PORT_GTPU:
        return gtpu(c, row)
    if source == PORT_L2TP:
        return l2tp(c)
    return NEXT_NOTHING


cdef next_e gre(cursor_s *c, packet_s *row) noexcept nogil:
    """GRE (RFC 2784, RFC 2890) and its enhanced form for PPTP (RFC 2637 §4.1)."""
    cdef const uint8_t *p
    cdef uint32_t size = 4, key
    cdef uint16_t flags
    if not has(c, 4):
        return short_of(c, 4)
    p = c.octets + c.at
    flags = be16(p)
    c.ethertype = be16(p + 2)
    if flags & 7 == 1:
        if c.ethertype != ETHERTYPE_PPP or not flags & 0x2000:
            return NEXT_NOTHING
        key = 4
        size = 8 + (4 if flags & 0x1000 else 0) + (4 if flags & 0x0080 else 0)
        if not flags & 0x1000:  # no sequence number: an acknowledgement alone
            return NEXT_NOTHING
        flags &= ~<uint16_t>0x2000  # its key is a length and a call, no tenant's
    elif flags & 7 == 0:
        if flags & 0x4000:  # RFC 1701 source routing: obsolete, not followed
            return NEXT_NOTHING
        size += 4 if flags & 0x8000 else 0  # checksum and reserved
        key = size
        size += 4 if flags & 0x2000 else 0
        size += 4 if flags & 0x1000 else 0
    else:
        return NEXT_NOTHING
    if not has(c, size):
        return short_of(c, size)
    if flags & 0x2000:
        row.gre_key = be32(p + key)
        row.tags |= TAG_GRE_KEY
    c.at += size
    return NEXT_ETHERTYPE


cdef next_e vxlan(cursor_s *c, packet_s *row) noexcept nogil:
    """VXLAN (RFC 7348 §5)."""
    cdef const uint8_t *p
    if not has(c, 8):
        return short_of(c, 8)
    p = c.octets + c.at
    if not p[0] & 0x08:  # the VNI is not valid
        return NEXT_NOTHING
    row.vni = be32(p + 4) >> 8
    row.tags |= TAG_VNI
    c.at += 8
    return NEXT_ETHERNET


cdef next_e geneve(cursor_s *c, packet_s *row) noexcept nogil:
    """Geneve (RFC 8926 §3.4)."""
    cdef const uint8_t *p
    cdef uint32_t size
    if not has(c, 8):
        return short_of(c, 8)
    p = c.octets + c.at
    if p[0] >> 6 != 0:
        return NEXT_NOTHING
    size = 8 + 4 * <uint32_t>(p[0] & 0x3F)
    if not has(c, size):
        return short_of(c, size)
    row.vni = be32(p + 4) >> 8
    row.tags |= TAG_VNI
    c.ethertype = be16(p + 2)
    c.at += size
    return NEXT_ETHERTYPE


cdef next_e gtpu(cursor_s *c, packet_s *row) noexcept nogil:
    """GTP-U (TS 29.281 §5.1, §5.2; the PDU session container TS 38.415 §5.5.2)."""
    cdef const uint8_t *p
    cdef uint32_t size, teid, length
    cdef int count = 0
    cdef int qfi = -1
    cdef uint8_t extension
    if not has(c, 8):
        return short_of(c, 8)
    p = c.octets + c.at
    if p[0] >> 4 != 3:  # version 1, protocol type GTP
        return NEXT_NOTHING
    if p[1] != 255:
        return NEXT_CONTROL
    teid = be32(p + 4)
    size = 8
    if p[0] & 7:  # E, S, PN: any set adds 4 octets (TS 29.281 §5.1)
        if not has(c, 12):
            return short_of(c, 12)
        size = 12
        extension = p[11] if p[0] & 4 else 0
        while extension:
            count += 1
            if count > GTP_EXTENSIONS_MAX:
                return NEXT_NONSENSE
            if not has(c, size + 4):
                return short_of(c, size + 4)

            if p[size] == 0:  # a length of zero would never end
                return NEXT_NONSENSE
            if extension == 0x85:
                qfi = p[size + 2] & 0x3F
            length = <uint32_t>p[size] * 4
            if not has(c, size + length):
                return short_of(c, size + length)
            size += length
            extension = p[size - 1]
    if qfi >= 0:
        row.qfi = <uint8_t>qfi
        row.tags |= TAG_QFI
    row.gtp_teid = teid
    row.tags |= TAG_GTP_TEID
    c.at += size
    return NEXT_NIBBLE


cdef next_e l2tp(cursor_s *c) noexcept nogil:
    """L2TP version 2 (RFC 2661 §3.1)."""
    cdef const uint8_t *p
    cdef uint32_t size = 6
    cdef uint16_t flags
    if not has(c, 2):
        return short_of(c, 2)
    p = c.octets + c.at
    flags = be16(p)
    if flags & 15 != 2:
        return NEXT_NOTHING
    if flags & 0x8000:
        return NEXT_CONTROL
    size += 2 if flags & 0x4000 else 0  # length
    size += 4 if flags & 0x0800 else 0  # Ns, Nr
    if flags & 0x0200:  # offset size, then that much padding
        if not has(c, size + 2):
            return short_of(c, size + 2)
        size += 2 + be16(p + size)
    if not has(c, size):
        return short_of(c, size)
    c.at += size
    return NEXT_PPP


# --- the whole frame -------------------------------------------------------------------


cdef next_e link_layers(cursor_s *c, packet_s *row, next_e step) noexcept nogil:
    """Go on until IP, or until there is none."""
    while True:
        if step == NEXT_ETHERNET:
            step = ethernet(c)
        elif step == NEXT_ETHERTYPE:
            step = ethertype(c, row)
        elif step == NEXT_MPLS:
            step = mpls(c, row)
        elif step == NEXT_PPP:
            step = ppp(c)
        elif step == NEXT_NIBBLE:
            if not has(c, 1):
                return short_of(c, 1)
            if c.octets[c.at] >> 4 == 4:
                return NEXT_IPV4
            if c.octets[c.at] >> 4 == 6:
                return NEXT_IPV6
            return NEXT_NONSENSE
        else:
            return step


cdef inline void take_tags(packet_s *row, const packet_s *deepest) noexcept nogil:
    """Copy what was learned inside tunnels onto the outermost packet's row."""
    row.tags = (row.tags & (TAG_PORTS | TAG_FLOW_LABEL)) | (
        deepest.tags & ~<uint16_t>(TAG_PORTS | TAG_FLOW_LABEL))
    row.vlan = deepest.vlan
    row.vlan_inner = deepest.vlan_inner
    row.pppoe_session = deepest.pppoe_session
    row.mpls = deepest.mpls
    row.gtp_teid = deepest.gtp_teid
    row.qfi = deepest.qfi
    row.gre_key = deepest.gre_key
    row.vni = deepest.vni
    row.depth = deepest.depth
    row.flags |= deepest.flags & FLAG_TUNNELLED


cdef void fail(packet_s *row, fault_e fault, uint32_t at) noexcept nogil:
    row.bucket = BUCKET_FAULT
    row.fault = fault
    row.version = 0
    row.octets = row.frame_octets - at


cdef void tunnels(
    cursor_s *c, packet_s *row, const meter_s *meter, next_e step, uint32_t link_octets
) noexcept nogil:
    """Follow tunnels inward from the outermost IP packet, whose row stands already."""
    cdef packet_s outer = row[0]
    cdef packet_s enclosing
    cdef fault_e fault = FAULT_NONE
    while step != NEXT_NOTHING and row.depth < TUNNELS_MAX:
        if step == NEXT_CONTROL:
            row.bucket = BUCKET_CONTROL
            break
        step = link_layers(c, row, step)
        if step == NEXT_NOTHING or step == NEXT_NONSENSE or step == NEXT_CONTROL:
            break
        enclosing = row[0]
        clear_ip(row)
        if step != NEXT_CUT:
            fault = ipv4(c, row, meter) if step == NEXT_IPV4 else ipv6(c, row, meter)
        if step == NEXT_CUT or fault == FAULT_TRUNCATED:
            if meter.outer:
                row[0] = enclosing
                break
            fail(row, FAULT_TRUNCATED, link_octets)
            row.octets = outer.ip_octets
            return
        if fault != FAULT_NONE:  # nonsense on the wire: the enclosing packet is what counts
            row[0] = enclosing
            break
        row.depth = enclosing.depth + 1
        step = transport(c, row, meter)
    if row.depth > 1:
        row.flags |= FLAG_TUNNELLED
        if not meter.outer and outer.ip_octets > row.ip_octets:
            row.tunnel_octets = outer.ip_octets - row.ip_octets
    if meter.outer:
        enclosing = row[0]
        row[0] = outer
        row.bucket = enclosing.bucket
        take_tags(row, &enclosing)


cdef void dissect(const frame_s *frame, packet_s *row, const meter_s *meter) noexcept nogil:
    """One frame's row: the metered packet, its tags, and its bucket."""
    cdef cursor_s c
    cdef next_e step
    cdef fault_e fault
    cdef uint32_t link_octets, whole
    c.octets = frame.octets
    c.at = 0
    c.wire = frame.original_octets
    c.captured = min(frame.captured_octets, frame.original_octets)
    c.link_tags = 0
    c.ethertype = 0
    c.fragment = False
    if frame.link_type == LINK_SKIPPED:
        fail(row, FAULT_LINK_TYPE, 0)
        return
    step = link_layers(&c, row, link_layer(&c, frame.link_type))
    link_octets = c.at
    row.link_octets = <uint8_t>min(link_octets, 255)
    if step == NEXT_CUT:
        fail(row, FAULT_TRUNCATED, link_octets)
        return
    if step == NEXT_NONSENSE:
        fail(row, nonsense(&c, frame.link_type), link_octets)
        return
    if step == NEXT_NOTHING:
        row.bucket = BUCKET_NON_IP
        row.octets = row.frame_octets - link_octets
        return
    fault = ipv4(&c, row, meter) if step == NEXT_IPV4 else ipv6(&c, row, meter)
    if fault != FAULT_NONE:
        fail(row, fault, link_octets)
        return
    row.depth = 1
    whole = row.ip_octets
    step = transport(&c, row, meter)
    if step != NEXT_NOTHING:
        tunnels(&c, row, meter, step, link_octets)
    if meter.layer == LAYER_PAYLOAD and row.flags & FLAG_PARTIAL:
        # how long the header is was cut off: a guess would bill by the snap length
        fail(row, FAULT_TRUNCATED, link_octets)
        row.octets = whole
        row.tunnel_octets = 0


cdef inline bint plain(const frame_s *frame, packet_s *row) noexcept nogil:
    """The common packet at once: Ethernet, IPv4 without options or fragments, TCP or UDP.

    False, and nothing that dissect() would not overwrite, where it is anything else.
    """
    cdef const uint8_t *p = frame.octets
    cdef uint32_t total, header, least
    cdef uint16_t source, destination
    # the smallest frame that holds every header read below: 14 + 20 + 20
    if frame.link_type != LINK_ETHERNET or frame.captured_octets < 54:
        return False
    if be16(p + 12) != ETHERTYPE_IPV4 or p[14] != 0x45 or be16(p + 20) & 0x3FFF:
        return False
    total = be16(p + 16)
    source = be16(p + 34)
    destination = be16(p + 36)
    if p[23] == PROTOCOL_TCP:
        header = max(20, (p[46] >> 4) * 4)
        least = 40
    elif p[23] == PROTOCOL_UDP and not tunnel_port(source, destination):
        header = 8
        least = 28
    else:
        return False
    if total < least or total + 14 > frame.original_octets:
        return False
    if p[23] == PROTOCOL_TCP:
        row.tcp_flags = p[47]
    row.source_port = source
    row.destination_port = destination
    row.payload_octets = total - 20 - header if total > 20 + header else 0
    row.source_lo = be32(p + 26)
    row.destination_lo = be32(p + 30)
    row.version = 4
    row.protocol = p[23]
    row.tags = TAG_PORTS
    row.ip_octets = total
    row.dscp = p[15] >> 2
    row.ttl = p[22]
    row.depth = 1
    row.link_octets = 14
    return True


cdef inline bint tunnel_port(uint16_t source, uint16_t destination) noexcept nogil:
    """Whether UDP between these ports may be a tunnel."""
    return (destination == PORT_GTPU or destination == PORT_VXLAN or destination == PORT_GENEVE
            or destination == PORT_L2TP or source == PORT_GTPU or source == PORT_L2TP)


cdef fault_e nonsense(const cursor_s *c, uint16_t link_type) noexcept nogil:
    """What is wrong with a frame whose link layers end before any IP."""
    if c.link_tags > LINK_TAGS_MAX:
        return FAULT_LINK_TAGS
    if c.at < c.wire and link_type in (LINK_RAW, LINK_RAW_BSD, LINK_RAW_OPENBSD):
        return FAULT_IP_VERSION
    return FAULT_TRUNCATED


cdef void dissect_batch(
    const frame_s *frames, packet_s *packets, int count, const meter_s *meter
) noexcept nogil:
    """Fill one row per frame.

    Budget: 10 ns a packet for plain Ethernet/IPv4, the frame's first line in cache (the
    reader prefetches). Unchecked are only the two array indexes, both below `count`; every
    octet of a frame is read behind has(). Guarded by benchmarks/bench_account.py.
    """
    cdef int i
    cdef packet_s *row
    cdef const frame_s *frame
    for i in range(count):
        frame = &frames[i]
        row = &packets[i]
        memset(row, 0, sizeof(packet_s))
        row.timestamp_ns = frame.timestamp_ns
        row.frame_octets = frame.original_octets
        row.frame = <uint32_t>i
        row.ingress = frame.ingress
        row.direction = DIRECTION_NONE
        if not plain(frame, row):
            dissect(frame, row, meter)
        if meter.layer == LAYER_FRAME:
            row.octets = row.frame_octets
        elif row.bucket == BUCKET_METERED or row.bucket == BUCKET_CONTROL:
            row.octets = row.ip_octets if meter.layer == LAYER_IP else row.payload_octets


cdef class Dissection:
    """How frames are metered (accounting §1).

    layer        "ip", "frame" or "payload"
    at           "inner" or "outer"
    endpoints    (version, value, length) prefixes between which tunnels are followed; None: all
    """

    def __cinit__(self, str layer="ip", str at="inner", bint trust_ip_length=False,
                  endpoints=None):
        if layer not in ("ip", "frame", "payload") or at not in ("inner", "outer"):
            raise ValueError(f"layer {layer!r} or at {at!r} is none of the known ones")
        self.layer = layer
        self.meter.layer = ("ip", "frame", "payload").index(layer)
        self.meter.outer = at == "outer"
        self.meter.trust_ip_length = trust_ip_length
        self.meter.bounded = endpoints is not None
        self.endpoints4 = Trie(32, [(v, n, 1) for f, v, n in endpoints or () if f == 4])
        self.endpoints6 = Trie(128, [(v, n, 1) for f, v, n in endpoints or () if f == 6])
        self.meter.endpoints4 = &(<Trie>self.endpoints4).trie
        self.meter.endpoints6 = &(<Trie>self.endpoints6).trie

    def rows(self, frames):
        """PACKET[n] of (octets, timestamp_ns, original_octets, link_type, ingress) frames."""
        cdef frame_s frame
        cdef packet_s[::1] packets
        cdef int i
        result = np.zeros(len(frames), PACKET)
        if not len(frames):
            return result
        packets = result
        for i, (octets, timestamp_ns, original, link_type, ingress) in enumerate(frames):
            frame.octets = <const uint8_t *>PyBytes_AS_STRING(octets)
            frame.captured_octets = PyBytes_GET_SIZE(octets)
            frame.timestamp_ns = timestamp_ns
            frame.original_octets = original
            frame.link_type = link_type
            frame.ingress = ingress
            dissect_batch(&frame, &packets[i], 1, &self.meter)
            packets[i].frame = i
        return result


def rows(frames, layer="ip", at="inner", trust_ip_length=False, endpoints=None):
    """PACKET[n], dissected; see Dissection."""
    return Dissection(layer, at, trust_ip_length, endpoints).rows(frames)
