"""Hosts that HTTP/1 requests are for: whose the packets of a connection are, request by request."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Any

import pytest
from fragments import SECOND_NS
from hypothesis import given
from hypothesis import strategies as st
from judges import Frame
from strategies import prefix
from test_fragments import POOLS, START_NS, few, figures
from test_laws import Pieces
from test_meter import reader_of
from test_names import ACK, DATA, FIRST, OTHER, OURS, SPONSORS, SYN, octets_of, segment
from test_reference import document, fast

from tollsplit.engine import Tally, meter
from tollsplit.engine.bounds import Bounds
from tollsplit.engine.live import Generation
from tollsplit.limits import HTTP_OUTSTANDING_MAX
from tollsplit.rules.rule import Match, Meter, Rule, RuleSet, Split

SHOP = Rule("shop", 20, Match(server=OURS, host=("shop.example",)), (Split("shop"),))
BANK = Rule("bank", 30, Match(server=OURS, host=("bank.example",)), (Split("bank"),))
RULES = RuleSet("hosts", "sha256:0", Meter(), POOLS, SPONSORS, (SHOP, BANK))
RST, FIN = 4, 17

Step = tuple[str, bytes, str]  # which way, its octets, who pays
Table = list[Step]


def get(host: bytes, method: bytes = b"GET", more: bytes = b"", target: bytes = b"/") -> bytes:
    return method + b" " + target + b" HTTP/1.1\r\nHost: " + host + b"\r\n" + more + b"\r\n"


def answer(body: bytes, more: bytes = b"") -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n" % len(body) + more + b"\r\n" + body


A, B, C = (get(name) for name in (b"shop.example", b"www.bank.example:80", b"evil.example"))
OK = answer(bytes(100))
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
TWO_LENGTHS = b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n"
POST = get(b"shop.example", b"POST", b"Content-Length: 400\r\n")


def opening(at_s: float = 0, at: int = 0, **ends: Any) -> list[Frame]:
    """The SYN before the `at`th octet of the uplink, and the server's, which confirms it."""
    answer = segment(at_s + 0.1, flags=SYN | ACK, at=-1, down=True, **ends)
    octets = bytearray(answer.octets)
    struct.pack_into(">I", octets, 14 + 20 + 8, (FIRST + at) % 2**32)
    return [segment(at_s, at=at - 1, flags=SYN, **ends), answer._replace(octets=bytes(octets))]


def frames_of(table: Table, **ends: Any) -> list[Frame]:
    """A connection's packets, a tenth of a second apart, each direction's octets in order.

    "up", "down"      that way; "again": up once more from the direction's first octet on
    "up+9", "up-9"    as many octets farther on, or back
    """
    places = {"up": 0, "down": 0}
    found = opening(**ends)
    for number, (way, octets, _) in enumerate(table, 2):
        direction = way.rstrip("+-0123456789")
        down = way.startswith("down")
        place = "down" if down else "up"
        if way.endswith("again"):
            found.append(segment(number / 10, octets, down=down, **ends))
            continue
        places[place] += int(way.removeprefix(direction) or 0)
        found.append(segment(number / 10, octets, places[place], down=down,
                             flags=DATA if octets else ACK, **ends))
        places[place] += len(octets)
    return found


def owed(table: Table, opening: str, frames: Sequence[Frame]) -> dict[str, int]:
    """Octets by payer, as a table has them; the handshake is `opening`'s."""
    found: Counter[str] = Counter()
    for frame, payer in zip(frames, [opening] * 2 + [payer for _, _, payer in table], strict=True):
        found[payer] += octets_of([frame])
    return {name: found[name] for name in ("shop", "bank", "own")}


def charged(frames: list[Frame], rules: RuleSet = RULES, **bounds: int) -> dict[str, int]:
    """Octets by payer, as the engine has them, however frames are batched."""
    tally = tally_of(frames, rules, **bounds)
    return {**tally.sponsor_octets, "own": tally.subscriber_octets}


