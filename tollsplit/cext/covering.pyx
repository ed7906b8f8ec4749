"""Which rules cover a flow: those of which its packets have shown all that they ask for."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free

from tollsplit.cext.field cimport FIELD_PORT, FIELD_PROTOCOL, Fields, field_s, row_of
from tollsplit.cext.flows cimport flow_s
from tollsplit.cext.layout cimport *
from tollsplit.cext.network cimport PROTOCOL_SCTP, PROTOCOL_TCP, PROTOCOL_UDP
from tollsplit.cext.suffixes cimport Suffixes

BOUNDS = {"FACTS_MAX": FACTS_MAX}
# In the order of fact_e.
KINDS = ("packet", "sni", "host", "dns", "token")


cdef class Covering:
    """The rules that cover flows rather than packets, numbered by precedence.

    fields      the conditions on single packets, of all rules
    server      u8[classes, words]: bit r: rule r's server condition holds for the class
    subscribed  u8[rows, words], the same of subscriber conditions; or None
    rules       (index of the rule, the facts it needs), by precedence; one that needs a fact of
                the kind "packet" is sticky, others ask each packet for their fields
    kinds       kind of fact → all facts of that kind
    names       facts by name, of the kinds that names tell
    tokens      what a token calls a sponsor → the facts that one of his tokens tells
    outer       facts that are believed of a ClientHello that may hide another
    conditions  of each fact what it is about: (kind, what is listed), or None

    A fact is one of 64 bits of a flow. A rule covers a row when all facts that it needs are known
    of the row's flow, and the row fulfils what remains: its server, subscriber, port and protocol
    always, its other fields where the rule is not sticky.
    """

    def __cinit__(self, Fields fields not None, const uint64_t[:, ::1] server, subscribed,
                  rules, dict kinds not None, Suffixes names not None, dict tokens not None,
                  uint64_t outer, list conditions not None):
        cdef const uint64_t[:, ::1] holders
        cdef Py_ssize_t i
        cdef int s
        if len(rules) > FLOW_RULES_MAX or server.shape[1] != fields.words:
            raise ValueError(f"{len(rules)} rules of flows: out of bounds")
        self.kept = (fields, server, subscribed)
        self.names = names
        self.outer = outer
        self.conditions = conditions
        self.fields = fields.asked
        self.field_count = fields.count
        self.words = fields.words
        if subscribed is not None:
            holders = subscribed
            self.subscribed = &holders[0, 0]
        for name, facts in kinds.items():
            self.kinds[KINDS.index(name)] = facts
        self.said = self.kinds[<int>FACT_SNI] | self.kinds[<int>FACT_HOST]
        self.count = len(rules)
        self.of_class = <uint64_t *>calloc(server.shape[0], sizeof(uint64_t))
        if self.of_class == NULL:
            raise MemoryError
        for s, (rule, needs) in enumerate(rules):
            self.rules[s] = rule
            self.highest = rule + 1
            self.needs[s] = needs
            self.describe(s)
            for i in range(server.shape[0]):
                self.of_class[i] |= (server[i, rule // 64] >> (rule % 64) & 1) << s

        self.sponsor_count = len(tokens)
        self.sponsors = <uint32_t *>calloc(self.sponsor_count + 1, sizeof(uint32_t))
        self.of_sponsor = <uint64_t *>calloc(self.sponsor_count + 1, sizeof(uint64_t))
        if self.sponsors == NULL or self.of_sponsor == NULL:
            raise MemoryError
        for s, (sponsor, facts) in enumerate(sorted(tokens.items())):
            self.sponsors[s] = sponsor
            self.of_sponsor[s] = facts

    def __dealloc__(self):
        free(self.of_class)
        free(self.sponsors)
        free(self.of_sponsor)

    def describe(self, int s):
        """Note what kind of rule one is, by the facts that it needs."""
        cdef uint64_t bit = <uint64_t>1 << s
        if self.needs[s] & self.kinds[<int>FACT_PACKET]:
            self.sticky |= bit
        if self.needs[s] & self.said:
            self.named |= bit
        if self.needs[s] & self.kinds[<int>FACT_HOST]:
            self.hosted |= bit

    cdef uint64_t reachable(self, const packet_s *row) noexcept nogil:
        """The rules that some packet of a row's flow may fulfil, those that ask for names whatever
        its server is; 0: none, or it has no flow."""
        cdef uint64_t found = self.of_class[row.classes & CLASS_MASK] | self.named
        cdef int f
        if not found or row.flags & FLAG_LATER_FRAGMENT:
            return 0
        if row.protocol != PROTOCOL_TCP:  # QUIC, over UDP, says servers' names too
            found &= ~(self.hosted if row.protocol == PROTOCOL_UDP else self.named)
        if self.subscribed != NULL:
            found = self.among(
                &self.subscribed[<size_t>(row.classes >> CLASS_BITS) * self.words], found)
        if not row.tags & TAG_PORTS and row.protocol in (
                PROTOCOL_TCP, PROTOCOL_UDP, PROTOCOL_SCTP):
            return 0
        for f in range(self.field_count):
            if self.fields[f].kind == FIELD_PORT or self.fields[f].kind == FIELD_PROTOCOL:
                found = self.allowed(&self.fields[f], row, found)
        return found

    cdef uint64_t possible(self, const packet_s *row, uint64_t reachable) noexcept nogil:
        """Those of the reachable ones whose server a row's is."""
        return reachable & self.of_class[row.classes & CLASS_MASK]

    cdef uint64_t eligible(self, const packet_s *row, uint64_t possible) noexcept nogil:
        """Those of the possible ones that leave a row itself to be covered."""
        return possible & self.sticky | self.fulfilled(row, possible & ~self.sticky)

    cdef uint64_t shown(
        self, const packet_s *row, uint64_t eligible, uint64_t facts
    ) noexcept nogil:
        """The facts that a row shows by its fields, beside those that are known."""
        cdef uint64_t left = eligible & self.sticky, found = 0
        cdef int s
        if self.kinds[<int>FACT_PACKET] & ~facts == 0:
            return 0
        left = self.fulfilled(row, left)
        while left:
            s = tollsplit_lowest(left)
            left &= left - 1
            found |= self.needs[s] & self.kinds[<int>FACT_PACKET]
        return found & ~facts

    cdef uint64_t recall(
        self, const packet_s *row, const flow_s *flow, uint64_t possible
    ) noexcept nogil:
        """The facts that a row's flow has shown by the packet that is remembered of it."""
        cdef packet_s seen = row[0]
        if flow.direction == DIRECTION_NONE:
            return 0
        seen.flow_label = flow.flow_label
        seen.mpls = flow.mpls
        seen.gtp_teid = flow.gtp_teid
        seen.gre_key = flow.gre_key
        seen.vni = flow.vni
        seen.tags = flow.tags
        seen.vlan = flow.vlan
        seen.vlan_inner = flow.vlan_inner
        seen.ingress = flow.ingress
        seen.dscp = flow.dscp
        seen.qfi = flow.qfi
        seen.direction = flow.direction
        return self.shown(&seen, possible, 0)

    cdef bint asks(self, uint64_t rules, fact_e kind) noexcept nogil:
        """Whether one of some rules needs a fact of a kind."""
        cdef uint64_t left = rules if self.kinds[<int>kind] else 0
        cdef int s
        while left:
            s = tollsplit_lowest(left)
            left &= left - 1
            if self.needs[s] & self.kinds[<int>kind]:
                return True
        return False

    cdef uint64_t of_token(self, uint32_t sponsor) noexcept nogil:
        """The facts that a good token of a sponsor tells."""
        cdef int low = 0, high = self.sponsor_count, middle
        while low < high:
            middle = (low + high) // 2
            if self.sponsors[middle] < sponsor:
                low = middle + 1
            else:
                high = middle
        return self.of_sponsor[low] if (
            low < self.sponsor_count and self.sponsors[low] == sponsor) else 0

    cdef uint64_t covered(self, uint64_t eligible, uint64_t facts) noexcept nogil:
        """Those of some rules of whose needs all are known."""
        cdef uint64_t left = eligible, found = 0
        cdef int s
        while left:
            s = tollsplit_lowest(left)
            left &= left - 1
            found |= <uint64_t>(self.needs[s] & ~facts == 0) << s
        return found

    cdef uint64_t alive(self, uint64_t rules, uint64_t facts, uint8_t told) noexcept nogil:
        """Those of some rules whose facts are known or may yet become so."""
        cdef uint64_t gone = 0, left = rules, found = 0
        cdef int s, kind
        for kind in range(FACT_KINDS):
            if told >> kind & 1:
                gone |= self.kinds[kind]
        gone &= ~facts
        if not gone:
            return rules
        while left:
            s = tollsplit_lowest(left)
            left &= left - 1
            found |= <uint64_t>(self.needs[s] & gone == 0) << s
        return found

    cdef uint64_t facts_of_sni(
        self, const uint8_t *name, uint32_t octets, bint encrypted
    ) noexcept nogil:
        """The facts that the server's name in a ClientHello is.

        encrypted   it has an Encrypted Client Hello: maybe the name is not the one that is meant
        """
        cdef uint64_t facts = self.names.facts(name, octets) & self.kinds[<int>FACT_SNI]
        return facts & self.outer if encrypted else facts

    cdef uint64_t facts_of_host(self, const uint8_t *name, uint32_t octets) noexcept nogil:
        """The facts that the host of a request is."""
        return self.names.facts(name, octets) & self.kinds[<int>FACT_HOST]

    cdef uint64_t hosting(self, uint64_t rules, uint64_t facts) noexcept nogil:
        """Those of some rules that ask for no host but what some facts are."""
        return self.covered(rules, facts | ~self.kinds[<int>FACT_HOST])

    cdef bint is_contradicted(
        self, uint64_t reachable, uint64_t possible, uint64_t said, uint64_t facts
    ) noexcept nogil:
        """Whether a rule asks for a name that was said, and for another server.

        facts   of the flow: what its server's address is known for among them
        """
        cdef uint64_t left = reachable & self.named, bit
        cdef int s
        while left:
            s = tollsplit_lowest(left)
            bit = <uint64_t>1 << s
            left &= left - 1
            if self.needs[s] & said and (
                    not possible & bit or self.needs[s] & self.kinds[<int>FACT_DNS] & ~facts):
                return True
        return False

    cdef uint64_t fulfilled(self, const packet_s *row, uint64_t some) noexcept nogil:
        """Those of some rules whose fields a row fulfils itself."""
        cdef int f
        for f in range(self.field_count):
            if not some:
                return 0
            some = self.allowed(&self.fields[f], row, some)
        return some

    cdef uint64_t allowed(
        self, const field_s *field, const packet_s *row, uint64_t some
    ) noexcept nogil:
        """Those of some whose condition of one field a row fulfils."""
        return self.among(&field.bits[<size_t>row_of(field, row) * self.words], some)

    cdef uint64_t among(self, const uint64_t *rules, uint64_t some) noexcept nogil:
        """Those of some that are in a set of all rules."""
        cdef uint64_t left = some, found = 0
        cdef int s, rule
        while left:
            s = tollsplit_lowest(left)
            left &= left - 1
            rule = self.rules[s]
            found |= (rules[rule >> 6] >> (rule & 63) & 1) << s
        return found

    cdef uint16_t first(self, uint16_t rule, uint64_t covered) noexcept nogil:
        """The first by precedence of a rule of all, which may be none, and some of these."""
        cdef uint16_t other
        if not covered:
            return rule
        other = self.rules[tollsplit_lowest(covered)] + 1
        return other if rule == 0 or other < rule else rule

    cdef bint may_come(self, uint16_t rule, uint64_t others) noexcept nogil:
        """Whether one of some rules would come before a rule."""
        return self.first(rule, others) != rule
