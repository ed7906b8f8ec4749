from libc.stdint cimport uint8_t, uint32_t, uint64_t

from tollsplit.cext.cursor cimport inside_s
from tollsplit.cext.http cimport TOKEN_KEPT
from tollsplit.cext.layout cimport frame_s, packet_s
from tollsplit.cext.listener cimport Listener, asked_s
from tollsplit.cext.requests cimport requests_s

# Which requests a packet belongs to.
cdef enum said_e:
    SAID_NOTHING                 # none: its flow is not read
    SAID_UNDECIDED               # the head of one has not ended
    SAID_DECIDED
    SAID_OVER                    # nobody can tell, nor of any packet that follows

cdef struct said_s:
    said_e kind
    uint64_t facts               # of the hosts, that all its requests have which are decided


cdef class Converser(Listener):
    cdef said_s said             # by the packet at hand
    cdef uint8_t brought[TOKEN_KEPT]  # the token in its first head that has one

    cdef bint claims(
        self, const frame_s *frame, const packet_s *row, const asked_s *asked
    ) noexcept nogil
    cdef bint converse(
        self, const frame_s *frame, packet_s *row, uint32_t number, const asked_s *asked,
        uint64_t now_ns
    ) noexcept nogil
    cdef bint is_unread(self, const frame_s *frame, const packet_s *row) noexcept nogil
    cdef void hear_answer(self, const frame_s *frame, uint32_t number) noexcept nogil
    cdef requests_s *begin_requests(
        self, packet_s *row, uint32_t number, const asked_s *asked
    ) noexcept nogil
    cdef void hear_segment(
        self, requests_s *requests, const inside_s *inside, const packet_s *row, uint32_t number
    ) noexcept nogil
    cdef void hear_silence(
        self, const requests_s *requests, const packet_s *row
    ) noexcept nogil
    cdef bint hear_octets(
        self, requests_s *requests, bint down, const uint8_t *octets, uint32_t count,
        uint32_t number
    ) noexcept nogil
    cdef bint hear_requests(
        self, requests_s *requests, const uint8_t *octets, uint32_t count, uint32_t number
    ) noexcept nogil
    cdef bint hear_responses(
        self, requests_s *requests, const uint8_t *octets, uint32_t count
    ) noexcept nogil
    cdef void end_for_token(self, uint32_t number) noexcept nogil
    cdef bint request(self, requests_s *requests, uint32_t number) noexcept nogil
    cdef void decide_held(self, uint32_t number, uint64_t facts) noexcept nogil
    cdef int carry_requests(self, uint32_t number, uint32_t serial) except -1
