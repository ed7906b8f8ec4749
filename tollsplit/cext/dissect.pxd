cimport cython
from libc.stdint cimport uint32_t, uint64_t

from tollsplit.cext.cursor cimport datagram_s, inside_s
from tollsplit.cext.layout cimport frame_s, packet_s
from tollsplit.cext.lpm cimport trie_s

cdef enum layer_e:
    LAYER_IP = 0
    LAYER_FRAME = 1
    LAYER_PAYLOAD = 2

# What becomes of what TCP sends again (accounting §9).
cdef enum retransmissions_e:
    CHARGE = 0
    CHARGE_IF_IDENTICAL = 1
    EXEMPT_IF_IDENTICAL = 2

# How to meter (accounting §1).
cdef struct meter_s:
    int layer                    # layer_e
    bint outer                   # meter the outermost IP packet, not the innermost
    bint trust_ip_length
    bint bounded                 # follow only tunnels between these endpoints:
    const trie_s *endpoints4
    const trie_s *endpoints6
    int retransmissions          # retransmissions_e
    uint64_t duplicates_ns       # how long a packet's copies may come after it; 0: none is one
    bint unsolicited             # note what comes to subscribers who did not ask for it

cdef void dissect_batch(
    const frame_s *frames, packet_s *rows, int count, const meter_s *meter, bint detail,
    datagram_s *datagrams
) noexcept nogil
cdef void look_inside(
    const frame_s *frame, const meter_s *meter, inside_s *inside
) noexcept nogil


@cython.final
cdef class Dissection:
    cdef meter_s meter
    cdef readonly str layer
    cdef object endpoints4
    cdef object endpoints6
