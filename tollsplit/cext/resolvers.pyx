"""Resolvers that rules trust: what they answer, and what an address is by that."""

from libc.stdint cimport uint16_t, uint32_t, uint64_t

from tollsplit.cext.classify cimport POOL_BITS
from tollsplit.cext.covering cimport FACT_DNS, Covering
from tollsplit.cext.cursor cimport inside_s
from tollsplit.cext.dissect cimport look_inside, meter_s
from tollsplit.cext.dns cimport dns_s, read_dns
from tollsplit.cext.layout cimport *
from tollsplit.cext.lpm cimport Trie, lookup4, lookup6
from tollsplit.cext.network cimport PROTOCOL_UDP
from tollsplit.cext.state cimport State

cdef enum:
    PORT_DNS = 53
    POOL_MASK = (1 << POOL_BITS) - 1

# An end of a row, in its own words.
cdef struct end_s:
    uint64_t hi
    uint64_t lo


cdef class Resolvers:
    """The resolvers of one set of rules.

    prefixes   (version, value, length) of their addresses
    pools4     address → its pool in the lower bits, as Classifier has it; likewise pools6
    covering   what names are to these rules

    Who answers on a subscriber's address is none, whatever the prefixes say. Names that no rule
    lists are passed by, so that they take no room.
    """

    def __cinit__(self, prefixes, Trie pools4 not None, Trie pools6 not None,
                  Covering covering not None):
        some = list(prefixes)
        self.trusted4 = Trie(32, [(value, n, 1) for version, value, n in some if version == 4])
        self.trusted6 = Trie(128, [(value, n, 1) for version, value, n in some if version == 6])
        self.pools4 = pools4
        self.pools6 = pools6
        self.covering = covering

    cdef bint are_asked(self, const packet_s *row) noexcept nogil:
        """Whether a packet is between a subscriber and a resolver, and may be read at all."""
        cdef end_s server
        if (row.bucket != BUCKET_METERED or row.protocol != PROTOCOL_UDP
                or row.server_port != PORT_DNS or not row.tags & TAG_PORTS
                or row.flags & FLAG_FRAGMENT):
            return False
        server = end_of(row, True)
        if row.version == 4:
            return (lookup4(&self.trusted4.trie, <uint32_t>server.lo) != 0
                    and not lookup4(&self.pools4.trie, <uint32_t>server.lo) & POOL_MASK)
        return (lookup6(&self.trusted6.trie, server.hi, server.lo) != 0
                and not lookup6(&self.pools6.trie, server.hi, server.lo) & POOL_MASK)

    cdef int hear(
        self, const frame_s *frame, const packet_s *row, const meter_s *meter, State state,
        uint64_t now_ns
    ) except -1 nogil:
        """Note what a subscriber asks, and learn what he is answered, where a rule lists the name."""
        cdef inside_s inside
        cdef dns_s dns
        cdef uint64_t facts
        if not self.are_asked(row):
            return 0
        look_inside(frame, meter, &inside)
        if inside.payload == NULL or inside.payload_captured < inside.payload_octets:
            return 0
        if not read_dns(inside.payload, inside.payload_octets, &dns):
            return 0
        if dns.answer != (row.direction == DIRECTION_DOWNLINK):
            return 0
        facts = self.covering.kinds[<int>FACT_DNS] & self.covering.names.facts(
            dns.name, dns.name_octets)
        if facts:
            with gil:
                tell(state.answers, row, &dns, facts, now_ns)
        return 0

    cdef uint64_t facts_of(
        self, const packet_s *row, State state, uint64_t now_ns
    ) except? 0xFFFFFFFFFFFFFFFF nogil:
        """The facts that a row's server is by the names that it is given for at this time."""
        cdef end_s server = end_of(row, True)
        cdef uint64_t found = 0
        cdef uint32_t place
        if not self.covering.kinds[<int>FACT_DNS]:
            return 0
        place = place_of(row.version, &server)
        if not state.hints[place >> 3] >> (place & 7) & 1:
            return 0
        with gil:
            for name in state.answers.names(row.version, number_of(&server), now_ns):
                found |= self.covering.names.look_up(name)
        return found & self.covering.kinds[<int>FACT_DNS]


cdef inline end_s end_of(const packet_s *row, bint server) noexcept nogil:
    """The server's address, or the subscriber's."""
    cdef end_s end
    if server == (row.direction == DIRECTION_DOWNLINK):
        end.hi = row.source_hi
        end.lo = row.source_lo
    else:
        end.hi = row.destination_hi
        end.lo = row.destination_lo
    if row.version == 4:
        end.hi = 0
    return end


cdef inline uint32_t place_of(uint32_t version, const end_s *end) noexcept nogil:
    """Where an address has its bit among the hints, as tollsplit.engine.answers works it out."""
    return <uint32_t>((end.hi ^ end.lo ^ version) * <uint64_t>0x9E3779B97F4A7C15 >> 48)


cdef object number_of(const end_s *end):
    return <object>end.hi << 64 | end.lo


cdef int tell(
    answers, const packet_s *row, const dns_s *dns, uint64_t facts, uint64_t now_ns
) except -1:
    """Pass on a question, or its answer."""
    cdef end_s server = end_of(row, True), subscriber = end_of(row, False)
    cdef uint16_t i
    cdef bytes name = dns.name[:dns.name_octets]
    cdef object question = (
        row.version, number_of(&subscriber), row.subscriber_port, number_of(&server),
        dns.id, dns.kind, name)
    if dns.answer:
        answers.answer(question, name, facts, [
            (dns.given[i].version, <object>dns.given[i].hi << 64 | dns.given[i].lo,
             dns.given[i].ttl_s) for i in range(dns.count)], now_ns)
    else:
        answers.ask(question, now_ns)
    return 0
