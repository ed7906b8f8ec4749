"""DNS messages: what they ask for, the addresses that they give, and what is refused."""

from __future__ import annotations

import ipaddress
import itertools
import random
from typing import Any

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rdatatype
import dns.rrset
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import examples

from tollsplit.cext.dns import read
from tollsplit.limits import DNS_ADDRESSES_MAX, DNS_RECORDS_MAX

HOST = "video.example"
FRONT = HOST + ".edge.example"


def query(name: str = HOST, kind: str = "A", **options: Any) -> dns.message.QueryMessage:
    return dns.message.make_query(name + ".", kind, id=7, **options)


def answer(*records: str, name: str = HOST, kind: str = "A") -> dns.message.Message:
    """An answer with records as zone files have them, in their order."""
    message = dns.message.make_response(query(name, kind))
    for record in records:
        owner, ttl, family, what, value = record.split(" ", 4)
        message.answer.append(
            dns.rrset.from_text(owner + ".", int(ttl), family, what, value)
        )
    return message


def wire(message: dns.message.Message) -> bytes:
    return message.to_wire(max_size=65_535)


def given_by(octets: bytes) -> list[tuple[str, int]] | None:
    """The addresses that are given, and for how long."""
    found = read(octets)
    if found is None:
        return None
    assert found["answer"]
    kinds = {4: ipaddress.IPv4Address, 6: ipaddress.IPv6Address}
    return [(str(kinds[version](address)), ttl_s) for version, address, ttl_s in found["given"]]


def test_dns_query_asks_for_a_name() -> None:
    for name in ("video.example", "ViDeO.eXaMpLe"):
        found = read(wire(query(name, "AAAA", want_dnssec=True)))
        assert found == {"id": 7, "kind": 28, "answer": False, "name": b"video.example",
                         "given": []}  # fmt: skip


def test_dns_answer_gives_addresses() -> None:
    found = answer(f"{HOST} 300 IN A 192.0.2.1", f"{HOST} 60 IN A 192.0.2.2")
    assert given_by(wire(found)) == [("192.0.2.1", 300), ("192.0.2.2", 60)]
    found = answer(f"{HOST} 5 IN AAAA 2001:db8::1", kind="AAAA")
    assert given_by(wire(found)) == [("2001:db8::1", 5)]
    shown = read(wire(found))
    assert shown is not None
    assert (shown["id"], shown["kind"], shown["name"]) == (7, 28, HOST.encode())


def test_dns_aliases_are_followed_and_the_least_time_counts() -> None:
    found = answer(
        f"{HOST} 300 IN CNAME {FRONT}.", f"{FRONT} 20 IN CNAME node.example.",
        "node.example 60 IN A 192.0.2.1", "node.example 7 IN A 192.0.2.2",
    )  # fmt: skip
    assert given_by(wire(found)) == [("192.0.2.1", 20), ("192.0.2.2", 7)]


def test_dns_addresses_of_others_do_not_count() -> None:
    found = answer(
        "other.example 300 IN A 192.0.2.9", f"{HOST} 300 IN CNAME {FRONT}.",
        f"{HOST} 300 IN A 192.0.2.8", "other.example 300 IN CNAME node.example.",
        "node.example 60 IN A 192.0.2.1", f"{FRONT} 60 IN A 192.0.2.2",
        f"{FRONT} 60 IN TXT \"192.0.2.7\"", f"{FRONT} 60 IN AAAA 2001:db8::7",
        f"{FRONT} 60 IN A 192.0.2.3",
    )  # fmt: skip
    assert given_by(wire(found)) == [("192.0.2.2", 60), ("192.0.2.3", 60)]


def test_dns_services_give_hints() -> None:
    found = answer(
        f"{HOST} 300 IN HTTPS 1 . alpn=h3 ipv4hint=192.0.2.1,192.0.2.2 ipv6hint=2001:db8::1",
        kind="HTTPS",
    )
    assert given_by(wire(found)) == [("192.0.2.1", 300), ("192.0.2.2", 300), ("2001:db8::1", 300)]
    alias = answer(f"{HOST} 300 IN HTTPS 0 {FRONT}.", kind="HTTPS")
    assert given_by(wire(alias)) == []


def test_dns_answer_with_nothing_gives_nothing() -> None:
    assert given_by(wire(answer())) == []
    unknown = answer()
    unknown.set_rcode(3)
    assert read(wire(unknown)) is None
    cut = answer(f"{HOST} 300 IN A 192.0.2.1")
    cut.flags |= dns.flags.TC
    assert read(wire(cut)) is None


def test_dns_times_beyond_all_are_none() -> None:
    octets = wire(answer(f"{HOST} 1 IN A 192.0.2.1"))
    assert given_by(octets.replace(b"\0\0\0\1\0\4", b"\x80\0\0\1\0\4")) == [("192.0.2.1", 0)]


