from libc.stdint cimport uint8_t, uint32_t

# tollsplit.limits gives the reason; tests/test_layout.py holds them equal.
cdef enum:
    HELLO_OCTETS_MAX = 16384

cdef enum hello_e:
    HELLO_MORE                   # so far it may be one: hello_s.needed says how much is needed
    HELLO_FOUND
    HELLO_NONE                   # no hello, or one that contradicts itself

# What a ClientHello shows. It points into the octets that were read, or where they were joined.
cdef struct hello_s:
    const uint8_t *name          # the server's; NULL: none, or none that a host can have
    const uint8_t *token         # what the token extension holds; NULL: there is none
    uint32_t name_octets
    uint32_t token_octets
    uint32_t needed              # octets of the stream or message before another look is of use
    uint32_t encrypted           # it has an Encrypted Client Hello (RFC 9849), or pretends to

cdef hello_e read_records(
    const uint8_t *octets, uint32_t count, uint8_t *joined, hello_s *hello
) noexcept nogil
cdef hello_e read_message(
    const uint8_t *octets, uint32_t count, hello_s *hello
) noexcept nogil
cdef dict shown(int told, const hello_s *hello)
