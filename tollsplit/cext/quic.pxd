from libc.stdint cimport uint8_t, uint32_t, uint64_t

from tollsplit.cext.cursor cimport be32
from tollsplit.cext.hello cimport hello_e, hello_s

# tollsplit.limits gives the reason; tests/test_layout.py holds them equal.
cdef enum:
    QUIC_CRYPTO_OCTETS_MAX = 8192
    QUIC_PACKETS_MAX = 16
    QUIC_AGAIN_MAX = 64

cdef enum:
    VERSION_1 = 0x00000001
    VERSION_2 = 0x6B3343CF
    QUIC_BEGINS = 5              # octets of a long header up to its version
    LONG_HEADER = 0x80
    FIXED_BIT = 0x40             # a server may allow others than 1 (RFC 9287)
    KIND_INITIAL = 0
    KIND_EARLY = 1
    KIND_HANDSHAKE = 2
    KIND_RETRY = 3
    DATAGRAM_OCTETS_MIN = 1200   # of one with an Initial; servers drop others (RFC 9000 §14.1)
    CONNECTION_ID_OCTETS_MAX = 20  # RFC 9000 §17.2
    MET_WORDS = 128              # QUIC_CRYPTO_OCTETS_MAX bits

# What was met of a client's handshake. All zero: nothing yet. 9,248 octets.
cdef struct quic_s:
    uint32_t tried               # packets, opened or not
    uint32_t whole               # octets of the handshake, from its first on
    uint8_t opened               # one was: the connection's number is known
    uint8_t id_octets
    uint8_t id[CONNECTION_ID_OCTETS_MAX]
    uint8_t complete             # its hello is known: what differs from it begins another one
    uint8_t reserved
    uint64_t met[MET_WORDS]      # a bit for each octet
    uint8_t octets[QUIC_CRYPTO_OCTETS_MAX]


cdef inline uint32_t version_of(const uint8_t *octets) noexcept nogil:
    return be32(octets + 1)


cdef inline uint32_t kind_of(uint32_t first, uint32_t version) noexcept nogil:
    """What a packet with a long header is; RFC 9369 §3.2 moves the kinds by one."""
    return ((first >> 4) - (version == VERSION_2)) & 3


cdef inline bint is_long(const uint8_t *octets, uint32_t count) noexcept nogil:
    """Whether a datagram begins with a long header, of whatever version (RFC 8999 §5.1)."""
    return count >= QUIC_BEGINS and octets[0] & LONG_HEADER


cdef inline bint is_handshake(const uint8_t *octets, uint32_t count) noexcept nogil:
    """Whether a datagram begins with a packet of a handshake, as far as five octets show."""
    return is_long(octets, count) and (
        version_of(octets) == VERSION_1 or version_of(octets) == VERSION_2)


cdef inline bint begins_quic(const uint8_t *octets, uint32_t count) noexcept nogil:
    """Whether a datagram may be a client's first: an Initial packet, or early data before it."""
    return (count >= DATAGRAM_OCTETS_MIN and is_handshake(octets, count)
            and octets[0] & FIXED_BIT and kind_of(octets[0], version_of(octets)) <= KIND_EARLY)


cdef bint may_begin(const uint8_t *octets, uint32_t count) noexcept nogil
cdef int read_quic(
    quic_s *quic, const uint8_t *octets, uint32_t count, object seal, hello_s *hello
) except -1
