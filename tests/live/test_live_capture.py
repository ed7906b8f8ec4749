"""Interfaces come, go and are shared; what is lost is told; what is not possible is said."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import textwrap
from collections import Counter
from contextlib import nullcontext, suppress
from pathlib import Path

import pytest
from lab import GATEWAY, INTERNET, SUBSCRIBER_1, SUBSCRIBER_2, Lab, wait_until
from recorder import Frame, recorded

from tollsplit.capture import packet_filter
from tollsplit.capture.live import LiveCapture, interface_loss
from tollsplit.capture.packet_filter import compile_filter
from tollsplit.capture.packet_socket import RingOptions
from tollsplit.errors import CaptureError, UsageError

# Local experimental EtherType: nothing else in the lab uses it.
HEADER = bytes.fromhex("ffffffffffff 020000000001 88b5")
TINY = RingOptions(block_octets=4096, blocks=2, snap_octets=128)


def send_raw(
    lab: Lab, name: str, frames: list[bytes], interface: str = "eth0", refused: bool = False
) -> None:
    with lab.socket(name, socket.AF_PACKET, socket.SOCK_RAW) as raw:
        with lab.inside(name):
            raw.bind((interface, 0))
        for frame in frames:
            # What the other end refuses, a veth device says to have had no room for.
            with suppress(OSError) if refused else nullcontext():
                raw.send(frame)


def numbered(count: int, size: int = 60) -> list[bytes]:
    return [(HEADER + number.to_bytes(4, "big")).ljust(size, b"\0") for number in range(count)]


def ours(frames: list[Frame]) -> list[bytes]:
    return [frame.octets for frame in frames if frame.octets[:14] == HEADER]


def udp(number: int, port: int) -> bytes:
    """A UDP packet of a flow of its own, as a broadcast frame."""
    header = bytes.fromhex("4500 002e 0000 0000 40 11 0000 0a4d0102 cb007102")
    ports = (1024 + number).to_bytes(2, "big") + port.to_bytes(2, "big")
    body = ports + bytes.fromhex("001a 0000") + number.to_bytes(18, "big")
    return HEADER[:12] + b"\x08\x00" + header + body


def test_live_workers_share_an_interface_and_no_frame_comes_twice(lab: Lab) -> None:
    sent = [udp(number % 500, 9) for number in range(3000)]
    with recorded(lab, GATEWAY, "sub1", workers=3) as recorder:
        send_raw(lab, SUBSCRIBER_1.name, sent)
        recorder.stop()
        lanes = [[frame.octets for frame in lane if frame.octets in set(sent)]
                 for lane in recorder.lanes]
    assert Counter(octets for lane in lanes for octets in lane) == Counter(sent)
    assert all(len(lane) > 300 for lane in lanes)
    # A flow stays on one lane.
    assert not set(lanes[0]) & set(lanes[1]) | set(lanes[1]) & set(lanes[2])


def test_live_workers_join_while_packets_pass_and_none_comes_twice(lab: Lab) -> None:
    """Outside its group a socket would see all packets, the other members' too."""
    ticker = lab.start(SUBSCRIBER_1.name, sys.executable, "-c", textwrap.dedent("""
        import socket, time
        raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
        raw.bind(("eth0", 0))
        end = time.monotonic() + 60
        number = 0
        print("ready", flush=True)
        while time.monotonic() < end:
            number += 1
            raw.send(bytes.fromhex("ffffffffffff02000000000188b5") + number.to_bytes(46, "big"))
            time.sleep(0.0001)
    """))
    try:
        for _ in range(5):
            with recorded(lab, GATEWAY, "sub1", workers=4) as recorder:
                wait_until(lambda recorder=recorder: len(recorder.frames) > 200)
                frames = ours(recorder.stop())
            assert max(Counter(frames).values()) == 1
    finally:
        ticker.kill()
        ticker.wait()


def test_live_overload_is_reported_to_the_packet(lab: Lab) -> None:
    """sent = seen + lost, with a ring of two small blocks that nobody reads for a while."""
    with lab.inside(GATEWAY):
        live = LiveCapture(["sub1"], options=TINY, expression="ether proto 0x88b5")
    try:
        send_raw(lab, SUBSCRIBER_1.name, numbered(5000))
        with lab.inside(GATEWAY):
            assert live.lost().kernel > 4000
        seen = 0
        live.stop()
        for rings in live.lanes[0].turns(0.05):
            seen += sum(ring.skip()[0] for ring in rings)
        with lab.inside(GATEWAY):
            lost = live.lost()
        assert seen > 20
        assert seen + lost.kernel == 5000
        assert (lost.interface, lost.overruns) == (0, 0)
        counted = live.statistics()
        assert (counted.packets, counted.drops) == (5000, lost.kernel)
        assert counted.freezes >= 1
    finally:
        live.close()


