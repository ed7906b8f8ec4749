"""Walks the blocks of an AF_PACKET receive ring (TPACKET_V3) and points at their frames."""

cimport cython
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memmove

from tollsplit.cext.interface cimport link_handed_out
from tollsplit.cext.layout cimport LINK_ETHERNET, LINK_SKIPPED, SEGMENT_UNKNOWN, frame_s

cdef extern from *:
    """
    #define TOLLSPLIT_ACQUIRE(at) __atomic_load_n((const unsigned int *)(at), __ATOMIC_ACQUIRE)
    #define TOLLSPLIT_RELEASE(at, value) \
        __atomic_store_n((unsigned int *)(at), (value), __ATOMIC_RELEASE)
    """
    uint32_t acquire "TOLLSPLIT_ACQUIRE"(const void*) nogil
    void release_to "TOLLSPLIT_RELEASE"(void*, uint32_t) nogil
    uint16_t swap16 "__builtin_bswap16"(uint16_t) nogil

# linux/if_packet.h. Flattened: the header's unions add no octets.
cdef struct block_header_s:
    uint32_t version
    uint32_t offset_to_priv
    uint32_t block_status
    uint32_t num_pkts
    uint32_t offset_to_first_pkt
    uint32_t blk_len

cdef struct packet_header_s:     # tpacket3_hdr
    uint32_t tp_next_offset
    uint32_t tp_sec
    uint32_t tp_nsec
    uint32_t tp_snaplen
    uint32_t tp_len
    uint32_t tp_status
    uint16_t tp_mac
    uint16_t tp_net
    uint32_t tp_rxhash
    uint32_t tp_vlan_tci
    uint16_t tp_vlan_tpid

# virtio_net_hdr (linux/virtio_net.h), legacy form: in the machine's own byte order. Its hdr_len
# is the linear part of the kernel's buffer, not the length of the headers.
cdef enum:
    VIRTIO_HEADER_OCTETS = 10
    VIRTIO_GSO_TYPE = 1          # offset of the octet
    VIRTIO_GSO_SIZE = 4          # offset of 16 bits

cdef enum:
    BLOCK_HEADER_OCTETS = 48
    PACKET_HEADER_OCTETS = 68    # TPACKET3_HDRLEN: tpacket3_hdr and sockaddr_ll
    ADDRESSES_OCTETS = 12        # what stands before an Ethernet frame's first tag
    VLAN_TAG_OCTETS = 4
    VLAN_TPID = 0x8100
    FRAME_ALIGNMENT = 8          # of frames in a block

cdef enum:
    TP_STATUS_KERNEL = 0
    TP_STATUS_USER = 1 << 0
    TP_STATUS_VLAN_VALID = 1 << 4
    TP_STATUS_VLAN_TPID_VALID = 1 << 6
    TP_STATUS_GSO_TCP = 1 << 8   # since Linux 5.17

cdef enum:
    GSO_NONE = 0
    GSO_TCPV4 = 1
    GSO_TCPV6 = 4
    GSO_UDP_L4 = 5
    GSO_ECN = 0x80               # a flag beside the type


