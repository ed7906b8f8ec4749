"""Seeded traffic of known composition: a capture, its rules file, and the truth about both."""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Encapsulation = Literal["ipv4", "ipv6", "vlan", "gtpu"]

SLAB_PACKETS = 500_000
START_S = 1_793_491_200  # 2026-11-01T00:00:00Z
DURATION_US = 3_600_000_000
SLOTS = 1 << 20  # a server prefix lies in a /20 of its own: no two overlap
SUBSCRIBERS_MAX = 1 << 24  # 10.0.0.0/8
FLOWS_PER_SUBSCRIBER = 8
FCS_OCTETS = 4  # on the wire, never captured
SERVER_PORTS = np.array([443, 443, 443, 80, 53, 8080, 123, 5228], ">u2")
# Wire sizes of imix, 7:4:1.
IMIX_OCTETS = np.array([64] * 7 + [576] * 4 + [1500], np.uint32)
# Server addresses are never in these /8s: no network, subscribers, loopback, multicast.
FORBIDDEN = (0, 10, 127, *range(224, 256))
IPV6_SUBSCRIBERS = 0x20010DB8 << 32
IPV6_SERVERS = 0x20010DB9 << 32

RECORD = [("seconds", "<u4"), ("microseconds", "<u4"), ("captured", "<u4"), ("original", "<u4")]
ETHERNET = [("station_to", "S6"), ("station_from", "S6"), ("ethertype", ">u2")]
VLAN = [("vlan", ">u2"), ("vlan_ethertype", ">u2")]
IPV4 = [
    ("version", "u1"), ("tos", "u1"), ("total_octets", ">u2"), ("identification", ">u2"),
    ("fragment", ">u2"), ("ttl", "u1"), ("protocol", "u1"), ("checksum", ">u2"),
    ("source", ">u4"), ("destination", ">u4"),
]
IPV6 = [
    ("version6", ">u4"), ("payload_octets", ">u2"), ("next_header", "u1"), ("hop_limit", "u1"),
    ("source_hi", ">u8"), ("source_lo", ">u8"), ("destination_hi", ">u8"),
    ("destination_lo", ">u8"),
]
TUNNEL = [("outer_" + name, kind) for name, kind in IPV4] + [
    ("outer_source_port", ">u2"), ("outer_destination_port", ">u2"), ("outer_length", ">u2"),
    ("outer_udp_checksum", ">u2"), ("gtp_flags", "u1"), ("gtp_type", "u1"),
    ("gtp_length", ">u2"), ("teid", ">u4"),
]
# Ports, then what follows them in a TCP header; UDP uses the first two octets of it.
TRANSPORT = [("source_port", ">u2"), ("destination_port", ">u2"), ("rest", "V16")]
HEADERS: dict[Encapsulation, list[list[tuple[str, str]]]] = {
    "ipv4": [ETHERNET, IPV4],
    "ipv6": [ETHERNET, IPV6],
    "vlan": [ETHERNET, VLAN, IPV4],
    "gtpu": [ETHERNET, TUNNEL, IPV4],
}


@dataclass(frozen=True)
class Traffic:
    """What to generate. The same values give the same octets on every machine."""

    name: str
    packets: int
    subscribers: int = 1_000_000
    zipf: float = 0.9  # 0: all subscribers alike
    prefixes: int = 1_000
    rules: int = 16
    sponsored: float = 0.3  # part of the packets that go to or come from a prefix
    imix: bool = False
    flows: bool = False  # eight flows per subscriber instead of a new one per packet
    encapsulation: Encapsulation = "ipv4"
    seed: int = 1


@dataclass
class Truth:
    """What any right answer must agree with."""

    packets: int = 0
    ip_octets: int = 0
    wire_octets: int = 0
    captured_octets: int = 0
    word_sum: int = 0  # Σ of the 32-bit words at frame offset 30: an untagged IPv4 destination
    rules: dict[str, list[int]] = field(default_factory=dict)  # uplink, downlink: packets, octets