def test_live_default_ring_loses_nothing_that_is_read(lab: Lab) -> None:
    sent = numbered(20_000)
    with recorded(lab, GATEWAY, "sub1") as recorder:
        send_raw(lab, SUBSCRIBER_1.name, sent)
        frames = recorder.stop()
        assert recorder.live.statistics().drops == 0
    assert ours(frames) == sent


def test_live_what_the_interface_gives_up_is_lost(lab: Lab) -> None:
    """The gateway's end takes no more than its MTU; its kernel counts the rest as rx_dropped."""
    lab.ip(GATEWAY, "link", "set", "sub1", "mtu", "1400")
    try:
        send_raw(lab, SUBSCRIBER_1.name, numbered(3, 1500), refused=True)
        with recorded(lab, GATEWAY, "sub1") as recorder:
            before = lab.execute(GATEWAY, "cat", "/sys/class/net/sub1/statistics/rx_dropped")
            send_raw(lab, SUBSCRIBER_1.name, [*numbered(7, 1500), *numbered(5)], refused=True)
            with lab.inside(GATEWAY):
                lost = recorder.live.lost()
            after = lab.execute(GATEWAY, "cat", "/sys/class/net/sub1/statistics/rx_dropped")
            frames = ours(recorder.stop())
    finally:
        lab.ip(GATEWAY, "link", "set", "sub1", "mtu", "1500")
    assert int(after) - int(before) == 7
    assert (len(frames), lost.interface, lost.kernel) == (5, 7, 0)


def test_live_interface_loss_of_one_that_is_not_there_is_unknown(lab: Lab) -> None:
    with lab.inside(GATEWAY):
        assert interface_loss("sub") is None
        assert interface_loss("sub1") is not None


def test_live_interface_that_was_down_is_resumed(lab: Lab) -> None:
    with recorded(lab, GATEWAY, "sub2") as recorder, lab.inside(GATEWAY):
        live = recorder.live
        send_raw(lab, SUBSCRIBER_2.name, numbered(5))
        lab.ip(GATEWAY, "link", "set", "sub2", "down")
        assert live.watch(5) == ["sub2: is down"]
        lab.ip(GATEWAY, "link", "set", "sub2", "up")
        happened: list[str] = []
        wait_until(lambda: happened.extend(live.watch(0.1)) or happened)
        assert happened == ["sub2: is up again"]
        send_raw(lab, SUBSCRIBER_2.name, numbered(10)[5:])
        frames = recorder.stop()
    assert ours(frames) == numbered(10)


@pytest.mark.parametrize("workers", [1, 2])
def test_live_interface_that_was_removed_is_taken_up_again(lab: Lab, workers: int) -> None:
    with recorded(lab, GATEWAY, "sub2", "internet", workers=workers) as recorder, \
            lab.inside(GATEWAY):
        live = recorder.live
        send_raw(lab, SUBSCRIBER_2.name, numbered(5))
        wait_until(lambda: len(ours(recorder.frames)) == 5)
        for life in range(1, 4):
            happened: list[str] = []
            lab.disconnect(SUBSCRIBER_2)
            wait_until(lambda: happened.extend(live.watch(0.1)) or happened)  # noqa: B023
            assert happened == ["sub2: is gone; waiting for it to come back"]
            happened.clear()
            lab.connect(SUBSCRIBER_2)
            wait_until(lambda: happened.extend(live.watch(0.1)) or happened)  # noqa: B023
            assert happened == ["sub2: is captured from now on"]
            send_raw(lab, SUBSCRIBER_2.name, numbered(5))
            wait_until(lambda: len(ours(recorder.frames)) == 5 * (life + 1))  # noqa: B023
        send_raw(lab, INTERNET.name, numbered(7))
        frames = recorder.stop()
    assert len(ours(frames)) == 5 * 4 + 7


