"""Tokens in heads of HTTP/1 requests, and in hellos over QUIC."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import hellos
import pytest
from hellos import hello, named
from initials import crypto, initial
from judges import Frame
from test_names import octets_of, segment
from test_names_hosts import opening
from test_names_quic import datagram
from test_reference import fast
from test_tokens_meter import RULES, START_S, bill, token

from tollsplit.engine.bounds import Bounds
from tollsplit.errors import RulesError
from tollsplit.rules import RuleSet, load
from tollsplit.tokens import carrier
from tollsplit.tokens.keys import Key, add_key

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n" + bytes(100)
HOSTED = RULES.replace('token = "video"', 'token = "video", host = ["video.example"]')


@pytest.fixture
def key(tmp_path: Path) -> Key:
    return add_key(tmp_path / "video.keys", "video")


@pytest.fixture
def rules(tmp_path: Path, key: Key) -> RuleSet:
    return loaded(tmp_path, RULES)


def loaded(folder: Path, text: str) -> RuleSet:
    (folder / "rules.toml").write_text(text, "utf-8")
    return load(folder / "rules.toml")


def request(*fields: str, host: str = "video.example", body: bytes = b"",
            method: str = "GET") -> bytes:
    """A request; its token is a line of its head as `token mint --form http` prints it."""
    return "\r\n".join([f"{method} / HTTP/1.1", f"Host: {host}", *fields, "", ""]).encode() + body


def text(key: Key) -> str:
    return carrier.header(token(key)).partition(": ")[2]


def connection(*said: bytes, every_s: float = 0.1, start_s: float = 0.0,
               client: int = 1000) -> list[Frame]:
    """A connection in which each of these is answered."""
    frames, at = opening(start_s, client=client), 0
    for n, octets in enumerate(said):
        at_s = start_s + 0.2 + n * every_s
        frames += [segment(at_s, octets, at, client=client),
                   segment(at_s + 0.01, OK, n * len(OK), down=True, client=client)]
        at += len(octets)
    return frames


def test_token_in_a_head_opens_its_connection(rules: RuleSet, key: Key) -> None:
    """The handshake and what comes later, whatever its requests have: the verdict is the flow's."""
    frames = connection(request(carrier.header(token(key))), request(), request("X: y"))
    assert bill(frames, rules) == (octets_of(frames), 0, {})


def test_token_in_a_head_beside_hosts_covers_their_requests_alone(
    tmp_path: Path, key: Key
) -> None:
    """A rule that asks for both has its requests told apart by host, and its flow by token."""
    frames = connection(request(carrier.header(token(key))), request(host="free.example"),
                        request())
    assert bill(frames, loaded(tmp_path, HOSTED)) == (
        octets_of([*frames[:4], *frames[6:]]), octets_of(frames[4:6]), {})


def test_token_in_a_later_request_opens_what_came_before(rules: RuleSet, key: Key) -> None:
    frames = connection(request(), request(carrier.header(token(key))), request())
    assert bill(frames, rules) == (octets_of(frames), 0, {})


def test_token_in_a_head_is_awaited_for_ten_seconds(rules: RuleSet, key: Key) -> None:
    late = connection(request(), request(carrier.header(token(key))), every_s=10.5)
    assert bill(late, rules) == (0, octets_of(late), {})


@pytest.mark.parametrize("size", [1, 7, 40, 90])
def test_token_in_a_head_in_segments(rules: RuleSet, key: Key, size: int) -> None:
    """Names of fields have any case, and what is around a value is none of it."""
    said = request("Accept: */*", f"SPONSORED-data-token:\t{text(key)} \t")
    parts = [segment(0.2 + at / 1000, said[at : at + size], at)
             for at in range(0, len(said), size)]
    frames = [*opening(), *parts, segment(2, OK, down=True)]
    assert bill(frames, rules) == (octets_of(frames), 0, {})


# --- heads that are none, or not such as a token is believed in ----------------------------------


def others(key: Key) -> str:
    return carrier.header(token(key, expires_s=START_S + 61))


