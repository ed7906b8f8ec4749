"""Other people's tools on the same files: how fast, and how far off.

Each peer gets the largest traffic of k100, m1 and min64 that it finishes in the time allowed, in
turn with floor B and tollsplit. A peer's time is that of all its processes, less what it takes for
a thousand packets: its start is not held against it. tollsplit's clock, the floors' and plain C++'s
are inside their processes. Peers that are not installed are named and left out.
"""

from __future__ import annotations

import argparse
import dataclasses
import shlex
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import results, rounds
from benchmarks.contenders import Contender, Measurement, floors, naive, tollsplit
from benchmarks.peers import PEERS, Peer, PeerError, measure
from benchmarks.traffic import TRAFFIC, Case, Traffic, generate

LIMIT_S = 20
START = Traffic("start", 1_000, subscribers=1_000)
# What the octets of tunnels, tags and IPv6 come to is a question of its own.
MIXED = Traffic("peers-mixed", 100_000, subscribers=10_000, encapsulation="mixed")
SIZES = ("k100", "m1", "min64")
ROUNDS = 3
ROUNDS_SLOW = 1
SLOW_S = 7  # of one run; slower peers get one round
HEADINGS = (f"{'':14}{'traffic':>9}{'ns/packet':>12}{'Mpps':>9}{'× B':>9}{'× ours':>8}"
            f"{'start s':>9}{'octets':>10}{'mixed':>10}{'missed':>8}  checksum")


@dataclasses.dataclass(frozen=True)
class Sitting:
    """What all peers of one sitting share."""

    scratch: Path
    sizes: tuple[Traffic, ...]
    limit_s: float
    rounds: int
    start: Case
    mixed: Case
    floor: Contender

    def case(self, traffic: Traffic) -> Case:
        return generate(traffic, self.scratch)


def largest(peer: Peer, sitting: Sitting) -> tuple[Case, float]:
    """The largest traffic that a peer finishes in time, and the seconds it takes."""
    chosen: tuple[Case, float] | None = None
    for traffic in sitting.sizes:
        if chosen:
            case, took_s = chosen
            if took_s * traffic.packets / case.truth.packets > sitting.limit_s:
                break
        case = sitting.case(traffic)
        try:
            took_s = measure(peer, case, 3 * sitting.limit_s)["wall_ns"] / 1e9
        except PeerError:
            if chosen is None:
                raise
            break
        chosen = case, took_s
    assert chosen
    return chosen


def error_percent(peer: Peer, found: Measurement, case: Case) -> float | None:
    """How far a peer's octets are off, in the layer that it counts."""
    if found["octets"] is None:
        return None
    right = case.truth.ip_octets if peer.layer == "ip" else case.truth.wire_octets
    return round(100 * (int(found["octets"]) - right) / right, 4)


def measure_peer(peer: Peer, sitting: Sitting) -> dict[str, Any]:
    """One peer's figures. Raises PeerError where it cannot do its job."""
    start_ns = min(measure(peer, sitting.start, sitting.limit_s)["cpu_ns"] for _ in range(2))
    case, took_s = largest(peer, sitting)

    def without_start(case: Case) -> Measurement:
        found = measure(peer, case, 3 * sitting.limit_s)
        return found | {"cpu_ns": max(1, found["cpu_ns"] - start_ns)}

    rival = Contender(peer.name, without_start, lambda case: {})
    told, rows = against_us(rival, case, sitting, ROUNDS_SLOW if took_s > SLOW_S else ROUNDS)
    told |= {"package": peer.package, "start_cpu_ns": start_ns, "layer": peer.layer,
             "error_percent": error_percent(peer, rows[0], case), "mixed_error_percent": None}
    if rows[0]["packets"] is not None:
        told["packets_missed"] = case.truth.packets - rows[0]["packets"]
    if peer.layer and (not peer.module or peer.flows):  # the other loops read plain IPv4 only
        told["mixed_error_percent"] = error_percent(
            peer, measure(peer, sitting.mixed, 3 * sitting.limit_s), sitting.mixed)
    return told | {"job": peer.job}


def against_us(
    rival: Contender, case: Case, sitting: Sitting, repeats: int
) -> tuple[dict[str, Any], Sequence[Measurement]]:
    """A rival's figures and measurements, from rounds with floor B and tollsplit in them."""
    base, ours, rows = rounds.interleave(
        [(contender, case) for contender in (sitting.floor, tollsplit(1), rival)],
        min(repeats, sitting.rounds))
    told = rounds.figures(rows, base, case)
    told |= {"traffic": case.traffic.name, "packets": case.truth.packets,
             "ratio_to_ours": round(rounds.ratio(rows, ours), 2),
             "ours_ratio_to_b": round(rounds.ratio(ours, base), 2)}
    return told, rows


