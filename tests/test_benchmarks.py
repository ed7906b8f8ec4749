"""The benchmarks at smoke size: the generated traffic is what it claims, the floors count it."""

from __future__ import annotations

import ipaddress
import json
import os
import shutil
import subprocess
import sys
import tomllib
from collections import Counter
from dataclasses import replace
from pathlib import Path

import dpkt
import pytest

from benchmarks.bench_account import compile_floors, measure_floor
from benchmarks.traffic import TRAFFIC, Traffic, generate

SMOKE = replace(TRAFFIC["min64"], name="smoke", packets=20_000, subscribers=2_000)


def packets(capture: Path) -> list[tuple[float, bytes]]:
    with capture.open("rb") as file:
        return list(dpkt.pcap.Reader(file))


def metered(frame: bytes) -> dpkt.ip.IP | dpkt.ip6.IP6:
    """The innermost IP packet of a generated frame."""
    ip = dpkt.ethernet.Ethernet(frame).data
    if isinstance(ip.data, dpkt.udp.UDP) and ip.data.dport == 2152:
        assert (ip.data.data[0], ip.data.data[1]) == (0x30, 255)
        return dpkt.ip.IP(ip.data.data[8:])
    return ip


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("traffic")
    generate(SMOKE, folder)
    return folder / f"smoke-{SMOKE.packets}.pcap"


def test_traffic_has_the_stated_mix(smoke: Path) -> None:
    rules = tomllib.loads(smoke.with_suffix(".toml").read_text())["rules"]
    assert len(rules) == 16
    prefixes = {
        ipaddress.ip_network(text): rule["id"] for rule in rules for text in rule["match"]["server"]
    }
    assert len(prefixes) == 1_000
    by_slot = {int(network.network_address) >> 12: network for network in prefixes}
    assert len(by_slot) == 1_000  # none overlaps another
    near, far, protocols, uplink = Counter(), Counter(), Counter(), 0
    for _, frame in packets(smoke):
        assert len(frame) == 60
        ip = metered(frame)
        assert ip.len == 46
        assert dpkt.in_cksum(bytes(ip)[:20]) == 0
        protocols[ip.p] += 1
        ends = ip.src, ip.dst
        is_uplink = ends[0][0] == 10
        assert (ends[1][0] == 10) != is_uplink
        uplink += is_uplink
        subscriber, server = ends if is_uplink else ends[::-1]
        near[subscriber] += 1
        address = int.from_bytes(server, "big")
        network = by_slot.get(address >> 12)
        rule = prefixes[network] if network and ipaddress.ip_address(server) in network else None
        far[rule] += 1
    total = SMOKE.packets
    assert uplink / total == pytest.approx(0.5, abs=0.02)
    assert protocols[6] / total == pytest.approx(0.5, abs=0.02)
    assert protocols[6] + protocols[17] == total
    assert 1 - far[None] / total == pytest.approx(0.3, abs=0.02)
    assert all(far[rule["id"]] / total == pytest.approx(0.3 / 16, abs=0.006) for rule in rules)
    # Zipf 0.9 over 2,000: the first has 1 / Σ r^-0.9 of all packets.
    share = 1 / sum(rank**-0.9 for rank in range(1, 2_001))
    assert near.most_common(1)[0][1] / total == pytest.approx(share, rel=0.1)


def test_traffic_truth_is_what_dpkt_counts(smoke: Path) -> None:
    truth = json.loads(smoke.with_suffix(".json").read_text())["truth"]
    frames = packets(smoke)
    assert truth["packets"] == len(frames) == SMOKE.packets
    assert truth["captured_octets"] == sum(len(frame) for _, frame in frames)
    assert truth["wire_octets"] == 64 * len(frames)
    assert truth["ip_octets"] == sum(metered(frame).len for _, frame in frames)
    assert truth["word_sum"] == sum(int.from_bytes(frame[30:34], "big") for _, frame in frames)
    assert sum(row[0] + row[2] for row in truth["rules"].values()) == len(frames)
    assert sum(row[1] + row[3] for row in truth["rules"].values()) == truth["ip_octets"]
    times = [when for when, _ in frames]
    assert times == sorted(times)
    assert 3_599 < times[-1] - times[0] < 3_600


def test_traffic_is_the_same_for_the_same_seed(tmp_path: Path, smoke: Path) -> None:
    again, _, _ = generate(SMOKE, tmp_path)
    assert again.read_bytes() == smoke.read_bytes()
    other, _, _ = generate(replace(SMOKE, seed=2), tmp_path)
    assert other.read_bytes() != smoke.read_bytes()