TRAFFIC = {
    traffic.name: traffic
    for traffic in (
        Traffic("min64", 20_000_000),
        Traffic("imix", 5_000_000, imix=True),
        Traffic("m1", 1_000_000),
        Traffic("k100", 100_000),
        Traffic("m1f", 1_000_000, flows=True),
        Traffic("k100f", 100_000, flows=True),
    )
}


class Network:
    """Who is where: subscribers, sponsors' prefixes, and the rest of the world."""

    def __init__(self, traffic: Traffic) -> None:
        if not 0 < traffic.subscribers <= SUBSCRIBERS_MAX:
            raise ValueError(f"subscribers: expected 1..{SUBSCRIBERS_MAX}")
        self.traffic = traffic
        rng = np.random.default_rng([traffic.seed, 0])
        usable = np.arange(SLOTS, dtype=np.uint32)
        usable = usable[~np.isin(usable >> 12, FORBIDDEN)]
        rng.shuffle(usable)
        self.slots, self.elsewhere = np.split(usable, [traffic.prefixes])
        self.lengths = rng.integers(20, 25, traffic.prefixes, dtype=np.uint32)
        weights = 1.0 / np.arange(1, traffic.subscribers + 1) ** traffic.zipf
        self.popularity = np.cumsum(weights) / weights.sum()
        self.flows = self.draw(rng, FLOWS_PER_SUBSCRIBER * traffic.subscribers if traffic.flows
                               else 0)

    def draw(self, rng: np.random.Generator, count: int) -> dict[str, Array]:
        """The far ends of `count` flows: which rule (−1: none), address and ports."""
        sponsored = rng.random(count) < self.traffic.sponsored
        prefix = rng.integers(0, max(1, self.traffic.prefixes), count, dtype=np.uint32)
        low = rng.integers(0, 4096, count, dtype=np.uint32)
        away = self.elsewhere[rng.integers(0, len(self.elsewhere), count)]
        if self.traffic.prefixes:
            host = low & ((1 << (32 - self.lengths[prefix])) - 1)
            server = np.where(sponsored, self.slots[prefix] << 12 | host, away << 12 | low)
        else:
            sponsored[:] = False
            server = away << 12 | low
        return {
            "rule": np.where(sponsored, prefix.astype(np.int32) % max(1, self.traffic.rules), -1),
            "server": server.astype(np.uint32),
            "server_port": SERVER_PORTS[rng.integers(0, len(SERVER_PORTS), count)],
            "subscriber_port": rng.integers(1024, 65536, count, dtype=np.uint16),
            "tcp": rng.random(count) < 0.5,
        }

    def slab(self, number: int, count: int) -> dict[str, Array]:
        """One slab of packets: the subscriber, the far end and the direction of each."""
        rng = np.random.default_rng([self.traffic.seed, 1 + number])
        rank = np.searchsorted(self.popularity, rng.random(count)).astype(np.uint32)
        np.minimum(rank, self.traffic.subscribers - 1, out=rank)
        if self.traffic.flows:
            flow = rank * FLOWS_PER_SUBSCRIBER + rng.integers(0, FLOWS_PER_SUBSCRIBER, count)
            ends = {name: values[flow] for name, values in self.flows.items()}
        else:
            ends = self.draw(rng, count)
        sizes = IMIX_OCTETS[rng.integers(0, len(IMIX_OCTETS), count)]
        return ends | {
            "subscriber": scatter(rank),
            "uplink": rng.random(count) < 0.5,
            "wire": sizes if self.traffic.imix else np.full(count, 64, np.uint32),
        }

    def prefix_texts(self, rule: int) -> list[str]:
        """The server prefixes of one rule; prefix i belongs to rule i modulo rules."""
        own = range(rule, self.traffic.prefixes, self.traffic.rules)
        if self.traffic.encapsulation == "ipv6":
            return [f"{ipv6_text(IPV6_SERVERS | int(self.slots[i]) << 12)}"
                    f"/{32 + int(self.lengths[i])}" for i in own]
        return [f"{ipv4_text(int(self.slots[i]) << 12)}/{int(self.lengths[i])}" for i in own]


