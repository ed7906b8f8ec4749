"""(subscriber, rule, cell) → counters, and the numbers of interned subscribers."""

import os

import numpy as np

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcpy

from tollsplit.cext.layout cimport *
from tollsplit.cext.layout import COUNTER, SUBSCRIBER


cdef extern from *:
    """
    #include <stddef.h>
    #include <sys/mman.h>
    static void *tollsplit_map(size_t bytes) {
        void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (memory == MAP_FAILED) return NULL;
        madvise(memory, bytes, MADV_HUGEPAGE);
        return memory;
    }
    static void tollsplit_unmap(void *memory, size_t bytes) { munmap(memory, bytes); }
    #define tollsplit_prefetch(p) __builtin_prefetch((p), 1)
    """
    void *tollsplit_map(size_t bytes) noexcept nogil
    void tollsplit_unmap(void *memory, size_t bytes) noexcept nogil
    void tollsplit_prefetch(const void *p) noexcept nogil


cdef uint64_t odd():
    """A random odd multiplier: nobody can choose addresses that collide (multiply-shift)."""
    return int.from_bytes(os.urandom(8), "little") | 1


cdef class Table:
    """Counters of every (subscriber, rule, cell) met, in one flat table.

    Open addressing with linear probing; a counter fills one cache line; filled to 3/4 it
    doubles. Fresh memory is zero, and zero is an empty slot.
    """

    def __cinit__(self, int bits=12):
        self.multiplier = odd()
        self.cell_multiplier = odd()
        self.shift = 64 - bits
        self.room = <uint64_t>1 << bits
        self.bytes = self.room * sizeof(counter_s)
        self.memory = tollsplit_map(self.bytes)
        if self.memory == NULL:
            raise MemoryError
        self.slots = <counter_s *>self.memory

    def __dealloc__(self):
        if self.memory != NULL:
            tollsplit_unmap(self.memory, self.bytes)

    @property
    def octets(self):
        """Memory reserved."""
        return self.bytes

    cdef bint grow(self) noexcept nogil:
        """Double the table; False where memory does not allow it."""
        cdef uint64_t i, slot, room = self.room * 2
        cdef size_t bytes = room * sizeof(counter_s)
        cdef counter_s *slots = <counter_s *>tollsplit_map(bytes)
        cdef counter_s *old
        if slots == NULL:
            return False
        self.shift -= 1
        for i in range(self.room):
            old = &self.slots[i]
            if not old.used:
                continue
            slot = hash_of(self, old.subscriber, old.rule, old.interned, old.cell) >> self.shift
            while slots[slot].used:
                slot = (slot + 1) & (room - 1)
            slots[slot] = old[0]
        tollsplit_unmap(self.memory, self.bytes)
        self.memory = slots
        self.slots = slots
        self.bytes = bytes
        self.room = room
        return True

    cdef int add_batch(
        self, packet_s *rows, const uint32_t *cells, int count
    ) noexcept nogil:
        """Add each row that has a subscriber. Returns how many found no room (table_full).

        Budget: 12 ns a packet with a million counters: one line of the table a row, asked
        for in a first pass and read in a second. `count` is at most COUNT_MAX. A row whose
        bucket is not `metered` is passed over; one without room becomes a fault.
        Guarded by benchmarks/bench_account.py.
        """
        cdef uint64_t hashes[COUNT_MAX]
        cdef int i, full = 0
        cdef uint64_t slot
        cdef packet_s *row
        cdef counter_s *counter
        while self.count + <uint64_t>count > self.room - (self.room >> 2):
            if not self.grow():
                break
        for i in range(count):
            row = &rows[i]
            if row.bucket == BUCKET_METERED:
                hashes[i] = hash_of(
                    self, row.subscriber, row.rule, row.interned, cells[i]) >> self.shift
                tollsplit_prefetch(&self.slots[hashes[i]])
        for i in range(count):
            row = &rows[i]
            if row.bucket != BUCKET_METERED:
                continue
            slot = hashes[i]
            counter = &self.slots[slot]
            while counter.used and (
                counter.subscriber != row.subscriber or counter.rule != row.rule
                or counter.cell != cells[i] or counter.interned != row.interned
            ):
                slot = (slot + 1) & (self.room - 1)
                counter = &self.slots[slot]
            if not counter.used:
                if self.count >= self.room - (self.room >> 3):
                    row.bucket = BUCKET_FAULT
                    row.fault = FAULT_TABLE_FULL
                    full += 1
                    continue
                self.count += 1
                counter.used = 1
                counter.subscriber = row.subscriber
                counter.rule = row.rule
                counter.interned = row.interned
                counter.cell = cells[i]
                counter.first_ns = row.timestamp_ns
                counter.last_ns = row.timestamp_ns
            counter.flags |= <uint8_t>(row.flags & FLAGS_KEPT)
            counter.first_ns = min(counter.first_ns, row.timestamp_ns)
            counter.last_ns = max(counter.last_ns, row.timestamp_ns)
            if row.direction == DIRECTION_UPLINK:
                counter.uplink_packets += 1
                counter.uplink_octets += row.octets
            else:
                counter.downlink_packets += 1
                counter.downlink_octets += row.octets
        return full

    def counters(self):
        """COUNTER[count], a copy, in no particular order."""
        cdef uint64_t i, n = 0
        cdef counter_s[::1] view
        result = np.empty(self.count, COUNTER)
        if self.count:
            view = result
            with nogil:
                for i in range(self.room):
                    if self.slots[i].used:
                        view[n] = self.slots[i]
                        n += 1
        return result


