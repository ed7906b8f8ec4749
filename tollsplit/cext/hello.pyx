"""TLS ClientHello: the server's name and a token, from the first octets that a client sends."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcpy, memset

from tollsplit.cext.name cimport name_octets
from tollsplit.cext.stretch cimport *

BOUNDS = {"HELLO_OCTETS_MAX": HELLO_OCTETS_MAX}

cdef enum:
    RECORD_HEADER = 5
    RECORD_HANDSHAKE = 22        # RFC 8446 §5.1
    RECORD_OCTETS_MAX = 16384    # of plain text
    MESSAGE_HEADER = 4
    MESSAGE_CLIENT_HELLO = 1     # RFC 8446 §4
    VERSION_MAJOR = 3            # of SSL 3.0 and all of TLS
    SESSION_OCTETS_MAX = 32
    EXTENSION_NAME = 0           # RFC 6066 §3
    EXTENSION_ENCRYPTED = 0xFE0D  # RFC 9849 §5
    EXTENSION_TOKEN = 0xFF70     # ours, of those for private use (RFC 8446 §11)
    NAME_TYPE_HOST = 0


cdef hello_e read_records(
    const uint8_t *octets, uint32_t count, uint8_t *joined, hello_s *hello
) noexcept nogil:
    """Look for a ClientHello in a TCP stream's first octets.

    joined   [HELLO_OCTETS_MAX], used where the hello lies in several records

    Other records before it or between its parts are none of TLS (RFC 8446 §5.1), and what
    follows it in its record is none of a client's.
    """
    cdef stretch_s stream = stretch(octets, count)
    cdef stretch_s fragment
    cdef stretch_s message = stretch(NULL, 0)
    cdef hello_e told
    memset(hello, 0, sizeof(hello_s))
    while True:
        if not record_may_follow(stream):
            return HELLO_NONE
        if stream.left < RECORD_HEADER:
            hello.needed = max(hello.needed, message.left + 1)  # of the message
            hello.needed += count - message.left + RECORD_HEADER - stream.left
            return HELLO_MORE
        fragment = fragment_of(&stream)
        if not message.left:
            message = fragment
        elif fragment.left > HELLO_OCTETS_MAX - message.left:
            return HELLO_NONE
        else:
            if message.at != joined:
                memcpy(joined, message.at, message.left)
                message.at = joined
            memcpy(joined + message.left, fragment.at, fragment.left)
            message.left += fragment.left
        told = read_message(message.at, message.left, hello)
        if told != HELLO_MORE:
            return told
        if not stream.left:
            hello.needed += count - message.left
            return HELLO_MORE


cdef inline bint record_may_follow(stretch_s stream) noexcept nogil:
    """Whether a stream goes on with a record of handshakes, as far as its header is there."""
    cdef uint32_t octets
    if stream.left >= 1 and stream.at[0] != RECORD_HANDSHAKE:
        return False
    if stream.left >= 2 and stream.at[1] != VERSION_MAJOR:
        return False
    if stream.left < RECORD_HEADER:
        return True
    octets = <uint32_t>stream.at[3] << 8 | stream.at[4]
    return 0 < octets <= RECORD_OCTETS_MAX


cdef inline stretch_s fragment_of(stretch_s *stream) noexcept nogil:
    """What a record holds, as far as it is there; its header is."""
    cdef stretch_s header = cut(stream, RECORD_HEADER)
    return cut(stream, <uint32_t>header.at[3] << 8 | header.at[4])


cdef hello_e read_message(
    const uint8_t *octets, uint32_t count, hello_s *hello
) noexcept nogil:
    """Look for a ClientHello that is a handshake message by itself, as in QUIC."""
    cdef stretch_s message = stretch(octets, count)
    cdef stretch_s body
    cdef uint32_t kind, size
    memset(hello, 0, sizeof(hello_s))
    if count and octets[0] != MESSAGE_CLIENT_HELLO:
        return HELLO_NONE
    if count < MESSAGE_HEADER:
        hello.needed = MESSAGE_HEADER
        return HELLO_MORE
    take_number(&message, 1, &kind)
    take_number(&message, 3, &size)
    if size > HELLO_OCTETS_MAX - MESSAGE_HEADER or message.left > size:
        return HELLO_NONE
    if not take(&message, size, &body):
        hello.needed = MESSAGE_HEADER + size
        return HELLO_MORE
    return HELLO_FOUND if read_body(body, hello) else HELLO_NONE


cdef bint read_body(stretch_s body, hello_s *hello) noexcept nogil:
    """What a hello (RFC 8446 §4.1.2) shows; False: it contradicts itself."""
    cdef stretch_s random, session, suites, compressions, extensions
    cdef uint32_t version
    if not (take_number(&body, 2, &version) and version >> 8 == VERSION_MAJOR
            and take(&body, 32, &random)
            and take_vector(&body, 1, &session) and session.left <= SESSION_OCTETS_MAX
            and take_vector(&body, 2, &suites) and suites.left >= 2 and suites.left % 2 == 0
            and take_vector(&body, 1, &compressions) and compressions.left):
        return False
    if not body.left:  # before TLS 1.3 a hello may have none
        return True
    return (take_vector(&body, 2, &extensions) and not body.left
            and read_extensions(extensions, hello))


cdef bint read_extensions(stretch_s extensions, hello_s *hello) noexcept nogil:
    """False: lengths contradict each other, or what is read of them is there twice (§4.2)."""
    cdef stretch_s extension
    cdef uint32_t kind
    cdef bint named = False
    while extensions.left:
        if not (take_number(&extensions, 2, &kind) and take_vector(&extensions, 2, &extension)):
            return False
        if kind == EXTENSION_NAME:
            if named:
                return False
            named = True
            read_name(extension, hello)
        elif kind == EXTENSION_ENCRYPTED:
            if hello.encrypted:
                return False
            hello.encrypted = True
        elif kind == EXTENSION_TOKEN:
            if hello.token != NULL:
                return False
            hello.token = extension.at
            hello.token_octets = extension.left
    return True


cdef void read_name(stretch_s extension, hello_s *hello) noexcept nogil:
    """The one name of the one kind there is; of several, none is the server's (RFC 6066 §3)."""
    cdef stretch_s names, name
    cdef uint32_t kind
    if (take_vector(&extension, 2, &names) and not extension.left
            and take_number(&names, 1, &kind) and kind == NAME_TYPE_HOST
            and take_vector(&names, 2, &name) and not names.left):
        hello.name_octets = name_octets(name.at, name.left)
        if hello.name_octets:
            hello.name = name.at


cdef dict shown(int told, const hello_s *hello):
    return {
        "told": ("more", "found", "none")[told],
        "name": hello.name[:hello.name_octets] if hello.name != NULL else None,
        "token": hello.token[:hello.token_octets] if hello.token != NULL else None,
        "encrypted": bool(hello.encrypted),
        "needed": hello.needed,
    }


def read(octets, bare=False):
    """What is found in a client's first octets: a dict by hello_s's names, and "told".

    bare   the octets are a handshake message by itself, without records

    "told" is "more", "found" or "none". Name and token are bytes; None for NULL.
    """
    cdef hello_s hello
    cdef uint8_t joined[HELLO_OCTETS_MAX]
    cdef const uint8_t *at = <const uint8_t *>PyBytes_AS_STRING(octets)
    cdef uint32_t count = PyBytes_GET_SIZE(octets)
    cdef hello_e told = (
        read_message(at, count, &hello) if bare else read_records(at, count, joined, &hello))
    return shown(told, &hello)
