# What a capture says of an interface, and what follows for its frames: link type and time.

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from tollsplit.cext.layout cimport (
    LINK_C_HDLC, LINK_ETHERNET, LINK_IPV4, LINK_IPV6, LINK_LINUX_SLL, LINK_LINUX_SLL2, LINK_LOOP,
    LINK_NULL, LINK_PPP, LINK_PPP_ETHER, LINK_PPP_HDLC, LINK_PPP_WITH_DIR, LINK_RAW,
    LINK_RAW_BSD, LINK_RAW_OPENBSD, LINK_SKIPPED)

cdef extern from *:
    """
    #define TOLLSPLIT_TIMESTAMP_NS_MAX 9214646400000000000ULL
    """
    ctypedef long long int128 "__int128"
    # 2262-01-01, where later times are held: a window around it still ends before 2^63 ns,
    # which is as far as ledgers, Arrow and NumPy go. tollsplit.limits has the same number.
    uint64_t TIMESTAMP_NS_MAX "TOLLSPLIT_TIMESTAMP_NS_MAX"

# What a record has to know of the interface it came from; a pcap file has exactly one.
cdef struct interface_s:
    uint64_t multiplier          # nanoseconds per tick; 0: a tick is shorter than that
    uint64_t ticks_max           # beyond it multiplier · ticks leaves 64 bits
    uint64_t divisor             # ticks per nanosecond (powers of ten); 0: see shift
    int64_t offset_s             # if_tsoffset
    uint32_t shift               # a tick is 2^-shift seconds
    uint32_t snap_octets         # as recorded; 0: no limit
    uint32_t captured_max        # what a record may hold
    uint16_t link_recorded
    uint16_t link_type           # as handed out: link_e, or LINK_SKIPPED
    uint16_t ingress
    uint16_t refused             # the link type is neither dissected nor skipped


cdef inline uint16_t link_handed_out(uint16_t link) noexcept nogil:
    """The link type that the dissector knows it by; LINK_SKIPPED where it knows none."""
    if link == LINK_RAW_BSD or link == LINK_RAW_OPENBSD:
        return LINK_RAW
    if (link == LINK_NULL or link == LINK_ETHERNET or link == LINK_PPP
            or link == LINK_PPP_HDLC or link == LINK_PPP_ETHER or link == LINK_RAW
            or link == LINK_C_HDLC or link == LINK_LOOP or link == LINK_LINUX_SLL
            or link == LINK_PPP_WITH_DIR or link == LINK_IPV4 or link == LINK_IPV6
            or link == LINK_LINUX_SLL2):
        return link
    return LINK_SKIPPED


cdef inline uint64_t power_of_ten(int exponent) noexcept nogil:
    cdef uint64_t power = 1
    for _ in range(exponent):
        power *= 10
    return power


cdef inline void set_resolution(interface_s* interface, uint8_t resolution) noexcept nogil:
    """Sets how long a tick is from if_tsresol: 10^-n seconds, or 2^-n with the top bit set."""
    cdef int power = 9 if resolution == 0x80 else 9 - resolution
    interface.multiplier = interface.ticks_max = interface.divisor = interface.shift = 0
    if resolution > 0x80:
        interface.shift = resolution & 0x7F
    elif power < -19:
        interface.shift = 127        # the largest count of ticks is below a nanosecond
    elif power < 0:
        interface.divisor = power_of_ten(-power)
    else:
        interface.multiplier = power_of_ten(power)
        interface.ticks_max = TIMESTAMP_NS_MAX // interface.multiplier


cdef inline uint64_t nanoseconds_exactly(const interface_s* interface,
                                         uint64_t ticks) noexcept nogil:
    cdef int128 time = <int128>ticks
    cdef int128 offset = <int128>interface.offset_s
    cdef int128 latest = <int128>TIMESTAMP_NS_MAX
    if interface.multiplier:
        time = time * <int128>interface.multiplier
    elif interface.divisor:
        time = <int128>(ticks // interface.divisor)
    else:
        time = (time * 1_000_000_000) >> interface.shift
    time = time + offset * 1_000_000_000
    if time < 0:
        return 0
    return TIMESTAMP_NS_MAX if time > latest else <uint64_t>time


cdef inline uint64_t nanoseconds(const interface_s* interface, uint64_t ticks) noexcept nogil:
    """Ticks as nanoseconds since 1970, rounded down, held inside 0..TIMESTAMP_NS_MAX."""
    if ticks <= interface.ticks_max and interface.multiplier != 0 and interface.offset_s == 0:
        return ticks * interface.multiplier
    return nanoseconds_exactly(interface, ticks)
