"""Retransmissions in real captures, frame by frame, beside what tshark says of the same frames."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tollsplit.capture import open_capture
from tollsplit.cext.layout import BUCKET_NAMES, SUSPICIOUS
from tollsplit.engine.live import Generation
from tollsplit.limits import EXEMPT_PAYLOAD_MIN
from tollsplit.rules.rule import Meter, Pool, Prefix, RuleSet

RETRANSMISSION = "tcp.analysis.retransmission or tcp.analysis.spurious_retransmission"
RULES = RuleSet("corpus", "sha256:0", Meter(retransmissions="exempt_if_identical"), (
    Pool((Prefix(4, 0, 0), Prefix(6, 0, 0))),))
# Where we say otherwise than tshark, by file and frame: what we say, and why.
NEW = "charged", "tshark goes by acknowledgements and time; nothing before brought these octets"
MORE = "charged", "brings new octets behind the old ones"
ALIVE = "charged", "a keep-alive"
# Its IP lengths take in Ethernet's padding, its PPPoE lengths, that tshark goes by, do not: an
# acknowledgement so brings six octets of 0, where the next segment brings something else.
PADDED = "suspicious", "begins with six other octets than an acknowledgement's padding"
PADDING = "exempt", "the same padding again"
TWO_TUNNELS = "suspicious", "two tunnels with the same addresses: pools by gtp_teid tell them apart"
EXPLAINED: dict[str, dict[int, tuple[str, str]]] = {
    "21": dict.fromkeys([2507, 2599, 3012], NEW) | dict.fromkeys([4691, 4698], ALIVE),
    "29": dict.fromkeys([20, 25, 35, 39, 48, 52, 55, 65, 66, 73, 82, 83, 84, 85, 86], PADDED)
    | dict.fromkeys([57], PADDING) | dict.fromkeys([32, 70], MORE),
    "34": {8: NEW},
    "48": dict.fromkeys([905, 906, 914, 915, 926, 1411, 1413, 1418], NEW) | {1238: TWO_TUNNELS},
}


def verdicts(path: Path) -> dict[int, str]:
    """What becomes of the frames that are exempt or suspicious, by their numbers."""
    core = Generation(RULES).worker()
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


def of_tshark(path: Path) -> dict[int, str]:
    """The frames that tshark takes for retransmissions, but for those that are too short."""
    wanted = f"tcp.len >= {EXEMPT_PAYLOAD_MIN} and ({RETRANSMISSION})"
    run = subprocess.run(
        ["tshark", "-n", "-r", path, "-Y", wanted, "-T", "fields",
         "-e", "frame.number"], capture_output=True, check=True, text=True, timeout=60)
    return {int(line): "exempt" for line in run.stdout.split()}


@pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark is not installed")
@pytest.mark.parametrize("name", EXPLAINED)
def test_retransmissions_are_tsharks_but_for_what_is_explained(corpus: Path, name: str) -> None:
    [path] = corpus.glob(f"{name}_*")
    explained = {frame: verdict for frame, (verdict, _) in EXPLAINED[name].items()}
    expected = {frame: verdict for frame, verdict in (of_tshark(path) | explained).items()
                if verdict != "charged"}
    assert verdicts(path) == expected


def test_other_captures_have_none(corpus: Path) -> None:
    for path in corpus.glob("[0-9]*"):
        if path.name[:2] not in EXPLAINED:
            assert verdicts(path) == {}, path.name
