from libc.stdint cimport uint32_t, uint64_t

from tollsplit.cext.converser cimport Converser
from tollsplit.cext.counted cimport BATCH
from tollsplit.cext.flows cimport flow_s, held_s
from tollsplit.cext.key cimport key_s
from tollsplit.cext.layout cimport frame_s, packet_s
from tollsplit.cext.listener cimport asked_s


cdef class Follower(Converser):
    cdef uint64_t now_of_batch[BATCH]
    cdef bint holding            # False: under other rules soon

    cdef int follow_all(
        self, const frame_s *frames, packet_s *rows, int count, int total
    ) except -1 nogil
    cdef int follow(
        self, const frame_s *frame, packet_s *row, uint64_t now_ns
    ) except -1 nogil
    cdef int hear_resolver(
        self, const frame_s *frame, const packet_s *row, uint64_t now_ns
    ) except -1 nogil
    cdef void ask(self, const packet_s *row, asked_s *asked) noexcept nogil
    cdef int follow_flow(
        self, const frame_s *frame, packet_s *row, const asked_s *asked, uint64_t now_ns
    ) except -1 nogil
    cdef uint32_t flow_of(
        self, const frame_s *frame, const packet_s *row, const asked_s *asked, uint64_t now_ns
    ) except? 0 nogil
    cdef uint32_t open_flow(self, const key_s *key, uint64_t now_ns) except? 0 nogil
    cdef int learn(
        self, uint32_t number, const packet_s *row, uint64_t possible, uint64_t now_ns
    ) except -1 nogil
    cdef int cover(
        self, uint32_t number, packet_s *row, const asked_s *asked
    ) except -1 nogil
    cdef uint64_t known_of(self, const flow_s *flow, bint decided) noexcept nogil
    cdef int hold(
        self, uint32_t number, packet_s *row, uint64_t eligible, bint decided
    ) except -1 nogil
    cdef int stop_waiting(self, uint32_t number, bint crowded) except -1 nogil
    cdef int forget_flow(self, uint32_t number, bint crowded) except -1 nogil
    cdef int end_waits(self, uint64_t now_ns) except -1 nogil
    cdef int charge_held(self, uint32_t number) except -1 nogil
    cdef int count_all_held(self, uint32_t number, bint crowded) except -1 nogil
    cdef int count_held(self, const held_s *held, const key_s *key) except -1 nogil
