"""Names that TLS clients say: which rule they make a connection's, what came before it too."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fragments import SECOND_NS, frame
from hellos import ENCRYPTED, body_of, hello, message, named, records
from hypothesis import given, settings
from hypothesis import strategies as st
from judges import Frame
from strategies import INTERFACES, capture, examples, ipv4, prefix
from test_fragments import POOLS, START_NS, few, figures, paid
from test_laws import Pieces
from test_meter import reader_of
from test_reference import assert_same, document, fast

from tollsplit.engine import meter
from tollsplit.engine.bounds import Bounds
from tollsplit.engine.live import Generation
from tollsplit.rules.rule import Ingress, Match, Meter, Rule, RuleSet, Split, Sponsor
from tollsplit.run import explain

SPONSORS = {name: Sponsor(name, f"sponsor:{name}") for name in ("shop", "bank")}
OURS = (prefix("203.0.113.0/24"),)
SHOP = Rule("shop", 20, Match(server=OURS, sni=("shop.example",)), (Split("shop"),))
RULES = RuleSet("names", "sha256:0", Meter(), POOLS, SPONSORS, (SHOP,))
CLIENT, SERVER, OTHER = "10.0.0.7", "203.0.113.5", "192.0.2.80"
SYN, ACK, DATA = 2, 16, 24
HELLO = records(hello(named(b"www.shop.example")))
FIRST = 0xFFFFFFF0  # sequence numbers wrap in the middle of a hello
HEADERS = 40


def segment(at_s: float, octets: bytes = b"", at: int = 0, *, flags: int = DATA,
            server: str = SERVER, port: int = 443, client: int = 1000, down: bool = False,
            captured: int | None = None, dscp: int = 0) -> Frame:
    """A TCP packet whose octets are those from the `at`th of its direction on."""
    ends, ports = (CLIENT, server), (client, port)
    if down:
        ends, ports = ends[::-1], ports[::-1]
    header = struct.pack(">HHIIHHHH", *ports, (FIRST + at) % 2**32, 1, 0x5000 | flags, 512, 0, 0)
    return frame(ipv4(6, header + octets, *ends, tos=dscp << 2), START_NS + int(at_s * SECOND_NS),
                 captured)


def opening(**more: Any) -> list[Frame]:
    return [segment(0, at=-1, flags=SYN, **more),
            segment(0.1, flags=SYN | ACK, down=True, **more),
            segment(0.2, flags=ACK, **more)]


def octets_of(frames: Sequence[Frame]) -> int:
    return sum(f.original - 14 for f in frames)


# --- worked by hand ------------------------------------------------------------------------------


def test_name_covers_its_connection_from_the_first_packet_on() -> None:
    frames = [*opening(), segment(0.3, HELLO), segment(0.4, bytes(500), down=True),
              segment(99, bytes(10), len(HELLO))]
    assert paid(frames, RULES)[:2] == (octets_of(frames), 0)


@pytest.mark.parametrize("said", [
    records(hello(named(b"shop.example.org"))),
    records(hello(named(b"myshop.example"))),
    records(hello()),
    b"GET / HTTP/1.1\r\nHost: shop.example\r\n\r\n",
    b"\x17" + HELLO[1:],
], ids=["another", "no label", "none", "no TLS", "no handshake"])
def test_connection_without_the_name_is_the_subscribers(said: bytes) -> None:
    frames = [*opening(), segment(0.3, said), segment(0.4, bytes(500), down=True)]
    sponsored, own, tally = paid(frames, RULES)
    assert (sponsored, own) == (0, octets_of(frames))
    assert tally.mismatch.packets == tally.untracked.packets == 0


@pytest.mark.parametrize("parts", [
    [(0, 1), (1, 7), (7, 60), (60, 300)],
    [(60, 300), (0, 60)],
    [(200, 300), (100, 200), (0, 100)],
    [(0, 100), (50, 150), (0, 40), (150, 300)],
    [(0, 100), (0, 100), (100, 300)],
], ids=["small", "late", "backwards", "overlapping", "again"])
def test_hello_is_read_in_whatever_segments_it_comes(parts: list[tuple[int, int]]) -> None:
    said = records(message(body_of(named(b"shop.example"), (21, bytes(120)))), (30, 1, 50))
    assert 200 < len(said) <= 300
    frames = [*opening(), *(segment(1 + n / 10, said[first:end], first)
                            for n, (first, end) in enumerate(parts)),
              segment(5, bytes(700), down=True)]
    assert paid(frames, RULES)[:2] == (octets_of(frames), 0)


def test_hello_with_octets_that_contradict_others_has_no_name() -> None:
    """Whose server reads the other copy of them may be told another name."""
    other = records(hello(named(b"www.evil.example")))
    frames = [*opening(), segment(1, HELLO[40:], 40), segment(1.1, other[40:], 40),
              segment(1.2, HELLO[:40]), segment(2, bytes(700), down=True)]
    assert paid(frames, RULES)[:2] == (0, octets_of(frames))


def test_hello_whose_middle_never_comes_ends_the_wait() -> None:
    frames = [*opening(), segment(1, HELLO[:20]), segment(1.1, HELLO[30:], 30),
              segment(12, HELLO[20:30], 20), segment(13, bytes(700), down=True)]
    assert paid(frames, RULES)[:2] == (0, octets_of(frames))


def test_hello_cut_by_the_snap_length_has_no_name() -> None:
    frames = [*opening(), segment(1, HELLO, captured=14 + 40 + 50), segment(2, b"x", len(HELLO))]
    assert paid(frames, RULES)[:2] == (0, octets_of(frames))


def test_hello_that_comes_after_the_wait_covers_what_follows() -> None:
    """Some open connections ahead of time: what is held is charged, what is said is believed."""
    late = [segment(60, HELLO), segment(61, bytes(500), down=True)]
    assert paid([*opening(), *late], RULES)[:2] == (octets_of(late), octets_of(opening()))


def test_parts_of_a_late_hello_wait_for_the_others() -> None:
    late = [segment(60, HELLO[:50]), segment(60.1, b"", down=True), segment(61, HELLO[50:], 50)]
    assert paid([*opening(), *late], RULES)[:2] == (octets_of(late), octets_of(opening()))


def test_connection_whose_beginning_was_not_seen() -> None:
    seen = [segment(0, HELLO), segment(1, b"x", down=True)]
    assert paid(seen, RULES)[:2] == (octets_of(seen), 0)
    inside = [segment(0, b"\x17\3\3\0\1x"), segment(1, HELLO, 6), segment(2, b"x", down=True)]
    assert paid(inside, RULES)[:2] == (0, octets_of(inside))


def test_name_of_one_connection_does_not_cover_the_next() -> None:
    """The same ports again: a SYN, with whatever number. One that comes twice before anything is
    said is a retransmission."""
    twice = [*opening(), segment(0.2, at=-1, flags=SYN), segment(0.3, HELLO)]
    assert paid(twice, RULES)[:2] == (octets_of(twice), 0)
    for at in (0, 10_000):
        other = [segment(2, at=at - 1, flags=SYN), segment(2.1, b"x", at)]
        assert paid([*twice, *other], RULES)[:2] == (octets_of(twice), octets_of(other))


def test_hello_that_comes_again_is_what_it_was() -> None:
    """Until the server answers: then it has arrived, and what comes in its place is nobody's."""
    frames = [*opening(), segment(0.3, HELLO), segment(0.5, HELLO), segment(0.6, HELLO[:20]),
              segment(0.7, b"x", down=True), segment(0.8, bytes(len(HELLO)))]  # fmt: skip
    assert paid(frames, RULES)[:2] == (octets_of(frames), 0)


