"""Rules that ask for names by DNS: a trusted resolver's answers, heard on the way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import dns.message
import dns.rrset
import pytest
from fragments import SECOND_NS, frame
from judges import Frame
from strategies import ipv4, ipv6, prefix, tcp, udp
from test_fragments import POOLS, START_NS
from test_meter import reader_of
from test_reference import fast

from tollsplit.engine.bounds import Bounds
from tollsplit.engine.live import Generation
from tollsplit.engine.usage import Provenance
from tollsplit.rules.rule import Match, Meter, Rule, RuleSet, Split, Sponsor

CLIENT, RESOLVER, SERVER = "10.0.0.7", "192.0.2.53", "203.0.113.5"
CLIENT6, RESOLVER6, SERVER6 = "2001:db8::7", "2001:db8:f::53", "2001:db8:ffff::5"
VIDEO = Rule("video", 10, Match(dns=frozenset({"video.example"})), (Split("video"),))
RULES = RuleSet(
    "dns", "sha256:0", Meter(resolvers=(prefix("192.0.2.53/32"), prefix("2001:db8:f::53/128"))),
    POOLS, {"video": Sponsor("video", "sponsor:video")}, (VIDEO,),
)  # fmt: skip
PACKET = 40 + 100  # octets


def packet(source: str, destination: str, ports: tuple[int, int], content: bytes, at_s: float,
           protocol: int = 17) -> Frame:  # fmt: skip
    build = ipv4 if "." in source else ipv6
    transport = udp if protocol == 17 else tcp
    return frame(build(protocol, transport(*ports, content), source, destination),
                 START_NS + int(at_s * SECOND_NS))


def asked(name: str = "video.example", at_s: float = 0, *, client: str = CLIENT,
          resolver: str = RESOLVER, port: int = 5000, number: int = 7, kind: str = "A",
          to_port: int = 53) -> Frame:  # fmt: skip
    query = dns.message.make_query(name + ".", kind, id=number)
    return packet(client, resolver, (port, to_port), query.to_wire(), at_s)


def answered(name: str = "video.example", at_s: float = 0.1, *, address: str = SERVER,
             ttl_s: int = 60, client: str = CLIENT, resolver: str = RESOLVER, port: int = 5000,
             number: int = 7) -> Frame:  # fmt: skip
    kind = "A" if "." in address else "AAAA"
    response = dns.message.make_response(dns.message.make_query(name + ".", kind, id=number))
    response.answer.append(dns.rrset.from_text(name + ".", ttl_s, "IN", kind, address))
    return packet(resolver, client, (53, port), response.to_wire(), at_s)


def used(at_s: float, *, server: str = SERVER, client: str = CLIENT, port: int = 1000) -> Frame:
    """A packet of 140 octets to a server."""
    return packet(client, server, (port, 443), bytes(100), at_s, 6)


def back(at_s: float, *, server: str = SERVER, client: str = CLIENT, port: int = 1000) -> Frame:
    return packet(server, client, (443, port), bytes(100), at_s, 6)


def sponsored(frames: Sequence[Frame], rules: RuleSet = RULES, **bounds: int) -> int:
    """Octets that the sponsor pays."""
    tally = fast(frames, rules, bounds=Bounds(**bounds))
    assert tally.identity_holds
    paid = tally.subscriber_octets + sum(tally.sponsor_octets.values())
    assert paid == tally.metered.octets >= sum(f.original - 14 for f in frames)
    return sum(tally.sponsor_octets.values())


def test_resolver_says_whose_an_address_is() -> None:
    frames = [asked(), answered(), used(1), back(1), used(2, server="203.0.113.6")]
    assert sponsored(frames) == 2 * PACKET


def test_resolver_is_heard_over_ipv6_too() -> None:
    frames = [asked(client=CLIENT6, resolver=RESOLVER6, kind="AAAA"),
              answered(client=CLIENT6, resolver=RESOLVER6, address=SERVER6),
              used(1, server=SERVER6, client=CLIENT6)]  # fmt: skip
    assert sponsored(frames) == PACKET + 20


def test_resolver_of_one_subscriber_is_heard_for_all() -> None:
    """An address is a name's for whoever goes there."""
    assert sponsored([asked(), answered(), used(1, client="10.9.9.9")]) == PACKET


@pytest.mark.parametrize(("name", "listed", "is_paid"), [
    ("cdn.video.example", "video.example", True), ("VIDEO.Example", "video.example", True),
    ("myvideo.example", "video.example", False), ("video.example", "*.video.example", False),
    ("a.video.example", "*.video.example", True), ("other.example", "video.example", False),
])  # fmt: skip
def test_resolver_answers_for_names_that_are_listed(name: str, listed: str, is_paid: bool) -> None:
    rule = replace(VIDEO, match=Match(dns=frozenset({listed})))
    frames = [asked(name), answered(name), used(1)]
    assert sponsored(frames, replace(RULES, rules=(rule,))) == PACKET * is_paid


