"""`tollsplit demo --live`: the whole story, played on this machine by the real programs."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path

import click

from ....errors import UsageError
from . import namespaces
from .chapters import CHAPTERS
from .stage import Stage
from .story import Story

_EXTRAS = ("argon2", "h11", "httpx2", "jeepney", "msgspec", "starlette", "uvicorn")


def play(directory: Path) -> None:
    """Tell the story on standard output; what it leaves behind is in a new folder of `directory`.

    Raises UsageError where something is missing, StoryError where it does not go as it should.
    """
    lack = missing()
    if lack:
        raise UsageError(f"demo --live: {lack}")
    home = directory / f"live-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    click.echo(f"The books, and what every program said, are kept in {home}.")
    with _interruptible():
        stage = Stage(home)
        try:
            story = Story(stage, lambda text: click.echo(f"   {text}"))
            for number, chapter in enumerate(CHAPTERS, 1):
                click.echo(f"\n{number}. {chapter.title}")
                story.play(chapter)
        finally:
            for number in _SIGNALS:  # cleaning up is done in any case
                signal.signal(number, signal.SIG_IGN)
            stage.close()


def missing() -> str | None:
    """What this machine lacks, by name; None: nothing."""
    if any(find_spec(name) is None for name in _EXTRAS):
        return "needs more of Python: pip install 'tollsplit[services,terminal]'"
    return namespaces.missing()


_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def _interruptible() -> Iterator[None]:
    """Whatever asks this to end, it ends as by Ctrl-C: with everything removed."""
    before = {number: signal.signal(number, signal.default_int_handler) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
