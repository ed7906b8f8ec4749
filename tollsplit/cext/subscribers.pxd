cimport cython
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memset

from tollsplit.cext.layout cimport packet_s, subscriber_s


@cython.final
cdef class Subscribers:
    cdef subscriber_s *known
    cdef uint32_t *index         # 0: empty, else 1 + number
    cdef readonly uint32_t count
    cdef uint32_t room
    cdef int shift
    cdef uint64_t multiplier, second_multiplier
    cdef uint32_t number(self, const subscriber_s *subscriber) noexcept nogil
    cdef void number_batch(
        self, const subscriber_s *subscribers, int count, uint32_t *numbers
    ) noexcept nogil
    cdef bint grow(self) noexcept nogil


cdef inline void whose(
    Subscribers subscribers, const packet_s *row, subscriber_s *who
) noexcept nogil:
    """Who a row's subscriber is, whatever number it has with this meter."""
    if row.interned:
        who[0] = subscribers.known[row.subscriber]
        return
    memset(who, 0, sizeof(subscriber_s))
    who.lo = row.subscriber
    who.pool = row.pool
