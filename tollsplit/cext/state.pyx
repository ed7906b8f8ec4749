"""What a worker remembers of the packets that it has met, and its time."""

from libc.stdint cimport uint32_t, uint64_t

from tollsplit.cext.flows cimport Flows, flow_s
from tollsplit.cext.fragments cimport Fragments, assembly_s

BOUNDS = {"CLOCK_BEHIND_NS": CLOCK_BEHIND_NS}


cdef class State:
    """What the verdict on a packet depends on beside itself; one for each worker.

    datagrams            fragmented ones that are known at a time
    fragments            that wait for their datagram's first
    fragment_timeout_ns  how long a datagram is known
    flows                that are known at a time
    held                 counters of their packets that are not charged yet
    flow_idle_ns         how long a flow without packets is known
    flow_hold_ns         how long its packets wait for what it is

    It outlives the meters that a worker counts with, one after the other, and their rules.
    """

    def __cinit__(self, uint32_t datagrams, uint32_t fragments, uint64_t fragment_timeout_ns,
                  uint32_t flows, uint32_t held, uint64_t flow_idle_ns, uint64_t flow_hold_ns):
        self.fragments = Fragments(
            datagrams, sizeof(assembly_s), fragments, fragment_timeout_ns)
        self.flows = Flows(flows, sizeof(flow_s), held, flow_idle_ns, flow_hold_ns)

    cdef uint64_t advance(self, uint64_t timestamp_ns) noexcept nogil:
        """The time at which a frame comes, all before it considered; what is over by then ends.

        A frame that is a little older than another is late, and it is as late as that one. Much
        older ones tell of a clock that was set back.
        """
        if timestamp_ns > self.now_ns or self.now_ns - timestamp_ns > CLOCK_BEHIND_NS:
            self.now_ns = timestamp_ns
        self.fragments.expire(self.now_ns)
        return self.now_ns
