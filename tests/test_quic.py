"""QUIC's Initial packets: opened, gathered, and what is refused."""

from __future__ import annotations

import io
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import dpkt
import pytest
from hellos import hello, named
from hypothesis import given, settings
from hypothesis import strategies as st
from initials import ID, V1, V2, crypto, first_flight, initial, varint
from strategies import examples

from tollsplit.cext.quic import Handshake
from tollsplit.limits import QUIC_CRYPTO_OCTETS_MAX, QUIC_PACKETS_MAX
from tollsplit.rules.seal import Seal

HOST = b"video.example"
WHOLE = hello((10, b"\0\x02\0\x1d"), named(HOST), (0xFF70, b"t" * 36))
# RFC 9001 and 9369, appendix A.2: the frame, and what it is once sealed, from both ends.
SAMPLE = bytes.fromhex(
    "060040f1010000ed0303ebf8fa56f12939b9584a3896472ec40bb863cfd3e86804fe3a47f06a2b69484c0000"
    "0413011302010000c000000010000e00000b6578616d706c652e636f6dff01000100000a00080006001d0017"
    "0018001000070005 04616c706e000500050100000000003300260024001d00209370b2c9caa47fbabaf4559f"
    "edba753de171fa71f50f1ce15d43e994ec74d748002b0003020304000d0010000e0403050306030203080408"
    "050806002d00020101001c00024001003900320408ffffffffffffffff05048000ffff07048000ffff080110"
    "0104800075300901100f088394c8f03e51570806048000ffff"
)
SEALED = {
    V1: ("c000000001088394c8f03e5157080000449e7b9aec34d1b1c98dd7689fb8ec11",
         "e221af44860018ab0856972e194cd934"),
    V2: ("d76b3343cf088394c8f03e5157080000449ea0c95e82ffe67b6abcdb4298b485",
         "a18b2faa745b6fe189cf772a9f84cbfc"),
}  # fmt: skip


@pytest.fixture(scope="module")
def seal() -> Seal:
    return Seal()


def shown(seal: Seal, *datagrams: bytes) -> dict[str, Any]:
    """What is known once these were met."""
    handshake = Handshake(seal)
    found: dict[str, Any] = {}
    for datagram in datagrams:
        found = handshake.feed(datagram)
    return found


@pytest.mark.parametrize("version", [V1, V2])
def test_quic_sample_of_the_standard_shows_its_name(seal: Seal, version: int) -> None:
    """What GCM's tag, at the end, vouches for needs no comparison in between."""
    packet = initial(SAMPLE, number=2, version=version)
    front, tag = (bytes.fromhex(part) for part in SEALED[version])
    assert (len(packet), packet[:32], packet[-16:]) == (1200, front, tag)
    found = shown(seal, packet)
    assert (found["told"], found["name"]) == ("found", b"example.com")


@pytest.mark.parametrize("version", [V1, V2])
def test_quic_keys_are_those_of_the_standard(seal: Seal, version: int) -> None:
    key, vector, header_key = {
        V1: ("1f369613dd76d5467730efcbe3b1a22d", "fa044b2f42a3fd3b46fb255c",
             "9f50449e04a0e810283a1e9933adedd2"),
        V2: ("8b1a0bc121284290a29e0971b5cd045d", "91f73e2351d8fa91660e909f",
             "45b95e15235d6f45a6b19cbcb0294ba9"),
    }[version]  # fmt: skip
    assert [part.hex() for part in seal.keys(version, ID)] == [key, vector, header_key]


@pytest.mark.parametrize("version", [V1, V2])
def test_quic_client_of_aioquic_shows_its_name(seal: Seal, version: int) -> None:
    found = shown(seal, *first_flight("video.example", version))
    assert (found["told"], found["name"]) == ("found", HOST)


def test_quic_frames_come_in_any_order(seal: Seal) -> None:
    """As Chromium sends them: shuffled, with other frames between, over two packets."""
    pieces = [crypto(WHOLE[at : at + 9], at) for at in range(0, len(WHOLE), 9)]
    random.Random(3).shuffle(pieces)
    half = len(pieces) // 2
    first = initial(b"\x01\0\0".join(pieces[:half]))
    second = initial(b"\x01".join(pieces[half:]), number=1)
    assert shown(seal, first)["told"] == "more"
    for order in ((first, second), (second, first), (first, first, second)):
        found = shown(seal, *order)
        assert (found["name"], found["token"]) == (HOST, b"t" * 36)


def test_quic_packets_lie_in_one_datagram(seal: Seal) -> None:
    one = initial(crypto(WHOLE[:50]), octets=200)
    other = initial(crypto(WHOLE[50:], 50), number=1, octets=1000)
    assert shown(seal, one + other)["name"] == HOST
    handshake = b"\xe0" + one[1:5] + b"\x08" + ID + b"\0" + varint(30) + bytes(30)
    assert shown(seal, handshake + initial(crypto(WHOLE)))["name"] == HOST
    assert shown(seal, handshake + initial(crypto(WHOLE)) + b"\x40short")["name"] == HOST


