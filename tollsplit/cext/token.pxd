from libc.stdint cimport uint8_t

from tollsplit.cext.cursor cimport inside_s

# tollsplit.tokens says what they are; tests/test_tokens_carried.py holds them equal.
cdef enum:
    TOKEN_OCTETS = 36
    TOKEN_MAGIC_OCTETS = 4
    TOKEN_OPTION_TYPE = 0x1E

# Why a token opens nothing; REFUSAL_NAMES spells them in this order, the first from 1 on.
cdef enum:
    REFUSALS = 8

cdef const uint8_t *token_in(const inside_s *inside) noexcept nogil
