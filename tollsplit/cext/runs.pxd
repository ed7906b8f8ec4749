# The tables that columns are read from, and the parts that they are read in.

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from tollsplit.cext.counter cimport first_since, hot_s, last_since, widen
from tollsplit.cext.layout cimport counter_s

# One worker's table. Its slots are numbered from 0 on, the hot ones before the cold ones; above
# that, from the same bit on in all words, stands which table it is.
cdef struct source_s:
    const hot_s *hot
    const uint8_t *marks
    const counter_s *slots
    uint64_t hot_slots
    uint64_t room
    uint64_t epoch_ns
    uint64_t later_ns            # by which its epoch is later than the earliest one
    const uint32_t *numbers      # what its interned subscribers are called; NULL: as they are
    uint64_t first               # where its words begin
    uint64_t count
    uint64_t least               # subscriber among plain addresses
    uint64_t most
    uint32_t rule                # the last one met
    bint met                     # an interned subscriber
    bint moved                   # its sorted words lie where the scratch was

# Some subscribers, whose counters one thread makes rows of. Parts follow each other.
cdef struct part_s:
    uint64_t word                # where its words begin
    uint64_t words
    uint64_t least               # subscriber, by its place
    uint64_t interned            # how many interned ones stand before that
    uint64_t pairs
    uint64_t members
    uint64_t row                 # where its rows, pairs and members begin
    uint64_t pair
    uint64_t member
    uint64_t rows
    uint64_t larges
    uint64_t packets
    uint64_t octets


cdef inline bint hot_at(
    const source_s *sources, int source_bit, uint64_t slot, hot_s *entry
) noexcept nogil:
    """A hot counter, by the earliest epoch; False: it is a cold one, or its times do not fit.

    Which table comes next is anybody's guess, so nothing branches on it.
    """
    cdef const source_s *source = &sources[slot >> source_bit]
    cdef uint64_t first, last
    slot &= (<uint64_t>1 << source_bit) - 1
    if slot >= source.hot_slots:
        return False
    entry[0] = source.hot[slot]
    first = first_since(entry) + source.later_ns
    last = last_since(entry) + source.later_ns
    entry.first_hi = <uint16_t>(first >> 32)
    entry.first_lo = <uint32_t>first
    entry.last_hi = <uint16_t>(last >> 32)
    entry.last_lo = <uint32_t>last
    return (first | last) >> 48 == 0


cdef inline void counter_at(
    const source_s *sources, int source_bit, uint64_t slot, counter_s *counter
) noexcept nogil:
    """A counter in full, hot or cold."""
    cdef const source_s *source = &sources[slot >> source_bit]
    slot &= (<uint64_t>1 << source_bit) - 1
    if slot < source.hot_slots:
        widen(&source.hot[slot], source.epoch_ns, counter)
    else:
        counter[0] = source.slots[slot - source.hot_slots]
