"""The benchmarks at smoke size: the generated traffic is what it claims, the floors count it."""

from __future__ import annotations

import ipaddress
import json
import shutil
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import dpkt
import pytest
from databases import Database

from benchmarks import guard, tables
from benchmarks.bench_peers import error_percent
from benchmarks.bench_state import TOGETHER
from benchmarks.contenders import ROOT, floors, naive, tollsplit
from benchmarks.network import MIX
from benchmarks.peers import PEERS, PeerError, measure
from benchmarks.traffic import TRAFFIC, Case, Traffic, generate

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
    assert generate(SMOKE, tmp_path).capture.read_bytes() == smoke.read_bytes()
    other = generate(replace(SMOKE, seed=2), tmp_path)
    assert other.capture.read_bytes() != smoke.read_bytes()


def test_traffic_imix_has_sizes_seven_to_four_to_one(tmp_path: Path) -> None:
    imix = replace(TRAFFIC["imix"], packets=6_000, subscribers=100)
    case = generate(imix, tmp_path)
    frames = [frame for _, frame in packets(case.capture)]
    sizes = Counter(map(len, frames))
    assert set(sizes) == {60, 572, 1496}
    assert sizes[60] / 6_000 == pytest.approx(7 / 12, abs=0.03)
    assert sizes[572] / 6_000 == pytest.approx(4 / 12, abs=0.03)
    assert case.truth.ip_octets == sum(metered(frame).len for frame in frames)
    for frame in frames[:200]:
        ip = metered(frame)
        assert ip.len == len(frame) - 14
        if ip.p == 17:
            assert ip.data.ulen == ip.len - 20


@pytest.mark.parametrize(
    ("encapsulation", "captured", "octets"),
    [("ipv6", 80, 66), ("vlan", 64, 46), ("qinq", 68, 46), ("gtpu", 96, 46)],
)
def test_traffic_encapsulations_parse(
    tmp_path: Path, encapsulation: str, captured: int, octets: int
) -> None:
    traffic = Traffic(encapsulation, 500, subscribers=50, encapsulation=encapsulation)
    case = generate(traffic, tmp_path)
    assert case.truth.ip_octets == 500 * octets
    frames = packets(case.capture)
    assert {len(frame) for _, frame in frames} == {captured}
    for _, frame in frames:
        assert isinstance(metered(frame).data, dpkt.tcp.TCP | dpkt.udp.UDP)
        tags = {"vlan": 1, "qinq": 2}.get(encapsulation, 0)
        assert len(getattr(dpkt.ethernet.Ethernet(frame), "vlan_tags", [])) == tags
    assert sponsored(case, frames) == 500 - sum(case.truth.rules[""][::2]) > 100


def sponsored(case: Case, frames: list[tuple[float, bytes]]) -> int:
    """Packets with an end in a server prefix of the rules file."""
    prefixes = [
        ipaddress.ip_network(text)
        for rule in tomllib.loads(case.rules.read_text())["rules"]
        for text in rule["match"]["server"]
    ]
    ends = [(metered(frame).src, metered(frame).dst) for _, frame in frames]
    return sum(
        any(ipaddress.ip_address(end) in prefix for prefix in prefixes for end in pair)
        for pair in ends)


def test_traffic_mixed_has_the_stated_parts(tmp_path: Path) -> None:
    case = generate(Traffic("mixed", 3_000, subscribers=50, prefixes=50, encapsulation="mixed"),
                    tmp_path)
    frames = packets(case.capture)
    # Each of the parts has a size of its own.
    sizes = {"ipv4": 60, "ipv6": 80, "vlan": 64, "qinq": 68, "gtpu": 96}
    found = Counter(len(frame) for _, frame in frames)
    assert found.keys() == set(sizes.values())
    for encapsulation, percent in MIX.items():
        assert found[sizes[encapsulation]] / 3_000 == pytest.approx(percent / 100, abs=0.03)
    assert case.truth.packets == 3_000
    assert case.truth.ip_octets == sum(
        ip.len if isinstance(ip := metered(frame), dpkt.ip.IP) else ip.plen + 40
        for _, frame in frames)
    assert sponsored(case, frames) == 3_000 - sum(case.truth.rules[""][::2])
    times = [when for when, _ in frames]
    assert times == sorted(times)


