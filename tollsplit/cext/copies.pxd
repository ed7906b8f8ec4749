cimport cython
from libc.stdint cimport uint32_t, uint64_t

from tollsplit.cext.bounded cimport Bounded, entry_s, order_s
from tollsplit.cext.cursor cimport inside_s
from tollsplit.cext.digest cimport digest_key_s
from tollsplit.cext.dissect cimport meter_s
from tollsplit.cext.key cimport key_s
from tollsplit.cext.layout cimport frame_s, packet_s
from tollsplit.cext.totals cimport Totals

cdef extern from *:
    """
    #define TOLLSPLIT_COPIES_MAX 3
    """
    # tollsplit.limits gives the reason; tests/test_layout.py holds them equal.
    uint32_t COPIES_MAX "TOLLSPLIT_COPIES_MAX"

# A packet that was seen.
cdef struct seen_s:
    entry_s entry                # in order of when it was seen first
    uint32_t copies              # of it that were seen since
    uint32_t reserved


@cython.final
cdef class Copies(Bounded):
    cdef digest_key_s digest_key
    cdef order_s order

    cdef void leave_out(
        self, const frame_s *frames, packet_s *rows, int count, const meter_s *meter,
        const uint64_t *now_ns, Totals totals
    ) noexcept nogil
    cdef bint is_copy(
        self, const key_s *key, uint64_t now_ns, uint64_t within_ns, bint *crowded
    ) noexcept nogil
    cdef void content_key(
        self, const packet_s *row, const inside_s *inside, key_s *key
    ) noexcept nogil
    cdef void expire(self, uint64_t now_ns, uint64_t within_ns) noexcept nogil
