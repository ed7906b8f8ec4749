"""Where a proxy may go (SSRF, names that change), and the marks on its packets."""

from __future__ import annotations

import ipaddress
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
from session_parties import (
    HOME,
    INSIDE,
    TAG,
    Names,
    Register,
    claim,
    drained,
    payment_server,
    request,
    running_proxy,
    said,
    status,
)

from tollsplit.rules.marks import Tag
from tollsplit.services.claim import Payee
from tollsplit.services.marking import tagged
from tollsplit.services.proxy import may_be_reached


@pytest.mark.parametrize(("address", "public"), [
    ("93.184.216.34", True), ("2606:2800:220:1:248:1893:25c8:1946", True),
    ("127.0.0.1", False), ("127.8.8.8", False), ("::1", False), ("0.0.0.0", False), ("::", False),
    ("10.0.0.1", False), ("172.16.9.9", False), ("192.168.1.1", False), ("fd00::1", False),
    ("169.254.169.254", False), ("fe80::1", False), ("fe80::1%eth0", False),
    ("100.64.0.1", False),  # the operator's own network (RFC 6598)
    ("224.0.0.1", False), ("ff02::1", False), ("255.255.255.255", False), ("240.0.0.1", False),
    ("192.0.2.1", False), ("198.18.0.1", False),
    ("::ffff:127.0.0.1", False), ("::ffff:10.0.0.1", False),
    ("64:ff9b::7f00:1", False), ("64:ff9b::a00:1", False), ("64:ff9b::5db8:d822", True),
    ("2002:7f00:1::1", False), ("2002:a00:1::", False),
    ("2001:0:4136:e378:8000:63bf:3fff:fdd2", False),
    # What else stands for IPv4: RFC 4291 §2.5.5.1, RFC 2765 §2.1, RFC 8215; and what a site is.
    ("::127.0.0.1", False), ("::10.0.0.1", False), ("::ffff:0:10.0.0.1", False),
    ("64:ff9b:1::a00:1", False), ("fec0::1", False), ("5f00::1", False), ("3fff::1", False),
    ("192.0.0.8", False), ("192.88.99.1", False),
    ("shop.example", False), ("", False),
])  # fmt: skip
def test_addresses_that_may_be_reached(address: str, public: bool) -> None:
    assert may_be_reached(address, []) is public


def test_addresses_inside_are_reached_where_they_are_listed() -> None:
    inside = [ipaddress.ip_network("10.7.0.0/16")]
    assert may_be_reached("10.7.1.1", inside) and not may_be_reached("10.8.1.1", inside)
    assert may_be_reached("64:ff9b::a07:101", inside)


def test_proxy_connects_to_the_address_that_was_checked() -> None:
    """A name that leads elsewhere when it is asked for again (DNS rebinding) gains nothing."""
    with payment_server() as shop, payment_server(address="127.0.0.2") as inner:
        names = Names(shop_example=["127.0.0.1", "127.0.0.2"])
        register = Register(Payee("shop.example", shop.port))
        only = [ipaddress.ip_network("127.0.0.1/32")]
        with running_proxy(register, names, inside=only) as proxy:
            url = f"http://shop.example:{shop.port}/"
            assert status(said(proxy.port, request(url, shown=claim()))) == 200
            assert names.asked == ["shop.example"]
            assert status(said(proxy.port, request(url, shown=claim()))) == 403
        assert len(shop.seen) == 1 and not inner.seen


def test_proxy_begins_its_way_at_the_address_it_is_given() -> None:
    with socket.create_server((HOME, 0)) as listener:
        port = listener.getsockname()[1]
        register = Register(Payee("shop.example", port))
        with running_proxy(register, Names(shop_example=HOME), source="127.0.0.77") as proxy:
            asking = threading.Thread(target=said, args=(
                proxy.port, request(f"http://shop.example:{port}/", shown=claim())))
            asking.start()
            connection, (source, _) = listener.accept()
            connection.close()
            asking.join()
    assert source == "127.0.0.77"


# --- marks on the wire -----------------------------------------------------------------------


@dataclass(frozen=True)
class Seen:
    """A TCP packet on the loopback interface."""

    source: int
    destination: int
    dscp: int
    flow_label: int
    syn: bool


@contextmanager
def watched() -> Iterator[list[Seen]]:
    """What passes the loopback interface meanwhile."""
    try:
        packets = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(3))
    except PermissionError:
        pytest.skip("watching packets needs CAP_NET_RAW")
    found: list[Seen] = []
    stop = threading.Event()

    def watch() -> None:
        while not stop.is_set():
            try:
                octets, (_, protocol, kind, *_) = packets.recvfrom(200)
            except TimeoutError:
                continue
            if kind == socket.PACKET_OUTGOING or protocol not in (0x0800, 0x86DD):
                continue
            if protocol == 0x0800 and octets[9] == socket.IPPROTO_TCP:
                dscp, label, tcp = octets[1] >> 2, 0, octets[(octets[0] & 15) * 4:]
            elif protocol == 0x86DD and octets[6] == socket.IPPROTO_TCP:
                word = struct.unpack(">I", octets[:4])[0]
                dscp, label, tcp = word >> 22 & 63, word & 0xFFFFF, octets[40:]
            else:
                continue
            found.append(Seen(*struct.unpack(">HH", tcp[:4]), dscp, label, bool(tcp[13] & 2)))

    packets.bind(("lo", 0))
    packets.settimeout(0.02)
    watching = threading.Thread(target=watch)
    watching.start()
    try:
        yield found
        time.sleep(0.03)  # what is on its way
    finally:
        stop.set()
        watching.join()
        packets.close()


