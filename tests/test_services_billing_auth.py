"""Service D: a code for each operation that is paid for, and nothing for who pretends."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from bookings import MONEY
from resources import DAY_S, PRICE, Arcade, User, issued, managing, nonce, verify
from serving import refusal

from tollsplit.errors import ProhibitedError
from tollsplit.services import resource_register
from tollsplit.services.billing_auth import ISSUE, VERIFY, Issue, Verify
from tollsplit.services.problem import Problem

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


@pytest.mark.parametrize("off_s", [-30, 29])
def test_billing_code_expires_by_the_servers_clock(
    arcade: Arcade, alice: User, game: str, off_s: int
) -> None:
    mark, clock = nonce(), arcade.served.clock
    off = replace(alice, copy=arcade.served.client(
        alice.copy.key, clock_ns=lambda: clock() + off_s * 10**9))  # fmt: skip
    code = issued(alice, game, mark)
    clock.forward(60)
    assert refusal(verify, off, game, mark, code) == ("prohibited", 403)


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