def scatter(rank: Array) -> Array:
    """A subscriber's 24 host bits: a permutation, so that neighbours in rank are none in value."""
    mask = np.uint32(SUBSCRIBERS_MAX - 1)
    value = rank & mask
    for multiplier in (0x9E3779, 0xC2B2AF):
        value = (value * np.uint32(multiplier)) & mask
        value ^= value >> np.uint32(11)
    return value


def ipv4_text(address: int) -> str:
    return ".".join(str(address >> shift & 255) for shift in (24, 16, 8, 0))


def ipv6_text(high: int) -> str:
    """The network whose upper 64 bits these are."""
    return ":".join(f"{high >> shift & 0xFFFF:x}" for shift in (48, 32, 16, 0)) + "::"


def ipv4_checksum(rows: Array, prefix: str = "") -> Array:
    """RFC 791 §3.1, over the words of each row's header."""
    total = np.uint32(0x4500) + rows[prefix + "total_octets"].astype(np.uint32)
    total += rows[prefix + "identification"]
    total += rows[prefix + "ttl"].astype(np.uint32) << 8 | rows[prefix + "protocol"]
    for name in ("source", "destination"):
        address = rows[prefix + name].astype(np.uint32)
        total += (address >> 16) + (address & 0xFFFF)
    for _ in range(2):
        total = (total >> 16) + (total & 0xFFFF)
    return (~total & 0xFFFF).astype(np.uint16)


def set_ipv4(rows: Array, prefix: str, octets: Array, number: Array) -> None:
    rows[prefix + "version"] = 0x45
    rows[prefix + "total_octets"] = octets
    rows[prefix + "identification"] = number
    rows[prefix + "ttl"] = 64


def set_transport(rows: Array, ends: dict[str, Array], octets: Array) -> None:
    """Ports, and the length of UDP or the fixed fields of TCP; checksums are left to offload."""
    uplink, tcp = ends["uplink"], ends["tcp"]
    near, far = ends["subscriber_port"], ends["server_port"]
    rows["source_port"] = np.where(uplink, near, far)
    rows["destination_port"] = np.where(uplink, far, near)
    # RFC 9293 §3.1: sequence, acknowledgment, offset 5 with ACK and PSH, window.
    rest = np.zeros((len(rows), 16), np.uint8)
    rest[tcp, 8:12] = (0x50, 0x18, 0x20, 0x00)
    rest[~tcp, 0:2] = octets[~tcp].astype(">u2").view(np.uint8).reshape(-1, 2)
    rows["rest"] = rest.view("V16").ravel()


