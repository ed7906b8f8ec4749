"""What a ring hands out, next to what a plain packet socket saw and what was sent."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from lab import (
    ENDS,
    GATEWAY,
    INTERNET,
    SPONSOR,
    SUBSCRIBER_1,
    SUBSCRIBER_2,
    End,
    Judge,
    Lab,
    run,
    wait_until,
)
from lab import own_frames as own
from recorder import Frame, recorded
from servers import ECHO_PORT, HTTP_PORT

from tollsplit.capture.packet_socket import RingOptions
from tollsplit.errors import TollsplitError

PACKET_OUTGOING = 4
IP_TOS, IPV6_TCLASS, UDP_SEGMENT = 1, 67, 103
WHOLE = RingOptions(snap_octets=200_000, block_octets=1 << 20, blocks=32)


pytestmark = pytest.mark.usefixtures("served")


def http_get(lab: Lab, near: End, address: str, octets: int) -> int:
    """Fetches that many octets over HTTP, in a process of its own inside the namespace."""
    host = f"[{address}]" if ":" in address else address
    program = ("import sys, urllib.request as u\n"
               "print(len(u.urlopen(sys.argv[1], timeout=20).read()))")
    return int(lab.execute(near.name, sys.executable, "-c", program,
                           f"http://{host}:{HTTP_PORT}/{octets}"))


def echo(lab: Lab, near: End, address: str, payloads: list[bytes], dscp: int = 0) -> None:
    """Sends UDP and gets it back, one after the other."""
    six = ":" in address
    with lab.socket(near.name, socket.AF_INET6 if six else socket.AF_INET,
                    socket.SOCK_DGRAM) as near_end:
        if six:
            near_end.setsockopt(socket.IPPROTO_IPV6, IPV6_TCLASS, dscp << 2)
        else:
            near_end.setsockopt(socket.IPPROTO_IP, IP_TOS, dscp << 2)
        for payload in payloads:
            near_end.sendto(payload, (address, ECHO_PORT))
            assert near_end.recv(65536) == payload


def ip_octets(frame: bytes) -> int:
    if frame[12:14] == b"\x08\x00":
        return int.from_bytes(frame[16:18], "big")
    return 40 + int.from_bytes(frame[18:20], "big")


def tcp_payload_octets(frame: Frame) -> int:
    """Of an Ethernet frame with TCP in IPv4 or IPv6, no extension headers."""
    at = 14 + (20 if frame.octets[12:14] == b"\x08\x00" else 40)
    return frame.original_octets - at - 4 * (frame.octets[at + 12] >> 4)


def stream_octets(frames: list[Frame], at: int) -> int:
    """Octets of one direction of a connection, each once however often it was sent."""
    first = None
    spans = []
    for frame in frames:
        sequence = int.from_bytes(frame.octets[at + 4 : at + 8])
        first = sequence if first is None else first      # the SYN takes one
        start = (sequence - first - 1) % 2**32
        if payload := tcp_payload_octets(frame):
            spans.append((start, start + payload))
    covered = end = 0
    for start, stop in sorted(spans):
        covered += max(0, stop - max(start, end))
        end = max(end, stop)
    return covered


def is_tcp(octets: bytes) -> bool:
    return ((octets[12:14] == b"\x08\x00" and octets[23] == 6)
            or (octets[12:14] == b"\x86\xdd" and octets[20] == 6))


def test_live_frames_are_those_that_a_plain_socket_sees(lab: Lab) -> None:
    """HTTP, UDP, both address families, marked and not: each octet, each once."""
    judge = Judge(lab, GATEWAY, "sub1")
    before = time.time_ns()
    with recorded(lab, GATEWAY, "sub1", options=WHOLE, ingresses={"sub1": 3}) as recorder:
        for far in (SPONSOR, INTERNET):
            for address in (far.ipv4, far.ipv6):
                assert http_get(lab, SUBSCRIBER_1, address, 300_000) == 300_000
                echo(lab, SUBSCRIBER_1, address, [bytes([n]) * 50 * n for n in range(20)], dscp=46)
        frames = recorder.stop()
    seen = judge.close()
    ours = Counter((frame.octets, frame.original_octets) for frame in frames)
    theirs = Counter((one.octets, one.original_octets) for one in seen)
    # What hosts say by themselves may fall between the two's beginnings or ends.
    for octets, original in (ours - theirs) + (theirs - ours):
        assert not own([octets]), (octets[:64], original)
    assert len(own([frame.octets for frame in frames])) > 2 * 4 * 20
    for frame in frames:
        assert (frame.link_type, frame.ingress) == (1, 3)
        assert before <= frame.timestamp_ns <= time.time_ns()
    marked = [frame for frame in frames if frame.octets[12:14] == b"\x08\x00"
              and frame.octets[23] == 17 and frame.octets[15] >> 2 == 46]
    assert len(marked) == 2 * 20


def test_live_frames_on_their_way_in_and_out_are_seen_once_each(lab: Lab) -> None:
    payloads = [f"serial {number}".encode() for number in range(100)]
    with recorded(lab, GATEWAY, "sub2") as recorder:
        echo(lab, SUBSCRIBER_2, SPONSOR.ipv4, payloads)
        frames = recorder.stop()
    ways = {SUBSCRIBER_2.ipv4: [], SPONSOR.ipv4: []}
    for frame in frames:
        if frame.octets[12:14] == b"\x08\x00" and frame.octets[23] == 17:
            ways[socket.inet_ntoa(frame.octets[26:30])].append(frame.octets[42:])
    assert ways == {SUBSCRIBER_2.ipv4: payloads, SPONSOR.ipv4: payloads}


def test_live_octets_are_those_that_the_gateway_forwarded(lab: Lab) -> None:
    """By subscriber, server, family and direction: IP octets, as nftables counts them."""
    before = lab.counters()
    with recorded(lab, GATEWAY, "sub1", "sub2", options=WHOLE) as recorder:
        for near, size in ((SUBSCRIBER_1, 40_000), (SUBSCRIBER_2, 70_000)):
            for far in (SPONSOR, INTERNET):
                for address in (far.ipv4, far.ipv6):
                    http_get(lab, near, address, size)
                    echo(lab, near, address, [b"x" * 999] * 5)
        frames = recorder.stop()
    after = lab.counters()
    names = {end.ipv4: end.interface for end in ENDS} | {end.ipv6: end.interface for end in ENDS}
    found: Counter[str] = Counter()
    packets: Counter[str] = Counter()
    for octets in own([frame.octets for frame in frames]):
        family = socket.AF_INET if octets[12:14] == b"\x08\x00" else socket.AF_INET6
        at, size = (26, 4) if family == socket.AF_INET else (22, 16)
        source, destination = (
            names[socket.inet_ntop(family, octets[where : where + size])]
            for where in (at, at + size))
        near, far, way = ((source, destination, "uplink") if source.startswith("sub")
                          else (destination, source, "downlink"))
        name = f"{near}_{far}_{'ip' if size == 4 else 'ip6'}_{way}"
        found[name] += ip_octets(octets)
        packets[name] += 1
    assert {name: (packets[name], found[name]) for name in after} == {
        name: (after[name][0] - before[name][0], after[name][1] - before[name][1])
        for name in after
    }
    assert min(found.values()) > 5 * 999


TAGGED = [
    ("one tag", "8100 0064"),
    ("VLAN 0, priority 7", "8100 e000"),
    ("two tags, 802.1ad", "88a8 0123 8100 0456"),
]


@pytest.mark.parametrize("tags", [row[1] for row in TAGGED], ids=[row[0] for row in TAGGED])
def test_live_vlan_tags_are_where_a_file_would_have_them(lab: Lab, tags: str) -> None:
    """Sent with the tags inside; the receiving end's kernel takes the first one off."""
    sent = [
        bytes.fromhex("ffffffffffff 020000000001" + tags + "88b5") + number.to_bytes(2, "big") * 30
        for number in range(40)
    ]
    judge = Judge(lab, GATEWAY, "sub1")
    with recorded(lab, GATEWAY, "sub1") as recorder, \
            recorded(lab, SUBSCRIBER_1.name, "eth0") as sender, \
            lab.socket(SUBSCRIBER_1.name, socket.AF_PACKET, socket.SOCK_RAW) as raw:
        with lab.inside(SUBSCRIBER_1.name):
            raw.bind(("eth0", 0))
        for octets in sent:
            raw.send(octets)
        frames, outgoing = recorder.stop(), sender.stop()
    seen = judge.close()
    assert [frame.octets for frame in frames if frame.octets in sent] == sent
    assert [one.octets for one in seen if one.octets in sent] == sent
    assert [frame.octets for frame in outgoing if frame.octets in sent] == sent
    for frame in frames:
        assert frame.original_octets == len(frame.octets)


