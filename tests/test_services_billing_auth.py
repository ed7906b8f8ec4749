"""Service D: a code for each operation that is paid for, and nothing for who pretends."""

from __future__ import annotations

import hashlib
import secrets
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from bookings import MONEY
from resources import DAY_S, PRICE, Arcade, User, line, managing
from serving import on_sqlite

from tollsplit.errors import ProhibitedError, UsageError
from tollsplit.ledger.signing import make_keys, read_signer
from tollsplit.services import billing_auth, resource_register
from tollsplit.services.billing_auth import ISSUE, LICENCE, VERIFY, Issue, Verify
from tollsplit.services.billing_terminal import BillingManager
from tollsplit.services.problem import Problem
from tollsplit.services.verdict import Licence, Verdict


@pytest.fixture
def alice(arcade: Arcade) -> User:
    return arcade.user()


@pytest.fixture
def game(arcade: Arcade, alice: User) -> str:
    """A resource that Alice has paid for."""
    name = arcade.resource()
    arcade.buy(alice, name)
    return name


def refusal(work: Callable[..., object], *arguments: Any, **more: Any) -> tuple[str, int]:
    with pytest.raises(Problem) as caught:
        work(*arguments, **more)
    return caught.value.kind.name, caught.value.kind.status


def nonce() -> str:
    return secrets.token_urlsafe(16)


def issued(user: User, game: str, mark: str, **more: Any) -> str:
    """A code, as the user's manager gets it."""
    usual = {"resource": game, "operation": "play", "device": user.copy.device, "nonce": mark}
    return user.terminal.call(ISSUE, Issue(**{**usual, **more})).code  # type: ignore[arg-type]


def verify(user: User, game: str, mark: str, code: str, **more: Any) -> billing_auth.Allowed:
    usual = {"resource": game, "operation": "play", "nonce": mark, "code": code}
    return user.copy.call(VERIFY, Verify(**{**usual, **more}))


# --- the steps --------------------------------------------------------------------------


def test_billing_resource_that_is_paid_for_is_operated(
    arcade: Arcade, alice: User, game: str
) -> None:
    interface = arcade.interface(alice, game)
    played = []

    @interface.guards("play")
    def play(level: int) -> int:
        played.append(level)
        return level

    with managing(alice):
        assert [play(1), play(level=2)] == played == [1, 2]
        interface.authorise()


def test_billing_resource_that_is_not_paid_for_is_prohibited(arcade: Arcade, alice: User) -> None:
    interface = arcade.interface(alice, arcade.resource())
    with managing(alice), pytest.raises(ProhibitedError, match="not paid for: buy it first"):
        interface.authorise("play")


def test_billing_purchase_is_booked_and_prolonged(arcade: Arcade, alice: User) -> None:
    name = arcade.resource()

    def look() -> resource_register.Resource:
        return alice.terminal.call(resource_register.LOOK, resource_register.Look(name))

    assert look().paid_until is None
    arcade.buy(alice, name)
    arcade.buy(alice, name)
    until = look().paid_until
    assert until is not None
    assert until.timestamp() == pytest.approx(arcade.served.clock.now_ns / 1e9 + 2 * DAY_S, abs=1)
    balance = arcade.served.read(lambda ledger: ledger.balance(alice.account, MONEY).balance)
    assert balance == 8 * PRICE


def test_billing_purchase_that_ends_or_is_paid_back_counts_no_more(
    arcade: Arcade, alice: User, game: str
) -> None:
    arcade.served.clock.forward(DAY_S - 1)
    mark = nonce()
    code = issued(alice, game, mark)
    arcade.served.clock.forward(1)
    # What was paid for when the code was made has ended when it is verified.
    assert refusal(verify, alice, game, mark, code) == ("prohibited", 403)
    assert refusal(issued, alice, game, nonce()) == ("not-paid", 402)
    arcade.buy(alice, game)
    [(transaction,)] = arcade.served.read(lambda ledger: list(ledger.store.rows(
        "SELECT max(transaction_id) FROM service_purchases WHERE resource = ?", game)))
    arcade.served.write(lambda ledger: ledger.reverse(transaction, f"back {game}"))
    assert refusal(issued, alice, game, nonce()) == ("not-paid", 402)


def test_billing_purchase_is_refused_at_another_price_or_beyond_the_balance(
    arcade: Arcade, alice: User
) -> None:
    name = arcade.resource()
    assert refusal(arcade.buy, alice, name, PRICE - 1) == ("price-changed", 409)
    assert refusal(arcade.buy, alice, "nothing") == ("not-found", 404)
    dear = arcade.resource(amount=11 * PRICE)
    assert refusal(arcade.buy, alice, dear, 11 * PRICE) == ("overdraft", 409)
    assert refusal(issued, alice, dear, nonce()) == ("not-paid", 402)


# --- codes ------------------------------------------------------------------------------


@pytest.mark.parametrize(("after_s", "passes"), [(59, True), (60, False), (61, False)])
def test_billing_code_lives_a_minute(
    arcade: Arcade, alice: User, game: str, after_s: int, passes: bool
) -> None:
    mark = nonce()
    code = issued(alice, game, mark)
    arcade.served.clock.forward(after_s)
    if passes:
        assert verify(alice, game, mark, code).nonce == mark
    else:
        assert refusal(verify, alice, game, mark, code) == ("prohibited", 403)


