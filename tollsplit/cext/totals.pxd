cimport cython
from libc.stdint cimport uint64_t

from tollsplit.cext.flows cimport held_s
from tollsplit.cext.layout cimport fault_e, packet_s
from tollsplit.cext.token cimport REFUSALS

cdef enum:
    FAULT_KINDS = 10
    BUCKETS = 7

# Where every frame went. Sums, so that any two add up to a third.
cdef struct totals_s:
    uint64_t seen_packets
    uint64_t seen_octets
    uint64_t packets[BUCKETS]    # `fault` and `metered` stay 0: see below and the counters
    uint64_t octets[BUCKETS]
    uint64_t fault_packets[FAULT_KINDS]
    uint64_t fault_octets[FAULT_KINDS]
    uint64_t twice_packets
    uint64_t twice_octets
    uint64_t coalesced_packets
    uint64_t coalesced_octets
    uint64_t mismatch_packets
    uint64_t mismatch_octets
    uint64_t tunnel_octets
    uint64_t overlapping_packets
    uint64_t overlapping_octets
    uint64_t untracked_packets
    uint64_t untracked_octets
    uint64_t suspicious_packets
    uint64_t suspicious_octets
    uint64_t unsolicited_packets
    uint64_t unsolicited_octets
    uint64_t refused_packets[REFUSALS]  # whose token opens nothing
    uint64_t refused_octets[REFUSALS]


@cython.final
cdef class Totals:
    cdef totals_s sums

    cdef void settle(self, packet_s *rows, int count, int total) noexcept nogil
    cdef void settle_unusual(self, const packet_s *row) noexcept nogil
    cdef void settle_mismatch(self, const packet_s *row) noexcept nogil
    cdef void settle_late(self, const packet_s *row) noexcept nogil
    cdef void settle_held(self, const held_s *held, fault_e fault) noexcept nogil
    cdef void overlapping(self, const packet_s *row) noexcept nogil
    cdef void untracked(self, const packet_s *row) noexcept nogil
    cdef void suspicious(self, const packet_s *row) noexcept nogil
    cdef void unsolicited(self, const packet_s *row) noexcept nogil
    cdef void refused(self, const packet_s *row, int refusal) noexcept nogil
