cimport cython
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from tollsplit.cext.exchange cimport exchange_s
from tollsplit.cext.http cimport http_s

# How far one direction of a connection is read.
cdef struct way_s:
    uint64_t passed              # octets so far, with those that nobody has looked at
    uint32_t next                # sequence number of what comes next, once `known`
    uint32_t known

# A flow whose requests are read. 1,312 octets.
cdef struct requests_s:
    exchange_s exchange
    way_s ways[2]                # by direction_e
    uint64_t common              # facts that all its requests have
    uint64_t body_at             # uplink octets before those that say nothing of what follows
    uint64_t head_sum            # of the segment that was read last which had others
    uint32_t head_sequence
    uint32_t head_octets
    uint32_t free                # of one that is none any more: the next such
    uint32_t for_token           # they are read for a token alone, no rule asks for hosts


@cython.final
cdef class Requests:
    cdef requests_s *places
    cdef uint32_t[::1] all_of_flow
    cdef uint32_t[::1] all_answers
    cdef uint32_t *of_flow       # [flows + 1] where a flow's are; 0: they are not read
    cdef uint32_t *answers       # [flows + 1] sequence number of its first downlink octet; 0: unknown
    cdef uint64_t seed
    cdef uint32_t free
    cdef uint32_t made
    cdef uint32_t room
    cdef uint32_t count
    cdef uint32_t most

    cdef requests_s *of(self, uint32_t flow) noexcept nogil
    cdef requests_s *begin(self, uint32_t flow, uint32_t sequence) noexcept nogil
    cdef uint32_t place(self) noexcept nogil
    cdef void end(self, uint32_t flow) noexcept nogil
    cdef void keep_head(
        self, requests_s *requests, uint32_t sequence, const uint8_t *octets, uint32_t count
    ) noexcept nogil
    cdef bint is_repeated(
        self, const requests_s *requests, uint32_t sequence, const uint8_t *octets,
        uint32_t captured, uint32_t count
    ) noexcept nogil
    cdef uint64_t sum_of(self, const uint8_t *octets, uint32_t count) noexcept nogil


cdef void end_head(requests_s *requests, uint64_t at) noexcept nogil
cdef bint is_resent(const way_s *way, uint32_t sequence, uint32_t count) noexcept nogil
cdef bint reach(
    way_s *way, http_s *http, uint32_t sequence, uint32_t *again
) noexcept nogil
cdef bint pass_over(way_s *way, http_s *http, uint32_t count) noexcept nogil
