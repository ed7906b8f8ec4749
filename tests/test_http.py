"""HTTP/1's framing: where messages begin and end, whom they are for, and what is refused."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import examples

from tollsplit.cext.http import Direction
from tollsplit.limits import HTTP_HEAD_OCTETS_MAX

Told = list[tuple[str, int, Any]]
HOST = b"video.example"


def lines(*parts: bytes) -> bytes:
    return b"".join(part + b"\r\n" for part in parts) + b"\r\n"


def get(*fields: bytes, target: bytes = b"/", version: bytes = b"1.1", method: bytes = b"GET",
        host: bytes | None = HOST) -> bytes:  # fmt: skip
    first = method + b" " + target + b" HTTP/" + version
    return lines(first, *([] if host is None else [b"Host: " + host]), *fields)


def told(octets: bytes, answers: Sequence[str] | None = None, piece: int = 1 << 20) -> Told:
    """What is told of a direction's octets, which come in pieces."""
    direction = Direction(answers)
    found: Told = []
    for start in range(0, len(octets), piece):
        part = direction.feed(octets[start : start + piece])
        found += [(event, start + taken, shown) for event, taken, shown in part]
        if found and found[-1][0] == "broken":
            break
    return found


def hosts(found: Told) -> list[bytes | None]:
    """Whom each request is for; a last None: it is broken."""
    names = [shown[0] for event, _, shown in found if event == "head"]
    return [*names, None] if found and found[-1][0] == "broken" else names


@dataclass(frozen=True)
class Requests:
    """A client's octets, and whom each request is for; None: broken there."""

    description: str
    octets: bytes
    hosts: Sequence[bytes | None] = (HOST,)


