"""`tollsplit capture` is asked to end while it starts."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from lab import GATEWAY, TIMEOUT_S, Lab, wait_until
from test_live_accounting import TOLLSPLIT, write_rules

from tollsplit.ledger import open_ledger

TERMINATION = 1 << signal.SIGTERM - 1


@contextmanager
def starting(lab: Lab, home: Path, *more: str) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        ["ip", "netns", "exec", lab.namespace(GATEWAY), *TOLLSPLIT, "capture", "sub1", "--rules",
         str(write_rules(home)), "--ledger", "sqlite:///ledger.db", *more],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=home
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def is_caught(process: subprocess.Popen[str]) -> bool:
    """Whether SIGTERM has a handler there."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    [caught] = [line.split()[1] for line in status.splitlines() if line.startswith("SigCgt")]
    return bool(int(caught, 16) & TERMINATION)


def expect_clean(lab: Lab, home: Path) -> None:
    """Nobody has the interface, and nothing was left or lost."""
    with starting(lab, home, "--duration", "200ms") as process:
        _, said = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, said
    assert {path.name for path in (home / "ledger.db.journal").iterdir()} == {"sub1.lock"}, said
    with open_ledger(f"sqlite:///{home}/ledger.db") as ledger:
        assert not [check for check in ledger.verify().checks if check.findings]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("delay_s", [0.0, 0.1, 0.4, 1.6])
def test_live_capture_ends_well_while_it_starts(
    lab: Lab, tmp_path: Path, delay_s: float, number: signal.Signals
) -> None:
    """From the instant on at which it heeds signals, which is before it does anything."""
    with starting(lab, tmp_path) as process:
        wait_until(lambda: is_caught(process))
        assert not (tmp_path / "ledger.db.journal").exists()
        time.sleep(delay_s)
        since = time.monotonic()
        process.send_signal(number)
        result, said = process.communicate(timeout=TIMEOUT_S)
        assert time.monotonic() - since < 4, said  # 2 s, and on a busy machine a little more
    assert process.returncode == 0, said
    assert "seen" in result
    expect_clean(lab, tmp_path)


def test_live_capture_that_heeds_no_signals_yet_has_begun_nothing(
    lab: Lab, tmp_path: Path
) -> None:
    with starting(lab, tmp_path) as process:
        process.terminate()
        process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == -signal.SIGTERM
    assert not (tmp_path / "ledger.db.journal").exists()
    expect_clean(lab, tmp_path)
