"""Packets of a given size: `octets` is what the meter should say, the whole IP packet."""

from __future__ import annotations

import struct
from ipaddress import ip_address

from fragments import SECOND_NS
from judges import Frame
from strategies import ethernet, ip_type, ipv4, ipv6, udp

START_NS = 1_793_505_600 * SECOND_NS  # a midnight in UTC
TCP, UDP, ICMP, ICMP6 = 6, 17, 1, 58
SYN, ACK, PUSH_ACK = 2, 16, 0x18


def headers(source: str) -> int:
    """The octets of an IP header."""
    return 20 if ip_address(source).version == 4 else 40


def ip(protocol: int, content: bytes, source: str, destination: str, *, dscp: int = 0,
       flow_label: int = 0) -> bytes:
    if ip_address(source).version == 4:
        return ipv4(protocol, content, source, destination, tos=dscp << 2)
    return ipv6(protocol, content, source, destination, tos=dscp << 2, flow_label=flow_label)


def datagram(source: str, destination: str, octets: int, ports: tuple[int, int] = (1000, 443),
             **marks: int) -> bytes:
    """A UDP packet."""
    return ip(UDP, udp(*ports, bytes(octets - headers(source) - 8)), source, destination, **marks)


def echo(source: str, destination: str, octets: int) -> bytes:
    """An ICMP echo request; what it echoes may be anything."""
    is_four = ip_address(source).version == 4
    content = struct.pack(">BBHHH", 8 if is_four else 128, 0, 0, 1, 1)
    return ip(ICMP if is_four else ICMP6, content.ljust(octets - headers(source), b"\x45"),
              source, destination)


def segment(source: str, destination: str, payload: bytes = b"", *,
            ports: tuple[int, int] = (1000, 443), sequence: int = 1, acknowledgment: int = 1,
            flags: int = PUSH_ACK, window: int = 512, options: bytes = b"") -> bytes:
    """A TCP segment: 20 octets more than its payload and its IP header."""
    words = 5 + len(options) // 4
    header = struct.pack(">HHIIBBHHH", *ports, sequence & 0xFFFFFFFF, acknowledgment & 0xFFFFFFFF,
                         words << 4, flags, window, 0, 0)
    return ip(TCP, header + options + payload, source, destination)


def ttl(packet: bytes, hops: int) -> bytes:
    """A packet that dies after so many hops."""
    at = 8 if packet[0] >> 4 == 4 else 7
    return packet[:at] + bytes([hops]) + packet[at + 1 :]


def gtpu(packet: bytes, teid: int, *, kind: int = 255, ends: tuple[str, str] = (
        "192.0.2.1", "192.0.2.2")) -> bytes:
    """A packet in a GTP-U tunnel: 36 octets of it in front."""
    header = struct.pack(">BBHI", 0x30, kind, len(packet), teid)
    return ipv4(UDP, udp(2152, 2152, header + packet), *ends)


def at(packet: bytes, after_s: float = 0.0, ingress: int = 0, *, padding: int = 0,
       vlan: tuple[int, ...] = (), mac: bytes = b"\x02\0\0\0\0\x02") -> Frame:
    """A frame with a packet in it.

    padding   octets behind the packet
    vlan      VLAN identifiers, the outermost first
    mac       who sends it
    """
    kind, content = ip_type(packet), packet + bytes(padding)
    for number in reversed(vlan):
        kind, content = 0x8100, struct.pack(">HH", number, kind) + content
    octets = ethernet(kind, content)
    octets = octets[:6] + mac + octets[12:]
    return Frame(octets, START_NS + round(after_s * SECOND_NS), len(octets), 1, ingress)


def sent(*packets: bytes, start_s: float = 0.0) -> list[Frame]:
    """Packets, a hundredth of a second after each other."""
    return [at(packet, start_s + n / 100) for n, packet in enumerate(packets)]


class Connection:
    """A TCP connection of a client's to a server: its packets, one after the other.

    `handshake` has three of 40 octets (60 with IPv6); `up` and `down` carry a payload.
    """

    def __init__(self, client: str, server: str, ports: tuple[int, int] = (1000, 443)) -> None:
        self.ends = (client, server)
        self.ports = ports
        self.sent = [1, 1]  # the next sequence of either direction

    def handshake(self) -> list[bytes]:
        client, server = self.ends
        back = self.ports[::-1]
        return [segment(client, server, ports=self.ports, sequence=0, flags=SYN),
                segment(server, client, ports=back, sequence=0, flags=SYN | ACK),
                segment(client, server, ports=self.ports, flags=ACK)]

    def up(self, payload: bytes) -> bytes:
        return self._next(0, payload)

    def down(self, payload: bytes) -> bytes:
        return self._next(1, payload)

    def _next(self, way: int, payload: bytes) -> bytes:
        packet = segment(*self.ends[:: 1 - 2 * way], payload, ports=self.ports[:: 1 - 2 * way],
                         sequence=self.sent[way], acknowledgment=self.sent[1 - way])
        self.sent[way] += len(payload)
        return packet