def tally_of(frames: list[Frame], rules: RuleSet = RULES, **bounds: int) -> Tally:
    tally = fast(frames, rules, bounds=Bounds(**bounds))
    assert tally.identity_holds
    assert sum(tally.sponsor_octets.values()) + tally.subscriber_octets == octets_of(frames)
    for sizes in ([1] * len(frames), [2, 5, 1, 3]):
        cut = meter([Pieces(frames, sizes, rules)], rules, workers=2, bounds=Bounds(**bounds))
        assert document(cut) == document(tally)
    return tally


# --- worked by hand: who pays for each packet ----------------------------------------------------

TABLES: dict[str, tuple[str, Table]] = {
    "one request": ("shop", [
        ("up", b"", "shop"), ("up", A, "shop"), ("down", b"", "shop"), ("down", OK, "shop"),
        ("up", b"", "shop")]),
    "a host below it, in capitals": ("shop", [
        ("up", get(b"WWW.Shop.Example."), "shop"), ("down", OK, "shop")]),
    "another host": ("own", [
        ("up", b"", "own"), ("up", C, "own"), ("down", OK, "own")]),
    "no host": ("own", [
        ("up", b"GET / HTTP/1.0\r\n\r\n", "own"), ("down", b"HTTP/1.0 200 OK\r\n\r\nall", "own"),
        ("down", b"the rest", "own")]),
    "one after the other": ("shop", [
        ("up", A, "shop"), ("down", OK[:50], "shop"), ("up", b"", "shop"),
        ("down", OK[50:], "shop"), ("up", B, "bank"), ("down", b"", "bank"),
        ("down", OK, "bank"), ("up", b"", "bank"),
        ("up", C, "own"), ("down", OK, "own"), ("up", b"", "own"),
        ("up", A, "shop"), ("down", OK, "shop")]),
    "pipelined": ("shop", [
        ("up", A, "shop"), ("up", C, "own"), ("up", B, "bank"), ("down", OK[:20], "shop"),
        ("down", OK[20:], "shop"), ("down", OK, "own"), ("down", OK, "bank")]),
    "two requests in a packet": ("shop", [
        ("up", A + B, "own"), ("down", OK, "shop"), ("down", OK, "bank")]),
    "two requests for one host in a packet": ("shop", [
        ("up", A + A, "shop"), ("down", OK + OK, "shop")]),
    "two responses in a packet": ("shop", [
        ("up", A, "shop"), ("up", B, "bank"), ("down", OK + OK[:1], "own"),
        ("down", OK[1:], "bank")]),
    "head in segments": ("bank", [
        ("up", B[:1], "bank"), ("down", b"", "bank"), ("up", B[1:30], "bank"), ("up", b"", "bank"),
        ("up", B[30:], "bank"), ("down", OK, "bank")]),
    "a later head in segments": ("shop", [
        ("up", A, "shop"), ("down", OK, "shop"), ("up", C[:20], "own"), ("down", b"", "own"),
        ("up", C[20:], "own"), ("down", OK, "own"), ("up", A[:20], "shop"), ("down", b"", "shop"),
        ("up", A[20:], "shop"), ("down", OK, "shop")]),
    "the end of one and the beginning of the next": ("shop", [
        ("up", A + B[:9], "own"), ("up", B[9:] + A[:9], "own"), ("up", A[9:], "shop"),
        ("down", OK, "shop"), ("down", OK, "bank"), ("down", OK, "shop")]),
    "the end of one and the beginning of one like it": ("shop", [
        ("up", A + A[:9], "shop"), ("up", A[9:], "shop"), ("down", OK + OK, "shop")]),
    "one's response while the next one's head comes": ("shop", [
        ("up", A, "shop"), ("up", C[:9], "own"), ("down", OK[:50], "shop"), ("up", b"", "own"),
        ("down", OK[50:], "shop"), ("up", C[9:], "own"), ("down", OK, "own")]),
    "a head that never ends": ("own", [
        ("up", A[:30], "own"), ("down", b"", "own")]),
    "a later head that never ends": ("shop", [
        ("up", A, "shop"), ("down", OK, "shop"), ("up", A[:30], "own"), ("down", b"", "own")]),
    "empty lines between requests": ("shop", [
        ("up", A, "shop"), ("down", OK, "shop"), ("up", b"\r\n", "shop"), ("up", C, "own")]),
    "bodies": ("shop", [
        ("up", POST + bytes(100), "shop"), ("up", bytes(200), "shop"), ("down", b"", "shop"),
        ("up", bytes(100) + C, "own"), ("down", CHUNKED + b"5\r\nhello\r\n", "shop"),
        ("down", b"0\r\n\r\n", "shop"), ("down", OK, "own")]),
    "what a body has inside": ("own", [
        ("up", get(b"evil.example", b"POST", b"Content-Length: %d\r\n" % len(A)), "own"),
        ("up", A, "own"), ("down", OK, "own")]),
    "a response before the request is decided": ("own", [
        ("up", A[:20], "own"), ("down", OK, "own"), ("up", A[20:], "own"), ("up", A, "own")]),
    "a response to nobody": ("shop", [
        ("up", A, "shop"), ("down", OK, "shop"), ("down", OK, "own"), ("up", A, "own"),
        ("down", OK, "own")]),
    "a server that speaks first": ("own", [
        ("down", b"220 ready\r\n", "own"), ("up", A, "own"), ("down", OK, "own")]),
    "no HTTP": ("own", [
        ("up", b"SSH-2.0-x\r\n", "own"), ("up", A, "own"), ("down", OK, "own")]),
    "two Hosts": ("own", [
        ("up", A[:-2] + b"Host: shop.example\r\n\r\n", "own"), ("down", OK, "own"),
        ("up", A, "own"), ("down", OK, "own")]),
    "two lengths": ("shop", [
        ("up", A, "shop"), ("down", OK, "shop"),
        ("up", get(b"shop.example", b"POST", TWO_LENGTHS), "own"), ("down", OK, "own"),
        ("up", A, "own")]),
    "a target that contradicts the Host": ("own", [
        ("up", get(b"shop.example", target=b"http://evil.example/"), "own"), ("down", OK, "own")]),
    "a target with the Host in it": ("shop", [
        ("up", get(b"shop.example", target=b"http://shop.example/x"), "shop"),
        ("down", OK, "shop")]),
    "a tunnel": ("shop", [
        ("up", get(b"shop.example", b"CONNECT", target=b"shop.example:443"), "shop"),
        ("down", b"HTTP/1.1 200 OK\r\n\r\n", "shop"), ("up", bytes(50), "shop"),
        ("down", bytes(500), "shop"), ("up", C, "shop")]),
    "a tunnel for another": ("own", [
        ("up", get(b"evil.example", b"CONNECT", target=b"evil.example:443"), "own"),
        ("down", b"HTTP/1.1 200 OK\r\n\r\n", "own"), ("up", A, "own"), ("down", OK, "own")]),
    "a tunnel that was not waited for": ("shop", [
        ("up", get(b"shop.example", b"CONNECT", target=b"shop.example:443"), "shop"),
        ("up", A, "shop"), ("down", b"HTTP/1.1 200 OK\r\n\r\n", "own"), ("up", A, "own")]),
    "an upgrade": ("bank", [
        ("up", B[:-2] + b"Upgrade: websocket\r\n\r\n", "bank"),
        ("down", b"HTTP/1.1 101 Switching Protocols\r\n\r\n", "bank"), ("up", C, "bank"),
        ("down", bytes(50), "bank")]),
    "interim responses": ("shop", [
        ("up", A, "shop"), ("up", C, "own"), ("down", b"HTTP/1.1 100 Continue\r\n\r\n", "shop"),
        ("down", OK, "shop"), ("down", OK, "own")]),
    "a response to HEAD has no body": ("shop", [
        ("up", get(b"shop.example", b"HEAD"), "shop"), ("up", C, "own"),
        ("down", OK[:-100], "shop"), ("down", OK, "own")]),
    "until the connection closes": ("shop", [
        ("up", A, "shop"), ("down", b"HTTP/1.1 200 OK\r\n\r\n", "shop"), ("down", OK, "shop"),
        ("down+5000", bytes(9), "shop")]),
    "a gap between requests": ("shop", [
        ("up", A, "shop"), ("down", OK, "shop"), ("up+10", A, "own"), ("down", OK, "own"),
        ("up", A, "own")]),
    "a gap before the first": ("own", [
        ("up+10", A, "own"), ("up", A, "own"), ("down", OK, "own")]),
    "a gap in a response's head": ("shop", [
        ("up", A, "shop"), ("down", OK[:9], "shop"), ("down+5", OK[14:], "own"), ("up", A, "own")]),
    "a gap in a body": ("shop", [
        ("up", A, "shop"), ("up", C, "own"), ("down", OK[:-80], "shop"),
        ("down+70", OK[-10:], "shop"), ("down", OK, "own")]),
    "a gap up to a body's end": ("shop", [
        ("up", A, "shop"), ("up", C, "own"), ("down", OK[:-80], "shop"),
        ("down+80", OK, "own"), ("up", A, "shop"), ("down", OK, "shop")]),
    "a gap over a body's end": ("shop", [
        ("up", A, "shop"), ("up", C, "own"), ("down", OK[:-80], "shop"),
        ("down+81", OK[1:], "own"), ("up", A, "own")]),
    "all of it again": ("shop", [
        ("up", A, "shop"), ("upagain", A, "shop"), ("down", OK, "shop"), ("downagain", OK, "shop"),
        ("upagain", A, "shop"), ("up", A, "shop"), ("down", OK, "shop")]),
    "again while another is asked for": ("shop", [
        ("up", A, "shop"), ("down", OK, "shop"), ("up", B, "bank"), ("downagain", OK, "own"),
        ("down", OK, "bank"), ("up", b"", "bank")]),
    "a body again": ("shop", [
        ("up", POST, "shop"), ("up", bytes(300), "shop"), ("up-100", bytes(150), "shop"),
        ("up-150", bytes(50), "shop"), ("up+100", bytes(50), "shop"), ("down", OK, "shop")]),
    "an earlier request again, once another was sent": ("shop", [
        ("up", A, "shop"), ("down", OK, "shop"), ("up", B, "bank"), ("upagain", A, "own"),
        ("down", OK, "own")]),
    "another request in its place": ("shop", [
        ("up", A, "shop"), ("upagain", C, "own"), ("down", OK, "own"), ("up", A, "own")]),
    "more, with what came before": ("own", [
        ("up", A[:20], "own"), ("upagain", A, "own"), (f"up+{len(A) - 20}", A, "own"),
        ("down", OK + OK, "own")]),
    "is somebody there": ("shop", [
        ("up", A, "shop"), ("down", OK, "shop"), ("up-1", b"x", "shop"), ("up", A, "shop")]),
    "too many that wait": ("shop", [
        *[("up", A, "shop")] * HTTP_OUTSTANDING_MAX, ("up", A, "own"), ("down", OK, "own")]),
}  # fmt: skip


