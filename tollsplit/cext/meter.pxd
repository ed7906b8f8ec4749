cimport cython
from libc.stdint cimport uint32_t, uint64_t

from tollsplit.cext.classify cimport Classifier
from tollsplit.cext.dissect cimport Dissection
from tollsplit.cext.layout cimport counter_s, frame_s, packet_s, subscriber_s
from tollsplit.cext.reader cimport Reader
from tollsplit.cext.recorder cimport Recorder
from tollsplit.cext.ring cimport Ring
from tollsplit.cext.subscribers cimport Subscribers
from tollsplit.cext.table cimport Table

cdef enum:
    BATCH = 64                   # frames; their rows fill half of the first-level cache
    FAULT_KINDS = 11
    BUCKETS = 6

# What hands out frames.
ctypedef fused frames_t:
    Reader
    Ring

# Where every frame went. Sums, so that any two add up to a third.
cdef struct totals_s:
    uint64_t seen_packets
    uint64_t seen_octets
    uint64_t packets[BUCKETS]    # `fault` and `metered` stay 0: see below and the counters
    uint64_t octets[BUCKETS]
    uint64_t fault_packets[FAULT_KINDS]
    uint64_t fault_octets[FAULT_KINDS]
    uint64_t twice_packets
    uint64_t twice_octets
    uint64_t coalesced_packets
    uint64_t coalesced_octets
    uint64_t mismatch_packets
    uint64_t mismatch_octets
    uint64_t tunnel_octets

# A stretch of time that is counted on its own, [start, end).
cdef struct cell_s:
    uint64_t start_ns
    uint64_t end_ns
    uint32_t number
    uint32_t reserved


@cython.final
cdef class Meter:
    cdef Dissection dissection
    cdef Classifier classifier
    cdef readonly Table table
    cdef readonly list tables    # [(Table, u4[])], and those of workers that were annexed
    cdef readonly Subscribers subscribers
    cdef totals_s totals
    cdef uint64_t *where         # [2 × BATCH][words]
    cdef packet_s *rows_of_batch  # [2 × BATCH], on whole cache lines
    cdef uint32_t cells_of_batch[2 * BATCH]
    cdef object cell_at
    cdef cell_s *cells           # known so far, by start
    cdef uint32_t cell_count
    cdef uint32_t cell_room
    cdef uint64_t start_ns       # of the cell that the last packet lay in; at first of none
    cdef uint64_t end_ns
    cdef uint32_t number
    cdef bint same_cell          # cells_of_batch holds `number` throughout
    cdef Meter successor
    cdef uint64_t until_ns       # frames from then on are the successor's

    cdef uint64_t walk(
        self, frames_t source, uint64_t limit, Recorder recorder
    ) except? 0xFFFFFFFFFFFFFFFF
    cdef int account(self, const frame_s *frames, int count) except -1 nogil
    cdef int batch(self, const frame_s *frames, int count) except -1 nogil
    cdef int place(self, packet_s *rows, int count) except -1 nogil
    cdef int find_cell(self, uint64_t timestamp_ns) except -1 nogil
    cdef void enter(self, const cell_s *cell) noexcept nogil
    cdef int learn_cell(self, uint64_t timestamp_ns) except -1
    cdef void settle(self, packet_s *rows, int count, int total) noexcept nogil
    cdef void settle_unusual(self, const packet_s *row) noexcept nogil
    cdef int check(
        self, const counter_s[::1] counters, const subscriber_s[::1] subscribers, uint64_t cells
    ) except -1
    cdef uint32_t[::1] number_all(self, const subscriber_s *subscribers, uint64_t count)
    cdef void add_totals(self, const uint64_t *theirs) noexcept nogil
