"""Service D on the terminal: copied resources, fakes, and nobody to ask open nothing."""

from __future__ import annotations

import hashlib
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from resources import DAY_S, Arcade, User, issued, line, managing, nonce, verify
from serving import on_sqlite, refusal

from tollsplit.errors import ProhibitedError, UsageError
from tollsplit.ledger.signing import make_keys, read_signer
from tollsplit.services.billing_auth import LICENCE, Verify
from tollsplit.services.billing_terminal import BillingManager
from tollsplit.services.verdict import Licence, Verdict

# --- copies and fakes -------------------------------------------------------------------


def test_billing_resource_copied_with_its_key_is_prohibited(
    arcade: Arcade, alice: User, game: str
) -> None:
    """Alice's copy, on Bob's terminal, though both have paid."""
    bob = arcade.user()
    arcade.buy(bob, game)
    stolen = arcade.interface(alice, game, manager=bob.socket)
    with managing(bob), pytest.raises(ProhibitedError, match="not this account's"):
        stolen.authorise("play")


@on_sqlite
def test_billing_resource_without_a_registered_key_is_prohibited(
    arcade: Arcade, alice: User, game: str
) -> None:
    make_keys(own := arcade.folder / f"{game}.key")
    from tollsplit.services.interface import Interface

    fake = Interface(game, arcade.served.origin, own, manager=alice.socket,
                     clock_ns=arcade.served.clock)  # fmt: skip
    with managing(alice), pytest.raises(ProhibitedError, match="not this account's"):
        fake.authorise("play")


@on_sqlite
def test_billing_resource_that_was_altered_is_prohibited(
    arcade: Arcade, alice: User, tmp_path: Path
) -> None:
    file = tmp_path / "game.bin"
    file.write_bytes(b"the game")
    name = arcade.resource(digest=hashlib.sha256(b"the game").hexdigest())
    arcade.buy(alice, name)
    with managing(alice):
        arcade.interface(alice, name, file=file).authorise()
        file.write_bytes(b"the game, unpacked")
        with pytest.raises(ProhibitedError, match="install it anew"):
            arcade.interface(alice, name, file=file).authorise()
        with pytest.raises(ProhibitedError, match="install it anew"):
            arcade.interface(alice, name).authorise()
        with pytest.raises(ProhibitedError, match="the resource's file"):
            arcade.interface(alice, name, file=tmp_path / "gone").authorise()


@on_sqlite
def test_billing_manager_with_an_unregistered_key_gets_no_code(
    arcade: Arcade, alice: User, game: str
) -> None:
    from tollsplit.services.signature import DeviceKey

    fake = arcade.served.client(DeviceKey.new())
    with managing(alice, fake), pytest.raises(ProhibitedError, match="signature"):
        arcade.interface(alice, game).authorise("play")


@contextmanager
def fake_manager(path: Path, answer: bytes) -> Iterator[None]:
    """A program in the manager's place."""
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(path))
    listening.listen(1)

    def serve() -> None:
        connection, _ = listening.accept()
        with connection:
            connection.recv(10_000)
            connection.sendall(answer)

    thread = Thread(target=serve)
    thread.start()
    yield
    thread.join(20)
    listening.close()
    path.unlink()


ANSWERS = (
    line({"code": "A" * 22}), line({"code": "x"}), line({"allowed": True}), b"", b"{\n", b"[]\n",
    b"x" * 20_000,
)  # fmt: skip


@on_sqlite
def test_billing_manager_that_is_a_fake_opens_nothing(
    arcade: Arcade, alice: User, game: str
) -> None:
    for answer in ANSWERS:
        with fake_manager(alice.socket, answer), pytest.raises(ProhibitedError):
            arcade.interface(alice, game).authorise("play")


@on_sqlite
def test_billing_manager_that_replays_an_old_code_opens_nothing(
    arcade: Arcade, alice: User, game: str
) -> None:
    code = issued(alice, game, nonce())
    with fake_manager(alice.socket, line({"code": code})), pytest.raises(ProhibitedError):
        arcade.interface(alice, game).authorise("play")