def build_rows(traffic: Traffic, number: int, count: int, ends: dict[str, Array]) -> Array:
    """Records with all headers, without the payload that follows them."""
    layers = HEADERS[traffic.encapsulation]
    fields = [pair for layer in (RECORD, *layers, TRANSPORT) for pair in layer]
    rows = np.zeros(count, np.dtype(fields))
    index = number * SLAB_PACKETS + np.arange(count)
    time_us = index * DURATION_US // traffic.packets
    rows["seconds"] = START_S + time_us // 1_000_000
    rows["microseconds"] = time_us % 1_000_000
    # `wire` is the size of the plain IPv4 frame: an encapsulation adds to it.
    plain = sum(np.dtype(layer).itemsize for layer in HEADERS["ipv4"])
    added = sum(np.dtype(layer).itemsize for layer in layers) - plain
    rows["original"] = ends["wire"] + added
    rows["captured"] = rows["original"] - FCS_OCTETS
    rows["station_to"], rows["station_from"] = b"\x02\0\0\0\0\x01", b"\x02\0\0\0\0\x02"
    rows["ethertype"] = 0x86DD if traffic.encapsulation == "ipv6" else 0x0800
    behind_ip = ends["wire"] - FCS_OCTETS - plain
    if traffic.encapsulation == "vlan":
        rows["ethertype"], rows["vlan_ethertype"] = 0x8100, 0x0800
        rows["vlan"] = 1 + ends["subscriber"] % 4094
    protocol = np.where(ends["tcp"], 6, 17)
    if traffic.encapsulation == "ipv6":
        set_ipv6_addresses(rows, ends)
        rows["version6"], rows["hop_limit"] = 6 << 28, 64
        rows["payload_octets"], rows["next_header"] = behind_ip, protocol
    else:
        near = ends["subscriber"] | np.uint32(10 << 24)
        rows["source"] = np.where(ends["uplink"], near, ends["server"])
        rows["destination"] = np.where(ends["uplink"], ends["server"], near)
        set_ipv4(rows, "", behind_ip + 20, index & 0xFFFF)
        rows["protocol"] = protocol
        rows["checksum"] = ipv4_checksum(rows)
    if traffic.encapsulation == "gtpu":
        set_tunnel(rows, ends, behind_ip + 20, index)
    set_transport(rows, ends, behind_ip)
    return rows


def set_ipv6_addresses(rows: Array, ends: dict[str, Array]) -> None:
    near = np.uint64(IPV6_SUBSCRIBERS) | ends["subscriber"].astype(np.uint64)
    far = np.uint64(IPV6_SERVERS) | ends["server"].astype(np.uint64)
    rows["source_hi"] = np.where(ends["uplink"], near, far)
    rows["destination_hi"] = np.where(ends["uplink"], far, near)
    rows["source_lo"] = rows["destination_lo"] = 1


def set_tunnel(rows: Array, ends: dict[str, Array], inner_octets: Array, index: Array) -> None:
    """The outer IPv4, UDP 2152 and GTP-U headers of a T-PDU (TS 29.281 §5.1)."""
    radio, core = 0xC0A80001, 0xC0A80002
    set_ipv4(rows, "outer_", inner_octets + 36, index & 0xFFFF)
    rows["outer_protocol"] = 17
    rows["outer_source"] = np.where(ends["uplink"], radio, core)
    rows["outer_destination"] = np.where(ends["uplink"], core, radio)
    rows["outer_checksum"] = ipv4_checksum(rows, "outer_")
    rows["outer_source_port"] = rows["outer_destination_port"] = 2152
    rows["outer_length"] = inner_octets + 16
    rows["gtp_flags"], rows["gtp_type"] = 0x30, 255
    rows["gtp_length"], rows["teid"] = inner_octets, 1 + ends["subscriber"]


def records(rows: Array, noise: Array) -> Array:
    """The octets of the records: each row followed by its payload, a piece of the noise."""
    header = rows.dtype.itemsize
    sizes = rows["captured"].astype(np.int64) + 16
    if (sizes == sizes[0]).all():
        packed = np.empty((len(rows), int(sizes[0])), np.uint8)
        packed[:, :header] = rows.view(np.uint8).reshape(-1, header)
        packed[:, header:] = noise[: int(sizes[0]) - header]
        return packed.ravel()
    ends = np.cumsum(sizes)
    stream = np.resize(noise, int(ends[-1]))
    places = (ends - sizes)[:, None] + np.arange(header)
    stream[places.ravel()] = rows.view(np.uint8)
    return stream


def slabs(traffic: Traffic, network: Network) -> Iterator[tuple[dict[str, Array], Array]]:
    for number, first in enumerate(range(0, traffic.packets, SLAB_PACKETS)):
        count = min(SLAB_PACKETS, traffic.packets - first)
        ends = network.slab(number, count)
        yield ends, build_rows(traffic, number, count, ends)


