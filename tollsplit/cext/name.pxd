# Names of hosts, as protocols carry them.

from libc.stdint cimport uint8_t, uint32_t

cdef enum:
    NAME_OCTETS_MAX = 253        # in dots and letters, without the root's dot (RFC 1035 §3.1)
    LABEL_OCTETS_MAX = 63


cdef inline bint in_names(uint8_t octet) noexcept nogil:
    """Letters, digits, hyphens; and underscores, which are no host's but are in use."""
    return (c'a' <= octet | 0x20 <= c'z' or c'0' <= octet <= c'9' or octet == c'-'
            or octet == c'_')


cdef inline uint32_t name_octets(const uint8_t *name, uint32_t octets) noexcept nogil:
    """How many octets of a name count, without a last dot; 0: it is none that a host can have.

    So what is shown, compared or kept of a stranger's name holds nothing but letters, digits,
    hyphens, underscores and single dots.
    """
    cdef uint32_t i, label = 0
    if octets and name[octets - 1] == c'.':
        octets -= 1
    if not 0 < octets <= NAME_OCTETS_MAX:
        return 0
    for i in range(octets):
        if name[i] == c'.':
            if not label:
                return 0
            label = 0
            continue
        label += 1
        if label > LABEL_OCTETS_MAX or not in_names(name[i]):
            return 0
    return octets if label else 0


cdef inline uint8_t lower(uint8_t octet) noexcept nogil:
    """As C's own in no locale but that of ASCII."""
    return octet | 0x20 if c'A' <= octet <= c'Z' else octet


cdef inline bint same_letters(
    const uint8_t *one, const uint8_t *other, uint32_t octets
) noexcept nogil:
    """Whether two names are the same, in any case of letters."""
    cdef uint32_t i
    for i in range(octets):
        if lower(one[i]) != lower(other[i]):
            return False
    return True
