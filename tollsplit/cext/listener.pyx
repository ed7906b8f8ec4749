"""What packets say of their flow in their payloads: names that their users claim."""

from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memset

from tollsplit.cext.bearer cimport Bearer
from tollsplit.cext.covering cimport FACT_HOST, FACT_SNI, fact_e
from tollsplit.cext.cursor cimport inside_s
from tollsplit.cext.dissect cimport look_inside
from tollsplit.cext.flows cimport (
    TOLD_BEGUN, TOLD_DOUBTED, TOLD_MISMATCH, TOLD_TALKS, flow_s)
from tollsplit.cext.hello cimport (
    HELLO_FOUND, HELLO_MORE, HELLO_NONE, hello_e, hello_s, read_records)
from tollsplit.cext.layout cimport *
from tollsplit.cext.network cimport PROTOCOL_TCP, PROTOCOL_UDP
from tollsplit.cext.quic cimport (
    DATAGRAM_OCTETS_MIN, QUIC_AGAIN_MAX, QUIC_CRYPTO_OCTETS_MAX, QUIC_PACKETS_MAX, begins_quic, is_handshake, may_begin,
    quic_s, read_quic)
from tollsplit.cext.talk cimport TALK_OCTETS_MAX, stream_octets_s

cdef enum:
    TCP_SYN = 2
    TCP_ACK = 16
    DATAGRAM_OCTETS_MAX = 65536  # more says that nobody knows how many
    COUNT_BITS = 8               # of tries_of(), below the minute
    HELLO_BEGINS = 6             # a record's header and what kind of message lies in it
    # No name is said any more. The bits of flow_s.told are those of fact_e.
    SNI_TOLD = 1 << FACT_SNI
    HOST_TOLD = 1 << FACT_HOST
    NAMES_TOLD = SNI_TOLD | HOST_TOLD

cdef uint64_t MINUTE_NS = 60_000_000_000

cdef bint take_datagram(
    inside_s *rest, const frame_s *frame, inside_s *datagram
) noexcept nogil:
    """The next datagram of a UDP packet, which may have been made of several; False: no more."""
    cdef uint32_t octets = rest.payload_octets
    if rest.packet == NULL:
        return False
    if 0 < frame.segment_octets < DATAGRAM_OCTETS_MAX:
        octets = min(octets, frame.segment_octets)
    datagram[0] = rest[0]
    datagram.payload_octets = octets
    datagram.payload_captured = min(octets, rest.payload_captured)
    if rest.payload != NULL:
        rest.payload += datagram.payload_captured
    rest.payload_captured -= datagram.payload_captured
    rest.payload_octets -= octets
    if not rest.payload_octets:
        rest.packet = NULL  # an empty one is one, too
    return True


