"""One worker: frames in, counters out."""

import numpy as np

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from tollsplit.cext.classify cimport Classifier
from tollsplit.cext.converser cimport SAID_DECIDED
from tollsplit.cext.counted cimport BATCH
from tollsplit.cext.covering cimport FACT_HOST, FACT_SNI
from tollsplit.cext.cursor cimport datagram_s
from tollsplit.cext.dissect cimport CHARGE, Dissection, dissect_batch, meter_s
from tollsplit.cext.flows cimport TOLD_DOUBTED, flow_s, held_s
from tollsplit.cext.follower cimport Follower
from tollsplit.cext.fragments cimport MET_OVERLAPS, MET_UNTRACKED, MET_WAITS
from tollsplit.cext.key cimport key_s
from tollsplit.cext.layout cimport *
from tollsplit.cext.layout import PACKET
from tollsplit.cext.listener cimport asked_s
from tollsplit.cext.merge cimport Merge
from tollsplit.cext.network cimport PROTOCOL_UDP
from tollsplit.cext.plain cimport plain_ends
from tollsplit.cext.reader cimport Reader
from tollsplit.cext.recorder cimport Recorder
from tollsplit.cext.ring cimport Ring
from tollsplit.cext.state cimport State
from tollsplit.cext.subscribers cimport whose

cdef extern from "<stdlib.h>" nogil:
    void *aligned_alloc(size_t alignment, size_t size)

cdef extern from *:
    """
    #define TOLLSPLIT_ACQUIRE64(at) __atomic_load_n((at), __ATOMIC_ACQUIRE)
    #define TOLLSPLIT_RELEASE64(at, value) __atomic_store_n((at), (value), __ATOMIC_RELEASE)
    """
    uint64_t acquire "TOLLSPLIT_ACQUIRE64"(const uint64_t *) nogil
    void release_to "TOLLSPLIT_RELEASE64"(uint64_t *, uint64_t) nogil

cdef uint64_t NEVER_NS = 0xFFFFFFFFFFFFFFFF


