"""The terminal's billing manager: a local program that asks the server on behalf of resources.

Who the user is it says by its own key, and what the resource is it finds out by itself; what a
resource claims of either counts for nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import socketserver
import stat
import struct
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from ..errors import UsageError
from ..limits import BILLING_FILE_OCTETS_MAX, BILLING_LINE_OCTETS_MAX, BILLING_WAIT_S
from .billing_auth import ISSUE, Issue
from .client import Client, UnreachableError
from .interface import UNREACHABLE
from .problem import UNAVAILABLE, Problem

_PEER = struct.Struct("3i")  # process, user, group (unix(7), SO_PEERCRED)


class Question(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a resource's interface module asks."""

    resource: str
    operation: str
    device: str
    nonce: str
    file: str | None = None


class BillingManager:
    """Listens on a Unix socket that its user alone may open. One question a connection.

    path    of the socket
    client  by the terminal's key

    Raises UsageError where nothing can listen, or another manager does.
    """

    def __init__(self, path: Path, client: Client) -> None:
        self.path = path
        self._client = client
        _clear(path)
        before = os.umask(0o177)
        try:
            self._server = _Listening(os.fspath(path), self)
        except OSError as error:
            raise UsageError(
                f"{path}: cannot be listened on: {error.strerror or error}") from error
        finally:
            os.umask(before)

    def run(self) -> None:
        """Answer until `stop` is called, from another thread."""
        self._server.serve_forever(poll_interval=0.1)
        self._server.server_close()
        self.path.unlink(missing_ok=True)

    def stop(self) -> None:
        self._server.shutdown()

    def answer(self, line: bytes) -> dict[str, Any]:
        """What a resource is told: a code, or why there is none."""
        try:
            asked = msgspec.json.decode(line, type=Question)
            digest = None if asked.file is None else digest_of(Path(asked.file))
            request = msgspec.convert(
                {"resource": asked.resource, "operation": asked.operation, "device": asked.device,
                 "nonce": asked.nonce, "digest": digest}, Issue)  # fmt: skip
            return {"code": self._client.call(ISSUE, request).code}
        except msgspec.MsgspecError as error:
            return {"refusal": "invalid", "detail": f"not a question: {error}"}
        except OSError as error:
            return {"refusal": "invalid", "detail": f"the resource's file: {error.strerror}"}
        except UnreachableError as error:
            return {"refusal": UNREACHABLE, "detail": str(error)}
        except Problem as problem:
            is_away = problem.kind.name == UNAVAILABLE.name
            return {"refusal": UNREACHABLE if is_away else problem.kind.name,
                    "detail": f"{problem.kind.title}: {problem.detail}"}  # fmt: skip


class _Listening(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True

    def __init__(self, path: str, manager: BillingManager) -> None:
        self.manager = manager
        super().__init__(path, _Answering)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A resource that hangs up, or says nothing, is its own affair."""


class _Answering(socketserver.StreamRequestHandler):
    timeout = BILLING_WAIT_S

    def handle(self) -> None:
        assert isinstance(self.server, _Listening)
        _, user, _ = _PEER.unpack(
            self.connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
        if user != os.geteuid():
            answer = {"refusal": "forbidden", "detail": "this is another user's billing manager"}
        else:
            answer = self.server.manager.answer(self.rfile.readline(BILLING_LINE_OCTETS_MAX))
        self.wfile.write(json.dumps(answer).encode() + b"\n")


def digest_of(path: Path) -> str:
    """SHA-256 of a resource's file. Raises OSError."""
    with path.open("rb") as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode) or found.st_size > BILLING_FILE_OCTETS_MAX:
            raise OSError(0, f"expected a file of at most {BILLING_FILE_OCTETS_MAX:,} octets")
        return hashlib.file_digest(file, "sha256").hexdigest()


def _clear(path: Path) -> None:
    """Take away the socket of a manager that died."""
    with suppress(FileNotFoundError):
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise UsageError(f"{path}: is there already, and no socket; name another")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as caller:
            caller.settimeout(1.0)
            try:
                caller.connect(os.fspath(path))
            except ConnectionRefusedError:
                os.unlink(path)
                return
        raise UsageError(f"{path}: another billing manager listens there")
