"""A table of entries by key that never has more of them than its bound."""

import os
from mmap import MAP_ANONYMOUS, MAP_PRIVATE, mmap

import numpy as np

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memset

from tollsplit.cext.key cimport KEY_WORDS, hash_key, key_s, same_key

cdef extern from *:
    void prefetch "__builtin_prefetch"(const void *) nogil

cdef enum:
    BITS_AT_FIRST = 8            # of places in the index; half as many entries


cdef uint32_t[::1] beside(size_t count):
    """u4[count], all 0, for what few entries have beside them: it takes memory where it is written.

    calloc() does not always: once a large block was freed, the next is cut from the heap and cleared.
    """
    return np.frombuffer(mmap(-1, count * sizeof(uint32_t), MAP_PRIVATE | MAP_ANONYMOUS), np.uint32)


cdef class Bounded:
    """Entries are numbered from 1 on, and stay where they are until they are removed.

    most            how many there are at most
    entry_octets    of each; it begins with entry_s

    An index of twice as many places as entries names the first of each chain. Memory is taken
    as entries come, doubling; which entry goes first is the order of lists, never that of hashes.
    """

    def __cinit__(self, uint32_t most, size_t entry_octets, *_):
        self.most = most
        self.entry_octets = entry_octets
        for i in range(KEY_WORDS):
            self.multipliers[i] = int.from_bytes(os.urandom(8), "little") | 1
        self.shift = 64 - BITS_AT_FIRST
        self.room = 1 << (BITS_AT_FIRST - 1)
        self.index = <uint32_t *>calloc(1 << BITS_AT_FIRST, sizeof(uint32_t))
        self.entries = <char *>realloc(NULL, (self.room + 1) * entry_octets)
        if self.index == NULL or self.entries == NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self.index)
        free(self.entries)

    cdef entry_s *at(self, uint32_t number) noexcept nogil:
        return <entry_s *>(self.entries + number * self.entry_octets)

    cdef uint32_t find(self, const key_s *key) noexcept nogil:
        """The number of a key's entry; 0: it has none."""
        cdef uint32_t number = self.index[hash_key(key, self.multipliers) >> self.shift]
        while number and not same_key(&self.at(number).key, key):
            number = self.at(number).next
        return number

    cdef void expect(self, const key_s *key) noexcept nogil:
        """Have the place of a key brought in, which is asked for soon."""
        prefetch(&self.index[hash_key(key, self.multipliers) >> self.shift])

    cdef void expect_entry(self, const key_s *key) noexcept nogil:
        """Have the entry brought in that the place of a key names; the place is at hand."""
        cdef uint32_t number = self.index[hash_key(key, self.multipliers) >> self.shift]
        cdef char *entry = <char *>self.at(number)
        prefetch(entry)
        prefetch(entry + 64)
        prefetch(entry + 128)

    cdef uint32_t add(self, const key_s *key) noexcept nogil:
        """The number of a new entry, all zero but its key; 0: there is no room.

        The key has none so far. No pointer to another entry is good after this.
        """
        cdef uint32_t number = self.free
        cdef entry_s *entry
        cdef uint32_t *place
        if self.count >= self.most:
            return 0
        if number:
            self.free = self.at(number).next
        else:
            if self.made == self.room and not self.grow():
                return 0
            self.made += 1
            number = self.made
        entry = self.at(number)
        memset(entry, 0, self.entry_octets)
        entry.key = key[0]
        place = &self.index[hash_key(key, self.multipliers) >> self.shift]
        entry.next = place[0]
        place[0] = number
        self.count += 1
        return number

    cdef void remove(self, uint32_t number) noexcept nogil:
        """Forget an entry that is in no list any more."""
        cdef entry_s *entry = self.at(number)
        cdef uint32_t *place = &self.index[hash_key(&entry.key, self.multipliers) >> self.shift]
        while place[0] != number:
            place = &self.at(place[0]).next
        place[0] = entry.next
        entry.next = self.free
        self.free = number
        self.count -= 1

    cdef void append(self, order_s *order, uint32_t number) noexcept nogil:
        """Put an entry at the end of a list."""
        cdef entry_s *entry = self.at(number)
        entry.newer = 0
        entry.older = order.newest
        if order.newest:
            self.at(order.newest).newer = number
        else:
            order.oldest = number
        order.newest = number

    cdef void unlink(self, order_s *order, uint32_t number) noexcept nogil:
        """Take an entry out of its list."""
        cdef entry_s *entry = self.at(number)
        if entry.newer:
            self.at(entry.newer).older = entry.older
        else:
            order.newest = entry.older
        if entry.older:
            self.at(entry.older).newer = entry.newer
        else:
            order.oldest = entry.newer

    cdef bint grow(self) noexcept nogil:
        """Make room for twice as many; False: there is none."""
        cdef uint32_t room = 2 * self.room, number
        cdef char *entries = <char *>realloc(self.entries, (<size_t>room + 1) * self.entry_octets)
        cdef uint32_t *index
        cdef uint32_t *place
        if entries == NULL:
            return False
        self.entries = entries
        index = <uint32_t *>calloc(2 * <size_t>room, sizeof(uint32_t))
        if index == NULL:
            return False
        free(self.index)
        self.index = index
        self.shift -= 1
        self.room = room
        for number in range(1, self.made + 1):  # all are in use, or none would have to be made
            place = &index[hash_key(&self.at(number).key, self.multipliers) >> self.shift]
            self.at(number).next = place[0]
            place[0] = number
        return True
