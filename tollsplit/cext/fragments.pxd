cimport cython
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from tollsplit.cext.bounded cimport Bounded, entry_s, order_s
from tollsplit.cext.cursor cimport datagram_s
from tollsplit.cext.layout cimport packet_s, subscriber_s

# tollsplit.limits gives the reason; tests/test_layout.py holds them equal.
cdef enum:
    SPANS_MAX = 8

# What is known of a datagram. 176 octets.
cdef struct assembly_s:
    entry_s entry
    uint32_t held_last           # the last of what waits for it
    uint32_t octets              # the whole's, once its last fragment is met; 0: not yet
    uint8_t known                # its first fragment was met, so what follows is said of it
    uint8_t whole                # nothing of it is missing
    uint8_t spans
    uint8_t protocol
    uint8_t tcp_flags
    uint8_t reserved
    uint16_t ports               # TAG_PORTS where these two are real
    uint16_t source_port
    uint16_t destination_port
    uint32_t first[SPANS_MAX]    # of the stretches that were met, in octets
    uint32_t end[SPANS_MAX]

# A fragment whose datagram's first one has not come.
cdef struct waiting_s:
    packet_s row
    subscriber_s who
    uint32_t next
    uint32_t reserved

# What becomes of a fragment; the flags may come with either.
cdef enum met_e:
    MET_GOES_ON = 0              # its row is as complete as it will be
    MET_WAITS = 1                # a copy of its row waits
    MET_OVERLAPS = 2             # parts of the datagram have come before
    MET_UNTRACKED = 4            # there was no room to wait


cdef inline bint over(uint64_t since_ns, uint64_t now_ns, uint64_t timeout_ns) noexcept nogil:
    """Whether a time is over; before its beginning, which clocks that step can show, it is not."""
    return now_ns > since_ns and now_ns - since_ns > timeout_ns


@cython.final
cdef class Fragments(Bounded):
    cdef uint64_t timeout_ns
    cdef order_s pending         # datagrams of which something is missing, by their first time
    cdef order_s complete        # the others, by the time of what came last
    cdef waiting_s *waiting
    cdef uint32_t waiting_free
    cdef uint32_t waiting_made
    cdef uint32_t waiting_count     # without those that are decided
    cdef uint32_t waiting_room
    cdef uint32_t waiting_most
    cdef uint32_t decided        # the first and the last of what waits no more
    cdef uint32_t decided_last

    cdef int meet(
        self, packet_s *row, const datagram_s *datagram, const subscriber_s *who,
        uint64_t now_ns, bint holding
    ) noexcept nogil
    cdef uint32_t assembly_of(
        self, const packet_s *row, const datagram_s *datagram, const subscriber_s *who,
        uint64_t now_ns
    ) noexcept nogil
    cdef void complete_row(self, const assembly_s *assembly, packet_s *row) noexcept nogil
    cdef bint hold(
        self, uint32_t number, const packet_s *row, const subscriber_s *who
    ) noexcept nogil
    cdef uint32_t waiting_place(self) noexcept nogil
    cdef void drop(self, order_s *order, uint32_t number, bint crowded) noexcept nogil
    cdef void decide(self, assembly_s *assembly, bint crowded) noexcept nogil
    cdef void expire(self, uint64_t now_ns) noexcept nogil
    cdef void release(self) noexcept nogil
    cdef bint take(self, packet_s *row, subscriber_s *who) noexcept nogil
