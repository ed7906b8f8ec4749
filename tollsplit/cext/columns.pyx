"""Counters in the document's order, as columns; and what stands in no order."""

import numpy as np

cimport cython
from libc.stdint cimport uint16_t, uint32_t, uint64_t

from tollsplit.cext.counter cimport hot_s, join, join_hot, rule_of, widen
from tollsplit.cext.layout cimport counter_s
from tollsplit.cext.layout import COUNTER
from tollsplit.cext.order cimport Order, word_fields_s
from tollsplit.cext.radix cimport wide_t, word_t
from tollsplit.cext.runs cimport counter_at, hot_at, part_s, source_s
from tollsplit.cext.table cimport Table, hot_slots_of

cdef extern from *:
    """
    #define tollsplit_fetch(p) __builtin_prefetch((p), 0)
    """
    void tollsplit_fetch(const void *p) noexcept nogil

cdef enum:
    AHEAD = 16                   # counters under way from memory at once

# What the counters of all tables are read into, one row each. Sums and times stay as small as
# hot counters have them until the tables' memory is free.
cdef struct rows_s:
    uint32_t *cell               # NULL: all are 0
    uint32_t *pair               # NULL: not asked for
    uint32_t *subscriber         # NULL: each pair is a row
    uint32_t *compact            # the subscribers of pairs of all parts; NULL: there is one part
    uint16_t *rule
    uint64_t *octets             # uplink | downlink << 32
    uint64_t *packets            # uplink | downlink << 16 | first_hi << 32 | last_hi << 48
    uint64_t *times              # first_lo | last_lo << 32
    uint64_t *downlink_octets    # the columns that the rows' sums and times become
    uint64_t *downlink_packets
    uint64_t *last_ns


def counters(Table table not None):
    """COUNTER[n], a copy of all counters in no order; a key may come twice, its sums add up."""
    cdef uint64_t i, n = 0
    cdef counter_s[::1] view
    result = np.zeros(table.hot_count + table.count, COUNTER)
    if len(result):
        view = result
        for i in range(hot_slots_of(table)):
            if table.marks[i]:
                widen(&table.hot[i], table.epoch_ns, &view[n])
                n += 1
        for i in range(table.room):
            if table.slots[i].used:
                view[n] = table.slots[i]
                n += 1
    return result


LARGE = ("uplink_packets", "uplink_octets", "downlink_packets", "downlink_octets",
         "flags", "first_ns", "last_ns")


