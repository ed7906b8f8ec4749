"""One worker: frames in, counters out."""

import numpy as np

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy, memmove, memset

from tollsplit.cext.classify cimport POOL_BITS, Classifier
from tollsplit.cext.columns import counters as counters_of
from tollsplit.cext.dissect cimport Dissection, dissect_batch
from tollsplit.cext.interface cimport TIMESTAMP_NS_MAX
from tollsplit.cext.layout cimport *
from tollsplit.cext.layout import BUCKET_NAMES, COUNTER, FAULT_NAMES, PACKET, SUBSCRIBER
from tollsplit.cext.lpm cimport lookup4
from tollsplit.cext.reader cimport Reader
from tollsplit.cext.recorder cimport Recorder
from tollsplit.cext.ring cimport Ring
from tollsplit.cext.subscribers cimport Subscribers
from tollsplit.cext.table cimport Table

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
    TOTALS = sizeof(totals_s) // sizeof(uint64_t)

cdef uint64_t NEVER_NS = 0xFFFFFFFFFFFFFFFF

assert <int>FAULT_KINDS == <int>FAULTS == len(FAULT_NAMES) and BUCKETS == len(BUCKET_NAMES)


cdef class Meter:
    """Counts frames by (subscriber, rule, cell); one per worker.

    dissection, classifier   shared, read only
    cell_at                  timestamp_ns → (start_ns, end_ns, number) of its time cell, or None
                             when there are too many; called once per cell and worker
    """

    def __cinit__(self, Dissection dissection not None, Classifier classifier not None, cell_at):
        self.dissection = dissection
        self.classifier = classifier
        self.cell_at = cell_at
        self.table = Table()
        self.tables = [(self.table, None)]
        self.subscribers = Subscribers()
        self.until_ns = NEVER_NS
        memset(&self.totals, 0, sizeof(totals_s))
        self.where = <uint64_t *>malloc(2 * BATCH * classifier.words * sizeof(uint64_t))
        self.rows_of_batch = <packet_s *>aligned_alloc(64, 2 * BATCH * sizeof(packet_s))
        if self.where == NULL or self.rows_of_batch == NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self.cells)
        free(self.where)
        free(self.rows_of_batch)

    def run(self, frames not None, uint64_t limit=0xFFFFFFFFFFFFFFFF, Recorder recorder=None):
        """Account a Reader's region to its end, a Ring until no frame is ready, or `limit` frames.

        recorder   keeps what is accounted, too

        Returns how many were accounted, here and by a successor.

        Budget: 35 ns a packet with a million subscribers. The GIL is released once for all
        batches and taken back where a new time cell begins.
        """
        if isinstance(frames, Ring):
            return self.walk[Ring](<Ring>frames, limit, recorder)
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
        dissect_batch(frames, rows, count, &self.dissection.meter, self.classifier.detail)
        total = self.classifier.attribute(frames, rows, count, self.subscribers)
        if self.classifier.detail:
            self.classifier.decide(rows, total, self.where)
        self.place(rows, total)
        self.table.add_batch(rows, self.cells_of_batch, total)
        self.settle(rows, count, total)
        return 0

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

    cdef void settle(self, packet_s *rows, int count, int total) noexcept nogil:
        """Put every frame into exactly one bucket; metered ones lie in the counters."""
        cdef int i
        cdef uint64_t octets = 0
        cdef packet_s *row
        cdef packet_s *other
        cdef totals_s *totals = &self.totals
        for i in range(count, total):  # downlinks of packets between two subscribers
            other = &rows[i]
            row = &rows[other.frame]
            if row.bucket == BUCKET_METERED and other.bucket == BUCKET_METERED:
                totals.twice_packets += 1
                totals.twice_octets += row.octets
            elif other.bucket == BUCKET_METERED:
                row.bucket = BUCKET_METERED
            row.flags |= other.flags & FLAG_MISMATCH
        for i in range(count):
            row = &rows[i]
            octets += row.octets
            if row.bucket != BUCKET_METERED or row.flags:
                self.settle_unusual(row)
            if not row.brief:
                totals.tunnel_octets += row.tunnel_octets
        totals.seen_packets += count
        totals.seen_octets += octets

    cdef void settle_unusual(self, const packet_s *row) noexcept nogil:
        """The bucket of a row that is not metered, and what flags are counted."""
        cdef totals_s *totals = &self.totals
        if row.bucket == BUCKET_FAULT:
            totals.fault_packets[row.fault] += 1
            totals.fault_octets[row.fault] += row.octets
        elif row.bucket != BUCKET_METERED:
            totals.packets[row.bucket] += 1
            totals.octets[row.bucket] += row.octets
        if row.flags & FLAG_COALESCED and row.bucket <= BUCKET_UNATTRIBUTED:
            totals.coalesced_packets += 1
            totals.coalesced_octets += row.octets
        if row.flags & FLAG_MISMATCH:
            totals.mismatch_packets += 1
            totals.mismatch_octets += row.octets

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
        self.add_totals(<const uint64_t *>&other.totals)

    def forget(self):
        """Begin anew under the same rules, in the memory that counting has taken by now.

        Raises ValueError where it has a successor, or counters of others.
        """
        if self.successor is not None or len(self.tables) > 1:
            raise ValueError("a meter that is succeeded, or has annexed another, does not begin "
                             "anew")
        self.table.forget()
        self.subscribers = Subscribers()
        memset(&self.totals, 0, sizeof(totals_s))

    def annex(self, Meter other not None):
        """Add what another worker counted, its counters in their own table: for Columns alone."""
        cdef uint32_t[::1] numbers = self.number_all(
            other.subscribers.known, other.subscribers.count)
        self.tables.append((other.table, np.asarray(numbers)))
        self.add_totals(<const uint64_t *>&other.totals)

    def export(self):
        """All that was counted here, as (COUNTER[n], SUBSCRIBER[m], totals u8[…]), copies.

        For load() of a meter with the same rules, pools and cells, in this version of tollsplit.
        No other thread runs the meter meanwhile.
        """
        totals = np.empty(TOTALS, np.uint64)
        cdef uint64_t[::1] view = totals
        memcpy(&view[0], &self.totals, sizeof(totals_s))
        return counters_of(self.table), self.subscribers.subscribers(), totals

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
        self.check(rows, known, cells)
        numbers = self.number_all(&known[0] if known.shape[0] else NULL, known.shape[0])
        if count:
            with nogil:
                done = self.table.load(&rows[0], count, &numbers[0])
        if not done:
            raise MemoryError
        self.add_totals(&sums[0])

    cdef int check(
        self, const counter_s[::1] counters, const subscriber_s[::1] subscribers, uint64_t cells
    ) except -1:
        """Raise ValueError at the first row that names what this meter cannot have counted."""
        cdef uint64_t rules, pools, tenures, count = subscribers.shape[0]
        cdef Py_ssize_t i
        cdef const subscriber_s *who
        cdef const counter_s *one
        rules, pools, tenures = self.classifier.bounds
        for i in range(subscribers.shape[0]):
            who = &subscribers[i]
            if not is_key(who):
                raise ValueError(f"subscriber {i}: no key of kind {who.kind}: "
                                 f"{who.hi:#x}, {who.lo:#x}")
            if not 0 < who.pool <= pools or who.tenure > tenures:
                raise ValueError(f"subscriber {i}: pool {who.pool}, tenure {who.tenure}: "
                                 f"expected 1 to {pools}, 0 to {tenures}")
        for i in range(counters.shape[0]):
            one = &counters[i]
            if one.interned > 1 or one.flags & ~<uint8_t>FLAGS_KEPT:
                raise ValueError(f"counter {i}: interned {one.interned}, flags {one.flags}: "
                                 f"expected 0 or 1, 0 to {<int>FLAGS_KEPT}")
            if one.interned and one.subscriber >= count:
                raise ValueError(f"counter {i}: subscriber {one.subscriber}: "
                                 f"expected one below {count}")
            if not one.interned and not lookup4(
                    self.classifier.trie4, one.subscriber) & ((1 << POOL_BITS) - 1):
                raise ValueError(f"counter {i}: address {one.subscriber:#010x} is in no pool")
            if one.rule > rules or one.cell >= cells:
                raise ValueError(f"counter {i}: rule {one.rule}, cell {one.cell}: "
                                 f"expected 0 to {rules}, one below {cells}")
            if not one.first_ns <= one.last_ns <= TIMESTAMP_NS_MAX:
                raise ValueError(f"counter {i}: from {one.first_ns} to {one.last_ns} ns: "
                                 f"expected times in order, up to {TIMESTAMP_NS_MAX}")
            if (one.uplink_packets | one.uplink_octets
                    | one.downlink_packets | one.downlink_octets) >> 63:
                raise ValueError(f"counter {i}: a sum of 2^63 or more")
        return 0

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

    cdef void add_totals(self, const uint64_t *theirs) noexcept nogil:
        cdef uint64_t *mine = <uint64_t *>&self.totals
        cdef int i
        for i in range(TOTALS):
            mine[i] += theirs[i]

    def rows(self, frames):
        """PACKET[n] of frames as Reader.frames() and Ring.frames() give them, not counted.

        Dissected, attributed and decided; the downlink of a packet between two subscribers
        follows its uplink.
        """
        cdef frame_s frame
        cdef packet_s rows[2]
        cdef packet_s[::1] view
        cdef int count
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
            dissect_batch(&frame, rows, 1, &self.dissection.meter, True)
            count = self.classifier.attribute(&frame, rows, 1, self.subscribers)
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
        return self.totals.seen_packets, self.totals.seen_octets

    def sums(self):
        """The buckets' packets and octets: dict of name → (packets, octets)."""
        cdef totals_s *totals = &self.totals
        found = {
            "seen": (totals.seen_packets, totals.seen_octets),
            "metered_twice": (totals.twice_packets, totals.twice_octets),
            "coalesced": (totals.coalesced_packets, totals.coalesced_octets),
            "mismatch": (totals.mismatch_packets, totals.mismatch_octets),
            "tunnel": (0, totals.tunnel_octets),
        }
        for i, name in enumerate(BUCKET_NAMES):
            if i != BUCKET_METERED and i != BUCKET_FAULT:
                found[name] = (totals.packets[i], totals.octets[i])
        for i, name in enumerate(FAULT_NAMES):
            if totals.fault_packets[i]:
                found["fault:" + name] = (totals.fault_packets[i], totals.fault_octets[i])
        return found


cdef rows_of(str name, rows, dtype):
    """A copy of an array that may come from anywhere: of this dtype, aligned, and our own."""
    if not isinstance(rows, np.ndarray) or rows.dtype != dtype or rows.ndim != 1:
        raise ValueError(f"{name}: expected an array of one dimension and the dtype of an export")
    return rows.copy()


cdef bint is_key(const subscriber_s *who) noexcept nogil:
    """Whether a subscriber's key is one of its kind."""
    if who.kind == KIND_IPV6:
        return True
    if who.kind == KIND_VLAN:  # the inner VID counts from 1
        return who.hi >> 12 == 0 and who.lo <= 4096
    return who.kind <= KIND_MAC and who.hi == 0 and (
        who.lo >> (48 if who.kind == KIND_MAC else 32) == 0)
