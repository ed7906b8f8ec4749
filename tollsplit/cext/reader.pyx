"""Walks the records of a pcap or pcapng capture in memory and points at their frames."""

cimport cython
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy

from tollsplit.cext.interface cimport (
    TIMESTAMP_NS_MAX,
    interface_s, link_handed_out, nanoseconds, set_resolution)
from tollsplit.cext.comment cimport OPTION_END, segments_told
from tollsplit.cext.layout cimport LINK_SKIPPED, frame_s
from tollsplit.cext.record cimport (
    CAPTURED_OCTETS_MAX, GUESS_OCTETS, chain_end, chain_s, held_octets, pcap_record_s, read16,
    read32, read64, swap32)

cdef extern from *:
    void prefetch "__builtin_prefetch"(const void*) nogil

# The core imports nothing of ours; tests/test_reader.py holds these equal to limits.py.
cdef enum:
    BLOCK_OCTETS_MAX = 16 * 1024 * 1024
    INTERFACES_MAX = 65_535

BOUNDS = {
    "CAPTURED_OCTETS_MAX": CAPTURED_OCTETS_MAX,
    "BLOCK_OCTETS_MAX": BLOCK_OCTETS_MAX,
    "INTERFACES_MAX": INTERFACES_MAX,
    "TIMESTAMP_NS_MAX": TIMESTAMP_NS_MAX,
}

# Magic numbers as this machine reads them from a file of its own byte order.
cdef enum:
    MAGIC_MICROSECONDS = 0xA1B2C3D4
    MAGIC_NANOSECONDS = 0xA1B23C4D
    MAGIC_MODIFIED = 0xA1B2CD34      # Kuznetzov's: 24-octet record headers
    BYTE_ORDER_MAGIC = 0x1A2B3C4D

# Block types of pcapng (draft-ietf-opsawg-pcapng §4); every other is skipped by its length.
cdef enum:
    BLOCK_SECTION = 0x0A0D0D0A       # the same in both byte orders
    BLOCK_INTERFACE = 1
    BLOCK_PACKET_OBSOLETE = 2
    BLOCK_PACKET_SIMPLE = 3
    BLOCK_PACKET_ENHANCED = 6

cdef enum:
    OPTION_IF_NAME = 2
    OPTION_IF_TSRESOL = 9
    OPTION_IF_TSOFFSET = 14

cdef enum format_e:
    FORMAT_UNKNOWN = 0               # nothing has been read yet
    FORMAT_PCAP = 1
    FORMAT_PCAP_MODIFIED = 2
    FORMAT_PCAPNG = 3

cdef enum nonsense_e:
    SENSE = 0
    EMPTY = 1
    HEADER_CUT = 2
    MAGIC = 3
    PCAP_VERSION = 4
    IN_A_BLOCK = 5                   # from here on the place is a block
    BYTE_ORDER = 5
    PCAPNG_VERSION = 6
    BLOCK_LENGTH = 7
    BLOCK_SHORT = 8
    BLOCK_TRAILER = 9
    OPTION_LENGTH = 10
    TOO_MANY_INTERFACES = 11
    NO_MEMORY = 12
    IN_A_RECORD = 13                 # from here on the place is a record
    LINK_REFUSED = 13
    BEYOND_SNAP = 14
    BEYOND_BOUND = 15
    BEYOND_BLOCK = 16
    NO_INTERFACE = 17

MESSAGES = {
    EMPTY: "empty: expected a pcap or pcapng capture",
    HEADER_CUT: "ends inside its file header: {found} octets found, {expected} expected",
    PCAP_VERSION: "pcap version {major}.{minor}: expected 2.3 or 2.4",
    BYTE_ORDER: "byte-order magic 0x{found:08x}: expected 0x1a2b3c4d",
    PCAPNG_VERSION: "pcapng version {major}.{minor}: expected 1.x",
    BLOCK_LENGTH: "block length {found}: expected a multiple of 4 from 12 to {expected}",
    BLOCK_SHORT: "block length {found} is below the {expected} that its type needs",
    BLOCK_TRAILER: "block length {expected} at the block's start, {found} at its end",
    OPTION_LENGTH: "an option of {found} octets exceeds the {expected} left in its block",
    TOO_MANY_INTERFACES: "more than {expected} interfaces in one section",
    NO_MEMORY: "no memory for another interface",
    LINK_REFUSED: "link type {link} is not dissected; "
                  "with --skip-links its frames are counted unread",
    BEYOND_SNAP: "captured length {found} exceeds snap length {expected}",
    BEYOND_BOUND: "captured length {found} exceeds {expected}, the most that a record may hold",
    BEYOND_BLOCK: "captured length {found} exceeds the {expected} octets in its block",
    NO_INTERFACE: "interface {found} is not among the {expected} that the section describes",
}