@pytest.mark.parametrize(("opening", "table"), TABLES.values(), ids=TABLES.keys())
def test_packets_are_their_requests(opening: str, table: Table) -> None:
    frames = frames_of(table)
    assert charged(frames) == owed(table, opening, frames)


def test_rule_that_lists_both_hosts_covers_packets_of_both() -> None:
    both = replace(SHOP, match=replace(SHOP.match, host=("shop.example", "bank.example")))
    frames = frames_of([("up", A + B, ""), ("down", OK + OK, ""), ("upagain", A + B, "")])
    assert charged(frames, replace(RULES, rules=(both,)))["shop"] == octets_of(frames)


def test_hosts_and_names_of_tls_go_side_by_side() -> None:
    sni = Rule("tls", 10, Match(server=OURS, sni=("bank.example",)), (Split("bank"),))
    frames = frames_of([("up", A, ""), ("down", OK, "")])
    assert charged(frames, replace(RULES, rules=(sni, SHOP)))["shop"] == octets_of(frames)


def test_address_rules_decide_between_hosts() -> None:
    bank = Rule("bank", 30, Match(server=OURS), (Split("bank"),))
    table: Table = [("up", A, "shop"), ("down", OK, "shop"), ("up", C, "bank"),
                    ("down", OK, "bank"), ("up", A[:9], "shop"), ("up", A[9:], "shop")]
    frames = frames_of(table)
    assert charged(frames, replace(RULES, rules=(SHOP, bank))) == owed(table, "shop", frames)