cdef class Meter(Follower):
    """Counts frames by (subscriber, rule, cell); one per worker.

    dissection, classifier, cell_at, state
         as Follower and Counted have them; the first two are shared, read only
    """

    def __cinit__(self, _, Classifier classifier, *__):
        self.until_ns = NEVER_NS
        self.where = <uint64_t *>malloc(2 * BATCH * classifier.words * sizeof(uint64_t))
        self.rows_of_batch = <packet_s *>aligned_alloc(64, 2 * BATCH * sizeof(packet_s))
        if self.where == NULL or self.rows_of_batch == NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self.where)
        free(self.rows_of_batch)

    def run(self, frames not None, uint64_t limit=0xFFFFFFFFFFFFFFFF, Recorder recorder=None):
        """Account a Reader's region to its end, a Ring or Merge until no frame is ready, or `limit`
        frames.

        recorder   keeps what is accounted, too

        Returns how many were accounted, here, by a successor, and by whose shares they are.

        Budget: 35 ns a packet with a million subscribers. The GIL is released once for all
        batches and taken back where a new time cell begins.
        """
        if self.classifier.tracks and self.state is None:
            raise ValueError("rules that depend on what was met before need a state")
        if isinstance(frames, Ring):
            return self.walk[Ring](<Ring>frames, limit, recorder)
        if isinstance(frames, Merge):
            return self.walk[Merge](<Merge>frames, limit, recorder)
        return self.walk[Reader](<Reader?>frames, limit, recorder)

    cdef uint64_t walk(
        self, frames_t source, uint64_t limit, Recorder recorder
    ) except? 0xFFFFFFFFFFFFFFFF:
        cdef frame_s frames[BATCH]
        cdef int count
        cdef uint64_t done = 0
        cdef bint shared = self.state is not None and self.state.shares > 1
        with nogil:
            while done < limit:
                count = source.next_batch(frames, <int>min(<uint64_t>BATCH, limit - done))
                if count <= 0:
                    break
                if recorder is not None:
                    recorder.add(frames, count)
                if shared:
                    self.account_share(frames, count)
                else:
                    self.account(frames, count)
                done += count
            self.account_own()
        return done

    def succeed(self, Meter successor not None, uint64_t until_ns):
        """From now on count frames from an instant on with another meter; earlier ones here.

        successor   has a table and subscribers of its own, and maybe other rules
        until_ns    the first timestamp that is the successor's, in whatever order frames come

        May be called while a thread is in run(): its next batch is divided. What it counted
        before stays here, so the call has to come before the instant. Whichever thread runs this
        meter runs the successor too: the caller sees to it that no other does until this one is
        run no more. A successor can be succeeded in turn; only once is a meter succeeded, for
        that thread may be counting with what was named first.

        Raises ValueError where there is a successor already, or it would come round to this one.
        """
        cdef Meter later = successor
        while later is not None and later is not self:
            later = later.successor
        if self.successor is not None or later is self:
            raise ValueError("a meter is succeeded once, and by another")
        self.successor = successor
        release_to(&self.until_ns, until_ns)  # who sees the instant sees the successor

    cdef int account(self, const frame_s *frames, int count) except -1 nogil:
        """Count some frames, 1 to BATCH of them, each with the meter whose time it lies in."""
        cdef uint64_t until_ns = acquire(&self.until_ns)
        cdef int first = 0, i
        cdef bint later
        if until_ns == NEVER_NS:
            return self.batch(frames, count)
        if not self.parted:
            self.part()
        later = frames[0].timestamp_ns >= until_ns
        for i in range(1, count + 1):
            if i < count and (frames[i].timestamp_ns >= until_ns) == later:
                continue
            if later:
                self.successor.account(&frames[first], i - first)
            else:
                self.batch(&frames[first], i - first)
            first = i
            later = not later
        return 0

    cdef int account_share(self, const frame_s *frames, int count) except -1 nogil:
        """Count those of some frames that are this worker's, or keep them until there are more.

        Others' frames tell the time, too. Budget: 5 ns for one of them: only addresses are read.
        """
        cdef packet_s row
        cdef int i
        cdef uint64_t now_ns
        for i in range(count):
            now_ns = self.state.advance(frames[i].timestamp_ns)
            if plain_ends(&frames[i], &row.source_lo, &row.destination_lo):
                row.version = 4
            else:
                dissect_batch(&frames[i], &row, 1, &self.dissection.meter, False, NULL)
            # without a branch: whose frames are comes as it likes
            self.own[self.own_count] = frames[i]
            self.now_of_batch[self.own_count] = now_ns
            self.own_count += self.state.is_own(&row)
            if self.own_count == BATCH:
                self.account_own()
        return 0

    cdef int account_own(self) except -1 nogil:
        """Count the frames that were kept; where they lie is good until others are asked for."""
        cdef int count = self.own_count
        self.own_count = 0
        return self.batch_at(self.own, count) if count else 0

    cdef int batch(self, const frame_s *frames, int count) except -1 nogil:
        """Count some frames, at most BATCH."""
        cdef packet_s *rows = self.rows_of_batch
        cdef int total
        if self.state is not None:
            return self.batch_in_order(frames, count)
        dissect_batch(frames, rows, count, &self.dissection.meter, self.classifier.detail, NULL)
        total = self.classifier.attribute(frames, rows, count, self.subscribers)
        if self.classifier.detail:
            self.classifier.decide(rows, total, self.where)
        self.place(rows, total)
        self.table.add_batch(rows, self.cells_of_batch, total)
        self.totals.settle(rows, count, total)
        return 0

    # --- with state ----------------------------------------------------------------------

    cdef int batch_in_order(self, const frame_s *frames, int count) except -1 nogil:
        """Count some frames, at most BATCH, where what was met before matters."""
        cdef int i
        for i in range(count):
            self.now_of_batch[i] = self.state.advance(frames[i].timestamp_ns)
        return self.batch_at(frames, count)

    cdef int batch_at(self, const frame_s *frames, int count) except -1 nogil:
        """The same, the times at which they come known.

        Fragments are rare: where there is one, frames are gone through one by one, for what waits
        for it comes right behind it, whatever the batches.
        """
        cdef packet_s *rows = self.rows_of_batch
        cdef packet_s single[2]
        cdef uint16_t flags = 0
        cdef int i, total
        dissect_batch(frames, rows, count, &self.dissection.meter, True, self.datagrams)
        for i in range(count):
            flags |= rows[i].flags
        if not flags & FLAG_FRAGMENT:
            for i in range(count):
                self.state.reach(self.now_of_batch[i])
            total = self.attribute(frames, rows, count, self.now_of_batch)
            self.classifier.decide(rows, total, self.where)
            if self.dissection.meter.unsolicited:
                self.state.calls.hear_all(
                    rows, count, total, self.now_of_batch, self.subscribers, self.totals)
            if self.classifier.covering.count:
                self.follow_all(frames, rows, count, total)
            self.count_rows(rows, count, total)
            return self.count_decided()
        for i in range(count):
            self.state.reach(self.now_of_batch[i])
            self.end_waits(self.now_of_batch[i])
            single[0] = rows[i]
            single[0].frame = 0
            self.count_single(&frames[i], single, &self.datagrams[i])
            self.count_decided()
        return 0

    cdef int count_single(
        self, const frame_s *frame, packet_s *rows, const datagram_s *datagram
    ) except -1 nogil:
        """Count one frame, whose row may be a fragment's.

        rows   room for two
        """
        cdef int total = self.attribute(frame, rows, 1, &self.state.now_ns)
        if total == 2:
            rows[1].flags |= FLAG_TWICE
            self.prepare(frame, &rows[1], datagram)
            if rows[1].bucket != BUCKET_HELD:
                rows[0].flags |= FLAG_TWICE
        self.prepare(frame, &rows[0], datagram)
        return self.count_rows(rows, 1, total)

    cdef int prepare(
        self, const frame_s *frame, packet_s *row, const datagram_s *datagram
    ) except -1 nogil:
        """Decide a row that may be a fragment's, with what was met before."""
        self.assemble(row, datagram)
        self.classifier.decide(row, 1, self.where)
        self.hear(row, self.state.now_ns)
        return self.follow(frame, row, self.state.now_ns)

    cdef int attribute(
        self, const frame_s *frames, packet_s *rows, int count, const uint64_t *now_ns
    ) except -1 nogil:
        """Find out whose rows are, and which of them were seen or sent before."""
        cdef const meter_s *meter = &self.dissection.meter
        cdef int total
        if meter.duplicates_ns:
            self.state.copies.leave_out(frames, rows, count, meter, now_ns, self.totals)
        total = self.classifier.attribute(frames, rows, count, self.subscribers)
        if meter.retransmissions != CHARGE:
            self.state.streams.compare(
                frames, rows, count, total, meter, now_ns, self.subscribers, self.totals)
        return total

    cdef void hear(self, const packet_s *row, uint64_t now_ns) noexcept nogil:
        """Note whether a decided row came without being asked for."""
        if self.dissection.meter.unsolicited:
            self.state.calls.hear(row, now_ns, self.subscribers, self.totals)

    cdef int count_rows(self, packet_s *rows, int count, int total) except -1 nogil:
        """Count rows that are decided, or held."""
        self.place(rows, total)
        self.table.add_batch(rows, self.cells_of_batch, total)
        self.totals.settle(rows, count, total)
        return 0

    cdef void assemble(self, packet_s *row, const datagram_s *datagram) noexcept nogil:
        """Say of a fragment what its datagram says; it is held where that is not known."""
        cdef subscriber_s who
        cdef int met
        if row.bucket != BUCKET_METERED or not row.flags & FLAG_FRAGMENT:
            return
        whose(self.subscribers, row, &who)
        met = self.state.fragments.meet(row, datagram, &who, self.state.now_ns, self.holding)
        if met & MET_OVERLAPS:
            self.totals.overlapping(row)
        if met & MET_UNTRACKED:
            self.totals.untracked(row)
        if met & MET_WAITS:
            row.bucket = BUCKET_HELD

    cdef int count_decided(self) except -1 nogil:
        """Count the fragments that wait no more."""
        cdef packet_s row
        cdef subscriber_s who
        while self.state.fragments.take(&row, &who):
            self.count_late(&row, &who)
        return 0

    cdef int count_held(self, const held_s *held, const key_s *key) except -1 nogil:
        """Count packets that were held, with the meter whose time they lie in."""
        if self.parted and held.first_ns >= self.until_ns:
            return self.successor.count_held(held, key)
        return self.add_held(held, key)

    cdef int count_late(self, packet_s *row, const subscriber_s *who) except -1 nogil:
        """Count a row that was held, with the meter whose time it lies in."""
        if self.parted and row.timestamp_ns >= self.until_ns:
            return self.successor.count_late(row, who)
        if row.flags & FLAG_UNTRACKED:
            self.totals.untracked(row)
        if row.interned:
            row.subscriber = self.subscribers.number(who)
            if row.subscriber == 0xFFFFFFFFU:
                row.bucket = BUCKET_FAULT
                row.fault = FAULT_TABLE_FULL
        self.classifier.decide(row, 1, self.where)
        self.hear(row, self.state.now_ns)
        self.follow(NULL, row, self.state.now_ns)
        if row.bucket == BUCKET_HELD:
            return 0
        self.place(row, 1)
        self.table.add_batch(row, self.cells_of_batch, 1)
        self.totals.settle_late(row)
        return 0

    # --- meters that follow each other ---------------------------------------------------

    cdef int part(self) except -1 nogil:
        """Share the state with the successor, when its time begins.

        What is held under rules that end is decided by what is known then, and nothing is held
        under them any more: the rules that follow number other things.
        """
        if self.state is not None and self.successor.classifier is not self.classifier:
            self.release()
            self.holding = False
        if self.state is not None and self.successor.classifier.tracks:
            with gil:
                self.pass_on(self.successor)
        self.parted = True
        return 0

    cdef int release(self) except -1 nogil:
        """Decide whatever is held by what is known of it."""
        cdef uint32_t number
        self.state.fragments.release()
        self.count_decided()
        number = self.state.flows.waits_oldest
        while number:
            self.count_all_held(number, False)
            number = (<flow_s *>self.state.flows.at(number)).waits_newer
        return 0

    def finish(self):
        """Decide whatever is held: no frames come any more."""
        if self.state is not None:
            self.release()

    def hand_over(self, Meter fresh not None):
        """Have another meter go on with the same frames, its state with it.

        Where that has other rules, what is held is decided here.
        """
        if fresh.classifier is not self.classifier:
            self.finish()
        if self.state is not None and fresh.classifier.tracks:
            self.pass_on(fresh)
        self.state = None

    cdef int pass_on(self, Meter other) except -1:
        """Give another meter the state, which has to know both of their rules."""
        self.state.know(self.classifier.serial, self.classifier.covering.conditions)
        self.state.know(other.classifier.serial, other.classifier.covering.conditions)
        other.state = self.state
        return 0

    def forget(self):
        """Begin anew, as Counted does; raises ValueError where it has a successor, too."""
        if self.successor is not None:
            raise ValueError("a meter that is succeeded does not begin anew")
        Follower.forget(self)

    def rows(self, frames):
        """PACKET[n] of frames as Reader.frames() and Ring.frames() give them, not counted.

        Dissected, attributed and decided by what was met before, and nothing is held; the downlink
        of a packet between two subscribers follows its uplink.
        """
        cdef frame_s frame
        cdef packet_s rows[2]
        cdef packet_s[::1] view
        cdef int count, k
        found = []
        for i, (octets, timestamp_ns, original, link_type, ingress, segment_octets) in enumerate(
                frames):
            memset(&frame, 0, sizeof(frame))
            frame.octets = <const uint8_t *>PyBytes_AS_STRING(octets)
            frame.captured_octets = PyBytes_GET_SIZE(octets)
            frame.timestamp_ns = timestamp_ns
            frame.original_octets = original
            frame.link_type = link_type
            frame.ingress = ingress
            frame.segment_octets = segment_octets
            dissect_batch(&frame, rows, 1, &self.dissection.meter, True, self.datagrams)
            if self.state is not None:
                self.holding = False
                self.state.reach(self.state.advance(timestamp_ns))
                count = self.attribute(&frame, rows, 1, &self.state.now_ns)
                for k in range(count):
                    self.prepare(&frame, &rows[k], self.datagrams)
                self.holding = True
            else:
                count = self.classifier.attribute(&frame, rows, 1, self.subscribers)
                self.classifier.decide(rows, count, self.where)
            result = np.zeros(count, PACKET)
            view = result
            memcpy(&view[0], rows, count * sizeof(packet_s))
            result["frame"] = i
            found.append(result)
        return np.concatenate(found) if found else np.zeros(0, PACKET)

    def listen_for_names(self):
        """Remember from here on which names flows say, for told()."""
        self.heard = {}

    def told(self, const packet_s[::1] rows not None):
        """Of each row what is known of its flow, after it: a dict.

        rows   as rows() gave them last

        "facts" are bits, as Covering numbers them, of this packet's request too where there is but
        one row; "sni" and "host" are the names that were said last, as octets; "doubted": the names
        of its QUIC connections are not believed.
        """
        cdef asked_s asked
        cdef uint32_t number
        cdef const flow_s *flow
        found = []
        for i in range(rows.shape[0]):
            found.append({"facts": 0, "sni": b"", "host": b"", "doubted": False})
            if self.state is None:
                continue
            self.ask(&rows[i], &asked)
            number = self.state.flows.find(&asked.key) if asked.reachable else 0
            if not number:
                continue
            flow = <const flow_s *>self.state.flows.at(number)
            facts = self.known_of(flow, False)
            if (rows.shape[0] == 1 and self.said.kind == SAID_DECIDED
                    and not flow.told >> FACT_HOST & 1):
                facts |= self.said.facts & self.classifier.covering.kinds[<int>FACT_HOST]
            heard = self.heard or {}
            found[i] = {
                "facts": facts, "sni": heard.get((number, <int>FACT_SNI), b""),
                "host": heard.get((number, <int>FACT_HOST), b""),
                "doubted": rows[i].protocol == PROTOCOL_UDP and flow.told & TOLD_DOUBTED != 0,
            }
        return found
