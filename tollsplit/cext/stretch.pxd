# Octets that a message lies in, read from their front and never beyond their end. What is read of
# one that is too short is nothing: each reader says False, and the message is none.

from libc.stdint cimport uint8_t, uint32_t

cdef struct stretch_s:
    const uint8_t *at
    uint32_t left


cdef inline stretch_s stretch(const uint8_t *octets, uint32_t count) noexcept nogil:
    cdef stretch_s whole
    whole.at = octets
    whole.left = count
    return whole


cdef inline bint take(stretch_s *s, uint32_t count, stretch_s *taken) noexcept nogil:
    """The next `count` octets."""
    if count > s.left:
        return False
    taken[0] = stretch(s.at, count)
    s.at += count
    s.left -= count
    return True


cdef inline stretch_s cut(stretch_s *s, uint32_t most) noexcept nogil:
    """The next `most` octets, or as many as there are."""
    cdef stretch_s taken = stretch(s.at, min(most, s.left))
    s.at += taken.left
    s.left -= taken.left
    return taken


cdef inline bint take_number(stretch_s *s, uint32_t octets, uint32_t *value) noexcept nogil:
    """A number of up to four octets, in network order."""
    cdef stretch_s taken
    cdef uint32_t i
    if not take(s, octets, &taken):
        return False
    value[0] = 0
    for i in range(octets):
        value[0] = value[0] << 8 | taken.at[i]
    return True


cdef inline bint take_vector(stretch_s *s, uint32_t octets, stretch_s *taken) noexcept nogil:
    """A vector of TLS (RFC 8446 §3.4): its length, in so many octets, and then itself."""
    cdef uint32_t count
    return take_number(s, octets, &count) and take(s, count, taken)
