"""The ClientHello reader: names, tokens, records, and what it refuses."""

from __future__ import annotations

import random
import ssl
from dataclasses import dataclass
from typing import Any

import pytest
from hellos import (
    ENCRYPTED,
    NAME,
    TOKEN,
    Server,
    body_of,
    first_flight,
    hello,
    message,
    named,
    names,
    records,
    vector,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import examples

from tollsplit.cext.hello import read
from tollsplit.limits import HELLO_OCTETS_MAX

HOST = b"video.example"
WHOLE = hello((10, b"\0\x02\0\x1d"), named(HOST), (TOKEN, b"t" * 36), (0x2A2A, b""))


@dataclass(frozen=True)
class Case:
    """A handshake message, and what is found in it; no name and `told` "none" go together."""

    description: str
    octets: bytes
    name: bytes | None = None
    told: str = "found"
    token: bytes | None = None
    encrypted: bool = False


CASES = [
    Case("a name", hello(named(HOST)), HOST),
    Case("among other extensions", WHOLE, HOST, token=b"t" * 36),
    Case("upper case stays", hello(named(b"ViDeO.Example")), b"ViDeO.Example"),
    Case("the root's dot goes", hello(named(b"video.example.")), HOST),
    Case("a single label", hello(named(b"localhost")), b"localhost"),
    Case("63 octets", hello(named(b"a" * 63 + b".example")), b"a" * 63 + b".example"),
    Case("64 octets", hello(named(b"a" * 64 + b".example"))),
    Case("253 octets", hello(named(b"a." * 126 + b"a")), b"a." * 126 + b"a"),
    Case("254 octets", hello(named(b"a." * 126 + b"ab"))),
    Case("no octets", hello(named(b""))),
    Case("only the root", hello(named(b"."))),
    Case("two dots", hello(named(b"video..example"))),
    Case("a dot first", hello(named(b".example"))),
    Case("NUL inside", hello(named(b"video.example\0.evil.example"))),
    Case("a space", hello(named(b"video. example"))),
    Case("above ASCII", hello(named("vidéo.example".encode()))),
    Case("an A-label", hello(named(b"xn--vido-9oa.example")), b"xn--vido-9oa.example"),
    Case("an underscore", hello(named(b"_sip.video.example")), b"_sip.video.example"),
    Case("two names", hello((NAME, names(HOST, b"other.example")))),
    Case("no name in the list", hello((NAME, names()))),
    Case("an empty extension", hello((NAME, b""))),
    Case("another kind of name", hello((NAME, names(HOST, kind=1)))),
    Case("octets behind the list", hello((NAME, names(HOST) + b"\0"))),
    Case("a list that is short", hello((NAME, names(HOST)[:-1]))),
    Case("a name beyond its list", hello((NAME, vector(2, b"\0\0\x20video")))),
    Case("two name extensions", hello(named(HOST), named(HOST)), told="none"),
    Case("a bad one first", hello((NAME, b""), named(HOST)), told="none"),
    Case("encrypted", hello(named(HOST), (ENCRYPTED, b"\0" * 9)), HOST, encrypted=True),
    Case("encrypted twice", hello((ENCRYPTED, b""), (ENCRYPTED, b"")), told="none"),
    Case("an empty token", hello((TOKEN, b"")), token=b""),
    Case("two tokens", hello((TOKEN, b""), (TOKEN, b"x")), told="none"),
    Case("no extensions at all", message(body_of(tail=b""))),
    Case("no session", message(body_of(named(HOST), session=b"")), HOST),
    Case("a session too long", message(body_of(named(HOST), session=bytes(33))), told="none"),
    Case("no suites", message(body_of(named(HOST), suites=b"")), told="none"),
    Case("half a suite", message(body_of(named(HOST), suites=b"\0\1\2")), told="none"),
    Case("no compression", message(body_of(named(HOST), compressions=b"")), told="none"),
    Case("TLS 1.0", message(body_of(named(HOST), version=b"\x03\x01")), HOST),
    Case("DTLS", message(body_of(named(HOST), version=b"\xfe\xfd")), told="none"),
    Case("extensions that are short", message(body_of(tail=b"\0\x05\0\0")), told="none"),
    Case("octets behind them", message(body_of(tail=b"\0\0\0")), told="none"),
    Case("half an extension", message(body_of(tail=vector(2, b"\0\0\0"))), told="none"),
    Case("an extension beyond", message(body_of(tail=vector(2, b"\0\0\0\1"))), told="none"),
    Case("a ServerHello", message(body_of(named(HOST)), kind=2), told="none"),
    Case("a message behind it", WHOLE + message(b"", kind=20), told="none"),
    Case("as long as can be", hello(named(HOST), (21, bytes(HELLO_OCTETS_MAX - 107))), HOST),
    Case("longer", hello(named(HOST), (21, bytes(HELLO_OCTETS_MAX - 106))), told="none"),
    Case("no message", b"\1\0\0\0", told="none"),
]  # fmt: skip


def expected(case: Case) -> dict[str, Any]:
    return {"told": case.told, "name": case.name, "token": case.token,
            "encrypted": case.encrypted}  # fmt: skip


def without_needed(found: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in found.items() if key != "needed"}


@pytest.mark.parametrize("case", CASES, ids=[case.description for case in CASES])
def test_hello_in_a_message_shows(case: Case) -> None:
    found = read(case.octets, bare=True)
    if case.told == "none":
        assert found["told"] == "none"
    else:
        assert without_needed(found) == expected(case)


@pytest.mark.parametrize(
    "case", [c for c in CASES if len(c.octets) <= 2000], ids=lambda case: case.description
)
@pytest.mark.parametrize("sizes", [(), (1,), (4,), (5, 1, 60), (1,) * 99])
def test_hello_in_records_shows_the_same(case: Case, sizes: tuple[int, ...]) -> None:
    assert read(records(case.octets, sizes)) | {"needed": 0} == read(case.octets, bare=True)


def test_hello_at_its_bound_is_its_bound() -> None:
    octets = {case.description: case.octets for case in CASES}
    assert len(octets["as long as can be"]) == HELLO_OCTETS_MAX
    in_two = records(octets["as long as can be"], (9000,))
    assert read(in_two)["name"] == HOST
    assert read(records(octets["longer"], (9000,)))["told"] == "none"


@pytest.mark.parametrize("bare", [True, False])
@pytest.mark.parametrize("sizes", [(), (3, 40, 1, 90), (1,) * 200])
def test_hello_cut_anywhere_says_what_it_needs(bare: bool, sizes: tuple[int, ...]) -> None:
    whole = WHOLE if bare else records(WHOLE, sizes)
    for count in range(len(whole)):
        found = read(whole[:count], bare)
        assert found["told"] == "more"
        assert found["name"] is None
        assert count < found["needed"] <= len(whole)
    assert read(whole, bare)["name"] == HOST


def test_hello_is_looked_for_a_few_times_only() -> None:
    """Who sends an octet a record, or a segment, does not make us read it all each time."""
    whole = records(WHOLE, (1,) * len(WHOLE))
    looks, count = 0, 0
    while (found := read(whole[:count]))["told"] == "more":
        looks, count = looks + 1, found["needed"]
    assert found["name"] == HOST
    assert looks < 40


@pytest.mark.parametrize(
    ("description", "octets"),
    [("an alert first", records(b"\1\0", kind=21) + records(WHOLE)),
     ("an alert inside", records(WHOLE[:50]) + records(b"\1\0", kind=21) + records(WHOLE[50:])),
     ("an empty record first", b"\x16\3\1\0\0" + records(WHOLE)),
     ("an empty record inside", records(WHOLE[:50]) + b"\x16\3\1\0\0" + records(WHOLE[50:])),
     ("a record too long", b"\x16\3\1\x40\x01" + WHOLE),
     ("a version of none", b"\x16\2\1" + records(WHOLE)[3:]),
     ("SSL 2", b"\x80\x2e\x01\x03\x01\0\x15\0\0\0\x10" + bytes(37)),
     ("HTTP", b"GET / HTTP/1.1\r\n"),
     ("a hello and more in its last record", records(WHOLE + b"\1", (50,)))],
)  # fmt: skip
def test_hello_is_none_of(description: str, octets: bytes) -> None:
    assert read(octets)["told"] == "none"


def test_hello_is_found_whatever_follows_in_later_records() -> None:
    assert read(records(WHOLE) + b"\x14\3\3\0\1\1" + b"early")["name"] == HOST


@pytest.mark.parametrize("newest", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_hello_of_openssl_shows_its_name(newest: ssl.TLSVersion) -> None:
    octets = first_flight("Video.Example", newest)
    assert read(octets)["name"] == b"Video.Example"
    assert read(first_flight("192.0.2.1", newest))["name"] is None


def test_hello_has_the_name_that_a_server_takes() -> None:
    """OpenSSL's server reads mutants; where it and we find a name, it is the same one."""
    server = Server()
    rng = random.Random(7)
    whole = [records(WHOLE), records(WHOLE, (40, 3)), first_flight("video.example")]
    both = 0
    for _ in range(examples(6_000)):
        octets = bytearray(rng.choice(whole))
        for _ in range(rng.randint(1, 3)):
            at = rng.choice((rng.randrange(len(octets)), rng.randrange(80, 160)))
            octets[at] = rng.choice((rng.randrange(256), octets[at] ^ 1, 0, octets[at - 1]))
        found = read(bytes(octets))
        if found["name"] is None or not server.reads(bytes(octets)):
            continue
        both += 1
        assert (server.name or "").rstrip(".") == found["name"].decode()
    assert both > examples(2_000)


@settings(max_examples=examples(400), deadline=None)
@given(st.data())
def test_hello_mutants_show_only_what_lies_in_them(data: st.DataObject) -> None:
    octets = bytearray(records(WHOLE, data.draw(st.sampled_from([(), (1,), (70, 2, 9)]))))
    for _ in range(data.draw(st.integers(0, 4))):
        octets[data.draw(st.integers(0, len(octets) - 1))] = data.draw(st.integers(0, 255))
    octets = octets[: data.draw(st.integers(0, len(octets)))]
    for bare in (False, True):
        found = read(bytes(octets), bare)
        assert found["told"] in ("more", "found", "none")
        assert found["told"] != "more" or found["needed"] > len(octets)
        if found["name"] is not None:
            assert not set(found["name"].lower()) - set(b"abcdefghijklmnopqrstuvwxyz0123456789-_.")
