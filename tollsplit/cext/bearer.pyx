"""Flows whose subscribers bring a sponsor's token."""

from libc.stdint cimport int64_t, uint32_t, uint64_t, uint8_t

from tollsplit.cext.counted cimport Counted
from tollsplit.cext.covering cimport FACT_TOKEN
from tollsplit.cext.cursor cimport inside_s
from tollsplit.cext.dissect cimport Dissection, look_inside
from tollsplit.cext.flows cimport flow_s
from tollsplit.cext.layout cimport *
from tollsplit.cext.state cimport State
from tollsplit.cext.token cimport TOKEN_OCTETS, ask, token_in


cdef class Bearer(Counted):
    """Has the tokens judged that packets carry, and adds to the facts of their flows.

    dissection   how frames are dissected
    state        what was met before, where the rules ask for that
    """

    def __cinit__(self, Dissection dissection not None, _, __, State state=None):
        self.dissection = dissection
        self.state = state

    cdef bint may_bear(
        self, const frame_s *frame, const packet_s *row, uint32_t number, uint64_t possible
    ) noexcept nogil:
        """Whether a packet may bring the token that its flow has not brought so far.

        frame   NULL: its octets are gone, as those of a fragment that has waited

        Only what subscribers send is looked at, while the flow's packets may wait for it.
        """
        return (frame != NULL and row.direction == DIRECTION_UPLINK
                and self.awaits_token(number, possible))

    cdef bint awaits_token(self, uint32_t number, uint64_t possible) noexcept nogil:
        """Whether a token would open a flow that is not open yet."""
        return (self.state.gate is not None and not self.state.flows.sponsors[number]
                and self.classifier.covering.asks(possible, FACT_TOKEN)
                and self.state.flows.waits(number))

    cdef void look_for_token(self, const frame_s *frame) noexcept nogil:
        """Find the token that a packet carries by itself."""
        cdef inside_s inside
        look_inside(frame, &self.dissection.meter, &inside)
        self.token = token_in(&inside)
        self.token_octets = TOKEN_OCTETS

    cdef bint bear(
        self, const packet_s *row, uint32_t number, uint64_t now_ns
    ) except -1 nogil:
        """Have the token judged that a flow's packet carries; True: it opens the flow.

        Budget: 3 us, most of them for the MAC, with the GIL. Nothing is kept of one that is refused.
        """
        cdef flow_s *flow = <flow_s *>self.state.flows.at(number)
        cdef int64_t told = ask(
            self.state.gate, self.token, self.token_octets, row,
            self.classifier.subscriber_length(row))
        if told < 0:
            self.totals.refused(row, <int>-told)
            return False
        self.state.flows.sponsors[number] = <uint32_t>told
        flow.told |= 1 << FACT_TOKEN
        self.state.flows.set_facts(
            number, flow.facts | self.classifier.covering.of_token(<uint32_t>told), now_ns)
        return True