def measure_compiled(rival: Contender, job: str, layer: str, sitting: Sitting) -> dict[str, Any]:
    """libpcap's loop or plain C++; both are checked, so neither errs."""
    told, _ = against_us(rival, sitting.case(sitting.sizes[-1]), sitting, ROUNDS)
    return told | {"start_cpu_ns": 0, "layer": layer, "error_percent": 0.0,
                   "mixed_error_percent": None, "packets_missed": 0, "job": job}


def row(name: str, told: dict[str, Any]) -> str:
    octets, mixed = (f"{value:+.2f} %" if value is not None else "" for value in
                     (told["error_percent"], told["mixed_error_percent"]))
    missed = told.get("packets_missed")
    return (f"{name:14}{told['traffic']:>9}{told['median_ns']:>12,.1f}{told['mpps']:>9.3f}"
            f"{told['ratio_to_b']:>9,.1f}{told['ratio_to_ours']:>8,.2f}"
            f"{told['start_cpu_ns'] / 1e9:>9.2f}{octets:>10}{mixed:>10}"
            f"{'' if missed is None else missed:>8}  {told['checksum']}")


def measure_all(names: Sequence[str], sitting: Sitting, known: dict[str, Contender]
                ) -> dict[str, Any]:
    """Every peer that is there, by name; what is missing or fails is said."""
    told: dict[str, Any] = {}
    compiled = [(known["libpcap"], "counts in an empty loop", "wire")] if "libpcap" in known else []
    compiled += [(contender, "octets per (subscriber, rule)", "ip")
                 for contender in naive(sitting.scratch)]
    for contender, job, layer in compiled:
        if contender.name in names:
            told[contender.name] = measure_compiled(contender, job, layer, sitting)
            print(row(contender.name, told[contender.name]), flush=True)
    for peer in PEERS:
        if peer.name not in names:
            continue
        if peer.missing:
            print(f"{peer.name:14} skipped: {peer.missing} is not installed (make bench-peers)")
            continue
        try:
            told[peer.name] = measure_peer(peer, sitting)
        except PeerError as error:
            print(f"{peer.name:14} skipped: {error}")
            continue
        print(row(peer.name, told[peer.name]), flush=True)
    return told


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = ["libpcap", "C++", *(peer.name for peer in PEERS)]
    parser.add_argument("--peers", nargs="+", choices=names, metavar="PEER",
                        help=f"of {', '.join(names)}; all of them by default")
    parser.add_argument("--flows", action="store_true",
                        help="eight flows per subscriber, and only peers that keep flows")
    parser.add_argument("--limit", type=float, default=LIMIT_S, metavar="SECONDS",
                        help=f"what one run may take, default {LIMIT_S}")
    parser.add_argument("--smoke", action="store_true", help="2,000 packets, one round")
    parser.add_argument("--scratch", type=Path, help="keep the captures in this folder")
    parser.add_argument("--results", type=Path,
                        help="append here; default benchmarks/results.jsonl, smoke nowhere")
    arguments = parser.parse_args()
    keeping = {peer.name for peer in PEERS if peer.flows}
    if arguments.peers is None:
        arguments.peers = [name for name in names if not arguments.flows or name in keeping]
    return arguments


def main() -> None:
    arguments = parse()
    sizes = tuple(TRAFFIC[name + "f" if arguments.flows else name] for name in SIZES)
    mixed = MIXED
    if arguments.smoke:
        sizes = (dataclasses.replace(sizes[0], packets=2_000, subscribers=500),)
        mixed = dataclasses.replace(MIXED, packets=2_000, subscribers=500)
    with tempfile.TemporaryDirectory() as temporary:
        scratch = arguments.scratch or Path(temporary)
        scratch.mkdir(parents=True, exist_ok=True)
        known = floors(scratch)
        sitting = Sitting(
            scratch, sizes, arguments.limit, 1 if arguments.smoke else ROUNDS,
            generate(START, scratch), generate(mixed, scratch), known["floor B"])
        print(HEADINGS, flush=True)
        told = measure_all(arguments.peers, sitting, known)
    words = ["python", "-m", "benchmarks.bench_peers", "--limit", f"{arguments.limit:g}",
             *(["--flows"] if arguments.flows else []), "--peers", *arguments.peers]
    target = arguments.results or (None if arguments.smoke else results.RESULTS)
    results.append(target, "peers", shlex.join(words), sizes[-1], results=told)


if __name__ == "__main__":
    main()
