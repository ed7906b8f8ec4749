"""Numbers for subscribers that are more than a plain IPv4 address."""

import os

import numpy as np

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcpy

from tollsplit.cext.layout cimport subscriber_s
from tollsplit.cext.layout import SUBSCRIBER
from tollsplit.cext.radix cimport bits_of, radix_sort, wide_t, word_t

cdef enum:
    SUBSCRIBER_FIELDS = 5        # that order them


cdef extern from *:
    """
    #define tollsplit_prefetch(p) __builtin_prefetch(p)
    """
    void tollsplit_prefetch(const void *p) noexcept nogil


cdef class Subscribers:
    """A number, from 0 on, for each subscriber met; the same again for the same one."""

    def __cinit__(self):
        # random and odd: nobody can choose addresses that collide (multiply-shift)
        self.multiplier = int.from_bytes(os.urandom(8), "little") | 1
        self.second_multiplier = int.from_bytes(os.urandom(8), "little") | 1
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

    cdef void number_batch(
        self, const subscriber_s *subscribers, int count, uint32_t *numbers
    ) noexcept nogil:
        """The numbers of several subscribers, the misses of their look-ups under way at once."""
        cdef int i
        cdef uint32_t number
        while self.count + count > self.room and self.grow():
            pass
        for i in range(count):
            numbers[i] = <uint32_t>(who(self, &subscribers[i]) >> self.shift)
            tollsplit_prefetch(&self.index[numbers[i]])
        for i in range(count):
            number = self.index[numbers[i]]
            tollsplit_prefetch(&self.known[number - 1 if number else 0])
        for i in range(count):
            numbers[i] = self.number(&subscribers[i])

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


def order_of(const subscriber_s[::1] rows not None):
    """u4[n], the rows' order by kind, key, pool and tenure.

    Field by field, the least significant first; those that are the same in all rows are left out.
    """
    cdef uint64_t n = rows.shape[0], i, value, least, most
    cdef uint64_t[::1] words, scratch
    cdef int field, low = bits_of(max(n, 1) - 1), high
    cdef uint32_t[::1] order
    result = np.arange(n, dtype=np.uint32)
    order = result
    words = np.empty(n + 1, np.uint64)
    scratch = np.empty(n + 1, np.uint64)
    for field in range(SUBSCRIBER_FIELDS):
        least = ~<uint64_t>0
        most = 0
        with nogil:
            for i in range(n):
                value = subscriber_field(&rows[i], field)
                least = min(least, value)
                most = max(most, value)
        if least >= most:
            continue
        high = low + bits_of(most - least)
        if high < 64:
            with nogil:
                arrange[uint64_t](&words[0], &scratch[0], rows, order, field, least, low, high)
        else:
            words = np.empty(2 * n, np.uint64)
            scratch = np.empty(2 * n, np.uint64)
            with nogil:
                arrange[wide_t](<wide_t *>&words[0], <wide_t *>&scratch[0], rows, order, field,
                                least, low, high)
    return result


cdef void arrange(
    word_t *words, word_t *scratch, const subscriber_s[::1] rows, uint32_t[::1] order, int field,
    uint64_t least, int low, int high,
) noexcept nogil:
    """Sort an order by one more field, of `high` − `low` bits above its least value."""
    cdef uint64_t i, n = rows.shape[0], mask = (<uint64_t>1 << low) - 1
    cdef const word_t *ordered
    for i in range(n):
        words[i] = (<word_t>(subscriber_field(&rows[order[i]], field) - least) << low
                    | <word_t>order[i])
    ordered = radix_sort[word_t](words, scratch, n, low, high)
    for i in range(n):
        order[i] = <uint32_t>(<uint64_t>ordered[i] & mask)


cdef inline uint64_t subscriber_field(const subscriber_s *row, int field) noexcept nogil:
    """What rows are sorted by, the least significant first."""
    if field == 0:
        return row.tenure
    if field == 1:
        return row.pool
    if field == 2:
        return row.lo
    return row.hi if field == 3 else row.kind