def test_conditions_on_packets_hold_for_each_beside_hosts() -> None:
    down = replace(SHOP, match=replace(SHOP.match, direction="downlink"))
    table: Table = [("up", A[:9], "own"), ("down", b"", "shop"), ("up", A[9:], "own"),
                    ("down", OK, "shop"), ("up", C, "own"), ("down", OK, "own")]
    frames = frames_of(table)
    assert charged(frames, replace(RULES, rules=(down,))) == {
        "bank": 0, "shop": octets_of([frames[1], frames[3], frames[5]]),
        "own": octets_of([frames[0], frames[2], frames[4], *frames[6:]])}


def test_what_waits_for_another_condition_stays_its_requests() -> None:
    """A packet with the tag comes late: it says of the flow what it says, of requests nothing."""
    sticky = replace(SHOP, match=replace(SHOP.match, sticky=True, dscp=frozenset({46})))
    frames = frames_of([("up", A, ""), ("down", OK, ""), ("up", C, ""), ("down", OK, "")])
    frames.append(segment(1, b"", len(A + C), flags=ACK, dscp=46))
    assert charged(frames, replace(RULES, rules=(sticky,))) == {
        "shop": octets_of(frames[:4]), "bank": 0, "own": octets_of(frames[4:])}


def test_head_that_takes_too_long_covers_what_follows() -> None:
    frames = [*frames_of([("up", A[:9], "")]), segment(60, A[9:], 9), segment(61, OK, down=True)]
    assert charged(frames) == {
        "shop": octets_of(frames[3:]), "bank": 0, "own": octets_of(frames[:3])}


