"""What a worker has counted: by subscriber, rule and time cell, and where every frame went."""

import numpy as np

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memmove, memset

from tollsplit.cext.classify cimport Classifier
from tollsplit.cext.columns import counters as counters_of
from tollsplit.cext.exported cimport check_export, rows_of
from tollsplit.cext.flows cimport held_s
from tollsplit.cext.key cimport key_s, who_of
from tollsplit.cext.layout cimport *
from tollsplit.cext.layout import COUNTER, SUBSCRIBER
from tollsplit.cext.subscribers cimport Subscribers
from tollsplit.cext.table cimport Table
from tollsplit.cext.totals cimport Totals
from tollsplit.cext.totals import TOTALS


cdef class Counted:
    """Counters, the subscribers that they name, and totals; those of several are added up.

    _            how frames are dissected, which is for its heir
    classifier   whose rules and pools they were counted under
    cell_at      timestamp_ns → (start_ns, end_ns, number) of its time cell, or None when there are
                 too many; called once per cell and worker
    """

    def __cinit__(self, _, Classifier classifier not None, cell_at, *__):
        self.classifier = classifier
        self.cell_at = cell_at
        self.table = Table()
        self.tables = [(self.table, None)]
        self.subscribers = Subscribers()
        self.totals = Totals()

    def __dealloc__(self):
        free(self.cells)

    # --- time cells ----------------------------------------------------------------------

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

    cdef bint is_in_a_cell(self, uint64_t timestamp_ns) except -1 nogil:
        """Make the cell of an instant the current one, outside of any batch; False: none is left."""
        if not self.start_ns <= timestamp_ns < self.end_ns:
            self.find_cell(timestamp_ns)
            self.same_cell = False
        return self.number != CELL_NONE

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

    # --- what was held -------------------------------------------------------------------

    cdef int add_held(self, const held_s *held, const key_s *key) except -1 nogil:
        """Count packets that were held, of the flow of a key."""
        cdef subscriber_s who
        cdef counter_s counter
        cdef fault_e fault = FAULT_NONE
        memset(&counter, 0, sizeof(counter_s))
        who_of(key, &who)
        counter.subscriber = self.subscribers.number(&who) if key.interned else <uint32_t>who.lo
        if key.interned and counter.subscriber == 0xFFFFFFFFU:
            fault = FAULT_TABLE_FULL
        counter.interned = key.interned
        counter.rule = held.rule
        counter.flags = held.flags
        counter.used = 1
        counter.uplink_packets = held.packets[0]
        counter.downlink_packets = held.packets[1]
        counter.uplink_octets = held.octets[0]
        counter.downlink_octets = held.octets[1]
        counter.first_ns = held.first_ns
        counter.last_ns = held.last_ns
        if not self.is_in_a_cell(held.first_ns):
            fault = FAULT_CELLS_FULL
        counter.cell = self.number
        self.table.reserve(1)
        if fault == FAULT_NONE and not self.table.put(&counter):
            fault = FAULT_TABLE_FULL
        self.totals.settle_held(held, fault)
        return 0

    # --- what others have counted --------------------------------------------------------

    def absorb(self, Counted other not None):
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

    def annex(self, Counted other not None):
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

    def forget(self):
        """Begin anew under the same rules, in the memory that counting has taken by now.

        Raises ValueError where it has counters of others.
        """
        if len(self.tables) > 1:
            raise ValueError("what has annexed another's counters does not begin anew")
        self.table.forget()
        self.subscribers = Subscribers()
        self.totals = Totals()

    @property
    def seen(self):
        """(packets, octets) of all frames so far; while another thread runs, of its last batch."""
        return self.totals.sums.seen_packets, self.totals.sums.seen_octets

    def sums(self):
        """The buckets' packets and octets: dict of name → (packets, octets)."""
        return self.totals.by_name()
