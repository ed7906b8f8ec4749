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
    /* The bits of x that a mask names, moved together at the low end, run by run. */
    static unsigned long long tollsplit_extract(unsigned long long x, unsigned long long mask) {
        unsigned long long result = 0;
        int at = 0;
        while (mask) {
            int skip = __builtin_ctzll(mask);
            unsigned long long run = mask >> skip;
            int length = ~run ? __builtin_ctzll(~run) : 64;
            unsigned long long part = x >> skip;
            if (length < 64) part &= (1ULL << length) - 1;
            result |= part << at;
            at += length;
            if (skip + length >= 64) break;
            mask &= ~0ULL << (skip + length);
        }
        return result;
    }
    """
    uint64_t tollsplit_extract(uint64_t x, uint64_t mask) noexcept nogil
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
        cdef const uint64_t[::1] slots
        result = np.empty(total, COUNTER)
        if not total:
            return result
        view = result
        slots = self.order(total)
        with nogil:
            for i in range(total):
                later = slots[min(i + AHEAD, total - 1)]
                if later < self.hot_room:
                    tollsplit_prefetch(&self.hot[later])
                slot = slots[i]
                if slot < self.hot_room:
                    widen(&self.hot[slot], self.epoch_ns, &counter)
                else:
                    counter = self.slots[slot - self.hot_room]
                if n and same(&view[n - 1], &counter):
                    join(&view[n - 1], &counter)
                else:
                    view[n] = counter
                    n += 1
        return result[:n]

    cdef object order(self, uint64_t total):
        """u8[total], the used slots in the order of their keys; cold ones behind all hot ones.

        Only the bits in which keys differ are sorted by. They and the slot's number mostly fit
        one word, which a radix sort then moves at once.
        """
        cdef uint64_t i, n = 0, first = 0, differ = 0, key, mask
        cdef int slot_bits = (self.hot_room + self.room - 1).bit_length()
        cdef uint64_t[::1] keys = np.empty(total, np.uint64)
        cdef uint64_t[::1] slots = np.empty(total, np.uint64)
        with nogil:
            for i in range(self.hot_room + self.room):
                if i < self.hot_room:
                    if not used(&self.hot[i]):
                        continue
                    key = sort_key(self.hot[i].key)
                elif self.slots[i - self.hot_room].used:
                    key = sort_key(cold_key(&self.slots[i - self.hot_room]))
                else:
                    continue
                keys[n] = key
                slots[n] = i
                first = key if n == 0 else first
                differ |= key ^ first
                n += 1
        if differ.bit_count() + slot_bits > 64:
            return np.asarray(slots)[np.argsort(np.asarray(keys), kind="stable")]
        mask = (<uint64_t>1 << slot_bits) - 1
        with nogil:
            for i in range(total):
                keys[i] = tollsplit_extract(keys[i], differ) << slot_bits | slots[i]
        keys = sort(keys, slots, slot_bits, slot_bits + differ.bit_count())
        with nogil:
            for i in range(total):
                keys[i] &= mask
        return np.asarray(keys)


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


cdef uint64_t[::1] sort(uint64_t[::1] words, uint64_t[::1] scratch, int low, int high):
    """Words in the order of their bits from `low` up to `high`: a radix sort.

    Returns one of the two arrays; the other one's contents are lost.
    """
    cdef uint64_t counts[DIGITS]
    cdef uint64_t at, digit, count
    cdef Py_ssize_t i
    while low < high:
        with nogil:
            memset(counts, 0, sizeof(counts))
            for i in range(words.shape[0]):
                counts[words[i] >> low & (DIGITS - 1)] += 1
            at = 0
            for i in range(DIGITS):
                count = counts[i]
                counts[i] = at
                at += count
            for i in range(words.shape[0]):
                digit = words[i] >> low & (DIGITS - 1)
                scratch[counts[digit]] = words[i]
                counts[digit] += 1
        words, scratch = scratch, words
        low += DIGIT_BITS
    return words
