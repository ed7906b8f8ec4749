from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from tollsplit.cext.name cimport NAME_OCTETS_MAX

# tollsplit.limits gives the reason; tests/test_layout.py holds them equal.
cdef enum:
    DNS_RECORDS_MAX = 128
    DNS_ADDRESSES_MAX = 32

# An address that a name was given, as packet_s has them. 24 octets.
cdef struct given_s:
    uint64_t hi
    uint64_t lo
    uint32_t version             # 4, 6
    uint32_t ttl_s               # the least of its own and those of the names on the way

# A question, and the addresses in its answer.
cdef struct dns_s:
    uint16_t id
    uint16_t kind                # what was asked for, as RFC 1035 §3.2.2 numbers it
    uint16_t answer              # it is one
    uint16_t count               # of `given`
    uint32_t name_octets
    uint8_t name[NAME_OCTETS_MAX + 3]  # that was asked for, in small letters, without the root's dot
    given_s given[DNS_ADDRESSES_MAX]

cdef bint read_dns(const uint8_t *octets, uint32_t count, dns_s *dns) noexcept nogil
