"""Encodes frames as the blocks of a pcapng file, and has whole blocks written behind them."""

cimport cython
from libc.errno cimport EINTR, errno
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdio cimport snprintf
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from tollsplit.cext.layout cimport SEGMENT_UNKNOWN, frame_s
from tollsplit.cext.record cimport CAPTURED_OCTETS_MAX, read32
from tollsplit.cext.ring cimport Ring

cdef extern from "<pthread.h>" nogil:
    int pthread_mutex_init(pthread_mutex_t*, const void*)
    int pthread_mutex_destroy(pthread_mutex_t*)
    int pthread_mutex_lock(pthread_mutex_t*)
    int pthread_mutex_unlock(pthread_mutex_t*)
    int pthread_cond_init(pthread_cond_t*, const void*)
    int pthread_cond_destroy(pthread_cond_t*)
    int pthread_cond_wait(pthread_cond_t*, pthread_mutex_t*)
    int pthread_cond_broadcast(pthread_cond_t*)

cdef extern from "<unistd.h>" nogil:
    ssize_t c_write "write"(int, const void*, size_t)
    int c_ftruncate "ftruncate"(int, long long)

# The core imports nothing of ours; tests/test_recorder.py holds these equal to limits.py.
cdef enum:
    RECORDING_BUFFER_OCTETS = 512 * 1024
    RECORDING_BUFFERS = 8
    RECORDING_BEHIND_NS = 1_000_000_000

BOUNDS = {
    "CAPTURED_OCTETS_MAX": CAPTURED_OCTETS_MAX,
    "RECORDING_BUFFER_OCTETS": RECORDING_BUFFER_OCTETS,
    "RECORDING_BUFFERS": RECORDING_BUFFERS,
    "RECORDING_BEHIND_NS": RECORDING_BEHIND_NS,
}

cdef enum:
    BLOCK_PACKET_ENHANCED = 6
    OPTION_COMMENT = 1
    TRAILER_OCTETS = 4           # the block's length once more
    TEXT_OCTETS_MAX = 32         # of the comment below, whatever the number
    COMMENT_OCTETS_MAX = 4 + TEXT_OCTETS_MAX + 4

# What stands in front of a packet's octets (draft-ietf-opsawg-pcapng §4.3).
cdef struct enhanced_s:
    uint32_t kind
    uint32_t length
    uint32_t interface
    uint32_t timestamp_hi        # of the 64-bit count of ticks
    uint32_t timestamp_lo
    uint32_t captured_octets
    uint32_t original_octets


cdef inline uint32_t padded(uint32_t octets) noexcept nogil:
    return (octets + 3) & ~<uint32_t>3


cdef uint32_t put_comment(uint8_t* at, uint32_t segment_octets) noexcept nogil:
    """A coalesced packet's opt_comment and opt_endofopt, in words that the Reader knows.

    Returns the octets that they take, at most COMMENT_OCTETS_MAX.
    """
    cdef char* text = <char*>at + 4
    cdef uint16_t option[2]
    cdef int octets
    memset(at, 0, COMMENT_OCTETS_MAX)
    if segment_octets == SEGMENT_UNKNOWN:
        octets = snprintf(text, TEXT_OCTETS_MAX, "segments of unknown size")
    else:
        octets = snprintf(text, TEXT_OCTETS_MAX, "segments of %u octets", segment_octets)
    option[0] = OPTION_COMMENT
    option[1] = <uint16_t>octets
    memcpy(at, option, 4)
    return 4 + padded(octets) + 4


cdef void free_list(buffer_s* buffer) noexcept nogil:
    cdef buffer_s* following
    while buffer != NULL:
        following = buffer.next
        free(buffer)
        buffer = following


