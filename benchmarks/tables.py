"""The tables of performance.md, scale.md and cluster.md, out of results and instructions.

    python -m benchmarks.tables

Writes each table between its two markers, from the latest lines of its kind; the text around them
is written by hand and holds no figures of runs.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from benchmarks import results
from benchmarks.bench_scale import scaled
from benchmarks.traffic import TRAFFIC, Traffic

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = tuple(ROOT / "docs" / f"{name}.md" for name in ("performance", "scale", "cluster"))
INSTRUCTIONS = ROOT / "benchmarks" / "instructions.json"
SERIES_PACKETS = 10_000_000
MARKED = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end of table -->)", re.DOTALL)
NAMES = {
    "floor A": "floor A: walk the record headers",
    "floor B": "floor B: and touch each packet",
    "floor B-star": "floor B\\*: windows populated and prefetched",
    "libpcap": "libpcap's loop, counting only",
    "C++": "plain C++, `std::unordered_map`, not split",
    "tollsplit 1": "**tollsplit**, one worker",
    "tollsplit 2": "**tollsplit**, two workers",
}
LIVE = {
    "bare": "a bare reader that only counts",
    "ring": "the ring alone",
    "record": "the ring, recorded in a file",
    "count": "one worker",
    "watched": "one worker, watched",
    "book": "one worker, booked",
    "two": "two workers",
    "two-book": "two workers, booked",
}
Line = dict[str, Any]


# --- which lines -------------------------------------------------------------------------


def traffic_of(line: Line) -> Traffic:
    known = dict(line["traffic"])
    if "conditions" in known:
        known["conditions"] = tuple(known["conditions"])
    return Traffic(**known)


def latest(lines: Iterable[Line], benchmark: str, traffic: Traffic | None = None) -> Line | None:
    """The last line of a kind, of this traffic if it is given."""
    found = [line for line in lines if line["benchmark"] == benchmark
             and (traffic is None or traffic_of(line) == traffic)]
    return found[-1] if found else None


def headline(lines: Iterable[Line]) -> Line | None:
    return latest(lines, "account", TRAFFIC["min64"])


def series(lines: Iterable[Line]) -> list[Line]:
    """min64 with fewer packets, by number of subscribers; the latest line of each."""
    base = dataclasses.replace(TRAFFIC["min64"], packets=SERIES_PACKETS)
    found = {}
    for line in lines:
        if line["benchmark"] != "account":
            continue
        traffic = traffic_of(line)
        if traffic == dataclasses.replace(base, subscribers=traffic.subscribers):
            found[traffic.subscribers] = line
    return [found[subscribers] for subscribers in sorted(found)]


def peers_line(lines: Iterable[Line], flows: bool) -> Line | None:
    """The latest line of peers on traffic in flows, or whose packets are flows of their own."""
    return latest([line for line in lines if line["traffic"].get("flows") == flows], "peers")


def peers(lines: Iterable[Line], flows: bool = False) -> dict[str, Any]:
    """Each peer's latest figures."""
    line = peers_line(lines, flows)
    return line["results"] if line else {}


# --- how they are told -------------------------------------------------------------------


