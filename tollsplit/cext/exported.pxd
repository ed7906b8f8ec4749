# What an export of a meter may hold: whatever a damaged file says is found out here.

import numpy as np

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from tollsplit.cext.classify cimport POOL_BITS, Classifier
from tollsplit.cext.interface cimport TIMESTAMP_NS_MAX
from tollsplit.cext.layout cimport *
from tollsplit.cext.lpm cimport lookup4


cdef inline rows_of(str name, rows, dtype):
    """A copy of an array that may come from anywhere: of this dtype, aligned, and our own."""
    if not isinstance(rows, np.ndarray) or rows.dtype != dtype or rows.ndim != 1:
        raise ValueError(f"{name}: expected an array of one dimension and the dtype of an export")
    return rows.copy()


cdef inline bint is_key(const subscriber_s *who) noexcept nogil:
    """Whether a subscriber's key is one of its kind."""
    if who.kind == KIND_IPV6:
        return True
    if who.kind == KIND_VLAN:  # the inner VID counts from 1
        return who.hi >> 12 == 0 and who.lo <= 4096
    return who.kind <= KIND_MAC and who.hi == 0 and (
        who.lo >> (48 if who.kind == KIND_MAC else 32) == 0)


cdef inline int check_export(
    Classifier classifier, const counter_s[::1] counters, const subscriber_s[::1] subscribers,
    uint64_t cells,
) except -1:
    """Raise ValueError at the first row that names what no meter can have counted.

    classifier   of the rules that it was counted under
    cells        how many time cells are known
    """
    cdef uint64_t rules, pools, tenures, count = subscribers.shape[0]
    cdef Py_ssize_t i
    cdef const subscriber_s *who
    cdef const counter_s *one
    rules, pools, tenures = classifier.bounds
    for i in range(subscribers.shape[0]):
        who = &subscribers[i]
        if not is_key(who):
            raise ValueError(f"subscriber {i}: no key of kind {who.kind}: "
                             f"{who.hi:#x}, {who.lo:#x}")
        if not 0 < who.pool <= pools or who.tenure > tenures:
            raise ValueError(f"subscriber {i}: pool {who.pool}, tenure {who.tenure}: "
                             f"expected 1 to {pools}, 0 to {tenures}")
    for i in range(counters.shape[0]):
        one = &counters[i]
        if one.interned > 1 or one.flags & ~<uint8_t>FLAGS_KEPT:
            raise ValueError(f"counter {i}: interned {one.interned}, flags {one.flags}: "
                             f"expected 0 or 1, 0 to {<int>FLAGS_KEPT}")
        if one.interned and one.subscriber >= count:
            raise ValueError(f"counter {i}: subscriber {one.subscriber}: "
                             f"expected one below {count}")
        if not one.interned and not lookup4(
                classifier.trie4, one.subscriber) & ((1 << POOL_BITS) - 1):
            raise ValueError(f"counter {i}: address {one.subscriber:#010x} is in no pool")
        if one.rule > rules or one.cell >= cells:
            raise ValueError(f"counter {i}: rule {one.rule}, cell {one.cell}: "
                             f"expected 0 to {rules}, one below {cells}")
        if not one.first_ns <= one.last_ns <= TIMESTAMP_NS_MAX:
            raise ValueError(f"counter {i}: from {one.first_ns} to {one.last_ns} ns: "
                             f"expected times in order, up to {TIMESTAMP_NS_MAX}")
        if (one.uplink_packets | one.uplink_octets
                | one.downlink_packets | one.downlink_octets) >> 63:
            raise ValueError(f"counter {i}: a sum of 2^63 or more")
    return 0
