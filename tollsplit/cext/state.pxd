cimport cython
from libc.stdint cimport uint64_t

from tollsplit.cext.flows cimport Flows
from tollsplit.cext.fragments cimport Fragments

cdef extern from *:
    """
    #define TOLLSPLIT_CLOCK_BEHIND_NS 60000000000ULL
    """
    # tollsplit.limits gives the reason; tests/test_layout.py holds them equal.
    uint64_t CLOCK_BEHIND_NS "TOLLSPLIT_CLOCK_BEHIND_NS"


@cython.final
cdef class State:
    cdef uint64_t now_ns
    cdef Fragments fragments
    cdef Flows flows

    cdef uint64_t advance(self, uint64_t timestamp_ns) noexcept nogil
