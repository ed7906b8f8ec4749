"""`tollsplit serve` is killed at each transition of a session, and goes on where it was."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from commands import COMMAND, tollsplit
from gateways import wait
from session_parties import HOME
from sessions import ALICE, BEHAVIOUR, PROXIES, SHOP, SPONSOR, door, write_rules
from test_session_program import free_port

from tollsplit.ledger.signing import make_keys

SETTINGS = f"""
[session]
rules = "rules.toml"
engine = "control"
[[session.sponsorships]]
name = "shop"
account = "{SPONSOR}"
marks = "tags.marks"
proxies = ["{PROXIES[0]}"]
payees = ["{SHOP}"]
behaviours = ["https://shop.example/*"]
tags = ["dscp=46", "dscp=34"]
lifetime_s = {{lifetime_s}}
"""


@contextmanager
def server(home: Path, port: int) -> Iterator[Callable[[], None]]:
    """Gives what kills the program with SIGKILL and starts it again."""
    running: list[subprocess.Popen[str]] = []

    def start() -> None:
        running.append(subprocess.Popen(
            [*COMMAND, "serve", "--ledger", "sqlite:///ledger.db", "--listen", f"{HOME}:{port}",
             "--settings", "settings.toml"], cwd=home, stderr=subprocess.PIPE, text=True))
        stream = running[-1].stderr
        assert stream is not None
        assert any("serving on" in line for line in stream)

    def end(number: int = signal.SIGKILL) -> int:
        process = running.pop()
        process.send_signal(number)
        code = process.wait(20)
        assert process.stderr is not None
        process.stderr.close()
        return code

    def again() -> None:
        end()
        start()

    start()
    try:
        yield again
        assert end(signal.SIGTERM) == 0
    finally:
        if running:
            end()


def test_server_that_is_killed_at_each_transition_goes_on(tmp_path: Path) -> None:
    from tollsplit.cli.device import read_key
    from tollsplit.services.client import Client
    from tollsplit.services.device import REGISTER, Register
    from tollsplit.services.session import (
        END,
        LOOK,
        OPEN,
        SUBSCRIBE,
        ByBehaviour,
        End,
        Look,
        Open,
        Subscribe,
    )
    from tollsplit.services.wire import new_id

    write_rules(tmp_path)
    (tmp_path / "settings.toml").write_text(SETTINGS.format(lifetime_s=900))
    ledger = f"sqlite:///{tmp_path}/ledger.db"
    assert tollsplit("ledger", "init", "--ledger", ledger).returncode == 0
    port = free_port()
    with ExitStack() as stack:
        again = stack.enter_context(server(tmp_path, port))
        stack.enter_context(door(tmp_path / "control"))
        clients = []
        for role, account in (("operator", "operator"), ("terminal", "alice")):
            token = tollsplit("device", "enrol", "--ledger", ledger, "--role", role,
                              "--account", account).stdout.strip()
            make_keys(tmp_path / role)
            clients.append(stack.enter_context(
                Client(f"http://{HOME}:{port}", read_key(tmp_path / role))))
            clients[-1].call(REGISTER, Register(token, clients[-1].key.public_key, role))
        operator, phone = clients
        operator.call(SUBSCRIBE, Subscribe(ALICE, "alice", "10.0.0.7"))
        key = new_id()

        def ask() -> str:
            opened = phone.call(OPEN, Open(ALICE, ByBehaviour(BEHAVIOUR)), key=key)
            return opened.session

        def is_marked() -> bool:
            return "dscp=" in (tmp_path / "tags.marks").read_text()

        def state(session: str) -> str:
            return phone.call(LOOK, Look(session)).state

        first = ask()
        again()
        assert ask() == first  # the answer that was lost
        wait(lambda: state(first) == "open")
        assert is_marked()
        phone.call(END, End(first))
        (tmp_path / "settings.toml").write_text(SETTINGS.format(lifetime_s=1))
        again()
        wait(lambda: not is_marked())
        key = new_id()
        second = ask()
        assert second != first
        wait(is_marked)
        again()
        wait(lambda: state(second) == "expired")
        wait(lambda: not is_marked())
    verified = tollsplit("ledger", "verify", "--ledger", ledger)
    assert verified.returncode == 0, verified.stdout
