"""TCP's streams: what of them was sent, so that it is known again when it is sent again."""

from libc.stdint cimport int32_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memmove, memset

from tollsplit.cext.counted cimport BATCH
from tollsplit.cext.cursor cimport inside_s
from tollsplit.cext.digest cimport digest_of, draw_digest_key
from tollsplit.cext.dissect cimport EXEMPT_IF_IDENTICAL, look_inside, meter_s
from tollsplit.cext.flows cimport flow_key
from tollsplit.cext.key cimport key_s
from tollsplit.cext.lapsing cimport Lapsing
from tollsplit.cext.layout cimport *
from tollsplit.cext.network cimport PROTOCOL_TCP
from tollsplit.cext.subscribers cimport Subscribers, whose
from tollsplit.cext.totals cimport Totals

BOUNDS = {
    "SENT_OF_ONE_MAX": SENT_OF_ONE_MAX, "EXEMPT_TIMES_MAX": EXEMPT_TIMES_MAX,
    "EXEMPT_OPTIONS_MAX": EXEMPT_OPTIONS_MAX, "EXEMPT_PAYLOAD_MIN": EXEMPT_PAYLOAD_MIN,
}

cdef enum:
    TCP_SYN = 2
    TCP_RST = 4
    SENT_AT_FIRST = 4
    PIECE_MAX = 0xFFFF           # what sent_s holds
    PAYLOAD_MAX = 1 << 24        # longer than any segment, joined ones included
    REACH = 1 << 29              # sequences farther apart are not of one stream: no window is so wide


