"""HTTP/1 (RFC 9112): where one direction's messages begin and end, and whom requests are for.

What one server may take for another request than the next does is read by neither: an end of
line without CR, a folded line, a space before a colon, a second Host, Content-Length or
Transfer-Encoding, both of these, a coding that is not just "chunked". Whoever smuggles requests
has nothing to win then: the direction is broken, and shows no host any more.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

from tollsplit.cext.name cimport name_octets, same_letters
from tollsplit.cext.stretch cimport *

BOUNDS = {"HTTP_HEAD_OCTETS_MAX": HTTP_HEAD_OCTETS_MAX}

cdef enum:
    CR = 13
    LF = 10
    DIGITS_MAX = 18              # of a length: 2^59 octets and more are nobody's body
    HEX_DIGITS_MAX = 15

# "HTTP/1.0", "HTTP/1.1" as numbers in network order
cdef uint64_t VERSION_OLD = 0x485454502F312E30
cdef uint64_t VERSION = 0x485454502F312E31


cdef http_e read_http(
    http_s *http, request_s *request, const uint8_t *octets, uint32_t count, uint32_t *taken
) noexcept nogil:
    """Go on in a direction's octets until something is to be told; `taken`: octets of `count`.

    request   filled while a request's head is read; of responses NULL

    To be called again with what was not taken, until it says HTTP_MORE or HTTP_BROKEN.
    """
    cdef http_e event
    cdef uint64_t body
    taken[0] = 0
    while True:
        if http.stage == STAGE_BROKEN:
            return HTTP_BROKEN
        if http.stage == STAGE_ENDS:
            http.stage = STAGE_BETWEEN
            return HTTP_ENDS
        if taken[0] == count:
            return HTTP_MORE
        if http.stage == STAGE_CLOSE or http.stage == STAGE_TUNNEL:
            taken[0] = count
        elif http.stage == STAGE_FIXED or http.stage == STAGE_CHUNK:
            body = min(http.left, <uint64_t>(count - taken[0]))
            http.left -= body
            taken[0] += <uint32_t>body
            if not http.left:
                http.stage = STAGE_ENDS if http.stage == STAGE_FIXED else STAGE_CHUNK_END
        else:
            event = read_octet(http, request, octets[taken[0]])
            taken[0] += 1
            if event != HTTP_MORE:
                return event


cdef inline http_e broken(http_s *http) noexcept nogil:
    http.stage = STAGE_BROKEN
    return HTTP_BROKEN


cdef http_e read_octet(http_s *http, request_s *request, uint8_t octet) noexcept nogil:
    """Take the next octet of what consists of lines."""
    if http.stage == STAGE_BETWEEN:
        return begin(http, request, octet)
    if http.returned:
        http.returned = False
        return read_line(http, request) if octet == LF else broken(http)
    if octet == CR:
        http.returned = True
        return HTTP_MORE
    http.head_octets += 1
    if (octet < c' ' and (octet != c'\t' or not http.started) or octet == 127
            or http.head_octets > HTTP_HEAD_OCTETS_MAX):
        return broken(http)
    if http.line_octets < LINE_KEPT:
        http.line[http.line_octets] = octet
    http.line_octets += 1
    http.tail = http.tail << 8 | octet
    if octet == c' ':
        http.space_at = http.line_octets
        http.spaces = min(http.spaces + 1, 3)
    return HTTP_MORE


cdef http_e begin(http_s *http, request_s *request, uint8_t octet) noexcept nogil:
    """Begin a message; empty lines may stand before a request (RFC 9112 §2.2)."""
    cdef uint8_t responses = http.responses, method = http.method
    if not responses and (octet == LF if http.returned else octet == CR):
        http.returned = not http.returned
        return HTTP_MORE
    if http.returned or not in_tokens(octet):
        return broken(http)
    memset(http, 0, sizeof(http_s))
    if responses:
        http.responses = responses
        http.method = method
    else:
        memset(request, 0, sizeof(request_s))
    http.stage = STAGE_HEAD
    read_octet(http, request, octet)
    return HTTP_BEGINS


cdef http_e read_line(http_s *http, request_s *request) noexcept nogil:
    """A line is over: what it says, and what follows."""
    cdef bint empty = not http.line_octets
    cdef bint sound
    if http.stage == STAGE_CHUNK_END:
        sound = empty
        http.stage = STAGE_CHUNK_SIZE
        http.head_octets = 0
    elif http.stage == STAGE_CHUNK_SIZE:
        sound = read_chunk_size(http)
    elif http.stage == STAGE_TRAILER and empty:
        http.stage = STAGE_ENDS
        return HTTP_MORE
    elif http.stage == STAGE_HEAD and empty:
        return end_head(http, request) if http.started else broken(http)
    elif http.started:
        sound = read_field(http, request)
    else:
        http.started = True
        sound = read_status(http) if http.responses else read_request(http, request)
    http.line_octets = http.space_at = http.spaces = 0
    return HTTP_MORE if sound else broken(http)


cdef inline stretch_s line_of(http_s *http) noexcept nogil:
    """The line, as far as it is kept."""
    return stretch(http.line, min(http.line_octets, <uint32_t>LINE_KEPT))


cdef inline bint in_tokens(uint8_t octet) noexcept nogil:
    """Of which methods and names of fields consist (RFC 9110 §5.6.2)."""
    return (c'a' <= octet | 0x20 <= c'z' or c'0' <= octet <= c'9' or octet == c'-' or octet == c'_'
            or octet == c'.' or octet == c'!' or c'#' <= octet <= c'\'' or octet == c'*'
            or octet == c'+' or octet == c'^' or octet == c'`' or octet == c'|' or octet == c'~')


cdef uint32_t token_of(stretch_s line) noexcept nogil:
    """How many octets at its front are a token."""
    cdef uint32_t count = 0
    while count < line.left and in_tokens(line.at[count]):
        count += 1
    return count


cdef bint begins(stretch_s line, const char *word, uint32_t octets) noexcept nogil:
    """Whether it begins with a word, in any case of letters."""
    return line.left >= octets and same_letters(line.at, <const uint8_t *>word, octets)


cdef bint equals(stretch_s line, const char *word, uint32_t octets) noexcept nogil:
    return line.left == octets and begins(line, word, octets)


# --- requests --------------------------------------------------------------------------


cdef bint read_request(http_s *http, request_s *request) noexcept nogil:
    """A request's first line (RFC 9112 §3): one space between its parts, and none inside."""
    cdef stretch_s line = line_of(http)
    cdef stretch_s method, target
    if http.spaces != 2 or http.line_octets - http.space_at != 8:
        return False
    if http.tail != VERSION and http.tail != VERSION_OLD:
        return False
    http.old = http.tail == VERSION_OLD
    method = cut(&line, token_of(line))
    if not equals(cut(&line, 1), b" ", 1):
        return False
    if method.left == 4 and memcmp(method.at, b"HEAD", 4) == 0:
        http.method = METHOD_HEAD
    elif method.left == 7 and memcmp(method.at, b"CONNECT", 7) == 0:
        http.method = METHOD_CONNECT
    # of a long one the rest is not kept, and names nobody
    target = line
    if http.line_octets <= LINE_KEPT:
        target.left -= 9
    return read_target(http, request, target, method)


