"""Retransmissions in real captures, frame by frame, beside what tshark says of the same frames."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tollsplit.capture import open_capture
from tollsplit.cext.layout import BUCKET_NAMES, SUSPICIOUS
from tollsplit.cext.meter import Meter as Core
from tollsplit.engine.bounds import Bounds
from tollsplit.engine.cells import Cells
from tollsplit.engine.pipeline import dissection, state
from tollsplit.rules.compile import Compiled
from tollsplit.rules.rule import Meter, Pool, Prefix, RuleSet

TSHARK = "tcp.analysis.retransmission or tcp.analysis.spurious_retransmission"
RULES = RuleSet("corpus", "sha256:0", Meter(retransmissions="exempt_if_identical"), (
    Pool((Prefix(4, 0, 0), Prefix(6, 0, 0))),))


def verdicts(path: Path) -> dict[int, str]:
    """What becomes of the frames that are exempt or suspicious, by their numbers."""
    compiled = Compiled(RULES)
    core = Core(dissection(RULES, None, None, False), compiled.classifier, Cells(RULES).at,
                state(Bounds()))
    found: dict[int, str] = {}
    number = 0
    for reader in open_capture(path, skip_links=True).chunks(parallel=False):
        for frame in reader.frames(1 << 20):
            number += 1
            row = core.rows([frame])[0]
            if BUCKET_NAMES[int(row["bucket"])] == "retransmitted":
                found[number] = "exempt"
            elif row["flags"] & SUSPICIOUS:
                found[number] = "suspicious"
    return found


def judged(path: Path) -> set[int]:
    """The numbers of the frames with payload that tshark takes for retransmissions."""
    out = subprocess.run(
        ["tshark", "-n", "-r", path, "-Y", f"tcp.len > 0 and ({TSHARK})", "-T", "fields", "-e",
         "frame.number"], capture_output=True, check=True, text=True, timeout=60)
    return {int(line) for line in out.stdout.split()}
