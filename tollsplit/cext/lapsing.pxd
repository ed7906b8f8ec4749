from libc.stdint cimport uint32_t, uint64_t

from tollsplit.cext.bounded cimport Bounded, entry_s, order_s
from tollsplit.cext.key cimport key_s

# What every entry that lapses begins with. 96 octets.
cdef struct lapsing_s:
    entry_s entry                # in order of when it was last listed
    uint64_t last_ns             # when it was last of use


cdef class Lapsing(Bounded):
    cdef uint64_t idle_ns
    cdef order_s listed

    cdef uint32_t known(self, const key_s *key, uint64_t now_ns) noexcept nogil
    cdef uint32_t begin(self, const key_s *key, uint64_t now_ns) noexcept nogil
    cdef void expire(self, uint64_t now_ns) noexcept nogil
    cdef void drop(self, uint32_t number) noexcept nogil
