cimport cython
from libc.stdint cimport uint8_t, uint32_t, uint64_t

# A name that rules list. 32 octets.
cdef struct suffix_s:
    uint64_t hash                # 0: the place is empty
    uint64_t own                 # facts of the name itself
    uint64_t below               # facts of every name below it
    uint32_t at                  # where its octets begin
    uint32_t octets


@cython.final
cdef class Suffixes:
    cdef suffix_s *places
    cdef uint64_t mask
    cdef uint64_t seed
    cdef const uint8_t *text
    cdef bytes kept
    cdef readonly uint32_t count

    cdef int add(self, uint32_t at, uint32_t octets, uint64_t own, uint64_t below) except -1
    cdef const suffix_s *find(
        self, const uint8_t *name, uint32_t octets, uint64_t hash
    ) noexcept nogil
    cdef uint64_t facts(self, const uint8_t *name, uint32_t octets) noexcept nogil