def test_live_interface_is_waited_for(lab: Lab) -> None:
    lab.add("late")
    with recorded(lab, "late", "late0", wait=True) as recorder, lab.inside("late"):
        live = recorder.live
        assert live.watch(0.05) == []
        lab.ip("late", "link", "add", "late0", "type", "veth", "peer", "name", "late1")
        assert live.watch(0.2) == []                       # it is down
        lab.ip("late", "link", "set", "late1", "up")
        lab.ip("late", "link", "set", "late0", "up")
        happened: list[str] = []
        wait_until(lambda: happened.extend(live.watch(0.1)) or happened)
        assert happened == ["late0: is captured from now on"]
        send_raw(lab, "late", numbered(5), "late1")
        frames = recorder.stop()
    assert ours(frames) == numbered(5)


def test_live_filter_lets_through_what_it_says_and_cuts_it(lab: Lab) -> None:
    sent = [udp(number, port) for number in range(50) for port in (9, 10)]
    with recorded(lab, GATEWAY, "sub1", expression="udp dst port 9") as recorder:
        send_raw(lab, SUBSCRIBER_1.name, sent)
        frames = recorder.stop()
        assert recorder.live.statistics().packets == 50
    assert [frame.octets for frame in frames] == [udp(number, 9) for number in range(50)]


def test_live_filter_on_the_loopback_interface_keeps_its_meaning(lab: Lab) -> None:
    with recorded(lab, INTERNET.name, "lo", expression="udp dst port 9") as recorder, \
            lab.socket(INTERNET.name, socket.AF_INET, socket.SOCK_DGRAM) as opened:
        for port in (9, 10, 9):
            opened.sendto(port.to_bytes(1, "big"), ("127.0.0.2", port))
        frames = recorder.stop()
    assert [frame.octets[42:] for frame in frames] == [b"\x09", b"\x09"]


@pytest.mark.parametrize(("expression", "finding"), [
    ("udp prot 9", 'filter "udp prot 9": .*: expected pcap-filter'),
    ("vlan 5 and udp", '"vlan" is not possible here'),
])
def test_live_filter_that_makes_no_sense_is_refused(expression: str, finding: str) -> None:
    with pytest.raises(UsageError, match=finding):
        compile_filter(expression, 1, 128)


def test_live_filter_without_libpcap_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packet_filter, "LIBPCAP", ("libpcap-that-is-not-there.so",))
    with pytest.raises(CaptureError, match=r"apt-get install libpcap0\.8"):
        compile_filter("udp", 1, 128)


@pytest.mark.parametrize(("interfaces", "options", "error", "finding"), [
    (["any"], {}, CaptureError, '"any": .*: name those meant'),
    ([], {}, UsageError, "no interface: expected one name or more"),
    (["sub1", "sub1"], {}, UsageError, "named twice"),
    (["sixteen-letters-"], {}, UsageError, "expected the name of a network interface"),
    (["eth9"], {}, CaptureError, "^eth9: no such interface: .* --wait$"),
    (["sub1"], {"workers": 0}, UsageError, "^workers 0: expected 1 to 256$"),
])
def test_live_capture_that_is_not_possible_is_refused(
    lab: Lab, interfaces: list[str], options: dict[str, int], error: type[Exception], finding: str
) -> None:
    with lab.inside(GATEWAY), pytest.raises(error, match=finding):
        LiveCapture(interfaces, **options)


def test_live_interface_that_is_down_is_refused(lab: Lab) -> None:
    lab.ip(GATEWAY, "link", "set", "sub2", "down")
    try:
        with lab.inside(GATEWAY), pytest.raises(CaptureError, match=r"^sub2: is down: .* --wait$"):
            LiveCapture(["sub2"])
    finally:
        lab.ip(GATEWAY, "link", "set", "sub2", "up")


@pytest.mark.parametrize(("options", "finding"), [
    ({"snap_octets": 127}, "snap length 127: expected 128 to 262144"),
    ({"block_octets": 2048}, "block size 2048: expected 2304 to"),
    ({"block_octets": 4097}, "block size 4097: expected a multiple of 4096"),
    ({"blocks": 1}, "number of blocks 1: expected 2 to 16384"),
    ({"retire_ms": 0}, "retire timeout in ms 0: expected 1 to 1000"),
])
def test_live_ring_options_beyond_their_bounds_are_refused(
    options: dict[str, int], finding: str
) -> None:
    with pytest.raises(UsageError, match=finding):
        RingOptions(**options)


def in_process(lab: Lab, name: str, program: str) -> subprocess.CompletedProcess[str]:
    """Runs a program in a namespace: what it gives up, it does not take from the tests."""
    return subprocess.run(
        ["ip", "netns", "exec", lab.namespace(name), sys.executable, "-c",
         textwrap.dedent(program)],
        capture_output=True, text=True, timeout=60, check=False)