cdef bint read_target(
    http_s *http, request_s *request, stretch_s target, stretch_s method
) noexcept nogil:
    """The four forms of a request's target (RFC 9112 §3.2)."""
    cdef uint32_t count = 0
    if not target.left:
        return False
    if http.method == METHOD_CONNECT:
        return read_authority(http, request, target, FIELD_AUTHORITY)
    if target.at[0] == c'/':
        return True
    if target.at[0] == c'*':
        return target.left == 1 and method.left == 7 and memcmp(method.at, b"OPTIONS", 7) == 0
    if begins(target, b"http://", 7):
        cut(&target, 7)
    elif begins(target, b"https://", 8):
        cut(&target, 8)
    else:
        return False
    while count < target.left and target.at[count] != c'/' and target.at[count] != c'?':
        count += 1
    if count == target.left and http.line_octets > LINE_KEPT:
        return False
    return count and read_authority(http, request, cut(&target, count), FIELD_AUTHORITY)


cdef bint read_authority(
    http_s *http, request_s *request, stretch_s authority, uint8_t field
) noexcept nogil:
    """Whom a target or a Host names; False: nobody can say, or they contradict each other."""
    cdef uint32_t octets, i
    cdef stretch_s host
    cdef bint before = http.fields & FIELD_AUTHORITY
    if http.fields & field:
        return False
    http.fields |= field
    if not authority.left:  # as a Host may be (RFC 9110 §7.2)
        return not before
    if authority.at[0] == c'[':  # an address of IPv6 is no name
        return in_brackets(authority) and not (before and request.host_octets)
    host.at = authority.at
    host.left = 0
    while host.left < authority.left and authority.at[host.left] != c':':
        host.left += 1
    for i in range(host.left + 1, authority.left):
        if not c'0' <= authority.at[i] <= c'9':
            return False
    octets = name_octets(host.at, host.left)
    if not octets:
        return False
    if before:
        return octets == request.host_octets and same_letters(host.at, request.host, octets)
    request.host_octets = <uint8_t>octets
    memcpy(request.host, host.at, octets)
    return True


