"""What a worker remembers of the packets that it has met, and its time."""

import os

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from tollsplit.cext.calls cimport Calls
from tollsplit.cext.copies cimport Copies, seen_s
from tollsplit.cext.flows cimport Flows, flow_s
from tollsplit.cext.fragments cimport Fragments, assembly_s
from tollsplit.cext.lapsing cimport lapsing_s
from tollsplit.cext.layout cimport packet_s
from tollsplit.cext.requests cimport Requests
from tollsplit.cext.streams cimport Streams, stream_s
from tollsplit.cext.talk cimport Talks

cdef enum:
    HINTS = 65536
    RULES_KNOWN_MAX = 1024

BOUNDS = {
    "CLOCK_BEHIND_NS": CLOCK_BEHIND_NS, "DNS_HINTS": HINTS, "RULES_KNOWN_MAX": RULES_KNOWN_MAX,
}

KEY_OCTETS = 24
# Whose share a pair of addresses is, where nothing else is said: nobody can choose pairs that are
# all one worker's.
OWN_KEY = os.urandom(KEY_OCTETS)


cdef class State:
    """What the verdict on a packet depends on beside itself; one for each worker.

    datagrams            fragmented ones that are known at a time
    fragments            that wait for their datagram's first
    fragment_timeout_ns  how long a datagram is known
    flows                that are known at a time
    held                 counters of their packets that are not charged yet
    flow_idle_ns         how long a flow without packets is known
    flow_hold_ns         how long its packets wait for what it is
    answers              what resolvers have said, shared with other workers; as engine.answers
    copies               packets that may have copies yet
    streams              directions of TCP connections that are known at a time
    sent                 segments that all of them remember
    calls                flows in which the subscriber has said something
    talks                flows whose first octets are put in order
    requests             flows whose HTTP/1 requests are read
    gate                 shared with others: its `ask` says of a token what it calls its sponsor, or
                         why it opens nothing, as a negative number (REFUSAL_NAMES)
    share, shares        which of how many workers that are shown the same frames this one is
    key                  what shares are drawn by, KEY_OCTETS: the same for all these workers

    Streams and calls that are idle for as long as a flow are forgotten, too.

    It outlives the meters that a worker counts with, one after the other, and their rules.
    """

    def __cinit__(self, uint32_t datagrams, uint32_t fragments, uint64_t fragment_timeout_ns,
                  uint32_t flows, uint32_t held, uint64_t flow_idle_ns, uint64_t flow_hold_ns,
                  uint32_t copies, uint32_t streams, uint64_t sent, uint32_t calls,
                  uint32_t talks, uint32_t requests, gate=None, uint32_t share=0, uint32_t shares=1, *, answers,
                  bytes key=OWN_KEY):
        self.gate = gate
        if share >= shares:
            raise ValueError(f"share {share} of {shares}")
        if len(key) != KEY_OCTETS:
            raise ValueError(f"a key of {len(key)} octets, expected {KEY_OCTETS}")
        self.pair_lo, self.pair_hi, self.pair_spread = (
            int.from_bytes(key[at : at + 8], "little") | 1 for at in range(0, KEY_OCTETS, 8))
        self.share = share
        self.shares = shares
        self.fragments = Fragments(
            datagrams, sizeof(assembly_s), fragments, fragment_timeout_ns)
        self.answers = answers
        self.hints = answers.hints
        self.flows = Flows(flows, sizeof(flow_s), held, flow_idle_ns, flow_hold_ns)
        self.copies = Copies(copies, sizeof(seen_s))
        self.streams = Streams(streams, sizeof(stream_s), flow_idle_ns, sent)
        self.calls = Calls(calls, sizeof(lapsing_s), flow_idle_ns)
        self.talks = Talks(talks)
        self.requests = Requests(requests, flows)
        self.conditions = {}
        self.carried = {}

    @property
    def room(self):
        """(how many there were at most at a time, how many there may be) of what is remembered."""
        return [
            (self.fragments.made, self.fragments.most),
            (self.fragments.waiting_made, self.fragments.waiting_most),
            (self.flows.made, self.flows.most),
            (self.flows.held_made, self.flows.held_most),
            (self.copies.made, self.copies.most),
            (self.streams.made, self.streams.most),
            (self.streams.sent_made, self.streams.sent_most),
            (self.calls.made, self.calls.most),
            (self.talks.made, self.talks.most),
            (self.requests.made, self.requests.most),
        ]

    cdef bint is_own(self, const packet_s *row) noexcept nogil:
        """Whether a frame is this worker's to account, by the addresses of its metered packet.

        Both directions, fragments, and packets between two subscribers so come to one worker. What
        others' packets teach a flow would have to come to all, and be accounted by this one.

        One product of neighbouring addresses would move as far from each as the key says: with one
        key in a hundred, too little for a third worker.
        """
        cdef uint64_t pair = (row.source_lo ^ row.destination_lo) * self.pair_lo
        if row.version == 6:
            pair += (row.source_hi ^ row.destination_hi) * self.pair_hi
        pair = (pair ^ pair >> 32) * self.pair_spread
        return (pair >> 32) * self.shares >> 32 == self.share

    cdef uint64_t advance(self, uint64_t timestamp_ns) noexcept nogil:
        """The time at which a frame comes, all before it considered, its own or others'.

        A frame that is a little older than another is late, and it is as late as that one. Much
        older ones tell of a clock that was set back.
        """
        if timestamp_ns > self.clock_ns:
            self.clock_ns = timestamp_ns
        elif self.clock_ns - timestamp_ns > CLOCK_BEHIND_NS:
            self.clock_ns = timestamp_ns
            self.set_back = True
        return self.clock_ns

    cdef void reach(self, uint64_t now_ns) noexcept nogil:
        """It is as late as that; what is over by then ends."""
        self.now_ns = now_ns
        self.fragments.expire(now_ns)

    cdef int know(self, uint32_t serial, list conditions) except -1:
        """Remember what facts under the rules of a serial are about."""
        if serial in self.conditions:
            return 0
        self.conditions[serial] = conditions
        self.carried.clear()
        if len(self.conditions) > RULES_KNOWN_MAX:
            del self.conditions[min(self.conditions)]
        return 0

    cdef uint64_t carry(self, uint64_t facts, uint32_t serial, uint32_t later) except? 0:
        """What a flow's facts are under later rules: those whose lists have all that the others had."""
        if (serial, later) not in self.carried:
            self.carried[serial, later] = implied(
                self.conditions.get(serial, []), self.conditions.get(later, []))
        found = 0
        for bit, others in enumerate(self.carried[serial, later]):
            if facts >> bit & 1:
                found |= others
        return found


def implied(before, after):
    """Of each condition which of some others it fulfils, as bits.

    A name that is believed where a hello may hide another is believed of an open one, not the
    other way round.
    """
    found = []
    for one in before:
        bits = 0
        for bit, other in enumerate(after):
            if one is not None and other is not None and one[1] <= other[1] and (
                    one[0] == other[0] or (one[0], other[0]) == ("sni", "outer")):
                bits |= 1 << bit
        found.append(bits)
    return found
