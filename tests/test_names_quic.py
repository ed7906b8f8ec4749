"""Names that QUIC clients say: which rule they make a flow's, what came before it too."""

from __future__ import annotations

import datetime
import ssl
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from fragments import SECOND_NS, frame
from hellos import ENCRYPTED, hello, named
from hypothesis import given
from hypothesis import strategies as st
from initials import ID, V1, V2, crypto, first_flight, initial
from judges import Frame
from strategies import ipv4, udp
from test_fragments import START_NS, few, paid
from test_laws import Pieces
from test_names import CLIENT, OTHER, OURS, RULES, SERVER, SHOP, octets_of, segment
from test_reference import assert_same, document, fast

from tollsplit.engine import meter
from tollsplit.engine.bounds import Bounds
from tollsplit.errors import RulesError
from tollsplit.limits import QUIC_PACKETS_MAX
from tollsplit.rules.compile import Compiled
from tollsplit.rules.rule import Match, Rule, Split

HEADERS = 28
WHOLE = hello(named(b"www.shop.example"), (9, bytes(200)))
ONE = initial(crypto(WHOLE))
FIRST, SECOND = initial(crypto(WHOLE[:90])), initial(crypto(WHOLE[90:], 90), number=1)
SHORT = b"\x40" + bytes(40)


def datagram(at_s: float, octets: bytes, *, server: str = SERVER, client: int = 2000,
             down: bool = False, captured: int | None = None, dscp: int = 0) -> Frame:
    ends, ports = (CLIENT, server), (client, 443)
    if down:
        ends, ports = ends[::-1], ports[::-1]
    return frame(ipv4(17, udp(*ports, octets), *ends, tos=dscp << 2),
                 START_NS + int(at_s * SECOND_NS), captured)


def sent(*datagrams: bytes, **more: Any) -> list[Frame]:
    return [datagram(n / 10, octets, **more) for n, octets in enumerate(datagrams)]


# --- worked by hand ------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [V1, V2])
def test_quic_name_covers_its_flow(version: int) -> None:
    """28 octets of headers are on each datagram."""
    frames = [datagram(0, bytes(72), down=True),
              datagram(0.1, initial(crypto(WHOLE), version=version)),
              datagram(0.2, bytes(972), down=True), datagram(0.3, SHORT)]
    assert paid(frames, RULES)[:2] == (100 + 1228 + 1000 + 69, 0)


@pytest.mark.parametrize("version", [V1, V2])
def test_quic_client_of_aioquic_is_the_sponsors(version: int) -> None:
    said = sent(*first_flight("video.shop.example", version))
    other = sent(*first_flight("shop.example.org", version), client=2001)
    frames = [*said, datagram(1, bytes(500), down=True), *other,
              datagram(1, bytes(300), down=True, client=2001)]
    assert paid(frames, RULES)[:2] == (
        octets_of(frames[: len(said) + 1]), octets_of(frames[len(said) + 1 :]))


@pytest.mark.parametrize("datagrams", [
    [FIRST, SECOND], [SECOND, FIRST], [FIRST, FIRST, SECOND], [FIRST, SECOND, SHORT],
], ids=["in order", "backwards", "again", "with more"])
def test_quic_hello_over_two_packets(datagrams: list[bytes]) -> None:
    frames = [*sent(*datagrams), datagram(2, bytes(700), down=True)]
    assert paid(frames, RULES)[:2] == (octets_of(frames), 0)


def test_quic_hello_in_a_flow_that_is_old_covers_what_follows() -> None:
    """What waits for it has been charged; its own first packet waits for its second."""
    before = [datagram(0, bytes(100), down=True)]
    after = [datagram(60, FIRST), datagram(60.1, bytes(50), down=True), datagram(60.2, SECOND)]
    assert paid([*before, *after], RULES)[:2] == (octets_of(after), octets_of(before))


def test_quic_client_that_is_asked_to_come_again() -> None:
    """A Retry: the client begins once more with a token, to the number that the server chose."""
    chosen = b"chosen by the server"
    again = [initial(crypto(WHOLE[:90]), number=2, to=chosen, token=b"token"),
             initial(crypto(WHOLE[90:], 90), number=3, to=chosen, token=b"token")]
    retry = datagram(0.2, b"\xf0" + bytes(90), down=True)
    frames = [datagram(0, FIRST), datagram(0.1, SECOND), retry, datagram(0.3, again[0]),
              datagram(0.35, bytes(50), down=True), datagram(0.4, again[1]), datagram(0.5, SHORT)]
    assert paid(frames, RULES)[:2] == (octets_of(frames), 0)
    lost = [frames[0], *frames[2:]]  # its first hello was not seen as a whole
    assert paid(lost, RULES)[:2] == (0, octets_of(lost))


