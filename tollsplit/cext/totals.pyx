"""Where every frame went: the sums that the identity is checked by (accounting §2)."""

import numpy as np

from libc.stdint cimport uint64_t
from libc.string cimport memcpy

from tollsplit.cext.flows cimport held_s
from tollsplit.cext.layout cimport *
from tollsplit.cext.layout import BUCKET_NAMES, FAULT_NAMES
from tollsplit.cext.token import REFUSAL_NAMES

TOTALS = sizeof(totals_s) // sizeof(uint64_t)

assert <int>FAULT_KINDS == <int>FAULTS == len(FAULT_NAMES) and BUCKETS == len(BUCKET_NAMES)


cdef class Totals:
    """Sums of one meter; those of several are added up."""

    cdef void settle(self, packet_s *rows, int count, int total) noexcept nogil:
        """Put every frame into exactly one bucket; metered ones lie in the counters."""
        cdef int i
        cdef uint64_t octets = 0
        cdef packet_s *row
        cdef packet_s *other
        cdef totals_s *totals = &self.sums
        for i in range(count, total):  # downlinks of packets between two subscribers
            other = &rows[i]
            row = &rows[other.frame]
            if row.bucket == BUCKET_METERED and other.bucket == BUCKET_METERED:
                totals.twice_packets += 1
                totals.twice_octets += row.octets
            elif other.bucket == BUCKET_METERED:
                row.bucket = BUCKET_METERED
            elif row.bucket == BUCKET_HELD and row.flags & FLAG_TWICE:
                row.bucket = other.bucket
                row.fault = other.fault
            self.settle_mismatch(other)
        for i in range(count):
            row = &rows[i]
            octets += row.octets
            if row.bucket != BUCKET_METERED or row.flags:
                self.settle_unusual(row)
            if not row.brief:
                totals.tunnel_octets += row.tunnel_octets
        totals.seen_packets += count
        totals.seen_octets += octets

    cdef void settle_unusual(self, const packet_s *row) noexcept nogil:
        """The bucket of a row that is not metered, and what flags are counted."""
        cdef totals_s *totals = &self.sums
        if row.bucket == BUCKET_FAULT:
            totals.fault_packets[row.fault] += 1
            totals.fault_octets[row.fault] += row.octets
        elif row.bucket == BUCKET_HELD:
            totals.seen_packets -= 1
            totals.seen_octets -= row.octets
        elif row.bucket != BUCKET_METERED:
            totals.packets[row.bucket] += 1
            totals.octets[row.bucket] += row.octets
        if row.flags & FLAG_COALESCED and row.bucket in (
                BUCKET_METERED, BUCKET_UNATTRIBUTED, BUCKET_HELD):
            totals.coalesced_packets += 1
            totals.coalesced_octets += row.octets
        self.settle_mismatch(row)

    cdef void settle_mismatch(self, const packet_s *row) noexcept nogil:
        if row.flags & FLAG_MISMATCH:
            self.sums.mismatch_packets += 1
            self.sums.mismatch_octets += row.octets

    cdef void settle_late(self, const packet_s *row) noexcept nogil:
        """Put a frame that was held into its bucket, and see it, unless it was seen before."""
        cdef totals_s *totals = &self.sums
        self.settle_mismatch(row)
        if not row.flags & FLAG_TWICE:
            totals.seen_packets += 1
            totals.seen_octets += row.octets
            if row.bucket == BUCKET_FAULT:
                totals.fault_packets[row.fault] += 1
                totals.fault_octets[row.fault] += row.octets
        elif row.bucket == BUCKET_METERED:
            totals.twice_packets += 1
            totals.twice_octets += row.octets

    cdef void settle_held(self, const held_s *held, fault_e fault) noexcept nogil:
        """See frames that were held, unless they were seen before; fault: they found no counter."""
        cdef totals_s *totals = &self.sums
        cdef uint64_t packets = <uint64_t>held.packets[0] + held.packets[1] - held.twice_packets
        cdef uint64_t octets = held.octets[0] + held.octets[1] - held.twice_octets
        totals.seen_packets += packets
        totals.seen_octets += octets
        if fault != FAULT_NONE:
            totals.fault_packets[<int>fault] += packets
            totals.fault_octets[<int>fault] += octets
        else:
            totals.twice_packets += held.twice_packets
            totals.twice_octets += held.twice_octets

    cdef void overlapping(self, const packet_s *row) noexcept nogil:
        """A fragment brings what its datagram had already."""
        self.sums.overlapping_packets += 1
        self.sums.overlapping_octets += row.octets

    cdef void untracked(self, const packet_s *row) noexcept nogil:
        """There was no room to keep what a row depends on."""
        self.sums.untracked_packets += 1
        self.sums.untracked_octets += row.octets

    cdef void suspicious(self, const packet_s *row) noexcept nogil:
        """A row brings again what was sent before, with other content."""
        self.sums.suspicious_packets += 1
        self.sums.suspicious_octets += row.octets

    cdef void unsolicited(self, const packet_s *row) noexcept nogil:
        """A row comes to a subscriber who said nothing in its flow."""
        self.sums.unsolicited_packets += 1
        self.sums.unsolicited_octets += row.octets

    cdef void refused(self, const packet_s *row, int refusal) noexcept nogil:
        """A row carries a token that opens nothing.

        refusal   from 1 on, in the order of REFUSAL_NAMES
        """
        self.sums.refused_packets[refusal - 1] += 1
        self.sums.refused_octets[refusal - 1] += row.octets

    def add(self, const uint64_t[::1] theirs):
        """Add the sums of another one, as numbers() gives them."""
        cdef uint64_t *mine = <uint64_t *>&self.sums
        cdef int i
        for i in range(TOTALS):
            mine[i] += theirs[i]

    def numbers(self):
        """u8[TOTALS], a copy of the sums as they lie."""
        found = np.empty(TOTALS, np.uint64)
        cdef uint64_t[::1] view = found
        memcpy(&view[0], &self.sums, sizeof(totals_s))
        return found

    def by_name(self):
        """The buckets' packets and octets: dict of name → (packets, octets)."""
        cdef totals_s *totals = &self.sums
        found = {
            "seen": (totals.seen_packets, totals.seen_octets),
            "metered_twice": (totals.twice_packets, totals.twice_octets),
            "coalesced": (totals.coalesced_packets, totals.coalesced_octets),
            "mismatch": (totals.mismatch_packets, totals.mismatch_octets),
            "tunnel": (0, totals.tunnel_octets),
            "overlapping": (totals.overlapping_packets, totals.overlapping_octets),
            "untracked": (totals.untracked_packets, totals.untracked_octets),
            "suspicious": (totals.suspicious_packets, totals.suspicious_octets),
            "unsolicited": (totals.unsolicited_packets, totals.unsolicited_octets),
        }
        for i, name in enumerate(BUCKET_NAMES):
            if i != BUCKET_METERED and i != BUCKET_FAULT:
                found[name] = (totals.packets[i], totals.octets[i])
        for i, name in enumerate(FAULT_NAMES):
            if totals.fault_packets[i]:
                found["fault:" + name] = (totals.fault_packets[i], totals.fault_octets[i])
        for i, name in enumerate(REFUSAL_NAMES):
            if totals.refused_packets[i]:
                found["refused:" + name] = (totals.refused_packets[i], totals.refused_octets[i])
        return found
