"""Numbers for subscribers that are more than a plain IPv4 address."""

import os

import numpy as np

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcpy

from tollsplit.cext.layout cimport subscriber_s
from tollsplit.cext.layout import SUBSCRIBER


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
