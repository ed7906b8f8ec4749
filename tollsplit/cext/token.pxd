from libc.stdint cimport uint8_t

from tollsplit.cext.cursor cimport inside_s

# tollsplit.tokens says what they are; tests/test_tokens_carried.py holds them equal.
cdef enum:
    TOKEN_OCTETS = 36
    TOKEN_MAGIC_OCTETS = 4
    TOKEN_OPTION_TYPE = 0x1E

cdef const uint8_t *token_in(const inside_s *inside) noexcept nogil
