"""Where the story plays: two subscribers, the operator, a sponsor's proxy, a shop, the rest.

    alice ── sub1 ┐           ┌ operator  the services (`tollsplit serve`)
                  ├ gateway ──┼ sponsor   the sponsor's proxy (`tollsplit session proxy`)
    bob ──── sub2 ┘     │     ├ shop      shop.example
      `tollsplit capture`     └ films     films.example
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from importlib.resources import files
from pathlib import Path
from types import TracebackType

from .judge import Judge, Seen
from .namespaces import BOUND, GATEWAY, RUN, End, Namespaces
from .program import PATIENCE_S, Program, StoryError

ALICE = End("alice", "sub1", "10.77.1")
BOB = End("bob", "sub2", "10.77.2")
OPERATOR = End("operator", "operator", "192.0.2")
SPONSOR = End("sponsor", "sponsor", "203.0.113")
SHOP = End("shop", "shop", "198.51.100")
FILMS = End("films", "films", "198.18.0")
ENDS = (ALICE, BOB, OPERATOR, SPONSOR, SHOP, FILMS)
TETHERED = "10.77.3.2"  # an address of Alice's that a neighbour may use
HOSTS = {"shop.example": SHOP, "films.example": FILMS}
SERVER = f"http://{OPERATOR.ipv4}:8080"
_TOLLSPLIT = (sys.executable, "-m", "tollsplit")
# Secrets are read from standard input where there is no terminal, which Python warns of.
_ENVIRONMENT = {"PYTHONWARNINGS": "ignore", "PYTHONUNBUFFERED": "1"}
Command = tuple[End | None, Sequence[object]]  # where, and its words
_FILES = ("rules.toml", "subscribers.csv")


class Stage:
    """The hosts, the books' files, and the programs; close() ends and removes all but the files.

    home   a folder of its own, which keeps rules, ledger and what programs said
    """

    def __init__(self, home: Path) -> None:
        home.mkdir(parents=True)
        self.home = home.resolve()
        self.ledger = f"sqlite:///{self.home / 'books.db'}"
        # The name of a socket is short, whatever the folder's is.
        self.short = Path(tempfile.mkdtemp(prefix=f"tollsplit-{os.getpid()}-", dir=RUN))
        self.control = self.short / "control"
        self.billing = self.short / "billing"
        # More of what programs find in their environment.
        self.environment = dict(_ENVIRONMENT)
        self._namespaces: Namespaces | None = None
        self._judges: dict[str, Judge] = {}
        try:
            self._write()
            self._namespaces = Namespaces()
            for end in ENDS:
                self._namespaces.add(end.name)
                self._namespaces.connect(end)
                # Judge and engine then see the same packets, each as the wire has it.
                self._namespaces.merge(end, "off")
            self._judges = {end.name: Judge(self._namespaces, GATEWAY, end.interface)
                            for end in (ALICE, BOB)}  # fmt: skip
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Stage:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _write(self) -> None:
        """Rules, settings and names."""
        own = files(__package__)
        for name in _FILES:
            (self.home / name).write_text(own.joinpath(name).read_text("utf-8"), "utf-8")
        settings = own.joinpath("settings.toml").read_text("utf-8")
        for name, place in (("home", self.home), ("control", self.control)):
            settings = settings.replace(f"{{{name}}}", str(place))
        (self.home / "settings.toml").write_text(settings, "utf-8")
        (self.home / "shop.marks").write_text("")
        self._hosts.write_text("127.0.0.1 localhost\n" + "".join(
            f"{end.ipv4} {name}\n" for name, end in HOSTS.items()))  # fmt: skip

    @property
    def _hosts(self) -> Path:
        return self.home / "hosts"

    @property
    def namespaces(self) -> Namespaces:
        assert self._namespaces is not None
        return self._namespaces

    def tether(self) -> None:
        """Bob's way to the films leads through Alice, by an address of hers."""
        net, _, _ = TETHERED.rpartition(".")
        hosts = self.namespaces
        hosts.cable((BOB.name, "tether0", TETHERED), (ALICE.name, "hotspot0", f"{net}.1"))
        hosts.forward(ALICE.name)
        hosts.ip(GATEWAY, "route", "add", f"{net}.0/24", "via", ALICE.ipv4)
        hosts.ip(BOB.name, "route", "add", FILMS.ipv4, "via", f"{net}.1", "src", TETHERED)

    # --- programs -----------------------------------------------------------------------

    def begin(
        self, end: End | str, name: str, *command: str, typed: str = "",
        pass_fds: Sequence[int] = (),
    ) -> Program:  # fmt: skip
        """A program that goes on; what it says is in the folder, under its name."""
        log = self.home / f"{name}.log"
        where = end if isinstance(end, str) else end.name
        with open(log, "w") as said:
            process = self.namespaces.begin(
                where, *command, hosts=self._hosts, stdin=subprocess.PIPE, stdout=said,
                stderr=subprocess.STDOUT, pass_fds=pass_fds, more=self.environment)  # fmt: skip
        program = Program(name, process, log)
        program.type(typed)
        return program

    def begin_tollsplit(
        self, end: End | str, name: str, *arguments: object, typed: str = ""
    ) -> Program:
        return self.begin(end, name, *_TOLLSPLIT, *map(str, arguments), typed=typed)

    def tollsplit(self, end: End | None, *arguments: object, typed: str = "") -> str:
        """What a command says on standard output, run to its end at a host.

        end     None: on this machine, where the ledger's file is
        typed   what is typed when it asks

        Raises StoryError where it fails.
        """
        [said] = self.at_once([(end, arguments)], typed=typed)
        return said

    def at_once(self, commands: Iterable[Command], *, typed: str = "") -> list[str]:
        """What commands say, run to their ends beside each other. As `tollsplit`."""
        running: list[tuple[Sequence[object], subprocess.Popen[str]]] = []
        try:
            for end, words in commands:
                running.append((words, self._start(end, words)))
            # All of them end, also where one fails.
            done = [(words, *_ended(process, typed)) for words, process in running]
        finally:
            for _, process in running:
                process.kill()
                process.wait()
        for words, code, said, errors in done:
            if code:
                raise StoryError(f"tollsplit {' '.join(map(str, words))}: {errors or said}")
        return [said for _, _, said, _ in done]

    def refusal(self, end: End, *arguments: object) -> str:
        """What a command says that is refused. Raises StoryError where it is not."""
        process = self._start(end, arguments)
        try:
            code, said, errors = _ended(process, "")
        finally:
            process.kill()
            process.wait()
        if code != 1:
            words = " ".join(map(str, arguments))
            raise StoryError(f"tollsplit {words}: expected a refusal: {said}{errors}")
        return errors.strip()

    def _start(self, end: End | None, words: Sequence[object]) -> subprocess.Popen[str]:
        command = [*_TOLLSPLIT, *map(str, words)]
        if end is None:
            command = [*BOUND, *command]
        else:
            command = self.namespaces.command(end.name, *command, hosts=self._hosts)
        return subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, start_new_session=True, env={**os.environ, **self.environment})

    # --- the end ------------------------------------------------------------------------

    def seen(self, end: End) -> list[Seen]:
        """What has passed a subscriber's interface by now."""
        return list(self._judges[end.name].seen)

    def close_judges(self) -> None:
        """Nothing is seen from now on."""
        for judge in self._judges.values():
            judge.close()

    def close(self) -> None:
        self.close_judges()  # before their interfaces are gone
        if self._namespaces is not None:
            self._namespaces.close()
        shutil.rmtree(self.short, ignore_errors=True)


def _ended(process: subprocess.Popen[str], typed: str) -> tuple[int, str, str]:
    """Exit code, and what was said on standard output and error."""
    said, errors = process.communicate(typed, timeout=PATIENCE_S)
    return process.returncode, said, errors
