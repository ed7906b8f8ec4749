# Link layers: from a capture's link type, or from inside a tunnel, up to an IP header.

from libc.stdint cimport uint8_t, uint16_t, uint32_t

from tollsplit.cext.cursor cimport *
from tollsplit.cext.layout cimport *

# tollsplit.limits gives the reason; tests/test_layout.py holds them equal.
cdef enum:
    LINK_TAGS_MAX = 8

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


cdef inline next_e link_layer(cursor_s *c, uint16_t link_type) noexcept nogil:
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


cdef inline next_e ethernet(cursor_s *c) noexcept nogil:
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


cdef inline next_e ethertype(cursor_s *c, packet_s *row) noexcept nogil:
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


cdef inline next_e mpls(cursor_s *c, packet_s *row) noexcept nogil:
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


cdef inline next_e ppp(cursor_s *c) noexcept nogil:
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


cdef inline next_e link_layers(cursor_s *c, packet_s *row, next_e step) noexcept nogil:
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
