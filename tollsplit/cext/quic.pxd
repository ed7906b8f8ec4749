from libc.stdint cimport uint8_t, uint32_t, uint64_t

from tollsplit.cext.hello cimport hello_e, hello_s

# tollsplit.limits gives the reason; tests/test_layout.py holds them equal.
cdef enum:
    QUIC_CRYPTO_OCTETS_MAX = 8192
    QUIC_PACKETS_MAX = 16

cdef enum:
    CONNECTION_ID_OCTETS_MAX = 20  # RFC 9000 §17.2
    MET_WORDS = 128              # QUIC_CRYPTO_OCTETS_MAX bits

# What was met of a client's handshake. All zero: nothing yet. 9,248 octets.
cdef struct quic_s:
    uint32_t tried               # packets, opened or not
    uint32_t whole               # octets of the handshake, from its first on
    uint8_t opened               # one was: the connection's number is known
    uint8_t id_octets
    uint8_t id[CONNECTION_ID_OCTETS_MAX]
    uint8_t reserved[2]
    uint64_t met[MET_WORDS]      # a bit for each octet
    uint8_t octets[QUIC_CRYPTO_OCTETS_MAX]

cdef int read_quic(
    quic_s *quic, const uint8_t *octets, uint32_t count, object seal, hello_s *hello
) except -1
