"""Counters in the document's order, as columns; and what stands in no order."""

import numpy as np

cimport cython
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memset

from tollsplit.cext.counter cimport cold_key, join, rule_of, widen
from tollsplit.cext.layout cimport KIND_IPV4, counter_s, subscriber_s
from tollsplit.cext.layout import COUNTER, SUBSCRIBER
from tollsplit.cext.radix cimport radix_sort, wide_t, word_t
from tollsplit.cext.table cimport Table, hot_slots_of

cdef extern from *:
    """
    #define tollsplit_fetch(p) __builtin_prefetch((p), 0)
    """
    void tollsplit_fetch(const void *p) noexcept nogil

cdef enum:
    AHEAD = 16                   # counters under way from memory at once
    SUBSCRIBER_FIELDS = 5

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

# Where columns are written to.
cdef struct columns_s:
    uint32_t *cell               # NULL: all are 0
    uint32_t *pair               # NULL: not asked for
    uint32_t *subscriber
    uint16_t *rule
    uint8_t *flags               # zero before
    uint64_t *uplink_packets
    uint64_t *uplink_octets
    uint64_t *downlink_packets
    uint64_t *downlink_octets
    uint64_t *first_ns
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


# A column's name and dtype; flags and cells are mostly 0.
KINDS = {
    "subscriber": np.uint32, "rule": np.uint16,
    "uplink_packets": np.uint64, "uplink_octets": np.uint64,
    "downlink_packets": np.uint64, "downlink_octets": np.uint64,
    "first_ns": np.uint64, "last_ns": np.uint64,
}


