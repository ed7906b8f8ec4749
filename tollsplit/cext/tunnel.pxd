# Tunnel headers: each steps over its own and says what stands behind it.

from libc.stdint cimport uint8_t, uint16_t, uint32_t

from tollsplit.cext.cursor cimport *
from tollsplit.cext.layout cimport *
from tollsplit.cext.dissect cimport meter_s
from tollsplit.cext.link cimport ETHERTYPE_PPP
from tollsplit.cext.lpm cimport lookup4, lookup6

# tollsplit.limits gives the reason; tests/test_layout.py holds them equal.
cdef enum:
    GTP_EXTENSIONS_MAX = 8

cdef enum:
    PORT_L2TP = 1701
    PORT_GTPU = 2152
    PORT_VXLAN = 4789
    PORT_GENEVE = 6081


cdef extern from *:
    """
    /* The ports above, each at (port >> 1) & 15, where none shares its place with another. */
    static const unsigned short TOLLSPLIT_TUNNEL_PORTS[16] = {
        6081, 0, 1701, 0, 2152, 0, 0, 0, 0, 0, 4789, 0, 0, 0, 0, 0};
    """
    const uint16_t TUNNEL_PORTS "TOLLSPLIT_TUNNEL_PORTS"[16]


cdef inline bint tunnel_port(uint16_t source, uint16_t destination) noexcept nogil:
    """Whether UDP between these ports may be a tunnel; port 0 is none of them."""
    return (TUNNEL_PORTS[destination >> 1 & 15] == destination) | (
        TUNNEL_PORTS[source >> 1 & 15] == source)


cdef inline bint endpoints(const packet_s *row, const meter_s *meter) noexcept nogil:
    """Whether both ends of a tunnel are the operator's own."""
    if not meter.bounded:
        return True
    if row.version == 4:
        return (lookup4(meter.endpoints4, <uint32_t>row.source_lo) != 0
                and lookup4(meter.endpoints4, <uint32_t>row.destination_lo) != 0)
    return (lookup6(meter.endpoints6, row.source_hi, row.source_lo) != 0
            and lookup6(meter.endpoints6, row.destination_hi, row.destination_lo) != 0)


cdef inline next_e gre(cursor_s *c, packet_s *row) noexcept nogil:
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


cdef inline next_e vxlan(cursor_s *c, packet_s *row) noexcept nogil:
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


cdef inline next_e geneve(cursor_s *c, packet_s *row) noexcept nogil:
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


cdef inline next_e gtpu(cursor_s *c, packet_s *row) noexcept nogil:
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


cdef inline next_e l2tp(cursor_s *c) noexcept nogil:
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
