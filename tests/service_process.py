"""A service in a process of its own, which may be killed; as a program it is that process.

The clock is the machine's. It serves what test_services.py gives away.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join([os.environ["PYTHONPATH"], str(Path(__file__).parent)]),
}


class Process:
    """Started, killed and started again, always at the same address."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._running: subprocess.Popen[str] | None = None
        self.port = 0
        self.start()

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        assert self._running is not None
        return self._running.pid

    def start(self) -> None:
        """Come back when it serves."""
        self._running = subprocess.Popen(
            [sys.executable, __file__, self._url, str(self.port)], stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, text=True, env=ENVIRONMENT,
        )  # fmt: skip
        assert self._running.stdout is not None
        self.port = int(self._running.stdout.readline())

    def kill(self) -> None:
        """As a power cut does to a process."""
        self._end(signal.SIGKILL, 10)

    def stop(self, within_s: float = 20) -> int:
        """As whoever runs it asks it to; its exit code."""
        return self._end(signal.SIGTERM, within_s)

    def _end(self, number: int, within_s: float) -> int:
        running, self._running = self._running, None
        if running is None:
            return 0
        running.send_signal(number)
        code = running.wait(within_s)
        assert running.stdout is not None
        running.stdout.close()
        return code


@contextmanager
def process(url: str) -> Iterator[Process]:
    made = Process(url)
    try:
        yield made
    finally:
        made.kill()


def until(condition: object, within_s: float = 20) -> None:
    """Wait until a condition (a function) holds."""
    deadline = time.monotonic() + within_s
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.02)


def main(url: str, port: str) -> None:
    from test_services import SERVICE

    from tollsplit.services import device, inbox
    from tollsplit.services.rate import Rates
    from tollsplit.services.server import Options, Server

    server = Server(Options(
        url, port=int(port), services=(device.SERVICE, inbox.SERVICE, SERVICE), wait_s=1,
        settings={Rates: Rates(device_per_s=0, address_per_s=0)},
    ))  # fmt: skip
    signal.signal(signal.SIGTERM, lambda *_: server.stop())
    print(server.address.rpartition(":")[2], flush=True)
    server.run()


if __name__ == "__main__":
    main(*sys.argv[1:])