def asked(address: str, port: int, octets: bytes, tag: Tag | None) -> bytes:
    """What is answered to a terminal that carries a tag."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with tagged(family, tag, address) as connection:
        connection.setblocking(True)
        connection.settimeout(20)
        label = tag.value if tag and tag.kind == "flow_label" else 0
        connection.connect((address, port, label, 0) if ":" in address else (address, port))
        connection.sendall(octets)
        return drained(connection)


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_request_and_answer_carry_the_tag_and_a_refusal_does_not(address: str) -> None:
    """Each packet of the request, from its SYN on; the answer once the claim was checked; and the
    way to the payment server.
    """
    with payment_server(address=address) as shop:
        register = Register(Payee("shop.example", shop.port))
        register.good |= {(f"address:{address}", TAG, "c"): next(iter(register.good.values()))}
        with running_proxy(register, Names(shop_example=address), listens=address) as proxy:
            url = f"http://shop.example:{shop.port}/"
            good = claim(identifier=f"address:{address}", credential="c")
            with watched() as packets:
                assert status(asked(address, proxy.port, request(url, shown=good), TAG)) == 200
            to, back = (_between(packets, proxy.port, other) for other in (False, True))
            assert {packet.dscp for packet in to} == {46} and any(p.syn for p in to)
            # what the kernel said before there was a claim is not marked
            assert {packet.dscp for packet in back if not packet.syn} >= {46}
            assert back[-1].dscp == 46
            assert {p.dscp for p in _between(packets, shop.port, False)} == {46}
            with watched() as packets:
                bad = claim(identifier=f"address:{address}", credential="d")
                assert status(asked(address, proxy.port, request(url, shown=bad), None)) == 403
            assert {packet.dscp for packet in _between(packets, proxy.port, True)} == {0}
            assert not _between(packets, shop.port, False)


def _between(packets: list[Seen], port: int, answers: bool) -> list[Seen]:
    return [p for p in packets if (p.source if answers else p.destination) == port]


def test_a_refusal_after_an_answer_is_not_marked() -> None:
    """On one connection: the session ends between two requests."""
    with payment_server() as shop:
        register = Register(Payee("shop.example", shop.port))
        with running_proxy(register, Names(shop_example=HOME)) as proxy:
            octets = request(f"http://shop.example:{shop.port}/", shown=claim()).replace(
                b"Connection: close\r\n", b"")
            with socket.create_connection((HOME, proxy.port), 20) as connection:
                connection.sendall(octets)
                assert connection.recv(65536).startswith(b"HTTP/1.1 200")
                time.sleep(0.05)  # so that what is acknowledged later is seen before
                register.good.clear()
                with watched() as packets:
                    connection.sendall(octets)
                    assert status(drained(connection)) == 403
            said_ = _between(packets, proxy.port, True)
            assert said_ and said_[-1].dscp == 0


FLOW_LABELS = """
import sys
sys.path[:0] = {path!r}
import test_session_reach
test_session_reach.expect_flow_labels()
"""


def expect_flow_labels() -> None:
    """In a network namespace of its own, whose kernel lets answers carry flow labels."""
    tag = Tag("flow_label", 0x12345)
    with payment_server(address="::1") as shop:
        register = Register(Payee("shop.example", shop.port), tag=tag)
        register.good = {("address:::1", tag, "c"): next(iter(register.good.values()))}
        with running_proxy(register, Names(shop_example="::1"), listens="::1",
                           flow_labels=True) as proxy, watched() as packets:  # fmt: skip
            good = claim(identifier="address:::1", tag=tag, credential="c")
            octets = request(f"http://shop.example:{shop.port}/", shown=good)
            assert status(asked("::1", proxy.port, octets, tag)) == 200, proxy.told
    for port, answers in ((proxy.port, False), (proxy.port, True), (shop.port, False)):
        found = _between(packets, port, answers)
        assert found and {packet.flow_label for packet in found} == {0x12345}, (port, found)


@pytest.mark.skipif(os.geteuid() != 0, reason="a network namespace needs root")
def test_flow_labels_go_both_ways() -> None:
    program = FLOW_LABELS.format(path=[p for p in sys.path if p])
    script = ("ip link set lo up && sysctl -qw net.ipv6.flowlabel_consistency=0 && "
              'exec "$0" -c "$1"')  # fmt: skip
    done = subprocess.run(["unshare", "--net", "sh", "-c", script, sys.executable, program],
                          capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_flow_labels_that_the_kernel_refuses_are_said() -> None:
    from tollsplit.errors import UsageError

    with open("/proc/sys/net/ipv6/flowlabel_consistency") as setting:
        if setting.read().strip() == "0":
            pytest.skip("this machine's kernel lets answers carry flow labels")
    with pytest.raises(UsageError, match="flowlabel_consistency=0"), running_proxy(
            Register(), Names(), listens="::1", flow_labels=True, inside=INSIDE):
        pass
