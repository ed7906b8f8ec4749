"""What documents tell of the benchmarks: the latest lines on record, and nothing else."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from benchmarks import results, tables
from benchmarks.traffic import TRAFFIC

Line = dict[str, Any]


@pytest.fixture(scope="module")
def lines() -> list[Line]:
    return results.read()


def test_tables_in_documents_are_the_generated_ones(lines: list[Line]) -> None:
    texts = [document.read_text("utf-8") for document in tables.DOCUMENTS]
    for text in texts:
        assert tables.rendered(text, lines) == text, "run: python -m benchmarks.tables"
    marked = "".join(texts)
    assert set(tables.TABLES) == {found[1] for found in tables.MARKED.findall(marked)}


def test_tables_tell_the_latest_lines(lines: list[Line]) -> None:
    told = {name: table(lines) for name, table in tables.TABLES.items()}
    whole = [line for line in lines if line["benchmark"] == "account"
             and tables.traffic_of(line) == TRAFFIC["min64"]]
    ours = whole[-1]["results"]["tollsplit 1"]
    assert f"| **tollsplit**, one worker | {ours['median_ns']:.1f} |" in told["headline"]
    for count in (10_000, 100_000, 1_000_000, 4_000_000):
        latest = [line for line in lines if line["benchmark"] == "account" and
                  line["traffic"]["subscribers"] == count and
                  line["traffic"]["packets"] == tables.SERIES_PACKETS][-1]["results"]["tollsplit 1"]
        assert f"| {count:,} | {latest['records']:,} | {latest['median_ns']:.1f} |" \
            in told["subscribers"]
    for name in ("subscribers", "workers", "memory"):
        assert len(re.findall(r"^\| [14]", told[name], re.MULTILINE)) == 4, told[name]
    for benchmark in ("shapes", "peers"):
        line = [line for line in lines if line["benchmark"] == benchmark
                and not line["traffic"].get("flows")][-1]
        for name in line["results"]:
            assert f"\n| {name} |" in told[benchmark]
    ratio = ours["ratio_to_b"]
    assert f"| min64, whole job: × floor B | ≤ 3 | {tables.ratio_text(ratio)} " \
        f"| {'yes' if ratio <= 3 else 'no'} |" in told["targets"]


def test_tables_leave_older_and_other_lines_out(lines: list[Line]) -> None:
    line = tables.headline(lines)
    assert line is not None
    other = line["results"] | {"tollsplit 1": line["results"]["tollsplit 1"] | {"median_ns": 12.34}}
    assert "one worker | 12.3 |" in tables.headline_table([*lines, line | {"results": other}])
    imix = line | {"results": other, "traffic": line["traffic"] | {"zipf": 0.0}}
    assert tables.headline_table([*lines, imix]) == tables.headline_table(lines)
    assert tables.TABLES["headline"]([]) == "No run is on record yet."


def test_plot_draws_what_is_on_record(tmp_path: Path, lines: list[Line]) -> None:
    pytest.importorskip("matplotlib", reason="no matplotlib (the extra `bench`)")
    from benchmarks.plot import plot

    plot(lines, tmp_path / "plot.svg")
    plot(lines, tmp_path / "again.svg")
    drawn = (tmp_path / "plot.svg").read_text()
    assert drawn == (tmp_path / "again.svg").read_text()
    for name in tables.peers(lines):
        assert f"<!-- {name} -->" in drawn
    plot([], tmp_path / "empty.svg")