def test_quic_acknowledgments_and_pings_are_stepped_over(seal: Seal) -> None:
    acknowledgment = b"\x02" + varint(70_000) + varint(9) + varint(2) + bytes(5)
    marked = b"\x03" + bytes(4) + varint(1) * 3
    closing = b"\x1c\0\0" + varint(3) + b"why"
    frames = acknowledgment + b"\x01" + marked + b"\0\0" + closing + crypto(WHOLE)
    assert shown(seal, initial(frames))["name"] == HOST


@pytest.mark.parametrize(
    "frames",
    [b"\x08\0a", b"\x1e", b"\x40\x06", b"\x06\0\x7f\xff",
     b"\x02\0\0" + varint(1 << 40) + b"\0", b"\x02\0\0\x7f\xff", b"\x1c\0\0\x7f\xff",
     crypto(b"\1", QUIC_CRYPTO_OCTETS_MAX), crypto(b"\1", (1 << 62) - 1),
     crypto(WHOLE) + crypto(b"\2"), crypto(hello(named(b"a.example"))) + crypto(WHOLE)],
)  # fmt: skip
def test_quic_payload_with_nonsense_is_none(seal: Seal, frames: bytes) -> None:
    filled = frames.ljust(1170, b"\xff") if frames.endswith(b"\x7f\xff") else frames
    assert shown(seal, initial(filled))["told"] == "none"


def test_quic_answer_of_the_server_keeps_the_seal(seal: Seal) -> None:
    """Once it has answered, packets go to the number that it chose, sealed as before."""
    first = initial(crypto(WHOLE[:60]))
    rest = initial(crypto(WHOLE[60:], 60), number=1, to=b"short", sealed_for=ID)
    assert shown(seal, first, rest)["name"] == HOST


@pytest.mark.parametrize("token", [b"", b"token"], ids=["another", "after a Retry"])
def test_quic_connection_that_begins_before_one_is_complete(seal: Seal, token: bytes) -> None:
    """Parts of either might be put together: nobody can tell what is whose."""
    first = initial(crypto(WHOLE[:60]))
    other = initial(crypto(WHOLE[60:], 60), to=b"another1", token=token)
    assert shown(seal, first, other)["told"] == "none"
    unknown = initial(crypto(WHOLE[60:], 60), to=b"another1", sealed_for=b"a third one")
    assert shown(seal, first, unknown)["told"] == "none"


def test_quic_versions_may_change_under_way(seal: Seal) -> None:
    first = initial(crypto(WHOLE[:60]))
    rest = initial(crypto(WHOLE[60:], 60), number=1, version=V2)
    assert shown(seal, first, rest)["name"] == HOST


def altered(packet: bytes, at: int, value: int) -> bytes:
    return packet[:at] + bytes([value]) + packet[at + 1 :]


@pytest.mark.parametrize(
    ("description", "datagram"),
    [("a datagram that servers drop", initial(crypto(WHOLE), octets=1199)),
     ("a short header", altered(initial(crypto(WHOLE)), 0, 0x40)),
     ("no fixed bit", altered(initial(crypto(WHOLE)), 0, 0x80)),
     ("a Retry", altered(initial(crypto(WHOLE)), 0, 0xF0)),
     ("another version", altered(initial(crypto(WHOLE)), 4, 2)),
     ("a draft", b"\xc0\xff\0\0\x1d" + initial(crypto(WHOLE))[5:]),
     ("the type of the other version", b"\xc0\x6b\x33\x43\xcf" + initial(crypto(WHOLE))[5:]),
     ("a changed octet", altered(initial(crypto(WHOLE)), 600, 0)),
     ("a changed tag", altered(initial(crypto(WHOLE)), 1199, 0)),
     ("sealed for another", initial(crypto(WHOLE), sealed_for=b"another1")),
     ("a number of 7 octets", initial(crypto(WHOLE), to=b"7octets")),
     ("a number of 21 octets", initial(crypto(WHOLE), to=bytes(21))),
     ("DNS", bytes(1200)),
     ("nothing", b"")],
)  # fmt: skip
def test_quic_first_datagram_is_none_of(seal: Seal, description: str, datagram: bytes) -> None:
    assert shown(seal, datagram)["told"] == "none"


def test_quic_early_octets_may_come_first(seal: Seal) -> None:
    early = b"\xd0\0\0\0\1\x08" + ID + b"\0" + (0x4000 | 1183).to_bytes(2, "big") + bytes(1183)
    assert shown(seal, early)["told"] == "more"
    assert shown(seal, early, initial(crypto(WHOLE)))["name"] == HOST


