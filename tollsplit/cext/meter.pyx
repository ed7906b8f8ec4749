"""One worker: frames in, counters out."""

import numpy as np

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy, memmove, memset

from tollsplit.cext.classify cimport Classifier
from tollsplit.cext.columns import counters as counters_of
from tollsplit.cext.dissect cimport Dissection, dissect_batch
from tollsplit.cext.exported cimport check_export, rows_of
from tollsplit.cext.fragments cimport MET_OVERLAPS, MET_UNTRACKED, MET_WAITS
from tollsplit.cext.layout cimport *
from tollsplit.cext.layout import COUNTER, PACKET, SUBSCRIBER
from tollsplit.cext.merge cimport Merge
from tollsplit.cext.reader cimport Reader
from tollsplit.cext.recorder cimport Recorder
from tollsplit.cext.ring cimport Ring
from tollsplit.cext.state cimport State
from tollsplit.cext.subscribers cimport Subscribers
from tollsplit.cext.table cimport Table
from tollsplit.cext.totals cimport Totals
from tollsplit.cext.totals import TOTALS

cdef extern from "<stdlib.h>" nogil:
    void *aligned_alloc(size_t alignment, size_t size)

cdef extern from *:
    """
    #define TOLLSPLIT_ACQUIRE64(at) __atomic_load_n((at), __ATOMIC_ACQUIRE)
    #define TOLLSPLIT_RELEASE64(at, value) __atomic_store_n((at), (value), __ATOMIC_RELEASE)
    """
    uint64_t acquire "TOLLSPLIT_ACQUIRE64"(const uint64_t *) nogil
    void release_to "TOLLSPLIT_RELEASE64"(uint64_t *, uint64_t) nogil

cdef enum:
    CELL_NONE = 0xFFFFFFFF       # CELLS_MAX reached

cdef uint64_t NEVER_NS = 0xFFFFFFFFFFFFFFFF


