"""Flows that speak HTTP/1: which hosts their packets' requests are for.

What a host is to the rules is known of requests, not of flows: it is never among a flow's facts.
"""

from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from tollsplit.cext.covering cimport FACT_HOST, FACT_TOKEN
from tollsplit.cext.cursor cimport inside_s
from tollsplit.cext.dissect cimport look_inside
from tollsplit.cext.exchange cimport (
    FACTS_ALL, HTTP_OUTSTANDING_MAX, ask, downlink_touches, exchange_s, read_downlink,
    read_uplink, silent_touches, uplink_touches)
from tollsplit.cext.flows cimport TOLD_BEGUN, flow_s, held_s
from tollsplit.cext.http cimport (
    HTTP_BEGINS, HTTP_BROKEN, HTTP_HEAD, HTTP_MORE, STAGE_FIXED, http_e, http_s, read_http,
    request_s)
from tollsplit.cext.layout cimport *
from tollsplit.cext.listener cimport Listener
from tollsplit.cext.network cimport PROTOCOL_TCP
from tollsplit.cext.requests cimport end_head, is_resent, pass_over, reach, way_s

cdef enum:
    TCP_SYN = 2
    TCP_RST = 4
    TCP_ACK = 16
    HOST_TOLD = 1 << FACT_HOST   # in flow_s.told: no host is believed any more