def test_quic_whose_first_packet_is_lost() -> None:
    """It comes again, or the client goes on without the capture having seen it."""
    comes = [datagram(0, SECOND), datagram(0.5, FIRST), datagram(0.6, SHORT)]
    assert paid(comes, RULES)[:2] == (octets_of(comes), 0)
    goes_on = [datagram(0, SECOND), datagram(0.1, SHORT), datagram(0.2, FIRST)]
    assert paid(goes_on, RULES)[:2] == (0, octets_of(goes_on))


def test_quic_hello_that_hides_its_name() -> None:
    hidden = hello(named(b"shop.example"), (ENCRYPTED, bytes(20)))
    frames = [*sent(initial(crypto(hidden))), datagram(1, bytes(500), down=True)]
    assert paid(frames, RULES)[:2] == (0, octets_of(frames))
    trusting = replace(SHOP, match=replace(SHOP.match, ech=True))
    assert paid(frames, replace(RULES, rules=(trusting,)))[:2] == (octets_of(frames), 0)


@pytest.mark.parametrize("first", [
    SHORT, b"", bytes(1200), ONE[:1199], ONE[:700] + b"\0" + ONE[701:],
    b"\xc0\xff\0\0\x1d" + ONE[5:], initial(crypto(hello())), initial(crypto(b"\2" + WHOLE[1:])),
    b"\xe0" + ONE[1:],
], ids=["short header", "nothing", "zeroes", "too small", "forged", "a draft", "no name",
        "no hello", "no Initial"])
def test_quic_flow_that_begins_otherwise_has_no_name(first: bytes) -> None:
    frames = [*sent(first, ONE), datagram(1, bytes(500), down=True)]
    sponsored, own, tally = paid(frames, RULES)
    assert (sponsored, own) == (0, octets_of(frames))
    assert tally.mismatch.packets == tally.untracked.packets == 0


def test_quic_flow_that_begins_otherwise_keeps_nothing_waiting() -> None:
    """One counter may wait: were those of other flows kept, it would be crowded out."""
    frames = [*(datagram(n / 10, SHORT, client=3000 + n) for n in range(5)),
              datagram(1, FIRST), datagram(1.1, SECOND)]
    _, own, tally = paid(frames, RULES, held=1)
    assert (own, tally.untracked.packets) == (5 * (HEADERS + 41), 0)


def test_quic_packet_cut_by_the_snap_length_has_no_name() -> None:
    frames = [datagram(0, ONE, captured=14 + HEADERS + 1199), datagram(1, SHORT)]
    assert paid(frames, RULES)[:2] == (0, octets_of(frames))


def test_quic_conditions_on_packets_hold_for_each() -> None:
    down = replace(SHOP, match=replace(SHOP.match, direction="downlink"))
    frames = [datagram(0, ONE), datagram(0.1, bytes(500), down=True)]
    assert paid(frames, replace(RULES, rules=(down,)))[:2] == (
        octets_of(frames[1:]), octets_of(frames[:1]))


# --- claims that an address contradicts ----------------------------------------------------------


def test_quic_name_from_another_server_is_a_mismatch() -> None:
    """From the packet on that completes the hello."""
    before, after = [datagram(0, FIRST, server=OTHER)], [
        datagram(0.1, SECOND, server=OTHER), datagram(0.2, bytes(500), server=OTHER, down=True)]
    sponsored, own, tally = paid([*before, *after], RULES)
    assert (sponsored, own) == (0, octets_of([*before, *after]))
    assert (tally.mismatch.packets, tally.mismatch.octets) == (2, octets_of(after))


# --- which rules it concerns ---------------------------------------------------------------------


def test_quic_says_nothing_of_hosts() -> None:
    """HTTP/3 hides them: a rule that asks for one as well covers no UDP, and waits for none."""
    both = replace(SHOP, match=replace(SHOP.match, host=("shop.example",)))
    frames = sent(ONE, SHORT)
    sponsored, own, tally = paid(frames, replace(RULES, rules=(both,)), held=0)
    assert (sponsored, own, tally.untracked.packets) == (0, octets_of(frames), 0)