cdef class Meter:
    """Counts frames by (subscriber, rule, cell); one per worker.

    dissection, classifier   shared, read only
    cell_at                  timestamp_ns → (start_ns, end_ns, number) of its time cell, or None
                             when there are too many; called once per cell and worker
    state                    what was met before, where the rules ask for that
    """

    def __cinit__(self, Dissection dissection not None, Classifier classifier not None, cell_at,
                  State state=None):
        self.dissection = dissection
        self.classifier = classifier
        self.cell_at = cell_at
        self.state = state
        self.holding = True
        self.table = Table()
        self.tables = [(self.table, None)]
        self.subscribers = Subscribers()
        self.until_ns = NEVER_NS
        self.totals = Totals()
        self.where = <uint64_t *>malloc(2 * BATCH * classifier.words * sizeof(uint64_t))
        self.rows_of_batch = <packet_s *>aligned_alloc(64, 2 * BATCH * sizeof(packet_s))
        if self.where == NULL or self.rows_of_batch == NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self.cells)
        free(self.where)
        free(self.rows_of_batch)

    def run(self, frames not None, uint64_t limit=0xFFFFFFFFFFFFFFFF, Recorder recorder=None):
        """Account a Reader's region to its end, a Ring or Merge until no frame is ready, or `limit`
        frames.

        recorder   keeps what is accounted, too

        Returns how many were accounted, here and by a successor.

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
        with nogil:
            while done < limit:
                count = source.next_batch(frames, <int>min(<uint64_t>BATCH, limit - done))
                if count <= 0:
                    break
                if recorder is not None:
                    recorder.add(frames, count)
                self.account(frames, count)
                done += count
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
        """Count some frames, at most BATCH, where what was met before matters.

        Fragments are rare: where there is one, frames are gone through one by one, for what waits
        for it comes right behind it, whatever the batches.
        """
        cdef packet_s *rows = self.rows_of_batch
        cdef packet_s single[2]
        cdef uint16_t flags = 0
        cdef int i
        dissect_batch(frames, rows, count, &self.dissection.meter, True, self.datagrams)
        for i in range(count):
            flags |= rows[i].flags
        if not flags & FLAG_FRAGMENT:
            for i in range(count):
                self.state.advance(frames[i].timestamp_ns)
            self.count_rows(
                frames, rows, count,
                self.classifier.attribute(frames, rows, count, self.subscribers))
            return self.count_decided()
        for i in range(count):
            self.state.advance(frames[i].timestamp_ns)
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
        cdef int total = self.classifier.attribute(frame, rows, 1, self.subscribers)
        if total == 2:
            rows[1].flags |= FLAG_TWICE
            self.assemble(&rows[1], datagram)
            if rows[1].bucket != BUCKET_HELD:
                rows[0].flags |= FLAG_TWICE
        self.assemble(&rows[0], datagram)
        return self.count_rows(frame, rows, 1, total)

    cdef int count_rows(
        self, const frame_s *frames, packet_s *rows, int count, int total
    ) except -1 nogil:
        """Decide and count rows that are as complete as they will be."""
        self.classifier.decide(rows, total, self.where)
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
        self.identify(row, &who)
        met = self.state.fragments.meet(row, datagram, &who, self.state.now_ns, self.holding)
        if met & MET_OVERLAPS:
            self.totals.overlapping(row)
        if met & MET_UNTRACKED:
            self.totals.untracked(row)
        if met & MET_WAITS:
            row.bucket = BUCKET_HELD

    cdef void identify(self, const packet_s *row, subscriber_s *who) noexcept nogil:
        """Who a row's subscriber is, whatever number it has with this meter."""
        if row.interned:
            who[0] = self.subscribers.known[row.subscriber]
            return
        memset(who, 0, sizeof(subscriber_s))
        who.lo = row.subscriber
        who.pool = row.pool

    cdef int count_decided(self) except -1 nogil:
        """Count the fragments that wait no more."""
        cdef packet_s row
        cdef subscriber_s who
        while self.state.fragments.take(&row, &who):
            self.count_late(&row, &who)
        return 0

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
        self.place(row, 1)
        self.table.add_batch(row, self.cells_of_batch, 1)
        self.totals.settle_late(row)
        return 0

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
                self.successor.state = self.state
        self.parted = True
        return 0

    cdef int release(self) except -1 nogil:
        """Decide whatever is held by what is known of it."""
        self.state.fragments.release()
        return self.count_decided()

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
            fresh.state = self.state
        self.state = None

    # --- places --------------------------------------------------------------------------

    cdef int place(self, packet_s *rows, int count) except -1 nogil:
        """Find each metered row's time cell; mostly all lie in the one that the last lay in."""
        cdef uint32_t *cells = self.cells_of_batch
        cdef uint64_t start_ns = self.start_ns, length_ns = self.end_ns - self.start_ns
        cdef uint64_t outside = 0
        cdef int i
        for i in range(count):
            outside |= rows[i].timestamp_ns - start_ns >= length_ns
        if not outside and self.same_cell:
            return 0
        for i in range(count):
            if rows[i].bucket != BUCKET_METERED:
                continue
            if not self.start_ns <= rows[i].timestamp_ns < self.end_ns:
                self.find_cell(rows[i].timestamp_ns)
            cells[i] = self.number
            if self.number == CELL_NONE:
                rows[i].bucket = BUCKET_FAULT
                rows[i].fault = FAULT_CELLS_FULL
        self.same_cell = not outside
        if not outside:
            for i in range(2 * BATCH):
                cells[i] = self.number
        return 0

    cdef int find_cell(self, uint64_t timestamp_ns) except -1 nogil:
        """Make the cell that an instant lies in the current one; CELL_NONE: there are too many."""
        cdef uint32_t low = 0, high = self.cell_count, middle
        while low < high:  # the first cell that starts later
            middle = (low + high) // 2
            if self.cells[middle].start_ns <= timestamp_ns:
                low = middle + 1
            else:
                high = middle
        if low and timestamp_ns < self.cells[low - 1].end_ns:
            self.enter(&self.cells[low - 1])
        else:
            with gil:
                self.learn_cell(timestamp_ns)
        return 0

    cdef void enter(self, const cell_s *cell) noexcept nogil:
        self.start_ns = cell.start_ns
        self.end_ns = cell.end_ns
        self.number = cell.number

    cdef int learn_cell(self, uint64_t timestamp_ns) except -1:
        """Ask for an instant's cell and make it the current one."""
        cdef uint32_t at = 0
        cdef cell_s *cells
        found = self.cell_at(timestamp_ns)
        if found is None:
            self.start_ns = self.end_ns = 0  # the next packet asks again
            self.number = CELL_NONE
            return 0
        start_ns, end_ns, number = found
        if self.cell_count == self.cell_room:
            cells = <cell_s *>realloc(
                self.cells, (2 * <size_t>self.cell_room + 16) * sizeof(cell_s))
            if cells == NULL:
                raise MemoryError
            self.cells = cells
            self.cell_room = 2 * self.cell_room + 16
        at = self.cell_count
        while at and self.cells[at - 1].start_ns > <uint64_t>start_ns:
            at -= 1
        memmove(&self.cells[at + 1], &self.cells[at], (self.cell_count - at) * sizeof(cell_s))
        self.cells[at].start_ns = start_ns
        self.cells[at].end_ns = end_ns
        self.cells[at].number = number
        self.cell_count += 1
        self.enter(&self.cells[at])
        return 0

    def absorb(self, Meter other not None):
        """Add what another worker counted; any order of workers gives the same counters.

        Raises MemoryError where the counters of both find no room.
        """
        cdef uint32_t[::1] numbers = self.number_all(
            other.subscribers.known, other.subscribers.count)
        cdef bint done
        with nogil:
            done = self.table.merge(other.table, &numbers[0])
        if not done:
            raise MemoryError
        self.totals.add(other.totals.numbers())

    def forget(self):
        """Begin anew under the same rules, in the memory that counting has taken by now.

        Raises ValueError where it has a successor, or counters of others.
        """
        if self.successor is not None or len(self.tables) > 1:
            raise ValueError("a meter that is succeeded, or has annexed another, does not begin "
                             "anew")
        self.table.forget()
        self.subscribers = Subscribers()
        self.totals = Totals()

    def annex(self, Meter other not None):
        """Add what another worker counted, its counters in their own table: for Columns alone."""
        cdef uint32_t[::1] numbers = self.number_all(
            other.subscribers.known, other.subscribers.count)
        self.tables.append((other.table, np.asarray(numbers)))
        self.totals.add(other.totals.numbers())

    def export(self):
        """All that was counted here, as (COUNTER[n], SUBSCRIBER[m], totals u8[…]), copies.

        For load() of a meter with the same rules, pools and cells, in this version of tollsplit.
        No other thread runs the meter meanwhile.
        """
        return (counters_of(self.table), self.subscribers.subscribers(),
                self.totals.numbers())

    def load(self, counters, subscribers, totals, uint32_t cells):
        """Add what export() gave, as absorb() adds the meter that it was called on.

        cells   how many time cells are known: a counter's is the number of one of them

        All is checked before anything is added. Raises ValueError where an array is not of its
        dtype or size, or a row names what cannot be; MemoryError as absorb() does.
        """
        cdef const counter_s[::1] rows = rows_of("counters", counters, COUNTER)
        cdef const subscriber_s[::1] known = rows_of("subscribers", subscribers, SUBSCRIBER)
        cdef const uint64_t[::1] sums = rows_of("totals", totals, np.dtype(np.uint64))
        cdef uint32_t[::1] numbers
        cdef uint64_t count = rows.shape[0]
        cdef bint done = True
        if sums.shape[0] != TOTALS:
            raise ValueError(f"totals: {sums.shape[0]} of them, expected {TOTALS}")
        check_export(self.classifier, rows, known, cells)
        numbers = self.number_all(&known[0] if known.shape[0] else NULL, known.shape[0])
        if count:
            with nogil:
                done = self.table.load(&rows[0], count, &numbers[0])
        if not done:
            raise MemoryError
        self.totals.add(sums)

    cdef uint32_t[::1] number_all(self, const subscriber_s *subscribers, uint64_t count):
        """u4[count + 1], what another meter's subscribers are called here."""
        cdef uint32_t[::1] numbers = np.zeros(count + 1, np.uint32)
        cdef uint64_t i
        cdef bint done = True
        with nogil:
            for i in range(count):
                numbers[i] = self.subscribers.number(&subscribers[i])
                done = done and numbers[i] != 0xFFFFFFFFU
        if not done:
            raise MemoryError
        return numbers

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
            count = self.classifier.attribute(&frame, rows, 1, self.subscribers)
            if self.state is not None:
                self.holding = False
                for k in range(count):
                    self.assemble(&rows[k], self.datagrams)
                self.holding = True
            self.classifier.decide(rows, count, self.where)
            result = np.zeros(count, PACKET)
            view = result
            memcpy(&view[0], rows, count * sizeof(packet_s))
            result["frame"] = i
            found.append(result)
        return np.concatenate(found) if found else np.zeros(0, PACKET)

    @property
    def seen(self):
        """(packets, octets) of all frames so far; while another thread runs, of its last batch."""
        return self.totals.sums.seen_packets, self.totals.sums.seen_octets

    def sums(self):
        """The buckets' packets and octets: dict of name → (packets, octets)."""
        return self.totals.by_name()