def test_connection_whose_beginning_was_not_seen_has_no_host() -> None:
    """What looks like a request may be the body of another one."""
    frames = frames_of([("up", A, ""), ("down", OK, "")])[2:]
    assert charged(frames) == {"shop": 0, "bank": 0, "own": octets_of(frames)}


def test_next_connection_between_the_same_ports_asks_anew() -> None:
    first = frames_of([("up", A, ""), ("down", OK, "")])
    for said, payer in ((C, "own"), (B, "bank")):
        again = [*opening(2, 9999), segment(2.2, said, 9999), segment(2.3, OK, down=True)]
        assert charged([*first, *again]) == {
            "shop": octets_of(first), "bank": 0, "own": 0, payer: octets_of(again)}


@pytest.mark.parametrize("missing", [0, 1])
def test_connection_that_only_one_side_opens_has_no_host(missing: int) -> None:
    """A client may send a SYN in the middle of a body: what follows looks like a request."""
    frames = frames_of([("up", A, ""), ("down", OK, "")])
    del frames[missing]
    assert charged(frames) == {"shop": 0, "bank": 0, "own": octets_of(frames)}


def test_syn_in_the_middle_of_a_body_opens_nothing() -> None:
    hidden = get(b"evil.example", b"POST", b"Content-Length: %d\r\n" % len(A))
    frames = [*frames_of([("up", hidden, "")]), segment(1, at=len(hidden) - 1, flags=SYN),
              segment(1.1, flags=ACK, down=True), segment(1.2, A, len(hidden)),
              segment(1.3, OK, down=True)]
    assert charged(frames) == {"shop": 0, "bank": 0, "own": octets_of(frames)}


def test_head_cut_by_the_snap_length_has_no_host() -> None:
    frames = [*frames_of([]), segment(0.3, A, captured=14 + 40 + 20), segment(0.4, A, len(A))]
    assert charged(frames) == {"shop": 0, "bank": 0, "own": octets_of(frames)}


