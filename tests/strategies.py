"""Random traffic and random agreements, for driving the fast engine against the slow one.

Frames are nests of encapsulations, whole more often than broken; rule sets are small, and
their prefixes, ports and tags come from the same few values as the traffic's.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable
from fractions import Fraction
from ipaddress import ip_address, ip_network

from hypothesis import strategies as st
from judges import Frame

from tollsplit.rules.rule import (
    Budget,
    Ingress,
    Match,
    Meter,
    Pool,
    Prefix,
    Rule,
    RuleSet,
    Split,
    Sponsor,
    Tenure,
)

Draw = st.DrawFn
HOSTS4 = ("10.0.0.7", "10.0.0.8", "10.1.0.7", "192.0.2.1", "203.0.113.5", "203.0.113.77")
HOSTS6 = ("2001:db8::7", "2001:db8:0:7::9", "2001:db8:ffff::5", "fe80::1")
PREFIXES = ("10.0.0.0/8", "10.1.0.0/16", "10.0.0.0/24", "203.0.113.0/24", "203.0.113.77/32",
            "192.0.2.0/24", "0.0.0.0/0", "2001:db8::/32", "2001:db8:ffff::/48", "::/0")
NUMBERS = st.sampled_from([0, 1, 7, 100])
PORTS = st.sampled_from([0, 53, 443, 1701, 2152, 4789, 6081, 8080])
LINKS = (1, 0, 101, 9, 113, 276)
# Interfaces of the rule sets' ingresses, in the order of their numbers.
INTERFACES = ("s1-u", "eth0")
SEGMENT_UNKNOWN = 0xFFFFFFFF
DAY_NS = 86_400 * 10**9
# Clocks go back in Berlin, Havana (over midnight) and Lord Howe (by half an hour), forward in
# Berlin; and the end of a month.
MOMENTS = (("Europe/Berlin", 1_792_886_400), ("Europe/Berlin", 1_774_742_400),
           ("America/Havana", 1_793_505_600), ("Australia/Lord_Howe", 1_775_314_800),
           ("Asia/Shanghai", 1_795_966_200), ("UTC", 1_798_675_200))


def examples(count: int) -> int:
    """How many to generate: a fifth of it on the builds that run each several times as long."""
    return count if os.environ.get("TOLLSPLIT_BUILD", "release") == "release" else count // 5



# --- frames ----------------------------------------------------------------------------------


def ipv4(protocol: int, content: bytes, source: str, destination: str, *, tos: int = 0,
         fragment: int = 0, options: bytes = b"") -> bytes:
    octets = 20 + len(options) + len(content)
    return struct.pack(
        ">BBHHHBBH4s4s", 0x45 + len(options) // 4, tos, octets & 0xFFFF, 1, fragment, 64, protocol,
        0, ip_address(source).packed, ip_address(destination).packed) + options + content


def ipv6(protocol: int, content: bytes, source: str, destination: str, *, tos: int = 0,
         flow_label: int = 0) -> bytes:
    return struct.pack(
        ">IHBB16s16s", 6 << 28 | tos << 20 | flow_label, len(content) & 0xFFFF, protocol, 64,
        ip_address(source).packed, ip_address(destination).packed) + content


def udp(source: int, destination: int, content: bytes) -> bytes:
    return struct.pack(">HHHH", source, destination, 8 + len(content), 0) + content


def tcp(source: int, destination: int, content: bytes) -> bytes:
    return struct.pack(">HHIIHHHH", source, destination, 1, 1, 0x5018, 512, 0, 0) + content


def ethernet(kind: int, content: bytes) -> bytes:
    return b"\x02\0\0\0\0\x01\x02\0\0\0\0\x02" + struct.pack(">H", kind) + content


def ip_type(packet: bytes) -> int:
    return 0x86DD if packet[:1] >= b"\x60" else 0x0800


@st.composite
def extended(draw: Draw, protocol: int, content: bytes) -> tuple[int, bytes]:
    """Content behind IPv6 extension headers, and the first header's number."""
    for kind in draw(st.lists(st.sampled_from([0, 43, 44, 51, 60]), max_size=3)):
        if kind == 44:
            more = draw(st.sampled_from([0, 0, 1, 800]))
            header = struct.pack(">BBHI", protocol, 0, more, 5)
        elif kind == 51:
            header = struct.pack(">BBHII", protocol, 1, 0, 1, 1)
        else:
            header = bytes([protocol, 0]) + b"\x01\x04\0\0\0\0"
        protocol, content = kind, header + content
    return protocol, content


