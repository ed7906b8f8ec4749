"""Where a packet carries a sponsor's token; whether it is a good one, others say."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.string cimport memcmp

from tollsplit.cext.cursor cimport inside_s
from tollsplit.cext.dissect cimport Dissection, look_inside
from tollsplit.cext.layout cimport frame_s, packet_s
from tollsplit.cext.stretch cimport stretch, stretch_s, take, take_number, take_vector

MAGIC = b"\xf1tok"
FIGURES = {"TOKEN_OCTETS": TOKEN_OCTETS, "OPTION_TYPE": TOKEN_OPTION_TYPE}

REFUSAL_NAMES = (
    "malformed", "unknown_key", "wrong_mac", "key_not_valid", "expired", "too_early", "used",
    "crowded",
)

assert REFUSALS == len(REFUSAL_NAMES)

cdef enum:
    OPTION_PAD1 = 0              # RFC 8200 §4.2: the one option without a length


cdef inline const uint8_t *behind_magic(stretch_s carried) noexcept nogil:
    """The token behind the octets that say that there is one; NULL: they don't."""
    cdef stretch_s magic, token
    if (take(&carried, TOKEN_MAGIC_OCTETS, &magic) and memcmp(magic.at, b"\xf1tok", 4) == 0
            and take(&carried, TOKEN_OCTETS, &token)):
        return token.at
    return NULL


cdef const uint8_t *token_in(const inside_s *inside) noexcept nogil:
    """The token in a packet's destination options, or at the beginning of its payload; NULL: there
    is none. In each of them the first one is meant.
    """
    cdef const uint8_t *found = NULL
    if inside.options != NULL:
        found = token_in_options(stretch(inside.options, inside.options_octets))
    if found == NULL and inside.payload != NULL:
        found = behind_magic(stretch(
            inside.payload, min(inside.payload_captured, inside.payload_octets)))
    return found


cdef const uint8_t *token_in_options(stretch_s options) noexcept nogil:
    """The token in a destination options header (RFC 8200 §4.6)."""
    cdef stretch_s header, option
    cdef const uint8_t *found
    cdef uint32_t kind
    take(&options, 2, &header)
    while take_number(&options, 1, &kind):
        if kind == OPTION_PAD1:
            continue
        if not take_vector(&options, 1, &option):
            return NULL
        if kind == TOKEN_OPTION_TYPE and option.left == TOKEN_MAGIC_OCTETS + TOKEN_OCTETS:
            found = behind_magic(option)
            if found != NULL:
                return found
    return NULL


cdef int64_t ask(
    gate, const uint8_t *token, uint32_t count, const packet_s *row, int subscriber_length
) except? -1 with gil:
    """What a good token calls its sponsor; else why it is refused, as a negative number.

    row                of the packet that carries it, a subscriber's own
    subscriber_length  bits of the address that are one subscriber
    """
    return gate.ask(
        token[:count], row.version, <object>row.source_hi << 64 | row.source_lo, subscriber_length,
        <object>row.destination_hi << 64 | row.destination_lo, row.timestamp_ns)


def find(frame, at="inner"):
    """The token that a frame, as Reader.frames() gives it, carries by itself; None: none."""
    cdef frame_s one
    cdef inside_s inside
    cdef const uint8_t *found
    octets, one.timestamp_ns, one.original_octets, one.link_type, one.ingress, one.segment_octets = (
        frame)
    one.octets = <const uint8_t *>PyBytes_AS_STRING(octets)
    one.captured_octets = PyBytes_GET_SIZE(octets)
    look_inside(&one, &(<Dissection>Dissection("ip", at)).meter, &inside)
    found = token_in(&inside)
    return found[:TOKEN_OCTETS] if found != NULL else None
