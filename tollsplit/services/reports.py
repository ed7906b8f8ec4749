"""The terminal's own address that the browser's extension reports to."""

from __future__ import annotations

import hmac
import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from shutil import copyfile
from types import TracebackType
from typing import Any

import msgspec

from ..errors import UsageError
from ..limits import REPORT_OCTETS_MAX, REPORT_READ_S
from .claim import Payee
from .detector import Report
from .marks import write_whole

EXTENSION = Path(__file__).parent / "extension"
FILES = ("manifest.json", "background.js", "interface.js", "page.js")
HOME = "127.0.0.1"


class Directions(msgspec.Struct):
    """What the browser is to do: send requests to these servers through the relay."""

    relay: str | None = None  # HOST:PORT; None: nothing is sponsored now
    payees: list[str] = []

    @classmethod
    def through(cls, relay: str, payees: list[Payee]) -> Directions:
        return cls(relay, [f"{host}:{port}" for host, port in payees])


class Reports:
    """Listens on the loopback interface; whoever has the token may report.

    take   what is done about a report; may take as long as a session needs to begin
    """

    def __init__(self, port: int, token: str, take: Callable[[Report], Directions]) -> None:
        class Handler(_Handler):
            """For this server."""

        Handler.token, Handler.take = token, staticmethod(take)
        try:
            self._server = ThreadingHTTPServer((HOME, port), Handler)
        except (OSError, OverflowError) as error:
            raise UsageError(f"{HOME}: port {port} cannot be listened on: {error}") from error
        self._server.daemon_threads = True
        Handler.address = self.address
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), daemon=True)

    @property
    def address(self) -> str:
        return f"{HOME}:{self._server.server_port}"

    def __enter__(self) -> Reports:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    address: str
    token: str
    take: Callable[[Report], Directions]
    timeout = REPORT_READ_S
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        """Pages may send requests here as well: they know neither the token nor the name."""
        expected = f"Bearer {self.token}".encode()
        given = self.headers.get("Authorization", "").encode("utf-8", "replace")
        known = self.address
        if not hmac.compare_digest(given, expected) or self.headers.get("Host") != known:
            return self._answer(403, b"{}")
        length = self.headers.get("Content-Length", "")
        if self.path != "/reports" or not length.isascii() or not length.isdigit():
            return self._answer(400, b"{}")
        if int(length) > REPORT_OCTETS_MAX:
            return self._answer(413, b"{}")
        try:
            report = msgspec.json.decode(self.rfile.read(int(length)), type=Report)
        except msgspec.MsgspecError:
            return self._answer(400, b"{}")
        return self._answer(200, msgspec.json.encode(self.take(report)))

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = True

    def log_message(self, format: str, *values: Any) -> None:
        """What is told is told by the terminal."""


def write_extension(folder: Path, address: str, token: str) -> None:
    """Put the browser's extension into a folder, with where and how it reports. Raises UsageError.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in FILES:
            copyfile(EXTENSION / name, folder / name)
    except OSError as error:
        raise UsageError(f"{folder}: cannot be written: {error.strerror or error}") from error
    write_whole(folder / "settings.js",
                f"const ADDRESS = {json.dumps(address)};\nconst TOKEN = {json.dumps(token)};\n")
