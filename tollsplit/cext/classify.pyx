"""PACKET rows → subscriber, direction and rule."""

import itertools

import numpy as np

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from tollsplit.cext.covering cimport Covering, tollsplit_lowest
from tollsplit.cext.field cimport FIELD_DIRECTION, FIELDS_MAX, Fields, field_s, row_of
from tollsplit.cext.layout cimport *
from tollsplit.cext.lpm cimport LPM_NODE, Trie, lookup4, lookup6, trie_s
from tollsplit.cext.subscribers cimport Subscribers
from tollsplit.cext.table cimport COUNT_MAX

cdef enum:
    POOL_MASK = 4095
    WORDS_MAX = 512              # of rules' bits; two rule numbers mean something else

BOUNDS = {"RULES_MAX": 64 * WORDS_MAX - 2, "POOLS_MAX": POOL_MASK}
# Different sets of rules by server, and by subscriber.
CLASSES_MAX = CLASS_MASK + 1
HOLDERS_MAX = 1 << (32 - CLASS_BITS)

# One number for each classifier: what was found out under one's rules is not true under another's.
_serials = itertools.count(1)


cdef class Classifier:
    """Which subscriber a packet belongs to and which rule it falls under.

    trie4, trie6   Trie: address → class << 12 | pool; pool 0: nobody's
    pools          (kind, ipv4_key, ipv6_key, tenures4, tenures6) from pool 1 on; the tries
                   give the group of tenures of an address, 0: none; None where no tenure is
                   limited in time
    segments       (group_at u4[groups + 1], start u8[…], tenure u4[…]): group g's tenures
                   follow each other from group_at[g] to group_at[g + 1]; tenure 0: nobody
    server         u8[classes, words]: bit r: rule r's server condition holds for the class
    subscribed     (rows u2[classes], bits u8[rows, words], u8[words]): the same of subscriber
                   conditions, whose classes are few, and which rules have none; or None
    fields         the conditions on other fields
    claims         u8[words], rules whose claim a server address can contradict; or None
    where          (address of a WherePredicate, u8[words] rules without one); or None
    tracks         rules ask for what only other packets show
    covering       the rules that cover flows

    Rules are numbered by precedence: the lowest bit that all agree on wins.
    """

    def __cinit__(
        self, Trie trie4, Trie trie6, pools, segments, server, subscribed, Fields fields not None,
        claims, where, bint tracks, Covering covering not None
    ):
        cdef uint64_t[:, ::1] matrix = server
        cdef Py_ssize_t i
        self.kept = [trie4, trie6, pools, segments, server, subscribed, fields, claims, where]
        self.trie4 = &trie4.trie
        self.trie6 = &trie6.trie
        self.words = matrix.shape[1]
        if not 0 < self.words <= WORDS_MAX or fields.words != self.words:
            raise ValueError(f"{self.words} words of rules: out of bounds")
        self.server = &matrix[0, 0]
        self.pools = <pool_s *>calloc(len(pools) + 1, sizeof(pool_s))
        self.verdicts = <uint16_t *>calloc(matrix.shape[0] * 2, sizeof(uint16_t))
        if self.pools == NULL or self.verdicts == NULL:
            raise MemoryError
        for i, (kind, ipv4_key, ipv6_key, tenures4, tenures6) in enumerate(pools, 1):
            self.pools[i].kind = kind
            self.pools[i].ipv4_key = ipv4_key
            self.pools[i].ipv6_key = ipv6_key
            self.pools[i].timed = tenures4 is not None
            self.pools[i].apart = (
                kind != KIND_IPV4 or ipv4_key != 32 or tenures4 is not None)
            # what else makes a subscriber stands in the second line, or in the frame itself
            self.detail = self.detail or kind != KIND_IPV4
            if tenures4 is not None:
                self.pools[i].tenures4 = &(<Trie?>tenures4).trie
                self.pools[i].tenures6 = &(<Trie?>tenures6).trie
        self.set_segments(*segments)
        if subscribed is not None:
            self.set_subscribed(matrix.shape[0], *subscribed)
        self.fields = fields.asked
        self.field_count = fields.count
        for i in range(self.field_count):
            self.detail = self.detail or self.fields[i].kind != FIELD_DIRECTION
        if claims is not None:
            self.claims = self.words_of(claims)
        if where is not None:
            self.where = <where_f><uintptr_t>where[0]
            self.plain_where = self.words_of(where[1])
            self.detail = True
        self.set_verdicts(matrix.shape[0])
        self.tracks = tracks
        self.detail = self.detail or tracks
        self.serial = next(_serials)
        self.covering = covering

    def __dealloc__(self):
        free(self.pools)
        free(self.verdicts)

    @property
    def bounds(self):
        """The largest numbers of (rules, pools, tenures) that it can give."""
        pools, segments, server = self.kept[2:5]
        words = [int(word) for word in np.bitwise_or.reduce(server, axis=0)]
        return (max(self.covering.highest, *(
                    64 * w + word.bit_length() if word else 0 for w, word in enumerate(words))),
                len(pools), int(segments[2].max(initial=0)))

    def set_subscribed(self, classes, rows, bits, anybodys):
        cdef const uint16_t[::1] holders = rows
        cdef const uint64_t[:, ::1] matrix = bits
        if holders.shape[0] != classes or matrix.shape[1] != self.words or (
                max(rows) >= min(matrix.shape[0], HOLDERS_MAX)):
            raise ValueError(f"subscriber conditions of {classes} classes: out of bounds")
        self.holders = &holders[0]
        self.subscribed = &matrix[0, 0]
        self.anybodys = self.words_of(anybodys)
        self.detail = True

    cdef const uint64_t *words_of(self, mask) except NULL:
        cdef const uint64_t[::1] view = mask
        if view.shape[0] != self.words:
            raise ValueError(f"a mask of {view.shape[0]} words, not {self.words}")
        return &view[0]

    def set_segments(self, group_at, start, tenure):
        cdef const uint32_t[::1] groups = group_at
        cdef const uint64_t[::1] starts = start
        cdef const uint32_t[::1] tenures = tenure
        if groups.shape[0]:
            self.group_at = &groups[0]
        if starts.shape[0]:
            self.segment_start = &starts[0]
            self.segment_tenure = &tenures[0]

    cdef void set_verdicts(self, Py_ssize_t classes):
        """Where class and direction alone decide, remember the rule."""
        cdef Py_ssize_t i, j
        cdef int w, f, rule
        cdef uint64_t word, free_of
        cdef const field_s *field
        for i in range(classes):
            for j in range(2):
                self.verdicts[i * 2 + j] = VERDICT_EVALUATE if self.claims else VERDICT_NONE
                for w in range(self.words):
                    word = self.server[i * self.words + w]
                    for f in range(self.field_count):
                        field = &self.fields[f]
                        if field.kind == FIELD_DIRECTION:
                            word &= field.bits[field.rows[j] * self.words + w]
                    if not word:
                        continue
                    rule = w * 64 + tollsplit_lowest(word)
                    free_of = self.plain_where[w] if self.where != NULL else ~<uint64_t>0
                    if self.subscribed != NULL:
                        free_of &= self.anybodys[w]
                    for f in range(self.field_count):
                        field = &self.fields[f]
                        # row 0 holds the rules that leave the field open
                        if field.kind != FIELD_DIRECTION:
                            free_of &= field.bits[w]
                    if free_of >> (rule % 64) & 1:
                        self.verdicts[i * 2 + j] = <uint16_t>(rule + 1)
                    else:
                        self.verdicts[i * 2 + j] = VERDICT_EVALUATE
                    break

    cdef int attribute(
        self, const frame_s *frames, packet_s *rows, int count, Subscribers subscribers
    ) noexcept nogil:
        """Find each metered row's subscriber, and the rule where server and direction decide.

        Returns the rows there are then: a packet between two subscribers becomes two. The
        uplink of one stays in place, the downlink of the other is put behind all; there must
        be room for 2 × count. Where more has to be asked, `rule` is VERDICT_EVALUATE.

        Budget: 6 ns a packet, the tries in the second-level cache. Which end is whose comes
        as it likes: it is computed, not branched on. `count` is at most COUNT_MAX.
        """
        cdef uint32_t ends[2 * COUNT_MAX]
        cdef uint32_t apart[2 * COUNT_MAX]
        cdef int i, total = count, interned = 0
        cdef uint32_t source, destination
        cdef packet_s *row
        self.look_up(rows, count, ends)
        for i in range(count):
            row = &rows[i]
            source = ends[2 * i]
            destination = ends[2 * i + 1]
            if row.bucket != BUCKET_METERED:
                continue
            if ((source & POOL_MASK) != 0) == ((destination & POOL_MASK) != 0):
                if not source & POOL_MASK:
                    row.bucket = BUCKET_UNATTRIBUTED
                    continue
                rows[total] = row[0]
                rows[total].frame = <uint32_t>i
                apart[interned] = total
                interned += self.meet(&rows[total], True, source, destination)
                total += 1
            apart[interned] = i
            interned += self.meet(row, not source & POOL_MASK, source, destination)
        if interned:
            self.intern(frames, rows, apart, interned, subscribers)
        if self.subscribed != NULL:
            self.hold(rows, count, total, ends)
        return total

    cdef void hold(
        self, packet_s *rows, int count, int total, const uint32_t *ends
    ) noexcept nogil:
        """Add each row's subscriber class. A pass of its own: most rules ask for none."""
        cdef int i, origin
        for i in range(total):
            origin = i if i < count else <int>rows[i].frame
            if rows[i].bucket == BUCKET_METERED:
                rows[i].classes |= <uint32_t>self.holders[
                    ends[2 * origin + rows[i].direction] >> POOL_BITS] << CLASS_BITS

    cdef void look_up(self, const packet_s *rows, int count, uint32_t *ends) noexcept nogil:
        """The tries' values for each row's source, at twice its index, and destination."""
        cdef uint64_t words[2 * COUNT_MAX]  # the addresses' upper 64 bits, an IPv4 one's on top
        cdef uint16_t deep4[2 * COUNT_MAX]
        cdef uint16_t deep6[2 * COUNT_MAX]
        cdef int i, count4 = 0, count6 = 0
        cdef const packet_s *row
        for i in range(count):
            row = &rows[i]
            if row.version == 6:
                words[2 * i] = row.source_hi
                words[2 * i + 1] = row.destination_hi
                count6 += root(self.trie6, words[2 * i], 2 * i, &ends[2 * i], &deep6[count6])
                count6 += root(
                    self.trie6, words[2 * i + 1], 2 * i + 1, &ends[2 * i + 1], &deep6[count6])
            else:
                words[2 * i] = row.source_lo << 32
                words[2 * i + 1] = row.destination_lo << 32
                count4 += root(self.trie4, words[2 * i], 2 * i, &ends[2 * i], &deep4[count4])
                count4 += root(
                    self.trie4, words[2 * i + 1], 2 * i + 1, &ends[2 * i + 1], &deep4[count4])
        descend(self.trie4, rows, words, deep4, count4, ends)
        descend(self.trie6, rows, words, deep6, count6, ends)

    cdef bint meet(
        self, packet_s *row, bint downlink, uint32_t source, uint32_t destination
    ) noexcept nogil:
        """Fill in the subscriber's end of a row; True where it has yet to be interned."""
        cdef uint32_t mine = destination if downlink else source
        cdef uint32_t other = source if downlink else destination
        cdef const pool_s *pool = &self.pools[mine & POOL_MASK]
        row.direction = downlink
        row.pool = mine & POOL_MASK
        row.classes = other >> POOL_BITS
        row.rule = self.verdicts[row.classes * 2 + downlink]
        row.subscriber = <uint32_t>(row.destination_lo if downlink else row.source_lo)
        if not row.brief:
            row.server_port = row.source_port if downlink else row.destination_port
            row.subscriber_port = row.destination_port if downlink else row.source_port
        return pool.apart or row.version != 4

    cdef void intern(
        self, const frame_s *frames, packet_s *rows, const uint32_t *apart, int count,
        Subscribers subscribers
    ) noexcept nogil:
        """Give subscribers that are more than an IPv4 address their numbers.

        apart   u4[count], indices of their rows
        """
        cdef subscriber_s who[2 * COUNT_MAX]
        cdef uint32_t numbers[2 * COUNT_MAX]
        cdef packet_s *row
        cdef int i
        for i in range(count):
            row = &rows[apart[i]]
            self.identify(&frames[row.frame] if not row.brief else NULL, row, &who[i])
        subscribers.number_batch(who, count, numbers)
        for i in range(count):
            row = &rows[apart[i]]
            row.subscriber = numbers[i]
            row.interned = 1
            if row.subscriber == 0xFFFFFFFFU:
                row.bucket = BUCKET_FAULT
                row.fault = FAULT_TABLE_FULL

    cdef void identify(
        self, const frame_s *frame, const packet_s *row, subscriber_s *who
    ) noexcept nogil:
        """Who the subscriber of a row is; a frame is needed only where MACs tell."""
        cdef const pool_s *pool = &self.pools[row.pool]
        cdef bint uplink = row.direction == DIRECTION_UPLINK
        cdef uint64_t hi = row.source_hi if uplink else row.destination_hi
        cdef uint64_t lo = row.source_lo if uplink else row.destination_lo
        cdef uint32_t group
        memset(who, 0, sizeof(subscriber_s))
        who.pool = row.pool
        if pool.timed:
            if row.version == 4:
                group = lookup4(pool.tenures4, <uint32_t>lo)
            else:
                group = lookup6(pool.tenures6, hi, lo)
            if group:
                who.tenure = self.tenure_at(group, row.timestamp_ns)
        if pool.kind == KIND_GTP_TEID and row.tags & TAG_GTP_TEID:
            who.kind = KIND_GTP_TEID
            who.lo = row.gtp_teid
        elif pool.kind == KIND_VLAN and row.tags & TAG_VLAN:
            who.kind = KIND_VLAN
            who.hi = row.vlan
            # the inner VID, plus one so that "none" differs from VID 0
            who.lo = <uint64_t>row.vlan_inner + 1 if row.tags & TAG_VLAN_INNER else 0
        elif pool.kind == KIND_PPPOE and row.tags & TAG_PPPOE:
            who.kind = KIND_PPPOE
            who.lo = row.pppoe_session
        elif pool.kind == KIND_MAC and frame.link_type == LINK_ETHERNET:
            who.kind = KIND_MAC
            who.lo = mac(frame.octets + (6 if uplink else 0))
        elif row.version == 4:
            who.kind = KIND_IPV4
            who.lo = lo & (~<uint64_t>0 << (32 - pool.ipv4_key))
        else:
            who.kind = KIND_IPV6
            who.hi = masked(hi, min(pool.ipv6_key, 64))
            who.lo = masked(lo, max(pool.ipv6_key, 64) - 64)

    cdef uint32_t tenure_at(self, uint32_t group, uint64_t timestamp_ns) noexcept nogil:
        """Who of a group holds the address at an instant; 0: nobody."""
        cdef uint32_t low = self.group_at[group], high = self.group_at[group + 1], middle
        while low < high:  # the first segment that starts later
            middle = (low + high) // 2
            if self.segment_start[middle] <= timestamp_ns:
                low = middle + 1
            else:
                high = middle
        return self.segment_tenure[low - 1] if low > self.group_at[group] else 0

    cdef int decide(self, packet_s *rows, int count, uint64_t *where) noexcept nogil:
        """Set the rule of each row that asked: the first, by precedence, whose conditions hold.

        where    room for count × `words`; what expressions say of the rows
        Budget: one AND of `words` a field.
        """
        cdef bint asked = False
        cdef int i
        cdef packet_s *row
        for i in range(count):
            row = &rows[i]
            if row.bucket == BUCKET_METERED and row.rule == VERDICT_EVALUATE:
                if self.where != NULL and not asked:
                    memset(where, 0, <size_t>count * self.words * sizeof(uint64_t))
                    self.where(rows, count, where, self.words)
                    asked = True
                self.evaluate(row, &where[i * self.words])
        return 0

    cdef int subscriber_length(self, const packet_s *row) noexcept nogil:
        """How many bits of a row's own address are one subscriber."""
        cdef const pool_s *pool = &self.pools[row.pool]
        return pool.ipv4_key if row.version == 4 else pool.ipv6_key

    cdef void evaluate(self, packet_s *row, const uint64_t *where) noexcept nogil:
        """First match over all fields."""
        cdef const uint64_t *sets[FIELDS_MAX]
        cdef const uint64_t *server = &self.server[
            <size_t>(row.classes & CLASS_MASK) * self.words]
        cdef int f, w, fields = self.field_count
        cdef uint64_t word, others
        cdef bint claimed = False
        for f in range(fields):
            sets[f] = &self.fields[f].bits[<size_t>row_of(&self.fields[f], row) * self.words]
        if self.subscribed != NULL:
            sets[fields] = &self.subscribed[<size_t>(row.classes >> CLASS_BITS) * self.words]
            fields += 1
        row.rule = VERDICT_NONE
        for w in range(self.words):
            word = server[w]
            others = self.claims[w] if self.claims != NULL else 0
            if not word | others:
                continue
            if self.where != NULL:
                word &= self.plain_where[w] | where[w]
                others &= self.plain_where[w] | where[w]
            for f in range(fields):
                word &= sets[f][w]
                others &= sets[f][w]
            if word:
                row.rule = <uint16_t>(w * 64 + tollsplit_lowest(word) + 1)
                return
            if others:
                claimed = True
        if claimed:
            row.flags |= FLAG_MISMATCH