@cython.final
cdef class Ring:
    """Hands out the frames in the blocks of a receive ring, as the Reader does those of a file.

    memory        the mapped ring, read and written: blocks are given back in it
    block_octets  size of one block
    link_type     LINKTYPE_* of the interface
    ingress       0: none; else the ingress number that its frames carry
    segments      PACKET_VNET_HDR is set: each frame has a virtio_net_hdr in front of it

    The kernel has put 4 octets of reserve in front of each frame (PACKET_RESERVE): there a VLAN
    tag goes back to where the wire had it. A block goes back to the kernel as a whole, at the
    first call after its last frame was handed out; frames point into it until then.

    handed_out    frames, ever
    faults        frames that a block announced and that do not lie in it, ever
    interface     what a recording calls the interface that the ring is on

    One thread uses a ring at a time. Raises ValueError where memory is no ring, or the link type
    is not dissected.
    """

    def __init__(self, uint8_t[::1] memory not None, uint32_t block_octets, uint16_t link_type,
                 uint16_t ingress=0, bint segments=False):
        cdef size_t octets = memory.shape[0]
        if block_octets < BLOCK_HEADER_OCTETS or block_octets % FRAME_ALIGNMENT:
            raise ValueError(f"blocks of {block_octets} octets: expected a multiple of "
                             f"{FRAME_ALIGNMENT} from {BLOCK_HEADER_OCTETS}")
        if octets == 0 or octets % block_octets or octets // block_octets > 0xFFFFFFFF:
            raise ValueError(f"a ring of {octets} octets: expected blocks of {block_octets}")
        if link_handed_out(link_type) == LINK_SKIPPED:
            raise ValueError(f"link type {link_type} is not dissected")
        if <size_t>&memory[0] % FRAME_ALIGNMENT:
            raise ValueError(f"the ring's memory is not aligned to {FRAME_ALIGNMENT} octets")
        self.memory = memory
        self.block = &memory[0]
        self.end = self.block + octets
        self.block_octets = block_octets
        self.block_count = self.blocks_left = <uint32_t>(octets // block_octets)
        self.link_type = link_handed_out(link_type)
        self.ingress = ingress
        self.segments = segments

    def ready(self):
        """Whether there are frames to hand out. Gives back what was handed out before.

        Between two calls one turn of the ring is handed out and no more, so that a worker that
        cannot keep up still comes by here, and by whatever it has to do at times.
        """
        self.release()
        self.blocks_left = self.block_count
        return self.frames_left > 0 or self.take()

    def close(self):
        """Hands out nothing more, and lets go of the memory."""
        self.frames_left = self.blocks_left = self.block_count = 0
        self.held = False
        self.memory = None

    def skip(self):
        """Walks what is there, one turn of the ring at most. Returns (frames, original octets)."""
        cdef frame_s[64] frames
        cdef uint64_t walked = 0, octets = 0
        cdef int taken, i
        self.blocks_left = self.block_count
        with nogil:
            while True:
                taken = self.next_batch(frames, 64)
                if taken == 0:
                    break
                walked += taken
                for i in range(taken):
                    octets += frames[i].original_octets
        return walked, octets

    def frames(self, int count):
        """At most `count` frames, as Reader.frames() gives them."""
        cdef frame_s frame
        handed = []
        while len(handed) < count and self.next_batch(&frame, 1):
            handed.append((frame.octets[:frame.captured_octets], frame.timestamp_ns,
                           frame.original_octets, frame.link_type, frame.ingress,
                           frame.segment_octets))
        return handed

    cdef int next_batch(self, frame_s* frames, int count) noexcept nogil:
        """Fills frames with the next ones of one block. Returns how many; 0: none are ready.

        They are good until the next call of any method.
        """
        cdef int taken
        self.release()
        while count > 0 and (self.frames_left or self.take()):
            taken = self.walk(frames, count)
            if taken:
                self.handed_out += taken
                return taken
            self.release()           # nothing but nonsense in it
        return 0

    cdef bint take(self) noexcept nogil:
        """Takes over the next block with frames in it. False: the kernel has them all."""
        cdef const block_header_s* header
        while self.blocks_left:
            header = <const block_header_s*>self.block
            # Pairs with the kernel's barrier: what it wrote before the status is seen after it.
            if not acquire(&header.block_status) & TP_STATUS_USER:
                return False
            self.blocks_left -= 1
            self.held = True
            self.frames_left = header.num_pkts
            self.at = header.offset_to_first_pkt
            self.filled = header.blk_len
            if self.filled > self.block_octets or self.at < BLOCK_HEADER_OCTETS:
                self.filled = 0      # so that not one frame lies inside
            if self.frames_left:
                return True
            self.release()
        return False

    cdef void release(self) noexcept nogil:
        """Gives the block back to the kernel if all of it has been handed out."""
        if not self.held or self.frames_left:
            return
        # Our reads of the block, and the tags written into it, come before the kernel's next use.
        release_to(&(<block_header_s*>self.block).block_status, TP_STATUS_KERNEL)
        self.held = False
        self.block += self.block_octets
        if self.block == self.end:
            self.block -= <size_t>self.block_count * self.block_octets

    cdef int walk(self, frame_s* frames, int count) noexcept nogil:
        """Points `frames` at the block's next frames. Returns how many.

        Budget: 10 ns a frame of 64 octets, which another core has just written. Frames lie one
        behind the other, so the processor fetches ahead by itself: prefetching in software
        changed nothing here. The kernel's offsets and lengths are compared with what it says it
        filled of the block; one that leads out of it ends the block there, and what is left of
        it is counted in `faults`. Guarded by benchmarks/bench_live.py.
        """
        cdef packet_header_s* header
        cdef frame_s* frame
        cdef uint8_t* octets
        cdef uint32_t at = self.at, room, mac_min = PACKET_HEADER_OCTETS, status, gso_type
        cdef uint16_t gso_size
        cdef uint16_t tag[2]
        cdef int taken = 0
        if self.segments:
            mac_min += VIRTIO_HEADER_OCTETS
        if self.link_type == LINK_ETHERNET:
            mac_min += VLAN_TAG_OCTETS
        while taken < count and self.frames_left:
            room = self.filled - at if at < self.filled else 0
            header = <packet_header_s*>(self.block + at)
            if (room < PACKET_HEADER_OCTETS or at % FRAME_ALIGNMENT
                    or header.tp_mac < mac_min or header.tp_mac > room
                    or header.tp_snaplen > room - header.tp_mac
                    or header.tp_snaplen > header.tp_len):
                self.faults += self.frames_left
                self.frames_left = 0
                break
            octets = <uint8_t*>header + header.tp_mac
            status = header.tp_status
            frame = frames + taken
            frame.timestamp_ns = <uint64_t>header.tp_sec * 1_000_000_000 + header.tp_nsec
            frame.captured_octets = header.tp_snaplen
            frame.original_octets = header.tp_len
            frame.link_type = self.link_type
            frame.ingress = self.ingress
            frame.segment_octets = 0
            if self.segments:
                gso_type = (octets - VIRTIO_HEADER_OCTETS)[VIRTIO_GSO_TYPE] & ~GSO_ECN
                if gso_type == GSO_TCPV4 or gso_type == GSO_TCPV6 or gso_type == GSO_UDP_L4:
                    memcpy(&gso_size, octets - VIRTIO_HEADER_OCTETS + VIRTIO_GSO_SIZE, 2)
                    frame.segment_octets = gso_size
                elif gso_type != GSO_NONE:
                    frame.segment_octets = SEGMENT_UNKNOWN
            elif status & TP_STATUS_GSO_TCP:
                frame.segment_octets = SEGMENT_UNKNOWN
            if (status & TP_STATUS_VLAN_VALID and self.link_type == LINK_ETHERNET
                    and header.tp_snaplen >= ADDRESSES_OCTETS):
                # The kernel took the tag off; a file would have it behind the addresses.
                octets -= VLAN_TAG_OCTETS
                memmove(octets, octets + VLAN_TAG_OCTETS, ADDRESSES_OCTETS)
                tag[0] = swap16(header.tp_vlan_tpid if status & TP_STATUS_VLAN_TPID_VALID
                                else VLAN_TPID)
                tag[1] = swap16(<uint16_t>header.tp_vlan_tci)
                memcpy(octets + ADDRESSES_OCTETS, tag, VLAN_TAG_OCTETS)
                frame.captured_octets += VLAN_TAG_OCTETS
                frame.original_octets += VLAN_TAG_OCTETS
            frame.octets = octets
            taken += 1
            self.frames_left -= 1
            # The last frame's is 0; before that an offset of 0 would hand it out again.
            if self.frames_left and header.tp_next_offset < header.tp_mac + header.tp_snaplen:
                self.faults += self.frames_left
                self.frames_left = 0
            # An offset beyond the block is met at the next frame, if there is one.
            at = at + header.tp_next_offset if header.tp_next_offset < room else self.filled
        self.at = at
        return taken