@cython.final
cdef class Columns(Order):
    """What some tables counted, in order of (window, subscriber, rule, cell), no rule last.

    The tables are empty afterwards.

    Budget: 40 ns a counter at 3.4 million of them. One word stands for a counter while they are
    sorted; each counter is then read once and written once, as columns. Each table is read and
    sorted by a thread of its own; then each thread has some of the subscribers, merges the
    tables' words of those and makes their rows. Guarded by benchmarks/bench_account.py.

    columns      dict of name → array[n]; `cell` and `subscriber` are positions, `rule` counts
                 from 1; octets and packets u8, times u8 in ns
    pair         u4[n], a number for each (subscriber, rule) in their order; None: not asked for
    subscribers  u8[k], those interned and the plain addresses met, in their order: an address,
                 or 2^32 + the number of an interned one
    packets, octets
                 sums over all counters
    """

    cdef readonly dict columns
    cdef readonly object pair
    cdef readonly uint64_t packets
    cdef readonly uint64_t octets
    cdef rows_s to
    cdef list large              # by part: COUNTER[], u8[], what does not fit and its rows

    def __init__(self, *order, bint paired):
        """
        order      as Order has it
        paired     whether `pair` is wanted
        """
        Order.__init__(self, *order)
        self.fill(paired)

    cdef object fill(self, bint paired):
        """From words in the document's order to columns."""
        cdef uint64_t total = self.total, n = 0
        cdef int number
        times, downlink_octets, downlink_packets, last_ns = np.empty((4, total + 1), np.uint64)
        names = {"cell": np.zeros(total, np.uint32), "rule": np.empty(total, np.uint16)}
        # Fresh memory is dear, so columns lie where something else has been. A row is written
        # behind the words that it was read from, but not behind those of other parts.
        if self.part_count == 1:
            octets, packets = np.asarray(self.keys), np.asarray(self.slots)
            names["subscriber"] = np.asarray(self.who)
        else:
            octets, words = np.asarray(self.keys), np.asarray(self.slots)
            if self.words == &self.keys[0]:
                octets, words = words, octets
            packets = np.asarray(self.member)
            names["subscriber"] = words.view(np.uint32)
            self.to.compact = address4(names["subscriber"])
        if self.several:  # or else each pair is a row, and pages that nobody writes are never there
            names["cell"] = np.empty(total, np.uint32)
            names["subscriber"] = np.empty(total, np.uint32)
        pair = np.empty(total if paired else 0, np.uint32)
        self.to.cell = address4(names["cell"]) if self.several else NULL
        self.to.pair = address4(pair) if paired else NULL
        self.to.subscriber = address4(names["subscriber"]) if self.several else NULL
        self.to.rule = address2(names["rule"])
        self.to.octets = address8(octets)
        self.to.packets = address8(packets)
        self.to.times = address8(times)
        self.to.downlink_octets = address8(downlink_octets)
        self.to.downlink_packets = address8(downlink_packets)
        self.to.last_ns = address8(last_ns)
        self.large = [None] * self.part_count
        self.on_each(self.write, self.part_count)
        for table, _ in self.tables:
            (<Table>table).clear()
        self.tables = None
        self.on_each(self.enlarge, self.part_count)
        names |= {
            "uplink_packets": packets, "uplink_octets": octets,
            "downlink_packets": downlink_packets, "downlink_octets": downlink_octets,
            "flags": np.zeros(total, np.uint8), "first_ns": times, "last_ns": last_ns,
        }
        for number in range(self.part_count):
            large, rows = self.large[number]
            for name in LARGE:
                names[name][rows] = large[name]
            n += self.parts[number].rows
            self.packets += self.parts[number].packets
            self.octets += self.parts[number].octets
        self.large = None
        self.columns = {name: column[:n] for name, column in names.items()}
        self.pair = pair[:n] if paired else None

    def write(self, int number):
        """Fill a part's rows."""
        cdef part_s *part = &self.parts[number]
        cdef counter_s[::1] large
        cdef uint64_t[::1] rows
        # Beside cold counters, hot ones whose times don't fit the earliest epoch, or whose sums
        # overflow. What stays untouched is never there.
        room = part.words + 1
        counters = np.empty(room, COUNTER)
        places = np.empty(room, np.uint64)
        large = counters
        rows = places
        with nogil:
            if self.wide:
                self.write_words(<wide_t *>self.words + part.word, part, &large[0], &rows[0])
            else:
                self.write_words(<uint64_t *>self.words + part.word, part, &large[0], &rows[0])
        self.large[number] = counters[: part.larges], places[: part.larges]

    cdef void write_words(
        self, const word_t *words, part_s *part, counter_s *large, uint64_t *rows
    ) noexcept nogil:
        """A row for each key: its hot and cold counters of all tables become one.

        A word's slot is one of the tables' by construction.
        """
        cdef word_fields_s fields = self.fields
        cdef const source_s *sources = self.sources
        cdef int bit = self.source_bit
        cdef uint64_t slot_mask = (<uint64_t>1 << bit) - 1
        cdef rows_s to = self.to
        cdef const uint32_t *who = &self.who[part.word]
        cdef uint64_t total = part.words, i = 0, n = part.row, asked = 0, begin, pair, slot
        cdef uint64_t packets = 0, octets = 0, larges = 0, pair_from = part.pair
        cdef uint32_t member_from = <uint32_t>part.member
        cdef uint64_t mask = (<uint64_t>1 << fields.cell) - 1
        cdef uint64_t pair_mask = (<uint64_t>1 << (fields.window - fields.rule)) - 1
        cdef uint64_t cell_mask = (<uint64_t>1 << (fields.rule - fields.cell)) - 1
        cdef hot_s hot, other
        cdef counter_s more
        cdef word_t word
        cdef bint small
        while i < total:
            while asked < min(i + AHEAD, total):
                slot = <uint64_t>words[asked] & mask
                tollsplit_fetch(sources[slot >> bit].hot + (slot & slot_mask))
                asked += 1
            begin = i
            word = words[i]
            pair = <uint64_t>(word >> fields.rule) & pair_mask
            small = hot_at(sources, bit, <uint64_t>word & mask, &hot)
            i += 1
            while small and i < total and words[i] >> fields.cell == word >> fields.cell:
                small = (hot_at(sources, bit, <uint64_t>words[i] & mask, &other)
                         and join_hot(&hot, &other))
                i += 1
            if small:
                to.rule[n] = rule_of(hot.key)
                to.octets[n] = hot.octets[0] | <uint64_t>hot.octets[1] << 32
                to.packets[n] = (hot.packets[0] | <uint64_t>hot.packets[1] << 16
                                 | <uint64_t>hot.first_hi << 32 | <uint64_t>hot.last_hi << 48)
                to.times[n] = hot.first_lo | <uint64_t>hot.last_lo << 32
                packets += hot.packets[0] + hot.packets[1]
                octets += <uint64_t>hot.octets[0] + hot.octets[1]
            else:
                counter_at(sources, bit, <uint64_t>word & mask, large)
                i = begin + 1
                while i < total and words[i] >> fields.cell == word >> fields.cell:
                    counter_at(sources, bit, <uint64_t>words[i] & mask, &more)
                    join(large, &more)
                    i += 1
                to.rule[n] = large.rule
                to.octets[n] = to.packets[n] = to.times[n] = 0
                packets += large.uplink_packets + large.downlink_packets
                octets += large.uplink_octets + large.downlink_octets
                rows[larges] = n
                larges += 1
                large += 1
            if to.cell != NULL:
                to.cell[n] = (self.first[<uint64_t>(word >> fields.window)]
                              + <uint32_t>(<uint64_t>(word >> fields.cell) & cell_mask))
            if to.pair != NULL:
                to.pair[n] = <uint32_t>(pair_from + pair)
            if to.subscriber != NULL:
                to.subscriber[n] = member_from + who[pair]
            n += 1
        part.rows = n - part.row
        part.larges = larges
        part.packets = packets
        part.octets = octets

    def enlarge(self, int number):
        """Give a part's sums and times 64 bits each; no word is needed any more."""
        cdef rows_s to = self.to
        cdef part_s *part = &self.parts[number]
        cdef const uint32_t *who = &self.who[part.word]
        cdef uint64_t i, high, low, epoch_ns = self.epoch_ns
        with nogil:
            for i in range(part.row, part.row + part.rows):
                high = to.packets[i]
                low = to.times[i]
                to.downlink_octets[i] = to.octets[i] >> 32
                to.octets[i] = <uint32_t>to.octets[i]
                to.downlink_packets[i] = <uint16_t>(high >> 16)
                to.packets[i] = <uint16_t>high
                to.last_ns[i] = epoch_ns + (high >> 48 << 32 | low >> 32)
                to.times[i] = epoch_ns + (<uint64_t><uint16_t>(high >> 32) << 32 | <uint32_t>low)
            if to.compact != NULL:
                for i in range(part.pairs):
                    to.compact[part.pair + i] = who[i] + <uint32_t>part.member


# Where an array begins; NULL: it is empty.

cdef uint16_t *address2(uint16_t[::1] column):
    return &column[0] if column.shape[0] else NULL


cdef uint32_t *address4(uint32_t[::1] column):
    return &column[0] if column.shape[0] else NULL


cdef uint64_t *address8(uint64_t[::1] column):
    return &column[0] if column.shape[0] else NULL
