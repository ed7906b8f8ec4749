"""The terminal's network for the time of a session, and the way back from wherever it ended."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ..errors import NetworkError
from .identifier import Identifier
from .marks import write_whole


@dataclass(frozen=True, slots=True)
class Connection:
    """A network that the terminal knows, and the interface that it is on, where it is on one."""

    uuid: str
    name: str
    interface: str = ""


class Networks(Protocol):
    """What of the system's networks is needed. Everything may raise NetworkError."""

    def active(self) -> tuple[Connection, ...]:
        """Those that traffic may take by default, in force."""

    def of(self, who: Identifier, name: str | None) -> Connection:
        """The operator's network for this identifier; where it has a name, that one."""

    def activate(self, connection: Connection) -> None:
        """Come back once it is in force."""

    def deactivate(self, connection: Connection) -> None:
        """Leave it, or stop joining it; nothing where neither is so."""


class Switch:
    """Moves a terminal to the operator's network, and back.

    What was in force is in the journal before anything is changed, and leaves it when all of it is
    in force again. So after a crash, wherever it happened, `restore` does what was left to do.

    journal   a file of the terminal's own; one session at a time holds it
    """

    def __init__(self, networks: Networks, journal: Path) -> None:
        self._networks = networks
        self._journal = journal

    @contextmanager
    def attached(self, who: Identifier, name: str | None = None) -> Iterator[bool]:
        """Inside, the terminal is on the operator's network; says whether it had to switch.

        name   of the operator's network, where the identifier does not tell

        Raises NetworkError; where the way back fails too, the journal stays for `restore`.
        """
        with self._held():
            self._go_back()
            switched = False
            try:
                switched = self._go(who, name)
                yield switched
            finally:
                self._go_back()

    def restore(self) -> bool:
        """Return to what an earlier session found. Says whether there was something to do.

        Raises NetworkError where it fails, or where a session is open.
        """
        with self._held():
            return self._go_back()

    def _go(self, who: Identifier, name: str | None) -> bool:
        before = self._networks.active()
        wanted = self._networks.of(who, name)
        if [found.uuid for found in before] == [wanted.uuid]:
            return False
        self._note(before, wanted)
        if wanted.uuid not in [found.uuid for found in before]:
            self._networks.activate(wanted)
        for other in before:
            if other.uuid != wanted.uuid:
                self._networks.deactivate(other)
        return True

    def _go_back(self) -> bool:
        """First what was left comes back, then what was joined is left: never without a network."""
        noted = self._noted()
        if noted is None:
            return False
        before, joined = noted
        now = {found.uuid for found in self._networks.active()}
        for connection in before:
            if connection.uuid not in now:
                self._networks.activate(connection)
        if joined.uuid not in {found.uuid for found in before}:
            self._networks.deactivate(joined)  # even where it was still being joined
        self._journal.unlink()
        _sync(self._journal.parent)
        return True

    # --- the journal --------------------------------------------------------------------

    def _note(self, before: tuple[Connection, ...], joined: Connection) -> None:
        def spelled(found: Connection) -> dict[str, str]:
            return {"uuid": found.uuid, "name": found.name, "interface": found.interface}

        write_whole(self._journal, json.dumps(
            {"before": [spelled(found) for found in before], "joined": spelled(joined)}))
        _sync(self._journal.parent)

    def _noted(self) -> tuple[list[Connection], Connection] | None:
        try:
            noted = json.loads(self._journal.read_text())
            return [Connection(**found) for found in noted["before"]], Connection(**noted["joined"])
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise NetworkError(f"{self._journal}: cannot be read: {error}; choose the network by "
                               "hand and remove the file") from error

    @contextmanager
    def _held(self) -> Iterator[None]:
        """Nobody else switches meanwhile. Whoever dies lets go by that."""
        self._journal.parent.mkdir(parents=True, exist_ok=True)
        number = os.open(f"{self._journal}.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
        except BlockingIOError:
            raise NetworkError(f"{self._journal}: a session is open on this terminal; end it "
                               "first") from None
        finally:
            os.close(number)


def _sync(folder: Path) -> None:
    """What is in a folder outlives a power cut."""
    number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
