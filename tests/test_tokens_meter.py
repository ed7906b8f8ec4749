"""What a token opens, and every known way to ride on one for free: as packets, with the bill."""

from __future__ import annotations

import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import hellos
import pytest
from fragments import SECOND_NS, fragment, frame
from hellos import hello, named, records
from judges import Frame
from strategies import capture, ipv4, ipv6, prefix, tcp, udp
from test_fragments import START_NS
from test_meter import reader_of
from test_reference import fast

from tollsplit.engine import Tally
from tollsplit.engine.bounds import Bounds
from tollsplit.engine.live import Generation
from tollsplit.engine.pipeline import Sums
from tollsplit.engine.usage import Provenance
from tollsplit.errors import RulesError
from tollsplit.rules import RuleSet, load
from tollsplit.run import explain
from tollsplit.tokens import carrier
from tollsplit.tokens.gate import Gate
from tollsplit.tokens.keys import Key, Keys, add_key, keys_of, read_keys
from tollsplit.tokens.verdict import mint

START_S = START_NS // SECOND_NS
CLIENT, NEIGHBOUR = "10.0.0.7", "10.0.0.8"
SERVER, SECOND, STRANGER = "203.0.113.5", "203.0.113.6", "198.51.100.9"
RULES = """
[tokens]
keys = "video.keys"

[[pools]]
prefixes = ["10.0.0.0/8", "2001:db8::/48"]

[sponsors.video]

[[rules]]
id = "token"
precedence = 10
match = { token = "video" }
split = [{ sponsor = "video" }]
"""
Build = Callable[..., bytes]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    add_key(tmp_path / "video.keys", "video")
    (tmp_path / "rules.toml").write_text(RULES, "utf-8")
    return tmp_path


@pytest.fixture
def rules(home: Path) -> RuleSet:
    return load(home / "rules.toml")


@pytest.fixture
def key(home: Path) -> Key:
    return read_keys([home / "video.keys"]).newest("video", START_NS)


def token(key: Key, subscriber: str = CLIENT, server: str = "203.0.113.0/24",
          expires_s: int = START_S + 60) -> bytes:
    own = subscriber if "." in subscriber else f"{subscriber.rpartition('::')[0]}::/64"
    return mint(key, prefix(own), prefix(server), expires_s)


def packet(payload: bytes = b"", at_s: float = 0, *, source: str = CLIENT, to: str = SERVER,
           ports: tuple[int, int] = (1000, 443), transport: Build = udp) -> Frame:
    protocol = 17 if transport is udp else 6
    build = ipv4 if "." in source else ipv6
    return frame(build(protocol, transport(*ports, payload), source, to),
                 START_NS + int(at_s * SECOND_NS))


def answer(payload: bytes = b"x" * 72, at_s: float = 0, *, source: str = SERVER, to: str = CLIENT,
           ports: tuple[int, int] = (443, 1000), transport: Build = udp) -> Frame:
    return packet(payload, at_s, source=source, to=to, ports=ports, transport=transport)


def bill(frames: list[Frame], rules: RuleSet, **options: int) -> tuple[int, int, dict[str, int]]:
    """(octets of the sponsor, of the subscribers, packets whose token was refused by reason)."""
    tally = fast(frames, rules, bounds=Bounds(**options))
    assert tally.identity_holds
    return (tally.sponsor_octets["video"], tally.subscriber_octets,
            {reason: volume.packets for reason, volume in tally.refused_tokens.items()})


def octets(*frames: Frame) -> int:
    """Of the IP packets."""
    return sum(each.original - 14 for each in frames)


# --- what a token opens --------------------------------------------------------------------------