@on_sqlite
def test_billing_server_that_is_a_fake_opens_nothing(
    arcade: Arcade, alice: User, game: str
) -> None:
    """A server that says yes to everything, and can't sign."""
    other = arcade.folder / f"{game}.other"
    public = make_keys(other)
    from tollsplit.ledger.signing import read_public_key

    interface = arcade.interface(alice, game, server_key=read_public_key(public))
    with managing(alice), pytest.raises(ProhibitedError, match="does not sign"):
        interface.authorise("play")


@on_sqlite
def test_billing_verdict_is_signed_for_its_question_alone(
    arcade: Arcade, alice: User, game: str
) -> None:
    from tollsplit.ledger.signing import is_signed

    mark = nonce()
    said = verify(alice, game, mark, issued(alice, game, mark))
    verdict = Verdict(game, "play", alice.copy.device, alice.account, mark)
    assert is_signed(verdict.text, arcade.server_key, said.signature or "")
    other = Verdict(game, "play", alice.copy.device, alice.account, nonce())
    assert not is_signed(other.text, arcade.server_key, said.signature or "")


# --- nobody to ask ----------------------------------------------------------------------


@on_sqlite
def test_billing_without_a_manager_is_prohibited(arcade: Arcade, alice: User, game: str) -> None:
    with pytest.raises(ProhibitedError, match="no billing manager answers"):
        arcade.interface(alice, game).authorise("play")


@contextmanager
def nowhere() -> Iterator[str]:
    """An address where nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


@on_sqlite
def test_billing_without_a_server_is_prohibited(arcade: Arcade, alice: User, game: str) -> None:
    from tollsplit.services.client import Client
    from tollsplit.services.interface import Interface

    with nowhere() as address, Client(address, alice.terminal.key, retries=0) as away:
        # The manager cannot reach it; then the resource cannot.
        with managing(alice, away), pytest.raises(ProhibitedError, match=address):
            arcade.interface(alice, game).authorise("play")
        lost = Interface(game, address, alice.key, manager=alice.socket, retries=0,
                         clock_ns=arcade.served.clock)  # fmt: skip
        with managing(alice), pytest.raises(ProhibitedError, match=address):
            lost.authorise("play")


@on_sqlite
def test_billing_licence_counts_while_the_server_is_away(arcade: Arcade, alice: User) -> None:
    name = arcade.resource(offline_s=3600)
    arcade.buy(alice, name)
    file = arcade.folder / f"{name}.licence"
    clock = arcade.served.clock
    with managing(alice):
        licence = arcade.interface(alice, name, licence=file).renew_licence()
    assert licence.expires_at_ns == clock.now_ns + 3600 * 10**9
    with away(alice) as address:
        offline = _at(address, arcade, alice, name, licence=file)
        offline.authorise("play")
        with pytest.raises(ProhibitedError, match="for \"" + name):
            _at(address, arcade, alice, arcade.resource(), licence=file).authorise("play")
        with pytest.raises(ProhibitedError, match=address):  # who did not opt in
            _at(address, arcade, alice, name).authorise("play")
        clock.forward(3599)
        offline.authorise("play")
        clock.forward(1)
        with pytest.raises(ProhibitedError, match="licence has expired"):
            offline.authorise("play")
        clock.now_ns -= 2 * 3600 * 10**9
        try:
            with pytest.raises(ProhibitedError, match="begins later"):
                offline.authorise("play")
        finally:
            clock.now_ns += 2 * 3600 * 10**9


@contextmanager
def away(user: User) -> Iterator[str]:
    """The user's manager runs, and the server is away for it and whoever asks at that address."""
    from tollsplit.services.client import Client

    with (
        nowhere() as address, Client(address, user.terminal.key, retries=0) as client,
        managing(user, client),
    ):  # fmt: skip
        yield address


def _at(address: str, arcade: Arcade, user: User, name: str, **more: Any) -> Any:
    from tollsplit.services.interface import Interface

    usual = {"server_key": arcade.server_key, "retries": 0}
    return Interface(name, address, user.key, manager=user.socket, clock_ns=arcade.served.clock,
                     **{**usual, **more})  # type: ignore[arg-type]