@cython.final
cdef class Columns:
    """The counters of a table in order of (window, subscriber, rule, cell), none last of rules.

    Budget: 30 ns a counter at 3.4 million of them. One word stands for a counter while they are
    sorted; each counter is then read once and written once, as columns. Guarded by
    benchmarks/bench_account.py.

    columns      dict of name → array[n]; `cell` and `subscriber` are positions, `rule` counts
                 from 1; octets and packets u8, times u8 in ns
    pair         u4[n], a number for each (subscriber, rule) in their order; None: not asked for
    subscribers  SUBSCRIBER[k], those interned and the plain addresses met, in their order; the
                 pool of a plain address is left 0
    plain        u4[j], the positions of plain addresses among them
    packets, octets
                 sums over all counters
    """

    cdef readonly dict columns
    cdef readonly object pair
    cdef readonly object subscribers
    cdef readonly object plain
    cdef readonly uint64_t pairs
    cdef readonly uint64_t packets
    cdef readonly uint64_t octets
    cdef Table table
    cdef word_fields_s fields
    cdef const uint32_t[::1] rank
    cdef const uint32_t[::1] window
    cdef const uint32_t[::1] first
    cdef const uint64_t[::1] value_of
    cdef const uint64_t[::1] values
    cdef const uint64_t[::1] breaks

    def __init__(
        self,
        Table table not None,
        const uint32_t[::1] rank not None,
        const uint32_t[::1] window not None,
        const uint32_t[::1] first not None,
        interned not None,
        const uint64_t[::1] values not None,
        const uint64_t[::1] value_of not None,
        const uint64_t[::1] breaks not None,
        bint paired,
    ):
        """
        rank       u4[cells], a cell's position in order of time, by its number
        window     u4[cells], the window of a cell, by its position; ascending
        first      u4[windows], the position of a window's first cell
        interned   SUBSCRIBER[m] in their order
        values     u8[m], where each of them stands among all subscribers, ascending; a plain
                   address stands at address + how many breaks are at most 2 × address
        value_of   u8[m], the same by an interned subscriber's number
        breaks     u8[j], ascending
        paired     whether `pair` is wanted
        """
        self.table = table
        self.rank = rank
        self.window = window
        self.first = first
        self.values = values
        self.value_of = value_of
        self.breaks = breaks
        self.read(interned, paired)

    cdef object read(self, interned, bint paired):
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
            self.finish[uint64_t](&keys[0], &slots[0], total, interned, paired)
            return
        wide = np.empty(4 * total + 4, np.uint64)
        words = <wide_t *>&wide[0]
        scratch = words + total + 1
        with nogil:
            self.pack[wide_t](words, &keys[0], &slots[0], total)
        self.finish[wide_t](words, scratch, total, interned, paired)

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
        self, word_t *words, word_t *scratch, uint64_t total, interned, bint paired
    ):
        """From words in any order to columns."""
        cdef word_fields_s fields = self.fields
        cdef columns_s to
        cdef uint32_t[::1] who = np.empty(total + 1, np.uint32)
        cdef word_t *other
        cdef word_t *ordered
        cdef uint64_t n
        with nogil:
            ordered = radix_sort[word_t](words, scratch, total, fields.cell, fields.window)
        self.number[word_t](ordered, total, interned, who)
        other = scratch if ordered == words else words
        with nogil:
            ordered = radix_sort[word_t](ordered, other, total, fields.window, fields.end)
        names = {name: np.empty(total, kind) for name, kind in KINDS.items()}
        # Pages that are never written are never there.
        names["flags"] = np.zeros(total, np.uint8)
        names["cell"] = (np.empty if self.rank.shape[0] > 1 else np.zeros)(total, np.uint32)
        pair = np.empty(total if paired else 0, np.uint32)
        to.cell = NULL if self.rank.shape[0] <= 1 else address4(names["cell"])
        to.pair = address4(pair) if paired else NULL
        to.subscriber = address4(names["subscriber"])
        to.rule = address2(names["rule"])
        to.flags = address1(names["flags"])
        to.uplink_packets = address8(names["uplink_packets"])
        to.uplink_octets = address8(names["uplink_octets"])
        to.downlink_packets = address8(names["downlink_packets"])
        to.downlink_octets = address8(names["downlink_octets"])
        to.first_ns = address8(names["first_ns"])
        to.last_ns = address8(names["last_ns"])
        with nogil:
            n = self.write[word_t](self.table, ordered, total, &who[0], &to)
        self.columns = {name: column[:n] for name, column in names.items()}
        self.pair = pair[:n] if paired else None

    cdef object number(
        self, word_t *words, uint64_t total, interned, uint32_t[::1] who
    ):
        """Put a pair's number in the place of its subscriber and rule; and find all subscribers.

        words   sorted by subscriber and rule
        who     the position of each pair's subscriber, written here
        """
        cdef word_fields_s fields = self.fields
        cdef uint64_t i, n = 0, pairs = 0, value, key, last = 0, last_value = 0
        cdef uint64_t subscribers = 0
        cdef uint64_t count = self.values.shape[0], at = 0
        cdef word_t low = (<word_t>1 << fields.rule) - 1
        cdef subscriber_s[::1] known
        cdef const subscriber_s[::1] sorted_ones
        cdef uint32_t[::1] positions
        cdef int rule_bits = fields.subscriber - fields.rule
        cdef uint64_t mask = (<uint64_t>1 << (fields.window - fields.rule)) - 1
        # The upper parts of both stay untouched, so they are never there.
        rows = np.empty(total + count + 1, SUBSCRIBER)
        places = np.empty(total + 1, np.uint32)
        known = rows
        positions = places
        sorted_ones = interned if count else rows
        with nogil:
            for i in range(total):
                key = <uint64_t>(words[i] >> fields.rule) & mask
                if i == 0 or key != last:
                    value = (key >> rule_bits) + fields.subscriber_least
                    if i == 0 or value != last_value:
                        while at < count and self.values[at] < value:
                            known[subscribers] = sorted_ones[at]
                            subscribers += 1
                            at += 1
                        if at < count and self.values[at] == value:
                            known[subscribers] = sorted_ones[at]
                            at += 1
                        else:
                            # as many interned IPv4 keys stand before it as came before it
                            known[subscribers] = plain_subscriber(value - at)
                            positions[n] = <uint32_t>subscribers
                            n += 1
                        subscribers += 1
                        last_value = value
                    who[pairs] = <uint32_t>(subscribers - 1)
                    pairs += 1
                    last = key
                words[i] = (words[i] >> fields.window << fields.window
                            | <word_t>(pairs - 1) << fields.rule | (words[i] & low))
            while at < count:
                known[subscribers] = sorted_ones[at]
                subscribers += 1
                at += 1
        self.pairs = pairs
        self.subscribers = rows[:subscribers]
        self.plain = places[:n]

    cdef uint64_t write(
        self, Table table, const word_t *words, uint64_t total, const uint32_t *who, columns_s *to
    ) noexcept nogil:
        """Fill the columns; returns how many rows. A key's hot and cold counters become one.

        A slot's number is below `total` slots by construction.
        """
        cdef word_fields_s fields = self.fields
        cdef uint64_t hot_slots = hot_slots_of(table), i = 0, n = 0, later, pair
        cdef uint64_t mask = (<uint64_t>1 << fields.cell) - 1
        cdef uint64_t pair_mask = (<uint64_t>1 << (fields.window - fields.rule)) - 1
        cdef uint64_t cell_mask = (<uint64_t>1 << (fields.rule - fields.cell)) - 1
        cdef counter_s counter, more
        cdef word_t word
        cdef uint64_t packets = 0, octets = 0
        while i < total:
            later = <uint64_t>words[min(i + AHEAD, total - 1)] & mask
            if later < hot_slots:
                tollsplit_fetch(&table.hot[later])
            word = words[i]
            counter_at(table, hot_slots, <uint64_t>word & mask, &counter)
            i += 1
            while i < total and words[i] >> fields.cell == word >> fields.cell:
                counter_at(table, hot_slots, <uint64_t>words[i] & mask, &more)
                join(&counter, &more)
                i += 1
            pair = <uint64_t>(word >> fields.rule) & pair_mask
            if to.cell != NULL:
                to.cell[n] = (self.first[<uint64_t>(word >> fields.window)]
                              + <uint32_t>(<uint64_t>(word >> fields.cell) & cell_mask))
            if to.pair != NULL:
                to.pair[n] = <uint32_t>pair
            to.subscriber[n] = who[pair]
            to.rule[n] = counter.rule
            if counter.flags:
                to.flags[n] = counter.flags
            to.uplink_packets[n] = counter.uplink_packets
            to.uplink_octets[n] = counter.uplink_octets
            to.downlink_packets[n] = counter.downlink_packets
            to.downlink_octets[n] = counter.downlink_octets
            to.first_ns[n] = counter.first_ns
            to.last_ns[n] = counter.last_ns
            packets += counter.uplink_packets + counter.downlink_packets
            octets += counter.uplink_octets + counter.downlink_octets
            n += 1
        self.packets = packets
        self.octets = octets
        return n


