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
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from types import TracebackType

from .judge import Judge
from .namespaces import End, Namespaces
from .program import PATIENCE_S, Program, StoryError

ALICE = End("alice", "sub1", "10.77.1")
BOB = End("bob", "sub2", "10.77.2")
OPERATOR = End("operator", "operator", "192.0.2")
SPONSOR = End("sponsor", "sponsor", "203.0.113")
SHOP = End("shop", "shop", "198.51.100")
FILMS = End("films", "films", "198.18.0")
ENDS = (ALICE, BOB, OPERATOR, SPONSOR, SHOP, FILMS)
HOSTS = {"shop.example": SHOP, "films.example": FILMS}
SERVER = f"http://{OPERATOR.ipv4}:8080"
_TOLLSPLIT = (sys.executable, "-m", "tollsplit")
# Secrets are read from standard input where there is no terminal, which Python warns of.
_ENVIRONMENT = {"PYTHONWARNINGS": "ignore", "PYTHONUNBUFFERED": "1"}
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
        self._short = Path(tempfile.mkdtemp(prefix="tollsplit-"))
        self.control = self._short / "control"
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
            self._judges = {end.name: Judge(self._namespaces, "gateway", end.interface)
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

    # --- programs -----------------------------------------------------------------------

    def begin(
        self, end: End | str, name: str, *command: str, pass_fds: Sequence[int] = ()
    ) -> Program:
        """A program that goes on; what it says is in the folder, under its name."""
        log = self.home / f"{name}.log"
        where = end if isinstance(end, str) else end.name
        with open(log, "w") as said:
            process = self.namespaces.begin(
                where, *command, hosts=self._hosts, stdin=subprocess.DEVNULL, stdout=said,
                stderr=subprocess.STDOUT, pass_fds=pass_fds, more=_ENVIRONMENT)  # fmt: skip
        return Program(name, process, log)

    def begin_tollsplit(self, end: End | str, name: str, *arguments: object) -> Program:
        return self.begin(end, name, *_TOLLSPLIT, *map(str, arguments))

    def tollsplit(self, end: End | None, *arguments: object, typed: str = "") -> str:
        """What a command says on standard output, run to its end at a host.

        end     None: on this machine, where the ledger's file is
        typed   what is typed when it asks

        Raises StoryError where it fails.
        """
        command = [*_TOLLSPLIT, *map(str, arguments)]
        if end is not None:
            command = self.namespaces.command(end.name, *command, hosts=self._hosts)
        done = subprocess.run(
            command, input=typed, capture_output=True, text=True, timeout=PATIENCE_S, check=False,
            start_new_session=True, env={**os.environ, **_ENVIRONMENT})  # fmt: skip
        if done.returncode:
            words = " ".join(map(str, arguments))
            raise StoryError(f"tollsplit {words}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout

    # --- the end ------------------------------------------------------------------------

    def judged(self) -> dict[str, Judge]:
        """By subscriber: everything that passed its interface until now; nothing is seen after."""
        for judge in self._judges.values():
            judge.close()
        return self._judges

    def close(self) -> None:
        self.judged()  # before their interfaces are gone
        if self._namespaces is not None:
            self._namespaces.close()
        shutil.rmtree(self._short, ignore_errors=True)
