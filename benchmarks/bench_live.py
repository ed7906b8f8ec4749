"""A ring that is walked, next to a bare reader that only counts, under the same load.

A generator on one core sends frames through a pair of veth devices, in a network namespace of its
own, as fast as they take them; the contender reads on another core. Contenders take turns round
by round. Of every round it is checked that what was sent is what was seen and what the kernel says
was lost. Needs root and two cores.

    bare     benchmarks/load.c, a TPACKET_V3 reader that adds up the lengths
    ring     capture.live: tollsplit's ring, each frame pointed at and its length added up
    record   the same, and each frame is kept in a pcapng file; what that costs the thread that
             walks is told apart from what the thread that writes takes beside it
    overrun  ring, far too small on purpose
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import results
from tollsplit.limits import RING_BLOCK_OCTETS, RING_BLOCKS, RING_SNAP_OCTETS

SENDER, READER = "load0", "load1"
OVERRUN_BLOCK_OCTETS, OVERRUN_BLOCKS = 4096, 2
SMOKE_PACKETS = 50_000
# What a whole round may take before it is given up.
ROUND_S = 60


# --- one measurement -------------------------------------------------------------------


def read_ring(block_octets: int, blocks: int, path: str | None) -> dict[str, int]:
    """Walk a ring until standard input ends; say "ready" when packets may come.

    path   of the file that frames are recorded in; None: they are not
    """
    from tollsplit.capture.live import LiveCapture
    from tollsplit.capture.packet_socket import RingOptions
    from tollsplit.capture.recording import Recording

    # Frames are shorter than either, so that what is copied is the same.
    snap_octets = min(RING_SNAP_OCTETS, block_octets // 2)
    options = RingOptions(block_octets=block_octets, blocks=blocks, snap_octets=snap_octets)
    recording = Recording(path, snap_octets, "benchmark") if path else None
    recorder = recording.recorder() if recording else None
    live = LiveCapture([READER], options=options, recording=recording)

    def stop_at_end() -> None:
        sys.stdin.read()
        live.stop()

    threading.Thread(target=stop_at_end, daemon=True).start()
    print("ready", flush=True)
    packets = octets = 0
    cpu, thread, wall = time.process_time_ns(), time.thread_time_ns(), time.monotonic_ns()
    for rings in live.lanes[0].turns(1.0):
        for ring in rings:
            walked, original = recorder.walk(ring) if recorder else ring.skip()
            packets += walked
            octets += original
    thread = time.thread_time_ns() - thread
    lost, counts = live.lost(), live.counts()
    live.close()
    if recording:
        recording.close(counts)
        if recording.failure or recording.frames != packets:
            raise SystemExit(f"record: {recording.frames:,} of {packets:,} frames are in the file: "
                             f"{recording.failure}")
    cpu, wall = time.process_time_ns() - cpu, time.monotonic_ns() - wall
    return {"packets": packets, "octets": octets, "lost": lost.kernel, "thread_ns": thread,
            "interface_lost": lost.interface, "cpu_ns": cpu, "wall_ns": wall}


def frames_in(path: Path) -> int:
    """How many frames a file holds, as accounting would read them."""
    from tollsplit.capture.file import open_capture

    reader = None
    for reader in open_capture(path).chunks(False):
        reader.skip()
    return reader.records if reader else 0


def compile_load(folder: Path) -> Path:
    program = folder / "load"
    subprocess.run(["gcc", "-O3", "-Wall", "-Wextra", "-Werror",
                    str(results.ROOT / "benchmarks" / "load.c"), "-o", str(program)], check=True)
    return program


@contextmanager
def veth_pair() -> Iterator[list[str]]:
    """A namespace with SENDER and READER and no traffic of its own; the command that enters it."""
    name = f"tollsplit-bench-{os.getpid()}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    enter = ["ip", "netns", "exec", name]
    try:
        quiet = "echo 1 > /proc/sys/net/ipv6/conf/default/disable_ipv6"
        subprocess.run([*enter, "sh", "-c", quiet], check=True)
        for command in (
            f"ip link add {SENDER} type veth peer name {READER}",
            f"ip link set {SENDER} up",
            f"ip link set {READER} up",
        ):
            subprocess.run([*enter, *command.split()], check=True)
        yield enter
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True)


def on_core(core: int) -> list[str]:
    return ["taskset", "-c", str(core)]


def measure(
    enter: list[str], program: Path, contender: str, arguments: argparse.Namespace
) -> dict[str, int]:
    """One round: a reader that is ready, the load, and what both say of it."""
    ring = arguments.block_octets, arguments.blocks
    if contender == "overrun":
        ring = OVERRUN_BLOCK_OCTETS, OVERRUN_BLOCKS
    sizes = [str(size) for size in ring]
    reader_command = [sys.executable, "-m", "benchmarks.bench_live", "--measure", *sizes]
    kept = program.with_name("kept.pcapng")
    if contender == "bare":
        reader_command = [str(program), "count", READER, *sizes]
    elif contender == "record":
        reader_command += ["--into", str(kept)]
    cores = sorted(os.sched_getaffinity(0))
    with subprocess.Popen([*enter, *on_core(cores[0]), *reader_command], cwd=results.ROOT,
                          text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as reader:
        try:
            assert reader.stdout is not None
            if reader.stdout.readline() != "ready\n":
                raise SystemExit(f"{contender}: ended before it was ready")
            sender = subprocess.run(
                [*enter, *on_core(cores[-1]), str(program), "send", SENDER,
                 str(arguments.packets), str(arguments.octets), str(ROUND_S)],
                check=True, stdout=subprocess.PIPE, text=True, timeout=2 * ROUND_S)
            said, _ = reader.communicate(timeout=ROUND_S)
        except BaseException:
            reader.kill()
            raise
    sent, refused, _, sent_wall_ns = map(int, sender.stdout.split())
    if contender == "bare":
        names = "packets", "octets", "lost", "cpu_ns", "wall_ns"
        result = dict(zip(names, map(int, said.split()), strict=True))
    else:
        result = json.loads(said)
    if contender == "record":
        if frames_in(kept) != result["packets"]:
            raise SystemExit(f"record: {frames_in(kept):,} frames in the file, "
                             f"{result['packets']:,} seen")
        kept.unlink()
    return result | {"sent": sent, "refused": refused, "sent_wall_ns": sent_wall_ns}


# --- rounds ----------------------------------------------------------------------------


def check(contender: str, result: dict[str, int], octets: int) -> None:
    """A fast wrong answer is no answer."""
    accounted = result["packets"] + result["lost"] + result.get("interface_lost", 0)
    if result["sent"] != accounted:
        raise SystemExit(f"{contender}: {result['sent']:,} sent, {result['packets']:,} seen and "
                         f"{result['lost']:,} lost")
    if result["octets"] != result["packets"] * octets:
        raise SystemExit(f"{contender}: {result['octets']:,} octets in {result['packets']:,} "
                         f"frames of {octets}")


def interleave(arguments: argparse.Namespace) -> dict[str, list[dict[str, int]]]:
    """All contenders in turn, round by round."""
    results: dict[str, list[dict[str, int]]] = {
        name: [] for name in ("bare", "ring", "record", "overrun")}
    with tempfile.TemporaryDirectory() as temporary, veth_pair() as enter:
        program = compile_load(Path(temporary))
        for _ in range(arguments.rounds):
            for name, rows in results.items():
                rows.append(measure(enter, program, name, arguments))
                check(name, rows[-1], arguments.octets)
    return results


def summary(results: dict[str, list[dict[str, int]]]) -> dict[str, Any]:
    """Per contender: CPU per packet, best and median, and the median of the ratios to bare."""
    figures: dict[str, Any] = {}
    for name, rows in results.items():
        seen = [row for row in rows if row["packets"]]
        cpu = [row["cpu_ns"] / row["packets"] for row in seen]
        figures[name] = {
            "n": len(rows),
            "best_ns": round(min(cpu), 2),
            "median_ns": round(median(cpu), 2),
            "sent_mpps": round(max(row["sent"] / row["sent_wall_ns"] for row in rows) * 1000, 3),
            "sent": sum(row["sent"] for row in rows),
            "seen": sum(row["packets"] for row in rows),
            "lost": sum(row["lost"] for row in rows),
            "interface_lost": sum(row.get("interface_lost", 0) for row in rows),
            "checksum": f"{sum(row['octets'] for row in rows):016x}",
        }
    for name in ("bare", "ring", "record"):
        figures[name]["ratio_to_bare"] = round(median(
            (ours["cpu_ns"] / ours["packets"]) / (bare["cpu_ns"] / bare["packets"])
            for ours, bare in zip(results[name], results["bare"], strict=True)), 2)
    for name, time_of in (("walking", "thread_ns"), ("both", "cpu_ns")):
        figures["record"][f"{name}_over_ring_ns"] = round(median(
            record[time_of] / record["packets"] - ring[time_of] / ring["packets"]
            for record, ring in zip(results["record"], results["ring"], strict=True)), 2)
    return figures


def table(figures: dict[str, Any]) -> str:
    rows = [f"{'':10}{'ns/packet':>10}{'best':>8}{'Mpps sent':>11}{'sent':>12}{'seen':>12}"
            f"{'lost':>12}{'× bare':>8}  checksum"]
    for name, row in figures.items():
        ratio = f"{row['ratio_to_bare']:.2f}" if "ratio_to_bare" in row else ""
        rows.append(
            f"{name:10}{row['median_ns']:>10.1f}{row['best_ns']:>8.1f}{row['sent_mpps']:>11.2f}"
            f"{row['sent']:>12,}{row['seen']:>12,}{row['lost']:>12,}{ratio:>8}  {row['checksum']}")
    record = figures["record"]
    rows.append(f"recording: {record['walking_over_ring_ns']:.1f} ns a packet on the thread that "
                f"walks, {record['both_over_ring_ns']:.1f} with the one that writes")
    return "\n".join(rows)


def append(target: Path | None, figures: dict[str, Any], arguments: argparse.Namespace) -> None:
    traffic = {name: getattr(arguments, name)
               for name in ("packets", "octets", "block_octets", "blocks")}
    words = ["python", "-m", "benchmarks.bench_live", "--rounds", str(arguments.rounds)]
    for name, value in traffic.items():
        words += [f"--{name.replace('_', '-')}", str(value)]
    results.append(target, "live", shlex.join(words), traffic, results=figures)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packets", type=int, default=2_000_000, help="a round")
    parser.add_argument("--octets", type=int, default=60, help="of a frame, without its checksum")
    parser.add_argument("--block-octets", type=int, default=RING_BLOCK_OCTETS)
    parser.add_argument("--blocks", type=int, default=RING_BLOCKS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--smoke", action="store_true", help=f"{SMOKE_PACKETS} packets, one round")
    parser.add_argument(
        "--results", type=Path, help="append here; default benchmarks/results.jsonl, smoke nowhere")
    parser.add_argument("--measure", nargs=2, type=int, help=argparse.SUPPRESS)
    parser.add_argument("--into", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.packets, arguments.rounds = SMOKE_PACKETS, 1
    return arguments


def main() -> None:
    arguments = parse()
    if arguments.measure:
        block_octets, blocks = arguments.measure
        print(json.dumps(read_ring(block_octets, blocks, arguments.into)))
        return
    if os.geteuid() != 0:
        raise SystemExit("bench_live: needs root, for a network namespace of its own")
    figures = summary(interleave(arguments))
    print(table(figures))
    append(arguments.results or (None if arguments.smoke else results.RESULTS), figures, arguments)


if __name__ == "__main__":
    main()
