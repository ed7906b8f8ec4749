from libc.stdint cimport int64_t, uint8_t, uint32_t

from tollsplit.cext.cursor cimport inside_s
from tollsplit.cext.layout cimport packet_s

# tollsplit.tokens says what they are; tests/test_tokens_carried.py holds them equal.
cdef enum:
    TOKEN_OCTETS = 36
    TOKEN_MAGIC_OCTETS = 4
    TOKEN_OPTION_TYPE = 0x1E

# Why a token opens nothing; REFUSAL_NAMES spells them in this order, the first from 1 on.
cdef enum:
    REFUSALS = 8

cdef const uint8_t *token_in(const inside_s *inside) noexcept nogil
cdef int64_t ask(
    gate, const uint8_t *token, uint32_t count, const packet_s *row, int subscriber_length
) except? -1 with gil
