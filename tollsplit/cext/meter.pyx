"""One worker: frames in, counters out."""

import numpy as np

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy, memmove, memset

from tollsplit.cext.classify cimport Classifier
from tollsplit.cext.dissect cimport Dissection, dissect_batch
from tollsplit.cext.layout cimport *
from tollsplit.cext.layout import BUCKET_NAMES, FAULT_NAMES, PACKET
from tollsplit.cext.reader cimport Reader
from tollsplit.cext.subscribers cimport Subscribers
from tollsplit.cext.table cimport Table

cdef extern from "<stdlib.h>" nogil:
    void *aligned_alloc(size_t alignment, size_t size)

cdef enum:
    CELL_NONE = 0xFFFFFFFF       # CELLS_MAX reached

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
        memset(&self.totals, 0, sizeof(totals_s))
        self.where = <uint64_t *>malloc(2 * BATCH * classifier.words * sizeof(uint64_t))
        self.rows_of_batch = <packet_s *>aligned_alloc(64, 2 * BATCH * sizeof(packet_s))
        if self.where == NULL or self.rows_of_batch == NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self.cells)
        free(self.where)
        free(self.rows_of_batch)

    def run(self, Reader reader not None, uint64_t limit=0xFFFFFFFFFFFFFFFF):
        """Account a reader's region to its end, or `limit` frames of it. Returns how many.

        Budget: 35 ns a packet with a million subscribers. The GIL is released once for all
        batches and taken back where a new time cell begins.
        """
        cdef frame_s frames[BATCH]
        cdef int count
        cdef uint64_t done = 0
        with nogil:
            while done < limit:
                count = reader.next_batch(frames, <int>min(<uint64_t>BATCH, limit - done))
                if count <= 0:
                    break
                self.batch(frames, count)
                done += count
        return done

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
        cdef uint32_t[::1] numbers = self.add_all_but_counters(other)
        cdef bint done
        with nogil:
            done = self.table.merge(other.table, &numbers[0])
        if not done:
            raise MemoryError

    def annex(self, Meter other not None):
        """Add what another worker counted, its counters in their own table: for Columns alone."""
        self.tables.append((other.table, np.asarray(self.add_all_but_counters(other))))

    cdef uint32_t[::1] add_all_but_counters(self, Meter other):
        """Add subscribers and totals; returns what the other's interned subscribers are called."""
        cdef uint32_t[::1] numbers = np.zeros(max(1, other.subscribers.count), np.uint32)
        cdef uint32_t i
        cdef bint done = True
        cdef uint64_t *mine = <uint64_t *>&self.totals
        cdef const uint64_t *theirs = <const uint64_t *>&other.totals
        with nogil:
            for i in range(other.subscribers.count):
                numbers[i] = self.subscribers.number(&other.subscribers.known[i])
                done = done and numbers[i] != 0xFFFFFFFFU
        if not done:
            raise MemoryError
        for i in range(sizeof(totals_s) // sizeof(uint64_t)):
            mine[i] += theirs[i]
        return numbers

    def rows(self, frames):
        """PACKET[n] of (octets, timestamp_ns, original, link_type, ingress) frames, not counted.

        Dissected, attributed and decided; the downlink of a packet between two subscribers
        follows its uplink.
        """
        cdef frame_s frame
        cdef packet_s rows[2]
        cdef packet_s[::1] view
        cdef int count
        found = []
        for i, (octets, timestamp_ns, original, link_type, ingress) in enumerate(frames):
            memset(&frame, 0, sizeof(frame))
            frame.octets = <const uint8_t *>PyBytes_AS_STRING(octets)
            frame.captured_octets = PyBytes_GET_SIZE(octets)
            frame.timestamp_ns = timestamp_ns
            frame.original_octets = original
            frame.link_type = link_type
            frame.ingress = ingress
            dissect_batch(&frame, rows, 1, &self.dissection.meter, True)
            count = self.classifier.attribute(&frame, rows, 1, self.subscribers)
            self.classifier.decide(rows, count, self.where)
            result = np.zeros(count, PACKET)
            view = result
            memcpy(&view[0], rows, count * sizeof(packet_s))
            result["frame"] = i
            found.append(result)
        return np.concatenate(found) if found else np.zeros(0, PACKET)

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
