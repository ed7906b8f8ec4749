cimport cython
from libc.stdint cimport uint32_t, uint64_t

from tollsplit.cext.classify cimport Classifier
from tollsplit.cext.cursor cimport datagram_s
from tollsplit.cext.dissect cimport Dissection
from tollsplit.cext.layout cimport counter_s, frame_s, packet_s, subscriber_s
from tollsplit.cext.merge cimport Merge
from tollsplit.cext.reader cimport Reader
from tollsplit.cext.recorder cimport Recorder
from tollsplit.cext.ring cimport Ring
from tollsplit.cext.state cimport State
from tollsplit.cext.subscribers cimport Subscribers
from tollsplit.cext.table cimport Table
from tollsplit.cext.totals cimport Totals

cdef enum:
    BATCH = 64                   # frames; their rows fill half of the first-level cache

# What hands out frames.
ctypedef fused frames_t:
    Reader
    Ring
    Merge

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
    cdef Totals totals
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
    cdef State state             # None: what was met before does not matter
    cdef datagram_s datagrams[BATCH]
    cdef bint holding            # False: under other rules soon
    cdef bint parted             # the successor has begun

    cdef uint64_t walk(
        self, frames_t source, uint64_t limit, Recorder recorder
    ) except? 0xFFFFFFFFFFFFFFFF
    cdef int account(self, const frame_s *frames, int count) except -1 nogil
    cdef int batch(self, const frame_s *frames, int count) except -1 nogil
    cdef int batch_in_order(self, const frame_s *frames, int count) except -1 nogil
    cdef int count_single(
        self, const frame_s *frame, packet_s *rows, const datagram_s *datagram
    ) except -1 nogil
    cdef int count_rows(
        self, const frame_s *frames, packet_s *rows, int count, int total
    ) except -1 nogil
    cdef void assemble(self, packet_s *row, const datagram_s *datagram) noexcept nogil
    cdef void identify(self, const packet_s *row, subscriber_s *who) noexcept nogil
    cdef int count_decided(self) except -1 nogil
    cdef int count_late(self, packet_s *row, const subscriber_s *who) except -1 nogil
    cdef int part(self) except -1 nogil
    cdef int release(self) except -1 nogil
    cdef int place(self, packet_s *rows, int count) except -1 nogil
    cdef int find_cell(self, uint64_t timestamp_ns) except -1 nogil
    cdef void enter(self, const cell_s *cell) noexcept nogil
    cdef int learn_cell(self, uint64_t timestamp_ns) except -1
    cdef uint32_t[::1] number_all(self, const subscriber_s *subscribers, uint64_t count)