@st.composite
def ip_packets(draw: Draw, depth: int = 2) -> bytes:
    protocol, content = draw(tunnels(depth) if depth and draw(st.booleans()) else transports())
    tos = draw(st.sampled_from([0, 0, 46 << 2, 3]))
    if draw(st.booleans()):
        hosts = st.sampled_from(HOSTS4)
        fragment = draw(st.sampled_from([0, 0, 0, 0, 0x4000, 0x2000, 0x2005, 100]))
        options = draw(st.sampled_from([b"", b"", b"", b"\x94\x04\0\0"]))
        return ipv4(protocol, content, draw(hosts), draw(hosts), tos=tos, fragment=fragment,
                    options=options)
    hosts = st.sampled_from(HOSTS6)
    if draw(st.integers(0, 3)) == 0:
        protocol, content = draw(extended(protocol, content))
    return ipv6(protocol, content, draw(hosts), draw(hosts), tos=tos, flow_label=draw(NUMBERS))


@st.composite
def transports(draw: Draw) -> tuple[int, bytes]:
    content = bytes(draw(st.integers(0, 120)))
    kind = draw(st.sampled_from([6, 17, 17, 132, 136, 1, 58, 50, 51, 59, 253]))
    if kind == 6:
        return kind, tcp(draw(PORTS), draw(PORTS), content)
    if kind in (17, 132, 136):
        return kind, udp(draw(PORTS), draw(PORTS), content)
    return kind, content


