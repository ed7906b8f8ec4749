"""(subscriber, rule, cell) → counters."""

import os

import numpy as np

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memset

from tollsplit.cext.layout cimport *
from tollsplit.cext.layout import COUNTER


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


cdef enum:
    HOT_BITS = 12                # of slots at first: 128 KiB
    COLD_BITS = 4
    DIGIT_BITS = 11              # of a radix sort's pass: its counts fit the first-level cache
    DIGITS = 1 << DIGIT_BITS
    AHEAD = 16

cdef uint64_t EARLIER_NS = 3_600_000_000_000
cdef uint64_t COLD = <uint64_t>1 << 63


cdef uint64_t odd():
    """A random odd multiplier: nobody can choose addresses that collide (multiply-shift)."""
    return int.from_bytes(os.urandom(8), "little") | 1


cdef class Table:
    """Counters of every (subscriber, rule, cell) met.

    A counter lives in the hot table while its numbers are small: half a cache line, one access
    a packet. What does not fit there (a flag, a time too far from the epoch, a cell beyond
    2^16, a sum about to overflow) is added to the cold table, which holds 64-bit counters.
    Counters add up, so one key may lie in both. Both tables are flat, with linear probing;
    filled to 7/8 they double. Fresh memory is zero, and zero is an empty slot.
    """

    def __cinit__(self):
        self.hot_multiplier = odd()
        self.multiplier = odd()
        self.cell_multiplier = odd()
        self.hot_shift = 64 - HOT_BITS
        self.hot_room = <uint64_t>1 << HOT_BITS
        self.hot = <hot_s *>tollsplit_map(self.hot_room * sizeof(hot_s))
        self.shift = 64 - COLD_BITS
        self.room = <uint64_t>1 << COLD_BITS
        self.slots = <counter_s *>tollsplit_map(self.room * sizeof(counter_s))
        if self.hot == NULL or self.slots == NULL:
            raise MemoryError

    def __dealloc__(self):
        if self.hot != NULL:
            tollsplit_unmap(self.hot, self.hot_room * sizeof(hot_s))
        if self.slots != NULL:
            tollsplit_unmap(self.slots, self.room * sizeof(counter_s))

    @property
    def octets(self):
        """Memory reserved."""
        return self.hot_room * sizeof(hot_s) + self.room * sizeof(counter_s)

    cdef bint grow_hot(self) noexcept nogil:
        """Double the hot table; False where memory does not allow it."""
        cdef uint64_t i, slot, room = self.hot_room * 2
        cdef hot_s *hot = <hot_s *>tollsplit_map(room * sizeof(hot_s))
        if hot == NULL:
            return False
        self.hot_shift -= 1
        for i in range(self.hot_room):
            if not used(&self.hot[i]):
                continue
            slot = (self.hot[i].key * self.hot_multiplier) >> self.hot_shift
            while used(&hot[slot]):
                slot = (slot + 1) & (room - 1)
            hot[slot] = self.hot[i]
        tollsplit_unmap(self.hot, self.hot_room * sizeof(hot_s))
        self.hot = hot
        self.hot_room = room
        return True

    cdef bint grow(self) noexcept nogil:
        """Double the cold table; False where memory does not allow it."""
        cdef uint64_t i, slot, room = self.room * 2
        cdef counter_s *slots = <counter_s *>tollsplit_map(room * sizeof(counter_s))
        if slots == NULL:
            return False
        self.shift -= 1
        for i in range(self.room):
            if not self.slots[i].used:
                continue
            slot = slot_of(self, &self.slots[i])
            while slots[slot].used:
                slot = (slot + 1) & (room - 1)
            slots[slot] = self.slots[i]
        tollsplit_unmap(self.slots, self.room * sizeof(counter_s))
        self.slots = slots
        self.room = room
        return True

    cdef bint add(self, const counter_s *delta) noexcept nogil:
        """Add to a cold counter; False: no room."""
        cdef uint64_t slot
        cdef counter_s *counter
        if self.count >= self.room - (self.room >> 3) and not self.grow():
            if self.count >= self.room - 1:
                return False
        slot = slot_of(self, delta)
        counter = &self.slots[slot]
        while counter.used and not same(counter, delta):
            slot = (slot + 1) & (self.room - 1)
            counter = &self.slots[slot]
        if counter.used:
            join(counter, delta)
        else:
            self.count += 1
            counter[0] = delta[0]
            counter.used = 1
        return True

    cdef bint spill(self, const hot_s *entry) noexcept nogil:
        """Add a hot counter's numbers to its cold one."""
        cdef counter_s delta
        widen(entry, self.epoch_ns, &delta)
        return self.add(&delta)

    cdef int add_batch(
        self, packet_s *rows, const uint32_t *cells, int count
    ) noexcept nogil:
        """Add each metered row. Returns how many found no room; they become faults.

        Budget: 12 ns a packet with a million subscribers: one line of the hot table a row,
        asked for in a first pass and read in a second. `count` is at most COUNT_MAX; a slot
        is below the table's size by construction. Guarded by benchmarks/bench_account.py.
        """
        cdef uint64_t keys[COUNT_MAX]
        cdef uint64_t slots[COUNT_MAX]
        cdef int i, full = 0
        cdef packet_s *row
        while (self.hot_count + <uint64_t>count > self.hot_room - (self.hot_room >> 3)
                and self.grow_hot()):
            pass
        for i in range(count):
            row = &rows[i]
            if row.bucket == BUCKET_METERED:
                keys[i] = key_of(row, cells[i])
                slots[i] = (keys[i] * self.hot_multiplier) >> self.hot_shift
                tollsplit_prefetch(&self.hot[slots[i]])
        for i in range(count):
            row = &rows[i]
            if row.bucket == BUCKET_METERED and not self.count_row(
                row, cells[i], keys[i], slots[i]
            ):
                row.bucket = BUCKET_FAULT
                row.fault = FAULT_TABLE_FULL
                full += 1
        return full

    cdef bint count_row(
        self, const packet_s *row, uint32_t cell, uint64_t key, uint64_t slot
    ) noexcept nogil:
        """Add one row, `slot` being its first in the hot table; False: no room."""
        cdef uint64_t since
        cdef hot_s *entry
        cdef counter_s delta
        if not self.begun:
            # leave room for packets that a file holds out of order
            self.epoch_ns = row.timestamp_ns - min(row.timestamp_ns, EARLIER_NS)
            self.begun = True
        since = row.timestamp_ns - self.epoch_ns
        if since >> 48 or cell >> 16 or row.flags & FLAGS_KEPT:
            one(row, cell, &delta)
            return self.add(&delta)
        entry = &self.hot[slot]
        while entry.key != key and used(entry):
            slot = (slot + 1) & (self.hot_room - 1)
            entry = &self.hot[slot]
        if used(entry):
            if count_in(entry, row, since):
                return True
            if not self.spill(entry):
                return False
        elif self.hot_count < self.hot_room - 1:
            self.hot_count += 1
        else:
            return False
        begin(entry, key, row, since)
        return True

    def counters(self):
        """COUNTER[n], sorted by (cell, subscriber, rule, none last, interned).

        Cells beyond 2^16 are sorted by their low bits; only then may a key come twice.
        """
        cdef uint64_t total = self.hot_count + self.count
        cdef uint64_t i, n = 0, slot, later
        cdef counter_s counter
        cdef counter_s[::1] view
        cdef uint64_t[::1] keys, slots
        result = np.empty(total, COUNTER)
        if not total:
            return result
        view = result
        keys = np.empty(total, np.uint64)
        slots = np.empty(total, np.uint64)
        with nogil:
            for i in range(self.hot_room):
                if used(&self.hot[i]):
                    keys[n] = sort_key(self.hot[i].key)
                    slots[n] = i
                    n += 1
            for i in range(self.room):
                if self.slots[i].used:
                    keys[n] = sort_key(cold_key(&self.slots[i]))
                    slots[n] = i | COLD
                    n += 1
        slots = sort(keys, slots)
        n = 0
        with nogil:
            for i in range(total):
                later = slots[min(i + AHEAD, total - 1)]
                if not later & COLD:
                    tollsplit_prefetch(&self.hot[later])
                slot = slots[i]
                if slot & COLD:
                    counter = self.slots[slot ^ COLD]
                else:
                    widen(&self.hot[slot], self.epoch_ns, &counter)
                if n and same(&view[n - 1], &counter):
                    join(&view[n - 1], &counter)
                else:
                    view[n] = counter
                    n += 1
        return result[:n]


