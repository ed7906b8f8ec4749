"""The door through which a running gateway is given other rules."""

from __future__ import annotations

import base64
import json
import os
import socket
import stat
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from ..errors import RulesError, TollsplitError, UsageError
from ..limits import CONTROL_REQUEST_OCTETS_MAX, CONTROL_WAIT_S
from ..rules import RuleSet, load

PATH_OCTETS_MAX = 107  # sun_path with its final zero (unix(7))
SOCKET = "control"
LENGTH = struct.Struct("<Q")
# How long who listens may take to be connected to.
ANSWER_S = 1.0


class Control(threading.Thread):
    """Listens on a Unix socket that its user alone may open. One request a connection.

    take   puts rules in force and returns the instant, in ns; raises TollsplitError

    Raises UsageError where nothing can listen, or another gateway does.
    """

    def __init__(self, path: Path, take: Callable[[RuleSet], int]) -> None:
        super().__init__(name="control", daemon=True)
        self.path = path
        self._take = take
        if len(os.fsencode(path)) > PATH_OCTETS_MAX:
            raise UsageError(f"{path}: a socket's path has at most {PATH_OCTETS_MAX} octets; "
                             "choose another with --control")
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            self._bind()
        except OSError as error:
            self._listener.close()
            raise UsageError(
                f"{path}: cannot be listened on: {error.strerror or error}") from error
        except UsageError:
            self._listener.close()
            raise

    def _bind(self) -> None:
        with suppress(FileNotFoundError):
            if stat.S_ISSOCK(os.lstat(self.path).st_mode):
                self._expect_dead()
                os.unlink(self.path)
        before = os.umask(0o177)
        try:
            self._listener.bind(os.fspath(self.path))
        finally:
            os.umask(before)
        self._listener.listen(4)

    def _expect_dead(self) -> None:
        """Two runs may share a journal's folder, and not one door."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as caller:
            caller.settimeout(ANSWER_S)
            try:
                caller.connect(os.fspath(self.path))
            except ConnectionRefusedError:  # of a run that died
                return
        raise UsageError(f"{self.path}: another gateway listens there; choose another with "
                         "--control")

    def run(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:  # closed
                return
            with connection, suppress(OSError):
                connection.settimeout(CONTROL_WAIT_S)
                _send(connection, json.dumps(self._answer(connection)).encode())

    def _answer(self, connection: socket.socket) -> dict[str, object]:
        try:
            request = json.loads(_receive(connection))
            content = {str(name): base64.b64decode(text, validate=True)
                       for name, text in request["content"].items()}
            rules = load(str(request["path"]), content)
            return {"rules_version": rules.version, "in_force_ns": self._take(rules)}
        except TollsplitError as error:
            return {"error": str(error), "exit_code": error.exit_code}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            return {"error": f"not a request: {error!r}", "exit_code": 2}

    def close(self) -> None:
        if self._listener.fileno() < 0:
            return  # it may be another's by now
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.path.unlink(missing_ok=True)


def push_rules(rules: RuleSet, door: Path) -> tuple[str, int]:
    """Put rules in force in a running gateway. Returns their version and since when, in ns.

    door   the gateway's socket, or the folder of its journal

    Raises RulesError where the gateway refuses them, UsageError where nobody listens.
    """
    path = door / SOCKET if door.is_dir() else door
    content = {name: base64.b64encode(octets).decode() for name, octets in rules.content.items()}
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(CONTROL_WAIT_S)
        try:
            connection.connect(os.fspath(path))
            _send(connection, json.dumps({"path": rules.path, "content": content}).encode())
            answer = json.loads(_receive(connection))
        except (OSError, ValueError) as error:
            raise UsageError(f"{path}: no gateway answers: {error}") from error
    if "error" in answer:
        raise RulesError(f"{path}: the rules in force stay: {answer['error']}")
    return str(answer["rules_version"]), int(answer["in_force_ns"])


def _send(connection: socket.socket, octets: bytes) -> None:
    connection.sendall(LENGTH.pack(len(octets)) + octets)


def _receive(connection: socket.socket) -> bytes:
    (length,) = LENGTH.unpack(_exactly(connection, LENGTH.size))
    if length > CONTROL_REQUEST_OCTETS_MAX:
        raise ValueError(f"expected at most {CONTROL_REQUEST_OCTETS_MAX:,} octets")
    return _exactly(connection, length)


def _exactly(connection: socket.socket, octets: int) -> bytes:
    found = bytearray()
    while len(found) < octets:
        part = connection.recv(min(octets - len(found), 1 << 20))
        if not part:
            raise ValueError("the other side hung up")
        found += part
    return bytes(found)
