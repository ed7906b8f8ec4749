"""A live run that does not come to be, or is asked to end before it is there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from gateways import (
    PROGRAM,
    expect_sound,
    wait,
    write_rules,
)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    write_rules(tmp_path, window="1h")
    return tmp_path


# --- signals ----------------------------------------------------------------------------


def test_gateway_signals_that_come_at_any_instant_hold_nothing_up(home: Path) -> None:
    """Thousands of them: a handler interrupts whatever its thread is at, other handlers too."""
    fed = home / "fed"
    command = [sys.executable, str(PROGRAM), str(home / "rules.toml"),
               f"sqlite:///{home}/ledger.db", str(home / "journal"), str(fed)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as run:
        try:
            wait(lambda: fed.exists() and fed.stat().st_size > 160, 30)
            end = time.monotonic() + 2
            while time.monotonic() < end:
                os.kill(run.pid, signal.SIGHUP)
            before = fed.stat().st_size
            wait(lambda: fed.stat().st_size > before)
            os.kill(run.pid, signal.SIGTERM)
            assert run.wait(10) == 0
        finally:
            run.kill()
    assert not list((home / "journal").glob("*.segment"))
    expect_sound(home)
