"""Packets that a mirror port shows more than once."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from tollsplit.cext.bounded cimport Bounded
from tollsplit.cext.cursor cimport inside_s
from tollsplit.cext.digest cimport digest_of, draw_digest_key
from tollsplit.cext.dissect cimport look_inside, meter_s
from tollsplit.cext.fragments cimport over
from tollsplit.cext.key cimport key_s
from tollsplit.cext.layout cimport *
from tollsplit.cext.totals cimport Totals

BOUNDS = {"COPIES_MAX": COPIES_MAX}

cdef enum:
    IPV4_OCTETS = 20
    IPV6_OCTETS = 40


cdef class Copies(Bounded):
    """Packets by their content, octet for octet but for what routers change.

    most   of them that are known at a time; another one takes the place of the oldest

    A packet of whose time to live (hop limit) and header checksum alone another one differs is
    its copy. Who sends a packet again has another identification, or another timestamp of TCP's,
    or comes a round trip later. No more than COPIES_MAX copies are left out of each: what a sender
    repeats himself, for the sake of what a copy may differ in, he pays for in the main.
    """

    def __cinit__(self, *_):
        draw_digest_key(&self.digest_key)

    cdef void leave_out(
        self, const frame_s *frames, packet_s *rows, int count, const meter_s *meter,
        const uint64_t *now_ns, Totals totals
    ) noexcept nogil:
        """Put the rows that are copies into their bucket, before it is known whose they are.

        now_ns   of each frame
        """
        cdef inside_s inside
        cdef key_s key
        cdef bint crowded
        cdef int i
        for i in range(count):
            if rows[i].bucket != BUCKET_METERED and rows[i].bucket != BUCKET_CONTROL:
                continue
            look_inside(&frames[i], meter, &inside)
            # What the capture cut may differ behind the cut: a sender would choose where.
            if inside.packet == NULL or inside.packet_captured < inside.packet_octets:
                continue
            self.content_key(&rows[i], &inside, &key)
            crowded = False
            if self.is_copy(&key, now_ns[i], meter.duplicates_ns, &crowded):
                rows[i].bucket = BUCKET_DUPLICATE
                rows[i].tunnel_octets = 0
            elif crowded:
                totals.untracked(&rows[i])

    cdef bint is_copy(
        self, const key_s *key, uint64_t now_ns, uint64_t within_ns, bint *crowded
    ) noexcept nogil:
        """Whether a packet was seen before; if not, it is now.

        crowded   set where another one had to make room before its time
        """
        cdef uint32_t number
        cdef seen_s *seen
        self.expire(now_ns, within_ns)
        number = self.find(key)
        if number:
            seen = <seen_s *>self.at(number)
            seen.copies += 1
            if seen.copies <= COPIES_MAX:
                return True
            self.unlink(&self.order, number)
            seen.copies = 0
        else:
            if self.count >= self.most:
                crowded[0] = True
                number = self.order.oldest
                self.unlink(&self.order, number)
                self.remove(number)
            number = self.add(key)
            if not number:
                crowded[0] = True
                return False
        self.at(number).since_ns = now_ns
        self.append(&self.order, number)
        return False

    cdef void content_key(
        self, const packet_s *row, const inside_s *inside, key_s *key
    ) noexcept nogil:
        """What all copies of a packet share: ends, lengths, and digests of header and rest."""
        cdef uint8_t header[IPV6_OCTETS]
        cdef uint32_t size = IPV4_OCTETS if row.version == 4 else IPV6_OCTETS
        memset(header, 0, sizeof(header))
        memcpy(header, inside.packet, size)
        if row.version == 4:
            header[8] = header[10] = header[11] = 0
        else:
            header[7] = 0
        memset(key, 0, sizeof(key_s))
        key.source_hi = row.source_hi
        key.source_lo = row.source_lo
        key.destination_hi = row.destination_hi
        key.destination_lo = row.destination_lo
        key.who_hi = digest_of(&self.digest_key, header, sizeof(header))
        key.who_lo = digest_of(&self.digest_key, inside.packet + size, inside.packet_octets - size)
        key.tenure = inside.packet_octets
        key.version = row.version

    cdef void expire(self, uint64_t now_ns, uint64_t within_ns) noexcept nogil:
        """Forget packets that are too long ago."""
        cdef uint32_t number = self.order.oldest
        while number and over(self.at(number).since_ns, now_ns, within_ns):
            self.unlink(&self.order, number)
            self.remove(number)
            number = self.order.oldest
