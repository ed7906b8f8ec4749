"""Servers that die: each is killed where an operation is about to be, or has just been, booked.

As a program it is told on standard input where to serve what, "PORT URL", and by a file where the
server has to die, "OPERATION POINT"; a service's sweep is called "SERVICE.sweep". Forked, for
importing everything anew takes longer than most live.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from threading import local
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tollsplit.ledger import Ledger
    from tollsplit.services.client import Client
    from tollsplit.services.role import Role

POINTS = ("before", "after")  # its commit


class Mortal:
    """A service at one address whose servers come and go."""

    def __init__(self, program: subprocess.Popen[str], url: str, fate: Path) -> None:
        self._program = program
        self._url = url
        self._fate = fate
        self._port = 0
        self._clients: list[Client] = []
        self._child = self._start()

    def _start(self) -> int:
        assert self._program.stdin and self._program.stdout
        self._program.stdin.write(f"{self._port} {self._url}\n")
        self._program.stdin.flush()
        port, child = map(int, self._program.stdout.readline().split())
        self._port = port
        return child

    def _expect_gone(self) -> None:
        assert self._program.stdout
        assert self._program.stdout.readline() == f"gone {signal.SIGKILL:d}\n"

    def device(self, role: Role, account: str) -> Client:
        """A registered device that asks until it is answered."""
        from tollsplit.ledger import open_ledger
        from tollsplit.services import device
        from tollsplit.services.client import Client
        from tollsplit.services.signature import DeviceKey

        with open_ledger(self._url) as ledger, ledger.atomic():
            made = device.enrol(ledger.store, role, account, time.time_ns())
        key = DeviceKey.new()
        client = Client(f"http://127.0.0.1:{self._port}", key, retries=500,
                        wait=lambda seconds: time.sleep(0.02))  # fmt: skip
        client.call(device.REGISTER, device.Register(made.token, key.public_key, account))
        self._clients.append(client)
        return client

    def survive(self, operation: str, point: str, work: Callable[..., Any], *given: Any,
                **more: Any) -> Any:  # fmt: skip
        """Do work whose server is killed at a point of an operation; another takes its place."""
        self._fate.write_text(f"{operation} {point}")
        with ThreadPoolExecutor(1) as pool:
            future = pool.submit(work, *given, **more)
            self._expect_gone()
            self._child = self._start()
            return future.result(60)

    def write(self, work: Callable[[Ledger], None]) -> None:
        """Do work on the ledger behind the service's back."""
        from tollsplit.ledger import open_ledger

        with open_ledger(self._url) as ledger, ledger.atomic():
            work(ledger)

    def verify(self, look: Callable[[Ledger], Any]) -> Any:
        """What a look at the books shows, which have to hold."""
        from tollsplit.ledger import open_ledger
        from tollsplit.services.catalog import annexes

        with open_ledger(self._url) as ledger:
            assert ledger.verify(annexes=annexes()).findings == ()
            return look(ledger)

    def close(self) -> None:
        for client in self._clients:
            client.close()
        os.kill(self._child, signal.SIGKILL)
        self._expect_gone()


@contextmanager
def mortal(url: str, folder: Path) -> Iterator[Mortal]:
    tests = Path(__file__).parent
    environment = {
        **os.environ, "PYTHONPATH": os.pathsep.join([os.environ["PYTHONPATH"], str(tests)])}
    with subprocess.Popen(
        [sys.executable, __file__, fate := folder / "fate"], stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, text=True, env=environment,
    ) as program:  # fmt: skip
        service = Mortal(program, url, fate)
        yield service
        service.close()
        program.communicate()


# --- the program ------------------------------------------------------------------------


def die_at(fate: Path) -> None:
    """Be killed where the operation that a file names is booked; the file is gone then."""
    from tollsplit.services.books import Books
    from tollsplit.services.desk import Desk

    here = local()
    changing, write = Desk._changing, Books.write

    def noting(desk: Any, operation: Any, *rest: Any) -> Any:
        here.operation = operation.name
        return changing(desk, operation, *rest)

    def dying(books: Any, work: Any) -> Any:
        wanted, _, point = (fate.read_text() if fate.exists() else "").partition(" ")
        swept = isinstance(work, partial) and work.func.__name__ == "_sweep"
        name = f"{work.args[0].name}.sweep" if swept else getattr(here, "operation", "-")
        if wanted != name:
            return write(books, work)
        fate.unlink()
        if point == "before":
            write(books, lambda ledger: (work(ledger), die()))
        write(books, work)
        die()

    Desk._changing = noting  # type: ignore[method-assign]
    Books.write = dying  # type: ignore[method-assign]


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def serve(port: int, url: str) -> None:
    from argon2 import PasswordHasher

    from tollsplit.ledger import open_ledger
    from tollsplit.services import secret
    from tollsplit.services.server import Options, Server

    secret.HASHER = PasswordHasher(1, 8, 1)
    open_ledger(url).close()
    die_at(Path(sys.argv[1]))
    server = Server(Options(url, port=port))
    print(server.address.rpartition(":")[2], os.getpid(), flush=True)
    server.run()


def main() -> None:
    import tollsplit.ledger.postgres
    import tollsplit.services.server  # noqa: F401 - children find it there

    for line in sys.stdin:
        port, url = line.rstrip("\n").split(" ", 1)
        child = os.fork()
        if child == 0:
            serve(int(port), url)
        _, status = os.waitpid(child, 0)
        print("gone", os.WTERMSIG(status), flush=True)


if __name__ == "__main__":
    main()
