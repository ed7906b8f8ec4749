"""Programs of the story that run beside it: begun, waited for, ended."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from ....errors import TollsplitError

T = TypeVar("T")
# A busy machine starts a program in seconds; what takes longer never comes.
PATIENCE_S = 60.0
_LOOK_S = 0.02


class StoryError(TollsplitError):
    """Something did not go as the story goes."""


def wait(look: Callable[[], T | None], what: str, program: Program | None = None) -> T:
    """What a look gives as soon as that is something. Raises StoryError after a minute, or when
    the program that it waits for has ended.
    """
    until_s = time.monotonic() + PATIENCE_S
    while True:
        found = look()
        if found:
            return found
        if program is not None and program.process.poll() is not None:
            raise StoryError(f"{program.name} ended while waiting for {what}: {program.said}")
        if time.monotonic() > until_s:
            said = f": {program.said}" if program is not None else ""
            raise StoryError(f"{what}: not within {PATIENCE_S:.0f} s{said}")
        time.sleep(_LOOK_S)


class Program:
    """A running program and what it says on standard error, which is kept in a file."""

    def __init__(self, name: str, process: subprocess.Popen[str], log: Path) -> None:
        self.name = name
        self.process = process
        self._log = log

    @property
    def said(self) -> str:
        return self._log.read_text("utf-8", "replace")

    def await_said(self, text: str) -> None:
        wait(lambda: text in self.said, f"{text!r} of {self.name}", self)

    def events(self, kind: str) -> list[dict[str, Any]]:
        """What it has told of a kind until now, from its JSON lines."""
        lines = self.said.splitlines(keepends=True)
        told = [json.loads(line) for line in lines if line.startswith("{") and line.endswith("\n")]
        return [event for event in told if event.get("event") == kind]

    def await_event(self, kind: str) -> dict[str, Any]:
        """The latest of its events of a kind, as soon as there is one."""
        return wait(lambda: self.events(kind), f"{kind!r} of {self.name}", self)[-1]

    def type(self, text: str) -> None:
        """What a person types, now that it asks."""
        assert self.process.stdin is not None
        self.process.stdin.write(text)
        self.process.stdin.flush()

    def end(self) -> None:
        """Stop it as people do. Raises StoryError where it does not end well."""
        self.process.send_signal(signal.SIGTERM)
        self.await_end()

    def await_end(self) -> None:
        """Until it has ended by itself. Raises StoryError where it does not, or not well."""
        try:
            code = self.process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            raise StoryError(f"{self.name} did not end: {self.said}") from None
        if code:
            raise StoryError(f"{self.name} ended with {code}: {self.said}")
