"""What a live capture keeps in a file is what it handed out, on whichever interface and worker."""

from __future__ import annotations

import struct
import threading
from collections import Counter
from pathlib import Path

import pytest
from lab import (
    GATEWAY,
    INTERNET,
    SPONSOR,
    SUBSCRIBER_1,
    SUBSCRIBER_2,
    Judge,
    Lab,
    own_frames,
    wait_until,
)
from recorder import Frame, recorded
from test_live_capture import numbered, ours, send_raw
from test_live_frames import WHOLE, echo, http_get

from tollsplit.capture.file import open_capture
from tollsplit.capture.live import LiveCapture
from tollsplit.capture.packet_socket import RingOptions
from tollsplit.capture.recording import Recording

INGRESSES = {"sub1": 1, "sub2": 2, "*": 3}
APPLICATION = "tollsplit 1.2.3"


pytestmark = pytest.mark.usefixtures("served")


def read(path: Path) -> list[Frame]:
    capture = open_capture(path, ingresses=INGRESSES)
    found = [Frame(*frame)
             for reader in capture.chunks(False) for frame in reader.frames(1 << 30)]
    assert capture.truncated is None
    return found


def comments(path: Path) -> Counter[str]:
    """What stands behind the octets of each packet, by the words of the draft."""
    octets = path.read_bytes()
    found: Counter[str] = Counter()
    at = 0
    while at < len(octets):
        kind, length, *_, captured, _ = struct.unpack_from("=7I", octets, at)
        if kind == 6:
            behind = at + 28 + captured + -captured % 4
            code, size = struct.unpack_from("=HH", octets, behind)
            assert (code == 1) == (behind < at + length - 4)
            found[octets[behind + 4 : behind + 4 + size].decode() if code == 1 else ""] += 1
        at += length
    return found


@pytest.mark.parametrize("workers", [1, 3])
def test_live_recording_holds_the_frames_that_were_handed_out(
    lab: Lab, tmp_path: Path, workers: int
) -> None:
    """HTTP in coalesced packets, UDP, a VLAN tag, on three interfaces; each frame, each once."""
    path = tmp_path / "kept.pcapng"
    kept = Recording(str(path), RingOptions().snap_octets, APPLICATION)
    tagged = [bytes.fromhex("ffffffffffff 020000000001 8100 0064 88b5") + bytes(50)] * 20
    with recorded(lab, GATEWAY, "sub1", "sub2", "sponsor", workers=workers, ingresses=INGRESSES,
                  recording=kept) as live:
        for near in (SUBSCRIBER_1, SUBSCRIBER_2):
            for address in (SPONSOR.ipv4, SPONSOR.ipv6, INTERNET.ipv4):
                http_get(lab, near, address, 300_000)
                echo(lab, near, address, [bytes([n]) * 40 * n for n in range(20)], dscp=46)
        send_raw(lab, SUBSCRIBER_1.name, tagged)
        frames = live.stop()
        with lab.inside(GATEWAY):
            counts, lost = live.live.counts(), live.live.lost()
    kept.close(counts)
    assert (kept.failure, kept.frames) == (None, len(frames))
    assert len(frames) > 2 * 2 * 3 * 40
    assert any(frame.segment_octets for frame in frames)
    assert Counter(read(path)) == Counter(frames)
    assert {frame.ingress for frame in frames} == {1, 2, 3}
    assert comments(path) == Counter(
        f"segments of {frame.segment_octets} octets" if frame.segment_octets else ""
        for frame in frames)
    # The interface's own count takes in tagged frames that were seen, but that nothing else wanted.
    assert {name: (counted.received, counted.kernel_dropped)
            for name, counted in counts.items()} == {
        name: (sum(frame.ingress == ingress for frame in frames), 0)
        for name, ingress in (("sub1", 1), ("sub2", 2), ("sponsor", 3))}
    assert sum(counted.interface_dropped for counted in counts.values()) == lost.interface


def test_live_recording_from_the_ring_holds_what_a_plain_socket_sees(
    lab: Lab, tmp_path: Path
) -> None:
    """The frames go from the kernel's memory into the file; no Python sees one."""
    path = tmp_path / "kept.pcapng"
    kept = Recording(str(path), WHOLE.snap_octets, APPLICATION)
    recorders = [kept.recorder() for _ in range(2)]
    judge = Judge(lab, GATEWAY, "sub1")
    with lab.inside(GATEWAY):
        live = LiveCapture(["sub1"], workers=2, options=WHOLE, recording=kept)
    walked = [0, 0]

    def walk(number: int) -> None:
        for rings in live.lanes[number].turns(0.05):
            for ring in rings:
                walked[number] += recorders[number].walk(ring)[0]
            if not rings:
                recorders[number].flush()

    threads = [threading.Thread(target=walk, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    try:
        for address in (SPONSOR.ipv4, SPONSOR.ipv6):
            http_get(lab, SUBSCRIBER_1, address, 300_000)
            echo(lab, SUBSCRIBER_1, address, [bytes([n]) * 50 * n for n in range(20)])
        # It grows while the capture goes on: an idle worker flushes.
        wait_until(lambda: own_frames([frame.octets for frame in read(path)]))
        live.stop()
    finally:
        for thread in threads:
            thread.join(10)
        live.close()
    kept.close({})
    seen = judge.close()
    assert kept.frames == sum(walked)
    theirs = Counter((one.octets, one.original_octets) for one in seen)
    mine = Counter((frame.octets, frame.original_octets) for frame in read(path))
    # What hosts say by themselves may fall between the two's beginnings or ends.
    for octets, original in (mine - theirs) + (theirs - mine):
        assert not own_frames([octets]), (octets[:64], original)
    assert len(own_frames([frame.octets for frame in read(path)])) > 100


def test_live_recording_goes_on_when_an_interface_comes_back(lab: Lab, tmp_path: Path) -> None:
    path = tmp_path / "kept.pcapng"
    kept = Recording(str(path), RingOptions().snap_octets, APPLICATION)
    with recorded(lab, GATEWAY, "sub2", "internet", recording=kept) as live, lab.inside(GATEWAY):
        send_raw(lab, SUBSCRIBER_2.name, numbered(5))
        wait_until(lambda: len(ours(live.frames)) == 5)
        lab.disconnect(SUBSCRIBER_2)
        wait_until(lambda: live.live.watch(0.1))
        lab.connect(SUBSCRIBER_2)
        wait_until(lambda: live.live.watch(0.1))
        send_raw(lab, SUBSCRIBER_2.name, numbered(7))
        send_raw(lab, INTERNET.name, numbered(3))
        wait_until(lambda: len(ours(live.frames)) == 15)
        live.stop()
        counts = live.live.counts()
    kept.close(counts)
    found = [frame for frame in read(path) if ours([frame])]
    assert [frame.ingress for frame in found].count(2) == 12
    assert [frame.ingress for frame in found].count(3) == 3
    # Two interfaces and no third: the one that came back is the same.
    octets = path.read_bytes()
    kinds = []
    at = 0
    while at < len(octets):
        kind, length = struct.unpack_from("=2I", octets, at)
        kinds.append(kind)
        at += length
    assert (kinds.count(1), kinds.count(5)) == (2, 2)
    assert counts["sub2"].received >= 12
