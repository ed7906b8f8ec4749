"""HTTP/1 connections of flows, and how far either direction is read: only what comes in order is."""

import os

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memset

from tollsplit.cext.bounded cimport beside
from tollsplit.cext.exchange cimport FACTS_ALL, begin_exchange
from tollsplit.cext.http cimport (
    STAGE_BETWEEN, STAGE_CHUNK, STAGE_CHUNK_END, STAGE_CLOSE, STAGE_ENDS, STAGE_FIXED,
    STAGE_TUNNEL, http_s)

cdef enum:
    REQUESTS_AT_FIRST = 4
    # What lies farther back was never sent: TCP's largest window (RFC 7323 §2.3).
    WINDOW_OCTETS_MAX = 1073725440

cdef uint64_t PRIME = 0x9E3779B97F4A7C15
cdef uint64_t NOWHERE = 0xFFFFFFFFFFFFFFFF


cdef class Requests:
    """Connections by the number of their flow, never more than `most`.

    flows   how many of them there may be
    """

    def __cinit__(self, uint32_t most, uint32_t flows):
        self.most = most
        self.room = REQUESTS_AT_FIRST
        self.places = <requests_s *>realloc(NULL, (self.room + 1) * sizeof(requests_s))
        if self.places == NULL:
            raise MemoryError
        self.all_of_flow, self.all_answers = beside(<size_t>flows + 1), beside(<size_t>flows + 1)
        self.of_flow, self.answers = &self.all_of_flow[0], &self.all_answers[0]
        self.seed = int.from_bytes(os.urandom(8), "little")  # nobody can choose equal sums

    def __dealloc__(self):
        free(self.places)

    cdef requests_s *of(self, uint32_t flow) noexcept nogil:
        """A flow's connection; NULL: it is not read."""
        return &self.places[self.of_flow[flow]] if self.of_flow[flow] else NULL

    cdef requests_s *begin(self, uint32_t flow, uint32_t sequence) noexcept nogil:
        """Read a flow from here on; NULL: there is no room.

        sequence   of its uplink's first octet
        No pointer to another one is good after this.
        """
        cdef uint32_t number = self.place()
        cdef requests_s *found
        if not number:
            return NULL
        self.of_flow[flow] = number
        self.count += 1
        found = &self.places[number]
        memset(found, 0, sizeof(requests_s))
        begin_exchange(&found.exchange)
        found.common = FACTS_ALL
        found.ways[0].next = sequence
        found.ways[0].known = True
        found.ways[1].next = self.answers[flow]
        found.ways[1].known = self.answers[flow] != 0
        return found

    cdef uint32_t place(self) noexcept nogil:
        """A place for one more; 0: there is none."""
        cdef uint32_t number = self.free
        cdef requests_s *places
        if self.count >= self.most:
            return 0
        if number:
            self.free = self.places[number].free
            return number
        if self.made == self.room:
            places = <requests_s *>realloc(
                self.places, (2 * <size_t>self.room + 1) * sizeof(requests_s))
            if places == NULL:
                return 0
            self.places = places
            self.room *= 2
        self.made += 1
        return self.made

    cdef void end(self, uint32_t flow) noexcept nogil:
        """Read a flow no more, if it was."""
        cdef uint32_t number = self.of_flow[flow]
        if self.answers[flow]:
            self.answers[flow] = 0
        if not number:
            return
        self.of_flow[flow] = 0
        self.places[number].free = self.free
        self.free = number
        self.count -= 1

    cdef void keep_head(
        self, requests_s *requests, uint32_t sequence, const uint8_t *octets, uint32_t count
    ) noexcept nogil:
        """Remember the segment that was read last which is no body's alone."""
        requests.head_sequence = sequence
        requests.head_octets = count
        requests.head_sum = self.sum_of(octets, count)

    cdef bint is_repeated(
        self, const requests_s *requests, uint32_t sequence, const uint8_t *octets,
        uint32_t captured, uint32_t count
    ) noexcept nogil:
        """Whether uplink octets that come again cannot be others than those that were read.

        Else a client may have the first ones lost on their way to the server, which then answers
        another request than was read. A single octet only asks whether somebody is there.
        """
        cdef uint64_t passed = requests.ways[0].passed
        cdef uint32_t behind = requests.ways[0].next - sequence
        if requests.exchange.uplink.stage == STAGE_TUNNEL or behind == 1 and count == 1:
            return True
        if behind <= passed and requests.body_at <= passed - behind:
            return True
        return (sequence == requests.head_sequence and count == requests.head_octets
                and captured == count and self.sum_of(octets, count) == requests.head_sum)

    cdef uint64_t sum_of(self, const uint8_t *octets, uint32_t count) noexcept nogil:
        """A sum that octets have and others, as good as never."""
        cdef uint64_t sum = self.seed
        cdef uint32_t i
        for i in range(count):
            sum = (sum ^ octets[i]) * PRIME
            sum ^= sum >> 29
        return sum


cdef void end_head(requests_s *requests, uint64_t at) noexcept nogil:
    """Note what a request's head is followed by, `at` octets after the uplink's beginning.

    What chunks say of their sizes is as a head.
    """
    cdef uint8_t stage = requests.exchange.uplink.stage
    requests.body_at = (at if stage == STAGE_FIXED or stage == STAGE_ENDS or stage == STAGE_BETWEEN
                        else NOWHERE)


cdef bint is_resent(const way_s *way, uint32_t sequence, uint32_t count) noexcept nogil:
    """Whether all octets of a segment have come before, or are what asks whether one is there."""
    cdef uint32_t behind = way.next - sequence
    return way.known and count <= behind <= min(way.passed + 1, <uint64_t>WINDOW_OCTETS_MAX)


cdef bint reach(
    way_s *way, http_s *http, uint32_t sequence, uint32_t *again
) noexcept nogil:
    """Come to where a segment begins; False: something is missing whose meaning nobody knows.

    again   how many of its octets have come before
    """
    cdef uint32_t behind = way.next - sequence
    again[0] = 0
    if not way.known:
        way.known = True
        way.next = sequence
    elif 0 < behind <= min(way.passed + 1, <uint64_t>WINDOW_OCTETS_MAX):
        again[0] = behind
    elif behind:
        return pass_over(way, http, sequence - way.next)
    return True


cdef bint pass_over(way_s *way, http_s *http, uint32_t count) noexcept nogil:
    """Leave out octets that were not captured, or come later; False: they are more than a body has.

    What a body has inside says nothing of where it ends. That it has ended, the next reading tells.
    """
    if not count:
        return True
    if http.stage == STAGE_FIXED or http.stage == STAGE_CHUNK:
        if count > http.left:
            return False
        http.left -= count
        if not http.left:
            http.stage = STAGE_ENDS if http.stage == STAGE_FIXED else STAGE_CHUNK_END
    elif http.stage != STAGE_CLOSE and http.stage != STAGE_TUNNEL:
        return False
    way.next += count
    way.passed += count
    return True