def test_hello_that_another_takes_the_place_of_was_a_decoy() -> None:
    frames = [*opening(), segment(0.3, HELLO)]
    truth = [segment(0.4, bytes([22]) + bytes(40)), segment(0.5, HELLO),
             segment(0.6, b"x", down=True)]  # fmt: skip
    assert paid([*frames, *truth], RULES)[:2] == (octets_of(frames), octets_of(truth))
    halves = [*opening(), segment(0.3, HELLO[:50]), segment(0.4, HELLO[50:], 50)]
    assert paid([*halves, *truth], RULES)[:2] == (octets_of(halves), octets_of(truth))


def test_encrypted_hello_has_no_name_unless_the_rule_says_so() -> None:
    greased = records(hello(named(b"shop.example"), (ENCRYPTED, bytes(20))))
    frames = [*opening(), segment(0.3, greased)]
    assert paid(frames, RULES)[:2] == (0, octets_of(frames))
    trusting = replace(SHOP, match=replace(SHOP.match, ech=True))
    assert paid(frames, replace(RULES, rules=(trusting,)))[:2] == (octets_of(frames), 0)


def test_address_rules_decide_where_there_is_no_name() -> None:
    bank = Rule("bank", 30, Match(server=OURS), (Split("bank"),))
    rules = replace(RULES, rules=(SHOP, bank))
    named_so, not_so = [*opening(), segment(0.3, HELLO)], [
        *opening(client=1001), segment(0.3, records(hello()), client=1001)]
    _, own, tally = paid([*named_so, *not_so], rules)
    assert (dict(tally.sponsor_octets), own) == (
        {"shop": octets_of(named_so), "bank": octets_of(not_so)}, 0)


