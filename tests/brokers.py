"""A nats-server of our own, and batches that gateways would send through it."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest
from gateways import HEADER, packet

from tollsplit.cext.reader import Reader
from tollsplit.engine.journal import Head, Journal
from tollsplit.engine.live import Generation
from tollsplit.rules import RuleSet

HOUR_NS = 3600 * 10**9
BEGAN_NS = 1_795_000_000 * 10**9 // HOUR_NS * HOUR_NS


class Broker:
    """JetStream on a loopback port, its store in a folder of its own.

    more   of its configuration
    """

    def __init__(self, more: str = "") -> None:
        program = shutil.which("nats-server")
        if program is None:
            pytest.skip("no nats-server (Debian's package of that name)")
        self._program = program
        self.folder = Path(tempfile.mkdtemp(prefix="broker-"))
        with closing(socket.socket()) as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self._config = self.folder / "server.conf"
        self._config.write_text(
            f'listen: "127.0.0.1:{self.port}"\n'
            f'jetstream {{ store_dir: "{self.folder}/store" }}\n{more}')
        self._server: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    def start(self) -> None:
        self._server = subprocess.Popen(
            [self._program, "-c", str(self._config)], stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=(self.folder / "log").open("ab"))
        end = time.monotonic() + 20
        while b"Server is ready" not in (self.folder / "log").read_bytes():
            assert time.monotonic() < end, (self.folder / "log").read_text()
            time.sleep(0.01)

    def stop(self, number: int = signal.SIGTERM) -> None:
        assert self._server is not None
        self._server.send_signal(number)
        self._server.wait(20)
        (self.folder / "log").unlink()

    def lose_everything(self) -> None:
        """Its disk is gone; it begins anew, with nothing."""
        self.stop(signal.SIGKILL)
        shutil.rmtree(self.folder / "store")
        self.start()

    def close(self) -> None:
        self.stop(signal.SIGKILL)
        shutil.rmtree(self.folder)


@pytest.fixture
def broker() -> Iterator[Broker]:
    broker = Broker()
    yield broker
    broker.close()


def segments(
    folder: Path, rules: RuleSet, hours: int, *, source: str = "gw1", subscribers: int = 5,
    epoch: str = "2026-11-18T00:00:00.000000Z", seal: bool = True,
) -> Sequence[Path]:  # fmt: skip
    """What a run of so many hours leaves in its journal, each hour in several flushes."""
    first = 0
    paths = []
    with closing(Journal(folder, ("test0",))) as journal:
        for hour in range(hours):
            head = Head(source, epoch, first, "tollsplit", rules)
            generation = Generation(rules)
            segment = journal.create(head)
            for flush in range(3):
                meter = generation.meter()
                reader = Reader()
                at_ns = BEGAN_NS + hour * HOUR_NS + flush * 10**9
                reader.feed(HEADER + b"".join(
                    packet(at_ns + number, 100 + 7 * number, 0x0A000001 + number)
                    for number in range(subscribers)), True)
                meter.run(reader)
                segment.add(generation, meter)
            if seal:
                segment.seal(subscribers)
            else:
                segment.close()
            paths.append(segment.path)
            first += subscribers
    return paths


def octets_of(hours: int, subscribers: int = 5) -> int:
    """That segments() counts."""
    return hours * 3 * sum(100 + 7 * number for number in range(subscribers))


def sums(output: str) -> dict[str, int]:
    """What `ingest --format json` says at its end."""
    found: dict[str, int] = json.loads(output)
    return found