cdef inline bint used(const hot_s *entry) noexcept nogil:
    return entry.uplink_packets | entry.downlink_packets


cdef inline bint same(const counter_s *one, const counter_s *other) noexcept nogil:
    """Whether two counters count the same key."""
    return (one.subscriber == other.subscriber and one.rule == other.rule
            and one.cell == other.cell and one.interned == other.interned)


cdef inline void join(counter_s *counter, const counter_s *delta) noexcept nogil:
    """Add one counter to another."""
    counter.flags |= delta.flags
    counter.first_ns = min(counter.first_ns, delta.first_ns)
    counter.last_ns = max(counter.last_ns, delta.last_ns)
    counter.uplink_packets += delta.uplink_packets
    counter.uplink_octets += delta.uplink_octets
    counter.downlink_packets += delta.downlink_packets
    counter.downlink_octets += delta.downlink_octets


cdef inline uint64_t key_of(const packet_s *row, uint32_t cell) noexcept nogil:
    return (<uint64_t>row.subscriber << 32 | <uint64_t>row.rule << 17
            | <uint64_t>row.interned << 16 | (cell & 0xFFFF))


cdef inline uint64_t cold_key(const counter_s *counter) noexcept nogil:
    return (<uint64_t>counter.subscriber << 32 | <uint64_t>counter.rule << 17
            | <uint64_t>counter.interned << 16 | (counter.cell & 0xFFFF))