def test_traffic_imix_has_sizes_seven_to_four_to_one(tmp_path: Path) -> None:
    imix = replace(TRAFFIC["imix"], packets=6_000, subscribers=100)
    capture, _, truth = generate(imix, tmp_path)
    frames = [frame for _, frame in packets(capture)]
    sizes = Counter(map(len, frames))
    assert set(sizes) == {60, 572, 1496}
    assert sizes[60] / 6_000 == pytest.approx(7 / 12, abs=0.03)
    assert sizes[572] / 6_000 == pytest.approx(4 / 12, abs=0.03)
    assert truth.ip_octets == sum(metered(frame).len for frame in frames)
    for frame in frames[:200]:
        ip = metered(frame)
        assert ip.len == len(frame) - 14
        if ip.p == 17:
            assert ip.data.ulen == ip.len - 20


@pytest.mark.parametrize(
    ("encapsulation", "captured", "octets"),
    [("ipv6", 80, 66), ("vlan", 64, 46), ("gtpu", 96, 46)],
)
def test_traffic_encapsulations_parse(
    tmp_path: Path, encapsulation: str, captured: int, octets: int
) -> None:
    traffic = Traffic(encapsulation, 500, subscribers=50, encapsulation=encapsulation)
    capture, rules, truth = generate(traffic, tmp_path)
    assert truth.ip_octets == 500 * octets
    sponsored = 0
    prefixes = [
        ipaddress.ip_network(text)
        for rule in tomllib.loads(rules.read_text())["rules"]
        for text in rule["match"]["server"]
    ]
    for _, frame in packets(capture):
        assert len(frame) == captured
        ip = metered(frame)
        assert isinstance(ip.data, dpkt.tcp.TCP | dpkt.udp.UDP)
        ends = ipaddress.ip_address(ip.src), ipaddress.ip_address(ip.dst)
        sponsored += any(end in prefix for prefix in prefixes for end in ends)
    assert sponsored == 500 - sum(truth.rules[""][::2])
    assert sponsored > 100


def test_traffic_flows_are_at_most_eight_per_subscriber(tmp_path: Path) -> None:
    capture, _, _ = generate(Traffic("flows", 5_000, subscribers=20, flows=True), tmp_path)
    flows: dict[bytes, set[tuple[bytes, int, int, int]]] = {}
    for _, frame in packets(capture):
        ip = metered(frame)
        near = (ip.src, ip.data.sport), (ip.dst, ip.data.dport)
        (subscriber, port), (server, server_port) = near if ip.src[0] == 10 else near[::-1]
        flows.setdefault(subscriber, set()).add((server, server_port, port, ip.p))
    assert len(flows) == 20
    assert max(map(len, flows.values())) == 8


def test_floors_count_every_packet(tmp_path: Path, smoke: Path) -> None:
    truth = json.loads(smoke.with_suffix(".json").read_text())["truth"]
    program, has_pcap = compile_floors(tmp_path)
    for mode in ("A", "B", "B-star", *(["pcap"] if has_pcap else [])):
        result = measure_floor(program, mode, smoke)
        assert (result["packets"], result["octets"]) == (truth["packets"], truth["wire_octets"])
        expected = truth["word_sum"] if mode.startswith("B") else 0
        assert result["checksum"] == f"{expected:016x}"


def test_bench_account_runs_at_smoke_size(tmp_path: Path) -> None:
    results = tmp_path / "results.jsonl"
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.bench_account", "--smoke", "--results", str(results)],
        capture_output=True, text=True, check=False,
    )
    assert done.returncode == 0, done.stderr
    (line,) = results.read_text().splitlines()
    found = json.loads(line)
    assert found["command"] == "python -m benchmarks.bench_account --traffic min64 --smoke " \
        "--workers 1,2"
    ours = found["results"]["tollsplit 1"]
    assert ours["checksum"] == found["results"]["tollsplit 2"]["checksum"]
    assert ours["records"] > 10_000
    assert found["results"]["floor B"]["ratio_to_b"] == 1.0
    for name in found["results"]:
        assert name in done.stdout


def test_bench_live_accounts_for_every_frame_at_smoke_size(tmp_path: Path) -> None:
    """What was sent is what was seen and what was lost; the benchmark itself fails otherwise."""
    if os.geteuid() != 0 or shutil.which("ip") is None or len(os.sched_getaffinity(0)) < 2:
        pytest.skip("needs root, ip (apt-get install iproute2) and two cores")
    results = tmp_path / "results.jsonl"
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.bench_live", "--smoke", "--results", str(results)],
        capture_output=True, text=True, check=False, timeout=120,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(results.read_text())["results"]
    for name in ("bare", "ring", "overrun"):
        row = found[name]
        assert row["sent"] == row["seen"] + row["lost"] + row["interface_lost"] == 50_000
        assert f"\n{name} " in done.stdout
    assert found["bare"]["lost"] == found["ring"]["lost"] == 0
    assert found["overrun"]["lost"] > 0
    assert found["bare"]["checksum"] == found["ring"]["checksum"]
