"""QUIC's Initial packets (RFC 9000, 9001, 9369): the ClientHello that they carry.

Everybody can open them who sees a connection's first one; what they show is a client's word, as a
hello over TCP is. Opening is a Python object's business (rules/seal), for it is cryptography.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

from tollsplit.cext.hello cimport *
from tollsplit.cext.stretch cimport *

BOUNDS = {
    "QUIC_CRYPTO_OCTETS_MAX": QUIC_CRYPTO_OCTETS_MAX, "QUIC_PACKETS_MAX": QUIC_PACKETS_MAX,
    "QUIC_AGAIN_MAX": QUIC_AGAIN_MAX,
}

cdef enum:
    FIRST_ID_OCTETS_MIN = 8      # of what a client makes up (§7.2)
    SEALED_OCTETS_MIN = 20       # the packet number's most, and the sample (RFC 9001 §5.4.2)
    FRAME_PADDING = 0
    FRAME_PING = 1
    FRAME_ACK = 2
    FRAME_ACK_ECN = 3
    FRAME_CRYPTO = 6
    FRAME_CLOSE = 28

cdef enum packet_e:
    PACKET_INITIAL
    PACKET_OTHER                 # of a handshake, but no Initial
    PACKET_NONE                  # nothing that another packet can follow

# An Initial packet as it lies in its datagram.
cdef struct initial_s:
    stretch_s packet
    stretch_s id                 # its destination's
    uint32_t version
    uint32_t number_at           # where its packet number begins
    bint sound                   # its lengths are such as a client's have


cdef inline bint take_varint(stretch_s *s, uint64_t *value) noexcept nogil:
    """A number of 1, 2, 4 or 8 octets (RFC 9000 §16)."""
    cdef stretch_s taken
    cdef uint32_t i
    if not s.left or not take(s, 1 << (s.at[0] >> 6), &taken):
        return False
    value[0] = taken.at[0] & 0x3F
    for i in range(1, taken.left):
        value[0] = value[0] << 8 | taken.at[i]
    return True


cdef inline bint take_counted(stretch_s *s, stretch_s *taken) noexcept nogil:
    """As many octets as a number before them says."""
    cdef uint64_t count
    return take_varint(s, &count) and count <= s.left and take(s, <uint32_t>count, taken)


cdef packet_e take_packet(stretch_s *datagram, initial_s *initial) noexcept nogil:
    """The next of a datagram's packets (RFC 9000 §17.2)."""
    cdef stretch_s source, token, body
    cdef stretch_s start = datagram[0]
    cdef uint32_t first, kind
    if not take_number(datagram, 1, &first) or not first & LONG_HEADER:
        return PACKET_NONE
    if not (take_number(datagram, 4, &initial.version) and take_vector(datagram, 1, &initial.id)
            and take_vector(datagram, 1, &source)):
        return PACKET_NONE
    if initial.version != VERSION_1 and initial.version != VERSION_2:
        return PACKET_NONE
    kind = kind_of(first, initial.version)
    if kind == KIND_RETRY:  # has no length, and is no client's
        return PACKET_NONE
    if kind == KIND_INITIAL and not take_counted(datagram, &token):
        return PACKET_NONE
    if not take_counted(datagram, &body):
        return PACKET_NONE
    if kind != KIND_INITIAL:
        return PACKET_OTHER
    initial.sound = body.left >= SEALED_OCTETS_MIN and (
        max(initial.id.left, source.left) <= CONNECTION_ID_OCTETS_MAX)
    initial.number_at = start.left - datagram.left - body.left
    initial.packet = stretch(start.at, start.left - datagram.left)
    return PACKET_INITIAL


cdef bint may_begin(const uint8_t *octets, uint32_t count) noexcept nogil:
    """Whether a datagram may begin a connection: it has an Initial, or a version that nobody knows.

    Whether its first packet is one is not asked: the others count, too (RFC 9000 §12.2).
    """
    cdef stretch_s datagram = stretch(octets, count)
    cdef initial_s initial
    cdef packet_e kind = PACKET_OTHER
    if count < DATAGRAM_OCTETS_MIN or not is_long(octets, count):
        return False
    if not is_handshake(octets, count):
        return True
    while kind == PACKET_OTHER:
        kind = take_packet(&datagram, &initial)
    return kind == PACKET_INITIAL


