# What a packet block's comment tells of a coalesced packet: live captures are kept with it.

from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memcmp

from tollsplit.cext.layout cimport SEGMENT_UNKNOWN
from tollsplit.cext.record cimport read16

# Option codes of pcapng (draft-ietf-opsawg-pcapng §3.5).
cdef enum:
    OPTION_END = 0
    OPTION_COMMENT = 1

cdef enum:
    SEGMENT_OCTETS_MAX = 65_535      # what the kernel has 16 bits for
    BEFORE_OCTETS = 12
    BEHIND_OCTETS = 7
    DIGITS_MAX = 5


cdef inline uint32_t segments_told(
    const uint8_t* options, uint32_t length, bint swapped
) noexcept nogil:
    """A packet's segment_octets by its block's options; 0: no comment says that it has any.

    The list may lack its end. One that does not fit its block is not believed at all.
    """
    cdef uint32_t at = 0, told = 0
    cdef uint16_t option, octets
    while length - at >= 4:
        option = read16(options + at, swapped)
        octets = read16(options + at + 2, swapped)
        at += 4
        if option == OPTION_END:
            break
        if octets > length - at:
            return 0
        if option == OPTION_COMMENT and told == 0:
            told = segments_of(options + at, octets)
        # Options are padded to 4 octets, and so is the block: this never passes its end.
        at += (octets + 3) & ~<uint32_t>3
    return told


cdef inline uint32_t segments_of(const uint8_t* text, uint32_t length) noexcept nogil:
    """The segment_octets that a comment says; 0: it says something else.

    The text is `segments of N octets`, N decimal from 1 on, or `segments of unknown size`.
    """
    cdef uint32_t value = 0, digits, i
    if length == 24 and memcmp(text, "segments of unknown size", 24) == 0:
        return SEGMENT_UNKNOWN
    if length <= BEFORE_OCTETS + BEHIND_OCTETS or memcmp(text, "segments of ", BEFORE_OCTETS) != 0:
        return 0
    digits = length - BEFORE_OCTETS - BEHIND_OCTETS
    if digits > DIGITS_MAX or text[BEFORE_OCTETS] == c"0":
        return 0
    if memcmp(text + BEFORE_OCTETS + digits, " octets", BEHIND_OCTETS) != 0:
        return 0
    for i in range(BEFORE_OCTETS, BEFORE_OCTETS + digits):
        if not c"0" <= text[i] <= c"9":
            return 0
        value = 10 * value + text[i] - c"0"
    return value if value <= SEGMENT_OCTETS_MAX else 0