@st.composite
def tunnels(draw: Draw, depth: int) -> tuple[int, bytes]:
    """A tunnel's header with an IP packet inside, and the protocol that carries it."""
    inner = draw(ip_packets(depth - 1))
    number = draw(NUMBERS)
    version = inner[0] >> 4
    kind = draw(st.sampled_from(
        ["ipip", "mpls", "gre", "gre-ethernet", "pptp", "vxlan", "geneve", "gtp", "l2tp"]))
    if kind == "ipip":
        return (41 if version == 6 else 4), inner
    if kind == "mpls":
        return 137, draw(labels()) + inner
    if kind == "gre":
        flags = draw(st.sampled_from([0, 0x2000, 0xB000, 0x3000]))
        words = (flags >> 15 & 1) * bytes(4) + (flags >> 13 & 1) * struct.pack(">I", number)
        return 47, struct.pack(">HH", flags, ip_type(inner)) + words + (
            flags >> 12 & 1) * bytes(4) + inner
    if kind == "gre-ethernet":
        return 47, b"\0\0\x65\x58" + ethernet(*draw(tagged(inner)))
    if kind == "pptp":
        return 47, struct.pack(">HHHHI", 0x3001, 0x880B, len(inner), number, 1) + ppp(inner)
    if kind == "vxlan":
        return 17, udp(9, 4789, struct.pack(">II", 8 << 24, number << 8) + ethernet(
            *draw(tagged(inner))))
    if kind == "geneve":
        options = bytes(4 * draw(st.integers(0, 2)))
        return 17, udp(9, 6081, struct.pack(
            ">BBHI", len(options) // 4, 0, ip_type(inner), number << 8) + options + inner)
    if kind == "l2tp":
        return 17, udp(1701, 1701, struct.pack(
            ">HHH", draw(st.sampled_from([2, 2, 0xC802])), 1, 2) + ppp(inner))
    return 17, udp(2152, 2152, draw(gtp(number, inner)))


@st.composite
def gtp(draw: Draw, teid: int, inner: bytes) -> bytes:
    kind = draw(st.sampled_from([255, 255, 255, 1, 254]))
    flags, optional = draw(st.sampled_from(
        [(0x30, b""), (0x32, bytes(4)), (0x34, b"\0\0\0\x85\x01\0\x07\0")]))
    return struct.pack(">BBHI", flags, kind, len(optional + inner), teid) + optional + inner


def ppp(packet: bytes) -> bytes:
    return b"\xff\x03\0" + (b"\x57" if packet[0] >> 4 == 6 else b"\x21") + packet


@st.composite
def labels(draw: Draw) -> bytes:
    stack = draw(st.lists(NUMBERS, min_size=1, max_size=3))
    return b"".join(struct.pack(">I", label << 12 | (0x100 if n == len(stack) else 0) | 64)
                    for n, label in enumerate(stack, 1))


@st.composite
def tagged(draw: Draw, packet: bytes) -> tuple[int, bytes]:
    """A packet behind VLAN tags, MPLS or PPPoE, and its EtherType."""
    kind, content = ip_type(packet), packet
    behind = draw(st.sampled_from(["", "", "", "mpls", "pppoe", "other"]))
    if behind == "mpls":
        kind, content = 0x8847, draw(labels()) + content
    elif behind == "pppoe":
        content = ppp(content)[2:]
        kind = 0x8864
        content = struct.pack(">BBHH", 0x11, 0, draw(NUMBERS), len(content)) + content
    elif behind == "other":
        kind = draw(st.sampled_from([0x0806, 0x8863, 0x0026]))
    for vlan in draw(st.lists(NUMBERS, max_size=3)):
        kind, content = 0x8100, struct.pack(">HH", vlan, kind) + content
    return kind, content


@st.composite
def frames(draw: Draw) -> Frame:
    """One frame: whole, or cut, padded, or with a few octets overwritten."""
    packet = draw(ip_packets())
    link = draw(st.sampled_from([1, 1, 1, *LINKS]))
    if link == 1:
        octets = ethernet(*draw(tagged(packet)))
    elif link == 0:
        octets = (b"\x1e" if packet[0] >> 4 == 6 else b"\x02") + bytes(3) + packet
    elif link == 101:
        octets = packet
    elif link == 9:
        octets = ppp(packet)
    elif link == 113:
        octets = bytes(14) + struct.pack(">H", ip_type(packet)) + packet
    else:
        octets = struct.pack(">H", ip_type(packet)) + bytes(18) + packet
    harm = draw(st.sampled_from(["", "", "", "padding", "octets", "capture", "wire", "claim"]))
    original = len(octets)
    if harm == "padding":
        octets += bytes(draw(st.integers(1, 30)))
        original = len(octets)
    elif harm == "octets":
        broken = bytearray(octets)
        for _ in range(draw(st.integers(1, 4))):
            at = draw(st.integers(0, min(len(broken), 160) - 1))
            broken[at] = draw(st.integers(0, 255))
        octets = bytes(broken)
    elif harm == "capture":
        octets = octets[: draw(st.integers(0, len(octets)))]
    elif harm == "wire":
        octets = octets[: draw(st.integers(0, len(octets)))]
        original = len(octets)
    elif harm == "claim":  # what the capture says of the wire is not what it holds
        original = draw(st.integers(len(octets), len(octets) + 70_000))
    segments = draw(st.sampled_from([0, 0, 0, 1, 7, 1448, SEGMENT_UNKNOWN]))
    return Frame(octets, 0, original, link, 0, segments)


@st.composite
def traffic(draw: Draw, start_s: int) -> list[Frame]:
    """Frames of a few days, in any order, some of them repeated."""
    kinds = draw(st.lists(frames(), min_size=1, max_size=6))
    some = draw(st.lists(st.tuples(
        st.sampled_from(kinds), st.integers(0, 3 * 86_400) | st.integers(0, 14_400),
        st.integers(0, len(INTERFACES))), min_size=1, max_size=25))
    return [frame._replace(timestamp_ns=(start_s + second) * 10**9 + 1, ingress=ingress)
            for frame, second, ingress in some]


def capture(content: Iterable[Frame]) -> bytes:
    """Frames as a pcapng file; ingress n came in by the interface INTERFACES[n - 1].

    Of coalesced packets a comment says so, as in captures that a live run keeps.
    """
    content = list(content)
    interfaces = sorted({(f.link_type, f.ingress) for f in content})

    def block(kind: int, body: bytes) -> bytes:
        body += bytes(-len(body) % 4)
        return struct.pack("<II", kind, len(body) + 12) + body + struct.pack("<I", len(body) + 12)

    out = bytearray(block(0x0A0D0D0A, struct.pack("<IHHq", 0x1A2B3C4D, 1, 0, -1)))
    for link_type, ingress in interfaces:
        name = ("other", *INTERFACES)[ingress].encode()
        out += block(1, struct.pack("<HHI", link_type, 0, 0) + struct.pack("<HH", 2, len(name))
                     + name + bytes(-len(name) % 4) + b"\x09\0\x01\0\x09\0\0\0" + bytes(4))
    for f in content:
        options = b""
        if f.segment_octets:
            size = "unknown size" if f.segment_octets == SEGMENT_UNKNOWN else (
                f"{f.segment_octets} octets")
            text = f"segments of {size}".encode()
            options = struct.pack("<HH", 1, len(text)) + text + bytes(-len(text) % 4 + 4)
        index = interfaces.index((f.link_type, f.ingress))
        out += block(6, struct.pack("<IIIII", index, f.timestamp_ns >> 32,
                                    f.timestamp_ns & 0xFFFFFFFF, len(f.octets), f.original)
                     + f.octets + bytes(-len(f.octets) % 4) + options)
    return bytes(out)


# --- rule sets -------------------------------------------------------------------------------


def prefix(text: str) -> Prefix:
    network = ip_network(text)
    return Prefix(network.version, int(network.network_address), network.prefixlen)


def prefixes(**sizes: int) -> st.SearchStrategy[tuple[Prefix, ...]]:
    return st.lists(st.sampled_from(PREFIXES), unique=True, **sizes).map(
        lambda texts: tuple(prefix(text) for text in texts))


def maybe(strategy: st.SearchStrategy, one_in: int = 4) -> st.SearchStrategy:
    """A value now and then, else None."""
    return st.integers(1, one_in).flatmap(lambda n: strategy if n == 1 else st.none())


numbers = st.frozensets(NUMBERS, min_size=1, max_size=2)
shares = st.sampled_from([Fraction(1), Fraction(1, 2), Fraction(1, 3), Fraction(7, 10),
                          Fraction(1, 7), Fraction(123_456_789, 1_000_000_000)])
quotas = st.sampled_from([1, 100, 333, 1000, 5000])
# Of a claim rule the server condition is what makes a mismatch; both have to be drawn often.
matches = st.builds(
    Match, server=maybe(prefixes(min_size=1, max_size=3), 2),
    subscriber=maybe(prefixes(min_size=1, max_size=2), 4),
    port=maybe(st.sampled_from([((443, 443),), ((0, 100), (2000, 9000))])),
    protocol=maybe(st.sampled_from([frozenset({6}), frozenset({17, 132})])),
    direction=st.sampled_from(["both", "both", "uplink", "downlink"]),
    dscp=maybe(st.just(frozenset({46})), 3), flow_label=maybe(numbers, 8), vlan=maybe(numbers, 6),
    vlan_inner=maybe(numbers, 10), mpls=maybe(numbers, 10), gtp_teid=maybe(numbers, 10),
    qfi=maybe(st.just(frozenset({7})), 10), gre_key=maybe(numbers, 10), vni=maybe(numbers, 10),
    ingress=maybe(st.sampled_from(["core", "edge"]), 8))


@st.composite
def splits(draw: Draw, sponsors: list[str]) -> tuple[Split, ...]:
    left, drawn = Fraction(1), []
    for sponsor in draw(st.lists(st.sampled_from(sponsors), unique=True)):
        share = draw(shares)
        if share <= left:
            left -= share
            drawn.append(Split(sponsor, share, draw(maybe(quotas, 2))))
    return tuple(drawn)


@st.composite
def pools(draw: Draw, start_s: int) -> tuple[Pool, ...]:
    texts = draw(st.lists(st.sampled_from(PREFIXES), min_size=1, max_size=4, unique=True))
    cut = draw(st.integers(1, len(texts)))
    drawn = []
    for part in (texts[:cut], texts[cut:]):
        if part:
            key = draw(st.sampled_from(
                ["address"] * 4 + ["gtp_teid", "vlan", "pppoe_session", "mac"]))
            tenures = draw(directories(start_s)) if key == "address" else ()
            drawn.append(Pool(tuple(prefix(text) for text in part), draw(st.sampled_from(
                [32, 32, 24])), draw(st.sampled_from([64, 128, 48])), key, tenures))
    return tuple(drawn)


@st.composite
def directories(draw: Draw, start_s: int) -> tuple[Tenure, ...]:
    """Holders of whole subscribers; an address changes hands at an instant."""
    changes = draw(st.integers(0, 2 * 86_400).map(lambda s: (start_s + s) * 10**9))
    tenures = (
        Tenure(prefix("10.0.0.0/8"), "acme", None, None),
        Tenure(prefix("10.0.0.0/24"), "before", None, changes),
        Tenure(prefix("10.0.0.0/24"), "after", changes, changes + DAY_NS),
        Tenure(prefix("2001:db8::/48"), "six", changes, None))
    return tuple(t for t in tenures if draw(st.booleans()))


@st.composite
def rule_sets(draw: Draw) -> tuple[RuleSet, int]:
    """Rules, and the second at which traffic that suits them begins."""
    zone, start_s = draw(st.sampled_from(MOMENTS))
    window = draw(st.sampled_from(["all", 900, 3600, 21_600, 86_400, "month"]))
    meter = Meter(
        layer=draw(st.sampled_from(["ip", "ip", "ip", "frame", "payload"])),
        at=draw(st.sampled_from(["inner", "inner", "outer"])),
        window_s=window if isinstance(window, int) else None, window_month=window == "month",
        zone=zone, tunnel_endpoints=draw(maybe(prefixes(min_size=1, max_size=3))))
    names = ["video-co", "shop-co", "map-co"][: draw(st.integers(1, 3))]
    sponsors = {name: Sponsor(name, f"sponsor:{name}", None, draw(maybe(st.builds(
        Budget, st.sampled_from([0, 50, 777, 5000]), st.sampled_from(["day", "month", None])), 2)))
        for name in names}
    rules = tuple(
        Rule(f"rule-{n}", n * 10, match, draw(splits(names)),
             draw(st.sampled_from(["window", "day", "month", "session"])), n)
        for n, match in enumerate(draw(st.lists(matches, max_size=5)), 1))
    ingresses = {"core": Ingress("core", INTERFACES[0], True),
                 "edge": Ingress("edge", INTERFACES[1])}
    return RuleSet("generated", "sha256:0", meter, draw(pools(start_s)), sponsors, rules, {},
                   ingresses), start_s
