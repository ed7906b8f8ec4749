"""Who pays for which octets of a running total (accounting §5)."""

import numpy as np

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

cdef enum:
    STEP_NUMERATOR = 0
    STEP_DENOMINATOR = 1
    STEP_QUOTA = 2

UNLIMITED = 0x7FFFFFFFFFFFFFFF   # a quota that caps nothing


def paid(const int64_t[::1] totals not None, const int64_t[:, ::1] steps not None):
    """What each sponsor has paid of running totals: i8[len(steps), n] from i8[n].

    steps   i8[k, 3] of (numerator, denominator, quota): of what the steps before it left, a
            sponsor pays ⌊left · numerator / denominator⌋, at most the quota

    A quota caps its own sponsor; what it cuts off is the subscriber's, not the next sponsor's,
    who never agreed to more than a share of the whole. Denominators up to 10⁹ are exact for
    every total below 2^63.
    """
    cdef Py_ssize_t i, k
    cdef int64_t left
    cdef int64_t[:, ::1] view
    result = np.empty((steps.shape[0], totals.shape[0]), np.int64)
    view = result
    for i in range(totals.shape[0]):
        left = totals[i]
        for k in range(steps.shape[0]):
            view[k, i] = pay(&steps[k, 0], &left)
    return result


def divide(
    dict columns not None,
    const int64_t[:, ::1] steps not None,
    const uint32_t[::1] first not None,
    const uint32_t[:, ::1] period not None,
    const uint8_t[::1] per not None,
    pair,
    uint64_t pairs,
    before,
    int64_t[:, ::1] result not None,
):
    """Write what each sponsor pays of each row; returns the totals of all payers.

    columns  rows in order of (window, subscriber, rule, cell): cell u4, subscriber u4, rule u2,
             uplink_octets u8, downlink_octets u8, [n] each
    steps    i8[s, 3] as paid() has them, those of one rule after the other
    first    u4[rules + 2], a rule's steps are first[rule] up to first[rule + 1]
    period   u4[kinds, cells], the period of each kind, from 1 on, that a cell lies in
    per      u1[rules + 1], the kind over whose periods a rule's totals run
    pair     u4[n], a number below `pairs` for each row's (subscriber, rule); None where rows of
             one period follow each other
    before   i8[n], where a running total starts, as its first row has it; None: all at 0
    result   i8[width, n], zero before; by the number of a step within its rule

    Returns i8[s] by step, what is left for subscribers, and the least that a payer has of a row.
    Budget: 5 ns a row.
    """
    cdef const uint32_t[::1] cell = columns["cell"]
    cdef const uint32_t[::1] subscriber = columns["subscriber"]
    cdef const uint16_t[::1] rule = columns["rule"]
    cdef const uint64_t[::1] uplink = columns["uplink_octets"]
    cdef const uint64_t[::1] downlink = columns["downlink_octets"]
    cdef const uint32_t[::1] pair_of = pair
    cdef const int64_t[::1] start = before
    cdef int64_t[::1] sums = np.zeros(steps.shape[0], np.int64)
    cdef int64_t[::1] running = np.zeros(pairs if pair is not None else 0, np.int64)
    cdef uint32_t[::1] stamp = np.zeros(pairs if pair is not None else 0, np.uint32)
    cdef bint adjacent = pair is None, begun = before is not None
    cdef Py_ssize_t i
    cdef uint32_t number, now, last_period = 0
    cdef int64_t octets, total = 0, own, least = 0, left = 0
    with nogil:
        for i in range(rule.shape[0]):
            number = rule[i]
            octets = <int64_t>(uplink[i] + downlink[i])
            if first[number] == first[number + 1]:
                left += octets
                continue
            now = period[per[number], cell[i]]
            if not adjacent:
                total = running[pair_of[i]]
                last_period = stamp[pair_of[i]]
            elif i and (rule[i - 1] != number or subscriber[i - 1] != subscriber[i]):
                last_period = 0
            if last_period != now:
                total = start[i] if begun else 0
            own = row(steps, first[number], first[number + 1], total, octets, i, result, sums,
                      &least)
            left += own
            least = min(least, own)
            total += octets
            last_period = now
            if not adjacent:
                running[pair_of[i]] = total
                stamp[pair_of[i]] = now
    return np.asarray(sums), left, least


cdef int64_t row(
    const int64_t[:, ::1] steps, uint32_t first, uint32_t last, int64_t total, int64_t octets,
    Py_ssize_t i, int64_t[:, ::1] result, int64_t[::1] sums, int64_t *least,
) noexcept nogil:
    """Divide the octets that come on top of a total; returns the subscriber's."""
    cdef int64_t after = total + octets, share, own = octets
    cdef uint32_t k
    for k in range(first, last):
        share = pay(&steps[k, 0], &after) - (pay(&steps[k, 0], &total) if total else 0)
        result[k - first, i] = share
        sums[k] += share
        least[0] = min(least[0], share)
        own -= share
    return own


cdef inline int64_t pay(const int64_t *step, int64_t *left) noexcept nogil:
    """What a sponsor has paid of a total; the total becomes what the next step shares.

    Dividing the whole first keeps each product below 2^63.
    """
    cdef int64_t numerator = step[STEP_NUMERATOR], denominator = step[STEP_DENOMINATOR]
    cdef int64_t share = left[0]
    if numerator != denominator:
        share = share // denominator * numerator + share % denominator * numerator // denominator
    left[0] -= share
    return min(share, step[STEP_QUOTA])
