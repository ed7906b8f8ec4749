"""A bounded table whose entries lapse when they have not been of use for some time."""

from libc.stdint cimport uint32_t, uint64_t

from tollsplit.cext.bounded cimport Bounded
from tollsplit.cext.fragments cimport over
from tollsplit.cext.key cimport key_s


cdef class Lapsing(Bounded):
    """Entries that lapse.

    most, entry_octets   as Bounded has them; an entry begins with lapsing_s
    idle_ns              how long an entry that is of no use is known

    Use moves nothing in the list: it would touch two others each time. An entry is asked whether
    it was of use when it has been listed for as long as it may be idle; when its room is free
    again so depends on its own use and the time, not on other entries.
    """

    def __cinit__(self, uint32_t most, size_t entry_octets, uint64_t idle_ns, *_):
        self.idle_ns = idle_ns

    cdef uint32_t known(self, const key_s *key, uint64_t now_ns) noexcept nogil:
        """The number of a key's entry; 0: it has none, or none any more."""
        cdef uint32_t number = self.find(key)
        if number and over((<lapsing_s *>self.at(number)).last_ns, now_ns, self.idle_ns):
            self.drop(number)
            return 0
        return number

    cdef uint32_t begin(self, const key_s *key, uint64_t now_ns) noexcept nogil:
        """The number of an entry for a key that has none; 0: there is no room."""
        cdef uint32_t number = self.add(key)
        if number:
            (<lapsing_s *>self.at(number)).last_ns = self.at(number).since_ns = now_ns
            self.append(&self.listed, number)
        return number

    cdef void expire(self, uint64_t now_ns) noexcept nogil:
        """Make room where entries have lapsed; list those anew that were of use since."""
        cdef uint32_t number = self.listed.oldest
        while number and over(self.at(number).since_ns, now_ns, self.idle_ns):
            if (<lapsing_s *>self.at(number)).last_ns <= self.at(number).since_ns:
                self.drop(number)
            else:
                self.unlink(&self.listed, number)
                self.at(number).since_ns += self.idle_ns
                self.append(&self.listed, number)
            number = self.listed.oldest

    cdef void drop(self, uint32_t number) noexcept nogil:
        """Forget an entry."""
        self.unlink(&self.listed, number)
        self.remove(number)
