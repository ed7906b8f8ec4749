# Frames → the blocks of a pcapng file. See recorder.pyx.

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from tollsplit.cext.layout cimport frame_s

cdef extern from "<pthread.h>" nogil:
    ctypedef struct pthread_mutex_t:
        pass
    ctypedef struct pthread_cond_t:
        pass

# Whole blocks on their way to the file.
cdef struct buffer_s:
    buffer_s* next               # in the list that the buffer is in
    uint8_t* octets
    size_t filled                # octets
    uint64_t frames              # packet blocks among the blocks


cdef class Spool:
    cdef pthread_mutex_t lock    # over all that follows but `snap_octets`
    cdef pthread_cond_t changed
    cdef buffer_s* free          # the last one given back comes first: it is in the cache
    cdef buffer_s* first         # of those to be written
    cdef buffer_s* last
    cdef int descriptor
    cdef int failed              # errno; 0: nothing failed
    cdef bint ending
    cdef uint64_t octets_written
    cdef uint64_t frames_written
    cdef readonly uint32_t snap_octets

    cdef int add_buffers(self, int count) except -1
    cdef buffer_s* take(self) noexcept nogil
    cdef void give(self, buffer_s* buffer) noexcept nogil
    cdef void put_back(self, buffer_s* buffer) noexcept nogil
    cdef int write(self, const buffer_s* buffer, uint64_t* octets, uint64_t* frames) noexcept nogil


cdef class Recorder:
    cdef Spool spool
    cdef buffer_s* buffer        # that is being filled; NULL: none has been taken
    cdef uint64_t since_ns       # its first frame's time
    cdef public uint32_t interface

    cdef int add(self, const frame_s* frames, int count) noexcept nogil
    cdef bint make_room(self, size_t octets) noexcept nogil
    cdef void hand_over(self) noexcept nogil
