"""Flows, in a bounded table: what their packets have shown, and what they have yet to be charged."""

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memset

from tollsplit.cext.bounded cimport Bounded, beside, entry_s, order_s
from tollsplit.cext.fragments cimport over
from tollsplit.cext.key cimport key_s
from tollsplit.cext.layout cimport *

cdef enum:
    HELD_AT_FIRST = 64


cdef class Flows(Bounded):
    """Flows by five-tuple and subscriber; both directions are one.

    most        flows; for another one the one makes room that has shown nothing for longest
    held_most   counters of packets that wait, between two frames
    idle_ns     how long a flow without packets is known
    hold_ns     how long its packets may wait, from its first one on, or from wait() on
    """

    def __cinit__(self, uint32_t most, size_t entry_octets, uint32_t held_most, uint64_t idle_ns,
                  uint64_t hold_ns):
        self.held_most = held_most
        self.idle_ns = idle_ns
        self.hold_ns = hold_ns
        self.held_room = HELD_AT_FIRST
        self.held = <held_s *>realloc(NULL, (self.held_room + 1) * sizeof(held_s))
        if self.held == NULL or entry_octets != sizeof(flow_s):
            raise MemoryError
        self.all_sponsors = beside(<size_t>most + 1)
        self.sponsors = &self.all_sponsors[0]

    def __dealloc__(self):
        free(self.held)

    cdef uint32_t open(self, const key_s *key, uint64_t now_ns) noexcept nogil:
        """The number of a flow that is not known yet; 0: there is no room.

        A packet later moves nothing in the list: it would touch two others each time. So whether
        there were any is asked when the flow has been listed for as long as one may be idle.
        """
        cdef uint32_t number = self.add(key)
        cdef flow_s *flow
        if not number:
            return 0
        flow = <flow_s *>self.at(number)
        flow.last_ns = flow.entry.since_ns = now_ns
        flow.direction = DIRECTION_NONE
        self.sponsors[number] = 0
        self.wait(number, now_ns)
        self.append(&self.silent, number)
        return number

    cdef void wait(self, uint32_t number, uint64_t now_ns) noexcept nogil:
        """Let packets of a flow be held from now on, for as long as they may be."""
        cdef flow_s *flow = <flow_s *>self.at(number)
        self.wait_no_more(number)
        flow.waits_ns = now_ns
        flow.waits_older = self.waits_newest
        if self.waits_newest:
            (<flow_s *>self.at(self.waits_newest)).waits_newer = number
        else:
            self.waits_oldest = number
        self.waits_newest = number

    cdef bint is_idle(self, uint32_t number, uint64_t now_ns) noexcept nogil:
        """Whether a flow's packets are so long ago that it is another one now."""
        return over((<flow_s *>self.at(number)).last_ns, now_ns, self.idle_ns)

    cdef bint waits(self, uint32_t number) noexcept nogil:
        """Whether packets of a flow may be held."""
        cdef const flow_s *flow = <const flow_s *>self.at(number)
        return flow.waits_older != 0 or self.waits_oldest == number

    cdef void wait_no_more(self, uint32_t number) noexcept nogil:
        """Hold nothing of a flow any more; what was held has been counted."""
        cdef flow_s *flow = <flow_s *>self.at(number)
        if not self.waits(number):
            return
        if flow.waits_newer:
            (<flow_s *>self.at(flow.waits_newer)).waits_older = flow.waits_older
        else:
            self.waits_newest = flow.waits_older
        if flow.waits_older:
            (<flow_s *>self.at(flow.waits_older)).waits_newer = flow.waits_newer
        else:
            self.waits_oldest = flow.waits_newer
        flow.waits_older = flow.waits_newer = 0

    cdef bint hold(
        self, uint32_t number, const packet_s *row, uint64_t eligible, bint decided,
        uint64_t cell_ns
    ) noexcept nogil:
        """Add a row to what waits of its flow; False: memory is short.

        eligible  the rules of flows that may cover the row
        decided   whether they mind the host of its request
        cell_ns   where its time cell begins
        """
        cdef entry_s *entry = self.at(number)
        cdef uint32_t place = entry.held, last = 0
        cdef held_s *held
        cdef bint downlink = row.direction == DIRECTION_DOWNLINK
        while place:
            held = &self.held[place]
            if (held.cell_ns == cell_ns and held.rule == row.rule
                    and held.flags == row.flags & FLAGS_KEPT and held.eligible == eligible
                    and held.decided == decided):
                break
            last = place
            place = held.next
        if not place:
            place = self.held_place()
            if not place:
                return False
            held = &self.held[place]
            memset(held, 0, sizeof(held_s))
            held.cell_ns = cell_ns
            held.rule = row.rule
            held.eligible = eligible
            held.decided = decided
            held.flags = row.flags & FLAGS_KEPT
            held.first_ns = row.timestamp_ns
            if last:
                self.held[last].next = place
            else:
                entry.held = place
        held = &self.held[place]
        held.packets[downlink] += 1
        held.octets[downlink] += row.octets
        if row.flags & FLAG_TWICE:
            held.twice_packets += 1
            held.twice_octets += row.octets
        held.first_ns = min(held.first_ns, row.timestamp_ns)
        held.last_ns = max(held.last_ns, row.timestamp_ns)
        return True

    cdef uint32_t held_place(self) noexcept nogil:
        """A place for one more counter; 0: memory is short."""
        cdef uint32_t place = self.held_free
        cdef held_s *held
        if place:
            self.held_free = self.held[place].next
        else:
            if self.held_made == self.held_room:
                held = <held_s *>realloc(
                    self.held, (2 * <size_t>self.held_room + 1) * sizeof(held_s))
                if held == NULL:
                    return 0
                self.held = held
                self.held_room *= 2
            self.held_made += 1
            place = self.held_made
        self.held_count += 1
        return place

    cdef void free_held(self, uint32_t place) noexcept nogil:
        self.held[place].next = self.held_free
        self.held_free = place
        self.held_count -= 1

    cdef uint32_t waited_enough(self, uint64_t now_ns) noexcept nogil:
        """A flow whose packets have waited for long enough; 0: none, or no other."""
        cdef uint32_t number = self.waits_oldest
        if number and over((<flow_s *>self.at(number)).waits_ns, now_ns, self.hold_ns):
            return number
        return 0

    cdef void set_facts(self, uint32_t number, uint64_t facts, uint64_t now_ns) noexcept nogil:
        """Keep of a flow what it has shown; whether that is anything says who makes room first."""
        cdef flow_s *flow = <flow_s *>self.at(number)
        if (flow.facts != 0) == (facts != 0):
            flow.facts = facts
            return
        self.unlink(self.order_of(number), number)
        flow.facts = facts
        flow.entry.since_ns = now_ns
        self.append(self.order_of(number), number)

    cdef uint32_t idle_enough(self, uint64_t now_ns) noexcept nogil:
        """A flow that has been idle for long enough; 0: none, or no other that is asked yet."""
        cdef uint32_t number = self.idle_of(&self.silent, now_ns)
        return number if number else self.idle_of(&self.telling, now_ns)

    cdef uint32_t idle_of(self, order_s *order, uint64_t now_ns) noexcept nogil:
        """The same of one list. Those that had packets since they were listed are listed anew.

        That is as of when they had to be asked, whenever they are: so when a flow goes depends on
        its own packets and the time, not on other flows.
        """
        cdef uint32_t number = order.oldest
        cdef flow_s *flow
        while number and over(self.at(number).since_ns, now_ns, self.idle_ns):
            flow = <flow_s *>self.at(number)
            if flow.last_ns <= flow.entry.since_ns:
                return number
            self.unlink(order, number)
            flow.entry.since_ns += self.idle_ns
            self.append(order, number)
            number = order.oldest
        return 0

    cdef order_s *order_of(self, uint32_t number) noexcept nogil:
        """The list that a flow is in."""
        return &self.telling if (<flow_s *>self.at(number)).facts else &self.silent

    cdef void drop(self, uint32_t number) noexcept nogil:
        """Forget a flow; what was held of it has been counted."""
        self.wait_no_more(number)
        self.unlink(self.order_of(number), number)
        self.remove(number)
