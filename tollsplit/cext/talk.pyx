"""What flows say first, put in order: segments and datagrams come late, twice, or in parts."""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memset

BOUNDS = {"TALK_OCTETS_MAX": TALK_OCTETS_MAX}

cdef enum:
    TALKS_AT_FIRST = 4


cdef class Talks:
    """Conversations by number from 1 on, each of a flow, never more than `most`.

    Only those have an entry whose first packet does not tell all.
    """

    def __cinit__(self, uint32_t most):
        self.most = most
        self.room = TALKS_AT_FIRST
        self.talks = <talk_s *>realloc(NULL, (self.room + 1) * sizeof(talk_s))
        if self.talks == NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self.talks)

    cdef uint32_t open(self, uint32_t flow, uint32_t first) noexcept nogil:
        """The number of a new conversation, of which nothing is known; 0: there is no room.

        first   as talk_s has it
        No pointer to another one is good after this.
        """
        cdef uint32_t number = self.place()
        cdef talk_s *talk
        if not number:
            return 0
        talk = &self.talks[number]
        memset(talk, 0, sizeof(talk_s) - TALK_OCTETS_MAX)
        talk.flow = flow
        talk.first = first
        talk.older = self.newest
        if self.newest:
            self.talks[self.newest].newer = number
        else:
            self.oldest = number
        self.newest = number
        self.count += 1
        return number

    cdef uint32_t place(self) noexcept nogil:
        """A place for one more; 0: there is none."""
        cdef uint32_t number = self.free
        cdef talk_s *talks
        if self.count >= self.most:
            return 0
        if number:
            self.free = self.talks[number].newer
            return number
        if self.made == self.room:
            talks = <talk_s *>realloc(
                self.talks, (2 * <size_t>self.room + 1) * sizeof(talk_s))
            if talks == NULL:
                return 0
            self.talks = talks
            self.room *= 2
        self.made += 1
        return self.made

    cdef void close(self, uint32_t number) noexcept nogil:
        """Forget a conversation."""
        cdef talk_s *talk = &self.talks[number]
        if talk.newer:
            self.talks[talk.newer].older = talk.older
        else:
            self.newest = talk.older
        if talk.older:
            self.talks[talk.older].newer = talk.newer
        else:
            self.oldest = talk.newer
        talk.newer = self.free
        self.free = number
        self.count -= 1

    cdef bint take(
        self, uint32_t number, uint32_t sequence, const uint8_t *octets, uint32_t count
    ) noexcept nogil:
        """Put a TCP segment's octets where they belong; False: they contradict what was there.

        What lies before the first octet is a keep-alive's, or the handshake's; what lies behind
        the room is too far ahead to be of use.
        """
        cdef stream_octets_s *said = &self.talks[number].heard.tcp
        cdef int32_t ahead = <int32_t>(sequence - self.talks[number].first)
        cdef uint32_t at, i, skipped = 0
        cdef uint64_t bit
        if ahead < 0:
            skipped = <uint32_t>-<int64_t>ahead
            ahead = 0
        for i in range(skipped, min(count, <uint64_t>skipped + TALK_OCTETS_MAX)):
            at = <uint32_t>ahead + i - skipped
            if at >= TALK_OCTETS_MAX:
                break
            bit = <uint64_t>1 << (at & 63)
            if not said.met[at >> 6] & bit:
                said.met[at >> 6] |= bit
                said.octets[at] = octets[i]
            elif said.octets[at] != octets[i]:
                return False
        while said.whole < TALK_OCTETS_MAX and said.met[said.whole >> 6] >> (said.whole & 63) & 1:
            said.whole += 1
        return True
