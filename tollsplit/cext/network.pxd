# Network layers: IPv4 and IPv6 headers, read into a row.

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from tollsplit.cext.cursor cimport *
from tollsplit.cext.layout cimport *

# tollsplit.limits gives the reason; tests/test_layout.py holds them equal.
cdef enum:
    EXTENSION_HEADERS_MAX = 8

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


cdef inline void clear_ip(packet_s *row) noexcept nogil:
    """Forget the enclosing packet; tags and frame stay."""
    row.flags &= ~<uint16_t>(FLAG_COALESCED | FLAG_FRAGMENT | FLAG_LATER_FRAGMENT | FLAG_PARTIAL)
    row.tags &= ~<uint16_t>(TAG_PORTS | TAG_FLOW_LABEL)
    row.source_port = 0
    row.destination_port = 0
    row.flow_label = 0
    row.tcp_flags = 0
    row.payload_octets = 0


cdef inline fault_e ipv4(cursor_s *c, packet_s *row, bint trust) noexcept nogil:
    """Read an IPv4 header (RFC 791 §3.1); the cursor ends behind it, bounded by its length."""
    cdef const uint8_t *p = c.octets + c.at
    cdef uint32_t left = c.wire - c.at
    cdef uint32_t header, total, fragment
    c.start = c.at
    c.options_octets = 0
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
        if not trust or row.depth:  # an inner one has its outer one's word
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
    bound(c, total)
    fragment = be16(p + 6)
    if fragment & 0x3FFF:  # offset or more fragments
        row.flags |= FLAG_FRAGMENT
        if fragment & 0x1FFF:
            row.flags |= FLAG_LATER_FRAGMENT
        else:
            c.fragment = True
        c.datagram.identification = be16(p + 4)
        c.datagram.first = (fragment & 0x1FFF) * 8
        c.datagram.end = c.datagram.first + total - header
        c.datagram.more = fragment & 0x2000
    row.payload_octets = total - header
    c.at += header
    return FAULT_NONE


cdef inline void bound(cursor_s *c, uint32_t length) noexcept nogil:
    """What the cursor may see ends with this packet: padding behind it is nobody's."""
    if length > c.wire - c.at:
        return
    c.fragment = False
    c.wire = c.at + length
    if c.captured > c.wire:
        c.captured = c.wire


cdef inline fault_e ipv6(cursor_s *c, packet_s *row, bint trust) noexcept nogil:
    """Read an IPv6 header and its extension headers (RFC 8200 §3, §4)."""
    cdef const uint8_t *p = c.octets + c.at
    cdef uint32_t left = c.wire - c.at
    cdef uint32_t payload, word
    cdef uint64_t total
    cdef fault_e fault
    c.start = c.at
    c.options_octets = 0
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
    if c.fragment and total > 40 + 65535:  # RFC 2675 §4: no jumbogram in a fragment
        return FAULT_IP_LENGTH
    if total > left and not c.fragment:
        if not trust or row.depth or total + c.at > 0xFFFFFFFFU:
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
    extension_headers(c, row, p[6])
    word = c.at - c.start
    row.payload_octets = row.ip_octets - word if row.ip_octets > word else 0
    return FAULT_NONE


cdef inline fault_e jumbogram(cursor_s *c, uint64_t *total) noexcept nogil:
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
            c.jumbo_octets += 8 if size == 8 else 0
            return FAULT_NONE if total[0] > 40 + 65535 else FAULT_IP_LENGTH  # RFC 2675 §3
        at += 2 + p[at + 1]
    return FAULT_NONE


cdef inline void extension_headers(cursor_s *c, packet_s *row, uint8_t protocol) noexcept nogil:
    """Walk the extension headers that are known; the transport protocol ends the chain.

    So does a header that is one too many, or not there as a whole: routers forward the packet by
    its addresses all the same, and a fault, which nobody pays for, would be a way to ride free.
    """
    cdef const uint8_t *p
    cdef uint32_t size, fragment, least
    cdef int count = 0
    while protocol in (
        PROTOCOL_HOP_BY_HOP, PROTOCOL_ROUTING, PROTOCOL_FRAGMENT, PROTOCOL_AH,
        PROTOCOL_DESTINATION, PROTOCOL_MOBILITY, PROTOCOL_HIP, PROTOCOL_SHIM6,
    ):
        count += 1
        least = 12 if protocol == PROTOCOL_AH else 8  # RFC 4302 §2: its fixed fields
        if count > EXTENSION_HEADERS_MAX or cut(c, row, least):
            break
        p = c.octets + c.at
        size = 8
        if protocol == PROTOCOL_AH:
            size = 8 + 4 * <uint32_t>p[1]  # RFC 4302 §2.2: in words, minus 2
        elif protocol != PROTOCOL_FRAGMENT:
            size = 8 + 8 * <uint32_t>p[1]
        if cut(c, row, size):
            break
        if protocol == PROTOCOL_FRAGMENT:
            fragment = be16(p + 2)
            if fragment & 0xFFF9:  # RFC 6946: neither offset nor M is no fragment
                row.flags |= FLAG_FRAGMENT
                if fragment & 0xFFF8:
                    row.flags |= FLAG_LATER_FRAGMENT
                else:
                    c.fragment = True
                c.datagram.identification = be32(p + 4)
                c.datagram.first = fragment & 0xFFF8
                # behind this header its part of the datagram begins
                c.datagram.end = c.datagram.first + row.ip_octets - (c.at + 8 - c.start)
                c.datagram.more = fragment & 1
        if protocol == PROTOCOL_DESTINATION:
            c.options_at = c.at
            c.options_octets = size
        protocol = p[0]
        c.at += size
        if row.flags & FLAG_LATER_FRAGMENT:
            break
    row.protocol = protocol


cdef inline bint cut(const cursor_s *c, packet_s *row, uint32_t octets) noexcept nogil:
    """Whether a header is not there as a whole; `partial` where the capture lacks it."""
    if has(c, octets):
        return False
    if short_of(c, octets) == NEXT_CUT:
        row.flags |= FLAG_PARTIAL
    return True