def test_body_cut_by_the_snap_length_is_counted_on() -> None:
    frames = [*frames_of([("up", A, ""), ("up", C, "")]),
              segment(1, OK, down=True, captured=14 + 40 + len(OK) - 50),
              segment(1.1, OK, len(OK), down=True)]
    assert charged(frames) == {
        "shop": octets_of([*frames[:3], frames[4]]), "bank": 0,
        "own": octets_of([frames[3], frames[5]])}


def test_what_a_reset_carries_is_nobodys() -> None:
    frames = frames_of([("up", A, ""), ("down", OK, "")])
    bare = segment(1, at=len(A), flags=RST)
    assert charged([*frames, bare])["shop"] == octets_of([*frames, bare])
    assert charged([*frames, segment(1, b"x", len(A), flags=RST)])["shop"] == octets_of(frames)


def test_end_of_a_connection_is_its_last_requests() -> None:
    frames = [*frames_of([("up", A, ""), ("down", OK, "")]),
              segment(1, at=len(OK), flags=FIN, down=True), segment(1.1, at=len(A), flags=FIN),
              segment(1.2, at=len(OK) + 1, flags=ACK, down=True)]
    assert charged(frames)["shop"] == octets_of(frames)


# --- claims that an address contradicts ----------------------------------------------------------


def test_host_at_another_server_is_a_mismatch_request_by_request() -> None:
    frames = frames_of([("up", A, ""), ("down", OK, ""), ("up", C, ""), ("down", OK, ""),
                        ("up", A, ""), ("down", OK, "")], server=OTHER)
    tally = tally_of(frames)
    assert tally.subscriber_octets == octets_of(frames)
    assert (tally.mismatch.packets, tally.mismatch.octets) == (
        4, octets_of([*frames[2:4], *frames[6:]]))


def test_claimed_host_is_nobodys_business_where_a_rule_takes_the_packet() -> None:
    bank = Rule("bank", 30, Match(server=(*OURS, prefix("192.0.2.0/24"))), (Split("bank"),))
    frames = frames_of([("up", A, ""), ("down", OK, "")], server=OTHER)
    tally = tally_of(frames, replace(RULES, rules=(SHOP, bank)))
    assert (tally.sponsor_octets["bank"], tally.mismatch.packets) == (octets_of(frames), 0)


def test_other_hosts_at_other_servers_are_no_mismatch() -> None:
    frames = frames_of([("up", C, ""), ("down", OK, "")], server=OTHER)
    assert tally_of(frames).mismatch.packets == 0


# --- rules that follow each other ----------------------------------------------------------------


@pytest.mark.parametrize(("names", "goes_on"), [
    (("shop.example",), True), (("bank.example", "shop.example"), True),
    (("www.shop.example",), False)])
def test_requests_count_on_under_rules_that_list_their_hosts(
    names: tuple[str, ...], goes_on: bool
) -> None:
    before = Rule("before", 1, Match(server=OURS, host=("x.example",)), (Split("bank"),))
    changed = replace(SHOP, match=replace(SHOP.match, host=names))
    old, new = Generation(RULES), Generation(
        replace(RULES, version="sha256:1", rules=(before, changed)))
    first, second = old.worker(), new.worker()
    asked = frames_of([("up", A, ""), ("down", OK[:50], "")])
    after = [segment(6, OK[50:], 50, down=True)]
    own = [segment(7, C, len(A)), segment(8, OK, len(OK), down=True)]
    first.run(reader_of(asked))
    first.succeed(second, START_NS + 5 * SECOND_NS)
    first.run(reader_of([*after, *own]))
    first.finish()
    assert figures(old, first)[:2] == ({"shop": octets_of(asked), "bank": 0}, 0)
    paid_on = octets_of(after) if goes_on else 0
    assert figures(new, second)[:2] == (
        {"shop": paid_on, "bank": 0}, octets_of([*after, *own]) - paid_on)


# --- bounds --------------------------------------------------------------------------------------


