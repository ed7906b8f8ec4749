"""A Dask cluster on loopback: a scheduler and workers, processes that can be killed."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

START_S = 60.0
DASK = (sys.executable, "-W", "ignore", "-m", "dask")


class Cluster:
    """Processes below a scheduler; every one is ended in the end, by its own id."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._known = folder / "scheduler.json"
        self.scheduler = self._start(
            "scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--no-show",
            "--scheduler-file", self._known)
        self.workers: list[subprocess.Popen[bytes]] = []
        try:
            self.url: str = wait_for(self._address)
        except BaseException:
            self.close()
            raise

    def _address(self) -> str | None:
        """What the scheduler has written; None while it has not written all of it."""
        with suppress(FileNotFoundError, ValueError):
            return str(json.loads(self._known.read_text())["address"])
        return None

    def start_worker(self, threads: int = 1, folder: Path | None = None) -> int:
        """One more worker; its process's id. `folder` is where it starts in."""
        started = self._start(
            "worker", "--scheduler-file", self._known, "--host", "127.0.0.1", "--nthreads", threads,
            "--no-nanny", "--no-dashboard", "--local-directory", self.folder, folder=folder)
        self.workers.append(started)
        return started.pid

    def expect_workers(self, count: int) -> None:
        with self.client() as client:
            wait_for(lambda: len(client.nthreads()) == count)

    @contextmanager
    def client(self) -> Iterator[Any]:
        from distributed import Client

        with Client(self.url, set_as_default=False) as client:
            yield client

    def kill(self, pid: int) -> None:
        """SIGKILL one worker."""
        for worker in self.workers:
            if worker.pid == pid:
                worker.kill()
                worker.wait()

    def close(self) -> None:
        for process in (*self.workers, self.scheduler):
            process.kill()
            process.wait()

    def _start(
        self, *arguments: object, folder: Path | None = None
    ) -> subprocess.Popen[bytes]:
        with open(self.folder / "log", "ab") as log:
            return subprocess.Popen(
                [*DASK, *map(str, arguments)], stdout=log, stderr=log, cwd=folder or self.folder)


def wait_for(look: Any) -> Any:
    """What `look` returns once it is true."""
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        found = look()
        if found:
            return found
        time.sleep(0.05)
    raise TimeoutError(f"nothing within {START_S} s")


@contextmanager
def started(folder: Path, workers: int) -> Iterator[Cluster]:
    pytest.importorskip("distributed", reason="distributed is not installed (extra cluster)")
    cluster = Cluster(folder)
    try:
        for _ in range(workers):
            cluster.start_worker()
        cluster.expect_workers(workers)
        yield cluster
    finally:
        cluster.close()


@pytest.fixture
def swept() -> Iterator[None]:
    """Dask's client leaves connections to the collector where the other side has died: it comes
    here, and not in some later test, where a warning is an error.
    """
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two workers of one thread each, which no test ends."""
    with started(tmp_path_factory.mktemp("cluster"), 2) as running:
        yield running