@pytest.mark.parametrize(("match", "asked"), [
    (Match(server=OURS, sni=("a.example",)), True),
    (Match(server=OURS, sni=("a.example",), protocol=frozenset({6, 17})), True),
    (Match(server=OURS, sni=("a.example",), protocol=frozenset({6})), False),
    (Match(server=OURS, sni=("a.example",), host=("a.example",)), False),
    (Match(server=OURS, host=("a.example",)), False),
    (Match(server=OURS), False),
])
def test_quic_needs_cryptography_only_where_rules_ask_for_it(
    match: Match, asked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    rules = replace(RULES, rules=(Rule("r", 1, match, (Split("shop"),)),))
    assert (Compiled(rules).classifier.seal is not None) == asked
    monkeypatch.setitem(sys.modules, "cryptography.exceptions", None)
    if asked:
        with pytest.raises(RulesError, match=r"pip install 'tollsplit\[names\]'"):
            Compiled(rules)
    else:
        Compiled(rules)


def test_quic_name_covers_no_tcp_connection_of_the_same_ports() -> None:
    frames = [datagram(0, ONE, client=1000), segment(1, b"\x17\3\3\0\1x")]
    assert paid(frames, RULES)[:2] == (octets_of(frames[:1]), octets_of(frames[1:]))


# --- a whole connection --------------------------------------------------------------------------


def test_quic_connection_of_two_real_ends_is_the_sponsors(tmp_path: Path) -> None:
    """aioquic on both ends, through a handshake and 20,000 octets: all packets, both directions."""
    frames = connection(tmp_path, "www.shop.example")
    assert len(frames) > 20 and octets_of(frames) > 20_000
    assert paid(frames, RULES)[:2] == (octets_of(frames), 0)
    elsewhere = connection(tmp_path, "www.bank.example")
    assert paid(elsewhere, RULES)[:2] == (0, octets_of(elsewhere))


def connection(folder: Path, host: str) -> list[Frame]:
    """All datagrams of a connection that loads something."""
    there, here = server_of(folder), QuicConnection(configuration=QuicConfiguration(
        is_client=True, server_name=host, alpn_protocols=["x"], verify_mode=ssl.CERT_NONE))
    here.connect((SERVER, 443), now=0.0)
    server = QuicConnection(configuration=there, original_destination_connection_id=(
        here.original_destination_connection_id))
    frames: list[Frame] = []
    for turn in range(40):
        if turn == 3:
            here.send_stream_data(0, b"GET", end_stream=True)
            server.send_stream_data(1, bytes(20_000), end_stream=True)
        for end, other, down in ((here, server, False), (server, here, True)):
            for octets, _ in end.datagrams_to_send(now=turn / 10):
                frames.append(datagram(turn / 10 + down / 20, octets, down=down))
                other.receive_datagram(octets, (SERVER, 443), now=turn / 10)
    return frames


def server_of(folder: Path) -> QuicConfiguration:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "shop.example")])
    start = datetime.datetime(2025, 1, 1)
    certificate = (x509.CertificateBuilder().subject_name(name).issuer_name(name)
                   .public_key(key.public_key()).serial_number(1).not_valid_before(start)
                   .not_valid_after(start + datetime.timedelta(36500))
                   .sign(key, hashes.SHA256()))  # fmt: skip
    pem = folder / "server.pem"
    pem.write_bytes(certificate.public_bytes(serialization.Encoding.PEM) + key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption()))
    configuration = QuicConfiguration(is_client=False, alpn_protocols=["x"])
    configuration.load_cert_chain(pem)
    return configuration


# --- bounds --------------------------------------------------------------------------------------


def test_quic_flood_of_forged_packets_takes_no_conversations() -> None:
    """What nobody can open is read once, and forgotten; a true one goes on beside it."""
    forged = [datagram(0.1 + n / 1000, ONE[:1190] + bytes(10), client=3000 + n) for n in range(300)]
    frames = [datagram(0, FIRST), *forged, datagram(1, SECOND)]
    sponsored, own, tally = paid(frames, RULES, talks=2)
    assert (sponsored, own) == (2 * 1228, 300 * 1228)
    assert tally.untracked.packets == 0


