cimport cython
from libc.stdint cimport uint32_t, uint64_t

from tollsplit.cext.counted cimport BATCH
from tollsplit.cext.cursor cimport datagram_s
from tollsplit.cext.flows cimport held_s
from tollsplit.cext.follower cimport Follower
from tollsplit.cext.key cimport key_s
from tollsplit.cext.layout cimport frame_s, packet_s, subscriber_s
from tollsplit.cext.merge cimport Merge
from tollsplit.cext.reader cimport Reader
from tollsplit.cext.recorder cimport Recorder
from tollsplit.cext.ring cimport Ring

# What hands out frames.
ctypedef fused frames_t:
    Reader
    Ring
    Merge

@cython.final
cdef class Meter(Follower):
    cdef uint64_t *where         # [2 × BATCH][words]
    cdef packet_s *rows_of_batch  # [2 × BATCH], on whole cache lines
    cdef Meter successor
    cdef uint64_t until_ns       # frames from then on are the successor's
    cdef datagram_s datagrams[BATCH]
    cdef frame_s own[BATCH]      # that have yet to be accounted, where frames are shared out
    cdef int own_count
    cdef bint parted             # the successor has begun

    cdef uint64_t walk(
        self, frames_t source, uint64_t limit, Recorder recorder
    ) except? 0xFFFFFFFFFFFFFFFF
    cdef int account(self, const frame_s *frames, int count) except -1 nogil
    cdef int account_share(self, const frame_s *frames, int count) except -1 nogil
    cdef int account_own(self) except -1 nogil
    cdef int batch(self, const frame_s *frames, int count) except -1 nogil
    cdef int batch_in_order(self, const frame_s *frames, int count) except -1 nogil
    cdef int batch_at(self, const frame_s *frames, int count) except -1 nogil
    cdef int count_single(
        self, const frame_s *frame, packet_s *rows, const datagram_s *datagram
    ) except -1 nogil
    cdef int attribute(
        self, const frame_s *frames, packet_s *rows, int count, const uint64_t *now_ns
    ) except -1 nogil
    cdef void hear(self, const packet_s *row, uint64_t now_ns) noexcept nogil
    cdef int count_rows(self, packet_s *rows, int count, int total) except -1 nogil
    cdef void assemble(self, packet_s *row, const datagram_s *datagram) noexcept nogil
    cdef int count_decided(self) except -1 nogil
    cdef int count_late(self, packet_s *row, const subscriber_s *who) except -1 nogil
    cdef int part(self) except -1 nogil
    cdef int release(self) except -1 nogil
    cdef int pass_on(self, Meter other) except -1
    cdef int prepare(
        self, const frame_s *frame, packet_s *row, const datagram_s *datagram
    ) except -1 nogil
