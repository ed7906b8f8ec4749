cimport cython
from libc.stdint cimport uint32_t, uint64_t

from tollsplit.cext.key cimport KEY_WORDS, key_s

# What every entry of a bounded table begins with. 88 octets.
cdef struct entry_s:
    key_s key
    uint64_t since_ns            # what its list is in order of
    uint32_t next                # in its chain, as are the next two in its list; 0: none
    uint32_t newer
    uint32_t older
    uint32_t held                # the first of what waits for it

# Entries from the oldest to the newest.
cdef struct order_s:
    uint32_t oldest
    uint32_t newest


cdef uint32_t[::1] beside(size_t count)


cdef class Bounded:
    cdef char *entries
    cdef size_t entry_octets
    cdef uint32_t *index
    cdef int shift
    cdef uint32_t free
    cdef uint32_t made           # how many entries have ever been used
    cdef uint32_t room
    cdef readonly uint32_t count
    cdef readonly uint32_t most
    cdef uint64_t multipliers[KEY_WORDS]

    cdef entry_s *at(self, uint32_t number) noexcept nogil
    cdef uint32_t find(self, const key_s *key) noexcept nogil
    cdef void expect(self, const key_s *key) noexcept nogil
    cdef void expect_entry(self, const key_s *key) noexcept nogil
    cdef uint32_t add(self, const key_s *key) noexcept nogil
    cdef void remove(self, uint32_t number) noexcept nogil
    cdef void append(self, order_s *order, uint32_t number) noexcept nogil
    cdef void unlink(self, order_s *order, uint32_t number) noexcept nogil
    cdef bint grow(self) noexcept nogil
