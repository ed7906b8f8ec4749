"""Usage records as IPFIX: what the commands hand over to be written or sent."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from ..engine import Usage
    from ..ipfix import Batch
    from ..report import Report
    from ..snapshot import Notice, Snapshot


def batch_of(usage: Usage, at: str) -> Batch:
    """Usage records as IPFIX has them; `at` is where in a tunnel they were metered."""
    from ..ipfix import Batch

    of = usage.provenance
    return Batch(usage, usage.metered, of.source, of.epoch, usage.rules.version, of.layer, at)


def write_reports(reports: Sequence[Report], stream: IO[bytes]) -> None:
    """Write an IPFIX file with all usage of some runs, and what their buckets came to."""
    from ..ipfix import write_file

    write_file(stream, ((batch_of(report.usage, report.at), report.volumes())
                        for report in reports))


def send_report(report: Report, url: str) -> None:
    """Send a run's usage to a collector. Raises UsageError, TollsplitError."""
    from ..ipfix import export

    export(url, batch_of(report.usage, report.at), report.volumes())


class Export:
    """A live run's way to a collector."""

    def __init__(self, url: str, source: str, told: Callable[[Notice], None]) -> None:
        from ..ipfix import Exporter

        self._exporter = Exporter(url, source, told)

    def offer(self, usage: Usage, at: str) -> None:
        self._exporter.offer(batch_of(usage, at))

    def look(self, snapshot: Snapshot) -> None:
        from ..report import volumes_of

        self._exporter.look(volumes_of(snapshot, snapshot.lost_kernel, snapshot.lost_interface))

    @contextmanager
    def running(self) -> Iterator[None]:
        """Send what is offered; at the end wait some seconds for what is left."""
        self._exporter.start()
        try:
            yield
        finally:
            self._exporter.finish()
