"""Fragments → their datagrams: what only the first one says is said of all."""

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free, realloc

from tollsplit.cext.bounded cimport Bounded, entry_s, order_s
from tollsplit.cext.cursor cimport datagram_s
from tollsplit.cext.key cimport begin_key, key_s
from tollsplit.cext.layout cimport *

BOUNDS = {"FRAGMENT_SPANS_MAX": SPANS_MAX}

cdef enum:
    WAITING_AT_FIRST = 64


cdef class Fragments(Bounded):
    """Datagrams by source, destination, protocol, identification and subscriber.

    A later fragment has no ports: it is given its datagram's, or waits until the first one
    comes. What waits is decided as it is when the datagram's time is over, or another needs its
    room: then the datagram that came first goes first, and before all those that are complete.
    Those stay for as long, so that a fragment which is seen twice is known again. Where another
    first fragment follows a complete datagram, another datagram begins; where it contradicts the
    first one of an incomplete one, nobody can tell which the receiver takes: there are no ports
    from there on.

    most            datagrams
    waiting_most    fragments that wait, between two frames
    timeout_ns      how long a datagram is known, since its first fragment, or since it is complete
    """

    def __cinit__(self, uint32_t most, size_t entry_octets, uint32_t waiting_most,
                  uint64_t timeout_ns):
        self.waiting_most = waiting_most
        self.timeout_ns = timeout_ns
        self.waiting_room = WAITING_AT_FIRST
        self.waiting = <waiting_s *>realloc(NULL, (self.waiting_room + 1) * sizeof(waiting_s))
        if self.waiting == NULL or entry_octets != sizeof(assembly_s):
            raise MemoryError

    def __dealloc__(self):
        free(self.waiting)

    cdef int meet(
        self, packet_s *row, const datagram_s *datagram, const subscriber_s *who,
        uint64_t now_ns, bint holding
    ) noexcept nogil:
        """Take in a metered fragment; met_e says what becomes of it.

        holding   False: nothing waits that does not already
        Others may be decided by it: take() gives them.
        """
        cdef uint32_t number = self.assembly_of(row, datagram, who, now_ns)
        cdef assembly_s *assembly
        cdef int met = MET_GOES_ON
        if not number:
            return MET_UNTRACKED
        assembly = <assembly_s *>self.at(number)
        if add_span(assembly, datagram.first, datagram.end):
            met |= MET_OVERLAPS
        if not datagram.more:
            assembly.octets = datagram.end
        if not row.flags & FLAG_LATER_FRAGMENT and not assembly.known:
            assembly.known = True
            assembly.protocol = row.protocol
            assembly.tcp_flags = row.tcp_flags
            assembly.ports = row.tags & TAG_PORTS
            assembly.source_port = row.source_port
            assembly.destination_port = row.destination_port
            self.decide(assembly, False)
        elif not row.flags & FLAG_LATER_FRAGMENT and not says(assembly, row):
            assembly.ports = assembly.source_port = assembly.destination_port = 0
        if assembly.known:
            self.complete_row(assembly, row)
            if not assembly.whole and is_whole(assembly):
                assembly.whole = True
                self.unlink(&self.pending, number)
                assembly.entry.since_ns = now_ns
                self.append(&self.complete, number)
            return met
        if not holding:
            return met
        return met | (MET_WAITS if self.hold(number, row, who) else MET_UNTRACKED)

    cdef uint32_t assembly_of(
        self, const packet_s *row, const datagram_s *datagram, const subscriber_s *who,
        uint64_t now_ns
    ) noexcept nogil:
        """The number of a fragment's datagram, begun where it has to be; 0: memory is short."""
        cdef key_s key
        cdef uint32_t number
        cdef assembly_s *assembly
        begin_key(row, who, &key)
        key.number = datagram.identification
        # of IPv6, later fragments may name another header than the first (RFC 8200 §4.5)
        key.protocol = row.protocol if row.version == 4 else 0
        key.direction = row.direction
        number = self.find(&key)
        if number:
            assembly = <assembly_s *>self.at(number)
            if not assembly.whole or row.flags & FLAG_LATER_FRAGMENT:
                return number
            self.drop(&self.complete, number, False)
        if self.count >= self.most:
            if self.complete.oldest:
                self.drop(&self.complete, self.complete.oldest, True)
            else:
                self.drop(&self.pending, self.pending.oldest, True)
        number = self.add(&key)
        if number:
            self.at(number).since_ns = now_ns
            self.append(&self.pending, number)
        return number

    cdef void complete_row(self, const assembly_s *assembly, packet_s *row) noexcept nogil:
        """Say of a fragment what its datagram's first one says."""
        row.flags &= ~<uint16_t>FLAG_LATER_FRAGMENT
        row.protocol = assembly.protocol
        row.tcp_flags = assembly.tcp_flags
        row.tags = (row.tags & ~<uint16_t>TAG_PORTS) | assembly.ports
        row.source_port = assembly.source_port
        row.destination_port = assembly.destination_port
        if row.direction == DIRECTION_DOWNLINK:
            row.server_port = row.source_port
            row.subscriber_port = row.destination_port
        else:
            row.server_port = row.destination_port
            row.subscriber_port = row.source_port

    cdef bint hold(
        self, uint32_t number, const packet_s *row, const subscriber_s *who
    ) noexcept nogil:
        """Let a fragment wait for its datagram's first one; False: memory is short.

        Where too many wait, those of the oldest datagrams wait no more: maybe this one's.
        """
        cdef uint32_t place = self.waiting_place()
        cdef assembly_s *assembly = <assembly_s *>self.at(number)
        if not place:
            return False
        self.waiting[place].row = row[0]
        self.waiting[place].who = who[0]
        self.waiting[place].next = 0
        if assembly.entry.held:
            self.waiting[assembly.held_last].next = place
        else:
            assembly.entry.held = place
        assembly.held_last = place
        self.waiting_count += 1
        while self.waiting_count > self.waiting_most:
            self.drop(&self.pending, self.pending.oldest, True)
        return True

    cdef uint32_t waiting_place(self) noexcept nogil:
        """A place for one more that waits; 0: memory is short."""
        cdef uint32_t place = self.waiting_free
        cdef waiting_s *waiting
        if place:
            self.waiting_free = self.waiting[place].next
            return place
        if self.waiting_made == self.waiting_room:
            waiting = <waiting_s *>realloc(
                self.waiting, (2 * <size_t>self.waiting_room + 1) * sizeof(waiting_s))
            if waiting == NULL:
                return 0
            self.waiting = waiting
            self.waiting_room *= 2
        self.waiting_made += 1
        return self.waiting_made

    cdef void drop(self, order_s *order, uint32_t number, bint crowded) noexcept nogil:
        """Forget a datagram; what waits for it is decided as it is.

        crowded   for want of room, before its time
        """
        self.decide(<assembly_s *>self.at(number), crowded)
        self.unlink(order, number)
        self.remove(number)

    cdef void decide(self, assembly_s *assembly, bint crowded) noexcept nogil:
        """Let nothing wait for a datagram any more: by what is known of it, or as it is."""
        cdef uint32_t place = assembly.entry.held
        if not place:
            return
        if self.decided:
            self.waiting[self.decided_last].next = place
        else:
            self.decided = place
        self.decided_last = assembly.held_last
        assembly.entry.held = assembly.held_last = 0
        while place:
            if assembly.known:
                self.complete_row(assembly, &self.waiting[place].row)
            elif crowded:
                self.waiting[place].row.flags |= FLAG_UNTRACKED
            self.waiting_count -= 1
            place = self.waiting[place].next

    cdef void expire(self, uint64_t now_ns) noexcept nogil:
        """Forget the datagrams whose time is over."""
        while self.pending.oldest and over(
                self.at(self.pending.oldest).since_ns, now_ns, self.timeout_ns):
            self.drop(&self.pending, self.pending.oldest, False)
        while self.complete.oldest and over(
                self.at(self.complete.oldest).since_ns, now_ns, self.timeout_ns):
            self.drop(&self.complete, self.complete.oldest, False)

    cdef void release(self) noexcept nogil:
        """Let nothing wait any more: who waited is decided as it is. Datagrams stay known."""
        cdef uint32_t number = self.pending.oldest
        while number:
            self.decide(<assembly_s *>self.at(number), False)
            number = self.at(number).newer

    cdef bint take(self, packet_s *row, subscriber_s *who) noexcept nogil:
        """The next of those that are decided, in the order in which they were; False: none."""
        cdef uint32_t place = self.decided
        if not place:
            return False
        row[0] = self.waiting[place].row
        who[0] = self.waiting[place].who
        self.decided = self.waiting[place].next
        self.waiting[place].next = self.waiting_free
        self.waiting_free = place
        return True


