# Counters and their small form: what adding to them means.

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memset

from tollsplit.cext.layout cimport *

cdef enum:
    RANK_NONE = 0x7FFF

# The counter of one (subscriber, rule, cell) while it is small. 32 octets, two a cache line.
# Times are offsets from the table's epoch in 48 bits of nanoseconds: 78 hours.
cdef struct hot_s:
    uint64_t key                 # subscriber << 32 | rank << 17 | interned << 16 | cell
    uint32_t octets[2]           # by direction_e, as are the packets
    uint16_t packets[2]
    uint16_t first_hi
    uint16_t last_hi
    uint32_t first_lo
    uint32_t last_lo


cdef inline bint same(const counter_s *one, const counter_s *other) noexcept nogil:
    """Whether two counters count the same key."""
    return (one.subscriber == other.subscriber and one.rule == other.rule
            and one.cell == other.cell and one.interned == other.interned)


cdef inline void join(counter_s *counter, const counter_s *delta) noexcept nogil:
    """Add one counter to another."""
    counter.flags |= delta.flags
    counter.first_ns = min(counter.first_ns, delta.first_ns)
    counter.last_ns = max(counter.last_ns, delta.last_ns)
    counter.uplink_packets += delta.uplink_packets
    counter.uplink_octets += delta.uplink_octets
    counter.downlink_packets += delta.downlink_packets
    counter.downlink_octets += delta.downlink_octets


cdef inline uint64_t rank_of(uint16_t rule) noexcept nogil:
    """A rule's place by precedence, from 1 on; no rule is the last. So no key is ever 0."""
    return rule if rule else RANK_NONE


cdef inline uint16_t rule_of(uint64_t key) noexcept nogil:
    cdef uint16_t rank = key >> 17 & RANK_NONE
    return 0 if rank == RANK_NONE else rank


cdef inline uint64_t key_of(const packet_s *row, uint32_t cell) noexcept nogil:
    return (<uint64_t>row.subscriber << 32 | rank_of(row.rule) << 17
            | <uint64_t>row.interned << 16 | (cell & 0xFFFF))


cdef inline uint64_t cold_key(const counter_s *counter) noexcept nogil:
    return (<uint64_t>counter.subscriber << 32 | rank_of(counter.rule) << 17
            | <uint64_t>counter.interned << 16 | (counter.cell & 0xFFFF))


cdef inline uint64_t first_since(const hot_s *entry) noexcept nogil:
    return <uint64_t>entry.first_hi << 32 | entry.first_lo


cdef inline uint64_t last_since(const hot_s *entry) noexcept nogil:
    return <uint64_t>entry.last_hi << 32 | entry.last_lo


cdef inline void begin(
    hot_s *entry, uint64_t key, const packet_s *row, uint64_t since
) noexcept nogil:
    """Start a hot counter with one packet."""
    cdef bint downlink = row.direction == DIRECTION_DOWNLINK
    entry.key = key
    entry.octets[not downlink] = 0
    entry.octets[downlink] = row.octets
    entry.packets[not downlink] = 0
    entry.packets[downlink] = 1
    entry.first_hi = entry.last_hi = <uint16_t>(since >> 32)
    entry.first_lo = entry.last_lo = <uint32_t>since


cdef inline bint count_in(hot_s *entry, const packet_s *row, uint64_t since) noexcept nogil:
    """Add one packet to a hot counter; False, and nothing done, where it would overflow.

    The direction is an index: a branch on it would be guessed wrong every other time.
    """
    cdef bint downlink = row.direction == DIRECTION_DOWNLINK
    cdef uint32_t octets = entry.octets[downlink] + row.octets
    if entry.packets[downlink] == 0xFFFF or octets < row.octets:
        return False
    entry.packets[downlink] += 1
    entry.octets[downlink] = octets
    if since > last_since(entry):
        entry.last_hi = <uint16_t>(since >> 32)
        entry.last_lo = <uint32_t>since
    elif since < first_since(entry):
        entry.first_hi = <uint16_t>(since >> 32)
        entry.first_lo = <uint32_t>since
    return True


cdef inline void one(const packet_s *row, uint32_t cell, counter_s *delta) noexcept nogil:
    """A single packet as a counter."""
    memset(delta, 0, sizeof(counter_s))
    delta.subscriber = row.subscriber
    delta.rule = row.rule
    delta.interned = row.interned
    delta.flags = <uint8_t>(row.flags & FLAGS_KEPT)
    delta.cell = cell
    delta.first_ns = delta.last_ns = row.timestamp_ns
    if row.direction == DIRECTION_UPLINK:
        delta.uplink_packets = 1
        delta.uplink_octets = row.octets
    else:
        delta.downlink_packets = 1
        delta.downlink_octets = row.octets


cdef inline void widen(const hot_s *entry, uint64_t epoch_ns, counter_s *counter) noexcept nogil:
    """A hot counter in full."""
    counter.subscriber = <uint32_t>(entry.key >> 32)
    counter.rule = rule_of(entry.key)
    counter.interned = <uint8_t>(entry.key >> 16 & 1)
    counter.flags = 0
    counter.cell = <uint32_t>(entry.key & 0xFFFF)
    counter.used = 1
    counter.uplink_packets = entry.packets[0]
    counter.uplink_octets = entry.octets[0]
    counter.downlink_packets = entry.packets[1]
    counter.downlink_octets = entry.octets[1]
    counter.first_ns = epoch_ns + first_since(entry)
    counter.last_ns = epoch_ns + last_since(entry)


cdef inline void narrow(
    const counter_s *counter, uint64_t key, uint64_t first, uint64_t last, hot_s *entry
) noexcept nogil:
    """A counter that is small enough, in the hot form."""
    entry.key = key
    entry.octets[0] = <uint32_t>counter.uplink_octets
    entry.octets[1] = <uint32_t>counter.downlink_octets
    entry.packets[0] = <uint16_t>counter.uplink_packets
    entry.packets[1] = <uint16_t>counter.downlink_packets
    entry.first_hi = <uint16_t>(first >> 32)
    entry.first_lo = <uint32_t>first
    entry.last_hi = <uint16_t>(last >> 32)
    entry.last_lo = <uint32_t>last


cdef inline bint join_hot(hot_s *entry, const hot_s *other) noexcept nogil:
    """Add one hot counter to another; False, and nothing done, where it would overflow."""
    cdef uint64_t first, last
    if (<uint32_t>entry.packets[0] + other.packets[0] > 0xFFFF
            or <uint32_t>entry.packets[1] + other.packets[1] > 0xFFFF
            or entry.octets[0] + other.octets[0] < other.octets[0]
            or entry.octets[1] + other.octets[1] < other.octets[1]):
        return False
    entry.packets[0] += other.packets[0]
    entry.packets[1] += other.packets[1]
    entry.octets[0] += other.octets[0]
    entry.octets[1] += other.octets[1]
    first = min(first_since(entry), first_since(other))
    last = max(last_since(entry), last_since(other))
    entry.first_hi = <uint16_t>(first >> 32)
    entry.first_lo = <uint32_t>first
    entry.last_hi = <uint16_t>(last >> 32)
    entry.last_lo = <uint32_t>last
    return True
