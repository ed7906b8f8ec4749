"""`tollsplit push-payment`: two terminals, the operating system's server, payee and operator."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from commands import COMMAND, tollsplit
from databases import SqliteFile
from push_parties import FUNDS, NOTHING, PAID, SECRET, SHOP, Parties
from resources import key_file
from serving import serving

from tollsplit.cli import main
from tollsplit.services import device, inbox, push_payment


@pytest.fixture
def parties(tmp_path: Path) -> Iterator[Parties]:
    services = device.SERVICE, inbox.SERVICE, push_payment.SERVICE
    with serving(SqliteFile(tmp_path / "ledger.db"), services) as served:
        served.clock.now_ns = time.time_ns()  # commands go by the real one
        yield Parties.of(served)


@pytest.fixture
def key(tmp_path: Path) -> Any:
    """Writes a client's key, and says by which options a command has it."""
    def written(client: Any) -> tuple[object, ...]:
        return ("--server", client.origin, "--key",
                key_file(client, tmp_path / f"{client.device}.key"))  # fmt: skip

    return written


def run(command: str, *arguments: object, typed: str = "") -> tuple[int, str]:
    """The exit code, and what was said: the result first."""
    with CliRunner().isolation(input=typed) as (out, err, _):
        code = main(["push-payment", command, *map(str, arguments)])
        return code, out.getvalue().decode() + err.getvalue().decode()


@contextmanager
def television(*options: object) -> Iterator[subprocess.Popen[str]]:
    """A first terminal that has asked; its code is in `code`."""
    with subprocess.Popen(
        [*COMMAND, "push-payment", "first", *map(str, options), "--payee", SHOP, "--amount",
         "12.34 CNY", "--message", "Two novels"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        yield process


def read_until(process: subprocess.Popen[str], word: str) -> str:
    assert process.stderr is not None
    for line in process.stderr:
        if word in line:
            return line
    raise AssertionError(f"{word} was never said")


def test_push_cli_scans_and_pays(parties: Parties, key: Any) -> None:
    staff = key(parties.operator)
    assert run("policy", *staff, "--account", "alice", "--opening", "scan") == (0, (
        'account "alice": gesture none from either, opening scan, capture automatic\n'))
    assert run("secret", *staff, "--account", "alice", typed="4711\n4711\n")[0] == 0
    with television(*key(parties.television)) as process:
        assert "12.340000 CNY" in read_until(process, "amount")
        code = read_until(process, "code").split()[-1]
        address = f"{parties.served.origin}/pages/payment.html#payment=x&code={code}"
        said = run("second", *key(parties.phone), "--once", typed=f"{address}\ny\n1234\n4711\n")
        assert said[0] == 0, said
        assert "not authenticated" in said[1] and "Two novels" in said[1]
        assert process.wait(20) == 0
        assert process.stdout is not None and process.stdout.read().endswith(": captured\n")
    assert parties.money() == PAID


def test_push_cli_declines(parties: Parties, key: Any) -> None:
    with television(*key(parties.television), "--poll") as process:
        read_until(process, "code")
        code, said = run("second", *key(parties.phone), "--once", typed="n\n")
        assert (code, said.splitlines()[0].endswith(": declined")) == (0, True), said
        parties.served.clock.forward(5)
        assert process.wait(20) == 1
        assert "nothing was paid" in read_until(process, "tollsplit:")


def test_push_cli_relays_gestures_and_captures(parties: Parties, key: Any) -> None:
    platform = parties.served.device("platform", "platform:os")
    shop = parties.served.device("merchant", SHOP)
    parties.needs(gesture="lift", gesture_from="platform", capture="manual")
    code, said = run("second", *key(parties.phone), "--gesture", "lift")
    assert (code, "No payment waits" in said) == (1, True)
    lines = f"{parties.phone.device} lift\n"
    code, said = run("relay", *key(platform), typed=lines)
    assert (code, "has not named this server" in said) == (1, True)
    assert run("trust", *key(parties.phone), platform.device)[0] == 0
    payment = parties.ask().id
    assert run("relay", *key(platform), typed=lines) == (
        0, f"{parties.phone.device} lift: {payment}\n")  # fmt: skip
    assert run("relay", *key(platform), typed="wave\n")[0] == 2
    code, said = run("second", *key(parties.phone), "--once", typed=f"y\n{SECRET}\n")
    assert (code, said.splitlines()[0]) == (0, f"payment {payment}: authorised"), said
    capture = ("capture", *key(shop), payment, "--amount")
    assert run(*capture, "1 USD")[0] == 2
    assert run(*capture, "12 CNY") == (0, f"payment {payment}: captured 12.000000 CNY\n")
    assert parties.money() == (FUNDS - 12_000_000, 0, 12_000_000)


def test_push_cli_voids(parties: Parties, key: Any) -> None:
    payment = parties.held()
    void = ("void", *key(parties.television), payment)
    assert run(*void) == (0, f"payment {payment}: voided\n")
    assert run(*void)[0] == 1
    assert parties.money() == NOTHING


@pytest.mark.parametrize("server", ["127.0.0.1:8080", "http://", "ftp://a.example", "http://a:b"])
def test_push_cli_refuses_a_server_that_is_no_url(server: str) -> None:
    code, said = run("second", "--server", server, "--key", "phone.key")
    assert (code, 'expected a URL such as "http://127.0.0.1:8080"' in said) == (2, True)


def test_push_cli_prompts_without_a_terminal_and_no_python_warning(
    parties: Parties, key: Any
) -> None:
    operator = parties.served.device("operator", "operator")
    said = tollsplit("push-payment", "secret", *key(operator), "--account", "alice",
                     input=f"{SECRET}\n{SECRET}\n", start_new_session=True)  # fmt: skip
    assert (said.returncode, said.stdout) == (0, 'account "alice": set\n'), said.stderr
    assert "GetPassWarning" not in said.stderr


def test_push_cli_says_that_an_account_is_not_open(parties: Parties, key: Any) -> None:
    code, said = run("first", *key(parties.television), "--payee", "nobody", "--amount", "1 CNY")
    assert (code, "is not open in this unit" in said) == (1, True)