cdef inline bint says(const assembly_s *assembly, const packet_s *row) noexcept nogil:
    """Whether a first fragment has the ports that its datagram has."""
    return (assembly.ports == row.tags & TAG_PORTS and assembly.protocol == row.protocol
            and assembly.source_port == row.source_port
            and assembly.destination_port == row.destination_port)


cdef inline bint is_whole(const assembly_s *assembly) noexcept nogil:
    """Whether all octets of a datagram were met; its first fragment was."""
    return (assembly.octets != 0 and assembly.spans == 1 and assembly.first[0] == 0
            and assembly.end[0] >= assembly.octets)


cdef inline bint add_span(assembly_s *assembly, uint32_t first, uint32_t end) noexcept nogil:
    """Add a stretch to those that were met; True where some of it was met before.

    Stretches that touch become one. One too many is not remembered.
    """
    cdef bint overlaps = False
    cdef int i, kept = 0
    for i in range(assembly.spans):
        if end < assembly.first[i] or assembly.end[i] < first:
            assembly.first[kept] = assembly.first[i]
            assembly.end[kept] = assembly.end[i]
            kept += 1
            continue
        overlaps |= first < assembly.end[i] and assembly.first[i] < end
        first = min(first, assembly.first[i])
        end = max(end, assembly.end[i])
    if kept < SPANS_MAX:
        assembly.first[kept] = first
        assembly.end[kept] = end
        kept += 1
    assembly.spans = kept
    return overlaps
