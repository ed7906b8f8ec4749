# Records of a capture in memory → frames. See reader.pyx.

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from tollsplit.cext.interface cimport interface_s
from tollsplit.cext.layout cimport frame_s


cdef class Reader:
    cdef const uint8_t[::1] region
    cdef const uint8_t* octets
    cdef size_t at               # octets of the region used up
    cdef size_t size
    cdef bint final
    cdef uint64_t base           # where the region begins in the stream
    cdef readonly uint64_t records
    cdef readonly bint truncated
    cdef int format              # format_e
    cdef bint swapped            # the other byte order than this machine's
    cdef bint skip_links
    cdef bint guessed            # this place was come to by a leap
    cdef bint whole              # the region has to be used up
    cdef interface_s* interfaces
    cdef uint32_t interface_count
    cdef uint32_t interface_room
    cdef dict ingresses          # interface name as octets → number
    cdef uint16_t any_ingress
    cdef int nonsense            # nonsense_e; what follows describes it
    cdef uint64_t nonsense_at
    cdef uint64_t found
    cdef uint64_t expected

    cdef int next_batch(self, frame_s* frames, int count) noexcept nogil
    cdef bint open(self) noexcept nogil
    cdef int blocks(self, frame_s* frames, int count) noexcept nogil
    cdef bint section(self, const uint8_t* block, size_t left) noexcept nogil
    cdef bint describe_interface(self, const uint8_t* block, uint32_t length) noexcept nogil
    cdef bint packet(self, frame_s* frame, const uint8_t* block, uint32_t length,
                     uint32_t kind) noexcept nogil
    cdef interface_s* add_interface(self, uint16_t link, uint32_t snap) noexcept nogil
    cdef uint16_t ingress_of(self, const uint8_t* name, uint32_t length) noexcept with gil
    cdef void note(self, int nonsense, uint64_t found, uint64_t expected) noexcept nogil
    cdef void note_captured(self, const interface_s* interface, uint32_t captured) noexcept nogil