def add_truth(truth: Truth, ends: dict[str, Array], rows: Array) -> None:
    ipv6 = "version6" in (rows.dtype.names or ())
    octets = rows["payload_octets"].astype(np.int64) + 40 if ipv6 else rows["total_octets"]
    truth.packets += len(rows)
    truth.ip_octets += int(octets.sum(dtype=np.int64))
    truth.wire_octets += int(rows["original"].sum(dtype=np.int64))
    truth.captured_octets += int(rows["captured"].sum(dtype=np.int64))
    header = rows.view(np.uint8).reshape(len(rows), -1)
    truth.word_sum += int(np.ascontiguousarray(header[:, 46:50]).view(">u4").sum(dtype=np.uint64))
    bins = 2 * (ends["rule"] + 1) + ~ends["uplink"]
    packets = np.bincount(bins)
    by_rule = np.bincount(bins, weights=octets)
    for place in np.flatnonzero(packets):
        name = rule_name(int(place) // 2 - 1)
        figures = truth.rules.setdefault(name, [0, 0, 0, 0])
        figures[2 * (int(place) % 2)] += int(packets[place])
        figures[2 * (int(place) % 2) + 1] += int(by_rule[place])


def rule_name(rule: int) -> str:
    return f"rule-{rule}" if rule >= 0 else ""


def rules_text(traffic: Traffic, network: Network) -> str:
    """The rules file that goes with the capture: a sponsor and a share for each rule."""
    ipv6 = traffic.encapsulation == "ipv6"
    pool = "2001:db8::/32" if ipv6 else "10.0.0.0/8"
    lines = ["[meter]", 'window = "1h"', 'zone = "UTC"', "", "[[pools]]", f'prefixes = ["{pool}"]']
    for rule in range(min(traffic.rules, traffic.prefixes)):
        servers = ", ".join(f'"{text}"' for text in network.prefix_texts(rule))
        lines += [
            "",
            f"[sponsors.sponsor-{rule}]",
            f'account = "sponsor:{rule}"',
            "",
            "[[rules]]",
            f'id = "{rule_name(rule)}"',
            f"precedence = {100 + rule}",
            f"match = {{ server = [{servers}] }}",
            f'split = {{ sponsor = "sponsor-{rule}", share = "{30 + rule % 71}%" }}',
        ]
    return "\n".join(lines) + "\n"


def generate(traffic: Traffic, folder: Path) -> tuple[Path, Path, Truth]:
    """Capture, rules file and truth in `folder`; what is already there is not made again."""
    stem = folder / f"{traffic.name}-{traffic.packets}"
    capture, rules, story = (stem.with_suffix(end) for end in (".pcap", ".toml", ".json"))
    generator = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
    wanted = json.dumps({"generator": generator, **asdict(traffic)})
    if story.exists() and (found := json.loads(story.read_text()))["traffic"] == wanted:
        return capture, rules, Truth(**found["truth"])
    story.unlink(missing_ok=True)
    network, truth = Network(traffic), Truth()
    noise = np.random.default_rng([traffic.seed, 2**32 - 1]).integers(0, 256, 65_521, np.uint8)
    with capture.open("wb", buffering=0) as file:
        header = np.array([0xA1B2C3D4, 2 | 4 << 16, 0, 0, 262_144, 1], "<u4")
        header.tofile(file)
        for ends, rows in slabs(traffic, network):
            add_truth(truth, ends, rows)
            records(rows, noise).tofile(file)
    rules.write_text(rules_text(traffic, network))
    story.write_text(json.dumps({"traffic": wanted, "truth": asdict(truth)}) + "\n")
    return capture, rules, truth


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=TRAFFIC)
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    capture, rules, truth = generate(TRAFFIC[arguments.name], arguments.folder)
    print(capture, rules, json.dumps(asdict(truth)), sep="\n")


if __name__ == "__main__":
    main()