@pytest.mark.parametrize("transport", [udp, tcp], ids=["udp", "tcp"])
def test_token_opens_its_flow_in_both_directions(
    rules: RuleSet, key: Key, transport: Build
) -> None:
    """What came before it in the flow waits, and is charged as well."""
    frames = [
        packet(at_s=0, transport=transport), answer(at_s=1, transport=transport),
        packet(carrier.prefix(token(key)) + b"GET", 2, transport=transport),
        answer(at_s=3, transport=transport), packet(b"more", 70, transport=transport),
        answer(at_s=200, transport=transport)]  # long after the token has expired
    assert bill(frames, rules) == (octets(*frames), 0, {})


def test_token_in_an_ipv6_option_opens_its_flow(rules: RuleSet, key: Key) -> None:
    here, there = "2001:db8:0:7::1", "2001:db8:ffff::1"
    minted = token(key, here, "2001:db8:ffff::/48")
    option = b"\x11" + carrier.option(minted)[1:]
    first = frame(ipv6(60, option + udp(1000, 443, b""), here, there), START_NS)
    frames = [first, answer(source=there, to=here)]
    assert bill(frames, rules) == (octets(*frames), 0, {})


def test_token_sent_again_in_its_flow_is_no_replay(rules: RuleSet, key: Key) -> None:
    carried = carrier.prefix(token(key))
    frames = [packet(carried, 0), packet(carried, 1), packet(carried, 30)]
    assert bill(frames, rules) == (octets(*frames), 0, {})


def test_token_is_awaited_for_ten_seconds(rules: RuleSet, key: Key) -> None:
    before, late = packet(at_s=0), packet(carrier.prefix(token(key)), 10.5)
    assert bill([before, late], rules) == (0, octets(before, late), {})
    in_time = packet(carrier.prefix(token(key)), 10)
    assert bill([before, in_time], rules) == (octets(before, in_time), 0, {})


def test_token_opens_nothing_in_a_fragment(rules: RuleSet, key: Key) -> None:
    content = udp(1000, 443, carrier.prefix(token(key)) + bytes(24))
    parts = [frame(fragment(CLIENT, SERVER, 1, first, content[first:end], end == 48),
                   START_NS + first) for first, end in ((0, 48), (48, len(content)))]
    assert bill(parts, rules) == (0, octets(*parts), {})


def test_token_of_another_sponsor_fulfils_no_rule(home: Path) -> None:
    """He has a key, and rules of his own; of this one he is not."""
    made = add_key(home / "video.keys", "music")
    text = RULES + '[sponsors.music]\n[[rules]]\nid = "music"\nprecedence = 20\n' + (
        'match = { token = "music", port = 80 }\nsplit = [{ sponsor = "music" }]\n')
    (home / "rules.toml").write_text(text, "utf-8")
    frames = [packet(carrier.prefix(token(made))), answer()]
    assert bill(frames, load(home / "rules.toml")) == (0, octets(*frames), {})
    web = [packet(carrier.prefix(token(made)), ports=(1000, 80)), answer(ports=(80, 1000))]
    tally = fast(web, load(home / "rules.toml"))
    assert tally.sponsor_octets == {"video": 0, "music": octets(*web)}


def test_token_backs_what_users_can_write(home: Path, key: Key) -> None:
    """A claim needs a server, or a token: with one, it is good for whatever server."""
    text = RULES.replace('token = "video"', 'token = "video", dscp = 46')
    (home / "rules.toml").write_text(text, "utf-8")
    rules = load(home / "rules.toml")
    content = udp(1000, 443, carrier.prefix(token(key)))
    marked = frame(ipv4(17, content, CLIENT, SERVER, tos=46 << 2), START_NS)
    plain = packet(at_s=1)
    assert bill([marked, plain], rules) == (octets(marked), octets(plain), {})


def segment(content: bytes, at_s: float, sequence: int) -> Frame:
    header = struct.pack(">HHIIHHHH", 1000, 443, sequence, 1, 0x5018, 512, 0, 0)
    return frame(ipv4(6, header + content, CLIENT, SERVER), START_NS + int(at_s * SECOND_NS))