@cython.final
cdef class Spool:
    """Buffers of whole blocks on their way from the recorders to one file.

    descriptor    the file, open for writing at its end; it is closed by whoever opened it
    octets        how long the file is
    snap_octets   what is kept of each frame, at most

    One thread goes through write_out(), so that no recorder waits for a disk as long as there
    is a buffer free; when there is none, recorders wait: what is slower than the traffic then
    shows in the rings' own counts of what was lost.
    """

    def __cinit__(self, int descriptor, uint64_t octets, uint32_t snap_octets):
        pthread_mutex_init(&self.lock, NULL)
        pthread_cond_init(&self.changed, NULL)
        self.descriptor = descriptor
        self.octets_written = octets
        self.snap_octets = snap_octets
        if not 0 < snap_octets <= CAPTURED_OCTETS_MAX:
            raise ValueError(f"snap length {snap_octets}: expected 1 to {CAPTURED_OCTETS_MAX}")

    def __dealloc__(self):
        free_list(self.free)
        free_list(self.first)
        pthread_cond_destroy(&self.changed)
        pthread_mutex_destroy(&self.lock)

    def write_out(self):
        """Writes what recorders hand over, until end() was called and all is written.

        After an error the file is cut back to its last whole block, and what comes is dropped.
        """
        cdef buffer_s* buffer
        cdef uint64_t octets, frames
        cdef int failed
        with nogil:
            pthread_mutex_lock(&self.lock)
            while True:
                while self.first == NULL and not self.ending:
                    pthread_cond_wait(&self.changed, &self.lock)
                if self.first == NULL:
                    break
                buffer = self.first
                self.first = buffer.next
                if not self.failed:
                    pthread_mutex_unlock(&self.lock)
                    failed = self.write(buffer, &octets, &frames)
                    pthread_mutex_lock(&self.lock)
                    self.failed = failed
                    self.octets_written += octets
                    self.frames_written += frames
                    if failed:
                        # A device cannot be cut, and need not be.
                        c_ftruncate(self.descriptor, <long long>self.octets_written)
                buffer.next = self.free
                self.free = buffer
                pthread_cond_broadcast(&self.changed)
            pthread_mutex_unlock(&self.lock)

    def end(self):
        """Nothing more will be handed over: write_out() returns when all is written."""
        with nogil:
            pthread_mutex_lock(&self.lock)
            self.ending = True
            pthread_cond_broadcast(&self.changed)
            pthread_mutex_unlock(&self.lock)

    @property
    def written(self):
        """What the file holds, and why nothing more: (octets, frames, errno; 0: no error)."""
        cdef uint64_t octets, frames
        cdef int failed
        with nogil:
            pthread_mutex_lock(&self.lock)
            octets, frames, failed = self.octets_written, self.frames_written, self.failed
            pthread_mutex_unlock(&self.lock)
        return octets, frames, failed

    cdef int add_buffers(self, int count) except -1:
        cdef buffer_s* buffer
        for _ in range(count):
            buffer = <buffer_s*>malloc(sizeof(buffer_s) + RECORDING_BUFFER_OCTETS)
            if buffer == NULL:
                raise MemoryError
            buffer.octets = <uint8_t*>(buffer + 1)
            self.put_back(buffer)
        return 0

    cdef buffer_s* take(self) noexcept nogil:
        """An empty buffer, waited for as long as it takes; NULL: nothing is written any more."""
        cdef buffer_s* buffer = NULL
        pthread_mutex_lock(&self.lock)
        while self.free == NULL and not self.failed and not self.ending:
            pthread_cond_wait(&self.changed, &self.lock)
        if not self.failed and not self.ending:
            buffer = self.free
            self.free = buffer.next
            buffer.next = NULL
            buffer.filled = 0
            buffer.frames = 0
        pthread_mutex_unlock(&self.lock)
        return buffer

    cdef void give(self, buffer_s* buffer) noexcept nogil:
        """Has a buffer written after all that were given before."""
        pthread_mutex_lock(&self.lock)
        if self.first == NULL:
            self.first = buffer
        else:
            self.last.next = buffer
        self.last = buffer
        pthread_cond_broadcast(&self.changed)
        pthread_mutex_unlock(&self.lock)

    cdef void put_back(self, buffer_s* buffer) noexcept nogil:
        pthread_mutex_lock(&self.lock)
        buffer.next = self.free
        self.free = buffer
        pthread_mutex_unlock(&self.lock)

    cdef int write(
        self, const buffer_s* buffer, uint64_t* octets, uint64_t* frames
    ) noexcept nogil:
        """Writes a buffer. Returns 0, or errno.

        octets, frames   set to what of it is in the file in whole blocks
        """
        cdef size_t done = 0, whole = 0
        cdef uint32_t length
        cdef ssize_t count
        while done < buffer.filled:
            count = c_write(self.descriptor, buffer.octets + done, buffer.filled - done)
            if count >= 0:
                done += count
            elif errno != EINTR:
                break
        octets[0], frames[0] = done, buffer.frames
        if done == buffer.filled:
            return 0
        frames[0] = 0
        while done - whole >= 8:
            length = read32(buffer.octets + whole + 4, False)
            if length > done - whole:
                break
            frames[0] += read32(buffer.octets + whole, False) == BLOCK_PACKET_ENHANCED
            whole += length
        octets[0] = whole
        return errno


