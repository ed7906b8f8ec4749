"""Who holds which address, learned while a capture runs: from a NAS, or a file that changes."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ..errors import UsageError

if TYPE_CHECKING:
    from ..rules.rule import Pool, RuleSet
    from ..snapshot import Notice
    from .radius import Server

LOOK_S = 0.5


class Sessions(Protocol):
    """A source of sessions: it keeps a directory, and says when that has changed."""

    def start(self) -> None: ...
    def close(self) -> None: ...


def pool_of(source: str | Server, rules: RuleSet) -> Pool:
    """The pool whose directory a source keeps. Raises UsageError."""
    named = [pool for pool in rules.pools if pool.directory is not None]
    if isinstance(source, str):
        named = [pool for pool in named if _is(source, _path(rules, pool))]
        if not named:
            raise UsageError(f"--sessions {source}: expected radius://HOST:PORT, or the file that "
                             "a pool names as its directory")
    elif len(named) != 1:
        raise UsageError(f"--sessions {source.url}: expected one pool with a directory to keep "
                         f'them in (directory = "sessions.csv"), got {len(named)}')
    return named[0]


def sessions(
    source: str | Server,
    rules: RuleSet,
    changed: Callable[[], None],
    told: Callable[[Notice], None],
) -> Sessions:
    """What `--sessions` names: a server to be, or a directory's file. Raises UsageError."""
    pool = pool_of(source, rules)
    if isinstance(source, str):
        return Watch(_path(rules, pool), changed)
    from ..radius.listener import Listener
    from ..rules.leases import Keys

    return Listener(source.url, source.secret, _path(rules, pool), pool.tenures,
                    Keys(pool.ipv4_key, pool.ipv6_key), changed, told)


def _path(rules: RuleSet, pool: Pool) -> Path:
    assert pool.directory is not None
    return Path(rules.path).parent / pool.directory


def _is(one: str, other: Path) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False


class Watch(threading.Thread):
    """Looks whether a file is another one, or says something else."""

    def __init__(self, path: Path, changed: Callable[[], None]) -> None:
        super().__init__(name="sessions", daemon=True)
        self._path = path
        self._changed = changed
        self._known = self._state()
        self._ended = threading.Event()

    def _state(self) -> tuple[int, int, int] | None:
        try:
            status = os.stat(self._path)
        except OSError:  # it is being replaced
            return None
        return status.st_ino, status.st_size, status.st_mtime_ns

    def run(self) -> None:
        while not self._ended.wait(LOOK_S):
            state = self._state()
            if state is not None and state != self._known:
                self._known = state
                self._changed()

    def close(self) -> None:
        self._ended.set()