def test_live_capture_without_the_capability_says_what_it_needs(lab: Lab) -> None:
    done = in_process(lab, GATEWAY, """
        from tollsplit.capture.live import LiveCapture
        from tollsplit.capture.privileges import drop_privileges
        from tollsplit.errors import CaptureError
        drop_privileges("nobody")
        try:
            LiveCapture(["sub1"])
        except CaptureError as error:
            print(error)
    """)
    assert done.stderr == ""
    assert done.stdout.startswith("live capture needs the capability CAP_NET_RAW: run it as root")
    assert done.stdout.count("\n") == 1


def test_live_privileges_are_dropped_for_good(lab: Lab) -> None:
    done = in_process(lab, GATEWAY, """
        import os
        from tollsplit.capture.privileges import drop_privileges
        drop_privileges("nobody")
        status = dict(line.split(":", 1) for line in open("/proc/self/status").read().splitlines())
        print(os.getresuid() == os.getresgid(), 0 in os.getresuid(), os.getgroups())
        print({name: int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")})
        print(status["NoNewPrivs"].strip())
        try:
            os.setuid(0)
        except PermissionError:
            print("refused")
    """)
    assert done.stdout.splitlines() == [
        "True False []", "{'CapInh': 0, 'CapPrm': 0, 'CapEff': 0, 'CapAmb': 0}", "1", "refused",
    ], done.stderr


@pytest.mark.parametrize(("user", "finding"), [
    ("root", "is root"), ("no-such-user", "no such user")])
def test_live_privileges_are_dropped_to_a_user_only(lab: Lab, user: str, finding: str) -> None:
    done = in_process(lab, GATEWAY, f"""
        from tollsplit.capture.privileges import drop_privileges
        drop_privileges({user!r})
    """)
    assert finding in done.stderr.splitlines()[-1]


def test_live_interface_is_taken_up_again_without_privileges(lab: Lab) -> None:
    """Sixteen times by sockets that were opened ahead; then it says that there are no more."""
    lab.add("poor")
    done = in_process(lab, "poor", """
        import os, subprocess, threading
        from tollsplit.capture.live import LiveCapture
        from tollsplit.capture.privileges import drop_privileges
        from tollsplit.errors import CaptureError

        # The hand that pulls the plug keeps its privileges; it is told by a pipe.
        told, tell = os.pipe()
        if os.fork() == 0:
            os.close(tell)
            while os.read(told, 1):
                subprocess.run(["ip", "link", "del", "poor0"], stderr=subprocess.DEVNULL)
                subprocess.run("ip link add poor0 type veth peer name poor1 && "
                               "ip link set poor1 up && ip link set poor0 up", shell=True)
            os._exit(0)
        os.close(told)
        live = LiveCapture(["poor0"], wait=True)
        drop_privileges("nobody")

        def walk():
            for rings in live.lanes[0].turns(0.02):
                for ring in rings:
                    ring.skip()

        threading.Thread(target=walk).start()
        lives = 0
        try:
            for attempt in range(30):
                os.write(tell, b"x")
                happened = []
                while not any("captured" in said for said in happened):
                    happened += live.watch(5)
                lives += 1
        except CaptureError as error:
            print(lives, error)
        os.close(tell)
        live.stop()
    """)
    assert done.stdout.startswith("16 an interface came back, but no packet socket is left"), (
        done.stdout, done.stderr)


def test_live_promiscuity_is_what_was_asked_for(lab: Lab) -> None:
    for promiscuous in (True, False):
        options = RingOptions(promiscuous=promiscuous)
        with recorded(lab, GATEWAY, "sub1", options=options) as recorder:
            shown = lab.ip(GATEWAY, "-d", "link", "show", "sub1")
            recorder.stop()
        assert (f"promiscuity {int(promiscuous)} ") in shown


def test_live_interface_index_and_rooms_are_given_back(lab: Lab) -> None:
    """A capture that is closed leaves no descriptor and no mapped ring behind."""
    def held() -> tuple[int, int]:
        maps = Path("/proc/self/maps").read_text()
        return len(os.listdir("/proc/self/fd")), maps.count("socket:")

    with recorded(lab, GATEWAY, "sub1", "sub2", workers=2):
        pass
    before = held()
    for _ in range(3):
        with recorded(lab, GATEWAY, "sub1", "sub2", workers=2):
            assert held()[1] == before[1] + 4
    assert held() == before
