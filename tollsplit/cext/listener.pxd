from libc.stdint cimport uint8_t, uint32_t, uint64_t

from tollsplit.cext.bearer cimport Bearer
from tollsplit.cext.covering cimport fact_e
from tollsplit.cext.cursor cimport inside_s
from tollsplit.cext.flows cimport flow_s
from tollsplit.cext.hello cimport hello_s
from tollsplit.cext.key cimport key_s
from tollsplit.cext.layout cimport frame_s, packet_s
from tollsplit.cext.quic cimport quic_s

# What a row asks of its flow.
cdef struct asked_s:
    key_s key
    uint64_t reachable           # the rules that some packet of the flow may fulfil; 0: no flow
    uint64_t possible            # those whose server condition holds


cdef class Listener(Bearer):
    cdef dict heard              # for who explains: (flow, fact_e) → the name that was said last
    cdef bint plain              # the packet at hand begins a connection that is no TLS

    cdef bint is_heard(
        self, const frame_s *frame, const packet_s *row, const flow_s *flow
    ) noexcept nogil
    cdef bint is_another(
        self, const frame_s *frame, const packet_s *row, const flow_s *flow
    ) noexcept nogil
    cdef bint begins(self, const frame_s *frame, const packet_s *row) noexcept nogil
    cdef bint listen(
        self, const frame_s *frame, packet_s *row, uint32_t number, const asked_s *asked,
        uint64_t now_ns
    ) except -1 nogil
    cdef void add_facts(
        self, uint64_t facts, uint32_t number, const asked_s *asked, uint64_t now_ns
    ) noexcept nogil
    cdef bint may_speak(self, const flow_s *flow, const inside_s *inside) noexcept nogil
    cdef uint64_t hear_tcp(
        self, const inside_s *inside, packet_s *row, uint32_t number, uint64_t now_ns
    ) noexcept nogil
    cdef bint is_hidden(self, const packet_s *row, const flow_s *flow) noexcept nogil
    cdef void hide(self, uint32_t number, const packet_s *row, uint64_t now_ns) noexcept nogil
    cdef uint64_t hear_udp(
        self, const inside_s *inside, packet_s *row, uint32_t number, uint64_t now_ns
    ) except? 0xFFFFFFFFFFFFFFFF nogil
    cdef quic_s *quic_of(self, const flow_s *flow) noexcept nogil
    cdef bint may_be_read(
        self, const inside_s *inside, packet_s *row, flow_s *flow, uint64_t now_ns
    ) noexcept nogil
    cdef bint count_try(self, flow_s *flow, uint64_t now_ns) noexcept nogil
    cdef uint64_t name_datagrams(
        self, quic_s *quic, const hello_s *hello, uint32_t number, uint64_t now_ns
    ) noexcept nogil
    cdef void keep(self, const quic_s *quic, uint32_t number, uint64_t now_ns) noexcept nogil
    cdef void doubt(self, flow_s *flow) noexcept nogil
    cdef void begin_talk(self, uint32_t number, packet_s *row, uint64_t now_ns) noexcept nogil
    cdef void watch(
        self, const inside_s *inside, uint32_t number, uint32_t sequence, uint64_t now_ns
    ) noexcept nogil
    cdef bint is_answered(self, const packet_s *row, const flow_s *flow) noexcept nogil
    cdef uint64_t hear_hello(
        self, uint32_t number, const uint8_t *octets, uint32_t count, uint32_t *needed
    ) noexcept nogil
    cdef void note(
        self, uint32_t number, fact_e kind, const uint8_t *name, uint32_t octets
    ) noexcept nogil
    cdef void take_token(self, const hello_s *hello) noexcept nogil
    cdef uint32_t first_of(self, const flow_s *flow) noexcept nogil
    cdef void hush(self, flow_s *flow) noexcept nogil