cdef inline uint64_t sort_key(uint64_t key) noexcept nogil:
    """cell, subscriber, rule (none becomes the last), interned."""
    return (key << 48 | key >> 32 << 16
            | ((key >> 17) - 1 & 0x7FFF) << 1 | (key >> 16 & 1))


cdef inline uint64_t slot_of(Table table, const counter_s *counter) noexcept nogil:
    return (
        cold_key(counter) * table.multiplier + counter.cell * table.cell_multiplier
    ) >> table.shift


cdef inline void begin(
    hot_s *entry, uint64_t key, const packet_s *row, uint64_t since
) noexcept nogil:
    """Start a hot counter with one packet."""
    cdef bint uplink = row.direction == DIRECTION_UPLINK
    entry.key = key
    entry.uplink_packets = uplink
    entry.downlink_packets = not uplink
    entry.uplink_octets = row.octets if uplink else 0
    entry.downlink_octets = 0 if uplink else row.octets
    entry.first_hi = entry.last_hi = <uint16_t>(since >> 32)
    entry.first_lo = entry.last_lo = <uint32_t>since


cdef inline bint count_in(hot_s *entry, const packet_s *row, uint64_t since) noexcept nogil:
    """Add one packet to a hot counter; False, and nothing done, where it would overflow."""
    if row.direction == DIRECTION_UPLINK:
        if entry.uplink_packets == 0xFFFF or entry.uplink_octets + row.octets < row.octets:
            return False
        entry.uplink_packets += 1
        entry.uplink_octets += row.octets
    else:
        if entry.downlink_packets == 0xFFFF or entry.downlink_octets + row.octets < row.octets:
            return False
        entry.downlink_packets += 1
        entry.downlink_octets += row.octets
    if since > (<uint64_t>entry.last_hi << 32 | entry.last_lo):
        entry.last_hi = <uint16_t>(since >> 32)
        entry.last_lo = <uint32_t>since
    elif since < (<uint64_t>entry.first_hi << 32 | entry.first_lo):
        entry.first_hi = <uint16_t>(since >> 32)
        entry.first_lo = <uint32_t>since
    return True


cdef inline void one(const packet_s *row, uint32_t cell, counter_s *delta) noexcept nogil:
    """A single packet as a counter."""
    memset(delta, 0, sizeof(counter_s))
    delta.subscriber = row.subscriber
    delta.rule = row.rule
    delta.interned = row.interned
    delta.flags = <uint8_t>(row.flags & FLAGS_KEPT)
    delta.cell = cell
    delta.first_ns = delta.last_ns = row.timestamp_ns
    if row.direction == DIRECTION_UPLINK:
        delta.uplink_packets = 1
        delta.uplink_octets = row.octets
    else:
        delta.downlink_packets = 1
        delta.downlink_octets = row.octets


cdef inline void widen(const hot_s *entry, uint64_t epoch_ns, counter_s *counter) noexcept nogil:
    """A hot counter in full."""
    counter.subscriber = <uint32_t>(entry.key >> 32)
    counter.rule = <uint16_t>(entry.key >> 17 & 0x7FFF)
    counter.interned = <uint8_t>(entry.key >> 16 & 1)
    counter.flags = 0
    counter.cell = <uint32_t>(entry.key & 0xFFFF)
    counter.used = 1
    counter.uplink_packets = entry.uplink_packets
    counter.uplink_octets = entry.uplink_octets
    counter.downlink_packets = entry.downlink_packets
    counter.downlink_octets = entry.downlink_octets
    counter.first_ns = epoch_ns + (<uint64_t>entry.first_hi << 32 | entry.first_lo)
    counter.last_ns = epoch_ns + (<uint64_t>entry.last_hi << 32 | entry.last_lo)


cdef uint64_t[::1] sort(uint64_t[::1] keys, uint64_t[::1] values):
    """Values in the order of their keys: a radix sort that passes over constant digits."""
    cdef uint64_t counts[DIGITS]
    cdef uint64_t[::1] other_keys = np.empty(keys.shape[0], np.uint64)
    cdef uint64_t[::1] other_values = np.empty(keys.shape[0], np.uint64)
    cdef uint64_t different = 0, at, digit, count
    cdef Py_ssize_t i
    cdef int shift = 0
    with nogil:
        for i in range(keys.shape[0]):
            different |= keys[i] ^ keys[0]
    while shift < 64:
        if different >> shift & (DIGITS - 1):
            with nogil:
                memset(counts, 0, sizeof(counts))
                for i in range(keys.shape[0]):
                    counts[keys[i] >> shift & (DIGITS - 1)] += 1
                at = 0
                for i in range(DIGITS):
                    count = counts[i]
                    counts[i] = at
                    at += count
                for i in range(keys.shape[0]):
                    digit = keys[i] >> shift & (DIGITS - 1)
                    other_keys[counts[digit]] = keys[i]
                    other_values[counts[digit]] = values[i]
                    counts[digit] += 1
            keys, other_keys = other_keys, keys
            values, other_values = other_values, values
        shift += DIGIT_BITS
    return values
