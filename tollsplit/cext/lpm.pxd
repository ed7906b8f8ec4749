cimport cython
from libc.stdint cimport uint8_t, uint32_t, uint64_t

cdef enum:
    LPM_NODE = 0x80000000        # an entry with this bit names a node, else it is the value

# A multibit trie: 16 bits at the root, then 8 bits a level. Values are pushed to the leaves,
# so that a lookup reads one entry a level and remembers nothing on its way.
cdef struct trie_s:
    uint32_t *root               # [65536]
    uint32_t *nodes              # [nodes][256]


cdef inline uint32_t lookup4(const trie_s *trie, uint32_t address) noexcept nogil:
    """The value of the longest prefix that covers an IPv4 address."""
    cdef uint32_t entry = trie.root[address >> 16]
    if entry & LPM_NODE:
        entry = trie.nodes[<uint64_t>(entry ^ LPM_NODE) * 256 + ((address >> 8) & 255)]
        if entry & LPM_NODE:
            entry = trie.nodes[<uint64_t>(entry ^ LPM_NODE) * 256 + (address & 255)]
    return entry


cdef inline uint32_t lookup6(const trie_s *trie, uint64_t hi, uint64_t lo) noexcept nogil:
    """The value of the longest prefix that covers an IPv6 address."""
    cdef uint32_t entry = trie.root[hi >> 48]
    cdef int shift = 40
    while entry & LPM_NODE:
        entry = trie.nodes[
            <uint64_t>(entry ^ LPM_NODE) * 256
            + (((hi >> shift) if shift >= 0 else (lo >> (shift + 64))) & 255)
        ]
        shift -= 8
    return entry


@cython.final
cdef class Trie:
    cdef trie_s trie
    cdef readonly int bits
    cdef readonly uint32_t nodes
    cdef uint32_t room
    cdef uint32_t node(self, uint32_t fill) except? 0
    cdef int insert(self, uint64_t hi, uint64_t lo, int length, uint32_t value) except -1
