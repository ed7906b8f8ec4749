"""docs/performance.svg, out of benchmarks/results.jsonl: subscribers on the left, peers right.

    python -m benchmarks.plot [FILE]

Takes matplotlib (the extra `bench`).
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from benchmarks import results, tables

PLOT = Path(__file__).resolve().parents[1] / "docs" / "performance.svg"
OURS, PEER, FLOOR = "#0b6e4f", "#7a8793", "#c46210"
# A link's packets per second at 10 Gbit/s of minimum frames: 84 octets each with gap and preamble.
LINK_MPPS = 14.88
STYLE = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e7ea",
    "axes.axisbelow": True,
    "svg.hashsalt": "tollsplit",  # the same figures give the same file
}


def draw_subscribers(axes: Any, lines: list[tables.Line]) -> None:
    """Million packets a second against subscribers; two workers by wall time."""
    found = tables.series(lines)
    subscribers = [line["traffic"]["subscribers"] for line in found]
    curves = [
        ("floor B: touch each packet", "floor B", "median_ns", FLOOR, ":", "s"),
        ("libpcap's empty loop", "libpcap", "median_ns", PEER, "--", "^"),
        ("tollsplit, 2 workers (wall time)", "tollsplit 2", "median_wall_ns", OURS, "--", "o"),
        ("tollsplit, 1 worker", "tollsplit 1", "median_ns", OURS, "-", "o"),
    ]
    for label, name, clock, colour, style, marker in curves:
        points = [(count, 1e3 / line["results"][name][clock])
                  for count, line in zip(subscribers, found, strict=True)
                  if name in line["results"]]
        if points:
            axes.plot(*zip(*points, strict=True), style, marker=marker, color=colour, label=label,
                      markersize=4)
    axes.axhline(LINK_MPPS, color="#b0b7bd", linewidth=0.8)
    axes.text(0.99, LINK_MPPS * 1.04, "10 Gbit/s of minimum frames", color="#6a737b", fontsize=7.5,
              transform=axes.get_yaxis_transform(), ha="right")
    axes.set(xscale="log", yscale="log", xlabel="subscribers", ylabel="million packets a second",
             title="Speed against subscribers")
    axes.set_xticks(subscribers, [short(count) for count in subscribers])
    axes.minorticks_off()
    ticks = [1, 2, 5, 10, 20, 50, 100, 200, 500]
    low, high = axes.get_ylim()
    axes.set_yticks([tick for tick in ticks if low <= tick <= high],
                    [str(tick) for tick in ticks if low <= tick <= high])
    if not found:
        return
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(0, -0.16), ncols=2, fontsize=8,
                columnspacing=1.2)


def short(count: int) -> str:
    return f"{count // 1_000_000} M" if count >= 1_000_000 else f"{count // 1_000} k"


def draw_peers(axes: Any, lines: list[tables.Line]) -> None:
    """A bar for each peer, and behind it how far its octets are off."""
    bars = [(name, row["mpps"], note(row), PEER) for name, row in tables.peers(lines).items()]
    if line := tables.headline(lines):
        ours = line["results"]["tollsplit 1"]
        bars.append(("tollsplit", ours["mpps"], "splits between payers", OURS))
    bars.sort(key=lambda bar: bar[1])
    places = range(len(bars))
    axes.barh(places, [bar[1] for bar in bars], color=[bar[3] for bar in bars], height=0.7)
    axes.set_yticks(places, [bar[0] for bar in bars])
    axes.set(xscale="log", xlabel="million packets a CPU second",
             title="Speed against other people's tools, and how far off")
    for place, (_, mpps, remark, _) in zip(places, bars, strict=True):
        axes.annotate(f"{mpps:.3g}" + (f"   {remark}" if remark else ""), (mpps, place),
                      xytext=(4, 0), textcoords="offset points", va="center", fontsize=7.5)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.grid(axis="y", visible=False)
    if bars:
        axes.set_xlim(bars[0][1] / 2, bars[-1][1] * 60)  # the remarks stand right of the bars


def note(row: dict[str, Any]) -> str:
    """A peer's error, on plain traffic and on mixed."""
    told = []
    if row["error_percent"]:
        told.append(f"octets {row['error_percent']:+.1f} %")
    if row["mixed_error_percent"]:
        told.append(f"mixed {row['mixed_error_percent']:+.1f} %")
    if row.get("packets_missed"):
        told.append(f"{row['packets_missed']:,} packets missed")
    if row["error_percent"] is None:
        told.append("counts no octets")
    return ", ".join(told)


def plot(lines: list[tables.Line], target: Path) -> None:
    """Draw both; the ending of the target's name says in which format."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    with pyplot.rc_context(STYLE):
        figure, (left, right) = pyplot.subplots(
            1, 2, figsize=(11.5, 5.2), width_ratios=(1, 1.25), layout="constrained")
        draw_subscribers(left, lines)
        draw_peers(right, lines)
        is_svg = target.suffix == ".svg"
        figure.savefig(target, dpi=120, metadata={"Date": None} if is_svg else None)
        pyplot.close(figure)


def main() -> None:
    plot(results.read(), Path(sys.argv[1]) if len(sys.argv) > 1 else PLOT)


if __name__ == "__main__":
    main()