@pytest.mark.parametrize(("off_s", "passes"), [(-30, True), (29, True), (-92, False), (32, False)])
def test_billing_clocks_may_be_off_by_thirty_seconds(
    arcade: Arcade, alice: User, game: str, off_s: int, passes: bool
) -> None:
    mark = nonce()
    clock = arcade.served.clock
    late = arcade.served.client(alice.copy.key, clock_ns=lambda: clock() + off_s * 10**9)
    asked = Verify(code=issued(alice, game, mark), resource=game, operation="play", nonce=mark)
    if passes:
        assert late.call(VERIFY, asked).account == alice.account
    else:
        assert refusal(late.call, VERIFY, asked) == ("unsigned", 401)


def test_billing_code_is_used_up_by_its_first_use(arcade: Arcade, alice: User, game: str) -> None:
    mark = nonce()
    code = issued(alice, game, mark)
    assert verify(alice, game, mark, code).account == alice.account
    assert refusal(verify, alice, game, mark, code) == ("prohibited", 403)


def test_billing_code_shown_a_hundred_times_passes_once(
    arcade: Arcade, alice: User, game: str
) -> None:
    mark = nonce()
    code = issued(alice, game, mark)

    def show(_: int) -> str:
        try:
            return verify(alice, game, mark, code).account
        except Problem as problem:
            return problem.kind.name

    with ThreadPoolExecutor(16) as pool:
        told = sorted(pool.map(show, range(100)))
    assert told == sorted([alice.account] + ["prohibited"] * 99)


def test_billing_code_for_another_question_is_prohibited(
    arcade: Arcade, alice: User, game: str
) -> None:
    mark = nonce()
    for asked, operation in ((nonce(), "play"), (mark, "cheat")):
        code = issued(alice, game, mark)
        assert refusal(verify, alice, game, asked, code, operation=operation) \
            == ("prohibited", 403)


def test_billing_code_for_another_resource_is_prohibited(
    arcade: Arcade, alice: User, game: str
) -> None:
    other, mark = arcade.resource(), nonce()
    arcade.buy(alice, other)
    code = issued(alice, other, mark)
    assert refusal(verify, alice, game, mark, code) == ("prohibited", 403)
    # It was shown to the wrong one, and is good for nothing more.
    assert refusal(verify, alice, other, mark, code) == ("prohibited", 403)


def test_billing_code_forwarded_to_another_user_is_prohibited(
    arcade: Arcade, alice: User, game: str
) -> None:
    """Alice asks for a code for Bob's question. Both have paid: the code alone is another's."""
    bob, mark = arcade.user(), nonce()
    arcade.buy(bob, game)
    code = issued(alice, game, mark)
    assert refusal(verify, bob, game, mark, code) == ("prohibited", 403)
    # Nor is it another copy's of her own.
    second = replace(alice, copy=arcade.served.device("resource", alice.account))
    assert refusal(verify, second, game, mark, issued(alice, game, mark)) == ("prohibited", 403)
    # For Bob's copy she gets none.
    assert refusal(issued, alice, game, nonce(), device=bob.copy.device) == ("prohibited", 403)


def test_billing_guessed_codes_are_all_prohibited_alike(
    arcade: Arcade, alice: User, game: str
) -> None:
    told = set()
    for _ in range(30):
        with pytest.raises(Problem) as caught:
            verify(alice, game, nonce(), nonce())
        told.add(caught.value.body)
    mark = nonce()
    code = issued(alice, game, mark)
    with pytest.raises(Problem) as caught:
        verify(alice, game, nonce(), code)
    assert told == {caught.value.body}


def test_billing_codes_and_nonces_are_in_no_table_and_no_log(
    arcade: Arcade, alice: User, game: str, caplog: pytest.LogCaptureFixture
) -> None:
    mark = nonce()
    with caplog.at_level("DEBUG", "tollsplit"):
        code = issued(alice, game, mark)
        verify(alice, game, mark, code)
    tables = str(arcade.served.read(lambda ledger: [
        list(ledger.store.rows(f"SELECT * FROM {table}"))
        for table in ("service_billing_codes", "service_answers")]))
    assert game in tables and len(code) == 22
    for word in (code, mark):
        assert word not in tables and word not in caplog.text


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


# --- who may ----------------------------------------------------------------------------


def test_billing_operations_are_for_their_roles(arcade: Arcade, alice: User, game: str) -> None:
    mark = nonce()
    code = issued(alice, game, mark)
    asked = Verify(code=code, resource=game, operation="play", nonce=mark)
    assert refusal(alice.terminal.call, VERIFY, asked) == ("forbidden", 403)
    wanted = Issue(resource=game, operation="play", device=alice.copy.device, nonce=mark)
    assert refusal(alice.copy.call, ISSUE, wanted) == ("forbidden", 403)
    terms = resource_register.RegisterResource(
        resource=game, account=alice.account, amount=1, unit=MONEY, period_s=1)
    assert refusal(alice.terminal.call, resource_register.REGISTER_RESOURCE, terms) \
        == ("forbidden", 403)
    # A terminal is no resource: a code can't be asked for it.
    assert refusal(issued, alice, game, nonce(), device=alice.terminal.device) \
        == ("prohibited", 403)
