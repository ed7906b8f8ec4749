cimport cython
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from tollsplit.cext.layout cimport counter_s, packet_s, subscriber_s

cdef enum:
    COUNT_MAX = 256              # rows of one add_batch


@cython.final
cdef class Table:
    cdef counter_s *slots
    cdef void *memory            # what `slots`, aligned to a cache line, lies in
    cdef size_t bytes
    cdef readonly uint64_t count
    cdef uint64_t room
    cdef int shift               # a hash's top 64 − shift bits are its slot
    cdef uint64_t multiplier, cell_multiplier
    cdef int add_batch(
        self, packet_s *rows, const uint32_t *cells, int count
    ) noexcept nogil
    cdef bint grow(self) noexcept nogil


@cython.final
cdef class Subscribers:
    cdef subscriber_s *known
    cdef uint32_t *index         # 0: empty, else 1 + number
    cdef readonly uint32_t count
    cdef uint32_t room
    cdef int shift
    cdef uint64_t multiplier, second_multiplier
    cdef uint32_t number(self, const subscriber_s *subscriber) noexcept nogil
    cdef bint grow(self) noexcept nogil
