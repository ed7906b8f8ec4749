# What makes a flow, or a datagram: the ends of its packets, whose they are, and numbers.

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memset

from tollsplit.cext.layout cimport packet_s, subscriber_s

# 64 octets, compared and hashed word by word: nothing in it is left as it was.
cdef struct key_s:
    uint64_t source_hi           # of a flow: the subscriber's end
    uint64_t source_lo
    uint64_t destination_hi      # of a flow: the server
    uint64_t destination_lo
    uint64_t who_hi              # the subscriber: two may have the same address
    uint64_t who_lo
    uint32_t tenure
    uint32_t number              # of a flow: both ports; of a datagram: its identification
    uint16_t pool
    uint8_t kind
    uint8_t interned
    uint8_t protocol
    uint8_t version
    uint8_t direction            # of a datagram
    uint8_t reserved

cdef enum:
    KEY_WORDS = 8


cdef inline void begin_key(
    const packet_s *row, const subscriber_s *who, key_s *key
) noexcept nogil:
    """A key of a row's ends as they stand in it, and of the subscriber; no more."""
    memset(key, 0, sizeof(key_s))
    key.source_hi = row.source_hi
    key.source_lo = row.source_lo
    key.destination_hi = row.destination_hi
    key.destination_lo = row.destination_lo
    key.who_hi = who.hi
    key.who_lo = who.lo
    key.tenure = who.tenure
    key.pool = who.pool
    key.kind = who.kind
    key.interned = row.interned
    key.version = row.version


cdef inline void who_of(const key_s *key, subscriber_s *who) noexcept nogil:
    """The subscriber of a key, as an interned one is known."""
    memset(who, 0, sizeof(subscriber_s))
    who.hi = key.who_hi
    who.lo = key.who_lo
    who.tenure = key.tenure
    who.pool = key.pool
    who.kind = key.kind


cdef inline bint same_key(const key_s *one, const key_s *other) noexcept nogil:
    cdef const uint64_t *a = <const uint64_t *>one
    cdef const uint64_t *b = <const uint64_t *>other
    cdef uint64_t differing = 0
    cdef int i
    for i in range(KEY_WORDS):
        differing |= a[i] ^ b[i]
    return differing == 0


cdef inline uint64_t hash_key(const key_s *key, const uint64_t *multipliers) noexcept nogil:
    """Its upper bits are the hash; who does not know the multipliers cannot choose collisions."""
    cdef const uint64_t *words = <const uint64_t *>key
    cdef uint64_t sum = 0
    cdef int i
    for i in range(KEY_WORDS):
        sum += (words[i] ^ words[i] >> 32) * multipliers[i]
    return sum