@pytest.mark.parametrize(("description", "frames"), [
    ("nobody asked", [answered()]),
    ("asked for another name", [asked("other.example"), answered()]),
    ("another number", [asked(number=8), answered()]),
    ("another port", [asked(port=5001), answered()]),
    ("another client", [asked(client="10.0.0.8"), answered()]),
    ("another resolver asked", [asked(resolver="192.0.2.54"), answered()]),
    ("nobody trusts it", [asked(resolver="192.0.2.54"), answered(resolver="192.0.2.54")]),
    ("a subscriber's address", [asked(resolver="10.0.0.53"), answered(resolver="10.0.0.53")]),
    ("no port of a resolver's", [asked(to_port=54), answered()]),
    ("the answer came first", [answered(at_s=0), asked(at_s=0.1)]),
    ("answered too late", [asked(at_s=-11), answered()]),
    ("another kind", [asked(kind="AAAA"), answered()]),
    ("an answer sent upwards", [
        asked(), packet(CLIENT, RESOLVER, (5000, 53), answered().octets[42:], 0.1)]),
])  # fmt: skip
def test_resolver_is_not_believed_where(description: str, frames: list[Frame]) -> None:
    trusted = (*RULES.meter.resolvers, prefix("10.0.0.53/32"))
    rules = replace(RULES, meter=replace(RULES.meter, resolvers=trusted))
    assert sponsored([*frames, used(1)], rules) == 0


def test_resolver_answer_that_was_cut_off_says_nothing() -> None:
    whole = answered()
    for captured in range(42, len(whole.octets)):
        cut = whole._replace(octets=whole.octets[:captured])
        assert sponsored([asked(), cut, used(1)]) == 0


def test_resolver_answers_count_for_flows_that_open_in_their_time() -> None:
    opened = [asked(), answered(ttl_s=60), used(60), used(300), used(61, port=1001)]
    frames = sorted(opened, key=lambda f: f.timestamp_ns)
    assert sponsored(frames) == 2 * PACKET


def test_resolver_answers_count_for_no_flow_that_was_there_before() -> None:
    frames = [used(0), asked(at_s=1), answered(at_s=2), used(3), back(3), used(3, port=1001)]
    assert sponsored(frames) == PACKET


def test_resolver_answers_count_from_their_frame_on() -> None:
    """All at one time, and in one batch."""
    frames = [asked(at_s=0), used(0, port=1), answered(at_s=0), used(0, port=2)]
    assert sponsored(frames) == PACKET


def test_resolver_names_go_with_other_conditions() -> None:
    match = Match(dns=VIDEO.match.dns, port=((443, 443),), direction="downlink")
    rules = replace(RULES, rules=(replace(VIDEO, match=match),))
    frames = [asked(), answered(), used(1), back(1)]
    assert sponsored(frames, rules) == PACKET
    elsewhere = Match(dns=VIDEO.match.dns, server=(prefix("198.51.100.0/24"),))
    assert sponsored(frames, replace(RULES, rules=(replace(VIDEO, match=elsewhere),))) == 0


def test_resolver_names_and_sticky_tags_are_both_needed() -> None:
    match = Match(dns=VIDEO.match.dns, direction="downlink", sticky=True)
    rules = replace(RULES, rules=(replace(VIDEO, match=match),))
    frames = [asked(), answered(), used(1), back(2), used(3), used(3, server="203.0.113.6")]
    assert sponsored(frames, rules) == 3 * PACKET


def test_resolver_answers_in_a_tunnel_are_heard() -> None:
    """What is metered is what is heard."""
    outer = [ipv4(4, f.octets[14:], "198.51.100.1", "198.51.100.2")
             for f in (asked(), answered(), used(1))]  # fmt: skip
    frames = [frame(octets, START_NS + i * SECOND_NS) for i, octets in enumerate(outer)]
    tally = fast(frames, RULES)
    assert sum(tally.sponsor_octets.values()) == PACKET


def test_resolver_is_heard_beside_fragments() -> None:
    """Frames of a batch with fragments are gone through one by one."""
    part = frame(ipv4(17, bytes(8), CLIENT, "198.51.100.9", fragment=0x2000), START_NS)
    assert sponsored([part, asked(), answered(), used(1)]) == PACKET


def test_resolver_is_heard_by_all_workers() -> None:
    generation = Generation(RULES)
    one, other = generation.worker(), generation.worker()
    one.run(reader_of([asked(), answered()]))
    other.run(reader_of([used(1)]))
    whole = generation.meter()
    for each in (one, other):
        each.finish()
        whole.absorb(each)
    tally = generation.tally(whole, {}, {}, Provenance("", "", "ip"))
    assert dict(tally.sponsor_octets) == {"video": PACKET}


def test_resolver_answers_stay_when_rules_change() -> None:
    first = Generation(RULES)
    narrow = replace(VIDEO, match=Match(dns=VIDEO.match.dns, port=((443, 443),)))
    later = Generation(replace(RULES, version="sha256:1", rules=(narrow,)))
    before, after = first.worker(), later.worker()
    before.succeed(after, START_NS + SECOND_NS)
    before.run(reader_of([asked(), answered(), used(2), used(3, port=1001)]))
    after.finish()
    tally = later.tally(after, {}, {}, Provenance("", "", "ip"))
    assert dict(tally.sponsor_octets) == {"video": 2 * PACKET}
