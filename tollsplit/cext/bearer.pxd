from libc.stdint cimport uint32_t, uint64_t, uint8_t

from tollsplit.cext.counted cimport Counted
from tollsplit.cext.dissect cimport Dissection
from tollsplit.cext.layout cimport frame_s, packet_s
from tollsplit.cext.state cimport State


cdef class Bearer(Counted):
    cdef Dissection dissection
    cdef State state             # None: what was met before does not matter
    cdef const uint8_t *token    # what the packet at hand carries; NULL: nothing
    cdef uint32_t token_octets   # TOKEN_OCTETS or, of its text, others

    cdef bint may_bear(
        self, const frame_s *frame, const packet_s *row, uint32_t number, uint64_t possible
    ) noexcept nogil
    cdef bint awaits_token(self, uint32_t number, uint64_t possible) noexcept nogil
    cdef void look_for_token(self, const frame_s *frame) noexcept nogil
    cdef bint bear(
        self, const packet_s *row, uint32_t number, uint64_t now_ns
    ) except -1 nogil