# What people hand over instead of a capture, by its first four octets.
OTHER_FORMATS = {
    b"snoo": "a snoop capture; convert it with editcap",
    b"GMBU": "a Microsoft Network Monitor capture; convert it with editcap",
    b"RTSS": "a Microsoft Network Monitor capture; convert it with editcap",
    b"XCP\0": "a NetXRay capture; convert it with editcap",
    b"TRSN": "a Sniffer capture; convert it with editcap",
    b"\x1f\x8b": "gzip inside another compression; decompress it once",
    b"\x28\xb5\x2f\xfd": "zstd inside another compression; decompress it once",
    b"PK\x03\x04": "a zip archive; unpack it",
    b"BZh": "bzip2 inside another compression; decompress it once",
}

# Link types that captures do come with and that have no IP header where we could find it.
OTHER_LINKS = {
    6: "IEEE802_5", 7: "ARCNET_BSD", 8: "SLIP", 10: "FDDI", 100: "ATM_RFC1483",
    105: "IEEE802_11", 107: "FRELAY", 117: "PFLOG", 119: "IEEE802_11_PRISM", 123: "SUNATM",
    127: "IEEE802_11_RADIOTAP", 140: "MTP2_WITH_PHDR", 143: "DOCSIS", 166: "PPP_PPPD",
    187: "BLUETOOTH_HCI_H4", 189: "USB_LINUX", 192: "PPI", 195: "IEEE802_15_4_WITHFCS",
    197: "ERF", 201: "BLUETOOTH_HCI_H4_WITH_PHDR", 220: "USB_LINUX_MMAPPED",
    227: "CAN_SOCKETCAN", 239: "NFLOG", 240: "NETANALYZER", 249: "USBPCAP", 252: "UPPER_PDU",
    253: "NETLINK", 258: "PKTAP", 271: "VSOCK", 272: "NORDIC_BLE",
}

cdef inline int walk_pcap(Reader self, frame_s* frames, int count, bint swapped,
                          size_t header_octets) noexcept nogil:
    """Points `frames` at the next whole records. Returns how many.

    Budget: 2-3 ns a record in cache; from memory what its octets take to arrive, 6 ns at
    76 octets. The record header is the only thing read here. Where the next one lies is
    known by this one alone, so everything is prefetched in a straight line 2 KiB ahead;
    that halves the walk over large frames, and the dissector finds its lines in cache.
    Unchecked: the reads at `at`, because `left` has just been compared with what is read;
    `left` is never negative. `swapped` and `header_octets` are constants at every call, so
    each variant is a loop of its own. Guarded by benchmarks/bench_account.py.
    """
    cdef interface_s* interface = self.interfaces
    cdef const uint8_t* at = self.octets + self.at
    cdef size_t left = self.size - self.at
    cdef uint64_t multiplier = interface.multiplier
    cdef uint32_t captured_max = interface.captured_max
    cdef uint16_t link_type = interface.link_type
    cdef uint16_t ingress = interface.ingress
    cdef uint32_t captured = 0, original, seconds, fraction
    cdef pcap_record_s record
    cdef frame_s* frame
    cdef int taken = 0

    if left < header_octets:
        return 0
    if interface.refused:
        self.note(LINK_REFUSED, interface.link_recorded, 0)
        return 0
    while taken < count and left >= header_octets:
        prefetch(at + 2048)
        memcpy(&record, at, sizeof(pcap_record_s))
        captured = swap32(record.captured_octets) if swapped else record.captured_octets
        original = swap32(record.original_octets) if swapped else record.original_octets
        seconds = swap32(record.seconds) if swapped else record.seconds
        fraction = swap32(record.fraction) if swapped else record.fraction
        if captured > captured_max or left - header_octets < captured:
            break
        frame = frames + taken
        frame.octets = at + header_octets
        # A fraction of a second and more carries over.
        frame.timestamp_ns = <uint64_t>seconds * 1_000_000_000 + fraction * multiplier
        frame.captured_octets = held_octets(captured, original)
        # some writers leave it 0: what was captured was on the wire
        frame.original_octets = original if original else captured
        frame.link_type = link_type
        frame.ingress = ingress
        frame.segment_octets = 0
        taken += 1
        at += header_octets + captured
        left -= header_octets + captured
    self.at = self.size - left
    self.records += taken
    if taken < count and left >= header_octets and captured > captured_max:
        self.note_captured(interface, captured)
    return taken


