cimport cython
from libc.stdint cimport uint64_t

from tollsplit.cext.covering cimport Covering
from tollsplit.cext.dissect cimport meter_s
from tollsplit.cext.layout cimport frame_s, packet_s
from tollsplit.cext.lpm cimport Trie
from tollsplit.cext.state cimport State


@cython.final
cdef class Resolvers:
    cdef Trie trusted4
    cdef Trie trusted6
    cdef Trie pools4
    cdef Trie pools6
    cdef Covering covering

    cdef bint are_asked(self, const packet_s *row) noexcept nogil
    cdef int hear(
        self, const frame_s *frame, const packet_s *row, const meter_s *meter, State state,
        uint64_t now_ns
    ) except -1 nogil
    cdef uint64_t facts_of(
        self, const packet_s *row, State state, uint64_t now_ns
    ) except? 0xFFFFFFFFFFFFFFFF nogil
