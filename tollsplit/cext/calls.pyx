"""Flows in which the subscriber has said something: what else comes to him nobody asked for."""

from libc.stdint cimport uint64_t

from tollsplit.cext.flows cimport flow_key
from tollsplit.cext.key cimport key_s
from tollsplit.cext.lapsing cimport Lapsing, lapsing_s
from tollsplit.cext.layout cimport *
from tollsplit.cext.network cimport PROTOCOL_SCTP, PROTOCOL_TCP, PROTOCOL_UDP
from tollsplit.cext.subscribers cimport Subscribers, whose
from tollsplit.cext.totals cimport Totals

cdef enum:
    TCP_RST = 4


cdef class Calls(Lapsing):
    """Flows by subscriber and five-tuple, known from an uplink packet on.

    A call is over when the subscriber resets it (RST), or has not said anything for the idle time:
    what the other end sends keeps no call open, or who is hung up on could go on for ever.
    """

    cdef call_e meet(self, const key_s *key, const packet_s *row, uint64_t now_ns) noexcept nogil:
        """What a packet is to its call, which an uplink packet opens, keeps open, or ends."""
        cdef uint32_t number
        self.expire(now_ns)
        number = self.known(key, now_ns)
        if row.direction == DIRECTION_DOWNLINK:
            if number:
                return CALL_GOES_ON
            return CALL_NONE if self.count < self.most else CALL_UNKNOWN
        if row.protocol == PROTOCOL_TCP and row.tcp_flags & TCP_RST:
            if number:
                self.drop(number)
        elif number:
            (<lapsing_s *>self.at(number)).last_ns = now_ns
        elif not self.begin(key, now_ns):
            return CALL_UNKNOWN
        return CALL_GOES_ON

    cdef void hear_all(
        self, const packet_s *rows, int count, int total, const uint64_t *now_ns,
        Subscribers subscribers, Totals totals
    ) noexcept nogil:
        """The same as hear() for all rows of some frames, frame by frame.

        rows     downlinks of packets between two subscribers stand behind the `count` frames' own
        now_ns   of each frame
        """
        cdef int i, other = count
        for i in range(count):
            if other < total and rows[other].frame == <uint32_t>i:
                self.hear(&rows[other], now_ns[i], subscribers, totals)
                other += 1
            self.hear(&rows[i], now_ns[i], subscribers, totals)

    cdef void hear(
        self, const packet_s *row, uint64_t now_ns, Subscribers subscribers, Totals totals
    ) noexcept nogil:
        """Count a metered row that came without being asked for. A port that it lacks tells nothing."""
        cdef subscriber_s who
        cdef key_s key
        cdef call_e found
        if row.bucket != BUCKET_METERED or row.flags & FLAG_LATER_FRAGMENT:
            return
        if not row.tags & TAG_PORTS and row.protocol in (
                PROTOCOL_TCP, PROTOCOL_UDP, PROTOCOL_SCTP):
            return
        whose(subscribers, row, &who)
        flow_key(row, &who, &key)
        found = self.meet(&key, row, now_ns)
        if found == CALL_NONE:
            totals.unsolicited(row)
        elif found == CALL_UNKNOWN:
            totals.untracked(row)
