"""Several captures as one stream, in order of (timestamp, capture, position)."""

from libc.stdint cimport uint64_t
from libc.stdlib cimport calloc, free

from tollsplit.cext.layout cimport frame_s
from tollsplit.cext.reader cimport Reader


cdef class Merge:
    """Hands out the frames of some captures; whichever has the earliest next frame is next.

    sources   how many captures there are

    Each capture's frames stay in the order in which they stand. When a capture's region is used up
    all that is ready has been handed out, and `waiting` says which one has to be fed.
    """

    def __cinit__(self, int sources):
        self.sources = sources
        self.readers = [None] * sources
        self.queues = <queue_s *>calloc(max(1, sources), sizeof(queue_s))
        if self.queues == NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self.queues)

    def feed(self, int number, Reader reader):
        """Go on with a capture's next region; None: it has ended."""
        if not 0 <= number < self.sources:
            raise ValueError(f"capture {number} of {self.sources}")
        self.readers[number] = reader
        self.queues[number].ended = reader is None

    cdef int next_batch(self, frame_s *frames, int count) noexcept nogil:
        """Fill in up to `count` frames. Returns how many; 0: one has to be fed, or all have ended.

        What was handed out is good until then: a queue is empty before its region goes.
        """
        cdef int filled = 0, i, first, second
        cdef queue_s *queue
        while filled < count:
            first = second = -1
            for i in range(self.sources):
                queue = &self.queues[i]
                if queue.ended:
                    continue
                if queue.at == queue.count:
                    with gil:
                        self.refill(i)
                    if queue.count == 0:
                        self.waiting = i
                        return filled
                if first < 0 or next_time(queue) < next_time(&self.queues[first]):
                    second = first
                    first = i
                elif second < 0 or next_time(queue) < next_time(&self.queues[second]):
                    second = i
            if first < 0:
                self.waiting = -1
                return filled
            queue = &self.queues[first]
            while filled < count and queue.at < queue.count and (
                second < 0 or next_time(queue) < next_time(&self.queues[second])
                or (first < second and next_time(queue) == next_time(&self.queues[second]))
            ):
                frames[filled] = queue.frames[queue.at]
                queue.at += 1
                filled += 1
        return filled

    cdef int refill(self, int number) noexcept:
        """Read a capture's next frames into its queue, which is empty."""
        cdef queue_s *queue = &self.queues[number]
        cdef Reader reader = self.readers[number]
        queue.at = 0
        queue.count = max(0, reader.next_batch(queue.frames, MERGE_AHEAD))
        return 0


cdef inline uint64_t next_time(const queue_s *queue) noexcept nogil:
    return queue.frames[queue.at].timestamp_ns
