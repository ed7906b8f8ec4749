# The common packets at once: Ethernet with up to two VLAN tags, IPv4 or IPv6, TCP or UDP, and
# IPv4 in GTP-U. Whatever is unusual in any way is left to the dissector, which knows all the
# rules; what is taken here is taken as it would take it.

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memset

from tollsplit.cext.cursor cimport be16, be32, be64
from tollsplit.cext.dissect cimport meter_s
from tollsplit.cext.layout cimport *
from tollsplit.cext.link cimport (
    ETHERTYPE_IPV4, ETHERTYPE_IPV6, ETHERTYPE_QINQ, ETHERTYPE_QINQ_OLD, ETHERTYPE_VLAN)
from tollsplit.cext.network cimport PROTOCOL_TCP, PROTOCOL_UDP
from tollsplit.cext.tunnel cimport PORT_GTPU, endpoints, tunnel_port

cdef enum plain_e:
    PLAIN_NOT
    PLAIN
    PLAIN_GTPU                   # UDP to GTP-U's port

cdef enum:
    TCP_OR_UDP = 1 << PROTOCOL_TCP | 1 << PROTOCOL_UDP


cdef inline plain_e plain(
    const frame_s *frame, uint32_t number, packet_s *row, bint detail
) noexcept nogil:
    """Fill the row of a common packet, `octets` with the IP length.

    number    of the frame in its batch
    detail    fill the second line too
    Unless it returns PLAIN, nothing that the row holds means anything. Headers are read by the
    word, and TCP and UDP told apart without a branch: they come as they like.
    """
    cdef const uint8_t *p = frame.octets
    cdef uint32_t captured = min(frame.captured_octets, frame.original_octets)
    cdef uint64_t first  # EtherType, and an IPv4 header's first six octets
    if frame.link_type != LINK_ETHERNET or captured < 54 or frame.segment_octets:
        return PLAIN_NOT
    first = be64(p + 12)
    if first >> 40 != (ETHERTYPE_IPV4 << 8 | 0x45):
        return plain_tagged(frame, number, row, detail)
    if detail:
        begin_detail(frame, number, 0, row)
    row.timestamp_ns = frame.timestamp_ns
    return plain4(p + 14, <uint32_t>(first >> 16 & 0xFFFF), frame.original_octets - 14, row, detail)


cdef inline plain_e plain4(
    const uint8_t *p, uint32_t total, uint32_t wire, packet_s *row, bint detail
) noexcept nogil:
    """An IPv4 packet without options or fragments, 40 octets of it captured.

    total   its length; the caller has seen the octet 0x45
    """
    cdef uint32_t middle = be32(p + 6)  # fragment, time to live, protocol
    cdef uint64_t ends = be64(p + 12)
    cdef uint32_t ports = be32(p + 20)
    cdef uint32_t protocol = middle & 255
    cdef bint tcp = protocol == PROTOCOL_TCP
    cdef uint32_t least = 28 + 12 * tcp
    if (middle & 0x3FFF0000) | (protocol >> 5):
        return PLAIN_NOT
    if not (TCP_OR_UDP >> protocol & 1) & (least <= total) & (total <= wire):
        return PLAIN_NOT
    row.source_lo = ends >> 32
    row.destination_lo = <uint32_t>ends
    row.octets = total
    begin_plain(row, 4, detail)
    if detail:
        row.source_hi = row.destination_hi = 0
        row.dscp = p[1] >> 2
        row.ttl = p[8]
        describe(p + 20, tcp, total, total - 20, row)
    if (protocol == PROTOCOL_UDP) & tunnel_port(ports >> 16, <uint16_t>ports):
        return PLAIN_GTPU if <uint16_t>ports == PORT_GTPU else PLAIN_NOT
    return PLAIN


cdef inline plain_e plain6(
    const uint8_t *p, uint32_t captured, uint32_t wire, packet_s *row, bint detail
) noexcept nogil:
    """An IPv6 packet without extension headers, 40 octets of it captured."""
    cdef uint32_t total = 40 + <uint32_t>be16(p + 4)
    cdef bint tcp = p[6] == PROTOCOL_TCP
    cdef bint udp = p[6] == PROTOCOL_UDP
    cdef uint32_t least = 48 + 12 * tcp
    if (p[0] >> 4 != 6) | (not tcp | udp) | (total < least) | (total > wire) | (captured < least):
        return PLAIN_NOT
    row.source_hi = be64(p + 8)
    row.source_lo = be64(p + 16)
    row.destination_hi = be64(p + 24)
    row.destination_lo = be64(p + 32)
    row.octets = total
    begin_plain(row, 6, detail)
    if detail:
        row.tags |= TAG_FLOW_LABEL
        row.flow_label = be32(p) & 0xFFFFF
        row.dscp = <uint8_t>(be32(p) >> 22 & 63)
        row.ttl = p[7]
        describe(p + 40, tcp, total, total - 40, row)
    # a tunnel over IPv6 is not common
    return PLAIN_NOT if udp & tunnel_port(be16(p + 40), be16(p + 42)) else PLAIN


