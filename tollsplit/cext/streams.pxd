cimport cython
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t

from tollsplit.cext.cursor cimport inside_s
from tollsplit.cext.digest cimport digest_key_s
from tollsplit.cext.dissect cimport meter_s
from tollsplit.cext.key cimport key_s
from tollsplit.cext.lapsing cimport Lapsing, lapsing_s
from tollsplit.cext.layout cimport frame_s, packet_s
from tollsplit.cext.subscribers cimport Subscribers
from tollsplit.cext.totals cimport Totals

cdef extern from *:
    """
    #define TOLLSPLIT_SENT_OF_ONE_MAX 1024
    #define TOLLSPLIT_EXEMPT_TIMES_MAX 4
    #define TOLLSPLIT_EXEMPT_OPTIONS_MAX 12
    #define TOLLSPLIT_EXEMPT_PAYLOAD_MIN 512
    """
    # tollsplit.limits gives the reasons; tests/test_layout.py holds them equal.
    uint32_t SENT_OF_ONE_MAX "TOLLSPLIT_SENT_OF_ONE_MAX"
    uint8_t EXEMPT_TIMES_MAX "TOLLSPLIT_EXEMPT_TIMES_MAX"
    uint32_t EXEMPT_OPTIONS_MAX "TOLLSPLIT_EXEMPT_OPTIONS_MAX"
    uint32_t EXEMPT_PAYLOAD_MIN "TOLLSPLIT_EXEMPT_PAYLOAD_MIN"

# A stretch of a stream that one segment brought. 16 octets.
cdef struct sent_s:
    uint64_t digest
    uint32_t sequence
    uint16_t octets
    uint8_t exempted             # how many retransmissions of it were
    uint8_t whole                # it was captured as a whole: the digest is its

# One direction of a TCP connection. 128 octets.
cdef struct stream_s:
    lapsing_s lapsing
    sent_s *sent                 # in order of their sequence, none touches another's octets
    uint32_t count
    uint32_t room
    uint32_t top                 # the sequence behind the last octet that was sent
    uint32_t bottom              # what lies before it is not known any more …
    uint32_t forgetful           # … if this is set

# What a segment brings.
cdef enum brings_e:
    BRINGS_NEW                   # at least in part, or what can't be compared
    BRINGS_THE_SAME              # what was sent before, and nothing else
    BRINGS_OTHER                 # other content for what was sent before
    BRINGS_UNTRACKED             # there was no room to know

# How far a segment is compared.
cdef struct comparison_s:
    const inside_s *inside
    uint32_t sequence            # of its first octet
    uint32_t piece               # octets of the segments that it was coalesced from
    uint32_t at                  # in its payload: what lies before is done
    uint32_t index               # of the stream's sent, the first that ends behind
    bint same                    # all was sent before, with the same content
    bint other                   # some was, with other content
    bint kept                    # what is new found room


@cython.final
cdef class Streams(Lapsing):
    cdef digest_key_s digest_key
    cdef uint64_t sent_room      # of all streams together
    cdef uint64_t sent_made      # the most that it ever was
    cdef uint64_t sent_most

    cdef void compare(
        self, const frame_s *frames, packet_s *rows, int count, int total, const meter_s *meter,
        const uint64_t *now_ns, Subscribers subscribers, Totals totals
    ) noexcept nogil
    cdef brings_e meet(
        self, const key_s *key, const packet_s *row, const inside_s *inside, uint32_t piece,
        uint64_t now_ns
    ) noexcept nogil
    cdef brings_e take(self, stream_s *stream, comparison_s *c, bint lean) noexcept nogil
    cdef void compare_with(self, const sent_s *sent, comparison_s *c) noexcept nogil
    cdef void keep(self, stream_s *stream, comparison_s *c, uint32_t end) noexcept nogil
    cdef bint make_room(self, stream_s *stream, comparison_s *c) noexcept nogil