cdef bint in_brackets(stretch_s authority) noexcept nogil:
    """Whether it is an address in brackets, and a port maybe; which one, nobody asks."""
    cdef uint32_t i = 1
    cdef uint8_t octet
    while i < authority.left and authority.at[i] != c']':
        octet = authority.at[i]
        if not (c'0' <= octet <= c'9' or c'a' <= octet | 0x20 <= c'f' or octet == c':'
                or octet == c'.'):
            return False
        i += 1
    if not 3 <= i < authority.left:
        return False
    for i in range(i + 1, authority.left):
        octet = authority.at[i]
        if not c'0' <= octet <= c':':
            return False
    return True


# --- fields ----------------------------------------------------------------------------


cdef bint read_field(http_s *http, request_s *request) noexcept nogil:
    """A line of a head or trailer (RFC 9112 §5): a name, a colon at once, and a value."""
    cdef stretch_s line = line_of(http)
    cdef stretch_s name = cut(&line, token_of(line))
    cdef bint whole = http.line_octets <= LINE_KEPT
    if not name.left or not equals(cut(&line, 1), b":", 1):
        return False
    strip(&line)
    if equals(name, b"content-length", 14):
        return whole and head_field(http, FIELD_LENGTH) and read_length(http, line)
    if equals(name, b"transfer-encoding", 17):
        return whole and head_field(http, FIELD_CODING) and equals(line, b"chunked", 7)
    if http.responses:
        return True
    if equals(name, b"host", 4):
        return whole and http.stage == STAGE_HEAD and read_authority(
            http, request, line, FIELD_HOST)
    if equals(name, b"sponsored-data-token", 20):
        if not head_field(http, FIELD_TOKEN):
            return False
        request.token_octets = <uint8_t>min(line.left, <uint32_t>TOKEN_KEPT)
        memcpy(request.token, line.at, request.token_octets)
    return True


cdef inline bint head_field(http_s *http, uint8_t field) noexcept nogil:
    """Note a field that a head may have once and a trailer must not have."""
    if http.fields & field or http.stage != STAGE_HEAD:
        return False
    http.fields |= field
    return True


cdef inline void strip(stretch_s *value) noexcept nogil:
    """Take the blanks off both of its ends."""
    while value.left and (value.at[0] == c' ' or value.at[0] == c'\t'):
        value.at += 1
        value.left -= 1
    while value.left and (
            value.at[value.left - 1] == c' ' or value.at[value.left - 1] == c'\t'):
        value.left -= 1


cdef bint read_length(http_s *http, stretch_s value) noexcept nogil:
    cdef uint32_t i
    if not 0 < value.left <= DIGITS_MAX:
        return False
    http.length = 0
    for i in range(value.left):
        if not c'0' <= value.at[i] <= c'9':
            return False
        http.length = http.length * 10 + value.at[i] - c'0'
    return True


cdef bint read_chunk_size(http_s *http) noexcept nogil:
    """A chunk's line (RFC 9112 §7.1); blanks behind its size are seen in the wild."""
    cdef stretch_s line = line_of(http)
    cdef uint32_t digits = 0
    cdef uint8_t octet, digit
    http.left = 0
    while digits < line.left:
        octet = line.at[digits]
        if c'0' <= octet <= c'9':
            digit = octet - c'0'
        elif c'a' <= octet | 0x20 <= c'f':
            digit = (octet | 0x20) - c'a' + 10
        else:
            break
        http.left = http.left << 4 | digit
        digits += 1
        if digits > HEX_DIGITS_MAX:
            return False
    line.at += digits
    line.left -= digits
    strip(&line)
    if not digits or line.left and line.at[0] != c';':
        return False
    http.stage = STAGE_CHUNK if http.left else STAGE_TRAILER
    return True