cdef inline int root(
    const trie_s *trie, uint64_t word, int end, uint32_t *value, uint16_t *deep
) noexcept nogil:
    """Look up an address's first 16 bits; 1, and its number noted, where more are needed."""
    value[0] = trie.root[word >> 48]
    deep[0] = <uint16_t>end
    return value[0] >> 31


cdef inline void descend(
    const trie_s *trie, const packet_s *rows, const uint64_t *words, uint16_t *deep, int count,
    uint32_t *ends
) noexcept nogil:
    """Go on with the ends noted in `deep`, level by level, until each has its value.

    The loads of many packets are so under way at once, and the list shrinks without a branch.
    """
    cdef int i, left, shift = 40
    cdef uint16_t end
    cdef uint64_t word
    while count:
        left = 0
        for i in range(count):
            end = deep[i]
            if shift >= 0:
                word = words[end] >> shift
            elif end & 1:
                word = rows[end >> 1].destination_lo >> (shift + 64)
            else:
                word = rows[end >> 1].source_lo >> (shift + 64)
            ends[end] = trie.nodes[
                <uint64_t>(ends[end] ^ <uint32_t>LPM_NODE) * 256 + (word & 255)]
            deep[left] = end
            left += ends[end] >> 31
        count = left
        shift -= 8


cdef inline uint64_t masked(uint64_t word, int length) noexcept nogil:
    return word & (~<uint64_t>0 << (64 - length)) if length else 0


cdef inline uint64_t mac(const uint8_t *p) noexcept nogil:
    cdef uint64_t value = 0
    cdef int i
    for i in range(6):
        value = value << 8 | p[i]
    return value
