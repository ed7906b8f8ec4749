"""Counters in the document's order, as columns; and what stands in no order."""

import numpy as np

cimport cython
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from tollsplit.cext.counter cimport cold_key, hot_s, join, rule_of, widen
from tollsplit.cext.layout cimport counter_s
from tollsplit.cext.layout import COUNTER
from tollsplit.cext.radix cimport bits_of, radix_sort, wide_t, word_t
from tollsplit.cext.table cimport Table, hot_slots_of

cdef extern from *:
    """
    #define tollsplit_fetch(p) __builtin_prefetch((p), 0)
    """
    void tollsplit_fetch(const void *p) noexcept nogil

cdef enum:
    AHEAD = 16                   # counters under way from memory at once

# A word's fields from the top: window, subscriber, rule, cell in its window, slot. Each has as
# many bits as its largest value needs; here stands where it begins.
cdef struct word_fields_s:
    int cell
    int rule
    int subscriber
    int window
    int end                      # below the word's own bits: no shift is too long
    uint64_t subscriber_least    # what a subscriber's field begins to count from
    uint32_t rule_none           # its place in the order, behind all rules

# What the counters of a table are read into, one row each. Sums and times stay as small as hot
# counters have them until the table's memory is free.
cdef struct rows_s:
    uint32_t *cell               # NULL: all are 0
    uint32_t *pair               # NULL: not asked for
    uint32_t *subscriber         # NULL: not wanted
    uint16_t *rule
    uint64_t *octets             # uplink | downlink << 32
    uint64_t *packets            # uplink | downlink << 16 | first_hi << 32 | last_hi << 48
    uint64_t *times              # first_lo | last_lo << 32
    counter_s *large             # what does not fit there
    uint64_t *large_row          # and where it belongs


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
cdef uint64_t INTERNED = <uint64_t>1 << 32


