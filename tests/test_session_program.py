"""`tollsplit session` as people run it: programs that are killed, stopped and started again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from commands import COMMAND, tollsplit
from gateways import wait
from networks import HOME as HOME_NETWORK
from networks import OPERATOR, MockedNetworks
from session_parties import HOME, payment_server, request, said, status
from sessions import SPONSOR, door, sessions_served
from test_session_terminal import errands

from tollsplit.cli.device import read_key
from tollsplit.ledger.signing import make_keys
from tollsplit.services import device
from tollsplit.services.forwarding import listening

pytestmark = pytest.mark.parametrize("databases", ["sqlite"], indirect=True, scope="session")


class Program:
    """A program of `tollsplit session`, and what it tells."""

    def __init__(self, *arguments: object, **environment: str) -> None:
        self.process = subprocess.Popen(
            [*COMMAND, "session", *map(str, arguments)], stderr=subprocess.PIPE, text=True,
            env={**os.environ, **environment})  # fmt: skip

    def told(self, kind: str) -> dict[str, Any]:
        """The next event of a kind; it fails where the program ends before."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            event: dict[str, Any] = json.loads(line)
            if event["event"] == kind:
                return event
        raise AssertionError(f"it ended without telling {kind}")

    def end(self, number: int) -> int:
        self.process.send_signal(number)
        code = self.process.wait(20)
        assert self.process.stderr is not None
        self.process.stderr.close()
        return code


@contextmanager
def programs() -> Iterator[Callable[..., Program]]:
    started: list[Program] = []

    def start(*arguments: object, **environment: str) -> Program:
        started.append(Program(*arguments, **environment))
        return started[-1]

    try:
        yield start
    finally:
        for program in started:
            if program.process.poll() is None:
                program.end(signal.SIGKILL)


def free_port() -> int:
    with listening(HOME, 0) as listener:
        return int(listener.getsockname()[1])


def registered(served: Any, path: Path, role: Any, account: str) -> Path:
    """The key file of a device that `tollsplit device register` registers."""
    token = served.write(lambda ledger: device.enrol(
        ledger.store, role, account, served.clock.now_ns)).token
    make_keys(path)
    key = read_key(path)
    served.client(key).call(device.REGISTER, device.Register(token, key.public_key, account))
    return path


def test_programs_of_a_session_end_well_and_recover(
    serve: Callable[..., Any], tmp_path: Path, networks: MockedNetworks, monkeypatch: Any
) -> None:
    """A proxy and a terminal in processes of their own; the terminal is killed in its session."""
    with ExitStack() as stack:
        shop = stack.enter_context(payment_server())
        place = free_port()
        served = stack.enter_context(sessions_served(
            serve, tmp_path, proxies=[f"{HOME}:{place}"], payees=[f"localhost:{shop.port}"],
            behaviours=[f"http://localhost:{shop.port}/*"]))
        # Programs date their signatures by the machine's clock.
        served.clock.now_ns = time.time_ns()
        stack.enter_context(door(tmp_path / "control"))
        stack.enter_context(errands(served))
        own = registered(served, tmp_path / "operator.key", "operator", "operator")
        named = tollsplit("session", "subscriber", "--server", served.origin, "--key", own,
                          "--identifier", "address:127.0.0.1", "--account", "alice",
                          "--address", HOME)
        assert named.stdout == 'address:127.0.0.1: of "alice", at 127.0.0.1\n', named.stderr
        phone = registered(served, tmp_path / "phone.key", "terminal", "alice")
        own = registered(served, tmp_path / "proxy.key", "proxy", SPONSOR)
        start = stack.enter_context(programs())
        proxy = start("proxy", "--server", served.origin, "--key", own,
                      "--listen", f"{HOME}:{place}", "--inside", "127.0.0.0/8", "--inside",
                      "::1/128")
        reports, relay = free_port(), free_port()
        arguments = ("run", "--server", served.origin, "--key", phone, "--identifier",
                     "address:127.0.0.1", "--network", OPERATOR, "--home", tmp_path / "home",
                     "--relay-port", relay, "--reports-port", reports)
        bus = {"DBUS_SYSTEM_BUS_ADDRESS": networks.address}
        terminal = start(*arguments, **bus)
        assert proxy.told("listening")["places"] == [f"{HOME}:{place}"]
        terminal.told("listening")
        assert tollsplit("session", "extension", tmp_path / "extension", "--home",
                         tmp_path / "home", "--reports-port", reports).returncode == 0
        settings = (tmp_path / "extension" / "settings.js").read_text()
        token = settings.split('TOKEN = "')[1].split('"')[0]

        def report(**more: Any) -> Any:
            body = json.dumps({"page": f"http://localhost:{shop.port}/pay", "tab": 1,
                               "facts": ["checkout"], **more})
            with urllib.request.urlopen(urllib.request.Request(
                    f"http://{HOME}:{reports}/reports", body.encode(),
                    {"Authorization": f"Bearer {token}"}), timeout=20) as answer:
                return json.load(answer)

        assert report()["relay"] == f"{HOME}:{relay}"
        session = terminal.told("open")["session"]
        assert networks.active() == {OPERATOR}
        url = f"http://localhost:{shop.port}/pay"
        assert status(said(relay, request(url))) == 200
        assert proxy.told("answered")["status"] == 200
        assert shop.seen[0][2]["Via"].count("tollsplit") == 2

        shown = tollsplit("session", "show", "--server", served.origin, "--key", phone, session)
        assert f"0 octets (0 up, 0 down): {SPONSOR} pays 0" in shown.stdout, shown.stderr

        terminal.end(signal.SIGKILL)
        assert networks.active() == {OPERATOR}
        restored = subprocess.run(
            [*COMMAND, "session", "restore", "--home", tmp_path / "home"], text=True,
            capture_output=True, timeout=60, env={**os.environ, **bus})
        assert restored.stdout == "returned to the network from before\n", restored.stderr
        assert networks.active() == {HOME_NETWORK}

        terminal = start(*arguments, **bus)
        terminal.told("listening")
        assert report()["relay"]  # the session that was left open is replaced
        terminal.end(signal.SIGKILL)
        assert networks.active() == {OPERATOR}
        terminal = start(*arguments, **bus)
        terminal.told("restored")
        assert networks.active() == {HOME_NETWORK}
        terminal.told("listening")
        assert report()["relay"] and networks.active() == {OPERATOR}
        assert terminal.end(signal.SIGTERM) == 0
        assert networks.active() == {HOME_NETWORK}
        wait(lambda: (tmp_path / "tags.marks").read_text().count("\n") == 1)  # withdrawn
        assert status(said(place, request(url, "GET", b"Sponsored identifier=x"))) == 403
        assert proxy.end(signal.SIGTERM) == 0