@cython.final
cdef class Recorder:
    """Encodes one worker's frames into buffers of a spool; one thread uses it at a time.

    interface   the number of the file's interface that the next frames come from

    Timestamps are written in nanoseconds, numbers in this machine's byte order: the file's
    interfaces and section header have to say so. A buffer is handed over when the next frame
    does not fit, and when its first frame is a second older than the last.
    """

    def __init__(self, Spool spool not None):
        spool.add_buffers(RECORDING_BUFFERS)
        self.spool = spool

    def __dealloc__(self):
        if self.buffer != NULL:
            self.spool.put_back(self.buffer)

    def flush(self):
        """Hands over what is encoded: for a worker that is about to wait for frames."""
        with nogil:
            self.hand_over()

    def append(self, const uint8_t[::1] block not None):
        """Has a block of another kind written, at once and before all that is added later."""
        cdef size_t octets = block.shape[0]
        if octets > RECORDING_BUFFER_OCTETS:
            raise ValueError(f"a block of {octets} octets: expected {RECORDING_BUFFER_OCTETS} "
                             "at most")
        with nogil:
            if self.make_room(octets):
                memcpy(self.buffer.octets + self.buffer.filled, &block[0], octets)
                self.buffer.filled += octets
                self.hand_over()

    def record(self, frames):
        """Adds frames as Reader.frames() and Ring.frames() give them. Returns how many."""
        cdef frame_s frame
        cdef const uint8_t[::1] octets
        cdef int added = 0
        for octets, timestamp_ns, original_octets, _, _, *segments in frames:
            frame.octets = &octets[0] if octets.shape[0] else NULL
            frame.timestamp_ns = timestamp_ns
            frame.captured_octets = <uint32_t>octets.shape[0]
            frame.original_octets = original_octets
            frame.segment_octets = segments[0] if segments else 0
            with nogil:
                added += self.add(&frame, 1)
        return added

    def walk(self, Ring ring not None):
        """Adds the frames that a ring has now. Returns (frames, original octets)."""
        cdef frame_s[64] frames
        cdef uint64_t walked = 0, octets = 0
        cdef int taken, i
        self.interface = ring.interface
        with nogil:
            while True:
                taken = ring.next_batch(frames, 64)
                if taken == 0:
                    break
                self.add(frames, taken)
                walked += taken
                for i in range(taken):
                    octets += frames[i].original_octets
        return walked, octets

    cdef int add(self, const frame_s* frames, int count) noexcept nogil:
        """Encodes frames. Returns how many: fewer than `count` once the file has failed.

        Budget: 25 ns a frame of 64 octets, with its octets in cache, where the dissector has
        just had them; half of it is the copy. Unchecked: the writes, because there is room for
        the longest form of the block before it is begun. It waits where every buffer is still
        to be written. Guarded by benchmarks/bench_live.py.
        """
        cdef uint32_t zero = 0, captured, octets, room, snap_octets = self.spool.snap_octets
        cdef const frame_s* frame
        cdef enhanced_s block
        cdef uint8_t* at
        cdef int i
        block.kind = BLOCK_PACKET_ENHANCED
        block.interface = self.interface
        for i in range(count):
            frame = frames + i
            captured = min(frame.captured_octets, snap_octets)
            octets = padded(captured)
            room = <uint32_t>sizeof(enhanced_s) + octets + TRAILER_OCTETS
            if frame.segment_octets:
                room += COMMENT_OCTETS_MAX
            if (self.buffer == NULL or RECORDING_BUFFER_OCTETS - self.buffer.filled < room) \
                    and not self.make_room(room):
                return i
            at = self.buffer.octets + self.buffer.filled
            if self.buffer.frames == 0:
                self.since_ns = frame.timestamp_ns
            block.length = <uint32_t>sizeof(enhanced_s) + octets + TRAILER_OCTETS
            if frame.segment_octets:
                block.length += put_comment(
                    at + sizeof(enhanced_s) + octets, frame.segment_octets)
            block.timestamp_hi = <uint32_t>(frame.timestamp_ns >> 32)
            block.timestamp_lo = <uint32_t>frame.timestamp_ns
            block.captured_octets = captured
            block.original_octets = frame.original_octets
            # The padding first: what it has too much is then written over.
            memcpy(at + sizeof(enhanced_s) + octets - 4, &zero, 4)
            memcpy(at, &block, sizeof(enhanced_s))
            if captured:
                memcpy(at + sizeof(enhanced_s), frame.octets, captured)
            memcpy(at + block.length - TRAILER_OCTETS, &block.length, TRAILER_OCTETS)
            self.buffer.filled += block.length
            self.buffer.frames += 1
        # Earlier by so much, too: a clock may have been set back.
        if count and (frames[count - 1].timestamp_ns - self.since_ns + RECORDING_BEHIND_NS
                      > 2 * <uint64_t>RECORDING_BEHIND_NS):
            self.hand_over()
        return count

    cdef bint make_room(self, size_t octets) noexcept nogil:
        """Gets a buffer with that much room. False: nothing is written any more."""
        if self.buffer != NULL and RECORDING_BUFFER_OCTETS - self.buffer.filled < octets:
            self.hand_over()
        if self.buffer == NULL:
            self.buffer = self.spool.take()
        return self.buffer != NULL

    cdef void hand_over(self) noexcept nogil:
        if self.buffer != NULL and self.buffer.filled:
            self.spool.give(self.buffer)
            self.buffer = NULL