def test_conditions_on_packets_hold_for_each() -> None:
    """The hello goes up; what the rule pays for is what comes down."""
    down = replace(SHOP, match=replace(SHOP.match, direction="downlink"))
    up, downs = [segment(0, at=-1, flags=SYN), segment(0.3, HELLO)], [
        segment(0.1, flags=SYN | ACK, down=True), segment(0.4, bytes(500), down=True)]
    frames = sorted([*up, *downs], key=lambda f: f.timestamp_ns)
    assert paid(frames, replace(RULES, rules=(down,)))[:2] == (octets_of(downs), octets_of(up))
    sticky = replace(SHOP, match=replace(SHOP.match, sticky=True, dscp=frozenset({46})))
    rules = replace(RULES, rules=(sticky,))
    assert paid(frames, rules)[:2] == (0, octets_of(frames))
    frames.append(segment(1, b"x", len(HELLO), dscp=46))
    assert paid(frames, rules)[:2] == (octets_of(frames), 0)


# --- claims that an address contradicts ----------------------------------------------------------


def test_name_from_another_server_is_a_mismatch() -> None:
    """From the hello on; what came before claims nothing."""
    before = opening(server=OTHER)
    after = [segment(0.3, HELLO, server=OTHER), segment(0.4, bytes(500), server=OTHER, down=True)]
    sponsored, own, tally = paid([*before, *after], RULES)
    assert (sponsored, own) == (0, octets_of([*before, *after]))
    assert (tally.mismatch.packets, tally.mismatch.octets) == (2, octets_of(after))


def test_name_from_another_server_in_parts_is_a_mismatch() -> None:
    parts = [segment(0.3, HELLO[:50], server=OTHER), segment(0.4, HELLO[50:], 50, server=OTHER)]
    _, own, tally = paid(parts, RULES)
    assert own == octets_of(parts)
    assert (tally.mismatch.packets, tally.mismatch.octets) == (1, octets_of(parts[1:]))


def test_claim_is_nobodys_business_where_a_rule_takes_the_packet() -> None:
    bank = Rule("bank", 30, Match(server=(prefix("192.0.2.0/24"),)), (Split("bank"),))
    frames = [*opening(server=OTHER), segment(0.3, HELLO, server=OTHER)]
    sponsored, _, tally = paid(frames, replace(RULES, rules=(SHOP, bank)))
    assert (sponsored, tally.mismatch.packets) == (octets_of(frames), 0)


def test_names_need_no_server_behind_a_trusted_ingress() -> None:
    inside = replace(SHOP, match=Match(sni=("shop.example",), ingress="gi"))
    rules = replace(RULES, rules=(inside,), ingresses={
        "gi": Ingress("gi", INTERFACES[0], True), "other": Ingress("other", INTERFACES[1])})
    frames = [*opening(server=OTHER), segment(0.3, HELLO, server=OTHER)]
    for ingress, sponsored in ((1, octets_of(frames)), (2, 0)):
        entered = [f._replace(ingress=ingress) for f in frames]
        assert paid(entered, rules)[:2] == (sponsored, octets_of(frames) - sponsored)


# --- rules that follow each other ----------------------------------------------------------------


@pytest.mark.parametrize(("names", "ech", "goes_on"), [
    (("shop.example",), False, True),
    (("bank.example", "shop.example"), False, True),
    (("shop.example",), True, True),
    (("www.shop.example",), False, False),
])
def test_name_counts_on_under_rules_that_list_it(
    names: tuple[str, ...], ech: bool, goes_on: bool
) -> None:
    changed = replace(SHOP, match=replace(SHOP.match, sni=names, ech=ech))
    before = Rule("before", 1, Match(server=OURS, dscp=frozenset({1}), sticky=True), ())
    old, new = Generation(RULES), Generation(
        replace(RULES, version="sha256:1", rules=(before, changed)))
    first, second = old.worker(), new.worker()
    said, after = [*opening(), segment(0.3, HELLO)], [segment(6, bytes(500), down=True)]
    first.run(reader_of(said))
    first.succeed(second, START_NS + 5 * SECOND_NS)
    first.run(reader_of(after))
    first.finish()
    assert figures(old, first)[:2] == ({"shop": octets_of(said), "bank": 0}, 0)
    paid_on = octets_of(after) if goes_on else 0
    assert figures(new, second)[:2] == (
        {"shop": paid_on, "bank": 0}, octets_of(after) - paid_on)


def test_explain_says_whether_the_flow_has_the_name(tmp_path: Path) -> None:
    path = tmp_path / "names.pcapng"
    path.write_bytes(capture([*opening(), segment(0.3, HELLO), segment(0.4, b"x", down=True)]))
    told = []
    for number in (1, 5):
        [side] = explain(path, RULES, number).sides
        [condition] = [c for c in side.judgements[0].conditions if c.name == "sni"]
        told.append((side.rule, condition.expected, condition.found, condition.holds))
    assert told == [
        (None, "shop.example", "its flow has said no name", False),
        (SHOP, "shop.example", "its flow has said www.shop.example", True)]