cdef inline plain_e plain_tagged(
    const frame_s *frame, uint32_t number, packet_s *row, bint detail
) noexcept nogil:
    """The same behind up to two VLAN tags, or of IPv6; 54 octets are captured."""
    cdef uint32_t at = 14
    cdef uint32_t captured = min(frame.captured_octets, frame.original_octets)
    cdef uint16_t ethertype = be16(frame.octets + 12)
    cdef const uint8_t *p
    while ethertype in (ETHERTYPE_VLAN, ETHERTYPE_QINQ, ETHERTYPE_QINQ_OLD):
        at += 4
        if at > 22 or captured - at < 40:
            return PLAIN_NOT
        ethertype = be16(frame.octets + at - 2)
    p = frame.octets + at
    if detail:
        begin_detail(frame, number, (at - 14) // 4, row)
    row.timestamp_ns = frame.timestamp_ns
    if ethertype == ETHERTYPE_IPV4 and p[0] == 0x45:
        return plain4(p, be16(p + 2), frame.original_octets - at, row, detail)
    if ethertype == ETHERTYPE_IPV6:
        return plain6(p, captured - at, frame.original_octets - at, row, detail)
    return PLAIN_NOT


cdef inline bint plain_gtpu(
    const frame_s *frame, uint32_t number, packet_s *row, const meter_s *meter
) noexcept nogil:
    """The IPv4 packet in a T-PDU without optional fields (TS 29.281 §5.1); False: it is none.

    row   of the outer packet, as plain() left it; it gets its second line here
    """
    cdef uint32_t captured = min(frame.captured_octets, frame.original_octets)
    cdef uint32_t outer = row.octets, at = 14
    cdef const uint8_t *p
    while be16(frame.octets + at - 2) != ETHERTYPE_IPV4:  # plain() has seen that there is one
        at += 4
    p = frame.octets + at
    if meter.outer or outer < 76 or captured - at < 76 or not endpoints(row, meter):
        return False
    if p[28] != 0x30 or p[29] != 255 or p[36] != 0x45:
        return False
    begin_detail(frame, number, (at - 14) // 4, row)
    if plain4(p + 36, be16(p + 38), outer - 36, row, True) != PLAIN:
        return False
    row.gtp_teid = be32(p + 32)
    row.tags |= TAG_GTP_TEID
    row.flags = FLAG_TUNNELLED
    row.depth = 2
    row.tunnel_octets = outer - row.octets
    return True


cdef inline bint plain_ends(
    const frame_s *frame, uint64_t *source, uint64_t *destination
) noexcept nogil:
    """The addresses of an IPv4 packet that has no tunnel in it, whatever else is wrong with it;
    False: it has to be dissected."""
    cdef const uint8_t *p = frame.octets
    cdef uint32_t middle
    cdef uint64_t ends
    if frame.link_type != LINK_ETHERNET or min(frame.captured_octets, frame.original_octets) < 54:
        return False
    middle = be32(p + 20)  # fragment, time to live, protocol
    if be64(p + 12) >> 40 != (ETHERTYPE_IPV4 << 8 | 0x45) or middle & 0x3FFF0000:
        return False
    if not TCP_OR_UDP >> (middle & 31) & 1 or middle & 0xE0:
        return False
    if middle & 255 == PROTOCOL_UDP and tunnel_port(be16(p + 34), be16(p + 36)):
        return False
    ends = be64(p + 26)
    source[0] = ends >> 32
    destination[0] = <uint32_t>ends
    return True


cdef inline void describe(
    const uint8_t *p, bint tcp, uint32_t total, uint32_t behind_ip, packet_s *row
) noexcept nogil:
    """What a row's second line has of the transport header and its packet."""
    cdef uint32_t header = max(20, (p[12] >> 4) * 4) if tcp else 8
    row.tags |= TAG_PORTS
    row.source_port = be16(p)
    row.destination_port = be16(p + 2)
    row.protocol = PROTOCOL_TCP if tcp else PROTOCOL_UDP
    row.tcp_flags = p[13] if tcp else 0
    row.depth = 1
    row.ip_octets = total
    row.payload_octets = behind_ip - header if behind_ip > header else 0


cdef inline void begin_plain(packet_s *row, uint8_t version, bint detail) noexcept nogil:
    """What is the same in the first line of every plain packet's row."""
    row.rule = row.flags = 0
    row.version = version
    row.direction = DIRECTION_NONE
    row.bucket = BUCKET_METERED
    row.fault = FAULT_NONE
    row.pool = 0
    row.interned = 0
    row.brief = not detail


cdef inline void begin_detail(
    const frame_s *frame, uint32_t number, int vlans, packet_s *row
) noexcept nogil:
    """The second line of a row, before the packet is read."""
    memset(&row.tags, 0, 64)
    row.frame = number
    row.frame_octets = frame.original_octets
    row.ingress = frame.ingress
    if vlans:
        row.tags = TAG_VLAN
        row.vlan = be16(frame.octets + 14) & 0x0FFF
    if vlans == 2:
        row.tags = TAG_VLAN | TAG_VLAN_INNER
        row.vlan_inner = be16(frame.octets + 18) & 0x0FFF