@on_sqlite
def test_billing_licence_does_not_overrule_a_server_that_answers(
    arcade: Arcade, alice: User
) -> None:
    name = arcade.resource(offline_s=7 * DAY_S, period_s=60)
    arcade.buy(alice, name)
    file = arcade.folder / f"{name}.licence"
    interface = arcade.interface(alice, name, licence=file)
    with managing(alice):
        # Never longer than what was paid for.
        assert interface.renew_licence().expires_at_ns == arcade.served.clock.now_ns + 60 * 10**9
        [(transaction,)] = arcade.served.read(lambda ledger: list(ledger.store.rows(
            "SELECT transaction_id FROM service_purchases WHERE resource = ?", name)))
        arcade.served.write(lambda ledger: ledger.reverse(transaction, f"back {name}"))
        with pytest.raises(ProhibitedError, match="not paid for"):
            interface.authorise("play")


@on_sqlite
def test_billing_licence_of_another_copy_or_by_another_hand_is_none(
    arcade: Arcade, alice: User
) -> None:
    name, bob = arcade.resource(offline_s=3600), arcade.user()
    arcade.buy(alice, name)
    file = arcade.folder / f"{name}.licence"
    with managing(alice):
        real = arcade.interface(alice, name, licence=file).renew_licence()
    with away(bob) as address:
        with pytest.raises(ProhibitedError, match="another copy"):
            _at(address, arcade, bob, name, licence=file).authorise()
        make_keys(own := arcade.folder / f"{name}.forger")
        forged = Licence(name, bob.copy.device, bob.account, "1", 0, 2**62)
        forged.write(file, read_signer(own).sign(forged.text))
        with pytest.raises(ProhibitedError, match="not signed by this billing server"):
            _at(address, arcade, bob, name, licence=file).authorise()
        forged.write(file, "00" * 64)
        with pytest.raises(ProhibitedError, match="not signed"):
            _at(address, arcade, bob, name, licence=file).authorise()
        for text in ("", "{}", "[]", '{"licence": 1, "signature": 2}', "[" * 5000):
            file.write_text(text)
            with pytest.raises(ProhibitedError):
                _at(address, arcade, bob, name, licence=file).authorise()
    assert real.device == alice.copy.device


@on_sqlite
def test_billing_licence_is_given_where_the_terms_allow_it(
    arcade: Arcade, alice: User, game: str
) -> None:
    mark = nonce()
    code = issued(alice, game, mark, operation="licence")
    asked = Verify(code=code, resource=game, operation="licence", nonce=mark)
    assert refusal(alice.copy.call, LICENCE, asked) == ("forbidden", 403)
    with pytest.raises(UsageError, match="public key"):
        arcade.interface(alice, game, licence=Path("x"), server_key=None)


# --- the manager's door -----------------------------------------------------------------


@on_sqlite
def test_billing_manager_listens_for_its_user_alone_and_once(
    arcade: Arcade, alice: User
) -> None:
    with managing(alice):
        assert alice.socket.stat().st_mode & 0o777 == 0o600
        with pytest.raises(UsageError, match="another billing manager"):
            BillingManager(alice.socket, alice.terminal)
    assert not alice.socket.exists()
    # One that died leaves its socket, which the next one takes.
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(alice.socket))
    with managing(alice):
        pass
    alice.socket.write_text("something else")
    with pytest.raises(UsageError, match="no socket"):
        BillingManager(alice.socket, alice.terminal)
    alice.socket.unlink()


QUESTIONS = (
    b"", b"\n", b"{}\n", b"[1]\n", b"\xff\n", b"x" * 9000 + b"\n",
    line({"resource": "../x", "operation": "play", "device": "d", "nonce": "n"}),
    line({"resource": "x", "operation": "play", "device": "d", "nonce": "n", "file": "/dev/zero"}),
)  # fmt: skip


@on_sqlite
def test_billing_manager_answers_nonsense_with_a_refusal(arcade: Arcade, alice: User) -> None:
    with managing(alice):
        for question in QUESTIONS:
            with socket.socket(socket.AF_UNIX) as asking:
                asking.settimeout(20)
                asking.connect(str(alice.socket))
                asking.sendall(question)
                asking.shutdown(socket.SHUT_WR)
                with asking.makefile("rb") as answers:
                    assert b'"refusal": "invalid"' in answers.readline(), question


def test_billing_interface_is_light_to_import() -> None:
    """It is embedded into programs of other people."""
    heavy = {"cryptography", "httpx2", "msgspec", "numpy", "starlette", "tollsplit.ledger"}
    code = ("import sys, tollsplit.services.interface; "
            f"print(*sorted({heavy!r} & set(sys.modules)))")  # fmt: skip
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == ""
