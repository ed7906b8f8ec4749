# The checked cursor over one frame: a header is read only after has() granted its octets.

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

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

# Where in its datagram a fragment lies, in octets.
cdef struct datagram_s:
    uint32_t identification
    uint32_t first
    uint32_t end                 # the first octet behind it
    bint more                    # others follow it

# The metered packet itself, as far as it was captured. What lies in a fragment, or in an outer
# packet that is metered, is not looked into: its payload is NULL.
cdef struct inside_s:
    const uint8_t *packet        # from its IP header on
    const uint8_t *payload       # behind the TCP or UDP header
    const uint8_t *options       # its last IPv6 destination options header; NULL: it has none
    uint32_t packet_captured
    uint32_t packet_octets
    uint32_t payload_captured
    uint32_t payload_octets
    uint32_t options_octets
    uint32_t sequence            # of TCP: of its first octet
    uint32_t acknowledgment
    uint32_t window              # as it stands there, not scaled

# The checked cursor: a header is read only after has() granted its octets.

cdef struct cursor_s:
    const uint8_t *octets
    uint32_t at
    uint32_t captured            # octets in memory, never more than `wire`
    uint32_t wire                # octets of the enclosing packet on the wire
    uint16_t ethertype
    uint8_t link_tags
    bint fragment                # inside a first fragment: inner lengths exceed the wire
    uint32_t start               # of the IP packet that was read last
    uint32_t payload_at          # its transport payload; 0: none that can lie in segments
    uint32_t jumbo_octets        # of the jumbogram headers met
    uint32_t jumbo_outside       # those of them that the IP packet read last does not hold
    uint32_t options_at          # its last IPv6 destination options header
    uint32_t options_octets      # 0: it has none
    datagram_s datagram          # of the IP packet read last, where it is a fragment


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
