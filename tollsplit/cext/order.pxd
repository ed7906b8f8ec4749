# Words that stand for counters, in order.

from libc.stdint cimport uint32_t, uint64_t

from tollsplit.cext.radix cimport word_t
from tollsplit.cext.runs cimport part_s, source_s

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


cdef class Order:
    cdef readonly object subscribers
    cdef readonly uint64_t pairs
    cdef list tables             # [(Table, u4[])]
    cdef object each
    cdef source_s *sources
    cdef int source_count
    cdef int source_bit          # of a slot's number: from here on it says whose it is
    cdef part_s *parts
    cdef int part_count
    cdef uint64_t total          # words
    cdef uint64_t epoch_ns       # the earliest of the tables'
    cdef word_fields_s fields
    cdef bint wide               # whether a word has 128 bits
    cdef bint several            # time cells
    cdef uint64_t[:, ::1] cuts   # where each part begins in each source's words
    cdef uint64_t[::1] keys
    cdef uint64_t[::1] slots
    cdef object wide_words       # what holds those that don't fit there
    cdef void *words             # in order, or about to be
    cdef void *scratch
    cdef uint32_t[::1] who       # the position of each pair's subscriber within its part
    cdef uint64_t[::1] member
    cdef const uint32_t[::1] rank
    cdef const uint32_t[::1] window
    cdef const uint32_t[::1] first
    cdef const uint32_t[::1] order
    cdef const uint64_t[::1] value_of
    cdef const uint64_t[::1] values
    cdef const uint64_t[::1] breaks
    cdef object on_each(self, step, int count)
    cdef object open(self)
    cdef object measure(self)
    cdef void sort_words(self, word_t *words, word_t *scratch, int number) noexcept nogil
    cdef uint64_t stands(self, uint64_t address) noexcept nogil
    cdef object cut(self)
    cdef object cut_words(self, const word_t *words)
    cdef void number_words(self, word_t *words, word_t *scratch, int number) noexcept nogil
    cdef object put_in_place(self)
