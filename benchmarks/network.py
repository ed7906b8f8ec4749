"""Who is where, and who talks to whom: the seeded draw behind the generated traffic."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from benchmarks.traffic import Traffic

Array = NDArray[Any]

SLOTS = 1 << 20  # a server prefix lies in a /20 of its own: no two overlap
SUBSCRIBERS_MAX = 1 << 24  # 10.0.0.0/8
FLOWS_PER_SUBSCRIBER = 8
SERVER_PORTS = np.array([443, 443, 443, 80, 53, 8080, 123, 5228], ">u2")
# Wire sizes of imix, 7:4:1.
IMIX_OCTETS = np.array([64] * 7 + [576] * 4 + [1500], np.uint32)
# Server addresses are never in these /8s: no network, subscribers, loopback, multicast.
FORBIDDEN = (0, 10, 127, *range(224, 256))
IPV6_SUBSCRIBERS = 0x20010DB8 << 32
IPV6_SERVERS = 0x20010DB9 << 32
# Parts of `mixed` in percent: an access network with tunnels, on the way to IPv6.
MIX = {"ipv4": 40, "ipv6": 30, "vlan": 10, "qinq": 5, "gtpu": 15}


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
        """The far ends of `count` flows: whose prefix (−1: nobody's), address and ports."""
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
        ends |= {
            "subscriber": scatter(rank),
            "uplink": rng.random(count) < 0.5,
            "wire": sizes if self.traffic.imix else np.full(count, 64, np.uint32),
        }
        if self.traffic.encapsulation == "mixed":
            ends["encapsulation"] = np.repeat(np.arange(len(MIX), dtype=np.uint8),
                                              list(MIX.values()))[rng.integers(0, 100, count)]
        return ends

    def prefix_lines(self) -> str:
        """IPv4 address, length and rule of every server prefix, in decimal, one a line."""
        return "".join(
            f"{int(slot) << 12} {length} {place % max(1, self.traffic.rules)}\n"
            for place, (slot, length) in enumerate(zip(self.slots, self.lengths, strict=True)))

    def prefix_texts(self, rule: int) -> list[str]:
        """The server prefixes of one rule; prefix i belongs to rule i modulo rules."""
        own = range(rule, self.traffic.prefixes, self.traffic.rules)
        networks = [(int(self.slots[i]) << 12, int(self.lengths[i])) for i in own]
        texts = []
        if self.traffic.encapsulation != "ipv6":
            texts += [f"{ipv4_text(address)}/{length}" for address, length in networks]
        if self.traffic.encapsulation in ("ipv6", "mixed"):
            texts += [f"{ipv6_text(IPV6_SERVERS | address)}/{32 + length}"
                      for address, length in networks]
        return texts


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
