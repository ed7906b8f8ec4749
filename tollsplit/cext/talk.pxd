cimport cython
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from tollsplit.cext.hello cimport HELLO_OCTETS_MAX
from tollsplit.cext.quic cimport quic_s

# tollsplit.limits gives the reason; tests/test_layout.py holds them equal.
cdef enum:
    TALK_OCTETS_MAX = 8192

cdef enum:
    TALK_WORDS = 128             # TALK_OCTETS_MAX bits

# What was met of a TCP connection's uplink.
cdef struct stream_octets_s:
    uint32_t whole               # octets from the first on, without a gap
    uint32_t needed              # before another look is of use
    uint64_t met[TALK_WORDS]     # a bit for each octet
    uint8_t octets[TALK_OCTETS_MAX]

cdef union heard_u:
    stream_octets_s tcp
    quic_s quic

# A flow whose first octets are being read. 9,264 octets.
cdef struct talk_s:
    uint32_t flow                # its number
    uint32_t newer               # in order of their beginning; of a free one: the next free one
    uint32_t older
    uint32_t first               # TCP: sequence number of the first octet; UDP: tries_of()
    heard_u heard                # by the flow's protocol


@cython.final
cdef class Talks:
    cdef talk_s *talks
    cdef uint32_t free
    cdef uint32_t made
    cdef uint32_t room
    cdef uint32_t count
    cdef uint32_t most
    cdef uint32_t oldest
    cdef uint32_t newest
    cdef uint8_t joined[HELLO_OCTETS_MAX]  # room for a hello in several records
    cdef quic_s alone            # room for what a flow's first datagram tells by itself

    cdef uint32_t open(self, uint32_t flow, uint32_t first) noexcept nogil
    cdef uint32_t place(self) noexcept nogil
    cdef void close(self, uint32_t number) noexcept nogil
    cdef bint take(
        self, uint32_t number, uint32_t sequence, const uint8_t *octets, uint32_t count
    ) noexcept nogil