class Astray(Exception):
    """A guess of where a record begins was wrong: what was read since means nothing."""


@cython.final
cdef class Reader:
    """Hands out the frames of a capture that is fed to it region by region.

    ingresses   interface name → ingress number (1..); "*" is every interface not named
    skip_links  frames of an unknown link type are handed out as LINK_SKIPPED, not refused

    A region begins exactly where `consumed` of the last one ended, and may be cut anywhere:
    a record that it does not hold as a whole is left over. Nothing outside of it is read.
    Clones share no state that changes, so that threads can walk one each.
    """

    def __init__(self, ingresses=None, bint skip_links=False):
        self.ingresses = {name.encode(): number for name, number in (ingresses or {}).items()}
        self.any_ingress = self.ingresses.get(b"*", 0)
        self.skip_links = skip_links

    def __dealloc__(self):
        free(self.interfaces)

    def feed(self, const uint8_t[::1] region not None, bint final):
        """Takes the next octets of the stream; `final`: nothing comes after them.

        The region is referred to, not copied, until the next one is fed.
        """
        self.base += self.at
        self.at = 0
        self.region = region
        self.size = region.shape[0]
        self.octets = &region[0] if self.size else NULL
        self.final = final

    def clone(self):
        """A reader at the same place of the stream in the same format, with no region yet."""
        cdef Reader other = Reader.__new__(Reader)
        cdef size_t octets = self.interface_count * sizeof(interface_s)
        if octets:
            other.interfaces = <interface_s*>realloc(NULL, octets)
            if other.interfaces == NULL:
                raise MemoryError
            memcpy(other.interfaces, self.interfaces, octets)
        other.interface_count = other.interface_room = self.interface_count
        other.ingresses = self.ingresses
        other.any_ingress = self.any_ingress
        other.skip_links = self.skip_links
        other.base = self.base + self.at
        other.records = self.records
        other.format = self.format
        other.swapped = self.swapped
        other.guessed = self.guessed
        return other

    @property
    def consumed(self):
        """Octets of the current region that whole records used up."""
        return self.at

    @property
    def position(self):
        """Offset in the stream of the first octet not used up."""
        return self.base + self.at

    def skip(self):
        """Walks the region's whole records without handing them out."""
        cdef frame_s[64] frames
        with nogil:
            while self.next_batch(frames, 64):
                pass

    def leap(self):
        """Uses up the region to where its last whole record seems to end; False: no such place.

        That is a guess, made from a chain of record headers at the region's end. Whoever then
        reads the region finds out: `expect_whole`. Only classic pcap has such chains.
        """
        cdef size_t header = 24 if self.format == FORMAT_PCAP_MODIFIED else 16
        cdef size_t at, end = 0
        cdef chain_s chain
        if self.nonsense != SENSE or (self.format == FORMAT_UNKNOWN and not self.open()):
            return False
        if self.format == FORMAT_PCAPNG or self.size < self.at + 2 * GUESS_OCTETS:
            return False
        chain.octets = self.octets
        chain.size = self.size
        chain.header_octets = header
        chain.swapped = self.swapped
        chain.captured_max = self.interfaces.captured_max
        chain.fraction_max = <uint32_t>(1_000_000_000 // self.interfaces.multiplier)
        chain.seconds = read32(self.octets + self.at, self.swapped)
        with nogil:
            for at in range(self.size - GUESS_OCTETS, self.size):
                end = chain_end(&chain, at)
                if end:
                    break
        if not end:
            return False
        self.at = end
        self.guessed = True
        return True

    def expect_whole(self):
        """Tells that the region's end is a guess: Astray, unless it is used up to there."""
        self.guessed = self.whole = True

    def frames(self, int count):
        """At most `count` frames: octets, timestamp_ns, original octets, link type, ingress, and
        the payload octets of each segment (0: one packet; SEGMENT_UNKNOWN).
        """
        cdef frame_s frame
        handed = []
        while len(handed) < count and self.next_batch(&frame, 1):
            handed.append((frame.octets[:frame.captured_octets], frame.timestamp_ns,
                           frame.original_octets, frame.link_type, frame.ingress,
                           frame.segment_octets))
        return handed

    def check(self):
        """Raises ValueError(message, offset) where the walk has met nonsense.

        Where it went by a guess it is Astray instead: what seems nonsense may be none.
        """
        if self.guessed and (self.nonsense != SENSE or self.truncated
                             or (self.whole and self.at < self.size)):
            raise Astray
        if self.nonsense == SENSE:
            return
        place = ""
        if self.nonsense >= IN_A_RECORD:
            place = f"record {self.records + 1} at offset {self.nonsense_at:,}: "
        elif self.nonsense >= IN_A_BLOCK:
            place = f"block at offset {self.nonsense_at:,}: "
        raise ValueError(place + self._finding(), self.nonsense_at)

    def _finding(self):
        cdef uint32_t first = <uint32_t>self.found
        if self.nonsense == MAGIC:
            octets = (<const uint8_t*>&first)[:4]
            known = [name for magic, name in OTHER_FORMATS.items() if octets.startswith(magic)]
            return (f"starts with {octets.hex(' ')}" + (f" ({known[0]})" if known else "")
                    + ": expected a pcap or pcapng capture")
        name = OTHER_LINKS.get(self.found)
        return MESSAGES[self.nonsense].format(
            found=self.found, expected=self.expected,
            major=self.found >> 16, minor=self.found & 0xFFFF,
            link=f"{self.found} ({name})" if name else f"{self.found}")

    cdef int next_batch(self, frame_s* frames, int count) noexcept nogil:
        """Fills frames with the next whole records. Returns how many; 0: none left, or nonsense."""
        cdef int taken
        if self.nonsense != SENSE or (self.format == FORMAT_UNKNOWN and not self.open()):
            return 0
        if self.format == FORMAT_PCAPNG:
            taken = self.blocks(frames, count)
        elif self.format == FORMAT_PCAP:
            if self.swapped:
                taken = walk_pcap(self, frames, count, True, 16)
            else:
                taken = walk_pcap(self, frames, count, False, 16)
        elif self.swapped:
            taken = walk_pcap(self, frames, count, True, 24)
        else:
            taken = walk_pcap(self, frames, count, False, 24)
        if taken < count and self.final and self.nonsense == SENSE:
            self.truncated = self.at < self.size
        return taken

    cdef bint open(self) noexcept nogil:
        """Tells the format by the file header, and takes in a pcap's. False: not (yet) known."""
        cdef uint32_t magic = 0, minor
        cdef interface_s* interface
        if self.size < 4:
            if self.final:
                self.note(HEADER_CUT if self.size else EMPTY, self.size, 24)
            return False
        magic = read32(self.octets, False)
        if magic == BLOCK_SECTION:
            self.format = FORMAT_PCAPNG
            return True
        self.swapped = not (magic == MAGIC_MICROSECONDS or magic == MAGIC_NANOSECONDS
                            or magic == MAGIC_MODIFIED)
        if self.swapped:
            magic = swap32(magic)
        if not (magic == MAGIC_MICROSECONDS or magic == MAGIC_NANOSECONDS
                or magic == MAGIC_MODIFIED):
            self.note(MAGIC, read32(self.octets, False), 0)
            return False
        if self.size < 24:
            if self.final:
                self.note(HEADER_CUT, self.size, 24)
            return False
        minor = read16(self.octets + 6, self.swapped)
        # Before 2.3 the two lengths of a record stood the other way round.
        if read16(self.octets + 4, self.swapped) != 2 or minor < 3 or minor > 4:
            self.note(PCAP_VERSION,
                      <uint32_t>read16(self.octets + 4, self.swapped) << 16 | minor, 0)
            return False
        # The upper half of the link type's field tells of frame check sequences.
        interface = self.add_interface(<uint16_t>read32(self.octets + 20, self.swapped),
                                       read32(self.octets + 16, self.swapped))
        if interface == NULL:
            return False
        set_resolution(interface, 9 if magic == MAGIC_NANOSECONDS else 6)
        self.format = FORMAT_PCAP_MODIFIED if magic == MAGIC_MODIFIED else FORMAT_PCAP
        self.at = 24
        return True

    cdef int blocks(self, frame_s* frames, int count) noexcept nogil:
        """Points `frames` at the packets of the next whole blocks. Returns how many.

        Budget: 8 ns a packet. Every read lies inside a block whose length was compared with
        the region first, at an offset below the length that its type needs.
        """
        cdef const uint8_t* block
        cdef const uint8_t* ahead = NULL
        cdef size_t left
        cdef uint32_t kind, length
        cdef int taken = 0
        while taken < count:
            block = self.octets + self.at
            left = self.size - self.at
            if left >= 4 and read32(block, False) == BLOCK_SECTION:
                if not self.section(block, left):
                    break
                continue
            if left < 12:
                break
            if ahead < block:
                ahead = block + 2048
            while ahead < block + 2048:
                prefetch(ahead)
                ahead += 64
            kind = read32(block, self.swapped)
            length = read32(block + 4, self.swapped)
            if length < 12 or length & 3 or length > BLOCK_OCTETS_MAX:
                self.note(BLOCK_LENGTH, length, BLOCK_OCTETS_MAX)
                break
            if length > left:
                break
            if read32(block + length - 4, self.swapped) != length:
                self.note(BLOCK_TRAILER, read32(block + length - 4, self.swapped), length)
                break
            if (kind == BLOCK_PACKET_ENHANCED or kind == BLOCK_PACKET_SIMPLE
                    or kind == BLOCK_PACKET_OBSOLETE):
                if not self.packet(frames + taken, block, length, kind):
                    break
                taken += 1
                self.records += 1
            elif kind == BLOCK_INTERFACE and not self.describe_interface(block, length):
                break
            self.at += length
        return taken

    cdef bint section(self, const uint8_t* block, size_t left) noexcept nogil:
        """Takes in a section header: its byte order holds from here on, its interfaces are new."""
        cdef uint32_t length = 28
        cdef bint swapped = False
        if left >= 12:
            swapped = read32(block + 8, False) != BYTE_ORDER_MAGIC
            if read32(block + 8, swapped) != BYTE_ORDER_MAGIC:
                self.note(BYTE_ORDER, read32(block + 8, False), 0)
                return False
            length = read32(block + 4, swapped)
            if length < 12 or length & 3 or length > BLOCK_OCTETS_MAX:
                self.note(BLOCK_LENGTH, length, BLOCK_OCTETS_MAX)
                return False
            if length < 28:
                self.note(BLOCK_SHORT, length, 28)
                return False
        if left < length:
            if self.final and self.base + self.at == 0:
                self.note(HEADER_CUT, left, length)
            return False
        if read32(block + length - 4, swapped) != length:
            self.note(BLOCK_TRAILER, read32(block + length - 4, swapped), length)
            return False
        if read16(block + 12, swapped) != 1:
            self.note(PCAPNG_VERSION, <uint32_t>read16(block + 12, swapped) << 16
                      | read16(block + 14, swapped), 0)
            return False
        self.swapped = swapped
        self.interface_count = 0
        self.at += length
        return True

    cdef bint describe_interface(self, const uint8_t* block, uint32_t length) noexcept nogil:
        """Adds an interface (§4.2): link type, snap length, and the options that matter."""
        cdef uint32_t at = 16, end = length - 4
        cdef uint16_t option, octets
        cdef interface_s* interface
        if length < 20:
            self.note(BLOCK_SHORT, length, 20)
            return False
        interface = self.add_interface(read16(block + 8, self.swapped),
                                       read32(block + 12, self.swapped))
        if interface == NULL:
            return False
        set_resolution(interface, 6)
        while end - at >= 4:
            option = read16(block + at, self.swapped)
            octets = read16(block + at + 2, self.swapped)
            at += 4
            if option == OPTION_END:
                break
            if octets > end - at:
                self.note(OPTION_LENGTH, octets, end - at)
                return False
            if option == OPTION_IF_NAME:
                interface.ingress = self.ingress_of(block + at, octets)
            elif option == OPTION_IF_TSRESOL and octets >= 1:
                set_resolution(interface, block[at])
            elif option == OPTION_IF_TSOFFSET and octets >= 8:
                interface.offset_s = <int64_t>read64(block + at, self.swapped)
            # Options are padded to 4 octets, and so is the block: this never passes its end.
            at += (octets + 3) & ~<uint32_t>3
        return True

    cdef bint packet(self, frame_s* frame, const uint8_t* block, uint32_t length,
                     uint32_t kind) noexcept nogil:
        """Points `frame` at what a packet block of any of the three kinds holds (§4.3, §4.4)."""
        cdef uint32_t number = 0, header = 28, captured = 0, original, room
        cdef uint64_t ticks = 0
        cdef interface_s* interface
        if kind == BLOCK_PACKET_SIMPLE:
            header = 12
        if length < header + 4:
            self.note(BLOCK_SHORT, length, header + 4)
            return False
        room = length - header - 4
        if kind == BLOCK_PACKET_ENHANCED:
            number = read32(block + 8, self.swapped)
        elif kind == BLOCK_PACKET_OBSOLETE:
            number = read16(block + 8, self.swapped)
        if number >= self.interface_count:
            self.note(NO_INTERFACE, number, self.interface_count)
            return False
        interface = self.interfaces + number
        if interface.refused:
            self.note(LINK_REFUSED, interface.link_recorded, 0)
            return False
        if kind == BLOCK_PACKET_SIMPLE:
            # No captured length of its own: what interface 0's snap length leaves (§4.4).
            original = read32(block + 8, self.swapped)
            captured = original
            if interface.snap_octets != 0 and captured > interface.snap_octets:
                captured = interface.snap_octets
        else:
            ticks = (<uint64_t>read32(block + 12, self.swapped) << 32
                     | read32(block + 16, self.swapped))
            captured = read32(block + 20, self.swapped)
            original = read32(block + 24, self.swapped)
        if captured > interface.captured_max:
            self.note_captured(interface, captured)
            return False
        if captured > room:
            self.note(BEYOND_BLOCK, captured, room)
            return False
        frame.octets = block + header
        frame.timestamp_ns = (0 if kind == BLOCK_PACKET_SIMPLE
                              else nanoseconds(interface, ticks))
        frame.captured_octets = held_octets(captured, original)
        # some writers leave it 0: what was captured was on the wire
        frame.original_octets = original if original else captured
        frame.link_type = interface.link_type
        frame.ingress = interface.ingress
        frame.segment_octets = 0
        # Behind the packet, which is padded to 4 octets as the block is, options may follow.
        if kind == BLOCK_PACKET_ENHANCED and room - captured >= 4:
            captured = header + ((captured + 3) & ~<uint32_t>3)
            frame.segment_octets = segments_told(block + captured, length - 4 - captured,
                                                 self.swapped)
        return True

    cdef interface_s* add_interface(self, uint16_t link, uint32_t snap) noexcept nogil:
        """A new row of the interface table; NULL and noted where it would pass its bound."""
        cdef interface_s* interface
        cdef uint32_t room
        if self.interface_count >= INTERFACES_MAX:
            self.note(TOO_MANY_INTERFACES, self.interface_count, INTERFACES_MAX)
            return NULL
        if self.interface_count == self.interface_room:
            room = 2 * self.interface_room + 1
            interface = <interface_s*>realloc(self.interfaces, room * sizeof(interface_s))
            if interface == NULL:
                self.note(NO_MEMORY, 0, 0)
                return NULL
            self.interfaces = interface
            self.interface_room = room
        interface = self.interfaces + self.interface_count
        self.interface_count += 1
        interface.offset_s = 0
        interface.snap_octets = snap
        interface.captured_max = (
            snap if snap != 0 and snap < CAPTURED_OCTETS_MAX else CAPTURED_OCTETS_MAX)
        interface.link_recorded = link
        interface.link_type = link_handed_out(link)
        interface.refused = interface.link_type == LINK_SKIPPED and not self.skip_links
        interface.ingress = self.any_ingress
        return interface

    cdef uint16_t ingress_of(self, const uint8_t* name, uint32_t length) noexcept with gil:
        return self.ingresses.get(name[:length].rstrip(b"\0"), self.any_ingress)

    cdef void note(self, int nonsense, uint64_t found, uint64_t expected) noexcept nogil:
        """Remembers what is wrong at the current place; the walk ends there."""
        self.nonsense = nonsense
        self.nonsense_at = self.base + self.at
        self.found = found
        self.expected = expected

    cdef void note_captured(self, const interface_s* interface, uint32_t captured) noexcept nogil:
        self.note(BEYOND_SNAP if interface.captured_max == interface.snap_octets
                  else BEYOND_BOUND, captured, interface.captured_max)