def test_traffic_dscp_marks_exactly_what_a_rule_holds_for(tmp_path: Path) -> None:
    for encapsulation in ("ipv4", "ipv6"):
        case = generate(Traffic(f"dscp-{encapsulation}", 500, subscribers=50, rules=5,
                                encapsulation=encapsulation, conditions=("dscp",)), tmp_path)
        marks = Counter()
        for _, frame in packets(case.capture):
            ip = metered(frame)
            marks[ip.tos >> 2 if encapsulation == "ipv4" else ip.fc >> 2] += 1
            if encapsulation == "ipv4":
                assert dpkt.in_cksum(bytes(ip)[:20]) == 0
        assert marks == {0: sum(case.truth.rules[""][::2])} | {
            rule + 1: sum(case.truth.rules[f"rule-{rule}"][::2]) for rule in range(5)}


def test_traffic_flows_are_at_most_eight_per_subscriber(tmp_path: Path) -> None:
    capture = generate(Traffic("flows", 5_000, subscribers=20, flows=True), tmp_path).capture
    flows: dict[bytes, set[tuple[bytes, int, int, int]]] = {}
    for _, frame in packets(capture):
        ip = metered(frame)
        near = (ip.src, ip.data.sport), (ip.dst, ip.data.dport)
        (subscriber, port), (server, server_port) = near if ip.src[0] == 10 else near[::-1]
        flows.setdefault(subscriber, set()).add((server, server_port, port, ip.p))
    assert len(flows) == 20
    assert max(map(len, flows.values())) == 8


def test_floors_count_every_packet(tmp_path: Path) -> None:
    case = generate(SMOKE, tmp_path)
    known = floors(tmp_path)
    assert {"floor A", "floor B", "floor B-star"} <= known.keys()
    for contender in known.values():
        contender.run(case)
    assert known["floor B"].measure(case)["checksum"] != f"{0:016x}"


def test_contenders_with_a_wrong_answer_are_refused(tmp_path: Path) -> None:
    case = generate(SMOKE, tmp_path)
    wrong = replace(case, truth=replace(case.truth, wire_octets=case.truth.wire_octets + 1))
    with pytest.raises(SystemExit, match="floor B: octets: expected 1280001, got 1280000"):
        floors(tmp_path)["floor B"].run(wrong)
    rules = case.truth.rules | {"rule-3": [0, 0, 0, 0]}
    with pytest.raises(SystemExit, match="tollsplit 1: rules"):
        tollsplit(1).run(replace(case, truth=replace(case.truth, rules=rules)))


def test_naive_has_as_many_counters_as_we_have_records(tmp_path: Path) -> None:
    contenders = naive(tmp_path)
    if not contenders:
        pytest.skip("g++ is not installed")
    case = generate(SMOKE, tmp_path)
    counters = int(contenders[0].run(case)["checksum"], 16)
    assert counters == tollsplit(1).run(case)["records"] > 5_000


# --- each benchmark at smoke size --------------------------------------------------------


def bench(results: Path, subject: str, *arguments: str) -> tuple[str, list[dict[str, Any]]]:
    """What a benchmark prints, and the lines that it appends."""
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{subject}", "--smoke", *arguments,
         "--results", str(results)],
        capture_output=True, text=True, check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, [json.loads(line) for line in results.read_text().splitlines()]


# Each kind of difference once: a shape more takes three processes.
SHAPED = ("ipv6", "vlan", "gtpu", "dscp", "server and port", "minutes of a day")


def test_bench_account_runs_at_smoke_size(tmp_path: Path) -> None:
    printed, found = bench(tmp_path / "results.jsonl", "bench_account", "--naive",
                           "--subscribers", "2000", "9000")
    assert [line["traffic"]["subscribers"] for line in found] == [2_000, 9_000]
    assert found[0]["command"] == "python -m benchmarks.bench_account --traffic min64 --smoke " \
        "--workers 1,2 --naive --subscribers 2000"
    for line in found:
        ours = line["results"]["tollsplit 1"]
        assert ours["checksum"] == line["results"]["tollsplit 2"]["checksum"]
        assert ours["records"] > 5_000
        assert line["results"]["floor B"]["ratio_to_b"] == 1.0
        for name in line["results"]:
            assert name in printed


