"""The document's order of what some tables counted: a word stands for a counter."""

import numpy as np

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free

from tollsplit.cext.counter cimport cold_key, rule_of
from tollsplit.cext.radix cimport (
    RUNS_MAX, bits_of, first_of, merge_runs, radix_sort, wide_t, word_t)
from tollsplit.cext.runs cimport part_s, source_s
from tollsplit.cext.table cimport Table, hot_slots_of

cdef uint64_t INTERNED = <uint64_t>1 << 32


cdef class Order:
    """Words in order of (window, subscriber, rule, cell), no rule last.

    Each table is read and sorted by a thread of its own; then each thread has some of the
    subscribers, and merges the tables' words of those. Budget: 20 ns a counter at 3.4 million of
    them. Guarded by benchmarks/bench_account.py.

    subscribers  u8[k], those interned and the plain addresses met, in their order: an address,
                 or 2^32 + the number of an interned one
    pairs        how many (subscriber, rule) there are; their numbers are in the words
    """

    def __cinit__(self, list tables not None, *_, **__):
        self.sources = <source_s *>calloc(len(tables), sizeof(source_s))
        self.parts = <part_s *>calloc(len(tables), sizeof(part_s))
        if self.sources == NULL or self.parts == NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self.sources)
        free(self.parts)

    def __init__(
        self,
        list tables not None,
        const uint32_t[::1] rank not None,
        const uint32_t[::1] window not None,
        const uint32_t[::1] first not None,
        const uint32_t[::1] order not None,
        const uint64_t[::1] values not None,
        const uint64_t[::1] value_of not None,
        const uint64_t[::1] breaks not None,
        each,
    ):
        """
        tables     (Table, u4[]) of each worker, at most RUNS_MAX, and what its interned
                   subscribers are called; None: as they are
        rank       u4[cells], a cell's position in order of time, by its number
        window     u4[cells], the window of a cell, by its position; ascending
        first      u4[windows], the position of a window's first cell
        order      u4[m], the numbers of interned subscribers in their order
        values     u8[m], where each interned subscriber stands among all, ascending; a plain
                   address stands at address + how many breaks are at most 2 × address
        value_of   u8[m], the same by an interned subscriber's number
        breaks     u8[j], ascending
        each       like map(), on threads
        """
        if not 0 < len(tables) <= RUNS_MAX:
            raise ValueError(f"tables: expected 1 to {RUNS_MAX}, got {len(tables)}")
        self.tables = tables
        self.each = each
        self.rank = rank
        self.window = window
        self.first = first
        self.order = order
        self.values = values
        self.value_of = value_of
        self.breaks = breaks
        self.open()
        self.on_each(self.scan, self.source_count)
        self.measure()
        self.on_each(self.sort, self.source_count)
        self.cut()
        self.on_each(self.number, self.part_count)
        self.put_in_place()

    cdef object on_each(self, step, int count):
        """Do a step for each source or part."""
        if count == 1:
            step(0)
        else:
            list(self.each(step, range(count)))

    cdef object open(self):
        cdef Table table
        cdef const uint32_t[::1] numbers
        cdef source_s *source = self.sources
        cdef uint64_t most = 0
        self.epoch_ns = min([(<Table>each).epoch_ns for each, _ in self.tables
                             if (<Table>each).begun], default=0)
        for table, names in self.tables:
            source.hot = table.hot
            source.marks = table.marks
            source.slots = table.slots
            source.hot_slots = hot_slots_of(table)
            source.room = table.room
            source.epoch_ns = table.epoch_ns
            source.later_ns = table.epoch_ns - self.epoch_ns if table.begun else 0
            if names is not None and len(names):
                numbers = names
                source.numbers = &numbers[0]
            source.first = self.total
            source.count = table.hot_count + table.count
            self.total += source.count
            most = max(most, source.hot_slots + source.room - 1)
            source += 1
        self.source_count = len(self.tables)
        self.source_bit = bits_of(most)
        self.several = self.rank.shape[0] > 1
        self.keys = np.empty(self.total + 1, np.uint64)
        self.slots = np.empty(self.total + 1, np.uint64)

    def scan(self, int number):
        """Note a table's used slots and their keys."""
        cdef source_s *source = &self.sources[number]
        cdef uint64_t *keys = &self.keys[source.first]
        cdef uint64_t *slots = &self.slots[source.first]
        # Threads that write to neighbours in memory wait for each other: hence the local ones.
        cdef uint64_t i, n = 0, key, least = ~<uint64_t>0, most = 0, base = <uint64_t>number << self.source_bit
        cdef const uint32_t *numbers = source.numbers
        cdef uint32_t rule = 0
        cdef bint met = False
        with nogil:
            for i in range(source.hot_slots):
                if source.marks[i]:
                    keys[n] = source.hot[i].key
                    slots[n] = base + i
                    n += 1
            base += source.hot_slots
            for i in range(source.room):
                if source.slots[i].used:
                    keys[n] = cold_key(&source.slots[i])
                    slots[n] = base + i
                    n += 1
            for i in range(n):
                key = keys[i]
                rule = max(rule, rule_of(key))
                if key >> 16 & 1:
                    met = True
                    if numbers != NULL:
                        keys[i] = (<uint64_t>numbers[key >> 32] << 32) | <uint32_t>key
                else:
                    least = min(least, key >> 32)
                    most = max(most, key >> 32)
        source.least = least
        source.most = most
        source.rule = rule
        source.met = met

    cdef object measure(self):
        """How wide a word's fields have to be, and where the words are."""
        cdef uint64_t least = ~<uint64_t>0, most = 0, inside = 0, last, i
        cdef uint32_t rule = 0
        cdef uint64_t windows = self.first.shape[0]
        cdef bint met = False
        cdef int number
        cdef uint64_t[::1] words
        for number in range(self.source_count):
            least = min(least, self.sources[number].least)
            most = max(most, self.sources[number].most)
            rule = max(rule, self.sources[number].rule)
            met = met or self.sources[number].met
        most += self.breaks.shape[0]
        if met:
            least = min(least, self.values[0])
            most = max(most, self.values[self.values.shape[0] - 1])
        for i in range(windows):
            last = self.first[i + 1] if i + 1 < windows else self.window.shape[0]
            inside = max(inside, last - self.first[i] - 1)
        self.fields.subscriber_least = least
        self.fields.rule_none = rule
        self.fields.cell = self.source_bit + bits_of(self.source_count - 1)
        self.fields.rule = self.fields.cell + bits_of(inside)
        self.fields.subscriber = self.fields.rule + bits_of(rule)
        self.fields.window = self.fields.subscriber + bits_of(most - least if self.total else 0)
        self.fields.end = self.fields.window + bits_of(max(windows, 1) - 1)
        self.wide = self.fields.end >= 64
        if self.wide:
            words = np.empty(4 * self.total + 4, np.uint64)
            self.words = &words[0]
            self.scratch = &words[2 * self.total + 2]
            self.wide_words = words
        else:
            self.words = &self.keys[0]
            self.scratch = &self.slots[0]

    def sort(self, int number):
        """A word for each key and slot of a table, by subscriber, rule and cell."""
        with nogil:
            if self.wide:
                self.sort_words(<wide_t *>self.words, <wide_t *>self.scratch, number)
            else:
                self.sort_words(<uint64_t *>self.words, <uint64_t *>self.scratch, number)

    cdef void sort_words(self, word_t *words, word_t *scratch, int number) noexcept nogil:
        cdef word_fields_s fields = self.fields
        cdef source_s *source = &self.sources[number]
        cdef uint64_t i, key, slot, value, base = <uint64_t>number << self.source_bit
        cdef uint32_t rule, rank, window
        for i in range(source.first, source.first + source.count):
            key = self.keys[i]
            slot = self.slots[i]
            rank = self.rank[key & 0xFFFF if slot - base < source.hot_slots
                             else source.slots[slot - base - source.hot_slots].cell]
            window = self.window[rank]
            rule = rule_of(key)
            rule = rule - 1 if rule else fields.rule_none
            value = self.value_of[key >> 32] if key >> 16 & 1 else self.stands(key >> 32)
            words[i] = (<word_t>window << fields.window
                        | <word_t>(value - fields.subscriber_least) << fields.subscriber
                        | <word_t>rule << fields.rule
                        | <word_t>(rank - self.first[window]) << fields.cell
                        | <word_t>slot)
        source.moved = radix_sort[word_t](
            words + source.first, scratch + source.first, source.count, fields.cell, fields.window
        ) != words + source.first

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

    cdef object cut(self):
        """Divide the subscribers into parts, about as many words in each.

        Rows of several cells are sorted once more, as a whole: then there is one part.
        """
        if self.sources[0].moved:  # if one was, all were: they have the same bits
            self.words, self.scratch = self.scratch, self.words
        self.part_count = 1 if self.several else self.source_count
        self.cuts = np.zeros((self.part_count + 1, self.source_count), np.uint64)
        if self.wide:
            self.cut_words(<wide_t *>self.words)
        else:
            self.cut_words(<uint64_t *>self.words)
        self.who = np.empty(self.total + 1, np.uint32)
        # What of it stays untouched is never there.
        self.member = np.empty(self.total + self.values.shape[0] + 1, np.uint64)

    cdef object cut_words(self, const word_t *words):
        cdef word_fields_s fields = self.fields
        cdef word_t mask = (<word_t>1 << fields.window) - 1, least = 0
        cdef source_s *source
        cdef source_s *longest = self.sources
        cdef part_s *part
        cdef int number, i
        for i in range(self.source_count):
            if self.sources[i].count > longest.count:
                longest = &self.sources[i]
        for number in range(self.part_count + 1):
            part = &self.parts[min(number, self.part_count - 1)]
            if 0 < number < self.part_count and longest.count:
                least = words[longest.first + longest.count * number // self.part_count] & mask
                least = least >> fields.subscriber << fields.subscriber
                part.least = <uint64_t>(least >> fields.subscriber) + fields.subscriber_least
                part.interned = 0 if not len(self.values) else first_of[uint64_t](
                    &self.values[0], self.values.shape[0], ~<uint64_t>0, part.least)
            for i in range(self.source_count):
                source = &self.sources[i]
                self.cuts[number, i] = source.first + (
                    source.count if number == self.part_count
                    else first_of[word_t](words + source.first, source.count, mask, least))
                if number:
                    self.parts[number - 1].words += self.cuts[number, i] - self.cuts[number - 1, i]
            if number and number < self.part_count:
                part.word = self.parts[number - 1].word + self.parts[number - 1].words

    def number(self, int number):
        """Merge a part's words, and number its pairs and subscribers."""
        with nogil:
            if self.wide:
                self.number_words(<wide_t *>self.words, <wide_t *>self.scratch, number)
            else:
                self.number_words(<uint64_t *>self.words, <uint64_t *>self.scratch, number)

    cdef void number_words(self, word_t *words, word_t *scratch, int number) noexcept nogil:
        """Put a pair's number in the place of its subscriber and rule; and find all subscribers.

        Both are counted from 0 within the part.
        """
        cdef word_fields_s fields = self.fields
        cdef part_s *part = &self.parts[number]
        cdef uint64_t i, pairs = 0, value, key, last = 0, last_value = 0, n = 0
        cdef uint64_t at = part.interned, stop = self.values.shape[0]
        cdef uint64_t *member = &self.member[part.word + at]
        cdef uint32_t *who = &self.who[part.word]
        cdef word_t low = (<word_t>1 << fields.rule) - 1
        cdef int rule_bits = fields.subscriber - fields.rule
        cdef uint64_t mask = (<uint64_t>1 << (fields.window - fields.rule)) - 1
        if self.source_count > 1:
            merge_runs[word_t](
                words, &self.cuts[number, 0], &self.cuts[number + 1, 0], self.source_count,
                (<word_t>1 << fields.window) - 1, scratch + part.word)
            words = scratch
        words += part.word
        if number + 1 < self.part_count:
            stop = self.parts[number + 1].interned
        for i in range(part.words):
            key = <uint64_t>(words[i] >> fields.rule) & mask
            if i == 0 or key != last:
                value = (key >> rule_bits) + fields.subscriber_least
                if i == 0 or value != last_value:
                    while at < stop and self.values[at] < value:
                        member[n] = INTERNED | self.order[at]
                        n += 1
                        at += 1
                    if at < stop and self.values[at] == value:
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
        while at < stop:
            member[n] = INTERNED | self.order[at]
            n += 1
            at += 1
        part.pairs = pairs
        part.members = n

    cdef object put_in_place(self):
        """Say where each part's rows, pairs and subscribers begin."""
        cdef part_s *part
        cdef int number
        cdef uint64_t members = 0
        subscribers = []
        if self.source_count > 1:
            self.words, self.scratch = self.scratch, self.words
        for number in range(self.part_count):
            part = &self.parts[number]
            part.row = part.pair = self.pairs  # a part of several has a row for each pair
            part.member = members
            self.pairs += part.pairs
            members += part.members
            begin = part.word + part.interned
            subscribers.append(np.asarray(self.member[begin : begin + part.members]))
        self.subscribers = subscribers[0] if len(subscribers) == 1 else np.concatenate(subscribers)
        if self.several:
            with nogil:
                if self.wide:
                    self.words = radix_sort[wide_t](
                        <wide_t *>self.words, <wide_t *>self.scratch, self.total,
                        self.fields.window, self.fields.end)
                else:
                    self.words = radix_sort[uint64_t](
                        <uint64_t *>self.words, <uint64_t *>self.scratch, self.total,
                        self.fields.window, self.fields.end)
