"""Usage as RADIUS accounting: what the commands hand over to be reported."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

if TYPE_CHECKING:
    from ..engine import Usage
    from ..report import Report
    from ..snapshot import Notice, Snapshot


class Server(NamedTuple):
    """An accounting server, and what is shared with it."""

    url: str
    secret: bytes

    @classmethod
    def of(cls, url: str | None, secret_path: Path | None) -> Server | None:
        """What the options name. Raises UsageError."""
        if url is None:
            return None
        from ..radius.client import load_dictionary, parse_url, read_secret

        parse_url(url)
        load_dictionary()
        if secret_path is None:
            raise click.UsageError(f"{url}: --radius-secret FILE is needed: what is shared with it")
        return cls(url, read_secret(secret_path))

    def report(self, report: Report) -> None:
        """Tell it of a run's usage. Raises TollsplitError."""
        from ..radius.client import account

        source = report.usage.provenance.source
        # What is booked is the same whenever it is reported; what is not has no name.
        account(self.url, self.secret, source or "tollsplit", source or str(time.time_ns()),
                report.usage)


class Accounting:
    """A live run's way to an accounting server."""

    def __init__(self, server: Server, source: str, told: Callable[[Notice], None]) -> None:
        from ..radius.client import Reporter

        run = f"{source} {time.time_ns()}"
        self._reporter = Reporter(server.url, server.secret, source, run, told)

    def offer(self, usage: Usage, at: str) -> None:
        self._reporter.offer(usage)

    def look(self, snapshot: Snapshot) -> None:
        """A server is told of usage alone."""

    @contextmanager
    def running(self) -> Iterator[None]:
        """Report what is offered; at the end wait some seconds for what is left."""
        self._reporter.start()
        try:
            yield
        finally:
            self._reporter.finish()