cdef class Listener(Bearer):
    """Looks inside the few packets that say what their flow is."""

    cdef bint is_heard(
        self, const frame_s *frame, const packet_s *row, const flow_s *flow
    ) noexcept nogil:
        """Whether a packet may say what its flow has not said so far, or say it otherwise.

        frame   NULL: its octets are gone, as those of a fragment that has waited
        """
        cdef inside_s inside, datagram
        if frame == NULL or row.direction != DIRECTION_UPLINK:
            return False
        if row.protocol == PROTOCOL_UDP:
            if self.classifier.seal is None or not flow.told & SNI_TOLD:
                return self.classifier.seal is not None
            if (flow.told & TOLD_DOUBTED or row.payload_octets < DATAGRAM_OCTETS_MIN
                    or not flow.facts & self.classifier.covering.kinds[<int>FACT_SNI]):
                return False
            look_inside(frame, &self.dissection.meter, &inside)
            while take_datagram(&inside, frame, &datagram):
                if self.may_speak(flow, &datagram):
                    return True
            return False
        if flow.told & (SNI_TOLD | TOLD_TALKS) == SNI_TOLD:
            return False
        return row.protocol == PROTOCOL_TCP and (
            row.payload_octets != 0 or row.tcp_flags & TCP_SYN)

    cdef bint is_another(
        self, const frame_s *frame, const packet_s *row, const flow_s *flow
    ) noexcept nogil:
        """Whether a packet opens another connection than the one that its flow was so far.

        A first packet that comes again, before anything was said, opens the same one. A server
        opens none after its first answer, so its word is taken where the client's was not seen.
        """
        cdef inside_s inside
        if row.protocol != PROTOCOL_TCP or not row.tcp_flags & TCP_SYN or frame == NULL:
            return False
        if row.tcp_flags & TCP_ACK:
            return (row.direction == DIRECTION_DOWNLINK
                    and flow.told & (SNI_TOLD | TOLD_TALKS) == SNI_TOLD
                    and flow.facts & self.classifier.covering.kinds[<int>FACT_SNI] != 0)
        look_inside(frame, &self.dissection.meter, &inside)
        return row.direction == DIRECTION_UPLINK and (
            inside.payload == NULL or flow.told & SNI_TOLD or not flow.told & TOLD_BEGUN
            or self.first_of(flow) != inside.sequence + 1)

    cdef bint begins(self, const frame_s *frame, const packet_s *row) noexcept nogil:
        """Whether a packet is the first of what claims a name, as far as it shows."""
        cdef inside_s inside
        cdef hello_s hello
        if (frame == NULL or row.direction != DIRECTION_UPLINK
                or row.payload_octets < HELLO_BEGINS
                or row.protocol not in (PROTOCOL_TCP, PROTOCOL_UDP)):
            return False
        look_inside(frame, &self.dissection.meter, &inside)
        if row.protocol == PROTOCOL_UDP:
            return (inside.payload != NULL and self.classifier.seal is not None
                    and begins_quic(inside.payload, inside.payload_captured))
        return (inside.payload != NULL and inside.payload_captured >= HELLO_BEGINS
                and read_records(inside.payload, min(inside.payload_captured, TALK_OCTETS_MAX),
                                 self.state.talks.joined, &hello) != HELLO_NONE)

    cdef bint listen(
        self, const frame_s *frame, packet_s *row, uint32_t number, const asked_s *asked,
        uint64_t now_ns
    ) except -1 nogil:
        """Add to a flow's facts what a packet says; True: something is known of it now.

        A name that a rule asks for, from another server than that rule's, is a claim that its
        address contradicts.
        """
        cdef flow_s *flow = <flow_s *>self.state.flows.at(number)
        cdef uint8_t told = flow.told
        cdef inside_s inside, datagram
        look_inside(frame, &self.dissection.meter, &inside)
        if row.protocol != PROTOCOL_UDP:
            self.add_facts(
                self.hear_tcp(&inside, row, number, now_ns), number, asked, now_ns)
            return told != flow.told
        while take_datagram(&inside, frame, &datagram):
            if self.may_speak(flow, &datagram):
                self.add_facts(
                    self.hear_udp(&datagram, row, number, now_ns), number, asked, now_ns)
        return told != flow.told

    cdef void add_facts(
        self, uint64_t facts, uint32_t number, const asked_s *asked, uint64_t now_ns
    ) noexcept nogil:
        """Add to a flow's facts what was said in it."""
        cdef flow_s *flow = <flow_s *>self.state.flows.at(number)
        if self.classifier.covering.is_contradicted(
                asked.reachable, asked.possible, facts, flow.facts):
            flow.told |= TOLD_MISMATCH
        self.state.flows.set_facts(number, flow.facts | facts, now_ns)

    cdef uint64_t hear_tcp(
        self, const inside_s *inside, packet_s *row, uint32_t number, uint64_t now_ns
    ) noexcept nogil:
        """The facts that a segment of a flow's uplink tells, those before it in mind.

        A connection whose beginning was not seen begins with the first octets that are.
        """
        cdef flow_s *flow = <flow_s *>self.state.flows.at(number)
        cdef uint32_t sequence = inside.sequence + (row.tcp_flags & TCP_SYN != 0)
        cdef uint32_t count = min(inside.payload_captured, inside.payload_octets), needed = 0
        cdef uint64_t facts
        cdef stream_octets_s *said
        if inside.payload == NULL:
            return 0
        if not flow.told & TOLD_BEGUN:
            flow.talk = sequence
            flow.told |= TOLD_BEGUN
            if row.tcp_flags & (TCP_SYN | TCP_ACK) != TCP_SYN:
                flow.told |= HOST_TOLD  # a body may have what looks like a request
        if not inside.payload_octets:
            return 0
        if not flow.told & TOLD_TALKS:
            if sequence == flow.talk and count == inside.payload_octets:
                facts = self.hear_hello(number, inside.payload, count, &needed)
                if flow.told & SNI_TOLD:
                    if facts:
                        self.watch(inside, number, sequence, now_ns)
                    return facts
            elif <int32_t>(sequence - flow.talk) >= TALK_OCTETS_MAX:
                flow.told |= NAMES_TOLD  # what lies before is missing for good
                return 0
            self.begin_talk(number, row, now_ns)
            if not flow.told & TOLD_TALKS:
                return 0
        said = &self.state.talks.talks[flow.talk].heard.tcp
        said.needed = max(said.needed, needed, 1)
        if not self.state.talks.take(flow.talk, sequence, inside.payload, count):
            # Two readers would read two things, of which one may never reach the server.
            self.hide(number, row, now_ns)
            return 0
        if flow.told & SNI_TOLD or said.whole < said.needed:
            return 0
        facts = self.hear_hello(number, said.octets, said.whole, &said.needed)
        self.plain = False  # what came out of order is read as TLS alone
        if not facts and (flow.told & SNI_TOLD or said.needed > TALK_OCTETS_MAX):
            self.hush(flow)
        return facts

    cdef void watch(
        self, const inside_s *inside, uint32_t number, uint32_t sequence, uint64_t now_ns
    ) noexcept nogil:
        """Keep a hello that names a sponsor's server until that answers: if something else comes
        in its place, one of the two was a decoy. Where there is no room it is believed."""
        cdef flow_s *flow = <flow_s *>self.state.flows.at(number)
        cdef uint32_t talk = self.state.talks.open(number, flow.talk)
        if not talk:
            return
        flow.talk = talk
        flow.told |= TOLD_TALKS
        self.state.flows.wait(number, now_ns)
        self.state.talks.take(talk, sequence, inside.payload, inside.payload_octets)

    cdef bint is_answered(self, const packet_s *row, const flow_s *flow) noexcept nogil:
        """Whether a packet shows that what its flow has said has arrived."""
        return (row.protocol == PROTOCOL_TCP and flow.told & TOLD_TALKS
                and flow.told & NAMES_TOLD == NAMES_TOLD and row.direction == DIRECTION_DOWNLINK and row.payload_octets != 0)

    cdef bint is_hidden(self, const packet_s *row, const flow_s *flow) noexcept nogil:
        """Whether a packet may say a name where nobody reads it: in fragments.

        QUIC has none (RFC 9000 §14) and TCP avoids them, but servers take them.
        """
        if not row.flags & FLAG_FRAGMENT or row.direction != DIRECTION_UPLINK:
            return False
        if row.protocol == PROTOCOL_UDP:
            return self.classifier.seal is not None
        return row.protocol == PROTOCOL_TCP and (
            flow.told & (SNI_TOLD | TOLD_TALKS) != SNI_TOLD)

    cdef void hide(self, uint32_t number, const packet_s *row, uint64_t now_ns) noexcept nogil:
        """Believe no name of a flow any more."""
        cdef flow_s *flow = <flow_s *>self.state.flows.at(number)
        if row.protocol == PROTOCOL_UDP:
            self.doubt(flow)
            return
        self.hush(flow)
        flow.told |= NAMES_TOLD
        self.state.flows.set_facts(
            number, flow.facts & ~self.classifier.covering.said, now_ns)

    cdef uint64_t hear_udp(
        self, const inside_s *inside, packet_s *row, uint32_t number, uint64_t now_ns
    ) except? 0xFFFFFFFFFFFFFFFF nogil:
        """The facts that a datagram of a flow's uplink tells, those before it in mind.

        A flow that does not begin as QUIC does says no name, nor does one whose client has its
        keys before its hello was seen. A flow with a name is read on: no packet but those that
        begin connections shows whose it is, so a name counts as long as all of them say it.
        Budget: 100 us a packet of a handshake, with the GIL.
        """
        cdef flow_s *flow = <flow_s *>self.state.flows.at(number)
        cdef uint32_t count = min(inside.payload_captured, inside.payload_octets)
        cdef bint again = flow.told & SNI_TOLD != 0
        cdef quic_s *quic = self.quic_of(flow)
        cdef hello_s hello
        cdef int found
        if inside.payload == NULL:
            return 0
        if not self.may_be_read(inside, row, flow, now_ns):
            return 0
        with gil:
            found = read_quic(quic, inside.payload, count, self.classifier.seal, &hello)
        if again and found != HELLO_NONE and (quic.complete or not quic.opened):
            return 0
        if found == HELLO_FOUND:
            return self.name_datagrams(quic, &hello, number, now_ns)
        if found == HELLO_NONE or quic.tried >= QUIC_PACKETS_MAX:
            self.doubt(flow)
            return 0
        if again:
            flow.told = <uint8_t>(flow.told & ~SNI_TOLD | TOLD_DOUBTED)
            if flow.told & TOLD_TALKS:
                self.state.flows.wait(number, now_ns)
        if not flow.told & TOLD_TALKS:
            self.begin_talk(number, row, now_ns)
            if flow.told & TOLD_TALKS:
                self.state.talks.talks[flow.talk].heard.quic = quic[0]
        return 0

    cdef bint may_speak(self, const flow_s *flow, const inside_s *inside) noexcept nogil:
        """Whether a datagram may say its flow's name, or another one."""
        if not flow.told & SNI_TOLD:
            return True
        return (not flow.told & TOLD_DOUBTED and inside.payload != NULL
                and flow.facts & self.classifier.covering.kinds[<int>FACT_SNI] != 0
                and may_begin(inside.payload, inside.payload_captured))

    cdef quic_s *quic_of(self, const flow_s *flow) noexcept nogil:
        """What is known of a flow's handshake, or room for that."""
        cdef quic_s *quic = &self.state.talks.alone
        if flow.told & TOLD_TALKS:
            return &self.state.talks.talks[flow.talk].heard.quic
        memset(quic, 0, sizeof(quic_s) - QUIC_CRYPTO_OCTETS_MAX)
        quic.complete = flow.told & SNI_TOLD != 0
        return quic

    cdef bint may_be_read(
        self, const inside_s *inside, packet_s *row, flow_s *flow, uint64_t now_ns
    ) noexcept nogil:
        """Whether a datagram is to be opened; where it shows that no name can be believed, none is."""
        cdef uint32_t count = min(inside.payload_captured, inside.payload_octets)
        cdef bint sound
        if flow.told & SNI_TOLD:
            sound = is_handshake(inside.payload, count) and count == inside.payload_octets
            if sound and not self.count_try(flow, now_ns):
                self.totals.untracked(row)
                sound = False
        elif flow.told & TOLD_TALKS:
            sound = is_handshake(inside.payload, count)
            if not sound and flow.told & TOLD_DOUBTED:
                return False  # of the connection before
        else:
            sound = begins_quic(inside.payload, count)
        if not sound:
            self.doubt(flow)
        return sound

    cdef bint count_try(self, flow_s *flow, uint64_t now_ns) noexcept nogil:
        """Count a datagram that is opened though its flow has a name; False: too many a minute."""
        cdef uint32_t *tries = (&self.state.talks.talks[flow.talk].first
                                if flow.told & TOLD_TALKS else &flow.talk)
        cdef uint32_t minute = <uint32_t>(now_ns // MINUTE_NS) << COUNT_BITS
        if tries[0] >> COUNT_BITS != minute >> COUNT_BITS:
            tries[0] = minute
        tries[0] += 1
        return tries[0] - minute <= QUIC_AGAIN_MAX

    cdef uint64_t name_datagrams(
        self, quic_s *quic, const hello_s *hello, uint32_t number, uint64_t now_ns
    ) noexcept nogil:
        """The facts that a connection's hello tells; after another one's, those that both do."""
        cdef flow_s *flow = <flow_s *>self.state.flows.at(number)
        cdef uint64_t asked = self.classifier.covering.kinds[<int>FACT_SNI]
        cdef uint64_t facts = 0
        if hello.name != NULL:
            facts = self.classifier.covering.facts_of_sni(
                hello.name, hello.name_octets, hello.encrypted != 0)
        self.take_token(hello)
        self.note(number, FACT_SNI, hello.name, hello.name_octets)
        if flow.told & (SNI_TOLD | TOLD_DOUBTED):
            facts &= flow.facts
            self.state.flows.set_facts(number, flow.facts & ~asked | facts, now_ns)
        flow.told = <uint8_t>(flow.told & ~TOLD_DOUBTED | NAMES_TOLD)
        quic.complete = True
        if facts:
            self.keep(quic, number, now_ns)
        else:
            self.hush(flow)
        return facts

    cdef void keep(self, const quic_s *quic, uint32_t number, uint64_t now_ns) noexcept nogil:
        """Keep a hello for as long as it may come again, as it does until the server is heard.

        Where there is no room, or once it has gone, it has to come whole.
        """
        cdef flow_s *flow = <flow_s *>self.state.flows.at(number)
        cdef uint32_t talk
        if flow.told & TOLD_TALKS:
            return
        talk = self.state.talks.open(number, flow.talk)
        if not talk:
            return
        flow.talk = talk
        flow.told |= TOLD_TALKS
        self.state.talks.talks[talk].heard.quic = quic[0]
        self.state.flows.wait(number, now_ns)

    cdef void doubt(self, flow_s *flow) noexcept nogil:
        """Believe no name of a flow over UDP any more."""
        self.hush(flow)
        flow.told |= NAMES_TOLD | TOLD_DOUBTED

    cdef void begin_talk(self, uint32_t number, packet_s *row, uint64_t now_ns) noexcept nogil:
        """Keep what a flow says from here on; its packets wait for the end of it, anew."""
        cdef flow_s *flow = <flow_s *>self.state.flows.at(number)
        cdef uint32_t talk = self.state.talks.open(number, flow.talk)
        if not talk:
            flow.told |= NAMES_TOLD
            self.totals.untracked(row)
            return
        flow.talk = talk
        flow.told |= TOLD_TALKS
        self.state.flows.wait(number, now_ns)

    cdef uint64_t hear_hello(
        self, uint32_t number, const uint8_t *octets, uint32_t count, uint32_t *needed
    ) noexcept nogil:
        """The facts that a connection's first octets tell; needed: how many tell more."""
        cdef flow_s *flow = <flow_s *>self.state.flows.at(number)
        cdef hello_s hello
        cdef hello_e found = read_records(octets, count, self.state.talks.joined, &hello)
        if found == HELLO_MORE:
            needed[0] = hello.needed
            return 0
        flow.told |= SNI_TOLD
        if found != HELLO_FOUND:
            self.plain = True
            return 0
        flow.told |= HOST_TOLD
        self.take_token(&hello)
        self.note(number, FACT_SNI, hello.name, hello.name_octets)
        if hello.name == NULL:
            return 0
        return self.classifier.covering.facts_of_sni(
            hello.name, hello.name_octets, hello.encrypted != 0)

    cdef void note(
        self, uint32_t number, fact_e kind, const uint8_t *name, uint32_t octets
    ) noexcept nogil:
        """Remember what a flow has said, if somebody wants to know; NULL: nothing."""
        if self.heard is not None:
            with gil:
                self.heard[number, <int>kind] = name[:octets] if name != NULL else b""

    cdef void take_token(self, const hello_s *hello) noexcept nogil:
        """Have the token judged that a hello brings, unless its packet brings one itself."""
        if hello.token != NULL and self.token == NULL:
            self.token = hello.token
            self.token_octets = hello.token_octets

    cdef uint32_t first_of(self, const flow_s *flow) noexcept nogil:
        """The sequence number of the first octet of a flow's uplink, once it has begun."""
        return self.state.talks.talks[flow.talk].first if flow.told & TOLD_TALKS else flow.talk

    cdef void hush(self, flow_s *flow) noexcept nogil:
        """Read a flow no more, whatever it says."""
        cdef uint32_t talk = flow.talk
        if not flow.told & TOLD_TALKS:
            return
        flow.talk = self.first_of(flow)
        flow.told = <uint8_t>(flow.told & ~TOLD_TALKS | NAMES_TOLD)
        self.state.talks.close(talk)
