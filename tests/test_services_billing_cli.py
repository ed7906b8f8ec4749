"""`tollsplit billing-auth`: a manager that runs, a resource that asks, a user who pays."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner
from commands import COMMAND
from databases import SqliteFile
from resources import Arcade, User, arcade_on, key_file

from tollsplit.cli import main


def run(command: str, *arguments: object, typed: str = "") -> tuple[int, str]:
    """The exit code, and what was said."""
    with CliRunner().isolation(input=typed) as (out, err, _):
        code = main(["billing-auth", command, *map(str, arguments)])
        return code, out.getvalue().decode() + err.getvalue().decode()


@pytest.fixture
def arcade(tmp_path: Path) -> Iterator[Arcade]:
    with arcade_on(SqliteFile(tmp_path / "books.db"), tmp_path) as found:
        found.served.clock.now_ns = time.time_ns()  # commands go by the real one
        yield found


@contextmanager
def manager(arcade: Arcade, user: User) -> Iterator[None]:
    key = key_file(user.terminal, arcade.folder / "terminal.key")
    with subprocess.Popen(
        [*COMMAND, "billing-auth", "manager", "--server", arcade.served.origin, "--key", key,
         "--socket", user.socket], stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stderr is not None
        assert f"answering on {user.socket}" in process.stderr.readline()
        yield
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    assert not user.socket.exists()


def test_billing_cli_from_price_to_operation(arcade: Arcade, tmp_path: Path) -> None:
    user, server = arcade.user(), ("--server", arcade.served.origin)
    staff = key_file(arcade.operator, tmp_path / "staff.key")
    phone = key_file(user.terminal, tmp_path / "phone.key")
    file = tmp_path / "chess.py"
    file.write_text("print('checkmate')")
    chess = (*server, "--resource", "chess")
    asking = (*chess, "--key", user.key, "--socket", user.socket, "--file", file, "--server-key",
              tmp_path / "server.key.pub")  # fmt: skip
    play = (*asking, "--operation", "play")

    assert run("register-resource", *chess, "--key", staff, "--amount", "5 CNY", "--account",
               "studio", "--days", "30", "--file", file, "--offline-hours", "2") \
        == (0, "chess: 5.000000 CNY for 30 days\n")  # fmt: skip
    code, said = run("operate", *play)
    assert (code, "no billing manager answers" in said) == (1, True)
    with manager(arcade, user):
        code, said = run("operate", *play)
        assert (code, "not paid for" in said) == (1, True)
        code, said = run("buy", *chess, "--key", phone, typed="n\n")
        assert (code, "5.000000 CNY for 30 days" in said, "nothing was paid" in said) \
            == (1, True, True)  # fmt: skip
        code, said = run("buy", *chess, "--key", phone, "--yes")
        assert (code, "paid until" in said) == (0, True), said
        assert run("operate", *play) == (0, "chess: play: allowed\n")
        code, said = run("operate", *play, "--", "no-such-program")
        assert (code, "cannot be run" in said) == (1, True)
        # The command takes the place of the process that asked.
        played = subprocess.run(
            [*COMMAND, "billing-auth", "operate", *play, "--", sys.executable, file],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert (played.returncode, played.stdout) == (0, "checkmate\n"), played.stderr
        code, said = run("licence", *asking, "--licence", tmp_path / "chess.licence")
        assert (code, "good until" in said) == (0, True), said
        file.write_text("print('cheat')")
        code, said = run("operate", *play, "--", sys.executable, file)
        assert (code, "install it anew" in said) == (1, True)


def test_billing_cli_needs_a_socket_from_somewhere(
    arcade: Arcade, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    code, said = run("operate", "--server", arcade.served.origin, "--key", arcade.user().key,
                     "--resource", "chess")  # fmt: skip
    assert (code, "name the billing manager's socket (--socket)" in said) == (2, True)