def test_live_vlan_device_traffic_has_its_tag(lab: Lab) -> None:
    add = "link", "add", "link", "eth0", "name", "eth0.9", "type", "vlan", "id", "9"
    try:
        lab.ip(SUBSCRIBER_1.name, *add)
    except TollsplitError:
        pytest.skip("kernel has no VLAN devices")
    try:
        lab.ip(SUBSCRIBER_1.name, "address", "add", "10.9.9.2/24", "dev", "eth0.9")
        lab.ip(SUBSCRIBER_1.name, "link", "set", "eth0.9", "up")
        lab.ip(SUBSCRIBER_1.name, "neighbour", "add", "10.9.9.1", "lladdr", "02:00:00:00:00:09",
               "dev", "eth0.9")
        with recorded(lab, GATEWAY, "sub1") as recorder, \
                lab.socket(SUBSCRIBER_1.name, socket.AF_INET, socket.SOCK_DGRAM) as udp:
            for _ in range(10):
                udp.sendto(b"tagged", ("10.9.9.1", 9))
            frames = recorder.stop()
        tagged = [frame for frame in frames if frame.octets[12:18] == b"\x81\x00\x00\x09\x08\x00"]
        assert len(tagged) == 10
    finally:
        lab.ip(SUBSCRIBER_1.name, "link", "del", "eth0.9")


