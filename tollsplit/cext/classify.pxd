cimport cython
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from tollsplit.cext.flows cimport witness_s
from tollsplit.cext.layout cimport frame_s, packet_s, subscriber_s
from tollsplit.cext.lpm cimport trie_s
from tollsplit.cext.subscribers cimport Subscribers

cdef enum:
    POOL_BITS = 12               # a trie's value: class << POOL_BITS | pool
    CLASS_BITS = 31 - POOL_BITS  # what of a row's classes is the server's
    FIELDS_MAX = 16
    VERDICT_NONE = 0
    VERDICT_EVALUATE = 0xFFFF
    STICKY_MAX = 64

# What makes a subscriber of one pool.
cdef struct pool_s:
    uint8_t kind                 # kind_e; KIND_IPV4: the address, of either version
    uint8_t ipv4_key             # prefix lengths
    uint8_t ipv6_key
    bint timed                   # some tenure is limited in time
    bint apart                   # even an IPv4 subscriber has to be interned
    const trie_s *tenures4       # address → group of tenures
    const trie_s *tenures6

# One field's conditions: value → row of bits, a bit per rule.
cdef struct field_s:
    int kind                     # field_e
    uint16_t absent              # the row where a packet lacks the field
    const uint16_t *rows         # by value; or by slot, then `values` tells whose it is
    const uint32_t *values
    uint32_t mask                # of slots
    const uint64_t *bits         # [rows][words]

ctypedef void (*where_f)(void *packets, long count, uint64_t *out, long words) noexcept nogil


@cython.final
cdef class Classifier:
    cdef const trie_s *trie4
    cdef const trie_s *trie6
    cdef pool_s *pools
    cdef field_s fields[FIELDS_MAX]
    cdef int field_count
    cdef readonly int words
    cdef readonly bint detail    # rules or pools ask for a row's second line
    cdef readonly bint tracks    # rules ask for what packets before have shown
    cdef const uint64_t *server  # [classes][words]
    cdef const uint16_t *holders  # [classes]: a row of `subscribed`; or NULL
    cdef const uint64_t *subscribed  # [rows][words]
    cdef const uint64_t *anybodys  # [words]: rules without a subscriber condition
    cdef const uint64_t *claims  # [words], or NULL
    cdef const uint64_t *plain_where  # [words]: rules without an expression
    cdef where_f where
    cdef uint16_t *verdicts      # [classes][2]
    cdef readonly uint32_t serial  # of these rules among all that this process has had
    cdef readonly int sticky_count
    cdef uint16_t sticky[STICKY_MAX]  # indices of the rules that stick to flows
    cdef uint64_t *stick_of      # [classes], a bit for each of them whose server condition holds
    cdef const uint32_t *group_at
    cdef const uint64_t *segment_start
    cdef const uint32_t *segment_tenure
    cdef list kept

    cdef const uint64_t *words_of(self, mask) except NULL
    cdef void set_verdicts(self, Py_ssize_t classes)
    cdef void set_sticky(self, rules, const uint64_t[:, ::1] server)
    cdef int attribute(
        self, const frame_s *frames, packet_s *rows, int count, Subscribers subscribers
    ) noexcept nogil
    cdef int decide(self, packet_s *rows, int count, uint64_t *where) noexcept nogil
    cdef void hold(
        self, packet_s *rows, int count, int total, const uint32_t *ends
    ) noexcept nogil
    cdef void look_up(self, const packet_s *rows, int count, uint32_t *ends) noexcept nogil
    cdef bint meet(
        self, packet_s *row, bint downlink, uint32_t source, uint32_t destination
    ) noexcept nogil
    cdef void intern(
        self, const frame_s *frames, packet_s *rows, const uint32_t *apart, int count,
        Subscribers subscribers
    ) noexcept nogil
    cdef void identify(
        self, const frame_s *frame, const packet_s *row, subscriber_s *who
    ) noexcept nogil
    cdef uint32_t tenure_at(self, uint32_t group, uint64_t timestamp_ns) noexcept nogil
    cdef void evaluate(self, packet_s *row, const uint64_t *where) noexcept nogil
    cdef uint64_t possible(self, const packet_s *row) noexcept nogil
    cdef uint64_t shown(self, const packet_s *row, uint64_t some) noexcept nogil
    cdef uint64_t recall(
        self, const packet_s *row, const witness_s *witness, uint64_t some
    ) noexcept nogil
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


cdef inline void remember(const packet_s *row, witness_s *witness) noexcept nogil:
    """Keep of a packet what rules may ask of it, beside its ends."""
    witness.flow_label = row.flow_label
    witness.mpls = row.mpls
    witness.gtp_teid = row.gtp_teid
    witness.gre_key = row.gre_key
    witness.vni = row.vni
    witness.tags = row.tags
    witness.vlan = row.vlan
    witness.vlan_inner = row.vlan_inner
    witness.ingress = row.ingress
    witness.dscp = row.dscp
    witness.qfi = row.qfi
    witness.direction = row.direction
    witness.shown = True
