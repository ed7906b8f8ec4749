"""Names that rules list → the facts that a name on the wire is."""

import os

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free

from tollsplit.cext.name cimport lower, name_octets, same_letters

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
            if not name or name_octets(self.text + at, len(name)) != len(name):
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
            if found.hash == hash and found.octets == octets and same_letters(
                    self.text + found.at, name, octets):
                return found
            place = (place + 1) & self.mask
        return NULL

    cdef uint64_t facts(self, const uint8_t *name, uint32_t octets) noexcept nogil:
        """What a name is that a packet shows: listed itself, or below what is; 0: neither, or no name."""
        cdef uint64_t hash = self.seed, known = 0
        cdef uint32_t left
        cdef const suffix_s *found
        octets = name_octets(name, octets)
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


cdef inline uint64_t step(uint64_t hash, uint8_t octet) noexcept nogil:
    hash = (hash ^ octet) * PRIME
    return hash ^ hash >> 29
