"""Names that rules list → the facts that a name on the wire is."""

import os

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free

cdef uint64_t PRIME = 0x100000001B3  # FNV-1a's of 64 bits


cdef class Suffixes:
    """A set of names, each with facts of its own and facts of all that lies below it.

    names   name in lower case, without the root's dot → (own, below), 64 bits each

    A name is found by hash, label by label from its end: what a look-up costs depends on the
    name that is looked up, not on how many there are.
    """

    def __cinit__(self, dict names not None):
        cdef uint64_t size = 8
        cdef uint32_t at = 0
        while size < 2 * <uint64_t>len(names):
            size *= 2
        self.mask = size - 1
        self.seed = int.from_bytes(os.urandom(8), "little")
        self.places = <suffix_s *>calloc(size, sizeof(suffix_s))
        if self.places == NULL:
            raise MemoryError
        self.kept = b"".join(name.encode("ascii") for name in names)
        self.text = self.kept
        for name, (own, below) in names.items():
            if not is_name(self.text + at, len(name)):
                raise ValueError(f"{name!r}: no name")
            self.add(at, len(name), own, below)
            at += len(name)
        self.count = len(names)

    def __dealloc__(self):
        free(self.places)

    cdef int add(self, uint32_t at, uint32_t octets, uint64_t own, uint64_t below) except -1:
        cdef uint64_t hash = self.seed
        cdef uint64_t place
        cdef uint32_t i
        for i in range(octets):
            hash = step(hash, self.text[at + octets - 1 - i])
        hash |= 1
        place = hash >> 7 & self.mask
        while self.places[place].hash:
            place = (place + 1) & self.mask
        self.places[place].hash = hash
        self.places[place].own = own
        self.places[place].below = below
        self.places[place].at = at
        self.places[place].octets = octets
        return 0

    cdef const suffix_s *find(
        self, const uint8_t *name, uint32_t octets, uint64_t hash
    ) noexcept nogil:
        """The listed name that is these octets, but for their case; NULL: none is."""
        cdef uint64_t place = hash >> 7 & self.mask
        cdef const suffix_s *found
        while self.places[place].hash:
            found = &self.places[place]
            if found.hash == hash and found.octets == octets and same(
                    self.text + found.at, name, octets):
                return found
            place = (place + 1) & self.mask
        return NULL

    cdef uint64_t facts(self, const uint8_t *name, uint32_t octets) noexcept nogil:
        """What a name is that a packet shows: listed itself, or below what is; 0: neither, or no name."""
        cdef uint64_t hash = self.seed, known = 0
        cdef uint32_t left
        cdef const suffix_s *found
        if octets and name[octets - 1] == c".":
            octets -= 1
        if not is_name(name, octets):
            return 0
        left = octets
        while left:
            left -= 1
            hash = step(hash, lower(name[left]))
            if left and name[left - 1] != c".":
                continue
            found = self.find(name + left, octets - left, hash | 1)
            if found != NULL:
                known |= found.below if left else found.own
        return known

    def look_up(self, bytes name not None):
        """The facts of a name, as the core finds them."""
        return self.facts(name, <uint32_t>len(name))


cdef bint is_name(const uint8_t *name, uint32_t octets) noexcept nogil:
    """Whether octets are labels of letters, digits, hyphens and underscores, as hosts' are.

    Whatever else a packet claims to be a name is none.
    """
    cdef uint32_t i, label = 0
    cdef uint8_t c
    if not 0 < octets <= NAME_OCTETS_MAX:
        return False
    for i in range(octets):
        c = lower(name[i])
        if c == c".":
            if not label:
                return False
            label = 0
            continue
        label += 1
        if label > LABEL_OCTETS_MAX or not (
                c"a" <= c <= c"z" or c"0" <= c <= c"9" or c == c"-" or c == c"_"):
            return False
    return label != 0


cdef inline uint64_t step(uint64_t hash, uint8_t octet) noexcept nogil:
    hash = (hash ^ octet) * PRIME
    return hash ^ hash >> 29


cdef inline uint8_t lower(uint8_t c) noexcept nogil:
    return c + 32 if c"A" <= c <= c"Z" else c


cdef inline bint same(const uint8_t *listed, const uint8_t *name, uint32_t octets) noexcept nogil:
    cdef uint32_t i
    for i in range(octets):
        if listed[i] != lower(name[i]):
            return False
    return True