cdef class Streams(Lapsing):
    """Directions of TCP connections, by subscriber and five-tuple.

    most        streams; another one finds no room until one has been idle for long enough
    idle_ns     how long a stream that sends nothing is known
    sent_most   segments that all of them remember together, between two frames

    Nothing is kept of a payload but a digest of each segment, and where it lies. So what is sent
    again can be compared where it consists of whole segments, in whatever packets they come. What
    cannot is no retransmission, or none that is known as one: what lies within a segment, what was
    not captured as a whole, what was sent too long ago.
    """

    def __cinit__(self, uint32_t most, size_t entry_octets, uint64_t idle_ns, uint64_t sent_most):
        draw_digest_key(&self.digest_key)
        self.sent_most = sent_most
        if entry_octets != sizeof(stream_s):
            raise ValueError("a stream's entry has another size")

    def __dealloc__(self):
        cdef uint32_t number
        for number in range(1, self.made + 1):
            free((<stream_s *>self.at(number)).sent)

    cdef void compare(
        self, const frame_s *frames, packet_s *rows, int count, int total, const meter_s *meter,
        const uint64_t *now_ns, Subscribers subscribers, Totals totals
    ) noexcept nogil:
        """Say of rows that bring again what was sent before: who pays, or that nobody does.

        rows     of `count` frames, at most BATCH, whose they are; downlinks of packets between two
                 subscribers, which are as their uplinks are, behind
        now_ns   of each frame

        Places and entries of all rows are asked for before the first is needed.
        """
        cdef inside_s inside
        cdef subscriber_s who
        cdef key_s keys[BATCH]
        cdef brings_e brings
        cdef int i, other = count
        for i in range(count):
            if sends(&rows[i]):
                whose(subscribers, &rows[i], &who)
                flow_key(&rows[i], &who, &keys[i])
                keys[i].direction = rows[i].direction
                self.expect(&keys[i])
        for i in range(count):
            if sends(&rows[i]):
                self.expect_entry(&keys[i])
        for i in range(count):
            while other < total and rows[other].frame < <uint32_t>i:
                other += 1
            if not sends(&rows[i]):
                continue
            look_inside(&frames[i], meter, &inside)
            brings = self.meet(&keys[i], &rows[i], &inside, piece_of(&frames[i]), now_ns[i])
            if brings == BRINGS_NEW:
                continue
            settle(brings, &rows[i], meter, totals)
            if other < total and rows[other].frame == <uint32_t>i:
                settle(brings, &rows[other], meter, totals)

    cdef brings_e meet(
        self, const key_s *key, const packet_s *row, const inside_s *inside, uint32_t piece,
        uint64_t now_ns
    ) noexcept nogil:
        """Take in a packet of a stream."""
        cdef comparison_s c
        cdef stream_s *stream
        cdef uint32_t number
        cdef uint32_t headers = inside.packet_octets - inside.payload_octets
        cdef bint lean = inside.payload_octets >= EXEMPT_PAYLOAD_MIN and (
            headers <= (40 if row.version == 4 else 60) + EXEMPT_OPTIONS_MAX)
        self.expire(now_ns)
        number = self.known(key, now_ns)
        if number and row.tcp_flags & (TCP_SYN | TCP_RST):
            self.drop(number)  # what follows is another connection
            number = 0
        if row.tcp_flags & TCP_RST or inside.payload == NULL or not (
                0 < inside.payload_octets <= PAYLOAD_MAX):
            return BRINGS_NEW
        memset(&c, 0, sizeof(comparison_s))
        c.inside = inside
        c.sequence = inside.sequence + (1 if row.tcp_flags & TCP_SYN else 0)
        c.piece = piece
        c.same = c.kept = True
        # A keep-alive's octet may be anything (RFC 1122 §4.2.3.6), so one is never compared.
        if inside.payload_octets == 1 and (
                not number or c.sequence + 1 == (<stream_s *>self.at(number)).top):
            return BRINGS_NEW
        if not number:
            number = self.begin(key, now_ns)
            if not number:
                return BRINGS_UNTRACKED
            (<stream_s *>self.at(number)).top = c.sequence
        stream = <stream_s *>self.at(number)
        stream.lapsing.last_ns = now_ns
        return self.take(stream, &c, lean)

    cdef brings_e take(self, stream_s *stream, comparison_s *c, bint lean) noexcept nogil:
        """Compare a segment with what was sent, and keep what of it was not.

        lean   its packet has room for little else than the payload
        """
        cdef uint32_t end = c.inside.payload_octets, first, stop, i
        cdef int32_t start
        if not -REACH <= <int32_t>(c.sequence - stream.top) <= REACH:
            stream.count = stream.forgetful = 0
            stream.top = c.sequence
        c.index = first = first_behind(stream, c.sequence)
        if stream.forgetful and <int32_t>(stream.bottom - c.sequence) > 0:
            c.same = False
            c.at = min(end, stream.bottom - c.sequence)
        while c.at < end:
            stop = end
            if c.index < stream.count:
                start = <int32_t>(stream.sent[c.index].sequence - c.sequence)
                if start <= <int32_t>c.at:
                    self.compare_with(&stream.sent[c.index], c)
                    continue
                stop = min(end, <uint32_t>start)
            c.same = False
            self.keep(stream, c, stop)
        if <int32_t>(c.sequence + end - stream.top) > 0:
            stream.top = c.sequence + end
            forget_beyond_reach(stream)
        if c.other:
            return BRINGS_OTHER
        if not c.kept:
            return BRINGS_UNTRACKED
        if not c.same or not lean:
            return BRINGS_NEW
        for i in range(first, c.index):
            if stream.sent[i].exempted >= EXEMPT_TIMES_MAX:
                return BRINGS_NEW
        for i in range(first, c.index):
            stream.sent[i].exempted += 1
        return BRINGS_THE_SAME

    cdef void compare_with(self, const sent_s *sent, comparison_s *c) noexcept nogil:
        """Compare with the segment that lies where the comparison has come to."""
        cdef int32_t start = <int32_t>(sent.sequence - c.sequence)
        cdef uint32_t end = <uint32_t>(start + <int32_t>sent.octets)
        if start != <int32_t>c.at or not sent.whole or end > c.inside.payload_captured or (
                end > c.inside.payload_octets):
            c.same = False
        elif digest_of(&self.digest_key, c.inside.payload + c.at, sent.octets) != sent.digest:
            c.same = False
            c.other = True
        c.at = min(end, c.inside.payload_octets)
        c.index += 1

    cdef void keep(self, stream_s *stream, comparison_s *c, uint32_t end) noexcept nogil:
        """Remember a stretch of the payload that was not sent before."""
        cdef uint32_t until
        cdef sent_s *sent
        while c.at < end:
            until = min(end, (c.at // c.piece + 1) * c.piece)
            if not self.make_room(stream, c):
                c.kept = stream.room != 0  # else it is only too old
                c.at = end
                return
            sent = &stream.sent[c.index]
            memmove(sent + 1, sent, (stream.count - c.index) * sizeof(sent_s))
            sent.sequence = c.sequence + c.at
            sent.octets = until - c.at
            sent.exempted = 0
            sent.whole = until <= c.inside.payload_captured
            sent.digest = digest_of(
                &self.digest_key, c.inside.payload + c.at, sent.octets) if sent.whole else 0
            stream.count += 1
            c.index += 1
            c.at = until

    cdef bint make_room(self, stream_s *stream, comparison_s *c) noexcept nogil:
        """Make room for one more segment; where too many are remembered, the first are forgotten.

        False: it would be the first itself, or there is no room at all.
        """
        cdef uint32_t room = max(<uint32_t>SENT_AT_FIRST, 2 * stream.room)
        cdef sent_s *sent
        if stream.count < stream.room:
            return True
        if room <= SENT_OF_ONE_MAX and self.sent_room + room - stream.room <= self.sent_most:
            sent = <sent_s *>realloc(stream.sent, room * sizeof(sent_s))
            if sent != NULL:
                self.sent_room += room - stream.room
                self.sent_made = max(self.sent_made, self.sent_room)
                stream.sent = sent
                stream.room = room
                return True
        room = min(c.index, (stream.count + 3) // 4)
        if not room:
            return False
        forget_first(stream, room)
        c.index -= room
        return True

    cdef void drop(self, uint32_t number) noexcept nogil:
        """Forget a stream."""
        cdef stream_s *stream = <stream_s *>self.at(number)
        self.sent_room -= stream.room
        free(stream.sent)
        stream.sent = NULL
        Lapsing.drop(self, number)


cdef inline bint sends(const packet_s *row) noexcept nogil:
    """Whether a row is of a metered packet that adds to a stream of TCP, or ends one."""
    return (row.bucket == BUCKET_METERED and row.protocol == PROTOCOL_TCP
            and row.tags & TAG_PORTS and not row.flags & FLAG_FRAGMENT
            and (row.payload_octets or row.tcp_flags & (TCP_SYN | TCP_RST)))


cdef inline uint32_t piece_of(const frame_s *frame) noexcept nogil:
    """Octets of the segments that a packet was coalesced from, the last one apart."""
    if 0 < frame.segment_octets < PIECE_MAX:
        return frame.segment_octets
    return PIECE_MAX


cdef void settle(
    brings_e brings, packet_s *row, const meter_s *meter, Totals totals
) noexcept nogil:
    """What becomes of a row for what it brings."""
    if row.bucket != BUCKET_METERED:
        return
    if brings == BRINGS_UNTRACKED:
        totals.untracked(row)
    elif brings == BRINGS_OTHER:
        row.rule = 0
        row.flags |= FLAG_SUSPICIOUS
        totals.suspicious(row)
    elif brings == BRINGS_THE_SAME and meter.retransmissions == EXEMPT_IF_IDENTICAL:
        row.bucket = BUCKET_RETRANSMITTED


cdef uint32_t first_behind(const stream_s *stream, uint32_t sequence) noexcept nogil:
    """The index of the first segment that ends behind a sequence; mostly there is none."""
    cdef uint32_t low = 0, high = stream.count, middle
    cdef const sent_s *sent
    if high and <int32_t>(
            stream.sent[high - 1].sequence + stream.sent[high - 1].octets - sequence) <= 0:
        return high
    while low < high:
        middle = (low + high) // 2
        sent = &stream.sent[middle]
        if <int32_t>(sent.sequence + sent.octets - sequence) <= 0:
            low = middle + 1
        else:
            high = middle
    return low


cdef void forget_first(stream_s *stream, uint32_t count) noexcept nogil:
    """Forget the first segments."""
    cdef const sent_s *last = &stream.sent[count - 1]
    stream.bottom = last.sequence + last.octets
    stream.forgetful = True
    memmove(stream.sent, stream.sent + count, (stream.count - count) * sizeof(sent_s))
    stream.count -= count


cdef void forget_beyond_reach(stream_s *stream) noexcept nogil:
    """Forget the segments that are too far from the top to be compared with."""
    cdef uint32_t count = 0
    while count < stream.count and <int32_t>(stream.top - stream.sent[count].sequence) > REACH:
        count += 1
    if count:
        forget_first(stream, count)
