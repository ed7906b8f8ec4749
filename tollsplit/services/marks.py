"""Publishing marks: what is sponsored right now, into the rules of a running engine."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import RulesError, UsageError
from ..rules import RuleSet, load
from ..rules.door import push_rules
from ..rules.marks import Mark, marks_text


class Publication:
    """The files of marks that a rules file names, and the engine that those rules are in force in.

    A file of marks belongs to whoever publishes: nobody else writes it. It is replaced as a whole,
    so an engine that starts meanwhile reads the marks of before or of after.

    rules   the rules file; its rules' `marks` are the files
    door    the engine's control socket, or the folder of its journal
    """

    def __init__(self, rules: Path, door: Path) -> None:
        self._rules = rules
        self._door = door

    def rules_of(self, name: str) -> tuple[str, ...]:
        """The ids of the rules that a file of marks is for. Raises RulesError."""
        return tuple(rule.id for rule in load(self._rules).rules if rule.match.marks == name)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Inside, no other process publishes: who reads what is to be published reads it here.

        Raises UsageError.
        """
        path = self._rules.parent / f".{self._rules.name}.lock"
        try:
            number = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise UsageError(f"{path}: cannot be opened: {error.strerror or error}") from error
        try:
            fcntl.flock(number, fcntl.LOCK_EX)
            yield
        finally:
            os.close(number)

    def prepare(self, names: Sequence[str]) -> None:
        """Make the files that are not there yet: without them no rules can be loaded."""
        for name in names:
            path = self._rules.parent / name
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                write_whole(path, marks_text(()))

    def publish(self, marks: Mapping[str, Sequence[Mark]]) -> int:
        """Put these marks in force, and no others in the files that are named. Returns since when,
        in ns: packets of before are metered without them.

        Raises RulesError where they are not valid or the engine refuses them, UsageError where
        none answers; the files hold them then all the same, and an engine that starts reads them.
        """
        for name, published in marks.items():
            path = self._rules.parent / name
            text = marks_text(published)
            if not path.exists() or path.read_text() != text:
                write_whole(path, text)
        _, since_ns = push_rules(self._loaded(marks), self._door)
        return since_ns

    def _loaded(self, marks: Mapping[str, Sequence[Mark]]) -> RuleSet:
        rules = load(self._rules)
        named = {rule.match.marks for rule in rules.rules}
        for name, published in marks.items():
            if published and name not in named:
                raise RulesError(f'{self._rules}: no rule has marks = "{name}"; nobody would pay '
                                 "for what it marks")
        return rules


def write_whole(path: Path, text: str) -> None:
    """Replace a file: who reads it sees all of the old one or all of the new one.

    Raises UsageError.
    """
    unfinished = None
    try:
        number, unfinished = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(number, "w") as file:
            file.write(text)
            file.flush()
            os.fchmod(number, 0o644)
            os.fsync(number)
        os.replace(unfinished, path)
    except OSError as error:
        if unfinished is not None:
            with suppress(OSError):
                os.unlink(unfinished)
        raise UsageError(f"{path}: cannot be written: {error.strerror or error}") from error