def test_dns_bounds_are_kept() -> None:
    records = [f"{HOST} 60 IN A 192.0.{i // 256}.{i % 256}" for i in range(DNS_RECORDS_MAX + 1)]
    found = given_by(wire(answer(*records[:-1])))
    assert found is not None
    assert [address for address, _ in found] == [f"192.0.0.{i}" for i in range(DNS_ADDRESSES_MAX)]
    assert read(wire(answer(*records))) is None


# --- by the octet ----------------------------------------------------------------------

HEADER = b"\0\7\x80\0\0\1\0\1\0\0\0\0"
NAME = b"\5video\7example\0"
QUESTION = NAME + b"\0\1\0\1"
RECORD = b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4\xc0\0\2\1"


@pytest.mark.parametrize(
    ("description", "octets", "expected"),
    [("as it should be", HEADER + QUESTION + RECORD, [("192.0.2.1", 60)]),
     ("octets behind it", HEADER + QUESTION + RECORD + b"x", [("192.0.2.1", 60)]),
     ("two questions", b"\0\7\x80\0\0\2\0\1\0\0\0\0" + QUESTION * 2 + RECORD, None),
     ("no question", b"\0\7\x80\0\0\0\0\1\0\0\0\0" + RECORD, None),
     ("another kind of query", b"\0\7\xa8\0" + HEADER[4:] + QUESTION + RECORD, None),
     ("a query with an answer", b"\0\7\0\0" + HEADER[4:] + QUESTION + RECORD, None),
     ("another class", HEADER + NAME + b"\0\1\0\3" + RECORD, None),
     ("the root", HEADER + b"\0\0\1\0\1" + RECORD, None),
     ("a name with a space", HEADER + b"\7vid eo!\0\0\1\0\1" + RECORD, None),
     ("a dot in a label", HEADER + b"\x0dvideo.example\0\0\1\0\1" + RECORD, None),
     ("a label of 64", HEADER + b"\x40" + b"a" * 64 + b"\0\0\1\0\1" + RECORD, None),
     ("a name of 253", HEADER + b"\1a" * 126 + b"\1a\0\0\1\0\1" + RECORD, [("192.0.2.1", 60)]),
     ("a name of 255", HEADER + b"\1a" * 127 + b"\1a\0\0\1\0\1" + RECORD, None),
     ("a pointer to itself", HEADER + QUESTION + b"\xc0\x1f" + RECORD[2:], None),
     ("a pointer ahead", HEADER + QUESTION + b"\xc0\x30" + RECORD[2:], None),
     ("a loop of two", HEADER + b"\xc0\x0e\xc0\x0c\0\1\0\1" + RECORD, None),
     ("a label, then a loop", HEADER + b"\1a\xc0\x0c\0\1\0\1" + RECORD, None),
     ("a pointer into the header", HEADER + b"\xc0\1\0\1\0\1" + RECORD, None),
     ("an address of 3", HEADER + QUESTION + RECORD[:11] + b"\3\xc0\0\2", None),
     ("an address of 5", HEADER + QUESTION + RECORD[:11] + b"\5\xc0\0\2\1\1", None),
     ("another owner", HEADER + QUESTION + b"\1a" + RECORD, []),
     ("its class is another", HEADER + QUESTION + RECORD[:5] + b"\3" + RECORD[6:], []),
     ("an alias and more", HEADER + QUESTION + b"\xc0\x0c\0\5\0\1\0\0\0\1\0\4\1a\0\0", None),
     ("an alias beyond its record", HEADER + QUESTION + b"\xc0\x0c\0\5\0\1\0\0\0\1\0\2\1a\0", None),
     ("an alias of no host", HEADER[:7] + b"\2" + HEADER[8:] + QUESTION
      + b"\xc0\x0c\0\5\0\1\0\0\0\1\0\4\2a \0" + b"\2a " + b"\0" + RECORD[2:], []),
     ("hints not in order", HEADER + NAME + b"\0\x41\0\1\xc0\x0c\0\x41\0\1\0\0\0\1\0\x13\0\1\0"
      + b"\0\4\0\4\1\1\1\1" * 2, None),
     ("a hint of 5", HEADER + NAME + b"\0\x41\0\1\xc0\x0c\0\x41\0\1\0\0\0\1\0\x0c\0\1\0"
      + b"\0\4\0\5\1\1\1\1\1", None)],
)  # fmt: skip
def test_dns_message_is(
    description: str, octets: bytes, expected: list[tuple[str, int]] | None
) -> None:
    assert given_by(octets) == expected


def test_dns_message_cut_anywhere_is_none() -> None:
    whole = wire(answer(f"{HOST} 300 IN CNAME {FRONT}.", f"{FRONT} 60 IN A 192.0.2.1"))
    for count in range(len(whole)):
        assert read(whole[:count]) is None
    assert given_by(whole) == [("192.0.2.1", 60)]


