"""DNS (RFC 1035): what was asked for, and the addresses that it was given."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memset

from tollsplit.cext.cursor cimport be16, be32, be64
from tollsplit.cext.name cimport LABEL_OCTETS_MAX, NAME_OCTETS_MAX, lower, name_octets
from tollsplit.cext.stretch cimport *

BOUNDS = {"DNS_RECORDS_MAX": DNS_RECORDS_MAX, "DNS_ADDRESSES_MAX": DNS_ADDRESSES_MAX}

cdef enum:
    HEADER_OCTETS = 12
    POINTERS_MAX = 32            # in one name; each leads further to the front
    CLASS_INTERNET = 1
    KIND_A = 1
    KIND_CNAME = 5
    KIND_AAAA = 28
    KIND_SVCB = 64
    KIND_HTTPS = 65
    HINT_IPV4 = 4                # RFC 9460 §7.3
    HINT_IPV6 = 6
    # Of the second 16 bits (§4.1.1): an answer, its kind of query, cut off, and its error.
    ANSWER = 0x8000
    OPCODE = 0x7800
    TRUNCATED = 0x0200
    RESPONSE_CODE = 0x000F

# A name as text. 256 octets.
cdef struct text_s:
    uint8_t octets[NAME_OCTETS_MAX + 2]
    uint8_t count                # 0: the root, or a name that no host can have


cdef bint read_dns(const uint8_t *octets, uint32_t count, dns_s *dns) noexcept nogil:
    """Read a query with one question, or its answer; False: nothing that says something.

    Of an answer counts what stands in it in order: the name that was asked for, whatever it is
    an alias of, and what was asked for of the last of these. An answer that was cut off, that is an
    error, or that contradicts itself says nothing.
    """
    cdef stretch_s message = stretch(octets, count)
    cdef stretch_s rest = message
    cdef text_s name
    cdef uint32_t id, flags, questions, answers, others, kind, family, i, ttl_s = 0xFFFFFFFF
    memset(dns, 0, sizeof(dns_s))
    if not (take_number(&rest, 2, &id) and take_number(&rest, 2, &flags)
            and take_number(&rest, 2, &questions) and take_number(&rest, 2, &answers)
            and take_number(&rest, 4, &others)):
        return False
    if flags & (OPCODE | TRUNCATED) or questions != 1:
        return False
    if not (take_name(message, &rest, &name) and take_number(&rest, 2, &kind)
            and take_number(&rest, 2, &family)) or not name.count or family != CLASS_INTERNET:
        return False
    dns.id = <uint16_t>id
    dns.kind = <uint16_t>kind
    dns.answer = flags & ANSWER != 0
    dns.name_octets = name.count
    for i in range(name.count):
        dns.name[i] = name.octets[i]
    if not dns.answer:
        return answers == 0
    if flags & RESPONSE_CODE or answers > DNS_RECORDS_MAX:
        return False
    for i in range(answers):
        if not read_record(message, &rest, &name, &ttl_s, dns):
            return False
    return True


cdef bint read_record(
    stretch_s message, stretch_s *rest, text_s *name, uint32_t *ttl_s, dns_s *dns
) noexcept nogil:
    """Take one record of an answer; False: it is none.

    name    whose records count: another one, once this is found to be an alias
    ttl_s   the least on the way there
    """
    cdef text_s owner
    cdef stretch_s value
    cdef uint32_t kind, family, least_s
    if not (take_name(message, rest, &owner) and take_number(rest, 2, &kind)
            and take_number(rest, 2, &family) and take_number(rest, 4, &least_s)
            and take_vector(rest, 2, &value)):
        return False
    if family != CLASS_INTERNET or not is_same(&owner, name):
        return True
    # the first bit is none of a time's (RFC 2181 §8)
    least_s = min(ttl_s[0], 0 if least_s >> 31 else least_s)
    if kind == KIND_CNAME:
        ttl_s[0] = least_s
        return take_value_name(message, rest, value, name)
    if kind != dns.kind:
        return True
    if kind == KIND_A:
        return value.left == 4 and give(dns, 4, value.at, least_s)
    if kind == KIND_AAAA:
        return value.left == 16 and give(dns, 6, value.at, least_s)
    if kind == KIND_HTTPS or kind == KIND_SVCB:
        return read_hints(value, least_s, dns)
    return True


cdef bint take_name(stretch_s message, stretch_s *rest, text_s *name) noexcept nogil:
    """The next name (RFC 1035 §4.1.4), in small letters; False: it is none.

    Each pointer leads to a place before all of those that the name had so far: it ends.
    """
    cdef stretch_s at = rest[0]
    cdef uint32_t size, low, start = message.left - rest.left, count = 0, pointers = 0, i
    cdef bint sound = True
    while True:
        if not take_number(&at, 1, &size):
            return False
        if size >= 0xC0:
            if not take_number(&at, 1, &low):
                return False
            if not pointers:
                rest[0] = at
            pointers += 1
            size = (size & 0x3F) << 8 | low
            if size >= start or pointers > POINTERS_MAX:
                return False
            start = size
            at = stretch(message.at + start, message.left - start)
            continue
        if not size:
            break
        if size > at.left or size > LABEL_OCTETS_MAX or count + size > NAME_OCTETS_MAX:
            return False
        for i in range(size):
            name.octets[count + i] = lower(at.at[i])
            sound &= at.at[i] != c'.'  # inside a label it separates nothing
        count += size + 1
        name.octets[count - 1] = c'.'
        cut(&at, size)
    if not pointers:
        rest[0] = at
    name.count = <uint8_t>(name_octets(name.octets, count) if sound else 0)
    return True


cdef bint take_value_name(
    stretch_s message, stretch_s *rest, stretch_s value, text_s *name
) noexcept nogil:
    """The name that a record's value is, and nothing else; the record was stepped over."""
    cdef stretch_s at = stretch(value.at, value.left + rest.left)
    return take_name(message, &at, name) and at.left == rest.left


