"""HTTP/1 connections: which requests packets belong to, pipelined and across tunnels."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import examples

from tollsplit.cext.exchange import Exchange
from tollsplit.limits import HTTP_OUTSTANDING_MAX

FACTS = {b"a": 0b001, b"b": 0b010, b"c": 0b101}
ALL = (1 << 64) - 1
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def get(host: bytes, method: bytes = b"GET", target: bytes = b"/") -> bytes:
    return method + b" " + target + b" HTTP/1.1\r\nHost: " + host + b"\r\n\r\n"


def begun(*hosts: bytes) -> Exchange:
    exchange = Exchange(FACTS)
    for host in hosts:
        assert exchange.feed(get(host)) == FACTS[host]
    return exchange


def test_exchange_before_the_first_request_is_undecided() -> None:
    exchange = Exchange(FACTS)
    assert exchange.feed(b"") is None
    assert exchange.feed(b"", uplink=False) is None
    assert exchange.feed(get(b"a")[:20]) is None
    assert exchange.feed(b"", uplink=False) is None
    assert exchange.feed(get(b"a")[20:]) == 0b001
    assert exchange.feed(b"") == exchange.feed(b"", uplink=False) == 0b001


def test_exchange_goes_by_request() -> None:
    exchange = begun(b"a")
    assert exchange.feed(OK, uplink=False) == 0b001
    assert exchange.feed(b"", uplink=False) == 0b001
    assert exchange.feed(get(b"b")) == 0b010
    assert exchange.feed(b"", uplink=False) == 0b010
    assert exchange.feed(OK[:9], uplink=False) == 0b010
    assert exchange.feed(get(b"unknown")) == 0
    assert exchange.feed(OK[9:], uplink=False) == 0b010
    assert exchange.feed(OK, uplink=False) == 0


def test_exchange_packet_of_two_requests_has_what_both_have() -> None:
    exchange = Exchange(FACTS)
    assert exchange.feed(get(b"a") + get(b"c")) == 0b001
    assert exchange.feed(get(b"b") + get(b"c")[:5]) is None
    assert exchange.feed(get(b"c")[5:] + get(b"c")) == 0b101
    assert exchange.feed(OK + OK, uplink=False) == 0b001
    assert exchange.feed(OK + OK[:4], uplink=False) == 0b000
    assert exchange.feed(OK[4:] + OK, uplink=False) == 0b101


def test_exchange_body_belongs_to_its_request() -> None:
    exchange = Exchange(FACTS)
    post = get(b"a", b"POST").replace(b"\r\n\r\n", b"\r\nContent-Length: 8\r\n\r\n")
    assert exchange.feed(post + b"1234") == 0b001
    assert exchange.feed(b"5678" + get(b"c")[:3]) is None
    assert exchange.feed(get(b"c")[3:]) == 0b101


def test_exchange_tunnel_keeps_its_request() -> None:
    exchange = Exchange(FACTS)
    assert exchange.feed(get(b"a", b"CONNECT", b"a:443")) == 0b001
    assert exchange.feed(b"HTTP/1.1 200 OK\r\n\r\n\x16", uplink=False) == 0b001
    assert exchange.feed(get(b"b")) == 0b001
    assert exchange.feed(b"\x17", uplink=False) == 0b001
    upgraded = begun(b"b")
    switching = b"HTTP/1.1 101 Switching Protocols\r\n\r\n"
    assert upgraded.feed(switching + b"\0", uplink=False) == 0b010
    assert upgraded.feed(get(b"a")) == 0b010


def test_exchange_tunnel_that_others_wait_behind_is_broken() -> None:
    """The next request may be meant for the tunnel, by a client that has not waited."""
    tunnel = get(b"a", b"CONNECT", b"a:443")
    opened = b"HTTP/1.1 200 OK\r\n\r\n"
    for following in (get(b"b"), get(b"b")[:7]):
        exchange = Exchange(FACTS)
        exchange.feed(tunnel + following)
        assert exchange.feed(opened, uplink=False) == -1
    refused = Exchange(FACTS)
    refused.feed(tunnel + get(b"b"))
    no = b"HTTP/1.1 407 No\r\nContent-Length: 0\r\n\r\n"
    assert refused.feed(no, uplink=False) == 0b001
    assert refused.feed(OK, uplink=False) == 0b010


def test_exchange_answer_to_nobody_is_broken() -> None:
    assert Exchange(FACTS).feed(OK, uplink=False) == -1
    assert begun(b"a").feed(OK + OK, uplink=False) == -1
    assert begun(b"a").feed(b"nonsense\r\n\r\n", uplink=False) == -1
    assert Exchange(FACTS).feed(b"nonsense\r\n\r\n") == -1


def test_exchange_interim_responses_are_their_requests_own() -> None:
    exchange = begun(b"a", b"b")
    interim = b"HTTP/1.1 100 Continue\r\n\r\n"
    assert exchange.feed(interim, uplink=False) == 0b001
    assert exchange.feed(interim + OK, uplink=False) == 0b001
    assert exchange.feed(OK, uplink=False) == 0b010


def test_exchange_requests_that_wait_have_a_bound() -> None:
    exchange = Exchange(FACTS)
    for _ in range(3):
        for _ in range(HTTP_OUTSTANDING_MAX):
            assert exchange.feed(get(b"a")) == 0b001
        for _ in range(HTTP_OUTSTANDING_MAX):
            assert exchange.feed(OK, uplink=False) == 0b001
    for _ in range(HTTP_OUTSTANDING_MAX):
        exchange.feed(get(b"a"))
    assert exchange.feed(get(b"a")) == -1


@st.composite
def messages(draw: st.DrawFn) -> tuple[bytes, bytes, int]:
    """A request, its response, and its facts."""
    host = draw(st.sampled_from(sorted(FACTS)))
    body = draw(st.binary(max_size=30))
    method = draw(st.sampled_from([b"GET", b"HEAD", b"PUT"]))
    request = get(host, method)
    if method == b"PUT":
        request = request[:-2] + b"Content-Length: %d\r\n\r\n" % len(body) + body
    response = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body)
    if method != b"HEAD":
        response += body
    if draw(st.booleans()):
        response = b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + response
    return request, response, FACTS[host]


def spans(parts: list[bytes]) -> list[tuple[int, int]]:
    ends = [sum(len(part) for part in parts[: i + 1]) for i in range(len(parts))]
    return list(zip([0, *ends[:-1]], ends, strict=True))


def expected(parts: list[bytes], facts: list[int], start: int, end: int) -> int:
    """What all messages have that a stretch of a direction touches."""
    common = ALL
    for (first, last), fact in zip(spans(parts), facts, strict=True):
        if first < end and start < last:
            common &= fact
    return common


@settings(max_examples=examples(200), deadline=None)
@given(st.lists(messages(), min_size=1, max_size=6), st.data())
def test_exchange_packets_touch_what_lies_in_them(
    parts: list[tuple[bytes, bytes, int]], data: st.DataObject
) -> None:
    requests, responses, facts = ([part[i] for part in parts] for i in range(3))
    exchange = Exchange(FACTS)
    heads = [first + request.index(b"\r\n\r\n") + 4
             for (first, _), request in zip(spans(requests), requests, strict=True)]  # fmt: skip
    whole, at = b"".join(requests), 0
    while at < len(whole):
        end = min(len(whole), at + data.draw(st.integers(1, 60)))
        begun_heads = [head for (first, _), head in zip(spans(requests), heads, strict=True)
                       if first < end]  # fmt: skip
        touched = exchange.feed(whole[at:end])
        if begun_heads[-1] > end:
            assert touched is None
        else:
            assert touched == expected(requests, facts, at, end)
        at = end
    whole, at = b"".join(responses), 0
    while at < len(whole):
        end = min(len(whole), at + data.draw(st.integers(1, 60)))
        assert exchange.feed(whole[at:end], uplink=False) == expected(responses, facts, at, end)
        at = end