@cython.final
cdef class Columns:
    """What a table counted, in order of (window, subscriber, rule, cell), no rule last.

    The table is empty afterwards, and its memory serves the columns.

    Budget: 40 ns a counter at 3.4 million of them. One word stands for a counter while they are
    sorted; each counter is then read once and written once, as columns. Guarded by
    benchmarks/bench_account.py.

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
    cdef readonly object subscribers
    cdef readonly uint64_t pairs
    cdef readonly uint64_t packets
    cdef readonly uint64_t octets
    cdef Table table
    cdef uint64_t larges
    cdef uint64_t epoch_ns
    cdef word_fields_s fields
    cdef const uint32_t[::1] rank
    cdef const uint32_t[::1] window
    cdef const uint32_t[::1] first
    cdef const uint32_t[::1] order
    cdef const uint64_t[::1] value_of
    cdef const uint64_t[::1] values
    cdef const uint64_t[::1] breaks

    def __init__(
        self,
        Table table not None,
        const uint32_t[::1] rank not None,
        const uint32_t[::1] window not None,
        const uint32_t[::1] first not None,
        const uint32_t[::1] order not None,
        const uint64_t[::1] values not None,
        const uint64_t[::1] value_of not None,
        const uint64_t[::1] breaks not None,
        bint paired,
    ):
        """
        rank       u4[cells], a cell's position in order of time, by its number
        window     u4[cells], the window of a cell, by its position; ascending
        first      u4[windows], the position of a window's first cell
        order      u4[m], the numbers of interned subscribers in their order
        values     u8[m], where each interned subscriber stands among all, ascending; a plain
                   address stands at address + how many breaks are at most 2 × address
        value_of   u8[m], the same by an interned subscriber's number
        breaks     u8[j], ascending
        paired     whether `pair` is wanted
        """
        self.table = table
        self.rank = rank
        self.window = window
        self.first = first
        self.order = order
        self.values = values
        self.value_of = value_of
        self.breaks = breaks
        self.read(paired)
        self.table = None

    cdef object read(self, bint paired):
        cdef uint64_t total = self.table.hot_count + self.table.count
        cdef uint64_t[::1] keys = np.empty(total + 1, np.uint64)
        cdef uint64_t[::1] slots = np.empty(total + 1, np.uint64)
        cdef wide_t *words
        cdef wide_t *scratch
        cdef uint64_t[::1] wide
        with nogil:
            self.scan(self.table, &keys[0], &slots[0], total)
        if self.fields.end < 64:
            with nogil:
                self.pack[uint64_t](&keys[0], &keys[0], &slots[0], total)
            self.finish[uint64_t](&keys[0], &slots[0], total, keys, slots, paired)
            return
        wide = np.empty(4 * total + 4, np.uint64)
        words = <wide_t *>&wide[0]
        scratch = words + total + 1
        with nogil:
            self.pack[wide_t](words, &keys[0], &slots[0], total)
        self.finish[wide_t](words, scratch, total, keys, slots, paired)

    cdef void scan(
        self, Table table, uint64_t *keys, uint64_t *slots, uint64_t total
    ) noexcept nogil:
        """The used slots and their keys; and how wide a word's fields have to be."""
        cdef uint64_t i, n = 0, key, hot_slots = hot_slots_of(table)
        cdef uint64_t least = ~<uint64_t>0, most = 0, inside = 0
        cdef uint32_t rule = 0
        cdef bint met = False
        for i in range(hot_slots):
            if table.marks[i]:
                keys[n] = table.hot[i].key
                slots[n] = i
                n += 1
        for i in range(table.room):
            if table.slots[i].used:
                keys[n] = cold_key(&table.slots[i])
                slots[n] = hot_slots + i
                n += 1
        for i in range(total):
            key = keys[i]
            rule = max(rule, rule_of(key))
            if key >> 16 & 1:
                met = True
            else:
                least = min(least, key >> 32)
                most = max(most, key >> 32)
        most += self.breaks.shape[0]
        if met:
            least = min(least, self.values[0])
            most = max(most, self.values[self.values.shape[0] - 1])
        for i in range(<uint64_t>self.first.shape[0]):
            inside = max(inside, (self.first[i + 1] if i + 1 < <uint64_t>self.first.shape[0]
                                  else <uint64_t>self.window.shape[0]) - self.first[i] - 1)
        self.fields.subscriber_least = least
        self.fields.rule_none = rule
        self.fields.cell = bits_of(hot_slots + table.room - 1)
        self.fields.rule = self.fields.cell + bits_of(inside)
        self.fields.subscriber = self.fields.rule + bits_of(rule)
        self.fields.window = self.fields.subscriber + bits_of(most - least if total else 0)
        self.fields.end = self.fields.window + bits_of(max(self.first.shape[0], 1) - 1)

    cdef void pack(
        self, word_t *words, const uint64_t *keys, uint64_t *slots, uint64_t total
    ) noexcept nogil:
        """A word for each key and slot; `words` may be `keys`."""
        cdef word_fields_s fields = self.fields
        cdef uint64_t i, key, slot, hot_slots = hot_slots_of(self.table), value
        cdef uint32_t rule, rank, window
        for i in range(total):
            key = keys[i]
            slot = slots[i]
            rank = self.rank[key & 0xFFFF if slot < hot_slots
                             else self.table.slots[slot - hot_slots].cell]
            window = self.window[rank]
            rule = rule_of(key)
            rule = rule - 1 if rule else fields.rule_none
            value = self.value_of[key >> 32] if key >> 16 & 1 else self.stands(key >> 32)
            words[i] = (<word_t>window << fields.window
                        | <word_t>(value - fields.subscriber_least) << fields.subscriber
                        | <word_t>rule << fields.rule
                        | <word_t>(rank - self.first[window]) << fields.cell
                        | <word_t>slot)

    cdef uint64_t stands(self, uint64_t address) noexcept nogil:
        """Where a plain address stands among all subscribers."""
        cdef Py_ssize_t low = 0, high = self.breaks.shape[0], middle
        while low < high:
            middle = (low + high) // 2
            if self.breaks[middle] <= 2 * address:
                low = middle + 1
            else:
                high = middle
        return address + <uint64_t>low

    cdef object finish(
        self, word_t *words, word_t *scratch, uint64_t total, uint64_t[::1] keys,
        uint64_t[::1] slots, bint paired,
    ):
        """From words in any order to columns.

        keys, slots   become columns themselves, for fresh memory is dear; they may be where the
                      words are, for a row is written behind the words that it was read from
        """
        cdef word_fields_s fields = self.fields
        cdef rows_s to
        cdef uint32_t[::1] who = np.empty(total + 1, np.uint32)
        cdef uint64_t[::1] times = np.empty(total + 1, np.uint64)
        cdef word_t *other
        cdef word_t *ordered
        cdef uint64_t n
        cdef bint several = self.rank.shape[0] > 1
        with nogil:
            ordered = radix_sort[word_t](words, scratch, total, fields.cell, fields.window)
        self.number[word_t](ordered, total, &who[0])
        other = scratch if ordered == words else words
        with nogil:
            ordered = radix_sort[word_t](ordered, other, total, fields.window, fields.end)
        large = np.empty(self.table.count + 1, COUNTER)
        large_row = np.empty(self.table.count + 1, np.uint64)
        names = {"cell": np.zeros(total, np.uint32), "subscriber": np.asarray(who)}
        names["rule"] = np.empty(total, np.uint16)
        if several:  # or else each pair is a row, and pages that nobody writes are never there
            names["cell"] = np.empty(total, np.uint32)
            names["subscriber"] = np.empty(total, np.uint32)
        pair = np.empty(total if paired else 0, np.uint32)
        to.cell = address4(names["cell"]) if several else NULL
        to.pair = address4(pair) if paired else NULL
        to.subscriber = address4(names["subscriber"]) if several else NULL
        to.rule = address2(names["rule"])
        to.octets = &keys[0]
        to.packets = &slots[0]
        to.times = address8(times)
        to.large = address_of_counters(large)
        to.large_row = address8(large_row)
        with nogil:
            n = self.write[word_t](self.table, ordered, total, &who[0], &to)
        self.table.clear()
        names["flags"] = np.zeros(total, np.uint8)
        names |= self.enlarge(keys, slots, times, n)
        self.put_large(names, large[:self.larges], large_row)
        self.columns = {name: column[:n] for name, column in names.items()}
        self.pair = pair[:n] if paired else None

    cdef dict enlarge(
        self, uint64_t[::1] octets, uint64_t[::1] packets, uint64_t[::1] times, uint64_t n
    ):
        """Columns of sums and times, u8[n + …]; three of them lie where their words were."""
        cdef uint64_t[::1] downlink_octets = np.empty(n, np.uint64)
        cdef uint64_t[::1] downlink_packets = np.empty(n, np.uint64)
        cdef uint64_t[::1] last_ns = np.empty(n, np.uint64)
        cdef uint64_t i, high, low, epoch_ns = self.epoch_ns
        with nogil:
            for i in range(n):
                high = packets[i]
                low = times[i]
                downlink_octets[i] = octets[i] >> 32
                octets[i] = <uint32_t>octets[i]
                downlink_packets[i] = <uint16_t>(high >> 16)
                packets[i] = <uint16_t>high
                last_ns[i] = epoch_ns + (high >> 48 << 32 | low >> 32)
                times[i] = epoch_ns + (<uint64_t><uint16_t>(high >> 32) << 32 | <uint32_t>low)
        return {
            "uplink_packets": np.asarray(packets), "uplink_octets": np.asarray(octets),
            "downlink_packets": np.asarray(downlink_packets),
            "downlink_octets": np.asarray(downlink_octets),
            "first_ns": np.asarray(times), "last_ns": np.asarray(last_ns),
        }

    cdef object put_large(self, dict names, large, rows):
        """Put large counters in the columns, at the rows where they belong."""
        rows = rows[:len(large)]
        for name in LARGE:
            names[name][rows] = large[name]

    cdef object number(self, word_t *words, uint64_t total, uint32_t *who):
        """Put a pair's number in the place of its subscriber and rule; and find all subscribers.

        words   sorted by subscriber and rule
        who     the position of each pair's subscriber, written here
        """
        cdef word_fields_s fields = self.fields
        cdef uint64_t i, pairs = 0, value, key, last = 0, last_value = 0
        cdef uint64_t count = self.values.shape[0], at = 0, n = 0
        cdef word_t low = (<word_t>1 << fields.rule) - 1
        cdef int rule_bits = fields.subscriber - fields.rule
        cdef uint64_t mask = (<uint64_t>1 << (fields.window - fields.rule)) - 1
        # What of it stays untouched is never there.
        members = np.empty(total + count + 1, np.uint64)
        cdef uint64_t[::1] member = members
        with nogil:
            for i in range(total):
                key = <uint64_t>(words[i] >> fields.rule) & mask
                if i == 0 or key != last:
                    value = (key >> rule_bits) + fields.subscriber_least
                    if i == 0 or value != last_value:
                        while at < count and self.values[at] < value:
                            member[n] = INTERNED | self.order[at]
                            n += 1
                            at += 1
                        if at < count and self.values[at] == value:
                            member[n] = INTERNED | self.order[at]
                            at += 1
                        else:
                            # as many interned IPv4 keys stand before it as came before it
                            member[n] = value - at
                        n += 1
                        last_value = value
                    who[pairs] = <uint32_t>(n - 1)
                    pairs += 1
                    last = key
                words[i] = (words[i] >> fields.window << fields.window
                            | <word_t>(pairs - 1) << fields.rule | (words[i] & low))
            while at < count:
                member[n] = INTERNED | self.order[at]
                n += 1
                at += 1
        self.pairs = pairs
        self.subscribers = members[:n]

    cdef uint64_t write(
        self, Table table, const word_t *words, uint64_t total, const uint32_t *who, rows_s *to
    ) noexcept nogil:
        """Fill the rows; returns how many. A key's hot and cold counters become one.

        A word's slot is one of the table's by construction.
        """
        cdef word_fields_s fields = self.fields
        cdef uint64_t hot_slots = hot_slots_of(table), i = 0, n = 0, larges = 0, later, pair, slot
        cdef uint64_t mask = (<uint64_t>1 << fields.cell) - 1
        cdef uint64_t pair_mask = (<uint64_t>1 << (fields.window - fields.rule)) - 1
        cdef uint64_t cell_mask = (<uint64_t>1 << (fields.rule - fields.cell)) - 1
        cdef uint64_t packets = 0, octets = 0
        cdef const hot_s *hot
        cdef counter_s *large
        cdef counter_s more
        cdef word_t word
        while i < total:
            later = <uint64_t>words[min(i + AHEAD, total - 1)] & mask
            if later < hot_slots:
                tollsplit_fetch(&table.hot[later])
            word = words[i]
            slot = <uint64_t>word & mask
            pair = <uint64_t>(word >> fields.rule) & pair_mask
            i += 1
            if slot < hot_slots and (i == total or words[i] >> fields.cell != word >> fields.cell):
                hot = &table.hot[slot]
                to.rule[n] = rule_of(hot.key)
                to.octets[n] = hot.octets[0] | <uint64_t>hot.octets[1] << 32
                to.packets[n] = (hot.packets[0] | <uint64_t>hot.packets[1] << 16
                                 | <uint64_t>hot.first_hi << 32 | <uint64_t>hot.last_hi << 48)
                to.times[n] = hot.first_lo | <uint64_t>hot.last_lo << 32
                packets += hot.packets[0] + hot.packets[1]
                octets += <uint64_t>hot.octets[0] + hot.octets[1]
            else:
                large = &to.large[larges]
                to.large_row[larges] = n
                larges += 1
                counter_at(table, hot_slots, slot, large)
                while i < total and words[i] >> fields.cell == word >> fields.cell:
                    counter_at(table, hot_slots, <uint64_t>words[i] & mask, &more)
                    join(large, &more)
                    i += 1
                to.rule[n] = large.rule
                to.octets[n] = to.packets[n] = to.times[n] = 0
                packets += large.uplink_packets + large.downlink_packets
                octets += large.uplink_octets + large.downlink_octets
            if to.cell != NULL:
                to.cell[n] = (self.first[<uint64_t>(word >> fields.window)]
                              + <uint32_t>(<uint64_t>(word >> fields.cell) & cell_mask))
            if to.pair != NULL:
                to.pair[n] = <uint32_t>pair
            if to.subscriber != NULL:
                to.subscriber[n] = who[pair]
            n += 1
        self.larges = larges
        self.packets = packets
        self.octets = octets
        self.epoch_ns = table.epoch_ns
        return n


cdef inline void counter_at(
    Table table, uint64_t hot_slots, uint64_t slot, counter_s *counter
) noexcept nogil:
    if slot < hot_slots:
        widen(&table.hot[slot], table.epoch_ns, counter)
    else:
        counter[0] = table.slots[slot - hot_slots]


# Where an array begins; NULL: it is empty.

cdef uint16_t *address2(uint16_t[::1] column):
    return &column[0] if column.shape[0] else NULL


cdef uint32_t *address4(uint32_t[::1] column):
    return &column[0] if column.shape[0] else NULL


cdef counter_s *address_of_counters(counter_s[::1] rows):
    return &rows[0] if rows.shape[0] else NULL


cdef uint64_t *address8(uint64_t[::1] column):
    return &column[0] if column.shape[0] else NULL
