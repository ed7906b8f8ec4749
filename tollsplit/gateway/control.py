"""The door through which a running gateway is given other rules."""

from __future__ import annotations

import base64
import json
import os
import socket
import stat
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from ..errors import TollsplitError, UsageError
from ..limits import CONTROL_WAIT_S
from ..rules import RuleSet, load
from ..rules.door import receive, send

PATH_OCTETS_MAX = 107  # sun_path with its final zero (unix(7))
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
                send(connection, json.dumps(self._answer(connection)).encode())

    def _answer(self, connection: socket.socket) -> dict[str, object]:
        try:
            request = json.loads(receive(connection))
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