@pytest.mark.parametrize(("pointers", "sound"), [(1, True), (32, True), (33, False)])
def test_dns_pointers_of_one_name_have_a_bound(pointers: int, sound: bool) -> None:
    """A text record holds a chain of them; the next record's owner is at its end."""
    at = len(HEADER + QUESTION) + 12
    chain, last = b"", 12
    for _ in range(pointers - 1):
        chain += (0xC000 | last).to_bytes(2, "big")
        last = at + len(chain) - 2
    text = b"\xc0\x0c\0\x10\0\1\0\0\0\x3c" + len(chain).to_bytes(2, "big") + chain
    owner = (0xC000 | last).to_bytes(2, "big")
    octets = HEADER[:7] + b"\2" + HEADER[8:] + QUESTION + text + owner + RECORD[2:]
    assert given_by(octets) == ([("192.0.2.1", 60)] if sound else None)


# --- dnspython -------------------------------------------------------------------------


def judged(octets: bytes) -> tuple[str, set[tuple[str, int]]] | None:
    """What dnspython says that the name asked for was given; None: it refuses."""
    try:
        message = dns.message.from_wire(octets, ignore_trailing=True)
        if not isinstance(message, dns.message.QueryMessage) or not message.flags & dns.flags.QR:
            return None
        chain = message.resolve_chaining()
    except (dns.exception.DNSException, ValueError, NotImplementedError):
        return None
    name = message.question[0].name.to_text(omit_final_dot=True).lower()
    found = set()
    for record in chain.answer or ():
        if record.rdtype in (dns.rdatatype.A, dns.rdatatype.AAAA):
            found.add(str(ipaddress.ip_address(record.address)))
        elif record.rdtype == dns.rdatatype.HTTPS and record.priority:
            for key in (4, 6):
                found |= set(record.params[key].addresses if key in record.params else ())
    return name, found


LABELS = st.sampled_from(["a", "b", "video", "EDGE", "x-1"])
NAMES = st.lists(LABELS, min_size=1, max_size=4).map(".".join)


@st.composite
def answers(draw: st.DrawFn) -> dns.message.Message:
    kind = draw(st.sampled_from(["A", "AAAA", "HTTPS"]))
    names = draw(st.lists(NAMES, min_size=1, max_size=4, unique_by=str.lower))
    records = [f"{a} {draw(st.integers(0, 900))} IN CNAME {b}."
               for a, b in itertools.pairwise(names)]  # fmt: skip
    for number in range(draw(st.integers(0, 4))):
        value = {"A": f"192.0.2.{number}", "AAAA": f"2001:db8::{number}",
                 "HTTPS": f"{number + 1} . ipv4hint=192.0.2.{number}"}[kind]  # fmt: skip
        records.append(f"{names[-1]} {draw(st.integers(0, 900))} IN {kind} {value}")
    return answer(*records, name=names[0], kind=kind)


@settings(max_examples=examples(200), deadline=None)
@given(answers())
def test_dns_answers_are_those_of_dnspython(message: dns.message.Message) -> None:
    octets = wire(message)
    found, theirs = read(octets), judged(octets)
    assert found is not None
    assert theirs is not None
    addresses = {address for address, _ in given_by(octets) or ()}
    assert (found["name"].decode(), addresses) == (theirs[0], theirs[1])


def test_dns_mutants_give_no_more_than_dnspython_finds() -> None:
    rng = random.Random(5)
    whole = [
        wire(answer(f"{HOST} 9 IN CNAME {FRONT}.", f"{FRONT} 60 IN A 192.0.2.1")),
        wire(answer(f"{HOST} 9 IN A 192.0.2.1", f"{HOST} 9 IN A 192.0.2.2")),
        wire(answer(f"{HOST} 9 IN HTTPS 1 . alpn=h3 ipv4hint=192.0.2.1", kind="HTTPS")),
    ]
    both = 0
    for _ in range(examples(4_000)):
        octets = bytearray(rng.choice(whole))
        for _ in range(rng.randint(1, 2)):
            octets[rng.randrange(len(octets))] = rng.choice((rng.randrange(256), 0, 12, 0xC0, 1))
        found, theirs = read(bytes(octets)), judged(bytes(octets))
        if found is None or theirs is None or not found["answer"]:
            continue
        both += 1
        assert found["name"].decode() == theirs[0]
        assert {address for address, _ in given_by(bytes(octets)) or ()} <= theirs[1]
    assert both > examples(500)


@settings(max_examples=examples(400), deadline=None)
@given(st.binary(max_size=120))
def test_dns_noise_is_read_within_its_octets(octets: bytes) -> None:
    for front in (b"", HEADER, HEADER + QUESTION, HEADER + QUESTION + RECORD[:12]):
        read(front + octets)