def test_connections_for_which_there_is_no_room_have_no_host() -> None:
    """Who speaks no HTTP takes no room for longer than a packet."""
    tables = [frames_of([("up", said, ""), ("down", OK, "")], client=1000 + n)
              for n, said in enumerate([A, b"SSH-2.0-x\r\n", A, A])]
    frames = [frame for table in tables for frame in table]
    tally = tally_of(frames, requests=2)
    assert tally.sponsor_octets["shop"] == octets_of([*tables[0], *tables[2]])
    assert (tally.untracked.packets, tally.untracked.octets) == (1, octets_of(tables[3][2:3]))


def test_room_comes_back_with_flows_that_are_idle() -> None:
    early = frames_of([("up", A, ""), ("down", OK, "")])
    late = [f._replace(timestamp_ns=f.timestamp_ns + 700 * SECOND_NS)
            for f in frames_of([("up", A, ""), ("down", OK, "")], client=1001)]
    assert charged([*early, *late], requests=1)["shop"] == octets_of([*early, *late])


# --- laws ----------------------------------------------------------------------------------------

REQUESTS = {A: "shop", B: "bank", C: "own", POST + bytes(400): "shop",
            get(b"evil.example", b"POST", b"Content-Length: %d\r\n" % len(A)) + A: "own"}
RESPONSES = [OK, answer(b""), CHUNKED + b"3\r\nabc\r\n0\r\n\r\n",
             b"HTTP/1.1 103 Early Hints\r\n\r\n" + OK]


@st.composite
def conversations(draw: st.DrawFn) -> list[tuple[Frame, str]]:
    """A connection in segments as they please, each with who pays; whoever shares one pays not."""
    messages = draw(st.lists(st.tuples(
        st.sampled_from(list(REQUESTS)), st.sampled_from(RESPONSES)), min_size=1, max_size=5))
    payers = [REQUESTS[request] for request, _ in messages]
    found = [(frame, payers[0]) for frame in frames_of([])]
    ways = [b"".join(octets) for octets in zip(*messages, strict=True)]
    ends = [list(accumulate(map(len, octets))) for octets in zip(*messages, strict=True)]
    ats = [0, 0]
    while ats != [len(way) for way in ways]:
        answerable = max([end for asked, end in zip(*ends, strict=True) if asked <= ats[0]],
                         default=0)  # no server answers what has not been asked
        down = ats[0] == len(ways[0]) or (ats[1] < answerable and draw(st.booleans()))
        first = ats[down]
        end = min(first + draw(st.sampled_from([1, 10, 60, 300, 2000])),
                  answerable if down else len(ways[0]))
        touched = {payer for payer, start, behind in zip(
            payers, [0, *ends[down]], ends[down], strict=False) if start < end and first < behind}
        found.append((segment(len(found) / 100, ways[down][first:end], first, down=down),
                      touched.pop() if len(touched) == 1 else "own"))
        ats[down] = end
    return found


def sums(owned: list[tuple[Frame, str]]) -> dict[str, int]:
    return {name: octets_of([frame for frame, payer in owned if payer == name])
            for name in ("shop", "bank", "own")}


@few
@given(conversations())
def test_packets_are_their_requests_in_whatever_segments(owned: list[tuple[Frame, str]]) -> None:
    assert charged([frame for frame, _ in owned]) == sums(owned)


@few
@given(conversations(), st.lists(st.tuples(
    st.integers(0, 40), st.sampled_from(["lost", "twice", "late", "cut"])), min_size=1, max_size=4))
def test_nobody_pays_for_anothers_request_whatever_is_lost(
    owned: list[tuple[Frame, str]], harms: list[tuple[int, str]]
) -> None:
    for at, harm in harms:
        frame, payer = owned.pop(at % len(owned)) if owned else (segment(0), "own")
        if harm == "twice":
            owned[at % (len(owned) + 1) : 0] = [(frame, payer)] * 2
        elif harm == "late":
            owned.insert(at % (len(owned) + 1) + 1, (frame, payer))
        elif harm == "cut":
            owned.insert(at % (len(owned) + 1), (
                frame._replace(octets=frame.octets[:60]), payer))
    paid, most = charged([frame for frame, _ in owned]), sums(owned)
    assert paid["shop"] <= most["shop"] and paid["bank"] <= most["bank"]