def test_quic_hellos_for_which_there_is_no_room() -> None:
    parts = [datagram(n / 10, FIRST, client=2000 + n) for n in range(3)]
    rest = [datagram(1 + n / 10, SECOND, client=2000 + n) for n in range(3)]
    sponsored, own, tally = paid([*parts, *rest], RULES, talks=2)
    assert (sponsored, own) == (octets_of([*parts[1:], *rest[1:]]), octets_of([parts[0], rest[0]]))
    assert tally.untracked.packets == 1


def test_quic_client_that_never_says_its_name_is_read_no_more() -> None:
    pings = [initial(b"\1", number=n) for n in range(QUIC_PACKETS_MAX)]
    said = initial(crypto(WHOLE), number=QUIC_PACKETS_MAX)
    late = sent(*pings, said)
    assert paid(late, RULES)[:2] == (0, octets_of(late))
    in_time = sent(*pings[1:], said)
    assert paid(in_time, RULES)[:2] == (octets_of(in_time), 0)
    other = datagram(3, FIRST, client=2001)  # one counter may wait: the pings' does not any more
    assert paid([*late[:-1], other], RULES, held=1)[2].untracked.packets == 0


# --- against the slow judge ----------------------------------------------------------------------

SAID = [[ONE], [FIRST, SECOND], [SECOND, FIRST], [FIRST, SECOND, SHORT],
        [initial(crypto(hello(named(b"elsewhere.example"))))],
        [initial(crypto(hello(named(b"a.bank.example"))), version=V2)], [FIRST, SHORT, SECOND],
        [initial(crypto(hello(named(b"shop.example"), (ENCRYPTED, b"x"))))], [SHORT, ONE], [FIRST],
        [b"\xd0" + bytes([0, 0, 0, 1, 8]) + ID + b"\0" + b"\x44\x9f" + bytes(1183), ONE],
        [FIRST, ONE[:1199], b"\xe0" + SECOND[1:], SECOND], [FIRST[:40] + b"\7" + FIRST[41:], ONE]]
bounds = st.sampled_from([
    Bounds(), Bounds(), Bounds(talks=1), Bounds(flows=2, talks=2), Bounds(held=2),
    Bounds(flow_idle_ns=3 * SECOND_NS, flow_hold_ns=2 * SECOND_NS, talks=1)])


@st.composite
def flows(draw: st.DrawFn) -> list[Frame]:
    found: list[Frame] = []
    for client in range(draw(st.integers(1, 4))):
        ends: Any = {"client": 2000 + client % 3, "server": draw(st.sampled_from([SERVER, OTHER]))}
        at_s = draw(st.floats(0, 3))
        if draw(st.booleans()):
            found.append(datagram(at_s, b"early", down=True, **ends))
        for octets in draw(st.sampled_from(SAID)):
            at_s += draw(st.sampled_from([0, 0.1, 1, 4]))
            found.append(datagram(at_s, octets, dscp=draw(st.sampled_from([0, 46])), **ends))
        found.append(datagram(at_s + 0.5, b"answer", down=True, **ends))
    return sorted(found, key=lambda f: f.timestamp_ns) if draw(st.booleans()) else found


RULE_SETS = [
    RULES,
    replace(RULES, rules=(
        SHOP, Rule("bank", 30, Match(sni=("*.bank.example",), ech=True), (Split("bank"),)))),
    replace(RULES, rules=(
        Rule("ef", 10, Match(server=OURS, sni=("shop.example",), ech=True, sticky=True,
                             dscp=frozenset({46})), (Split("bank"),)),
        SHOP, Rule("rest", 30, Match(server=OURS), (Split("bank"),)))),
]


@few
@given(flows(), st.sampled_from(RULE_SETS), bounds,
       st.lists(st.sampled_from([0, 1, 3]), max_size=6))
def test_quic_core_equals_reference_however_frames_are_batched(
    frames: list[Frame], rules: Any, bounds: Bounds, sizes: list[int]
) -> None:
    """Each worker has room of its own: two of them are one only where none is short of it."""
    assert_same(frames, rules, bounds=bounds)
    workers = 2 if bounds == Bounds() else 1
    cut = meter([Pieces(frames, sizes, rules)], rules, workers=workers, bounds=bounds)
    assert document(cut) == document(fast(frames, rules, bounds=bounds))
