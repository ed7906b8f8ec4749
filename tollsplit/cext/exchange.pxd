from libc.stdint cimport uint8_t, uint32_t, uint64_t

from tollsplit.cext.http cimport http_e, http_s, request_s

# tollsplit.limits gives the reason; tests/test_layout.py holds them equal.
cdef enum:
    HTTP_OUTSTANDING_MAX = 16

cdef uint64_t FACTS_ALL

# Both directions of a connection that speaks HTTP/1. All zero but for what begin_exchange() sets:
# nothing has come. 1,240 octets.
cdef struct exchange_s:
    http_s uplink
    http_s downlink
    request_s request            # what its head shows, once that has ended
    uint64_t asking              # facts of the request that is sent, or was last
    uint64_t answering           # facts of the request that is answered, or was last
    uint64_t waiting[HTTP_OUTSTANDING_MAX]  # facts of those that are not answered, in a ring
    uint8_t methods[HTTP_OUTSTANDING_MAX]
    uint8_t first                # in the ring
    uint8_t count
    uint8_t undecided            # the head of what is sent has not ended
    uint8_t begun                # a request has been sent, its head at least
    uint8_t reserved[4]

cdef void begin_exchange(exchange_s *exchange) noexcept nogil
cdef uint64_t uplink_touches(const exchange_s *exchange) noexcept nogil
cdef uint64_t downlink_touches(const exchange_s *exchange) noexcept nogil
cdef bint silent_touches(
    const exchange_s *exchange, bint uplink, uint64_t *facts
) noexcept nogil
cdef http_e read_uplink(
    exchange_s *exchange, const uint8_t *octets, uint32_t count, uint32_t *taken
) noexcept nogil
cdef bint ask(exchange_s *exchange, uint64_t facts) noexcept nogil
cdef http_e read_downlink(
    exchange_s *exchange, const uint8_t *octets, uint32_t count, uint32_t *taken
) noexcept nogil
