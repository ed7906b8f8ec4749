"""Longest prefix match: address → value, for IPv4 and IPv6."""

import numpy as np

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, realloc


cdef class Trie:
    """Prefixes of one address family and their values.

    bits        32 or 128
    prefixes    (address value, prefix length, value) each; 0 ≤ value < 2^31, 0: no prefix.
                A longer prefix wins over a shorter one whatever their order.
    """

    def __cinit__(self, int bits, prefixes):
        if bits not in (32, 128):
            raise ValueError(f"an address has 32 or 128 bits, not {bits}")
        self.bits = bits
        self.trie.root = <uint32_t *>calloc(65536, sizeof(uint32_t))
        if self.trie.root == NULL:
            raise MemoryError
        for value, length, leaf in sorted(prefixes, key=_length):
            if not 0 <= length <= bits or leaf >> 31 != 0:
                raise ValueError(f"prefix length {length} or value {leaf} out of range")
            if bits == 32:
                self.insert(<uint64_t>value << 32, 0, length, leaf)
            else:
                self.insert(value >> 64, value & 0xFFFFFFFFFFFFFFFF, length, leaf)

    def __dealloc__(self):
        free(self.trie.root)
        free(self.trie.nodes)

    def lookup(self, address):
        """The value for an address given as an integer."""
        if self.bits == 32:
            return lookup4(&self.trie, address)
        return lookup6(&self.trie, address >> 64, address & 0xFFFFFFFFFFFFFFFF)

    def values(self, const uint32_t[::1] addresses):
        """u4[n], the values for IPv4 addresses u4[n]."""
        cdef Py_ssize_t i
        cdef uint32_t[::1] view
        result = np.empty(addresses.shape[0], np.uint32)
        view = result
        if self.bits != 32:
            raise ValueError("only IPv4 addresses are looked up by the array")
        with nogil:
            for i in range(addresses.shape[0]):
                view[i] = lookup4(&self.trie, addresses[i])
        return result

    @property
    def octets(self):
        """Memory in use."""
        return 65536 * 4 + <uint64_t>self.nodes * 1024

    cdef uint32_t node(self, uint32_t fill) except? 0:
        """A new node whose entries all hold `fill`."""
        cdef uint32_t *nodes
        cdef uint32_t i
        if self.nodes >= self.room:
            self.room = max(16, 2 * self.room)
            nodes = <uint32_t *>realloc(self.trie.nodes, <size_t>self.room * 1024)
            if nodes == NULL:
                raise MemoryError
            self.trie.nodes = nodes
        for i in range(256):
            self.trie.nodes[<size_t>self.nodes * 256 + i] = fill
        self.nodes += 1
        return self.nodes - 1

    cdef int insert(self, uint64_t hi, uint64_t lo, int length, uint32_t value) except -1:
        """Paint a prefix's range with its value; shorter prefixes are there already."""
        cdef int depth = 16, stride = 16, shift
        cdef size_t at = 0  # offset of the table; with `rooted`, of the root
        cdef bint rooted = True
        cdef uint32_t index, entry, child, count, i
        index = hi >> 48
        while length > depth:
            entry = self.trie.root[index] if rooted else self.trie.nodes[at + index]
            if not entry & LPM_NODE:
                child = self.node(entry)
                entry = child | LPM_NODE
                if rooted:
                    self.trie.root[index] = entry
                else:
                    self.trie.nodes[at + index] = entry
            at = <size_t>(entry ^ LPM_NODE) * 256
            rooted = False
            shift = 56 - depth
            index = ((hi >> shift) if shift >= 0 else (lo >> (shift + 64))) & 255
            depth += 8
            stride = 8
        count = <uint32_t>1 << (depth - length)
        index &= ~(count - 1)
        for i in range(index, index + count):
            if rooted:
                self.trie.root[i] = value
            else:
                self.trie.nodes[at + i] = value
        return 0


def _length(prefix):
    return prefix[1]