@pytest.mark.parametrize("six", [False, True])
def test_live_large_tcp_says_how_large_its_segments_are(lab: Lab, six: bool) -> None:
    offload = lab.execute(SPONSOR.name, "ethtool", "-k", "eth0")
    if "tcp-segmentation-offload: on" not in offload:
        pytest.skip("kernel's veth has no segmentation offload")
    size = 3_000_000
    address = SPONSOR.ipv6 if six else SPONSOR.ipv4
    with recorded(lab, GATEWAY, "sub1", options=WHOLE) as recorder:
        assert http_get(lab, SUBSCRIBER_1, address, size) == size
        frames = [frame for frame in recorder.stop() if is_tcp(frame.octets)]
    coalesced = [frame for frame in frames if frame.segment_octets]
    # A link of 1,500 octets, 12 of TCP's header for timestamps.
    mss = 1500 - (40 if six else 20) - 20 - 12
    for frame in frames:
        payload = tcp_payload_octets(frame)
        if frame.segment_octets:
            assert frame.segment_octets == mss < payload
        else:
            assert payload <= mss
    at = 54 if six else 34
    answer = [frame for frame in frames if frame.octets[at : at + 2] == HTTP_PORT.to_bytes(2)]
    assert 0 <= stream_octets(answer, at) - size < 500      # HTTP's own header
    assert sum(map(tcp_payload_octets, coalesced)) > size / 2


