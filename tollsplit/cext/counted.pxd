from libc.stdint cimport uint32_t, uint64_t

from tollsplit.cext.classify cimport Classifier
from tollsplit.cext.flows cimport held_s
from tollsplit.cext.key cimport key_s
from tollsplit.cext.layout cimport packet_s, subscriber_s
from tollsplit.cext.subscribers cimport Subscribers
from tollsplit.cext.table cimport Table
from tollsplit.cext.totals cimport Totals

cdef enum:
    BATCH = 64                   # frames; their rows fill half of the first-level cache
    CELL_NONE = 0xFFFFFFFF       # CELLS_MAX reached

# A stretch of time that is counted on its own, [start, end).
cdef struct cell_s:
    uint64_t start_ns
    uint64_t end_ns
    uint32_t number
    uint32_t reserved


cdef class Counted:
    cdef Classifier classifier
    cdef readonly Table table
    cdef readonly list tables    # [(Table, u4[])], and those of workers that were annexed
    cdef readonly Subscribers subscribers
    cdef Totals totals
    cdef uint32_t cells_of_batch[2 * BATCH]
    cdef object cell_at
    cdef cell_s *cells           # known so far, by start
    cdef uint32_t cell_count
    cdef uint32_t cell_room
    cdef uint64_t start_ns       # of the cell that the last packet lay in; at first of none
    cdef uint64_t end_ns
    cdef uint32_t number
    cdef bint same_cell          # cells_of_batch holds `number` throughout

    cdef int place(self, packet_s *rows, int count) except -1 nogil
    cdef int find_cell(self, uint64_t timestamp_ns) except -1 nogil
    cdef void enter(self, const cell_s *cell) noexcept nogil
    cdef int learn_cell(self, uint64_t timestamp_ns) except -1
    cdef uint32_t[::1] number_all(self, const subscriber_s *subscribers, uint64_t count)
    cdef bint is_in_a_cell(self, uint64_t timestamp_ns) except -1 nogil
    cdef int add_held(self, const held_s *held, const key_s *key) except -1 nogil