# --- responses, and where bodies end ----------------------------------------------------


cdef bint read_status(http_s *http) noexcept nogil:
    """A response's first line (RFC 9112 §4)."""
    cdef stretch_s line = line_of(http)
    cdef uint32_t i
    if line.left < 12 or memcmp(line.at, b"HTTP/1.", 7) != 0 or line.at[8] != c' ':
        return False
    if line.at[7] != c'0' and line.at[7] != c'1':
        return False
    if line.left > 12 and line.at[12] != c' ':
        return False
    http.old = line.at[7] == c'0'
    http.status = 0
    for i in range(9, 12):
        if not c'0' <= line.at[i] <= c'9':
            return False
        http.status = http.status * 10 + line.at[i] - c'0'
    return 100 <= http.status < 600


cdef http_e end_head(http_s *http, request_s *request) noexcept nogil:
    """What a message's body is (RFC 9112 §6.3), now that its head is over."""
    cdef bint counted = http.fields & FIELD_LENGTH
    cdef bint chunked = http.fields & FIELD_CODING
    cdef bint body = chunked or counted and http.length
    http.line_octets = http.head_octets = 0
    # HTTP/1.0 knows no codings, and both are how requests are smuggled (§6.1)
    if chunked and (counted or http.old):
        return broken(http)
    if not http.responses:
        if http.method == METHOD_CONNECT and (chunked or counted):
            return broken(http)
        if not http.old and not http.fields & FIELD_HOST:  # it must have one (§3.2)
            request.host_octets = 0
        http.stage = STAGE_ENDS
    elif http.status == 101 or http.method == METHOD_CONNECT and http.status // 100 == 2:
        http.stage = STAGE_TUNNEL
        return HTTP_HEAD
    elif http.status < 200 or http.status == 204:
        if body:  # it must not have one, which who reads it may overlook
            return broken(http)
        http.stage = STAGE_ENDS if http.status == 204 else STAGE_BETWEEN
        return HTTP_HEAD if http.status == 204 else HTTP_INTERIM
    elif http.method == METHOD_HEAD or http.status == 304:
        http.stage = STAGE_ENDS
        return HTTP_HEAD
    else:
        http.stage = STAGE_ENDS if counted else STAGE_CLOSE
    if body:
        http.stage = STAGE_CHUNK_SIZE if chunked else STAGE_FIXED
        http.left = http.length
    return HTTP_HEAD


cdef class Direction:
    """One direction's messages, for tests of how they are read.

    answers   of a server's direction: each request's method, in order; None: a client's
    """

    cdef http_s http
    cdef request_s request
    cdef list answers

    def __cinit__(self, answers=None):
        self.http.responses = answers is not None
        self.answers = list(answers or ())
        self.next_answer()

    def next_answer(self):
        if self.answers:
            self.http.method = {"HEAD": METHOD_HEAD, "CONNECT": METHOD_CONNECT}.get(
                self.answers.pop(0), METHOD_OTHER)

    def feed(self, octets):
        """What is told of the next octets: (event, octets taken so far, what it shows)."""
        cdef uint32_t at = 0, taken
        cdef const uint8_t *front = <const uint8_t *>PyBytes_AS_STRING(octets)
        cdef uint32_t count = PyBytes_GET_SIZE(octets)
        told = []
        while True:
            event = read_http(&self.http, &self.request, front + at, count - at, &taken)
            at += taken
            if event == HTTP_MORE:
                return told
            name = ("more", "begins", "interim", "head", "ends", "broken")[<int>event]
            told.append((name, at, self.shown() if name == "head" else None))
            if event == HTTP_BROKEN:
                return told
            if event == HTTP_ENDS and self.http.responses:
                self.next_answer()

    def shown(self):
        if self.http.responses:
            return self.http.status
        return (self.request.host[:self.request.host_octets],
                self.request.token[:self.request.token_octets])
