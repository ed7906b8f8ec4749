# Words in order of some of their bits: a radix sort, and what sorted runs come to.

from libc.stdint cimport uint64_t
from libc.string cimport memset

cdef extern from *:
    """
    typedef unsigned __int128 tollsplit_wide;
    """
    # 128 bits in C. Cython takes it for a smaller type, which must not be that of uint64_t: so
    # expressions that mix the two name the wider one.
    ctypedef size_t wide_t "tollsplit_wide"

ctypedef fused word_t:
    uint64_t
    wide_t

cdef enum:
    DIGIT_BITS = 11              # of one pass: its counts fit the first-level cache
    DIGITS = 1 << DIGIT_BITS
    RUNS_MAX = 256               # of one merge


cdef inline int bits_of(uint64_t largest) noexcept nogil:
    """How many bits hold the numbers up to the largest."""
    cdef int bits = 0
    while largest:
        largest >>= 1
        bits += 1
    return bits


cdef inline word_t *radix_sort(
    word_t *words, word_t *scratch, uint64_t count, int low, int high
) noexcept nogil:
    """Sort words by their bits from `low` up to `high`; equal ones stay in their order.

    Returns that one of the two arrays which holds them; the other one's contents are lost.
    A pass counts the digits of the next one while it moves the words.
    """
    cdef uint64_t counts[2][DIGITS]
    cdef uint64_t i, at, digit, sum
    cdef int passes = (high - low + DIGIT_BITS - 1) // DIGIT_BITS
    cdef int step, bits, following
    cdef uint64_t mask, next_mask
    cdef uint64_t *here
    cdef uint64_t *there
    cdef word_t *other
    if passes == 0:
        return words
    bits = (high - low + passes - 1) // passes
    mask = (<uint64_t>1 << min(bits, high - low)) - 1
    memset(counts[0], 0, sizeof(counts[0]))
    for i in range(count):
        counts[0][<uint64_t>(words[i] >> low) & mask] += 1
    for step in range(passes):
        here = counts[step & 1]
        there = counts[(step + 1) & 1]
        sum = 0
        for digit in range(<uint64_t>DIGITS):
            at = here[digit]
            here[digit] = sum
            sum += at
        following = low + bits
        next_mask = (<uint64_t>1 << max(0, min(bits, high - following))) - 1
        if step + 1 < passes:
            memset(there, 0, sizeof(counts[0]))
            for i in range(count):
                digit = <uint64_t>(words[i] >> low) & mask
                there[<uint64_t>(words[i] >> following) & next_mask] += 1
                scratch[here[digit]] = words[i]
                here[digit] += 1
        else:
            for i in range(count):
                digit = <uint64_t>(words[i] >> low) & mask
                scratch[here[digit]] = words[i]
                here[digit] += 1
        other = words
        words = scratch
        scratch = other
        low = following
        mask = next_mask
    return words


cdef inline uint64_t first_of(
    const word_t *words, uint64_t count, word_t mask, word_t least
) noexcept nogil:
    """How many words of a sorted run lie below `least` in the masked bits."""
    cdef uint64_t low = 0, high = count, middle
    while low < high:
        middle = (low + high) // 2
        if words[middle] & mask < least:
            low = middle + 1
        else:
            high = middle
    return low


cdef inline void merge_runs(
    const word_t *words, const uint64_t *at, const uint64_t *end, int runs, word_t mask, word_t *to
) noexcept nogil:
    """Write sorted runs as one, in order of the masked bits.

    at, end   [runs], where each run's part begins and ends; at most RUNS_MAX runs
    """
    cdef int run, best, live = 0
    cdef uint64_t begin[RUNS_MAX]
    cdef uint64_t stop[RUNS_MAX]
    cdef word_t heads[RUNS_MAX]
    cdef word_t head, least
    for run in range(runs):
        if at[run] < end[run]:
            begin[live] = at[run]
            stop[live] = end[run]
            heads[live] = words[at[run]]
            live += 1
    while live:
        best = 0
        least = heads[0] & mask
        for run in range(1, live):  # which of them comes next is anybody's guess: no branch
            head = heads[run] & mask
            best = run if head < least else best
            least = min(head, least)
        to[0] = heads[best]
        to += 1
        begin[best] += 1
        if begin[best] < stop[best]:
            heads[best] = words[begin[best]]
        else:
            live -= 1
            begin[best] = begin[live]
            stop[best] = stop[live]
            heads[best] = heads[live]
