# A keyed digest of octets, in place of the octets themselves: a polynomial of their words over
# the integers modulo 2^61 − 1, taken at a point that nobody knows.
#
# Two contents of n octets that differ have the same digest at no more than n / 7 of the 2^61
# points, whoever chose them, as long as he does not know the point: 1 in 2^53 for a packet of
# 1,500 octets, 1 in 2^47 for the longest IPv4 packet.

from libc.stdint cimport uint8_t, uint32_t, uint64_t

cdef extern from *:
    """
    #include <stdint.h>
    #include <string.h>

    #define TOLLSPLIT_PRIME ((UINT64_C(1) << 61) - 1)
    #define TOLLSPLIT_WORD ((UINT64_C(1) << 56) - 1)  /* seven octets: below the prime */

    typedef struct { uint64_t power[8]; } digest_key_s;  /* of the point, the first one first */

    /* Below 2^123 → below 2^61 + 4, the same modulo the prime. */
    static inline uint64_t tollsplit_folded(unsigned __int128 value) {
        uint64_t sum = ((uint64_t)value & TOLLSPLIT_PRIME) + (uint64_t)(value >> 61);
        return (sum & TOLLSPLIT_PRIME) + (sum >> 61);
    }

    static inline uint64_t tollsplit_word(const uint8_t *octets) {
        uint64_t word;
        memcpy(&word, octets, 8);
        return word & TOLLSPLIT_WORD;
    }

    static inline void set_digest_key(digest_key_s *key, uint64_t point) {
        key->power[0] = point;
        for (int i = 1; i < 8; i++)
            key->power[i] = tollsplit_folded((unsigned __int128)key->power[i - 1] * point);
    }

    static inline uint64_t digest_of(
        const digest_key_s *key, const uint8_t *octets, uint32_t count
    ) {
        uint64_t sum = 0, word;
        unsigned __int128 next;
        for (; count > 56; octets += 56, count -= 56) {  /* reads one octet more than it takes */
            next = (unsigned __int128)sum * key->power[7] + tollsplit_word(octets + 49);
            for (int i = 0; i < 7; i++)
                next += (unsigned __int128)tollsplit_word(octets + 7 * i) * key->power[6 - i];
            sum = tollsplit_folded(next);
        }
        for (; count > 0; octets += 7) {
            uint32_t size = count < 7 ? count : 7;
            word = 0;
            memcpy(&word, octets, size);
            sum = tollsplit_folded((unsigned __int128)sum * key->power[0] + word);
            count -= size;
        }
        return sum >= TOLLSPLIT_PRIME ? sum - TOLLSPLIT_PRIME : sum;
    }
    """
    ctypedef struct digest_key_s:
        pass
    void set_digest_key(digest_key_s *key, uint64_t point) nogil
    # Below 2^61; contents of different lengths may share one.
    uint64_t digest_of(const digest_key_s *key, const uint8_t *octets, uint32_t count) nogil


cdef inline int draw_digest_key(digest_key_s *key) except -1:
    """A key that nobody knows."""
    from os import urandom

    set_digest_key(key, int.from_bytes(urandom(8), "little") % (2**61 - 3) + 2)
    return 0
