# Record headers of classic pcap, and numbers in either byte order.

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

cdef extern from *:
    uint16_t swap16 "__builtin_bswap16"(uint16_t) nogil
    uint32_t swap32 "__builtin_bswap32"(uint32_t) nogil
    uint64_t swap64 "__builtin_bswap64"(uint64_t) nogil

# The core imports nothing of ours; tests/test_reader.py holds it equal to limits.py.
cdef enum:
    CAPTURED_OCTETS_MAX = 262_144

# Where a record begins is guessed only for workers, from so many octets before a region's end:
# a record may be that long. Its header and those that follow have to make sense up to the end.
cdef enum:
    GUESS_OCTETS = CAPTURED_OCTETS_MAX + 4096
    GUESS_RECORDS_MIN = 4
    GUESS_APART_S = 366 * 86_400     # records of one file lie that near each other in time

cdef struct pcap_record_s:
    uint32_t seconds                 # unsigned: 2106 is nearer than 1901
    uint32_t fraction
    uint32_t captured_octets
    uint32_t original_octets

# What a chain of records has to fit.
cdef struct chain_s:
    const uint8_t* octets            # the region
    size_t size
    size_t header_octets             # of a record
    uint32_t captured_max
    uint32_t fraction_max            # ticks of a second
    uint32_t seconds                 # a time near that of the records
    bint swapped


cdef inline uint16_t read16(const uint8_t* at, bint swapped) noexcept nogil:
    cdef uint16_t value
    memcpy(&value, at, 2)
    return swap16(value) if swapped else value


cdef inline uint32_t read32(const uint8_t* at, bint swapped) noexcept nogil:
    cdef uint32_t value
    memcpy(&value, at, 4)
    return swap32(value) if swapped else value


cdef inline uint64_t read64(const uint8_t* at, bint swapped) noexcept nogil:
    cdef uint64_t value
    memcpy(&value, at, 8)
    return swap64(value) if swapped else value


cdef inline uint32_t held_octets(uint32_t captured, uint32_t original) noexcept nogil:
    """Octets of a record that were on the wire: some writers pad what they capture."""
    return original if original < captured and original != 0 else captured


cdef inline size_t chain_end(const chain_s* chain, size_t at) noexcept nogil:
    """Where the last whole record ends of a chain from `at` to the region's end; 0: no chain."""
    cdef const uint8_t* header
    cdef uint32_t seconds, fraction, captured, original
    cdef int count = 0
    while chain.size - at >= chain.header_octets:
        header = chain.octets + at
        seconds = read32(header, chain.swapped)
        fraction = read32(header + 4, chain.swapped)
        captured = read32(header + 8, chain.swapped)
        original = read32(header + 12, chain.swapped)
        if (captured == 0 or captured > chain.captured_max or original < captured
                or fraction >= chain.fraction_max
                or <uint32_t>(seconds - chain.seconds + GUESS_APART_S) > 2 * GUESS_APART_S):
            return 0
        if chain.size - at - chain.header_octets < captured:
            break
        at += chain.header_octets + captured
        count += 1
    return at if count >= GUESS_RECORDS_MIN else 0