def test_live_tcp_without_offload_has_no_segments(lab: Lab) -> None:
    lab.execute(SPONSOR.name, "ethtool", "-K", "eth0", "tso", "off", "gso", "off")
    try:
        with recorded(lab, GATEWAY, "sub1", options=WHOLE) as recorder:
            http_get(lab, SUBSCRIBER_1, SPONSOR.ipv4, 500_000)
            frames = [frame for frame in recorder.stop() if is_tcp(frame.octets)]
    finally:
        lab.execute(SPONSOR.name, "ethtool", "-K", "eth0", "tso", "on", "gso", "on")
    assert len(frames) > 500_000 / 1448
    assert {frame.segment_octets for frame in frames} == {0}
    assert max(frame.original_octets for frame in frames) == 1514


def test_live_udp_in_segments_says_how_large_they_are(lab: Lab) -> None:
    with lab.socket(SUBSCRIBER_1.name, socket.AF_INET, socket.SOCK_DGRAM) as udp:
        try:
            udp.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, 700)
        except OSError:
            pytest.skip("kernel has no UDP segmentation offload")
        with recorded(lab, SUBSCRIBER_1.name, "eth0", options=WHOLE) as recorder:
            udp.sendto(b"s" * 700 * 9 + b"rest", (SPONSOR.ipv4, 9))
            frames = recorder.stop()
    found = [(frame.original_octets, frame.segment_octets) for frame in frames
             if frame.octets[12:14] == b"\x08\x00" and frame.octets[23] == 17]
    assert found == [(14 + 20 + 8 + 700 * 9 + 4, 700)]


def test_live_snap_length_cuts_the_copy_and_not_the_length(lab: Lab) -> None:
    options = RingOptions(snap_octets=128)
    with recorded(lab, GATEWAY, "sub1", options=options) as recorder:
        echo(lab, SUBSCRIBER_1, SPONSOR.ipv4, [b"x" * 1400, b"y" * 20])
        frames = [frame for frame in recorder.stop() if frame.octets[12:14] == b"\x08\x00"]
    assert [(len(frame.octets), frame.original_octets) for frame in frames] == [
        (128, 1442), (128, 1442), (62, 62), (62, 62)]


def test_live_loopback_shows_each_packet_once(lab: Lab) -> None:
    payloads = [f"serial {number}".encode() for number in range(200)]
    with recorded(lab, SPONSOR.name, "lo") as recorder:
        with lab.socket(SPONSOR.name, socket.AF_INET, socket.SOCK_DGRAM) as udp:
            for payload in payloads:
                udp.sendto(payload, ("127.0.0.1", ECHO_PORT))
                udp.recv(100)
        frames = recorder.stop()
    found = Counter(frame.octets[42:] for frame in frames if frame.octets[12:14] == b"\x08\x00")
    assert found == dict.fromkeys(payloads, 2)     # there and back


def test_live_tun_hands_out_bare_ip(lab: Lab) -> None:
    if not Path("/dev/net/tun").exists():
        pytest.skip("kernel has no tun")
    packet = bytes.fromhex("45000020 00010000 40110000 0a630001 0a630002 00090009 000c0000 7475")
    with lab.inside(INTERNET.name), open("/dev/net/tun", "r+b", buffering=0) as tun:
        fcntl.ioctl(tun, 0x400454CA, struct.pack("=16sH22x", b"tun9", 0x1001))
        run("ip", "-n", lab.namespace(INTERNET.name), "link", "set", "tun9", "up")
        with recorded(lab, INTERNET.name, "tun9") as recorder:
            for _ in range(5):
                os.write(tun.fileno(), packet)
            wait_until(lambda: len(recorder.frames) >= 5)
            frames = recorder.stop()
    found = [frame for frame in frames if frame.octets == packet]
    assert [(frame.link_type, frame.original_octets) for frame in found] == [(101, len(packet))] * 5
