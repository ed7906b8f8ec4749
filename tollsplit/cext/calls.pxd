cimport cython
from libc.stdint cimport uint64_t

from tollsplit.cext.key cimport key_s
from tollsplit.cext.lapsing cimport Lapsing
from tollsplit.cext.layout cimport packet_s
from tollsplit.cext.subscribers cimport Subscribers
from tollsplit.cext.totals cimport Totals

# What a packet is to its call.
cdef enum call_e:
    CALL_GOES_ON
    CALL_NONE                    # the subscriber has not said anything
    CALL_UNKNOWN                 # there was no room to know


@cython.final
cdef class Calls(Lapsing):
    cdef call_e meet(self, const key_s *key, const packet_s *row, uint64_t now_ns) noexcept nogil
    cdef void hear_all(
        self, const packet_s *rows, int count, int total, const uint64_t *now_ns,
        Subscribers subscribers, Totals totals
    ) noexcept nogil
    cdef void hear(
        self, const packet_s *row, uint64_t now_ns, Subscribers subscribers, Totals totals
    ) noexcept nogil
