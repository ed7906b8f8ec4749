cimport cython
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from tollsplit.cext.field cimport Fields, field_s
from tollsplit.cext.flows cimport flow_s
from tollsplit.cext.layout cimport packet_s
from tollsplit.cext.suffixes cimport Suffixes

# tollsplit.limits gives the reason; tests/test_layout.py holds them equal.
cdef enum:
    FLOW_RULES_MAX = 64
    FACTS_MAX = 64

# What a fact is about. In flow_s.told a bit for each: no more facts of that kind will come.
cdef enum fact_e:
    FACT_PACKET = 0              # a packet has fulfilled all conditions of a sticky rule
    FACT_SNI = 1
    FACT_HOST = 2
    FACT_DNS = 3
    FACT_TOKEN = 4
    FACT_KINDS = 5


@cython.final
cdef class Covering:
    cdef readonly int count
    cdef readonly int highest    # number of the last rule
    cdef const field_s *fields
    cdef int field_count
    cdef int words
    cdef const uint64_t *subscribed
    cdef uint16_t rules[FLOW_RULES_MAX]  # their indices, by precedence
    cdef uint64_t needs[FLOW_RULES_MAX]  # the facts without which they cover nothing
    cdef uint64_t kinds[FACT_KINDS]      # the facts of each kind
    cdef uint64_t sticky         # a bit for each rule that sticks to flows
    cdef uint64_t named          # … that asks for a name which packets say
    cdef uint64_t hosted         # … which HTTP requests say
    cdef uint64_t said           # facts that users say, in payloads
    cdef uint64_t outer          # facts that are believed of a hello that may hide another
    cdef uint64_t *of_class      # [classes], a bit for each rule whose server condition holds
    cdef Suffixes names
    cdef uint32_t *sponsors      # as tokens call them, in order
    cdef uint64_t *of_sponsor    # the facts that a token of each tells
    cdef int sponsor_count
    cdef readonly list conditions
    cdef tuple kept

    cdef uint64_t reachable(self, const packet_s *row) noexcept nogil
    cdef uint64_t possible(self, const packet_s *row, uint64_t reachable) noexcept nogil
    cdef uint64_t eligible(self, const packet_s *row, uint64_t possible) noexcept nogil
    cdef uint64_t shown(
        self, const packet_s *row, uint64_t eligible, uint64_t facts
    ) noexcept nogil
    cdef uint64_t recall(
        self, const packet_s *row, const flow_s *flow, uint64_t possible
    ) noexcept nogil
    cdef bint asks(self, uint64_t rules, fact_e kind) noexcept nogil
    cdef uint64_t of_token(self, uint32_t sponsor) noexcept nogil
    cdef uint64_t covered(self, uint64_t eligible, uint64_t facts) noexcept nogil
    cdef uint64_t alive(self, uint64_t rules, uint64_t facts, uint8_t told) noexcept nogil
    cdef uint64_t facts_of_sni(
        self, const uint8_t *name, uint32_t octets, bint encrypted
    ) noexcept nogil
    cdef uint64_t facts_of_host(self, const uint8_t *name, uint32_t octets) noexcept nogil
    cdef uint64_t hosting(self, uint64_t rules, uint64_t facts) noexcept nogil
    cdef bint is_contradicted(
        self, uint64_t reachable, uint64_t possible, uint64_t said, uint64_t facts
    ) noexcept nogil
    cdef uint64_t fulfilled(self, const packet_s *row, uint64_t some) noexcept nogil
    cdef uint64_t allowed(
        self, const field_s *field, const packet_s *row, uint64_t some
    ) noexcept nogil
    cdef uint64_t among(self, const uint64_t *rules, uint64_t some) noexcept nogil
    cdef uint16_t first(self, uint16_t rule, uint64_t covered) noexcept nogil
    cdef bint may_come(self, uint16_t rule, uint64_t others) noexcept nogil


cdef extern from *:
    """
    #define tollsplit_lowest(x) __builtin_ctzll(x)
    """
    int tollsplit_lowest(uint64_t x) noexcept nogil


cdef inline void remember(const packet_s *row, flow_s *flow) noexcept nogil:
    """Keep of a packet what rules may ask of it, beside its ends."""
    flow.flow_label = row.flow_label
    flow.mpls = row.mpls
    flow.gtp_teid = row.gtp_teid
    flow.gre_key = row.gre_key
    flow.vni = row.vni
    flow.tags = row.tags
    flow.vlan = row.vlan
    flow.vlan_inner = row.vlan_inner
    flow.ingress = row.ingress
    flow.dscp = row.dscp
    flow.qfi = row.qfi
    flow.direction = row.direction