LONG = b"/" + b"a" * 400
REQUESTS = [
    Requests("one", get()),
    Requests("two, pipelined", get() + get(host=b"other.example"), (HOST, b"other.example")),
    Requests("a port", get(host=HOST + b":8080")),
    Requests("blanks around the value", get(host=b" \t" + HOST + b"\t ")),
    Requests("the root's dot", get(host=HOST + b".:80")),
    Requests("no Host", get(host=None), (b"",)),
    Requests("an empty Host", get(host=b""), (b"",)),
    Requests("an address", get(host=b"203.0.113.9"), (b"203.0.113.9",)),
    Requests("an address of IPv6", get(host=b"[2001:db8::1]:80"), (b"",)),
    Requests("nonsense in brackets", get(host=b"[video.example]"), (None,)),
    Requests("brackets that stay open", get(host=b"[2001:db8::1"), (None,)),
    Requests("brackets and more", get(host=b"[2001:db8::1]a"), (None,)),
    Requests("two Hosts", get(b"Host: other.example"), (None,)),
    Requests("two Hosts that agree", get(b"HOST: " + HOST), (None,)),
    Requests("a list", get(host=HOST + b", other.example"), (None,)),
    Requests("a user", get(host=b"video.example@other.example"), (None,)),
    Requests("a path", get(host=HOST + b"/x"), (None,)),
    Requests("a port that is none", get(host=HOST + b":8o"), (None,)),
    Requests("an empty port", get(host=HOST + b":")),
    Requests("NUL in the name", get(host=HOST + b"\0.example"), (None,)),
    Requests("a name too long", get(host=b"a." * 126 + b"ab"), (None,)),
    Requests("a name as long as can be", get(host=b"a." * 126 + b"a:65535"), (b"a." * 126 + b"a",)),
    Requests("a Host beyond what is kept", get(host=HOST + b" " * 400), (None,)),
    Requests("a cookie of 5 KB", get(b"Cookie: " + b"x" * 5000) + get(), (HOST, HOST)),
    Requests("a long target", get(target=LONG)),
    Requests("a long target, HTTP/1.2", get(target=LONG, version=b"1.2"), (None,)),
    Requests("the whole target", get(target=b"http://video.example/x")),
    Requests("upper case", get(target=b"HTTP://VIDEO.EXAMPLE"), (b"VIDEO.EXAMPLE",)),
    Requests("the target alone", get(target=b"http://video.example:80/", host=None), (b"",)),
    Requests("the target alone, HTTP/1.0", get(target=b"http://video.example:80/", host=None,
                                               version=b"1.0")),
    Requests("a long whole target", get(target=b"https://video.example" + LONG)),
    Requests("a target that contradicts", get(target=b"http://other.example/"), (None,)),
    Requests("an empty Host contradicts", get(target=b"http://video.example/", host=b""), (None,)),
    Requests("an address contradicts", get(target=b"http://[::1]/"), (None,)),
    Requests("a Host in brackets contradicts", get(target=b"http://video.example/", host=b"[::1]"),
             (None,)),
    Requests("a user in the target", get(target=b"http://video.example@other.example/"), (None,)),
    Requests("no authority", get(target=b"http:///x"), (None,)),
    Requests("an authority beyond what is kept", get(target=b"http://" + b"a" * 400), (None,)),
    Requests("another scheme", get(target=b"ftp://video.example/"), (None,)),
    Requests("a relative target", get(target=b"x"), (None,)),
    Requests("everything", get(method=b"OPTIONS", target=b"*")),
    Requests("everything, asked for", get(target=b"*"), (None,)),
    Requests("a tunnel", get(method=b"CONNECT", target=b"video.example:443")),
    Requests("a tunnel elsewhere", get(method=b"CONNECT", target=b"other.example:443"), (None,)),
    Requests("a tunnel with a length", get(b"Content-Length: 0", method=b"CONNECT",
                                           target=b"video.example:443"), (None,)),
    Requests("a body", get(b"Content-Length: 18") + b"GET / HTTP/1.1\r\n\r\n" + get(),
             (HOST, HOST)),
    Requests("no body", get(b"Content-Length: 0") + get(), (HOST, HOST)),
    Requests("chunks", get(b"Transfer-Encoding: Chunked")
             + b"5\r\nGET /\r\n00a;x=y\r\n0123456789\r\n3  \r\nabc\r\n0\r\nTrailer: x\r\n\r\n"
             + get(), (HOST, HOST)),
    Requests("a last chunk without an end", get(b"Transfer-Encoding: chunked") + b"0\r\n" + get(),
             (HOST, None)),
    Requests("a chunk too long", get(b"Transfer-Encoding: chunked") + b"1\r\nab\r\n", (HOST, None)),
    Requests("a chunk's end without CR", get(b"Transfer-Encoding: chunked") + b"1\r\na\n",
             (HOST, None)),
    Requests("a chunk's line without CR", get(b"Transfer-Encoding: chunked") + b"1\na\r\n",
             (HOST, None)),
    Requests("no size", get(b"Transfer-Encoding: chunked") + b";x\r\n", (HOST, None)),
    Requests("an empty size", get(b"Transfer-Encoding: chunked") + b"\r\n", (HOST, None)),
    Requests("a signed size", get(b"Transfer-Encoding: chunked") + b"+1\r\n", (HOST, None)),
    Requests("a size with 0x", get(b"Transfer-Encoding: chunked") + b"0x1\r\n", (HOST, None)),
    Requests("a size beyond", get(b"Transfer-Encoding: chunked") + b"1" * 16 + b"\r\n",
             (HOST, None)),
    Requests("a trailing Host", get(b"Transfer-Encoding: chunked") + b"0\r\nHost: a\r\n\r\n",
             (HOST, None)),
    Requests("a trailing length", get(b"Transfer-Encoding: chunked")
             + b"0\r\nContent-Length: 1\r\n\r\n", (HOST, None)),
    Requests("two lengths", get(b"Content-Length: 1", b"Content-Length: 1"), (None,)),
    Requests("a list of lengths", get(b"Content-Length: 1, 1"), (None,)),
    Requests("an empty length", get(b"Content-Length:"), (None,)),
    Requests("a signed length", get(b"Content-Length: +1"), (None,)),
    Requests("a length of 19 digits", get(b"Content-Length: " + b"1" * 19), (None,)),
    Requests("length and chunks", get(b"Content-Length: 0", b"Transfer-Encoding: chunked"),
             (None,)),
    Requests("chunks and length", get(b"Transfer-Encoding: chunked", b"Content-Length: 5"),
             (None,)),
    Requests("chunks in HTTP/1.0", get(b"Transfer-Encoding: chunked", version=b"1.0"), (None,)),
    Requests("chunks twice", get(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"),
             (None,)),
    Requests("another coding", get(b"Transfer-Encoding: gzip, chunked"), (None,)),
    Requests("a coding that looks alike", get(b"Transfer-Encoding: xchunked"), (None,)),
    Requests("a space before the colon", get(b"Content-Length : 5"), (None,)),
    Requests("a folded line", get(b"X: a", b" Host: other.example"), (None,)),
    Requests("folded at once", lines(b"GET / HTTP/1.1", b" Host: x"), (None,)),
    Requests("a line without a colon", get(b"Content-Length"), (None,)),
    Requests("a field without a name", get(b": x"), (None,)),
    Requests("a name beyond what is kept", get(b"x" * 400 + b": y"), (None,)),
    Requests("a control character", get(b"X: \x0by"), (None,)),
    Requests("a tab in the first line", get(target=b"/\tx"), (None,)),
    Requests("no CR", get().replace(b"\r\n", b"\n"), (None,)),
    Requests("no CR at the end", get()[:-2] + b"\n", (None,)),
    Requests("no LF", get().replace(b"\r\n", b"\rX"), (None,)),
    Requests("empty lines before it", b"\r\n\r\n" + get() + b"\r\n" + get(), (HOST, HOST)),
    Requests("half an empty line", b"\r" + get(), (None,)),
    Requests("HTTP/1.0", get(version=b"1.0") + get(), (HOST, HOST)),
    Requests("HTTP/0.9", b"GET /\r\n" + get(), (None,)),
    Requests("HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", (None,)),
    Requests("HTTP/1.10", get(version=b"1.10"), (None,)),
    Requests("three spaces", get(target=b"/a b"), (None,)),
    Requests("two spaces", b"GET  / HTTP/1.1\r\n\r\n", (None,)),
    Requests("no target", b"GET  HTTP/1.1\r\n\r\n", (None,)),
    Requests("no method", b" / HTTP/1.1\r\n\r\n", (None,)),
    Requests("a method of none", b"G(T / HTTP/1.1\r\n\r\n", (None,)),
    Requests("an empty head", b"\r\n\r\n", ()),
    Requests("TLS", b"\x16\x03\x01\0\xff", (None,)),
    Requests("a head too long", get(*[b"X: " + b"x" * 1000] * 66), (None,)),
]  # fmt: skip


@pytest.mark.parametrize("case", REQUESTS, ids=lambda case: case.description)
def test_http_requests_are_for(case: Requests) -> None:
    found = told(case.octets)
    assert hosts(found) == list(case.hosts)
    if None not in case.hosts:
        assert sum(event == "ends" for event, _, _ in found) == len(case.hosts)


@pytest.mark.parametrize("case", REQUESTS, ids=lambda case: case.description)
@pytest.mark.parametrize("piece", [1, 2, 7])
def test_http_requests_in_pieces_are_the_same(case: Requests, piece: int) -> None:
    if len(case.octets) < 10_000:
        assert told(case.octets, piece=piece) == told(case.octets)


def test_http_request_has_its_place() -> None:
    first = get(b"Content-Length: 3")
    second = get(b"Sponsored-Data-Token:  abc ", host=b"b.example")
    whole = b"\r\n" + first + b"abc" + second
    end = 2 + len(first)
    assert told(whole) == [
        ("begins", 3, None), ("head", end, (HOST, b"")), ("ends", end + 3, None),
        ("begins", end + 4, None), ("head", len(whole), (b"b.example", b"abc")),
        ("ends", len(whole), None),
    ]  # fmt: skip


def test_http_token_is_kept_as_far_as_one_goes() -> None:
    field = b"sponsored-data-token: "
    assert told(get(field + b"t" * 48))[1][2] == (HOST, b"t" * 48)
    assert told(get(field + b"t" * 900))[1][2] == (HOST, b"t" * 64)
    assert told(get(field))[1][2] == (HOST, b"")
    assert hosts(told(get(field + b"a", field + b"a"))) == [None]
    assert told(get(field + b"a") + get())[-2][2] == (HOST, b"")


def test_http_head_has_a_bound() -> None:
    fields = [b"X: " + b"x" * 997] * 65
    rest = HTTP_HEAD_OCTETS_MAX - sum(len(line) for line in get(*fields).split(b"\r\n")) - 3
    assert hosts(told(get(*fields, b"X: " + b"x" * rest))) == [HOST]
    assert hosts(told(get(*fields, b"X: " + b"x" * (rest + 1)))) == [None]


# --- responses -------------------------------------------------------------------------


def response(status: int, *fields: bytes, version: bytes = b"1.1") -> bytes:
    return lines(b"HTTP/" + version + b" %d Reason" % status, *fields)


LENGTH = b"Content-Length: 5"
CHUNKED = b"Transfer-Encoding: chunked"
BODY = b"3\r\nabc\r\n0\r\n\r\n"


@dataclass(frozen=True)
class Responses:
    """A server's octets, the methods that they answer, and what is told."""

    description: str
    octets: bytes
    events: str
    answers: Sequence[str] = ("GET", "GET")


RESPONSES = [
    Responses("a length", response(200, LENGTH) + b"12345" + response(404, LENGTH) + b"12345",
              "begins head ends begins head ends"),
    Responses("no length", response(200) + response(200), "begins head"),
    Responses("chunks", response(200, CHUNKED) + BODY + response(200, LENGTH) + b"12345",
              "begins head ends begins head ends"),
    Responses("HEAD", response(200, LENGTH) + response(200, CHUNKED),
              "begins head ends begins head ends", ("HEAD", "HEAD")),
    Responses("HEAD, then GET", response(200, LENGTH) + response(200, LENGTH) + b"12345",
              "begins head ends begins head ends", ("HEAD", "GET")),
    Responses("not modified", response(304, LENGTH) + response(304),
              "begins head ends begins head ends"),
    Responses("no content", response(204) + response(204, b"Content-Length: 0"),
              "begins head ends begins head ends"),
    Responses("no content with a length", response(204, LENGTH), "begins broken"),
    Responses("no content in chunks", response(204, CHUNKED), "begins broken"),
    Responses("go on", response(100) + response(103, b"Link: x") + response(200, LENGTH) + b"12345",
              "begins interim begins interim begins head ends"),
    Responses("HEAD, go on", response(100) + response(200, LENGTH) + response(100),
              "begins interim begins head ends begins interim", ("HEAD", "GET")),
    Responses("go on with a length", response(100, LENGTH), "begins broken"),
    Responses("another protocol", response(101, b"Upgrade: x") + b"\0\1\2", "begins head"),
    Responses("a tunnel", response(200, LENGTH) + b"\0\1\2", "begins head", ("CONNECT",)),
    Responses("no tunnel", response(407, LENGTH) + b"12345" + response(204),
              "begins head ends begins head ends", ("CONNECT", "GET")),
    Responses("two lengths", response(200, LENGTH, LENGTH), "begins broken"),
    Responses("length and chunks", response(200, LENGTH, CHUNKED), "begins broken"),
    Responses("another coding", response(200, b"Transfer-Encoding: gzip"), "begins broken"),
    Responses("HTTP/1.0", response(200, version=b"1.0"), "begins head"),
    Responses("chunks in HTTP/1.0", response(200, CHUNKED, version=b"1.0"), "begins broken"),
    Responses("HTTP/1.2", response(200, version=b"1.2"), "begins broken"),
    Responses("no reason", lines(b"HTTP/1.1 204"), "begins head ends"),
    Responses("a status of two digits", lines(b"HTTP/1.1 20 x"), "begins broken"),
    Responses("a status of four digits", lines(b"HTTP/1.1 2000"), "begins broken"),
    Responses("a status below all", lines(b"HTTP/1.1 099 x"), "begins broken"),
    Responses("a status of none", lines(b"HTTP/1.1 2x0 x"), "begins broken"),
    Responses("an empty line before it", b"\r\n" + response(200), "broken"),
    Responses("ICY", lines(b"ICY 200 OK"), "begins broken"),
    Responses("a long reason", lines(b"HTTP/1.1 204 " + b"x" * 400), "begins head ends"),
    Responses("Hosts are not its business", response(204, b"Host: a", b"Host: b"),
              "begins head ends"),
]  # fmt: skip


@pytest.mark.parametrize("case", RESPONSES, ids=lambda case: case.description)
@pytest.mark.parametrize("piece", [1, 5, 10_000])
def test_http_responses_end(case: Responses, piece: int) -> None:
    found = told(case.octets, case.answers, piece)
    assert " ".join(event for event, _, _ in found) == case.events
    if case.events.endswith("ends"):
        assert found[-1][1] == len(case.octets)


def test_http_status_is_shown() -> None:
    assert told(response(404, LENGTH), ["GET"])[1] == ("head", len(response(404, LENGTH)), 404)


# --- h11 -------------------------------------------------------------------------------


def judged(octets: bytes) -> tuple[list[tuple[bytes, int]], bool]:
    """Each whole request's Host and where it ends, as h11 has it; whether it refused some."""
    found = []
    rest, at = octets.lstrip(b"\r\n"), 0
    while rest:
        server = h11.Connection(h11.SERVER)
        server.receive_data(rest)
        try:
            event = server.next_event()
            if not isinstance(event, h11.Request):
                return found, False
            host = dict(event.headers).get(b"host", b"")
            while not isinstance(event, h11.EndOfMessage):
                event = server.next_event()
                if event is h11.NEED_DATA or event is h11.PAUSED:
                    return found, False
        except h11.RemoteProtocolError:
            return found, True
        left = server.trailing_data[0]
        at = len(octets) - len(left)
        found.append((host, at))
        rest = left.lstrip(b"\r\n")
    return found, False


def compare(octets: bytes) -> int:
    """How many requests we found; h11 finds the same ones, as far as we go."""
    found = told(octets)
    names = [shown[0] for event, _, shown in found if event == "head"]
    ends = [taken for event, taken, _ in found if event == "ends"]
    theirs, refused = judged(octets)
    for number, (name, end) in enumerate(zip(names, ends, strict=False)):
        if number >= len(theirs):
            # h11 wants a Host in HTTP/1.1, and answers when there is none
            assert refused and not name, octets
            return number
        host, there = theirs[number]
        assert end == there, octets
        host = host.rsplit(b":", 1)[0].removesuffix(b".")
        assert name.lower() == host.lower() or not name, octets
    if not (found and found[-1][0] == "broken"):
        assert len(ends) == len(theirs) or refused, octets
    return len(ends)


NAMES = st.sampled_from([HOST, b"other.example", b"a.b:8080", b"203.0.113.9"])


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    fields = draw(st.lists(st.sampled_from(
        [b"Accept: */*", b"Cookie: " + b"c" * 330, b"X-Y:", b"Connection: keep-alive"]
    ), max_size=3))  # fmt: skip
    body = draw(st.binary(max_size=40))
    kind = draw(st.sampled_from(["none", "length", "chunks"]))
    host = draw(NAMES)
    if kind == "none":
        return get(*fields, host=host)
    if kind == "length":
        return get(*fields, b"Content-Length: %d" % len(body), host=host, method=b"POST") + body
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (body, body[:1]) if part)
    return get(CHUNKED, *fields, host=host, method=b"PUT") + chunks + b"0\r\n\r\n"