def test_bench_shapes_runs_at_smoke_size(tmp_path: Path) -> None:
    printed, [line] = bench(tmp_path / "results.jsonl", "bench_shapes", "--shapes", *SHAPED)
    names = ["plain", *SHAPED]
    assert list(line["results"]) == names
    for name in names:
        assert f"\n{name} " in printed
    checksums = {name: line["results"][name]["checksum"] for name in names}
    # What encapsulates the same packets comes to the same usage; what changes the rules does not.
    assert checksums["plain"] == checksums["vlan"] == checksums["gtpu"]
    assert checksums["plain"] == checksums["dscp"] != checksums["server and port"]
    assert len(set(checksums.values())) == 4


def test_bench_state_runs_at_smoke_size(tmp_path: Path) -> None:
    """Each capture has the usage that is known beforehand, by one worker and by two: fragments
    in one of their own, the other stages in one together."""
    names = ["port, in fragments", "sticky", TOGETHER]
    printed, [line] = bench(tmp_path / "results.jsonl", "bench_state", "--against", str(ROOT),
                            "--stages", *names)
    assert [row["stage"] for row in line["results"].values() if "stage" in row] == [
        *names, "sticky"]
    for name in names:
        assert f"\n{name} " in printed
    told = tables.state_table([line])
    assert f"| sticky | 1,000 | {line['results']['sticky, 1000']['plain_ns']:.1f} |" in told
    assert f"commit {line['commit']} takes" in told
    assert "MiB more for 4,000 flows at a time" in tables.targets_table([line])


def test_bench_cluster_counts_what_threads_count_at_smoke_size(tmp_path: Path) -> None:
    printed, [line] = bench(tmp_path / "results.jsonl", "bench_cluster")
    ways = line["results"]["one file"]
    assert list(ways) == ["threads: 1", "threads: 2", "cluster of 2"]
    assert len({row["checksum"] for row in ways.values()}) == 1
    for name, row in ways.items():
        assert f"{name:16}{row['wall_ns']:>8.1f} ns/packet" in printed
    assert "| one file: threads: 1 | 1.00 | 1.00 | 1.00 |" in tables.cluster_table([line])


def test_bench_ledger_books_what_it_counts_at_smoke_size(
    tmp_path: Path, databases: Callable[[], Database]
) -> None:
    """All was booked and the books hold; the benchmark itself fails otherwise."""
    database = databases()
    printed, [line] = bench(tmp_path / "results.jsonl", "bench_ledger", "--url", database.url)
    assert line["store"] == database.kind
    for name in ("batch", "group", "single", "records"):
        assert line["results"][name]["per_second"] > 0
        assert f"\n{name} " in printed


def test_bench_scale_books_a_gateways_hours_at_smoke_size(
    tmp_path: Path, databases: Callable[[], Database]
) -> None:
    database = databases()
    printed, [line] = bench(tmp_path / "results.jsonl", "bench_scale", "--url", database.url)
    row = line["results"]
    assert (row["packets"], row["octets_a_packet"]) == (4_000, 330.9)
    assert 2 * row["records_an_hour"] == row["records"] > 400 and row["record_octets"] > 100
    told = tables.scale_table([line])
    assert f"| records a day of a thousand | {row['records_an_hour'] * 24_000:,} |" in told
    assert f"records a day of a thousand{row['records_an_hour'] * 24_000:>33,}" in printed


def test_bench_broker_books_each_octet_once_at_smoke_size(
    tmp_path: Path, databases: Callable[[], Database]
) -> None:
    if shutil.which("nats-server") is None:
        pytest.skip("no nats-server (Debian's package of that name)")
    database = databases()
    printed, [line] = bench(tmp_path / "results.jsonl", "bench_broker", "--url", database.url)
    assert line["store"] == database.kind
    for name in ("direct", "publish", "ingest", "together"):
        assert line["results"][name]["per_second"] > 0
        assert f"\n{name} " in printed


def test_bench_peers_names_everybody_and_what_they_count(tmp_path: Path) -> None:
    printed, [line] = bench(tmp_path / "results.jsonl", "bench_peers")
    for peer in PEERS:
        if peer.missing:
            assert peer.name not in line["results"]
            assert f"{peer.name:14} skipped: {peer.missing} is not installed" in printed
            continue
        told = line["results"][peer.name]
        assert told["packets_missed" if peer.layer else "ratio_to_b"] is not None, printed
        if peer.layer:
            # One that is off by more is misread, not imprecise.
            assert told["packets_missed"] == 0 and abs(told["error_percent"]) < 35, peer.name
        if peer.module:
            assert told["error_percent"] == 0, peer.name