cdef int read_quic(
    quic_s *quic, const uint8_t *octets, uint32_t count, object seal, hello_s *hello
) except -1:
    """Look into one datagram of a client; hello_e: what was found so far.

    seal   open(version, connection_id, packet, number_at) → the payload, or None

    A datagram that servers drop for its size is looked over. Where another connection begins, it is
    read from there on if the one before is complete; else nobody can tell what is whose. Nor can
    they of an Initial that cannot be opened: a server that has met others may (its number may be
    shortened by what came before). Nothing is shown of a connection that is complete and stays so.
    The hello points into `quic`.
    """
    cdef stretch_s datagram = stretch(octets, count)
    cdef initial_s initial
    cdef packet_e kind
    cdef bytes plain
    memset(hello, 0, sizeof(hello_s))
    if quic.complete:
        quic.tried = 0
    while count >= DATAGRAM_OCTETS_MIN and datagram.left:
        kind = take_packet(&datagram, &initial)
        if kind == PACKET_NONE:
            break
        quic.tried += 1
        if quic.tried > QUIC_PACKETS_MAX:
            return HELLO_NONE
        if kind == PACKET_OTHER:
            continue
        if not initial.sound:  # whoever drops it may take the next one
            if not quic.opened and not quic.complete:
                return HELLO_NONE
            continue
        plain = None
        if quic.opened:
            plain = open_packet(&initial, seal, quic.id[:quic.id_octets])
        if plain is None and is_first(quic, &initial):
            plain = open_packet(&initial, seal, initial.id.at[:initial.id.left])
            if plain is not None and not begin_connection(quic, &initial):
                return HELLO_NONE
        if plain is None or not read_frames(
                quic, stretch(<const uint8_t *>PyBytes_AS_STRING(plain), PyBytes_GET_SIZE(plain))):
            return HELLO_NONE
    if quic.complete:
        return HELLO_FOUND
    if not quic.tried:
        return HELLO_NONE
    return read_message(quic.octets, quic.whole, hello)


cdef bytes open_packet(const initial_s *initial, object seal, bytes connection_id):
    """A packet's payload; None: it is of another connection, or no Initial at all.

    connection_id   that its connection's first packet went to: all are sealed by that, or, after a
                    Retry, by the one that it was changed to (RFC 9001 §5.2)
    """
    return seal.open(initial.version, connection_id, initial.packet.at[:initial.packet.left],
                     initial.number_at)


cdef bint is_first(const quic_s *quic, const initial_s *initial) noexcept nogil:
    """Whether a packet that cannot be opened may be the first of another connection (§7.2)."""
    return initial.id.left >= FIRST_ID_OCTETS_MIN and not (
        quic.opened and initial.id.left == quic.id_octets
        and memcmp(initial.id.at, quic.id, quic.id_octets) == 0)


cdef bint begin_connection(quic_s *quic, const initial_s *initial) noexcept nogil:
    """Read a connection from its first packet on; False: the one before is not complete."""
    cdef uint32_t tried = quic.tried
    if quic.opened and not quic.complete:
        return False
    memset(quic, 0, sizeof(quic_s) - QUIC_CRYPTO_OCTETS_MAX)
    quic.tried = tried
    quic.opened = True
    quic.id_octets = <uint8_t>initial.id.left
    memcpy(quic.id, initial.id.at, initial.id.left)
    return True


cdef bint read_frames(quic_s *quic, stretch_s payload) noexcept nogil:
    """Gather what a payload has of the handshake; False: no Initial has such frames (§17.2.2)."""
    cdef stretch_s crypto, reason
    cdef uint32_t kind
    cdef uint64_t number
    while take_number(&payload, 1, &kind):
        if kind == FRAME_PADDING or kind == FRAME_PING:
            continue
        if kind == FRAME_CRYPTO:
            if not (take_varint(&payload, &number) and take_counted(&payload, &crypto)
                    and gather(quic, number, crypto)):
                return False
        elif kind == FRAME_ACK or kind == FRAME_ACK_ECN:
            if not read_acknowledgment(&payload, kind == FRAME_ACK_ECN):
                return False
        elif kind == FRAME_CLOSE:
            if not (take_varint(&payload, &number) and take_varint(&payload, &number)
                    and take_counted(&payload, &reason)):
                return False
        else:
            return False
    return True


cdef bint read_acknowledgment(stretch_s *payload, bint marked) noexcept nogil:
    """Step over an ACK frame (RFC 9000 §19.3)."""
    cdef uint64_t number, ranges
    cdef uint64_t i
    if not (take_varint(payload, &number) and take_varint(payload, &number)
            and take_varint(payload, &ranges) and take_varint(payload, &number)):
        return False
    if ranges > payload.left:  # each has two octets and more
        return False
    for i in range(2 * ranges + 3 * marked):
        if not take_varint(payload, &number):
            return False
    return True


cdef bint gather(quic_s *quic, uint64_t offset, stretch_s crypto) noexcept nogil:
    """Put a piece of the handshake where it belongs; False: too far, or it was another before."""
    cdef uint32_t at, i
    cdef uint64_t bit
    if offset > QUIC_CRYPTO_OCTETS_MAX or crypto.left > QUIC_CRYPTO_OCTETS_MAX - offset:
        return False
    for i in range(crypto.left):
        at = <uint32_t>offset + i
        bit = <uint64_t>1 << (at % 64)
        if quic.met[at // 64] & bit and quic.octets[at] != crypto.at[i]:
            return False
        quic.met[at // 64] |= bit
        quic.octets[at] = crypto.at[i]
    while (quic.whole < QUIC_CRYPTO_OCTETS_MAX
            and quic.met[quic.whole // 64] >> (quic.whole % 64) & 1):
        quic.whole += 1
    return True


cdef class Handshake:
    """A client's handshake, for tests of how it is read.

    seal   as read_quic() has it
    """

    cdef quic_s quic
    cdef object seal

    def __cinit__(self, seal):
        self.seal = seal

    def feed(self, octets):
        """What the datagrams show so far, as hello.read() has it."""
        cdef hello_s hello
        told = read_quic(&self.quic, <const uint8_t *>PyBytes_AS_STRING(octets),
                         PyBytes_GET_SIZE(octets), self.seal, &hello)
        return shown(told, &hello)
