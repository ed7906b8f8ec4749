"""A nats-server of our own."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from databases import Cluster, PostgresDatabase


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
            port = free.getsockname()[1]
        self.url = f"nats://127.0.0.1:{port}"
        self._config = self.folder / "server.conf"
        self._config.write_text(
            f'listen: "127.0.0.1:{port}"\n'
            f'jetstream {{ store_dir: "{self.folder}/store" }}\n{more}')
        self._server: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        with (self.folder / "log").open("wb") as log:
            self._server = subprocess.Popen(
                [self._program, "-c", str(self._config)], stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL, stderr=log)
        end = time.monotonic() + 20
        while b"Server is ready" not in (self.folder / "log").read_bytes():
            assert time.monotonic() < end, (self.folder / "log").read_text()
            time.sleep(0.01)

    def stop(self, number: int = signal.SIGTERM) -> None:
        assert self._server is not None
        self._server.send_signal(number)
        self._server.wait(20)

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


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes seconds and hours between gateways and ingesters takes less."""
    from tollsplit.broker import address, dispatch, ingest, streams
    from tollsplit.gateway import deliverer

    monkeypatch.setattr(address, "BROKER_WAIT_S", 2)
    for module in (deliverer, ingest):
        monkeypatch.setattr(module, "RETRY_S", 0.02)
        monkeypatch.setattr(module, "RETRY_MAX_S", 0.1)
    monkeypatch.setattr(dispatch, "LOOK_S", 0.02)
    monkeypatch.setattr(dispatch, "BROKER_END_S", 0.0)
    monkeypatch.setattr(dispatch, "LOOK_MAX_S", 0.1)
    monkeypatch.setattr(ingest, "FETCH_S", 0.1)
    monkeypatch.setattr(streams, "BROKER_SILENT_S", 0.5)
    monkeypatch.setattr(ingest, "BROKER_SILENT_S", 0.5)


@pytest.fixture
def books(postgres: Cluster) -> PostgresDatabase:
    """A ledger's place on a server."""
    return postgres.database()