# --- bounds --------------------------------------------------------------------------------------


def test_hellos_for_which_there_is_no_room() -> None:
    """The oldest makes room; what waited of it is charged as it is."""
    parts = [segment(n / 10, HELLO[:50], client=1000 + n) for n in range(3)]
    rest = [segment(1 + n / 10, HELLO[50:], 50, client=1000 + n) for n in range(3)]
    sponsored, own, tally = paid([*parts, *rest], RULES, talks=2)
    assert (sponsored, own) == (octets_of([*parts[1:], *rest[1:]]), octets_of([parts[0], rest[0]]))
    assert tally.untracked.packets == 1


# --- against the slow judge ----------------------------------------------------------------------

bounds = st.sampled_from([
    Bounds(), Bounds(), Bounds(talks=1), Bounds(flows=2, talks=2), Bounds(held=2),
    Bounds(flow_idle_ns=3 * SECOND_NS, flow_hold_ns=2 * SECOND_NS, talks=1)])
SAID = [records(hello(named(b"shop.example"))), records(hello(named(b"a.bank.example")), (9, 30)),
        records(hello(named(b"elsewhere.example"))), records(hello()), b"SSH-2.0-x\r\n",
        records(hello(named(b"shop.example"), (ENCRYPTED, b"x")))]


@st.composite
def connections(draw: st.DrawFn) -> list[Frame]:
    """A few connections in segments that come in any order, late, twice, or not at all."""
    found: list[Frame] = []
    for client in range(draw(st.integers(1, 3))):
        server = draw(st.sampled_from([SERVER, SERVER, OTHER]))
        said = draw(st.sampled_from(SAID)) + bytes(draw(st.integers(0, 30)))
        ports: Any = {"client": 1000 + client % 2, "server": server}
        at_s = draw(st.floats(0, 3))
        if draw(st.booleans()):
            found += [segment(at_s, at=-1, flags=SYN, **ports),
                      segment(at_s + 0.1, flags=SYN | ACK, down=True, **ports)]
        cuts = sorted(draw(st.sets(st.integers(1, len(said) - 1), max_size=3)))
        parts = list(zip([0, *cuts], [*cuts, len(said)], strict=True))
        for first, end in draw(st.permutations(parts) if draw(st.booleans()) else st.just(parts)):
            at_s += draw(st.sampled_from([0, 0.1, 1, 4]))
            octets = said[first : end + draw(st.sampled_from([0, 0, 5]))]
            if draw(st.integers(0, 9)) == 0:
                found.append(segment(at_s, bytes(len(octets)), first, **ports))
            found.append(segment(at_s, octets, first, dscp=draw(st.sampled_from([0, 0, 46])),
                                 captured=draw(st.sampled_from([None] * 9 + [80])), **ports))
        found.append(segment(at_s + 0.5, b"answer", down=True, **ports))
    return sorted(found, key=lambda f: f.timestamp_ns) if draw(st.booleans()) else found


@st.composite
def named_rules(draw: st.DrawFn) -> RuleSet:
    everywhere = (*OURS, prefix("192.0.2.0/24"))
    matches = draw(st.lists(st.builds(
        Match, server=st.sampled_from([OURS, everywhere, None]),
        sni=st.sampled_from([("shop.example",), ("*.bank.example", "shop.example"), None]),
        ech=st.booleans(), direction=st.sampled_from(["both", "both", "uplink"]),
        dscp=st.sampled_from([None, None, frozenset({46})]), sticky=st.booleans()), max_size=4))
    matches.insert(draw(st.integers(0, len(matches))), SHOP.match)
    rules = tuple(Rule(f"r{n}", n, match, (Split(("shop", "bank")[n % 2]),))
                  for n, match in enumerate(matches, 1))
    return replace(RULES, rules=rules, meter=Meter(window_s=draw(st.sampled_from([None, 1]))))


@settings(few, max_examples=examples(75))  # the reference engine takes hellos octet by octet
@given(connections(), named_rules(), bounds)
def test_names_core_equals_reference(
    frames: list[Frame], rules: RuleSet, bounds: Bounds
) -> None:
    assert_same(frames, rules, bounds=bounds)


@few
@given(connections(), named_rules(), bounds, st.lists(st.sampled_from([0, 1, 2, 5]), max_size=6))
def test_names_cost_the_same_however_frames_are_batched(
    frames: list[Frame], rules: RuleSet, bounds: Bounds, sizes: list[int]
) -> None:
    whole = fast(frames, rules, bounds=bounds)
    cut = meter([Pieces(frames, sizes, rules)], rules, bounds=bounds)
    assert document(cut) == document(whole)