@settings(max_examples=examples(300), deadline=None)
@given(st.lists(requests(), min_size=1, max_size=4), st.integers(1, 60))
def test_http_requests_are_those_of_h11(parts: list[bytes], piece: int) -> None:
    octets = b"".join(parts)
    assert compare(octets) == len(parts)
    assert told(octets, piece=piece) == told(octets)


def test_http_mutants_are_what_h11_takes_them_for() -> None:
    rng = random.Random(11)
    alphabet = b"\r\n :,;\t\0aZ0159/[]xX-HhTt"
    whole = [
        get(b"Content-Length: 12", b"Accept: x") + b"0123456789ab" + get(host=b"a.b"),
        get(CHUNKED) + b"4\r\nabcd\r\n2;x\r\nab\r\n0\r\nA: b\r\n\r\n" + get(),
        get(target=b"http://video.example/") + get(b"Content-Length: 0") + get(),
    ]
    both = 0
    for _ in range(examples(5_000)):
        octets = bytearray(rng.choice(whole))
        for _ in range(rng.randint(1, 2)):
            at = rng.randrange(len(octets))
            match rng.randrange(3):
                case 0:
                    octets[at] = rng.choice(alphabet)
                case 1:
                    octets.insert(at, rng.choice(alphabet))
                case _:
                    del octets[at]
        both += compare(bytes(octets))
    assert both > examples(4_000)
