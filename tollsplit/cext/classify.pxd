cimport cython
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from tollsplit.cext.covering cimport Covering
from tollsplit.cext.field cimport field_s
from tollsplit.cext.layout cimport frame_s, packet_s, subscriber_s
from tollsplit.cext.lpm cimport trie_s
from tollsplit.cext.resolvers cimport Resolvers
from tollsplit.cext.subscribers cimport Subscribers

cdef enum:
    POOL_BITS = 12               # a trie's value: class << POOL_BITS | pool
    VERDICT_NONE = 0
    VERDICT_EVALUATE = 0xFFFF

# What makes a subscriber of one pool.
cdef struct pool_s:
    uint8_t kind                 # kind_e; KIND_IPV4: the address, of either version
    uint8_t ipv4_key             # prefix lengths
    uint8_t ipv6_key
    bint timed                   # some tenure is limited in time
    bint apart                   # even an IPv4 subscriber has to be interned
    const trie_s *tenures4       # address → group of tenures
    const trie_s *tenures6

ctypedef void (*where_f)(void *packets, long count, uint64_t *out, long words) noexcept nogil


@cython.final
cdef class Classifier:
    cdef const trie_s *trie4
    cdef const trie_s *trie6
    cdef pool_s *pools
    cdef const field_s *fields
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
    cdef Covering covering
    cdef public Resolvers resolvers  # whose answers these rules believe
    cdef public object seal      # opens QUIC's Initial packets; None: no rule asks what they say
    cdef const uint32_t *group_at
    cdef const uint64_t *segment_start
    cdef const uint32_t *segment_tenure
    cdef list kept

    cdef const uint64_t *words_of(self, mask) except NULL
    cdef void set_verdicts(self, Py_ssize_t classes)
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
    cdef int subscriber_length(self, const packet_s *row) noexcept nogil
    cdef void evaluate(self, packet_s *row, const uint64_t *where) noexcept nogil