REFUSED: dict[str, Callable[[Key], bytes]] = {
    "two different ones": lambda key: request(carrier.header(token(key)), others(key)),
    "the same twice": lambda key: request(*[carrier.header(token(key))] * 2),
    "folded": lambda key: request(f"{carrier.HEADER}:", f" {text(key)}"),
    "a space before the colon": lambda key: request(f"{carrier.HEADER} : {text(key)}"),
    "a bare line feed": lambda key: request(f"X: y\n{carrier.header(token(key))}"),
    "in the body": lambda key: request(
        f"Content-Length: {len(request(others(key)))}", method="POST",
        body=request(carrier.header(token(key)))),
    "in a trailer": lambda key: request(
        "Transfer-Encoding: chunked", method="POST",
        body=b"0\r\n" + carrier.header(token(key)).encode() + b"\r\n\r\n"),
    "in the target": lambda key: request().replace(
        b"GET /", f"GET /?{carrier.header(token(key)).replace(' ', '')}".encode()),
    "in another field": lambda key: request(f"X-{carrier.header(token(key))}"),
    "no end": lambda key: request(carrier.header(token(key)))[:-2],
    "no request": lambda key: b"220 " + request(carrier.header(token(key))),
}


@pytest.mark.parametrize("said", REFUSED.values(), ids=REFUSED.keys())
def test_token_is_read_in_no_such_head(
    rules: RuleSet, key: Key, said: Callable[[Key], bytes]
) -> None:
    frames = connection(said(key))
    assert bill(frames, rules) == (0, octets_of(frames), {})


@pytest.mark.parametrize("reason, changed", [
    ("malformed", lambda text: text[:-1]), ("malformed", lambda text: text + "A"),
    ("malformed", lambda text: text + "=" * 400), ("malformed", lambda text: text[:36]),
    ("malformed", lambda text: f"{text}, {text}"), ("malformed", lambda text: text[:47] + "+"),
    ("malformed", lambda text: "x"), ("wrong_mac", lambda text: text[:46] + "AA"),
])  # fmt: skip
def test_token_in_a_head_that_is_none_opens_nothing(
    rules: RuleSet, key: Key, reason: str, changed: Callable[[str], str]
) -> None:
    frames = connection(request(f"{carrier.HEADER}: {changed(text(key))}"))
    assert bill(frames, rules) == (0, octets_of(frames), {reason: 1})


def test_token_in_a_head_is_as_bound_as_any_other(rules: RuleSet, key: Key) -> None:
    bobs = connection(request(carrier.header(token(key, "10.0.0.8"))))
    assert bill(bobs, rules) == (0, octets_of(bobs), {"wrong_mac": 1})
    elsewhere = connection(request(carrier.header(token(key, server="198.51.100.0/24"))))
    assert bill(elsewhere, rules) == (0, octets_of(elsewhere), {"wrong_mac": 1})
    late = connection(request(carrier.header(token(key))), start_s=60)
    assert bill(late, rules) == (0, octets_of(late), {"expired": 1})
    one = request(carrier.header(token(key)))
    twice = [*connection(one), *connection(one, client=1001, start_s=5)]
    assert bill(twice, rules) == (octets_of(twice[:4]), octets_of(twice[4:]), {"used": 1})


def test_token_in_a_response_opens_nothing(rules: RuleSet, key: Key) -> None:
    answer = b"HTTP/1.1 200 OK\r\n" + carrier.header(token(key)).encode() + b"\r\n\r\n"
    frames = [*connection(request())[:3], segment(0.4, answer, down=True),
              segment(0.5, b"", len(request()), flags=16)]
    assert bill(frames, rules) == (0, octets_of(frames), {})


def test_token_where_the_connections_opening_was_not_seen(rules: RuleSet, key: Key) -> None:
    """What looks like a head may lie in the body of another request."""
    whole = connection(request(carrier.header(token(key))))
    for frames in (whole[1:], [whole[0], *whole[2:]], whole[2:]):
        assert bill(frames, rules) == (0, octets_of(frames), {})


def test_token_in_a_head_after_a_bad_one(rules: RuleSet, key: Key) -> None:
    bad = f"{carrier.HEADER}: {text(key)[:46]}AA"
    frames = connection(request(bad), request(carrier.header(token(key))))
    assert bill(frames, rules) == (octets_of(frames), 0, {"wrong_mac": 1})


def test_tokens_of_two_requests_in_a_packet(rules: RuleSet, key: Key) -> None:
    """The first one is meant, as in any packet."""
    pair = request(carrier.header(token(key))) + request(others(key))
    frames = [*connection(pair), *connection(request(others(key)), client=1001, start_s=5)]
    assert bill(frames, rules) == (octets_of(frames), 0, {})
    bad = request(f"{carrier.HEADER}: x") + request(carrier.header(token(key)))
    again = connection(bad)
    assert bill(again, rules) == (0, octets_of(again), {"malformed": 1})