def test_quic_opens_so_many_packets_and_no_more() -> None:
    class Counting(Seal):
        opened = 0

        def open(self, *what: Any) -> bytes | None:
            self.opened += 1
            return super().open(*what)

    counting = Counting()
    handshake = Handshake(counting)
    told = [handshake.feed(initial(b"\x01", number=i))["told"] for i in range(40)]
    assert told == ["more"] * QUIC_PACKETS_MAX + ["none"] * (40 - QUIC_PACKETS_MAX)
    crowded = Handshake(counting)
    assert crowded.feed(initial(b"\x01", octets=60) * 40)["told"] == "none"
    assert counting.opened == 2 * QUIC_PACKETS_MAX


@pytest.mark.parametrize("octets", [1, 2, 3, 4])
def test_quic_packet_numbers_have_any_length(seal: Seal, octets: int) -> None:
    assert shown(seal, initial(crypto(WHOLE), number=200, number_octets=octets))["name"] == HOST


def test_quic_datagram_cut_anywhere_shows_nothing(seal: Seal) -> None:
    whole = initial(crypto(WHOLE))
    for count in range(0, len(whole), 7):
        assert shown(seal, whole[:count])["name"] is None
        assert shown(seal, whole[:count] + bytes(len(whole) - count))["name"] is None


class Open:
    """A seal that is none, so that what lies behind it can be anything."""

    def open(self, version: int, connection_id: bytes, packet: bytes, at: int) -> bytes | None:
        return packet[at:]


def unsealed(payload: bytes, version: int = V1) -> bytes:
    kind = 0xC0 if version == V1 else 0xD0
    body = payload.ljust(1200, b"\0")
    return (bytes([kind]) + version.to_bytes(4, "big") + b"\x08" + ID + b"\0\0"
            + varint(len(body)) + body)  # fmt: skip


def prefix(parts: Iterable[tuple[int, bytes]]) -> bytes:
    """The handshake from its first octet on, as far as nothing is missing."""
    octets: dict[int, int] = {}
    for offset, part in parts:
        octets |= {offset + i: octet for i, octet in enumerate(part)}
    whole = bytearray()
    while len(whole) in octets:
        whole.append(octets[len(whole)])
    return bytes(whole)


@settings(max_examples=examples(200), deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(WHOLE)), st.integers(0, 80)), max_size=30),
       st.integers(1, 5))  # fmt: skip
def test_quic_gathers_what_came(parts: list[tuple[int, int]], at_once: int) -> None:
    pieces = [(at, WHOLE[at : at + octets]) for at, octets in parts]
    handshake, found = Handshake(Open()), {"told": "more", "needed": 4}
    for start in range(0, len(pieces), at_once):
        if found["told"] != "found" and start // at_once < QUIC_PACKETS_MAX:
            frames = b"".join(crypto(part, at) for at, part in pieces[start : start + at_once])
            found = handshake.feed(unsealed(frames))
            whole = prefix(pieces[: start + at_once])
            assert found["told"] == ("found" if whole == WHOLE else "more")


@settings(max_examples=examples(400), deadline=None)
@given(st.data())
def test_quic_mutants_show_only_what_lies_in_them(data: st.DataObject) -> None:
    payload = bytearray(crypto(WHOLE[60:], 60) + b"\x02\0\0\1\0\0\0" + crypto(WHOLE[:60]))
    datagram = bytearray(unsealed(bytes(payload)))
    for _ in range(data.draw(st.integers(0, 4))):
        datagram[data.draw(st.integers(0, 250))] = data.draw(st.integers(0, 255))
    found = Handshake(Open()).feed(bytes(datagram))
    assert found["told"] in ("more", "found", "none")
    if found["name"] is not None:
        assert not set(found["name"].lower()) - set(b"abcdefghijklmnopqrstuvwxyz0123456789-_.")


# --- real captures ---------------------------------------------------------------------


def datagrams(path: Path) -> Iterable[tuple[tuple[Any, ...], bytes]]:
    for _, frame in dpkt.pcap.Reader(io.BytesIO(path.read_bytes())):
        packet = dpkt.ethernet.Ethernet(frame).data
        if isinstance(packet.data, dpkt.udp.UDP):
            udp = packet.data
            yield (packet.src, udp.sport, packet.dst, udp.dport), bytes(udp.data)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("36_zeek__uic_quic-multiple-initial-fragmented-crypto.pcap", b"googleads.g.doubleclick.net"),
     ("35_zeek__testing_btest_Traces_quic_quicv2-http3-443.pcap", None)],
)  # fmt: skip
def test_quic_of_real_clients_is_read(
    corpus: Path, seal: Seal, name: str, expected: bytes | None
) -> None:
    """tshark's judgement of the same files: one name, and none."""
    handshakes: dict[tuple[Any, ...], Handshake] = {}
    found: dict[tuple[Any, ...], Any] = {}
    for flow, datagram in datagrams(corpus / name):
        if flow[3] == 443 and found.get(flow, {}).get("told") != "found":
            handshake = handshakes.setdefault(flow, Handshake(seal))
            found[flow] = handshake.feed(datagram)
    assert [f["told"] for f in found.values()] == ["found"]
    assert [f["name"] for f in found.values()] == [expected]
