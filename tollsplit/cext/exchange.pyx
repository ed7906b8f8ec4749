"""An HTTP/1 connection: which requests the octets of either direction belong to.

Responses come in the order of their requests (RFC 9112 §9.3.2). A request has the octets from its
first one to the next request's, and those of its response. What it is to the rules are facts.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memset

from tollsplit.cext.http cimport *

BOUNDS = {"HTTP_OUTSTANDING_MAX": HTTP_OUTSTANDING_MAX}

FACTS_ALL = 0xFFFFFFFFFFFFFFFF


cdef void begin_exchange(exchange_s *exchange) noexcept nogil:
    memset(exchange, 0, sizeof(exchange_s))
    exchange.downlink.responses = True


cdef uint64_t uplink_touches(const exchange_s *exchange) noexcept nogil:
    """Facts of the request that the next uplink octet lies in; all of them: in none so far."""
    if exchange.uplink.stage == STAGE_BETWEEN or exchange.undecided:
        return FACTS_ALL
    return exchange.asking


cdef uint64_t downlink_touches(const exchange_s *exchange) noexcept nogil:
    """The same of the next downlink octet."""
    return FACTS_ALL if exchange.downlink.stage == STAGE_BETWEEN else exchange.answering


cdef bint silent_touches(
    const exchange_s *exchange, bint uplink, uint64_t *facts
) noexcept nogil:
    """Facts of the request that a packet without octets belongs to; False: that is not decided.

    What only acknowledges goes with what its own direction sends, or with what comes next there.
    """
    if uplink or not exchange.count and exchange.downlink.stage == STAGE_BETWEEN:
        facts[0] = exchange.asking
        return exchange.begun and not exchange.undecided
    facts[0] = (exchange.waiting[exchange.first] if exchange.downlink.stage == STAGE_BETWEEN
                else exchange.answering)
    return True


cdef http_e read_uplink(
    exchange_s *exchange, const uint8_t *octets, uint32_t count, uint32_t *taken
) noexcept nogil:
    """Go on in what the client sends, as read_http() does; after HTTP_HEAD, ask() has to come."""
    cdef http_e event = read_http(
        &exchange.uplink, &exchange.request, octets, count, taken)
    if event == HTTP_BEGINS:
        exchange.undecided = True
        exchange.begun = True
    return event


cdef bint ask(exchange_s *exchange, uint64_t facts) noexcept nogil:
    """Say what the request is whose head has ended; False: too many wait for an answer."""
    cdef int last = (exchange.first + exchange.count) % HTTP_OUTSTANDING_MAX
    exchange.undecided = False
    exchange.asking = facts
    if exchange.count == HTTP_OUTSTANDING_MAX:
        return False
    exchange.waiting[last] = facts
    exchange.methods[last] = exchange.uplink.method
    exchange.count += 1
    return True


cdef http_e read_downlink(
    exchange_s *exchange, const uint8_t *octets, uint32_t count, uint32_t *taken
) noexcept nogil:
    """Go on in what the server sends, as read_http() does.

    Where the connection becomes a tunnel, whatever follows belongs to the request that it became
    one with. A client that has not waited for it may mean it for the tunnel: that is broken.
    """
    cdef http_e event = read_http(&exchange.downlink, NULL, octets, count, taken)
    if event == HTTP_BEGINS:
        if not exchange.count:  # nobody has asked
            return HTTP_BROKEN
        exchange.answering = exchange.waiting[exchange.first]
        exchange.downlink.method = exchange.methods[exchange.first]
    elif event == HTTP_HEAD and exchange.downlink.stage == STAGE_TUNNEL:
        if exchange.count > 1 or exchange.undecided or exchange.uplink.stage != STAGE_BETWEEN:
            return HTTP_BROKEN
        exchange.uplink.stage = STAGE_TUNNEL
    elif event == HTTP_ENDS:
        exchange.first = (exchange.first + 1) % HTTP_OUTSTANDING_MAX
        exchange.count -= 1
    return event


cdef class Exchange:
    """A connection, for tests of whom its packets belong to.

    facts   host → what it is to the rules
    """

    cdef exchange_s exchange
    cdef dict facts

    def __cinit__(self, dict facts not None):
        self.facts = facts
        begin_exchange(&self.exchange)

    def feed(self, octets, uplink=True):
        """The facts that all requests have which a packet belongs to.

        None: a head has not ended, so that nobody knows. -1: the connection is broken.
        """
        cdef const uint8_t *front = <const uint8_t *>PyBytes_AS_STRING(octets)
        cdef uint32_t count = PyBytes_GET_SIZE(octets), at = 0, taken
        cdef uint64_t touched
        cdef http_e event = HTTP_BEGINS
        touched = uplink_touches(&self.exchange) if uplink else downlink_touches(&self.exchange)
        if not count:
            return touched if silent_touches(&self.exchange, uplink, &touched) else None
        while event != HTTP_MORE:
            if uplink:
                event = read_uplink(&self.exchange, front + at, count - at, &taken)
            else:
                event = read_downlink(&self.exchange, front + at, count - at, &taken)
            at += taken
            if event == HTTP_BROKEN:
                return -1
            if uplink and event == HTTP_HEAD:
                host = self.exchange.request.host[:self.exchange.request.host_octets]
                if not ask(&self.exchange, self.facts.get(host, 0)):
                    return -1
                touched &= self.exchange.asking
            elif not uplink and event == HTTP_BEGINS:
                touched &= self.exchange.answering
        return None if uplink and self.exchange.undecided else touched