# --- bounds --------------------------------------------------------------------------------------


def test_connections_that_are_read_for_tokens_make_room(rules: RuleSet, key: Key) -> None:
    """One is read for its token until it has come, or its time is over."""
    opened = [f for n in range(3) for f in connection(
        request(carrier.header(token(key, expires_s=START_S + 50 + n))), client=2000 + n,
        start_s=n)]
    assert bill(opened, rules, requests=1) == (octets_of(opened), 0, {})
    silent = [connection(request(), client=2000), connection(
        request(carrier.header(token(key))), client=2001, start_s=15)]
    frames = [f for each in silent for f in each]
    assert bill(frames, rules, requests=1) == (octets_of(silent[1]), octets_of(silent[0]), {})
    crowded = [*silent[0], *connection(request(carrier.header(token(key))), client=2001, start_s=5)]
    tally = fast(crowded, rules, bounds=Bounds(requests=1))
    assert tally.sponsor_octets["video"] == 0
    assert tally.untracked.packets == 1


def test_requests_hosts_are_read_on_once_a_token_has_come(tmp_path: Path, key: Key) -> None:
    """Their rule asks for both; another, first, asks for hosts alone."""
    text = HOSTED.replace("[[rules]]", """[[rules]]
id = "hosts"
precedence = 5
match = { host = ["web.example"], server = ["203.0.113.0/24"] }
split = [{ sponsor = "video" }]

[[rules]]""", 1)
    frames = connection(request(carrier.header(token(key))), request(host="web.example"),
                        request(host="free.example"), request())
    assert bill(frames, loaded(tmp_path, text)) == (
        octets_of([*frames[:6], *frames[8:]]), octets_of(frames[6:8]), {})


# --- QUIC ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("parts", [1, 2])
def test_token_in_a_quic_hello_opens_its_flow(rules: RuleSet, key: Key, parts: int) -> None:
    said = hello((hellos.TOKEN, token(key)), named(b"video.example"))
    size = -(-len(said) // parts)
    frames = [datagram(0, b"before", down=True),
              *(datagram(1 + n / 10, initial(crypto(said[n * size : (n + 1) * size], n * size), n))
                for n in range(parts)),
              datagram(2, bytes(500), down=True), datagram(3, b"\x40more")]
    assert bill(frames, rules) == (octets_of(frames), 0, {})


@pytest.mark.parametrize("reason, held", [
    ("wrong_mac", lambda made: made[:-1] + bytes([made[-1] ^ 1])),
    ("malformed", lambda made: made[:-1]), ("malformed", lambda made: b""),
])  # fmt: skip
def test_token_in_a_quic_hello_that_is_none_opens_nothing(
    rules: RuleSet, key: Key, reason: str, held: Callable[[bytes], bytes]
) -> None:
    said = hello((hellos.TOKEN, held(token(key))))
    frames = [datagram(0, initial(crypto(said))), datagram(1, bytes(500), down=True)]
    assert bill(frames, rules) == (0, octets_of(frames), {reason: 1})


def test_token_in_a_quic_hello_goes_with_its_name(tmp_path: Path, key: Key) -> None:
    rules = loaded(tmp_path, RULES.replace(
        'token = "video"', 'token = "video", sni = ["video.example"]'))
    for name, pays in ((b"video.example", True), (b"free.example", False)):
        said = hello((hellos.TOKEN, token(key)), named(name))
        frames = [datagram(0, initial(crypto(said))), datagram(1, bytes(500), down=True)]
        octets = octets_of(frames)
        assert bill(frames, rules) == ((octets, 0, {}) if pays else (0, octets, {}))


def test_tokens_need_no_cryptography_over_tcp(
    tmp_path: Path, key: Key, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cryptography.exceptions", None)
    frames = connection(request(carrier.header(token(key))))
    tcp = loaded(tmp_path, RULES.replace('token = "video"', 'token = "video", protocol = "tcp"'))
    assert bill(frames, tcp) == (octets_of(frames), 0, {})
    with pytest.raises(RulesError, match='or say protocol = "tcp"'):
        bill(frames, loaded(tmp_path, RULES))