@pytest.mark.parametrize("order", [[0], [0, 1], [1, 0], [2, 0, 1]], ids=str)
def test_token_in_a_tls_hello_opens_its_connection(
    rules: RuleSet, key: Key, order: list[int]
) -> None:
    """Whole, or in segments that come in any order."""
    whole = records(hello((hellos.TOKEN, token(key)), named(b"video.example")))
    size = -(-len(whole) // len(order))
    parts = [segment(whole[at:at + size], at / 1000, 100 + at)
             for at in range(0, len(whole), size)]
    syn = frame(ipv4(6, struct.pack(">HHIIHHHH", 1000, 443, 99, 0, 0x5002, 512, 0, 0), CLIENT,
                     SERVER), START_NS - SECOND_NS)
    frames = [syn, *(parts[n] for n in order), answer(at_s=2, transport=tcp)]
    assert bill(frames, rules) == (octets(*frames), 0, {})


@pytest.mark.parametrize("reason, held", [
    ("wrong_mac", lambda made: made[:-1] + bytes([made[-1] ^ 1])),
    ("malformed", lambda made: made[:-1]), ("malformed", lambda made: b""),
    ("malformed", lambda made: made + bytes(500)),
])  # fmt: skip
def test_token_in_a_tls_hello_that_is_none_opens_nothing(
    rules: RuleSet, key: Key, reason: str, held: Callable[[bytes], bytes]
) -> None:
    refused([segment(records(hello((hellos.TOKEN, held(token(key))))), 0, 100)], rules, reason)


# --- free rides ----------------------------------------------------------------------------------


def refused(frames: list[Frame], rules: RuleSet, reason: str, paid: int = 0) -> None:
    sponsor, subscribers, reasons = bill(frames, rules)
    assert (sponsor, subscribers) == (paid, octets(*frames) - paid)
    assert reasons == {reason: 1}


def test_ride_on_a_token_copied_to_another_subscriber(rules: RuleSet, key: Key) -> None:
    """Network cookies name no subscriber: who copies one and is faster, rides."""
    carried = carrier.prefix(token(key))
    stolen = [packet(carried, source=NEIGHBOUR), answer(to=NEIGHBOUR)]
    refused(stolen, rules, "wrong_mac")
    own = [packet(carried, 1), answer(at_s=2)]  # it is still the owner's to use
    refused([*stolen, *own], rules, "wrong_mac", octets(*own))


def test_ride_on_a_token_sent_to_another_server(rules: RuleSet, key: Key) -> None:
    """Network cookies name no server: a user puts one into whatever flow he likes."""
    refused([packet(carrier.prefix(token(key)), to=STRANGER), answer(source=STRANGER)], rules,
            "wrong_mac")


def test_ride_on_a_token_used_in_a_second_flow(rules: RuleSet, key: Key) -> None:
    carried = carrier.prefix(token(key))
    first, second = packet(carried), packet(carried, 1, ports=(1001, 443))
    refused([first, second], rules, "used", octets(first))
    elsewhere = packet(carried, 1, to=SECOND)  # its server prefix holds both
    refused([first, elsewhere], rules, "used", octets(first))


def test_ride_on_a_token_whose_flow_is_forgotten(rules: RuleSet, key: Key) -> None:
    """The same five-tuple after five idle minutes is another flow."""
    carried = carrier.prefix(token(key, expires_s=START_S + 3600))
    first, again = packet(carried), packet(carried, 301)
    refused([first, again], rules, "used", octets(first))


def test_ride_on_a_token_after_it_has_expired(rules: RuleSet, key: Key) -> None:
    carried = carrier.prefix(token(key, expires_s=START_S + 60))
    refused([packet(carried, 60)], rules, "expired")
    just = packet(carried, 59.9)
    assert bill([just], rules) == (octets(just), 0, {})


def test_ride_on_a_token_kept_for_later(rules: RuleSet, key: Key) -> None:
    refused([packet(carrier.prefix(token(key, expires_s=START_S + 86_401)))], rules, "too_early")


def test_ride_on_an_answer_forged_from_another_address(rules: RuleSet, key: Key) -> None:
    """ZFREE's masquerade: an accomplice answers in place of the sponsor's server."""
    good = [packet(carrier.prefix(token(key))), answer(at_s=1)]
    forged = [answer(at_s=2, source=STRANGER), answer(at_s=2, source=SECOND),
              answer(at_s=2, ports=(444, 1000)), answer(at_s=2, ports=(443, 1001)),
              answer(at_s=2, transport=tcp)]  # fmt: skip
    assert bill(good + forged, rules) == (octets(*good), octets(*forged), {})


def test_ride_on_a_token_that_the_server_sends(rules: RuleSet, key: Key) -> None:
    """Tokens count in what subscribers send: an accomplice outside cannot open flows."""
    frames = [answer(carrier.prefix(token(key))), packet(at_s=1)]
    assert bill(frames, rules) == (0, octets(*frames), {})


@pytest.mark.parametrize("reason, changed", [
    ("wrong_mac", lambda made: made[:-1] + bytes([made[-1] ^ 1])),
    ("unknown_key", lambda made: made[:3] + b"\x09" + made[4:]),
    ("unknown_key", lambda made: made[:4] + b"0000" + made[8:]),
    ("malformed", lambda made: b"\x02" + made[1:]),
    ("malformed", lambda made: made[:1] + b"\x00" + made[2:]),
    ("malformed", lambda made: made[:1] + b"\x21" + made[2:]),
    ("wrong_mac", lambda made: made[:8] + b"\xff" * 4 + made[12:]),
])  # fmt: skip
def test_ride_on_a_token_that_was_changed(
    rules: RuleSet, key: Key, reason: str, changed: Callable[[bytes], bytes]
) -> None:
    refused([packet(carrier.prefix(changed(token(key)))), answer()], rules, reason)


def test_ride_on_a_token_cut_by_the_capture_is_none(rules: RuleSet, key: Key) -> None:
    """A snap length that cuts a token off leaves the flow its subscriber's."""
    whole = packet(carrier.prefix(token(key)))
    cut = whole._replace(octets=whole.octets[:-1])
    assert bill([cut], rules) == (0, octets(whole), {})


def test_ride_of_two_subscribers_of_one_another(rules: RuleSet, key: Key) -> None:
    """Between two subscribers the one pays who does not bring the token."""
    carried = carrier.prefix(token(key, CLIENT, f"{NEIGHBOUR}/32"))
    one = packet(carried, to=NEIGHBOUR)
    assert bill([one], rules) == (octets(one), octets(one), {})


# --- bounds, floods, keys ------------------------------------------------------------------------


def test_flood_of_forged_tokens_is_counted_and_costs_no_memory(rules: RuleSet, key: Key) -> None:
    made = carrier.prefix(token(key))
    flood = [packet(made[:-4] + n.to_bytes(4, "big"), n / 1e6, ports=(1000 + n % 100, 443))
             for n in range(2_000)]
    gate = Gate(keys_of(rules))
    generation = Generation(rules, gate=gate)
    core = generation.worker()
    core.run(reader_of(flood[:200]))
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        core.run(reader_of(flood[200:]))
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 2_000
    assert len(gate) == 0
    core.finish()
    tally = counted(generation, core)
    assert tally.refused_tokens["wrong_mac"].packets == 2_000
    assert tally.subscriber_octets == octets(*flood)


def counted(generation: Generation, core: object) -> Tally:
    return generation.tally(core, {}, {}, Provenance("", "", "ip"))  # type: ignore[arg-type]


def test_workers_of_a_run_share_what_is_used(rules: RuleSet, key: Key) -> None:
    generation = Generation(rules, gate=Gate(keys_of(rules)))
    carried = carrier.prefix(token(key))
    one, other = generation.worker(), generation.worker()
    one.run(reader_of([packet(carried)]))
    other.run(reader_of([packet(carried, 1, ports=(1001, 443))]))
    for core in (one, other):
        core.finish()
    sums: Sums = counted(generation, one) + counted(generation, other)
    assert sums.refused_tokens["used"].packets == 1
    assert sums.sponsor_octets["video"] == octets(packet(carried))


def test_flow_stays_open_when_rules_change(rules: RuleSet, home: Path, key: Key) -> None:
    """Its token is used: nobody could open it again under the rules that follow."""
    carried = carrier.prefix(token(key))
    gate = Gate(keys_of(rules))
    before = Generation(rules, gate=gate)
    (home / "rules.toml").write_text(RULES.replace('"token"', '"renamed"'), "utf-8")
    after = Generation(load(home / "rules.toml"), gate=gate)
    core, later = before.worker(), after.worker()
    core.run(reader_of([packet(carried)]))
    core.succeed(later, START_NS + 5 * SECOND_NS)
    frames = [answer(at_s=6), packet(carried, 7), packet(carried, 8, ports=(1001, 443))]
    core.run(reader_of(frames))
    later.finish()
    tally = counted(after, later)
    assert tally.sponsor_octets["video"] == octets(*frames[:2])
    assert {r: v.packets for r, v in tally.refused_tokens.items()} == {"used": 1}


def test_keys_that_take_others_place_are_good_at_once(rules: RuleSet, home: Path, key: Key) -> None:
    gate = Gate(keys_of(rules))
    generation = Generation(rules, gate=gate)
    core = generation.worker()
    fresh = add_key(home / "video.keys", "video")
    frame_of = [packet(carrier.prefix(token(fresh)), n, ports=(1000 + n, 443)) for n in range(2)]
    core.run(reader_of(frame_of[:1]))
    gate.keys = keys_of(rules)
    core.run(reader_of(frame_of[1:]))
    core.finish()
    tally = counted(generation, core)
    assert tally.sponsor_octets["video"] == octets(frame_of[1])
    assert tally.refused_tokens["unknown_key"].packets == 1
    gate.keys = Keys()
    assert len(gate) == 1


def test_rules_whose_sponsor_has_no_key_are_refused(home: Path, rules: RuleSet) -> None:
    (home / "video.keys").unlink()
    with pytest.raises(RulesError, match=r"video\.keys: cannot be read"):
        fast([packet()], rules)
    add_key(home / "video.keys", "music")
    with pytest.raises(RulesError, match=r'rules\.toml:10: rule "token": "video" has no key in '
                                         r'"video\.keys"; make one with: tollsplit token keygen'):
        fast([packet()], rules)


def test_rules_without_tokens_read_no_keys(home: Path) -> None:
    (home / "video.keys").unlink()
    (home / "rules.toml").write_text(
        RULES.replace('token = "video"', 'server = ["203.0.113.0/24"]'), "utf-8")
    rules = load(home / "rules.toml")
    assert [w.partition(": ")[2] for w in rules.warnings if "a \"token" in w] == [
        'no rule asks for a "token"']
    assert bill([packet()], rules)[0] == octets(packet())


def test_rules_hold_the_names_of_keys_and_nothing_of_them(rules: RuleSet, home: Path) -> None:
    before = rules.version
    add_key(home / "video.keys", "video")
    again = load(home / "rules.toml")
    assert again.version == before
    assert set(again.content) == {""}
    assert again.token_keys == ("video.keys",)


def test_explain_says_what_a_token_opens(rules: RuleSet, home: Path, key: Key) -> None:
    (home / "a.pcapng").write_bytes(capture([packet(carrier.prefix(token(key))), answer(at_s=1)]))
    for number in (1, 2):
        [side] = explain(home / "a.pcapng", rules, number).sides
        assert side.rule is not None and side.rule.id == "token"