def order_of(const subscriber_s[::1] rows not None):
    """u4[n], the rows' order by kind, key, pool and tenure."""
    cdef uint64_t n = rows.shape[0], i, value, least, most
    cdef uint64_t[::1] room = np.empty(4 * n + 1, np.uint64)
    cdef wide_t *words = <wide_t *>&room[0]
    cdef wide_t *scratch = words + n
    cdef wide_t *ordered
    cdef int field
    cdef uint32_t[::1] order
    result = np.arange(n, dtype=np.uint32)
    order = result
    with nogil:
        for field in range(SUBSCRIBER_FIELDS):
            least = ~<uint64_t>0
            most = 0
            for i in range(n):
                value = subscriber_field(&rows[i], field)
                least = min(least, value)
                most = max(most, value)
            if least >= most:
                continue
            for i in range(n):
                value = subscriber_field(&rows[order[i]], field) - least
                words[i] = <wide_t>value << 32 | <wide_t>order[i]
            ordered = radix_sort[wide_t](words, scratch, n, 32, 32 + bits_of(most - least))
            for i in range(n):
                order[i] = <uint32_t>ordered[i]
    return result


cdef inline uint64_t subscriber_field(const subscriber_s *row, int field) noexcept nogil:
    """What rows are sorted by, the least significant first."""
    if field == 0:
        return row.tenure
    if field == 1:
        return row.pool
    if field == 2:
        return row.lo
    return row.hi if field == 3 else row.kind


cdef inline subscriber_s plain_subscriber(uint64_t address) noexcept nogil:
    cdef subscriber_s row
    memset(&row, 0, sizeof(row))
    row.kind = KIND_IPV4
    row.lo = address
    return row


cdef inline void counter_at(
    Table table, uint64_t hot_slots, uint64_t slot, counter_s *counter
) noexcept nogil:
    if slot < hot_slots:
        widen(&table.hot[slot], table.epoch_ns, counter)
    else:
        counter[0] = table.slots[slot - hot_slots]


cdef inline int bits_of(uint64_t largest) noexcept nogil:
    """How many bits hold the numbers up to the largest."""
    cdef int bits = 0
    while largest:
        largest >>= 1
        bits += 1
    return bits


# Where an array begins; NULL: it is empty.

cdef uint8_t *address1(uint8_t[::1] column):
    return &column[0] if column.shape[0] else NULL


cdef uint16_t *address2(uint16_t[::1] column):
    return &column[0] if column.shape[0] else NULL


cdef uint32_t *address4(uint32_t[::1] column):
    return &column[0] if column.shape[0] else NULL


cdef uint64_t *address8(uint64_t[::1] column):
    return &column[0] if column.shape[0] else NULL
