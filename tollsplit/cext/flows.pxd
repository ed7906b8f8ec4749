cimport cython
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from tollsplit.cext.bounded cimport Bounded, entry_s, order_s
from tollsplit.cext.key cimport begin_key, key_s
from tollsplit.cext.layout cimport DIRECTION_DOWNLINK, packet_s, subscriber_s

# How far a flow is read, behind a bit for each kind of fact that no packet will tell any more.
cdef enum told_e:
    TOLD_BEGUN = 32              # over TCP: the sequence number of its first octet is known
    TOLD_DOUBTED = 32            # over UDP: the names of its connections so far are not believed
    TOLD_TALKS = 64
    TOLD_MISMATCH = 128          # it claims a name that its server contradicts

# A five-tuple of one subscriber, both directions. 160 octets.
cdef struct flow_s:
    entry_s entry                # in order of when it is asked after; `held` are counters
    uint32_t serial              # of the rules that its facts are of
    uint32_t talk                # TOLD_TALKS: its conversation; else its `first`
    uint64_t waits_ns            # since when its packets may be held
    uint64_t last_ns             # of its packets
    uint64_t facts               # what its packets have shown: see Covering
    uint32_t waits_newer         # among the flows that may hold, by since when
    uint32_t waits_older
    uint32_t flow_label          # of the packet by which it fulfilled a rule, what rules may ask
    uint32_t mpls                # of one beside its ends
    uint32_t gtp_teid
    uint32_t gre_key
    uint32_t vni
    uint16_t tags
    uint16_t vlan
    uint16_t vlan_inner
    uint16_t ingress
    uint8_t dscp
    uint8_t qfi
    uint8_t direction            # DIRECTION_NONE: there is no such packet
    uint8_t told                 # told_e, and a bit for each fact_e

# Packets of one flow that are not charged yet, of one rule and time cell. 80 octets.
cdef struct held_s:
    uint64_t cell_ns             # where the time cell begins
    uint64_t first_ns
    uint64_t last_ns
    uint64_t octets[2]           # by direction_e
    uint64_t twice_octets        # of those, in frames that were seen for another subscriber
    uint64_t eligible            # the rules of flows that may cover them
    uint32_t packets[2]
    uint32_t twice_packets
    uint32_t next
    uint16_t rule                # as things are
    uint8_t flags                # FLAGS_KEPT
    uint8_t decided              # `eligible` minds the hosts of their requests
    uint32_t reserved


@cython.final
cdef class Flows(Bounded):
    cdef uint64_t idle_ns
    cdef uint64_t hold_ns
    cdef order_s silent          # flows that have shown nothing, by when they were listed
    cdef order_s telling         # the others, likewise
    cdef uint32_t[::1] all_sponsors
    cdef uint32_t *sponsors      # [most + 1] whose token opened each, as it calls him; 0: none did
    cdef uint32_t waits_oldest
    cdef uint32_t waits_newest
    cdef held_s *held
    cdef uint32_t held_free
    cdef uint32_t held_made
    cdef uint32_t held_room
    cdef uint32_t held_count
    cdef uint32_t held_most

    cdef uint32_t open(self, const key_s *key, uint64_t now_ns) noexcept nogil
    cdef bint is_idle(self, uint32_t number, uint64_t now_ns) noexcept nogil
    cdef void wait(self, uint32_t number, uint64_t now_ns) noexcept nogil
    cdef bint waits(self, uint32_t number) noexcept nogil
    cdef void wait_no_more(self, uint32_t number) noexcept nogil
    cdef bint hold(
        self, uint32_t number, const packet_s *row, uint64_t eligible, bint decided,
        uint64_t cell_ns
    ) noexcept nogil
    cdef uint32_t held_place(self) noexcept nogil
    cdef void free_held(self, uint32_t place) noexcept nogil
    cdef uint32_t waited_enough(self, uint64_t now_ns) noexcept nogil
    cdef void set_facts(self, uint32_t number, uint64_t facts, uint64_t now_ns) noexcept nogil
    cdef uint32_t idle_enough(self, uint64_t now_ns) noexcept nogil
    cdef uint32_t idle_of(self, order_s *order, uint64_t now_ns) noexcept nogil
    cdef order_s *order_of(self, uint32_t number) noexcept nogil
    cdef void drop(self, uint32_t number) noexcept nogil


cdef inline void flow_key(
    const packet_s *row, const subscriber_s *who, key_s *key
) noexcept nogil:
    """The key of a row's flow."""
    begin_key(row, who, key)
    if row.direction == DIRECTION_DOWNLINK:
        key.source_hi, key.destination_hi = key.destination_hi, key.source_hi
        key.source_lo, key.destination_lo = key.destination_lo, key.source_lo
    key.number = <uint32_t>row.subscriber_port << 16 | row.server_port
    key.protocol = row.protocol
