cimport cython
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from tollsplit.cext.counter cimport hot_s
from tollsplit.cext.layout cimport counter_s, packet_s

cdef enum:
    COUNT_MAX = 256              # rows of one add_batch
    SLACK = 4096                 # a run of used slots this long is no accident


@cython.final
cdef class Table:
    cdef hot_s *hot
    cdef uint8_t *marks          # of the hot slots; 0: empty, else 0x80 | 7 bits of the hash
    cdef uint64_t hot_count
    cdef uint64_t hot_room
    cdef int hot_shift
    cdef uint64_t hot_multiplier
    cdef uint64_t epoch_ns
    cdef bint begun
    cdef counter_s *slots
    cdef uint64_t count
    cdef uint64_t room
    cdef int shift               # a hash's top 64 − shift bits are its slot
    cdef uint64_t multiplier, cell_multiplier
    cdef int open(self, int hot_bits) except -1
    cdef int open_cold(self) except -1
    cdef void close(self) noexcept nogil
    cdef int clear(self) except -1
    cdef int forget(self) except -1
    cdef bint reserve(self, uint64_t more) noexcept nogil
    cdef int add_batch(
        self, packet_s *rows, const uint32_t *cells, int count
    ) noexcept nogil
    cdef bint count_row(
        self, const packet_s *row, uint32_t cell, uint64_t key, uint64_t since
    ) noexcept nogil
    cdef void begin_epoch(self, uint64_t timestamp_ns) noexcept nogil
    cdef uint64_t likely(self, uint64_t hashed) noexcept nogil
    cdef uint64_t search(self, uint64_t key, uint64_t hashed) noexcept nogil
    cdef bint grow_hot(self) noexcept nogil
    cdef bint grow(self) noexcept nogil
    cdef bint spill(self, const hot_s *entry) noexcept nogil
    cdef bint add(self, const counter_s *delta) noexcept nogil
    cdef bint put(self, const counter_s *delta) noexcept nogil
    cdef bint merge(self, Table other, const uint32_t *numbers) noexcept nogil
    cdef bint load(
        self, const counter_s *counters, uint64_t count, const uint32_t *numbers
    ) noexcept nogil
    cdef void expect(self, counter_s *counter, const uint32_t *numbers) noexcept nogil
    cdef bint put_all(self, const counter_s *counters, uint64_t count) noexcept nogil


cdef inline uint64_t hot_slots_of(Table table) noexcept nogil:
    return table.hot_room + SLACK
