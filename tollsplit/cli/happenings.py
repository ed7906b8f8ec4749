"""What happens to a live run: told on standard error, kept as JSON lines, acted upon."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, TextIO

import click

from ..errors import TollsplitError
from ..model import Event
from ..report import instant_text
from ..snapshot import Notice

if TYPE_CHECKING:
    from ..gateway.firewall import Firewall

HELD = 1000  # of what happens, the latest


class Happenings:
    """Tells of events and notices.

    path      a file that a JSON object is appended to for each; None: no file
    firewall  is given the subscribers whose quota ends; None: nothing is done about them
    """

    def __init__(self, path: Path | None, firewall: Firewall | None) -> None:
        self._path = path
        self._firewall = firewall
        self._file: TextIO | None = None
        self._stack = ExitStack()
        self._held: deque[str] | None = None

    def __enter__(self) -> Happenings:
        if self._path is not None:
            try:
                self._file = self._stack.enter_context(
                    open(self._path, "a", encoding="utf-8", buffering=1))
            except OSError as error:
                raise TollsplitError(
                    f"{self._path}: cannot be written: {error.strerror}") from error
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    @contextmanager
    def held(self, drawn: bool) -> Iterator[None]:
        """While a view is drawn on the terminal, say nothing there: the latest are said after."""
        self._held = deque(maxlen=HELD) if drawn else None
        try:
            yield
        finally:
            held, self._held = self._held, None
            for text in held or ():
                self._say(text)

    def tell(self, happened: Event | Notice) -> None:
        text = f"{instant_text(happened.at_ns)[:19]}Z {_text(happened)}"
        if self._held is None:
            self._say(text)
        else:
            self._held.append(text)
        if self._file is not None:
            try:
                self._file.write(json.dumps(_entry(happened), ensure_ascii=False) + "\n")
            except OSError as error:
                self._say(f"{self._path}: {error.strerror}; no more events are written there")
                self._file = None
        if (self._firewall is not None and isinstance(happened, Event)
                and happened.kind == "quota_end" and happened.subscriber is not None):
            self._firewall.add(happened.subscriber)


    def _say(self, text: str) -> None:
        click.echo(f"tollsplit: {text}", err=True)


def _entry(happened: Event | Notice) -> dict[str, object]:
    entry = {name: value for name, value in asdict(happened).items() if value is not None}
    return {"at": instant_text(happened.at_ns), **entry}


def _text(happened: Event | Notice) -> str:
    if isinstance(happened, Notice):
        return happened.text
    if happened.kind == "lost":
        return f"{happened.octets:,} packets were lost"
    if happened.kind == "clock_step":
        return "the clock was set; packets count in the windows that their timestamps name"
    if happened.kind == "balance_end":
        return f"{happened.account}: the balance has come to its end ({happened.unit})"
    since = "" if happened.period_start_ns is None else (
        f" since {instant_text(happened.period_start_ns)[:19]}Z")
    paid = f"{happened.octets:,} of {happened.threshold_octets:,} octets{since}"
    if happened.kind == "budget_end":
        return f"the budget of {happened.sponsor} is used up: {paid}"
    what = "quota" if happened.kind == "quota_end" else "threshold"
    who = happened.subscriber if happened.account == happened.subscriber else (
        f"{happened.subscriber} ({happened.account})")
    return f"{who}: {what} of rule {happened.rule} reached: {happened.sponsor} paid {paid}"
