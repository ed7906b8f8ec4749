from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

# tollsplit.limits gives the reason; tests/test_layout.py holds them equal.
cdef enum:
    HTTP_HEAD_OCTETS_MAX = 65536

cdef enum:
    LINE_KEPT = 320              # a method, http:// and the longest name, or a field with one
    TOKEN_KEPT = 64              # a token has 48 characters; one that is longer is none
    HOST_KEPT = 253              # NAME_OCTETS_MAX

# What comes next in a direction's octets.
cdef enum http_e:
    HTTP_MORE                    # nothing, all were taken
    HTTP_BEGINS                  # a message's first octet was taken
    HTTP_INTERIM                 # a response's head ended that has another one after it
    HTTP_HEAD                    # a message's head ended
    HTTP_ENDS                    # a message ended
    HTTP_BROKEN                  # no HTTP/1, or what two readers may read differently

# What follows a message's head.
cdef enum stage_e:
    STAGE_BETWEEN                # messages: nothing of the next has come
    STAGE_HEAD
    STAGE_FIXED                  # so many octets more
    STAGE_CHUNK_SIZE
    STAGE_CHUNK
    STAGE_CHUNK_END              # the line end behind a chunk
    STAGE_TRAILER
    STAGE_ENDS                   # here, with nothing more taken
    STAGE_CLOSE                  # whatever comes until the connection closes
    STAGE_TUNNEL                 # it is HTTP no more
    STAGE_BROKEN

cdef enum method_e:
    METHOD_OTHER
    METHOD_HEAD
    METHOD_CONNECT

# Of a head's fields: which ones were met.
cdef enum field_e:
    FIELD_HOST = 1
    FIELD_TOKEN = 2
    FIELD_LENGTH = 4
    FIELD_CODING = 8
    FIELD_AUTHORITY = 16         # no field: the target names the host

# A direction's place in its messages. All zero: before the first. 376 octets.
cdef struct http_s:
    uint64_t left                # octets of the body, or of its chunk
    uint64_t length              # FIELD_LENGTH's
    uint64_t tail                # the line's last eight octets
    uint32_t head_octets         # of the head, the chunk's line or the trailer so far
    uint32_t line_octets         # of the line, more than are kept
    uint32_t space_at            # behind its last space
    uint16_t status
    uint8_t responses            # the direction is a server's
    uint8_t stage                # stage_e
    uint8_t method               # method_e; in responses of the request that they answer: the caller's
    uint8_t old                  # HTTP/1.0
    uint8_t fields               # field_e
    uint8_t started              # its first line is over
    uint8_t spaces               # in the line, up to three
    uint8_t returned             # CR was met, LF has to follow
    uint8_t reserved[6]
    uint8_t line[LINE_KEPT]

# Whom a request is for, once its head ended. 320 octets.
cdef struct request_s:
    uint8_t host_octets          # 0: none
    uint8_t token_octets         # 0: none
    uint8_t reserved
    uint8_t host[HOST_KEPT]
    uint8_t token[TOKEN_KEPT]

cdef http_e read_http(
    http_s *http, request_s *request, const uint8_t *octets, uint32_t count, uint32_t *taken
) noexcept nogil
