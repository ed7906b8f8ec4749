"""benchmarks/results.jsonl: one JSON line for each run, with where and of what it was taken."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks.traffic import Traffic

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results.jsonl"


def append(
    target: Path | None,
    benchmark: str,
    command: str,
    traffic: Traffic | Mapping[str, int],
    **told: Any,
) -> None:
    """Add a line to `target`, if there is one; what is sent live is no Traffic."""
    if target is None:
        return
    line = {
        "benchmark": benchmark,
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "kernel": ".".join(platform.release().split(".")[:2]),
        "versions": versions(),
        "traffic": dataclasses.asdict(traffic) if isinstance(traffic, Traffic) else dict(traffic),
        "command": command,
        **told,
    }
    with target.open("a") as file:
        file.write(json.dumps(line) + "\n")


def read(source: Path = RESULTS) -> list[dict[str, Any]]:
    """All lines, the oldest first."""
    return [json.loads(line) for line in source.read_text().splitlines()]


def commit(tree: Path = ROOT) -> str:
    """The commit that is measured; "+" where the tree differs from it."""

    def git(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["git", *arguments], cwd=tree, capture_output=True, text=True, check=False
        )

    head = git("rev-parse", "--short=12", "HEAD")
    if head.returncode:
        return "none"
    # What a sitting writes while it runs is no change of what it measures.
    changed = git("status", "--porcelain", "--", ".", ":!benchmarks/results.jsonl",
                  ":!docs/performance.md", ":!docs/performance.svg").stdout
    return head.stdout.strip() + ("+" if changed else "")


def cpu_name() -> str:
    for text in Path("/proc/cpuinfo").read_text().splitlines():
        if text.startswith("model name"):
            return text.partition(":")[2].strip()
    return platform.machine()


def versions() -> dict[str, str]:
    gcc = subprocess.run(["gcc", "-dumpfullversion"], capture_output=True, text=True, check=False)
    found = {"python": platform.python_version(), "gcc": gcc.stdout.strip(),
             "libc": " ".join(platform.libc_ver())}
    for name in ("tollsplit", "cython", "numpy", "numba"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found
