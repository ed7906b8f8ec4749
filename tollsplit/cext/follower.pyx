"""What flows say of their packets, and which of these wait for it."""

from libc.stdint cimport uint32_t, uint64_t

from tollsplit.cext.bounded cimport entry_s
from tollsplit.cext.counted cimport BATCH
from tollsplit.cext.converser cimport SAID_DECIDED, SAID_NOTHING, Converser
from tollsplit.cext.covering cimport FACT_DNS, FACT_HOST, FACT_SNI, remember
from tollsplit.cext.flows cimport (
    TOLD_DOUBTED, TOLD_MISMATCH, TOLD_TALKS, flow_key, flow_s, held_s)
from tollsplit.cext.key cimport key_s
from tollsplit.cext.layout cimport *
from tollsplit.cext.listener cimport asked_s
from tollsplit.cext.network cimport PROTOCOL_UDP
from tollsplit.cext.subscribers cimport whose


cdef class Follower(Converser):
    """Gives rows the rules that cover their flows; holds them while another one may come."""

    def __cinit__(self, *_):
        self.holding = True

    cdef int follow_all(
        self, const frame_s *frames, packet_s *rows, int count, int total
    ) except -1 nogil:
        """Have each decided row's flow say what it knows, frame by frame, at that frame's time.

        Budget: 50 ns a packet, flows in the second-level cache; 130 where they lie in none. Places
        and entries of all rows are asked for before the first is needed.
        """
        cdef asked_s asked[2 * BATCH]
        cdef int i, other = count
        for i in range(total):
            self.ask(&rows[i], &asked[i])
            if asked[i].reachable:
                self.state.flows.expect(&asked[i].key)
        for i in range(total):
            if asked[i].reachable:
                self.state.flows.expect_entry(&asked[i].key)
        for i in range(count):
            self.end_waits(self.now_of_batch[i])
            self.hear_resolver(&frames[i], &rows[i], self.now_of_batch[i])
            while other < total and rows[other].frame == <uint32_t>i:
                rows[other].flags |= FLAG_TWICE
                self.follow_flow(
                    &frames[i], &rows[other], &asked[other], self.now_of_batch[i])
                if rows[other].bucket != BUCKET_HELD:
                    rows[i].flags |= FLAG_TWICE
                other += 1
            self.follow_flow(&frames[i], &rows[i], &asked[i], self.now_of_batch[i])
        return 0

    cdef int follow(
        self, const frame_s *frame, packet_s *row, uint64_t now_ns
    ) except -1 nogil:
        """The same for one row, whose frame may be gone: then it is NULL."""
        cdef asked_s asked
        if frame != NULL:
            self.hear_resolver(frame, row, now_ns)
        self.ask(row, &asked)
        return self.follow_flow(frame, row, &asked, now_ns)

    cdef int hear_resolver(
        self, const frame_s *frame, const packet_s *row, uint64_t now_ns
    ) except -1 nogil:
        """Learn what addresses names are given, where rules ask for that."""
        if self.classifier.covering.kinds[<int>FACT_DNS]:
            self.classifier.resolvers.hear(
                frame, row, &self.dissection.meter, self.state, now_ns)
        return 0

    cdef void ask(self, const packet_s *row, asked_s *asked) noexcept nogil:
        """Find out what rules a row's flow may fulfil; where there is one, the flow's key.

        A row that contradicts itself may still say what others of its flow are.
        """
        cdef subscriber_s who
        asked.reachable = asked.possible = 0
        if row.bucket != BUCKET_METERED or row.flags & FLAG_SUSPICIOUS:
            return
        asked.reachable = self.classifier.covering.reachable(row)
        if row.flags & FLAG_MISMATCH and not asked.reachable & self.classifier.covering.named:
            asked.reachable = 0
        if asked.reachable:
            asked.possible = self.classifier.covering.possible(row, asked.reachable)
            whose(self.subscribers, row, &who)
            flow_key(row, &who, &asked.key)

    cdef int follow_flow(
        self, const frame_s *frame, packet_s *row, const asked_s *asked, uint64_t now_ns
    ) except -1 nogil:
        """Give a row the first rule that covers its flow, or hold it while one may come.

        This is the door for whatever tells what a flow is: it adds to the flow's facts, and says
        which kinds of facts will not come any more.
        """
        cdef uint32_t number
        cdef flow_s *flow
        cdef bint learnt, bears
        if not asked.reachable:
            return 0
        number = self.flow_of(frame, row, asked, now_ns)
        if not number:
            if asked.possible and not row.flags & FLAG_MISMATCH:
                self.totals.untracked(row)
            return 0
        flow = <flow_s *>self.state.flows.at(number)
        flow.last_ns = now_ns
        learnt = self.learn(number, row, asked.possible, now_ns)
        if self.is_answered(row, flow):
            self.hush(flow)
        if asked.reachable & self.classifier.covering.named and self.is_hidden(row, flow):
            self.hide(number, row, now_ns)
            learnt = True
        bears = not row.flags & FLAG_MISMATCH and self.may_bear(
            frame, row, number, asked.possible)
        if bears:
            self.look_for_token(frame)
        if (bears or asked.reachable & self.classifier.covering.named) and self.is_heard(
                frame, row, flow):
            if (self.state.talks.count >= self.state.talks.most
                    and not flow.told & TOLD_TALKS):
                self.stop_waiting(self.state.talks.talks[self.state.talks.oldest].flow, True)
            learnt = self.listen(frame, row, number, asked, now_ns) or learnt
        if bears and self.token != NULL:
            learnt = self.bear(row, number, now_ns) or learnt
        self.token = NULL
        learnt = self.converse(frame, row, number, asked, now_ns) or learnt
        if bears and self.token != NULL and not self.state.flows.sponsors[number]:
            learnt = self.bear(row, number, now_ns) or learnt
        if self.state.flows.sponsors[number]:
            self.end_for_token(number)
        self.token = NULL
        self.plain = False
        if learnt and flow.entry.held and self.holding:
            self.charge_held(number)
        return 0 if row.flags & FLAG_MISMATCH else self.cover(number, row, asked)

    cdef uint32_t flow_of(
        self, const frame_s *frame, const packet_s *row, const asked_s *asked, uint64_t now_ns
    ) except? 0 nogil:
        """The number of a row's flow; 0: there is no room, or nothing to be known of it.

        It begins anew where it has been idle, and with a new connection. Where it can but claim
        to be a sponsor's, it is known only once it does.
        """
        cdef uint32_t number = self.state.flows.find(&asked.key)
        if number and (self.state.flows.is_idle(number, now_ns) or (
                asked.reachable & self.classifier.covering.named and self.is_another(
                    frame, row, <flow_s *>self.state.flows.at(number)))):
            self.forget_flow(number, False)
            number = 0
        if number or not (asked.possible or self.begins(frame, row)
                          or self.claims(frame, row, asked)):
            return number
        return self.open_flow(&asked.key, now_ns)

    cdef uint32_t open_flow(self, const key_s *key, uint64_t now_ns) except? 0 nogil:
        """The number of a new flow; 0: there is no room.

        Where all room is taken, the flow goes that has shown nothing for longest: whoever opens
        flows without end loses his own first, and none that a sponsor pays for.
        """
        cdef uint32_t number = self.state.flows.open(key, now_ns)
        cdef uint32_t silent = self.state.flows.silent.oldest
        if number or not silent:
            return number
        self.forget_flow(silent, True)
        return self.state.flows.open(key, now_ns)

    cdef int learn(
        self, uint32_t number, const packet_s *row, uint64_t possible, uint64_t now_ns
    ) except -1 nogil:
        """Add to a flow's facts what a row shows; True: more is known of it than before, or other
        things, since the rules have changed."""
        cdef flow_s *flow = <flow_s *>self.state.flows.at(number)
        cdef uint64_t facts = flow.facts, shown
        cdef bint asked_anew = flow.serial != self.classifier.serial
        if asked_anew:
            if facts:
                with gil:
                    facts = self.state.carry(facts, flow.serial, self.classifier.serial)
            if self.state.requests.of(number) != NULL:
                with gil:
                    self.carry_requests(number, flow.serial)
            facts |= self.classifier.covering.recall(row, flow, possible)
            if self.state.flows.sponsors[number]:
                facts |= self.classifier.covering.of_token(self.state.flows.sponsors[number])
            facts |= self.classifier.resolvers.facts_of(row, self.state, now_ns)
            flow.told |= 1 << FACT_DNS  # what it is given for later is not its
            flow.serial = self.classifier.serial
        shown = self.classifier.covering.shown(row, possible, facts)
        if shown:
            remember(row, flow)
        self.state.flows.set_facts(number, facts | shown, now_ns)
        return asked_anew or shown != 0

    cdef int cover(
        self, uint32_t number, packet_s *row, const asked_s *asked
    ) except -1 nogil:
        """Give a row the first rule that covers it by what its flow knows, or hold it."""
        cdef const flow_s *flow = <const flow_s *>self.state.flows.at(number)
        cdef uint64_t eligible = self.classifier.covering.eligible(row, asked.possible)
        cdef uint64_t covered, facts
        cdef bint decided = False
        if self.said.kind != SAID_NOTHING and not flow.told >> FACT_HOST & 1:
            eligible = self.classifier.covering.hosting(eligible, self.said.facts)
            decided = self.said.kind == SAID_DECIDED
        facts = self.known_of(flow, decided)
        covered = self.classifier.covering.covered(eligible, facts)
        row.rule = self.classifier.covering.first(row.rule, covered)
        if not row.rule and (flow.told & TOLD_MISMATCH or self.said.kind == SAID_DECIDED
                             and self.classifier.covering.is_contradicted(
                                 asked.reachable, asked.possible, self.said.facts, facts)):
            row.flags |= FLAG_MISMATCH
            return 0
        if not self.holding or not self.state.flows.waits(number):
            return 0
        if self.classifier.covering.may_come(row.rule, self.classifier.covering.alive(
                eligible & ~covered, facts, flow.told)):
            self.hold(number, row, eligible, decided)
        return 0

    cdef uint64_t known_of(self, const flow_s *flow, bint decided) noexcept nogil:
        """The facts of a flow, for a packet whose rules mind its request's host or do not yet."""
        cdef uint64_t facts = flow.facts
        if decided:
            facts |= self.classifier.covering.kinds[<int>FACT_HOST]
        if flow.told & TOLD_DOUBTED and flow.entry.key.protocol == PROTOCOL_UDP:
            facts &= ~self.classifier.covering.kinds[<int>FACT_SNI]
        return facts

    cdef int hold(
        self, uint32_t number, packet_s *row, uint64_t eligible, bint decided
    ) except -1 nogil:
        """Hold a row until its flow shows what it is; where too much is held, the oldest goes."""
        if not self.is_in_a_cell(row.timestamp_ns):
            return 0
        if not self.state.flows.hold(number, row, eligible, decided, self.start_ns):
            self.totals.untracked(row)
            return 0
        row.bucket = BUCKET_HELD
        while self.state.flows.held_count > self.state.flows.held_most:
            self.stop_waiting(self.state.flows.waits_oldest, True)
        return 0

    cdef int stop_waiting(self, uint32_t number, bint crowded) except -1 nogil:
        """Charge what waits of a flow as it is; what it was about to say is not waited for."""
        self.count_all_held(number, crowded)
        self.hush(<flow_s *>self.state.flows.at(number))
        self.end_for_token(number)
        self.state.flows.wait_no_more(number)
        return 0

    cdef int forget_flow(self, uint32_t number, bint crowded) except -1 nogil:
        """Forget a flow; what waits of it is charged as it is."""
        self.stop_waiting(number, crowded)
        self.state.requests.end(number)
        self.note(number, FACT_SNI, NULL, 0)
        self.note(number, FACT_HOST, NULL, 0)
        self.state.flows.drop(number)
        return 0

    cdef int end_waits(self, uint64_t now_ns) except -1 nogil:
        """Charge what has waited for long enough as it is, and forget flows that are idle."""
        cdef uint32_t number = self.state.flows.waited_enough(now_ns)
        while number:
            self.stop_waiting(number, False)
            number = self.state.flows.waited_enough(now_ns)
        number = self.state.flows.idle_enough(now_ns)
        while number:
            self.forget_flow(number, False)
            number = self.state.flows.idle_enough(now_ns)
        return 0

    cdef int charge_held(self, uint32_t number) except -1 nogil:
        """Charge what is held of a flow to the rule that covers it; what may be another's stays."""
        cdef flow_s *flow = <flow_s *>self.state.flows.at(number)
        cdef uint32_t place = flow.entry.held, following
        cdef uint32_t *link = &flow.entry.held
        cdef uint64_t covered, facts
        cdef held_s *held
        while place:
            held = &self.state.flows.held[place]
            following = held.next
            facts = self.known_of(flow, held.decided)
            covered = self.classifier.covering.covered(held.eligible, facts)
            held.rule = self.classifier.covering.first(held.rule, covered)
            if self.classifier.covering.may_come(held.rule, self.classifier.covering.alive(
                    held.eligible & ~covered, facts, flow.told)):
                link = &held.next
            else:
                self.count_held(held, &flow.entry.key)
                link[0] = following
                self.state.flows.free_held(place)
            place = following
        return 0

    cdef int count_all_held(self, uint32_t number, bint crowded) except -1 nogil:
        """Count what is held of a flow as it is.

        crowded   for want of room, before its time
        """
        cdef entry_s *entry = self.state.flows.at(number)
        cdef uint32_t place = entry.held
        cdef held_s *held
        while place:
            held = &self.state.flows.held[place]
            entry.held = held.next
            if crowded:
                self.totals.sums.untracked_packets += <uint64_t>held.packets[0] + held.packets[1]
                self.totals.sums.untracked_octets += held.octets[0] + held.octets[1]
            self.count_held(held, &entry.key)
            self.state.flows.free_held(place)
            place = entry.held
        return 0

    cdef int count_held(self, const held_s *held, const key_s *key) except -1 nogil:
        """Count packets that were held."""
        return self.add_held(held, key)
