"""(subscriber, rule, cell) → counters."""

import os

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memset

from tollsplit.cext.counter cimport *
from tollsplit.cext.layout cimport *


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
    #define tollsplit_lowest(x) __builtin_ctzll(x)
    /* Eight octets as one word, the first of them the lowest on any machine. */
    static unsigned long long tollsplit_eight(const unsigned char *p) {
        unsigned long long word;
        __builtin_memcpy(&word, p, 8);
    #if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
        word = __builtin_bswap64(word);
    #endif
        return word;
    }
    """
    void *tollsplit_map(size_t bytes) noexcept nogil
    void tollsplit_unmap(void *memory, size_t bytes) noexcept nogil
    void tollsplit_prefetch(const void *p) noexcept nogil
    int tollsplit_lowest(uint64_t x) noexcept nogil
    uint64_t tollsplit_eight(const uint8_t *p) noexcept nogil


cdef enum:
    HOT_BITS = 12                # of slots at first: 128 KiB
    COLD_BITS = 4
    AHEAD = 16

cdef uint64_t ONES = 0x0101010101010101
cdef uint64_t EARLIER_NS = 3_600_000_000_000


cdef uint64_t odd():
    """A random odd multiplier: nobody can choose addresses that collide (multiply-shift)."""
    return int.from_bytes(os.urandom(8), "little") | 1

# One for all tables: slots of two of them are in the same order, and one is added to another in
# the order of both.
cdef uint64_t HOT_MULTIPLIER = odd()


cdef class Table:
    """Counters of every (subscriber, rule, cell) met.

    A counter lives in the hot table while its numbers are small: half a cache line, one access
    a packet. Beside it stands an octet a slot, a mark of the key's hash: eight of them are
    compared at once, and mostly name the one slot that has to be read. What does not fit there (a flag, a time too far from the epoch, a cell beyond
    2^16, a sum about to overflow) is added to the cold table, which holds 64-bit counters.
    Counters add up, so one key may lie in both. Both tables are flat, with linear probing;
    filled to 7/8 they double. The hot one does not wrap: SLACK slots follow its end. Fresh
    memory is zero, and zero is an empty slot.
    """

    def __cinit__(self):
        self.hot_multiplier = HOT_MULTIPLIER
        self.multiplier = odd()
        self.cell_multiplier = odd()
        self.open(HOT_BITS)

    def __dealloc__(self):
        self.close()

    cdef int open(self, int hot_bits) except -1:
        """Begin with an empty table of so many hot slots, as a power of two, and few cold ones."""
        self.hot_count = 0
        self.begun = False
        self.hot_shift = 64 - hot_bits
        self.hot_room = <uint64_t>1 << hot_bits
        self.hot = <hot_s *>tollsplit_map(hot_bytes(self.hot_room))
        self.marks = <uint8_t *>tollsplit_map(mark_bytes(self.hot_room))
        if self.hot == NULL or self.marks == NULL:
            raise MemoryError
        return self.open_cold()

    cdef int open_cold(self) except -1:
        """Begin with few cold slots, empty."""
        self.count = 0
        self.shift = 64 - COLD_BITS
        self.room = <uint64_t>1 << COLD_BITS
        self.slots = <counter_s *>tollsplit_map(self.room * sizeof(counter_s))
        if self.slots == NULL:
            raise MemoryError
        return 0

    cdef void close(self) noexcept nogil:
        if self.hot != NULL:
            tollsplit_unmap(self.hot, hot_bytes(self.hot_room))
        if self.marks != NULL:
            tollsplit_unmap(self.marks, mark_bytes(self.hot_room))
        if self.slots != NULL:
            tollsplit_unmap(self.slots, self.room * sizeof(counter_s))
        self.hot = NULL
        self.marks = NULL
        self.slots = NULL

    cdef int clear(self) except -1:
        """Forget every counter, and give their memory back."""
        self.close()
        return self.open(HOT_BITS)

    cdef int forget(self) except -1:
        """Forget every counter, and keep memory for as many: fresh memory is dear.

        A table that little was counted in becomes half as large.
        """
        cdef int hot_bits = 64 - self.hot_shift
        if self.hot_count < self.hot_room >> 3 and hot_bits > HOT_BITS:
            self.close()
            return self.open(hot_bits - 1)
        with nogil:
            memset(self.hot, 0, hot_bytes(self.hot_room))
            memset(self.marks, 0, mark_bytes(self.hot_room))
        self.hot_count = 0
        self.begun = False
        tollsplit_unmap(self.slots, self.room * sizeof(counter_s))
        self.slots = NULL
        return self.open_cold()

    cdef bint reserve(self, uint64_t more) noexcept nogil:
        """Have room for so many more hot counters, if memory allows; False where it does not.

        What comes in the order of slots needs it ahead. It fills the table from one end, and a
        part that holds more than its share would be searched from there on slot by slot.
        """
        while self.hot_count + more > self.hot_room - (self.hot_room >> 3):
            if not self.grow_hot():
                return False
        return True

    @property
    def octets(self):
        """Memory reserved."""
        return (hot_bytes(self.hot_room) + mark_bytes(self.hot_room)
                + self.room * sizeof(counter_s))

    cdef bint grow_hot(self) noexcept nogil:
        """Double the hot table; False where memory does not allow it.

        Slots are the top bits of hashes: what is read in order is written in order.
        """
        cdef uint64_t i, hashed, slot, room = self.hot_room * 2
        cdef hot_s *hot = <hot_s *>tollsplit_map(hot_bytes(room))
        cdef uint8_t *marks = <uint8_t *>tollsplit_map(mark_bytes(room))
        cdef bint fits = hot != NULL and marks != NULL
        for i in range(self.hot_room + SLACK):
            if not fits:
                break
            if not self.marks[i]:
                continue
            hashed = self.hot[i].key * self.hot_multiplier
            slot = hashed >> (self.hot_shift - 1)
            while marks[slot]:
                slot += 1
            fits = slot < room + SLACK
            marks[slot] = <uint8_t>mark_of(hashed, self.hot_shift - 1)
            hot[slot] = self.hot[i]
        if not fits:
            if hot != NULL:
                tollsplit_unmap(hot, hot_bytes(room))
            if marks != NULL:
                tollsplit_unmap(marks, mark_bytes(room))
            return False
        tollsplit_unmap(self.hot, hot_bytes(self.hot_room))
        tollsplit_unmap(self.marks, mark_bytes(self.hot_room))
        self.hot = hot
        self.marks = marks
        self.hot_room = room
        self.hot_shift -= 1
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

        Budget: 12 ns a packet with a million subscribers. The batch is gone through three
        times: marks are asked for, then the slots they name, then those are counted in, so
        that the misses of many rows are under way at once. `count` is at most COUNT_MAX; a
        slot is below the table's size by construction. Guarded by benchmarks/bench_account.py.
        """
        cdef uint64_t keys[COUNT_MAX]
        cdef uint64_t slots[COUNT_MAX]
        cdef int i, full = 0
        cdef packet_s *row
        cdef hot_s *hot
        cdef uint64_t multiplier = self.hot_multiplier, epoch_ns, since
        self.reserve(count)
        if not self.begun:
            for i in range(count):  # of a packet that counts: others may have any time
                if rows[i].bucket == BUCKET_METERED:
                    self.begin_epoch(rows[i].timestamp_ns)
                    break
        hot = self.hot
        epoch_ns = self.epoch_ns
        for i in range(count):
            keys[i] = key_of(&rows[i], cells[i])
            tollsplit_prefetch(&self.marks[keys[i] * multiplier >> self.hot_shift])
        for i in range(count):
            slots[i] = self.likely(keys[i] * multiplier)
            tollsplit_prefetch(&hot[slots[i]])
        for i in range(count):
            row = &rows[i]
            if row.bucket != BUCKET_METERED:
                continue
            since = row.timestamp_ns - epoch_ns
            if (since >> 48 | cells[i] >> 16 | row.flags & FLAGS_KEPT) == 0:
                if hot[slots[i]].key == keys[i] and count_in(&hot[slots[i]], row, since):
                    continue
            if not self.count_row(row, cells[i], keys[i], since):
                row.bucket = BUCKET_FAULT
                row.fault = FAULT_TABLE_FULL
                full += 1
        return full

    cdef void begin_epoch(self, uint64_t timestamp_ns) noexcept nogil:
        """Set the time that hot counters count from: packets may come out of order."""
        self.epoch_ns = timestamp_ns - min(timestamp_ns, EARLIER_NS)
        self.begun = True

    cdef uint64_t likely(self, uint64_t hashed) noexcept nogil:
        """The first slot whose mark fits a hash, or else the first empty one behind it."""
        cdef uint64_t slot = hashed >> self.hot_shift
        cdef uint64_t pattern = mark_of(hashed, self.hot_shift) * ONES
        cdef uint64_t marks, found
        while True:
            marks = tollsplit_eight(&self.marks[slot])
            found = zeros(marks ^ pattern) | (~marks & ONES << 7)
            if found:
                return slot + (tollsplit_lowest(found) >> 3)
            slot += 8

    cdef uint64_t search(self, uint64_t key, uint64_t hashed) noexcept nogil:
        """The slot of a key, or else the first empty one behind its place."""
        cdef uint64_t slot = hashed >> self.hot_shift
        while self.marks[slot] and (
            self.marks[slot] != mark_of(hashed, self.hot_shift) or self.hot[slot].key != key
        ):
            slot += 1
        return slot

    cdef bint count_row(
        self, const packet_s *row, uint32_t cell, uint64_t key, uint64_t since
    ) noexcept nogil:
        """Add one row wherever it belongs; False: no room."""
        cdef uint64_t slot, hashed = key * self.hot_multiplier
        cdef hot_s *entry
        cdef counter_s delta
        if since >> 48 or cell >> 16 or row.flags & FLAGS_KEPT:
            one(row, cell, &delta)
            return self.add(&delta)
        slot = self.search(key, hashed)
        entry = &self.hot[slot]
        if not self.marks[slot]:
            if self.hot_count >= self.hot_room - 1 or slot >= self.hot_room + SLACK:
                return False
            self.hot_count += 1
            self.marks[slot] = <uint8_t>mark_of(hashed, self.hot_shift)
        elif count_in(entry, row, since):
            return True
        elif not self.spill(entry):
            return False
        begin(entry, key, row, since)
        return True

    cdef bint put(self, const counter_s *delta) noexcept nogil:
        """Add a counter where it fits, hot or cold; False: no room."""
        cdef uint64_t first, last, key, hashed, slot
        cdef hot_s *entry
        cdef hot_s small
        if not self.begun:
            self.begin_epoch(delta.first_ns)
        first = delta.first_ns - self.epoch_ns
        last = delta.last_ns - self.epoch_ns
        if (delta.flags or delta.cell >> 16 or (first | last) >> 48
                or (delta.uplink_packets | delta.downlink_packets) >> 16
                or (delta.uplink_octets | delta.downlink_octets) >> 32
                or self.hot_count >= self.hot_room - 1):
            return self.add(delta)
        key = cold_key(delta)
        hashed = key * self.hot_multiplier
        slot = self.search(key, hashed)
        if slot >= self.hot_room + SLACK:
            return self.add(delta)
        narrow(delta, key, first, last, &small)
        entry = &self.hot[slot]
        if not self.marks[slot]:
            self.hot_count += 1
            self.marks[slot] = <uint8_t>mark_of(hashed, self.hot_shift)
            entry[0] = small
            return True
        return join_hot(entry, &small) or self.add(delta)

    cdef bint merge(self, Table other, const uint32_t *numbers) noexcept nogil:
        """Add another table's counters; False: no room.

        numbers    what the other's interned subscribers are called here
        """
        cdef counter_s batch[AHEAD]
        cdef uint64_t i, n = 0, hot_slots = other.hot_room + SLACK
        self.reserve(other.hot_count)
        for i in range(hot_slots + other.room):
            if i < hot_slots:
                if not other.marks[i]:
                    continue
                widen(&other.hot[i], other.epoch_ns, &batch[n])
            else:
                if not other.slots[i - hot_slots].used:
                    continue
                batch[n] = other.slots[i - hot_slots]
            self.expect(&batch[n], numbers)
            n += 1
            if n == AHEAD:
                if not self.put_all(batch, n):
                    return False
                n = 0
        return self.put_all(batch, n)

    cdef bint load(
        self, const counter_s *counters, uint64_t count, const uint32_t *numbers
    ) noexcept nogil:
        """Add counters that lie one behind the other, as merge() adds a table's."""
        cdef counter_s batch[AHEAD]
        cdef uint64_t i, n = 0
        self.reserve(count)
        for i in range(count):
            batch[n] = counters[i]
            self.expect(&batch[n], numbers)
            n += 1
            if n == AHEAD:
                if not self.put_all(batch, n):
                    return False
                n = 0
        return self.put_all(batch, n)

    cdef void expect(self, counter_s *counter, const uint32_t *numbers) noexcept nogil:
        """Give a foreign counter's subscriber its number here, and ask for where it belongs."""
        cdef uint64_t home
        if counter.interned:
            counter.subscriber = numbers[counter.subscriber]
        home = (cold_key(counter) * self.hot_multiplier) >> self.hot_shift
        tollsplit_prefetch(&self.marks[home])
        tollsplit_prefetch(&self.hot[home])

    cdef bint put_all(self, const counter_s *counters, uint64_t count) noexcept nogil:
        """Add counters where they fit; False: no room."""
        cdef uint64_t i
        self.reserve(count)
        for i in range(count):
            if not self.put(&counters[i]):
                return False
        return True


cdef inline size_t hot_bytes(uint64_t room) noexcept nogil:
    return (room + SLACK) * sizeof(hot_s)


cdef inline size_t mark_bytes(uint64_t room) noexcept nogil:
    return room + SLACK + 8  # the last eight are read, never used


cdef inline uint64_t mark_of(uint64_t hashed, int shift) noexcept nogil:
    """The seven bits that follow a slot's number, and the one that says "used"."""
    return 0x80 | (hashed >> (shift - 7) & 0x7F)


cdef inline uint64_t zeros(uint64_t octets) noexcept nogil:
    """0x80 in each octet that is zero; above the lowest such one perhaps in others too."""
    return (octets - ONES) & ~octets & (ONES << 7)


cdef inline uint64_t slot_of(Table table, const counter_s *counter) noexcept nogil:
    return (
        cold_key(counter) * table.multiplier + counter.cell * table.cell_multiplier
    ) >> table.shift