cdef class Converser(Listener):
    """Reads requests and responses in order, and says of packets whose they are.

    Whatever it cannot read as every reader would ends that: the subscriber pays from there on.
    """

    cdef bint claims(
        self, const frame_s *frame, const packet_s *row, const asked_s *asked
    ) noexcept nogil:
        """Whether a packet has a whole request for a host that a rule expects elsewhere."""
        cdef inside_s inside
        cdef http_s http
        cdef request_s request
        cdef uint32_t taken, at = 0, count
        cdef http_e event = HTTP_BEGINS
        if (not self.classifier.covering.kinds[<int>FACT_HOST] or frame == NULL
                or row.direction != DIRECTION_UPLINK or row.protocol != PROTOCOL_TCP
                or not row.payload_octets):
            return False
        look_inside(frame, &self.dissection.meter, &inside)
        if inside.payload == NULL:
            return False
        memset(&http, 0, sizeof(http_s))
        count = min(inside.payload_captured, inside.payload_octets)
        while event == HTTP_BEGINS:
            event = read_http(&http, &request, inside.payload + at, count - at, &taken)
            at += taken
        return event == HTTP_HEAD and self.classifier.covering.is_contradicted(
            asked.reachable, asked.possible,
            self.classifier.covering.facts_of_host(request.host, request.host_octets), 0)

    cdef bint converse(
        self, const frame_s *frame, packet_s *row, uint32_t number, const asked_s *asked,
        uint64_t now_ns
    ) noexcept nogil:
        """Go on in a flow's connection with a packet; True: what waits of it may be decided.

        frame   NULL: its octets are gone, as those of a fragment that has waited
        """
        cdef flow_s *flow = <flow_s *>self.state.flows.at(number)
        cdef uint8_t told = flow.told
        cdef bint undecided, begun
        cdef inside_s inside
        cdef requests_s *requests
        self.said.kind = SAID_NOTHING
        if row.protocol != PROTOCOL_TCP or not (
                self.classifier.covering.kinds[<int>FACT_HOST]
                | self.classifier.covering.kinds[<int>FACT_TOKEN]):
            return False
        requests = self.state.requests.of(number)
        if requests == NULL and self.plain:
            requests = self.begin_requests(row, number, asked)
        elif requests == NULL and not told & HOST_TOLD and self.is_unread(frame, row):
            flow.told |= HOST_TOLD
        elif requests == NULL and row.direction == DIRECTION_DOWNLINK and (
                row.tcp_flags & (TCP_SYN | TCP_ACK) == TCP_SYN | TCP_ACK):
            self.hear_answer(frame, number)
        if requests == NULL:
            return told != flow.told
        undecided = requests.exchange.undecided
        begun = requests.exchange.begun
        if frame != NULL:
            look_inside(frame, &self.dissection.meter, &inside)
        if frame == NULL or inside.payload == NULL:
            self.said.kind = SAID_OVER
        else:
            self.hear_segment(requests, &inside, row, number)
        if self.said.kind == SAID_OVER:
            self.said.kind = SAID_NOTHING
            self.state.requests.end(number)
            flow.told |= HOST_TOLD
            return True
        if requests.for_token:
            self.said.kind = SAID_NOTHING
            return False
        if requests.exchange.undecided and not undecided and not (begun and flow.entry.held):
            self.state.flows.wait(number, now_ns)
        return (undecided or not begun) and row.payload_octets != 0

    cdef bint is_unread(self, const frame_s *frame, const packet_s *row) noexcept nogil:
        """Whether a packet has octets of a connection that were to be read before, and are not.

        A server that speaks first speaks no HTTP.
        """
        cdef inside_s inside
        if frame == NULL or row.payload_octets and row.direction != DIRECTION_UPLINK:
            return True
        look_inside(frame, &self.dissection.meter, &inside)
        return row.payload_octets and inside.payload == NULL

    cdef void hear_answer(self, const frame_s *frame, uint32_t number) noexcept nogil:
        """Note that a server opens a flow's connection, as it does for no SYN but the first."""
        cdef const flow_s *flow = <const flow_s *>self.state.flows.at(number)
        cdef inside_s inside
        if frame == NULL or not flow.told & TOLD_BEGUN:
            return
        look_inside(frame, &self.dissection.meter, &inside)
        if inside.payload != NULL and inside.acknowledgment == self.first_of(flow):
            self.state.requests.answers[number] = inside.sequence + 1

    cdef requests_s *begin_requests(
        self, packet_s *row, uint32_t number, const asked_s *asked
    ) noexcept nogil:
        """Read a flow's requests from its first octets on; NULL: no rule asks, or there is no room.

        Where its SYN or the server's was not seen, its hosts are no more than claims that an
        address contradicts, and no token is believed: what looks like a request may be the body of
        another one.
        """
        cdef flow_s *flow = <flow_s *>self.state.flows.at(number)
        cdef requests_s *requests = NULL
        cdef bint hosts = self.classifier.covering.asks(asked.reachable, FACT_HOST)
        cdef bint token = (not flow.told & HOST_TOLD and self.state.requests.answers[number]
                           and self.awaits_token(number, asked.possible))
        if hosts or token:
            requests = self.state.requests.begin(number, flow.talk)
            if requests != NULL:
                requests.for_token = not hosts
            elif not flow.told & HOST_TOLD and (
                    token or self.classifier.covering.asks(asked.possible, FACT_HOST)):
                self.totals.untracked(row)
        if requests == NULL or not self.state.requests.answers[number]:
            flow.told |= HOST_TOLD
        return requests

    cdef void hear_segment(
        self, requests_s *requests, const inside_s *inside, const packet_s *row, uint32_t number
    ) noexcept nogil:
        """Say which requests a packet belongs to, and read what is new in it."""
        cdef bint down = row.direction == DIRECTION_DOWNLINK
        cdef exchange_s *exchange = &requests.exchange
        cdef http_s *http = &exchange.downlink if down else &exchange.uplink
        cdef way_s *way = &requests.ways[down]
        cdef uint32_t count = inside.payload_octets, again, first
        cdef uint32_t end = min(inside.payload_captured, count)
        cdef uint32_t sequence = inside.sequence + (row.tcp_flags & TCP_SYN != 0)
        self.said.facts = FACTS_ALL
        if not count:
            self.hear_silence(requests, row)
            return
        self.said.kind = SAID_OVER
        if not down and <int32_t>(way.next - sequence) > 0 and not (
                self.state.requests.is_repeated(
                    requests, sequence, inside.payload, end, count)):
            return
        if is_resent(way, sequence, count):
            self.said.facts = requests.common  # of which one nobody remembers
            self.hear_silence(requests, row)
            return
        if row.tcp_flags & TCP_RST or not reach(way, http, sequence, &again):
            return
        if not self.hear_octets(requests, down, inside.payload, 0, number):
            return
        if again:
            self.said.facts = requests.common
        self.said.facts &= downlink_touches(exchange) if down else uplink_touches(exchange)
        first = min(again, end)
        if not down and not (http.stage == STAGE_FIXED and http.left >= end - first):
            self.state.requests.keep_head(requests, sequence, inside.payload, end)
        if not self.hear_octets(requests, down, inside.payload + first, end - first, number):
            return
        way.next += end - first
        way.passed += end - first
        if not pass_over(way, http, count - max(end, again)):
            return
        if not self.hear_octets(requests, down, inside.payload, 0, number):
            return
        self.said.kind = SAID_UNDECIDED if not down and exchange.undecided else SAID_DECIDED
        if self.said.facts == FACTS_ALL and self.said.kind == SAID_DECIDED:
            self.hear_silence(requests, row)

    cdef void hear_silence(
        self, const requests_s *requests, const packet_s *row
    ) noexcept nogil:
        """Say which request a packet belongs to that has nothing of any."""
        cdef uint64_t facts
        if silent_touches(
                &requests.exchange, row.direction == DIRECTION_UPLINK, &facts):
            self.said.kind = SAID_DECIDED
            self.said.facts &= facts
        else:
            self.said.kind = SAID_UNDECIDED

    cdef bint hear_octets(
        self, requests_s *requests, bint down, const uint8_t *octets, uint32_t count,
        uint32_t number
    ) noexcept nogil:
        """Read what comes next in a direction, what has ended before it too; False: it is broken."""
        if down:
            return self.hear_responses(requests, octets, count)
        return self.hear_requests(requests, octets, count, number)

    cdef bint hear_requests(
        self, requests_s *requests, const uint8_t *octets, uint32_t count, uint32_t number
    ) noexcept nogil:
        """Read what a client sends; False: that is broken."""
        cdef http_e event = HTTP_BEGINS
        cdef uint32_t at = 0, taken
        while event != HTTP_MORE:
            event = read_uplink(&requests.exchange, octets + at, count - at, &taken)
            at += taken
            if event == HTTP_BEGINS or event == HTTP_HEAD:
                end_head(requests, requests.ways[0].passed + at)
            if event == HTTP_BROKEN or event == HTTP_HEAD and not self.request(requests, number):
                return False
        return True

    cdef bint hear_responses(
        self, requests_s *requests, const uint8_t *octets, uint32_t count
    ) noexcept nogil:
        """Read what a server sends; False: that is broken."""
        cdef http_e event = HTTP_BEGINS
        cdef uint32_t at = 0, taken
        while event != HTTP_MORE:
            event = read_downlink(&requests.exchange, octets + at, count - at, &taken)
            at += taken
            if event == HTTP_BROKEN:
                return False
            if event == HTTP_BEGINS:
                self.said.facts &= requests.exchange.answering
        return True

    cdef void end_for_token(self, uint32_t number) noexcept nogil:
        """Read a flow no more that was read for a token alone."""
        cdef const requests_s *requests = self.state.requests.of(number)
        if requests != NULL and requests.for_token:
            self.state.requests.end(number)
            (<flow_s *>self.state.flows.at(number)).told |= HOST_TOLD

    cdef bint request(self, requests_s *requests, uint32_t number) noexcept nogil:
        """Note whom the request is for whose head has ended, and the token that it brings, if it is
        the packet's first; False: too many wait for an answer."""
        cdef const flow_s *flow = <const flow_s *>self.state.flows.at(number)
        cdef const request_s *request = &requests.exchange.request
        cdef uint64_t facts = self.classifier.covering.facts_of_host(
            request.host, request.host_octets)
        self.note(number, FACT_HOST, request.host, request.host_octets)
        self.said.facts &= facts
        requests.common &= facts
        if not flow.told & HOST_TOLD:
            self.decide_held(number, facts)
            if request.token_octets and self.token == NULL:
                memcpy(self.brought, request.token, request.token_octets)
                self.token = self.brought
                self.token_octets = request.token_octets
        return ask(&requests.exchange, facts)

    cdef void decide_held(self, uint32_t number, uint64_t facts) noexcept nogil:
        """Leave to what has waited for a head only the rules that ask for hosts like its own."""
        cdef uint32_t place = self.state.flows.at(number).held
        cdef held_s *held
        while place:
            held = &self.state.flows.held[place]
            if not held.decided:
                held.eligible = self.classifier.covering.hosting(held.eligible, facts)
                held.decided = True
            place = held.next

    cdef int carry_requests(self, uint32_t number, uint32_t serial) except -1:
        """Know of a flow's requests under these rules what was known under those of a serial."""
        cdef requests_s *requests = self.state.requests.of(number)
        cdef exchange_s *exchange = &requests.exchange
        cdef uint32_t now = self.classifier.serial
        cdef int i
        if requests.for_token:
            self.end_for_token(number)
            return 0
        exchange.asking = self.state.carry(exchange.asking, serial, now)
        exchange.answering = self.state.carry(exchange.answering, serial, now)
        for i in range(HTTP_OUTSTANDING_MAX):
            exchange.waiting[i] = self.state.carry(exchange.waiting[i], serial, now)
        if requests.common != FACTS_ALL:
            requests.common = self.state.carry(requests.common, serial, now)
        return 0