def test_peers_error_is_that_of_the_layer_they_count(tmp_path: Path) -> None:
    case = generate(SMOKE, tmp_path)
    peer = PEERS[0]
    for layer, octets, error in [("ip", 20_000 * 46, 0), ("ip", 20_000 * 60, 30.4348),
                                 ("wire", 20_000 * 64, 0), ("wire", 20_000 * 48, -25)]:
        assert error_percent(replace(peer, layer=layer), {"octets": octets}, case) == error


def test_peers_say_what_they_miss() -> None:
    there = replace(PEERS[0], programs=("sh",))
    assert there.missing == ""
    absent = replace(there, programs=("sh", "no-such-tool"), package="no-such-package")
    assert absent.missing == "no-such-tool (Debian package no-such-package)"
    absent = replace(there, module="no_such_module", package="no-such-package")
    assert absent.missing == "Python package no-such-package"


@pytest.mark.parametrize(
    ("command", "message"),
    [("sleep 60", "not done after"), ("false | cat", "exit code 1"), ("true", "nothing like")],
)
def test_peers_that_fail_are_told(tmp_path: Path, command: str, message: str) -> None:
    case = generate(replace(SMOKE, packets=100), tmp_path)
    peer = replace(PEERS[0], command=command)
    with pytest.raises(PeerError, match=message):
        measure(peer, case, 0.5)


# --- the guard ---------------------------------------------------------------------------

needs_valgrind = pytest.mark.skipif(not shutil.which("valgrind"), reason="no valgrind")
COUNTS = {"plain": {"cext.dissect": 100.0, "cext.lpm": 4.0}}


@pytest.mark.parametrize(
    ("dissect", "lpm", "grown"),
    [
        (104.9, 4.0, []),
        (105.1, 4.0, ["plain: cext.dissect: 100.0 → 105.1 instructions per packet"]),
        (100.0, 5.9, []),  # many percent, few instructions
        (100.0, 6.1, ["plain: cext.lpm: 4.0 → 6.1 instructions per packet"]),
        (50.0, 4.0, []),
        (104.5, 5.5, ["plain: in all: 104.0 → 110.0 instructions per packet"]),
    ],
)
def test_guard_names_what_grew(dissect: float, lpm: float, grown: list[str]) -> None:
    assert guard.growths(COUNTS, {"plain": {"cext.dissect": dissect, "cext.lpm": lpm}}) == grown


def test_guard_names_a_new_part() -> None:
    found = {"plain": COUNTS["plain"] | {"cext.new": 3.0}}
    assert guard.growths(COUNTS, found) == [
        "plain: cext.new: 0.0 → 3.0 instructions per packet"]


def test_guard_leaves_out_what_calls_repeat() -> None:
    profile = """\
ob=(1) /place/tollsplit/cext/table.cpython-311-x86_64-linux-gnu.so
fn=(1) add_batch
12 500
+2 30
cob=(2) /lib/x86_64-linux-gnu/libc.so.6
cfn=(2) memset
calls=3 0
* 9000
-4 1
ob=(2)
fn=(2)
7 40
ob=(1)
fn=(3) grow
8 2
"""
    assert guard.instructions(profile.splitlines()) == {"cext.table": 533, "libraries": 40}


@needs_valgrind
def test_guard_instructions_have_not_grown(capsys: pytest.CaptureFixture[str]) -> None:
    """Nor are they others when they are counted again."""
    first, again = guard.count(list(guard.RUNS)), guard.count(["plain"])
    assert first["plain"]["cext.dissect"] > 10
    plain = {"plain": first["plain"]}
    assert guard.growths(plain, again) == guard.growths(again, plain) == []
    code = guard.check(guard.RECORDED, lambda names: first)
    printed = capsys.readouterr().out
    if printed.startswith("nothing compared"):
        pytest.skip(printed.strip())
    assert code == 0, printed


@needs_valgrind
def test_guard_fails_where_more_was_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "instructions.json"
    path.write_text(json.dumps({"environment": guard.environment(), "instructions": COUNTS}))
    assert guard.check(path, lambda names: COUNTS) == 0
    assert guard.check(path, lambda names: {"plain": {"cext.dissect": 120.0}}) == 1
    assert "cext.dissect: 100.0 → 120.0" in capsys.readouterr().out
    path.write_text(json.dumps({"environment": {"gcc": "1.0"}, "instructions": COUNTS}))
    assert guard.check(path, lambda names: pytest.fail("compared")) == 0
    assert capsys.readouterr().out.startswith("nothing compared: ")