cdef inline uint64_t hash_of(
    Table table, uint32_t subscriber, uint16_t rule, uint8_t interned, uint32_t cell
) noexcept nogil:
    return (
        (<uint64_t>subscriber << 17 | <uint64_t>rule << 1 | interned) * table.multiplier
        + cell * table.cell_multiplier
    )


cdef class Subscribers:
    """Numbers for subscribers that are more than a plain IPv4 address, from 0 on."""

    def __cinit__(self):
        self.multiplier = odd()
        self.second_multiplier = odd()
        self.shift = 64 - 10
        self.room = 768
        self.known = <subscriber_s *>malloc(self.room * sizeof(subscriber_s))
        self.index = <uint32_t *>calloc(1024, sizeof(uint32_t))
        if self.known == NULL or self.index == NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self.known)
        free(self.index)

    cdef uint32_t number(self, const subscriber_s *subscriber) noexcept nogil:
        """The subscriber's number; 0xFFFFFFFF: no room for another."""
        cdef uint64_t mask = (<uint64_t>1 << (64 - self.shift)) - 1
        cdef uint64_t slot = who(self, subscriber) >> self.shift
        cdef const subscriber_s *other
        while self.index[slot]:
            other = &self.known[self.index[slot] - 1]
            if (other.lo == subscriber.lo and other.hi == subscriber.hi
                    and other.kind == subscriber.kind and other.pool == subscriber.pool
                    and other.tenure == subscriber.tenure):
                return self.index[slot] - 1
            slot = (slot + 1) & mask
        if self.count >= self.room:
            if not self.grow():
                return 0xFFFFFFFFU
            return self.number(subscriber)
        self.known[self.count] = subscriber[0]
        self.count += 1
        self.index[slot] = self.count
        return self.count - 1

    cdef bint grow(self) noexcept nogil:
        cdef uint64_t slots = <uint64_t>1 << (65 - self.shift)
        cdef uint64_t slot
        cdef uint32_t i
        cdef uint32_t *index
        cdef subscriber_s *known
        if slots > <uint64_t>1 << 31:
            return False
        index = <uint32_t *>calloc(slots, sizeof(uint32_t))
        known = <subscriber_s *>realloc(
            self.known, (slots - (slots >> 2)) * sizeof(subscriber_s))
        if known != NULL:
            self.known = known
        if index == NULL or known == NULL:
            free(index)
            return False
        self.shift -= 1
        self.room = <uint32_t>(slots - (slots >> 2))
        for i in range(self.count):
            slot = who(self, &known[i]) >> self.shift
            while index[slot]:
                slot = (slot + 1) & (slots - 1)
            index[slot] = i + 1
        free(self.index)
        self.index = index
        return True

    def subscribers(self):
        """SUBSCRIBER[count], a copy, by number."""
        cdef subscriber_s[::1] view
        result = np.empty(self.count, SUBSCRIBER)
        if self.count:
            view = result
            memcpy(&view[0], self.known, self.count * sizeof(subscriber_s))
        return result


cdef inline uint64_t who(Subscribers known, const subscriber_s *subscriber) noexcept nogil:
    cdef uint64_t words = subscriber.hi * known.multiplier
    words ^= words >> 29
    words = (words + subscriber.lo) * known.second_multiplier
    words ^= words >> 31
    return (words + (<uint64_t>subscriber.tenure << 24 | <uint64_t>subscriber.pool << 8
                     | subscriber.kind)) * known.multiplier
