# Blocks of a TPACKET_V3 receive ring → frames. See ring.pyx.

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from tollsplit.cext.layout cimport frame_s


cdef class Ring:
    cdef uint8_t[::1] memory     # the ring as it is mapped
    cdef uint8_t* block          # the block that is walked
    cdef uint8_t* end            # behind the last block
    cdef readonly uint32_t block_octets
    cdef readonly uint32_t block_count
    cdef uint32_t at             # where the block's next frame begins
    cdef uint32_t filled         # octets of the block that the kernel filled
    cdef uint32_t frames_left    # frames of the block not handed out yet
    cdef bint held               # the block is ours, though all of it may be handed out
    cdef uint32_t blocks_left    # blocks that may be taken before the next wait
    cdef uint16_t link_type
    cdef uint16_t ingress
    cdef bint segments           # each frame has a virtio_net_hdr in front of it
    cdef readonly uint64_t handed_out
    cdef readonly uint64_t faults
    cdef public uint32_t interface

    cdef int next_batch(self, frame_s* frames, int count) noexcept nogil
    cdef bint take(self) noexcept nogil
    cdef void release(self) noexcept nogil
    cdef int walk(self, frame_s* frames, int count) noexcept nogil
