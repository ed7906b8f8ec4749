cimport cython

from tollsplit.cext.layout cimport frame_s

cdef enum:
    MERGE_AHEAD = 64             # frames that are read ahead of each capture

# The next frames of one capture.
cdef struct queue_s:
    frame_s frames[MERGE_AHEAD]
    int at
    int count
    bint ended


@cython.final
cdef class Merge:
    cdef list readers
    cdef queue_s *queues
    cdef int sources
    cdef readonly int waiting    # the capture that has to be fed; −1: all have ended

    cdef int next_batch(self, frame_s *frames, int count) noexcept nogil
    cdef int refill(self, int number) noexcept