cdef inline bint is_same(const text_s *one, const text_s *other) noexcept nogil:
    return one.count == other.count and one.count and memcmp(
        one.octets, other.octets, one.count) == 0


cdef bint give(dns_s *dns, uint32_t version, const uint8_t *octets, uint32_t ttl_s) noexcept nogil:
    """Note an address; beyond the bound, no more of them."""
    cdef given_s *given
    if dns.count == DNS_ADDRESSES_MAX:
        return True
    given = &dns.given[dns.count]
    dns.count += 1
    given.version = version
    given.ttl_s = ttl_s
    given.hi = be64(octets) if version == 6 else 0
    given.lo = be64(octets + 8) if version == 6 else be32(octets)
    return True


cdef bint read_hints(stretch_s value, uint32_t ttl_s, dns_s *dns) noexcept nogil:
    """Addresses that a service's record has with it (RFC 9460 §2.2); its name is whole (§2.2)."""
    cdef uint32_t priority, size, key, last = 0, each
    cdef stretch_s parameter, label
    if not take_number(&value, 2, &priority):
        return False
    while True:
        if not take_vector(&value, 1, &label) or label.left > LABEL_OCTETS_MAX:
            return False
        if not label.left:
            break
    while value.left:
        if not take_number(&value, 2, &key) or not take_vector(&value, 2, &parameter):
            return False
        if key + 1 <= last:  # in order, and each once
            return False
        last = key + 1
        each = 4 if key == HINT_IPV4 else 16 if key == HINT_IPV6 else 0
        if not each:
            continue
        if not parameter.left or parameter.left % each:
            return False
        while priority and parameter.left:
            give(dns, 4 if each == 4 else 6, parameter.at, ttl_s)
            cut(&parameter, each)
    return True


def read(octets):
    """What a message says: a dict by dns_s's names; None: nothing.

    "given" is a list of (version, address as a number, ttl_s).
    """
    cdef dns_s dns
    cdef const uint8_t *at = <const uint8_t *>PyBytes_AS_STRING(octets)
    if not read_dns(at, PyBytes_GET_SIZE(octets), &dns):
        return None
    return {
        "id": dns.id, "kind": dns.kind, "answer": bool(dns.answer),
        "name": dns.name[:dns.name_octets],
        "given": [(dns.given[i].version, int(dns.given[i].hi) << 64 | int(dns.given[i].lo),
                   dns.given[i].ttl_s) for i in range(dns.count)],
    }