def formatted(headings: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown: names left, figures right."""
    if not rows:
        return "No run is on record yet."
    rule = ["---", *("---:" for _ in headings[1:])]
    return "\n".join("| " + " | ".join(row) + " |" for row in [headings, rule, *rows])


def provenance(line: Line | None) -> str:
    if line is None:
        return ""
    return (f"\n\n`{line['command']}`, {line['when'][:10]}, commit {line['commit']}, "
            f"{line['cores']} cores of {line['cpu']}"
            + (f", Linux {line['kernel']}" if "kernel" in line else "") + ".")


def part_ns(figures: dict[str, Any], part: str, packets: int) -> str:
    name = f"median_{part}_cpu_ns"
    return f"{figures[name] / packets:.1f}" if name in figures else ""


def ratio_text(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}" if value < 10 else f"{value:.1f}"


def headline_table(lines: list[Line]) -> str:
    line = headline(lines)
    told = line["results"] if line else {}
    return formatted(
        ["contender", "CPU ns per packet", "best", "wall ns", "Mpps", "Gbit/s", "× floor B"],
        [[NAMES[name], f"{row['median_ns']:.1f}", f"{row['best_ns']:.1f}",
          f"{row['median_wall_ns']:.1f}", f"{row['mpps']:.1f}", f"{row['gbit_s']:.1f}",
          ratio_text(row["ratio_to_b"])] for name, row in told.items()],
    ) + provenance(line)


def subscribers_table(lines: list[Line]) -> str:
    rows = []
    for line in (found := series(lines)):
        told = line["results"]["tollsplit 1"]
        packets = line["traffic"]["packets"]
        rows.append([
            f"{line['traffic']['subscribers']:,}", f"{told['records']:,}",
            f"{told['median_ns']:.1f}", part_ns(told, "packets", packets),
            part_ns(told, "records", packets), f"{told['mpps']:.1f}",
            ratio_text(told["ratio_to_b"]),
            ratio_text(told["median_ns"] / line["results"]["libpcap"]["median_ns"])
            if "libpcap" in line["results"] else "",
        ])
    return formatted(
        ["subscribers", "usage records", "CPU ns per packet", "of it packets", "of it records",
         "Mpps", "× floor B", "× libpcap"], rows) + provenance(found[-1] if found else None)


def workers_table(lines: list[Line]) -> str:
    rows = []
    for line in (found := series(lines)):
        one, two = (line["results"].get(f"tollsplit {number}") for number in (1, 2))
        if one and two:
            rows.append([
                f"{line['traffic']['subscribers']:,}", f"{one['median_wall_ns']:.1f}",
                f"{two['median_wall_ns']:.1f}",
                f"{one['median_wall_ns'] / two['median_wall_ns']:.2f}",
                f"{two['median_ns'] / one['median_ns']:.2f}"])
    return formatted(
        ["subscribers", "one worker, wall ns per packet", "two workers", "faster by",
         "CPU time, × one worker"], rows) + provenance(found[-1] if found else None)


def memory_table(lines: list[Line]) -> str:
    """What one more usage record adds to the peak of resident memory."""
    found = series(lines)
    rows = []
    for line in found:
        own, base = (each["results"]["tollsplit 1"] for each in (line, found[0]))
        more = own["records"] - base["records"]
        octets = own["median_resident_octets"] - base["median_resident_octets"]
        rows.append([
            f"{line['traffic']['subscribers']:,}", f"{own['records']:,}",
            f"{own['median_resident_octets'] / 2**20:,.0f}",
            f"{octets / more:.0f}" if more else ""])
    return formatted(
        ["subscribers", "usage records", "MiB resident at most", "octets per further record"],
        rows) + provenance(found[-1] if found else None)


def shapes_table(lines: list[Line]) -> str:
    line = latest(lines, "shapes")
    packets = line["traffic"]["packets"] if line else 1
    return formatted(
        ["shape", "rules ms", "packets ns", "records ns", "× plain", "+ ns", "whole ns",
         "× floor B", "usage records"],
        [[name, f"{row['median_rules_cpu_ns'] / 1e6:.1f}", part_ns(row, "packets", packets),
          part_ns(row, "records", packets), f"{row['ratio_to_plain']:.2f}",
          f"{row['added_ns']:+.1f}", f"{row['median_ns']:.1f}", ratio_text(row["ratio_to_b"]),
          f"{row['records']:,}"] for name, row in (line["results"] if line else {}).items()],
    ) + provenance(line)


def state_table(lines: list[Line]) -> str:
    line = latest(lines, "state")
    rows = [[row["stage"], f"{row['flows']:,}", f"{row['plain_ns']:.1f}", f"{row['ns']:.1f}",
             f"{row['added_ns']:+.1f}", f"{row['ratio']:.2f}",
             *((f"{row['two_ns']:.1f}", f"{row['two_faster_by']:.2f}") if "two_ns" in row
               else ("", "")), f"{row['grown_octets'] / 2**20:,.0f}"]
            for row in (line["results"].values() if line else ()) if "stage" in row]
    told = formatted(
        ["stage", "flows", "server alone ns", "ns", "+ ns", "×", "two workers ns", "faster by",
         "MiB more"], rows)
    if line and (other := line["results"].get("against")):
        told += (f"\n\nStateless rules: {other['ns']:.1f} ns a packet, {other['ratio']:.2f} × what "
                 f"commit {other['commit']} takes, in turns.")
    return told + provenance(line)


def live_lines(lines: Iterable[Line]) -> list[Line]:
    """The latest sitting of the whole engine on a loaded interface, by number of subscribers."""
    found = {line["traffic"]["subscribers"]: line for line in lines
             if line["benchmark"] == "live" and "count" in line["results"]}
    return [found[subscribers] for subscribers in sorted(found)]


def live_table(lines: list[Line]) -> str:
    rows = []
    for line in (found := live_lines(lines)):
        for name, title in LIVE.items():
            row = line["results"][name]
            rows.append([
                f"{line['traffic']['subscribers']:,}", title, f"{row['median_ns']:.1f}",
                *(f"{row[part]:.1f}" if part in row else ""
                  for part in ("walking_ns", "flush_ns")),
                ratio_text(row["ratio_to_bare"]),
                f"{row['ending_ns']:.1f}" if "ending_ns" in row else "",
                f"{row['sent_mpps']:.2f}", f"{row['sent']:,}",
                f"{row['lost'] + row['interface_lost']:,}",
                f"{row['resident_octets'] / 2**20:,.0f}" if "resident_octets" in row else ""])
    return formatted(
        ["subscribers", "who reads", "CPU ns per packet", "of it workers", "of it flushes",
         "× bare", "at the end", "Mpps sent", "sent", "lost", "MiB resident at most"], rows,
    ) + provenance(found[-1] if found else None)


def soak_table(lines: list[Line]) -> str:
    line = latest(lines, "soak")
    if line is None:
        return formatted([], [])
    row, resident = line["results"], line["results"]["resident_mib"]
    return formatted(
        ["seconds", "packets", "subscribers", "records booked", "CPU s",
         "MiB resident, first third", "last third", "at most", "MiB an hour"],
        [[f"{row['lasted_s']:.0f}", f"{row['sent']:,}", f"{row['subscribers']:,}",
          f"{row['booked_records']:,}", f"{row['cpu_ns'] / 1e9:.0f}", f"{resident['first']:.1f}",
          f"{resident['last']:.1f}", f"{resident['most']:.1f}", f"{row['slope_mib_h']:.1f}"]],
    ) + provenance(line)


def peers_table(lines: list[Line]) -> str:
    in_flows = peers(lines, flows=True)
    rows = []
    for name, row in sorted(peers(lines).items(), key=lambda item: item[1]["median_ns"]):
        missed = row.get("packets_missed")
        rows.append([
            name, row["job"], row["traffic"], f"{row['mpps']:.3g}", ratio_text(row["ratio_to_b"]),
            ratio_text(row["ratio_to_ours"]),
            ratio_text(in_flows[name]["ratio_to_ours"]) if name in in_flows else "",
            f"{row['start_cpu_ns'] / 1e9:.2f}",
            *(f"{value:+.2f} %" if value is not None else "" for value in
              (row["error_percent"], row["mixed_error_percent"])),
            f"{missed:,}" if missed is not None else ""])
    return formatted(
        ["peer", "job", "traffic", "Mpps", "× floor B", "× tollsplit", "in flows", "start s",
         "octets off", "on mixed", "packets missed"], rows) + provenance(peers_line(lines, False))


def scale_table(lines: list[Line]) -> str:
    """By store: what was measured of one gateway, and what a thousand come to."""
    stores = {line["store"]: line for line in lines if line["benchmark"] == "scale"}
    if not stores:
        return formatted([], [])
    told = [{"packets metered": f"{row['packets']:,}",
             "octets a packet": f"{row['octets_a_packet']}",
             "CPU ns a packet": f"{row['packet_ns']}", "records": f"{row['records']:,}",
             "records an hour": f"{row['records_an_hour']:,}",
             "CPU µs a record, rated and booked": f"{row['record_us']}",
             "octets a record in the ledger": f"{row['record_octets']}",
             "MiB resident at most": f"{row['resident_octets'] / 2**20:,.0f}",
             **dict(scaled(row))}
            for row in (line["results"] for line in stores.values())]  # fmt: skip
    return formatted(["one gateway of a thousand", *stores],
                     [[name, *(each[name] for each in told)] for name in told[0]]) + "".join(
        provenance(line) for line in stores.values())  # fmt: skip


def cluster_table(lines: list[Line]) -> str:
    """By shape of the captures and way: times in units of one thread's."""
    line = latest(lines, "cluster")
    rows = [[f"{shape}: {way}", *(f"{row[f'{clock}_ratio']:.2f}" for clock in (
                "wall", "cpu", "busiest"))]
            for shape, ways in (line["results"] if line else {}).items()
            for way, row in ways.items()]
    return formatted(["× one thread of one process", "time by the wall", "CPU of all processes",
                      "CPU of the busiest"], rows) + provenance(line)


def instructions_table(lines: list[Line]) -> str:
    recorded = json.loads(INSTRUCTIONS.read_text())
    counts = recorded["instructions"]
    parts = sorted({part for found in counts.values() for part in found})
    rows = [[part, *(f"{found.get(part, 0):.0f}" for found in counts.values())] for part in parts]
    rows.append(["in all", *(f"{sum(found.values()):.0f}" for found in counts.values())])
    where = recorded["environment"]
    return formatted(["instructions per packet", *counts], rows) + (
        f"\n\n`make bench-record`, commit {recorded['commit']}, gcc {where['gcc']}, Python "
        f"{where['python']}, NumPy {where['numpy']}, {where['libc']}.")


# --- the targets -------------------------------------------------------------------------


def targets(lines: list[Line]) -> list[tuple[str, float, float, bool]]:
    """What was aimed at, what was reached, and whether less is better; only what was measured."""
    found: list[tuple[str, float, float, bool]] = []

    def aim(what: str, aimed: float, reached: float, less: bool = True) -> None:
        found.append((what, aimed, reached, less))

    if line := headline(lines):
        ours, told = line["results"]["tollsplit 1"], line["results"]
        aim("min64, whole job: × floor B", 3.0, ours["ratio_to_b"])
        if "libpcap" in told:
            aim("min64: × libpcap's bare loop", 1.0,
                ours["median_ns"] / told["libpcap"]["median_ns"])
    for line in (by_subscribers := series(lines)):
        one, two = (line["results"].get(f"tollsplit {number}") for number in (1, 2))
        subscribers = line["traffic"]["subscribers"]
        if subscribers == 10_000:
            aim("10,000 subscribers: × floor B", 1.8, one["ratio_to_b"])
        if subscribers <= 1_000_000 and two:
            aim(f"two workers, {subscribers:,} subscribers: faster by", 1.8,
                one["median_wall_ns"] / two["median_wall_ns"], less=False)
    if len(by_subscribers) > 1:
        most, least = (by_subscribers[place]["results"]["tollsplit 1"] for place in (-1, 0))
        aim("octets at the peak for each further record", 64,
            (most["median_resident_octets"] - least["median_resident_octets"])
            / (most["records"] - least["records"]))
    if line := latest(lines, "shapes"):
        told = line["results"]
        for name, base in (("prefixes 100,000", "prefixes 10"), ("rules 1,000", "rules 1"),
                           ("ipv6", "plain"), ("vlan", "plain"), ("gtpu", "plain")):
            if name in told and base in told:
                aim(f"{name}: × {base}", 1.5,
                    told[name]["ratio_to_plain"] / told[base]["ratio_to_plain"])
    if (line := latest(lines, "state")) and "memory" in line["results"]:
        told = line["results"]["memory"]
        aim(f"MiB more for {told['flows']:,} flows at a time", 256, told["grown_octets"] / 2**20)
    for line in live_lines(lines):
        aim(f"live, {line['traffic']['subscribers']:,} subscribers: × a bare reader", 1.5,
            line["results"]["count"]["ratio_to_bare"])
    told = peers(lines)
    accounting = [told[name]["ratio_to_ours"]
                  for name in ("softflowd", "nfpcapd", "pmacctd", "argus") if name in told]
    if accounting:
        aim("fastest accounting peer: × tollsplit", 25, min(accounting), less=False)
    if "nfstream" in told:
        aim("NFStream: × tollsplit", 250, told["nfstream"]["ratio_to_ours"], less=False)
    return found


def targets_table(lines: list[Line]) -> str:
    return formatted(
        ["target", "aimed at", "measured", "reached"],
        [[what, f"{'≤' if less else '≥'} {aimed:g}", ratio_text(reached),
          "yes" if (reached <= aimed if less else reached >= aimed) else "no"]
         for what, aimed, reached, less in targets(lines)])


TABLES: dict[str, Callable[[list[Line]], str]] = {
    "targets": targets_table,
    "headline": headline_table,
    "subscribers": subscribers_table,
    "workers": workers_table,
    "memory": memory_table,
    "shapes": shapes_table,
    "state": state_table,
    "peers": peers_table,
    "live": live_table,
    "soak": soak_table,
    "instructions": instructions_table,
    "scale": scale_table,
    "cluster": cluster_table,
}


def rendered(text: str, lines: list[Line]) -> str:
    """The document with every marked table made anew."""
    return MARKED.sub(lambda found: f"{found[1]}{TABLES[found[2]](lines)}\n{found[3]}", text)


def main() -> None:
    for document in DOCUMENTS:
        document.write_text(rendered(document.read_text("utf-8"), results.read()), "utf-8")


if __name__ == "__main__":
    main()
