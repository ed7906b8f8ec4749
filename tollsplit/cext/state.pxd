cimport cython
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from tollsplit.cext.calls cimport Calls
from tollsplit.cext.copies cimport Copies
from tollsplit.cext.flows cimport Flows
from tollsplit.cext.fragments cimport Fragments
from tollsplit.cext.layout cimport packet_s
from tollsplit.cext.requests cimport Requests
from tollsplit.cext.streams cimport Streams
from tollsplit.cext.talk cimport Talks

cdef extern from *:
    """
    #define TOLLSPLIT_CLOCK_BEHIND_NS 60000000000ULL
    """
    # tollsplit.limits gives the reason; tests/test_layout.py holds them equal.
    uint64_t CLOCK_BEHIND_NS "TOLLSPLIT_CLOCK_BEHIND_NS"


@cython.final
cdef class State:
    cdef uint64_t clock_ns       # the latest time that any frame has shown
    cdef uint64_t now_ns         # of the frame that is accounted
    cdef readonly bint set_back  # the clock was, once
    cdef uint32_t share
    cdef readonly uint32_t shares
    cdef uint64_t pair_lo, pair_hi, pair_spread  # multipliers, odd
    cdef Fragments fragments
    cdef Flows flows
    cdef Copies copies
    cdef Streams streams
    cdef Calls calls
    cdef object gate             # judges tokens; None: rules ask for none
    cdef object answers          # of resolvers, as engine.answers has them
    cdef const uint8_t[::1] hints  # bits of addresses that answers may know
    cdef Talks talks
    cdef Requests requests
    cdef dict conditions         # of the facts under rules, by the rules' serial
    cdef dict carried            # (serial, serial) → what each fact under one is under the other

    cdef bint is_own(self, const packet_s *row) noexcept nogil
    cdef uint64_t advance(self, uint64_t timestamp_ns) noexcept nogil
    cdef void reach(self, uint64_t now_ns) noexcept nogil
    cdef int know(self, uint32_t serial, list conditions) except -1
    cdef uint64_t carry(self, uint64_t facts, uint32_t serial, uint32_t later) except? 0
