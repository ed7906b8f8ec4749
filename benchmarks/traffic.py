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

from benchmarks.agreement import apply_conditions, rule_name, rules_text
from benchmarks.frames import PCAP_HEADER, build_rows, noise, records
from benchmarks.network import MIX, Array, Network

Encapsulation = Literal["ipv4", "ipv6", "vlan", "qinq", "gtpu", "mixed"]

SLAB_PACKETS = 500_000
SOURCES = ("traffic.py", "network.py", "frames.py", "agreement.py")


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
    duration_s: int = 3_600
    # The rules file: what each rule asks for ("server", "dscp", "port", "where"), and the rest.
    conditions: tuple[str, ...] = ("server",)
    window: str = "1h"
    key: str = "address"  # of the pool: "vlan", "gtp_teid"
    quota: bool = False
    rated: bool = False
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
        Traffic("min64f", 20_000_000, flows=True),
        Traffic("imix", 5_000_000, imix=True),
        Traffic("imixf", 5_000_000, imix=True, flows=True),
        Traffic("m1", 1_000_000),
        Traffic("m1f", 1_000_000, flows=True),
        Traffic("k100", 100_000),
        Traffic("k100f", 100_000, flows=True),
    )
}


@dataclass(frozen=True)
class Case:
    """Generated traffic on disk."""

    traffic: Traffic
    capture: Path
    rules: Path
    truth: Truth


def slabs(
    traffic: Traffic, network: Network
) -> Iterator[list[tuple[Array, dict[str, Any], Array]]]:
    """Slab by slab, and in it by encapsulation: places in the slab, ends, rows."""
    for number, first in enumerate(range(0, traffic.packets, SLAB_PACKETS)):
        count = min(SLAB_PACKETS, traffic.packets - first)
        ends = network.slab(number, count)
        apply_conditions(traffic, ends)
        whole = np.arange(count)
        if traffic.encapsulation != "mixed":
            yield [(whole, ends, build_rows(traffic, traffic.encapsulation, first + whole, ends))]
            continue
        parts = []
        for kind, encapsulation in enumerate(MIX):
            places = np.flatnonzero(ends["encapsulation"] == kind)
            own = {name: values[places] if np.ndim(values) else values
                   for name, values in ends.items()}
            parts.append((places, own, build_rows(traffic, encapsulation, first + places, own)))
        yield parts


def add_truth(truth: Truth, ends: dict[str, Any], rows: Array) -> None:
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


def generator() -> str:
    """A digest of the sources that decide what is generated."""
    folder = Path(__file__).parent
    return hashlib.sha256(b"".join((folder / name).read_bytes() for name in SOURCES)).hexdigest()


def generate(traffic: Traffic, folder: Path) -> Case:
    """Capture, rules file and truth in `folder`; what is already there is not made again."""
    stem = folder / f"{traffic.name}-{traffic.packets}"
    capture, rules, story = (stem.with_suffix(end) for end in (".pcap", ".toml", ".json"))
    wanted = json.dumps({"generator": generator(), **asdict(traffic)})
    if story.exists() and (found := json.loads(story.read_text()))["traffic"] == wanted:
        return Case(traffic, capture, rules, Truth(**found["truth"]))
    story.unlink(missing_ok=True)
    network, truth, payload = Network(traffic), Truth(), noise(traffic.seed)
    with capture.open("wb", buffering=0) as file:
        PCAP_HEADER.tofile(file)
        for parts in slabs(traffic, network):
            for _, ends, rows in parts:
                add_truth(truth, ends, rows)
            records([(places, rows) for places, _, rows in parts], payload).tofile(file)
    rules.write_text(rules_text(traffic, network))
    story.write_text(json.dumps({"traffic": wanted, "truth": asdict(truth)}) + "\n")
    return Case(traffic, capture, rules, truth)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=TRAFFIC)
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    case = generate(TRAFFIC[arguments.name], arguments.folder)
    print(case.capture, case.rules, json.dumps(asdict(case.truth)), sep="\n")


if __name__ == "__main__":
    main()
