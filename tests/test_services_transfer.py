"""Service B: a transfer by smart card, step by step, and whatever refuses one."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from bookings import MONEY
from cardholders import FUNDS, LARGE, SECRET, SMALL, Cardholder, register, settle, town_of
from databases import Refused, SqliteFile
from serving import refusal, serving

from tollsplit.cli.demo.live.virtual_card import number_of
from tollsplit.ledger import open_ledger
from tollsplit.services import card_register, transfer
from tollsplit.services.card import masked
from tollsplit.services.catalog import annexes
from tollsplit.services.problem import Problem
from tollsplit.services.transfer import Settings
from tollsplit.services.wire import new_id

# --- the steps --------------------------------------------------------------------------


def test_transfer_goes_through_all_steps_at_another_device(holder: Cardholder) -> None:
    terminal, phone = holder.terminal, holder.phone
    asked = holder.ask(terminal)
    assert (asked.state, asked.confirmation) == ("authenticating", None)
    shown = holder.authenticate(terminal, asked)
    assert shown.state == "confirming"
    assert shown.confirmation == transfer.Confirmation(
        card_account=masked(holder.card), amount=LARGE, unit=MONEY, payee=holder.payee,
        payee_account=holder.shop)  # fmt: skip
    first = holder.confirm(terminal, shown)
    assert first.state == "confirming-associated"
    assert holder.balances() == (FUNDS, 0)
    # The second confirmation has the same four fields.
    kind, told = holder.served.notices(phone)[-1]
    assert (kind, told["transfer"]) == ("transfer.confirm", asked.transfer)
    second = holder.show(phone, asked)
    assert second.confirmation == shown.confirmation
    assert holder.confirm(phone, second, associated=True).state == "booked"
    holder.expect_paid(LARGE)
    kind, told = holder.served.notices(terminal)[-1]
    assert (kind, told["transfer"], told["state"]) == ("transfer.ended", asked.transfer, "booked")


@pytest.mark.parametrize("sends_identifier", [True, False])
def test_transfer_at_the_associated_device_needs_no_second_confirmation(
    holder: Cardholder, sends_identifier: bool
) -> None:
    phone = holder.phone
    asked = holder.ask(phone, device=phone.device if sends_identifier else None)
    shown = holder.authenticate(phone, asked)
    assert holder.confirm(phone, shown).state == "booked"
    holder.expect_paid(LARGE)


def test_transfer_of_a_small_amount_is_booked_at_once(holder: Cardholder) -> None:
    assert holder.ask(holder.terminal, SMALL).state == "booked"
    holder.expect_paid(SMALL)


def test_transfer_of_many_small_amounts_counts_as_their_sum(holder: Cardholder) -> None:
    """A number that was read once, or heard of, would pay everything bit by bit."""
    terminal = holder.terminal
    assert holder.ask(terminal, SMALL - 1).state == "booked"
    assert holder.ask(terminal, 2).state == "authenticating"
    assert holder.ask(terminal, 1).state == "booked"
    assert holder.ask(terminal, 1).state == "authenticating"
    # Once the holder has been authenticated, small amounts begin anew.
    holder.served.clock.forward(1)
    holder.authenticate(terminal, holder.ask(terminal))
    holder.served.clock.forward(1)
    assert holder.ask(terminal, SMALL).state == "booked"
    holder.expect_paid(2 * SMALL)


@pytest.mark.parametrize(("above", "states"), [
    ("authenticate", ["authenticating", "booked"]),
    ("confirm", ["authenticating", "confirming", "booked"]),
    ("associate", ["authenticating", "confirming", "confirming-associated"]),
])  # fmt: skip
def test_transfer_policy_says_which_steps_apply(
    tmp_path: Path, above: Any, states: list[str]
) -> None:
    policy = {Settings: Settings(above=above, small_amounts={})}
    with serving(SqliteFile(tmp_path / "books.db"), settings=policy) as served:
        holder = settle(town_of(served))
        seen = [asked := holder.ask(holder.terminal, 1)]
        seen.append(shown := holder.authenticate(holder.terminal, asked))
        if shown.state == "confirming":
            seen.append(holder.confirm(holder.terminal, shown))
        assert [one.state for one in seen] == states


def test_transfer_policy_by_unit_has_no_small_amounts_elsewhere(holder: Cardholder) -> None:
    holder.served.write(lambda ledger: ledger.open_account(holder.shop, "octet", "settlement"))
    assert holder.ask(holder.terminal, 1, unit="octet").state == "authenticating"


def test_transfer_policy_never_lets_a_static_read_pay_large_amounts() -> None:
    import msgspec

    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"above": "none"}, Settings)


# --- refusals ---------------------------------------------------------------------------


def test_transfer_to_an_unknown_payee_is_not_found(holder: Cardholder) -> None:
    ask = holder.ask
    assert refusal(ask, holder.terminal, payee="13900139000") == ("not-found", 404)
    # Known, and without an account in that unit.
    assert refusal(ask, holder.terminal, unit="octet") == ("not-found", 404)


def test_transfer_with_a_wrong_secret_moves_nothing(holder: Cardholder) -> None:
    terminal = holder.terminal
    asked = holder.ask(terminal)
    assert refusal(holder.authenticate, terminal, asked, "0000") == ("not-authenticated", 403)
    assert holder.show(terminal, asked).state == "authenticating"
    assert refusal(holder.confirm, terminal, _shown(holder, asked)) == ("wrong-state", 409)
    assert holder.balances() == (FUNDS, 0)
    assert holder.authenticate(terminal, asked).state == "confirming"


def _shown(holder: Cardholder, asked: transfer.TransferState) -> transfer.TransferState:
    """What would be shown, guessed by somebody to whom it was not."""
    return transfer.TransferState(asked.transfer, "confirming", None, transfer.Confirmation(
        masked(holder.card), LARGE, MONEY, holder.payee, holder.shop))  # fmt: skip


def test_transfer_secret_is_guessed_five_times_at_most(holder: Cardholder) -> None:
    terminal = holder.terminal
    for guess in range(5):
        # Other transfers of the same card count together.
        assert refusal(holder.authenticate, terminal, holder.ask(terminal), f"000{guess}") \
            == ("not-authenticated", 403)
    blocked = holder.ask(terminal)
    assert refusal(holder.authenticate, terminal, blocked) == ("not-authenticated", 403)
    # A blocked card pays no small amounts either.
    assert holder.ask(terminal, 1).state == "authenticating"
    assert holder.balances() == (FUNDS, 0)
    register(holder)
    assert holder.authenticate(terminal, blocked).state == "confirming"


def test_transfer_secret_guessed_in_parallel_counts_every_guess(holder: Cardholder) -> None:
    asked = holder.ask(holder.terminal)
    with ThreadPoolExecutor(20) as pool:
        told = list(pool.map(lambda guess: _outcome(holder, asked, f"{guess:04}"), range(20)))
    assert told == ["not-authenticated"] * 20
    # The right one is as wrong by now.
    assert _outcome(holder, asked, SECRET) == "not-authenticated"


def _outcome(holder: Cardholder, asked: transfer.TransferState, guess: str) -> str:
    try:
        return holder.authenticate(holder.terminal, asked, guess).state
    except Problem as problem:
        return problem.kind.name


def test_transfer_of_a_card_that_nobody_has_looks_like_any_other(holder: Cardholder) -> None:
    terminal = holder.terminal
    ghost = holder.ask(terminal, card=number_of(0))
    known = holder.ask(terminal)
    assert (ghost.state, ghost.confirmation) == (known.state, known.confirmation)
    with pytest.raises(Problem) as of_ghost:
        holder.authenticate(terminal, ghost, "1111")
    with pytest.raises(Problem) as of_known:
        holder.authenticate(terminal, known, "1111")
    assert of_ghost.value.body == of_known.value.body
    for _ in range(4):
        refusal(holder.authenticate, terminal, ghost)
    assert refusal(holder.authenticate, terminal, ghost) == ("not-authenticated", 403)


def test_transfer_of_a_card_without_a_secret_is_never_authenticated(holder: Cardholder) -> None:
    bare = replace(holder, card=number_of(1_000_000 + int(holder.card[-6:])))
    register(bare, secret=None)
    asked = bare.ask(holder.terminal)
    assert asked.state == "authenticating"
    for guess in (SECRET, "None", "null"):
        assert refusal(holder.authenticate, holder.terminal, asked, guess) \
            == ("not-authenticated", 403)


@pytest.mark.parametrize("field", [
    {"card_account": "555555••••••4444"}, {"amount": LARGE + 1}, {"amount": 1},
    {"unit": "EUR/1000000"}, {"payee": "13900139000"}, {"payee_account": "thief"},
], ids=str)  # fmt: skip
def test_transfer_altered_between_confirmations_is_refused(
    holder: Cardholder, field: dict[str, Any]
) -> None:
    # Half of them at the first confirmation, half at the second.
    associated = "payee" in str(field)
    terminal, phone = holder.terminal, holder.phone
    shown = holder.authenticate(terminal, holder.ask(terminal))
    if associated:
        shown = holder.confirm(terminal, shown)
    device = phone if associated else terminal
    assert refusal(holder.confirm, device, shown, associated=associated, **field) \
        == ("altered", 409)
    # That was the last word: the fields as they are come too late.
    assert refusal(holder.confirm, device, shown, associated=associated) == ("wrong-state", 409)
    assert holder.show(terminal, shown).state == "refused"
    assert holder.balances() == (FUNDS, 0)


@pytest.mark.parametrize("associated", [False, True], ids=["first", "second"])
def test_transfer_denied_moves_nothing(holder: Cardholder, associated: bool) -> None:
    terminal = holder.terminal
    shown = holder.authenticate(terminal, holder.ask(terminal))
    device = terminal
    if associated:
        shown, device = holder.confirm(terminal, shown), holder.phone
    assert holder.confirm(device, shown, False, associated=associated).state == "denied"
    assert refusal(holder.confirm, device, shown, associated=associated) == ("wrong-state", 409)
    assert holder.balances() == (FUNDS, 0)


def test_transfer_beyond_the_balance_is_refused_for_good(holder: Cardholder) -> None:
    phone = holder.phone
    shown = holder.authenticate(phone, holder.ask(phone, FUNDS + 1))
    assert refusal(holder.confirm, phone, shown) == ("overdraft", 409)
    assert holder.show(phone, shown).state == "refused"
    assert holder.balances() == (FUNDS, 0)


def test_transfer_to_the_card_itself_is_refused(holder: Cardholder) -> None:
    phone = holder.phone
    holder.town.operator.call(card_register.REGISTER_PAYEE, card_register.RegisterPayee(
        payee=holder.payee, account=holder.account))
    shown = holder.authenticate(phone, holder.ask(phone))
    assert refusal(holder.confirm, phone, shown) == ("unfit", 422)
    assert holder.show(phone, shown).state == "refused"


def test_transfer_without_an_associated_device_is_refused(holder: Cardholder) -> None:
    terminal = holder.terminal
    register(holder, associated=None)
    shown = holder.authenticate(terminal, holder.ask(terminal))
    assert refusal(holder.confirm, terminal, shown) == ("forbidden", 403)
    assert holder.show(terminal, shown).state == "refused"


@pytest.mark.parametrize("step", [0, 1, 2])
@pytest.mark.parametrize("anew", ["account", "associated"])
def test_transfer_of_a_card_that_was_registered_anew_is_refused(
    holder: Cardholder, step: int, anew: str
) -> None:
    """The phone was stolen, or the card is another one's now: what waits must not go through."""
    other = settle(holder.town)
    shown = holder.ask(holder.terminal)
    answers: list[Callable[[], transfer.TransferState]] = [
        lambda: holder.authenticate(holder.terminal, shown),
        lambda: holder.confirm(holder.terminal, shown),
        lambda: holder.confirm(holder.phone, shown, associated=True),
    ]
    for answer in answers[:step]:
        shown = answer()
    register(holder, **{anew: other.account if anew == "account" else holder.terminal.device})
    assert refusal(answers[step]) == ("wrong-state", 409)
    assert holder.show(holder.terminal, shown).state == "refused"
    assert holder.balances() == (FUNDS, 0) and other.balances() == (FUNDS, 0)


STEPS = ["authenticating", "confirming", "confirming-associated"]


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize(("late_s", "ends"), [(-1, False), (0, True)])
def test_transfer_expires_at_each_step(
    holder: Cardholder, step: str, late_s: int, ends: bool
) -> None:
    terminal, phone, clock = holder.terminal, holder.phone, holder.served.clock
    shown = holder.ask(terminal)
    answers: list[Callable[[], transfer.TransferState]] = [
        lambda: holder.authenticate(terminal, shown),
        lambda: holder.confirm(terminal, shown),
        lambda: holder.confirm(phone, shown, associated=True),
    ]
    for answer in answers[: STEPS.index(step)]:
        shown = answer()
    assert shown.state == step
    clock.forward(120 + late_s)
    if ends:
        assert refusal(answers[STEPS.index(step)]) == ("expired", 410)
        assert holder.show(terminal, shown).state == "expired"
        holder.served.sweep()
        assert holder.show(terminal, shown).state == "expired"
        assert refusal(answers[STEPS.index(step)]) == ("expired", 410)
        assert holder.balances() == (FUNDS, 0)
    else:
        assert answers[STEPS.index(step)]().state != "expired"


@pytest.mark.parametrize("off_s", [-30, 29])
def test_transfer_expires_by_the_servers_clock(holder: Cardholder, off_s: int) -> None:
    """A device whose clock is off is taken, and gains no time by it."""
    clock = holder.served.clock
    phone = holder.served.client(holder.phone.key, clock_ns=lambda: clock() + off_s * 10**9)
    late, timely = holder.ask(phone), holder.ask(phone)
    clock.forward(119)
    assert holder.authenticate(phone, timely).state == "confirming"
    clock.forward(1)
    assert refusal(holder.authenticate, phone, late) == ("expired", 410)


# --- who may ----------------------------------------------------------------------------


def test_transfer_answers_of_other_devices_are_not_taken(holder: Cardholder) -> None:
    terminal, phone = holder.terminal, holder.phone
    stranger = holder.served.device("terminal", "mallory")
    asked = holder.ask(terminal)
    assert refusal(holder.authenticate, stranger, asked) == ("not-found", 404)
    assert refusal(holder.show, stranger, asked) == ("not-found", 404)
    shown = holder.authenticate(terminal, asked)
    for device in (stranger, phone):
        assert refusal(holder.confirm, device, shown) == ("not-found", 404)
    shown = holder.confirm(terminal, shown)
    for device in (stranger, terminal):
        assert refusal(holder.confirm, device, shown, associated=True) == ("not-found", 404)
    # One confirmation is not taken for the other.
    assert refusal(holder.confirm, terminal, shown) == ("wrong-state", 409)
    assert holder.balances() == (FUNDS, 0)


def test_transfer_with_another_devices_identifier_is_forbidden(holder: Cardholder) -> None:
    """It would do without the second confirmation."""
    assert refusal(holder.ask, holder.terminal, device=holder.phone.device) \
        == ("forbidden", 403)


def test_transfer_register_is_the_operators(holder: Cardholder) -> None:
    call = holder.terminal.call
    card = card_register.RegisterCard(card=holder.card, account="mallory", secret="1234")
    assert refusal(call, card_register.REGISTER_CARD, card) == ("forbidden", 403)
    payee = card_register.RegisterPayee(payee=holder.payee, account="mallory")
    assert refusal(call, card_register.REGISTER_PAYEE, payee) == ("forbidden", 403)
    assert refusal(register, holder, associated="nobody") == ("not-found", 404)


@pytest.mark.parametrize("number", ["4111111111111112", "41111111111111a1", "411111111111"])
def test_transfer_of_a_number_that_is_none_is_invalid(
    holder: Cardholder, number: str
) -> None:
    with pytest.raises(Problem) as caught:
        holder.ask(holder.terminal, card=number)
    assert caught.value.kind.name == "unfit"
    assert caught.value.extensions == {"at": "$.card"}
    assert number not in caught.value.detail


# --- each effect once -------------------------------------------------------------------


def test_transfer_sent_a_hundred_times_is_booked_once(holder: Cardholder) -> None:
    # It asks again for as long as another one is under way.
    terminal = holder.served.client(holder.terminal.key, retries=10_000)
    key = new_id()
    wanted = transfer.Ask(card=holder.card, payee=holder.payee, amount=SMALL, unit=MONEY)

    def ask(_: int) -> str:
        return terminal.call(transfer.ASK, wanted, key=key).transfer

    with ThreadPoolExecutor(16) as pool:
        assert len(set(pool.map(ask, range(100)))) == 1
    holder.expect_paid(SMALL)


def test_transfer_confirmed_a_hundred_times_is_booked_once(holder: Cardholder) -> None:
    """Under a hundred keys: of many who try, one does."""
    phone = holder.phone
    shown = holder.authenticate(phone, holder.ask(phone))

    def confirm(_: int) -> str:
        try:
            return holder.confirm(phone, shown).state
        except Problem as problem:
            return problem.kind.name

    with ThreadPoolExecutor(16) as pool:
        told = list(pool.map(confirm, range(100)))
    assert sorted(told) == ["booked"] + ["wrong-state"] * 99
    holder.expect_paid(LARGE)


def test_transfer_confirmation_under_its_key_again_is_answered_again(holder: Cardholder) -> None:
    """The answer was lost, and the device asks again."""
    phone = holder.phone
    shown = holder.authenticate(phone, holder.ask(phone))
    key = new_id()
    assert holder.confirm(phone, shown, key=key) == holder.confirm(phone, shown, key=key)
    assert refusal(holder.confirm, phone, shown, key=key, amount=1) == ("key-reused", 422)
    holder.expect_paid(LARGE)


def test_transfer_wrong_secret_under_its_key_again_counts_once(holder: Cardholder) -> None:
    terminal = holder.terminal
    asked, key = holder.ask(terminal), new_id()
    wrong = transfer.Authenticate(transfer=asked.transfer, secret="0000")
    for _ in range(10):
        assert refusal(terminal.call, transfer.AUTHENTICATE, wrong, key=key) \
            == ("not-authenticated", 403)
    assert holder.authenticate(terminal, asked).state == "confirming"


# --- what the ledger and the database hold ----------------------------------------------


def test_transfer_secrets_and_numbers_reach_no_log(
    holder: Cardholder, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("DEBUG", "tollsplit"):
        asked = holder.ask(holder.phone)
        refusal(holder.authenticate, holder.phone, asked, "wrong-secret")
        holder.confirm(holder.phone, holder.authenticate(holder.phone, asked))
    for word in (SECRET, "wrong-secret", holder.card):
        assert word not in caplog.text


TAMPERINGS = {
    "amount": ("UPDATE service_transfers SET amount = amount + 1 WHERE state = 'booked'",
               "is not what was asked for"),
    "payee": ("UPDATE service_transfers SET payee_account = 'thief' WHERE state = 'booked'",
              "is not what was asked for"),
    "state": ("UPDATE service_transfers SET state = 'denied', transaction_id = NULL "
              "WHERE state = 'booked'", "denied, but the ledger has a transaction"),
    "gone": ("DELETE FROM service_transfers", "nobody asked for it"),
}  # fmt: skip


def test_transfer_tampered_with_is_found_by_verify(tmp_path: Path) -> None:
    honest = SqliteFile(tmp_path / "books.db")
    with serving(honest) as served:
        holder = settle(town_of(served))
        holder.ask(holder.terminal, SMALL)
    for name, (sql, found) in TAMPERINGS.items():
        with pytest.raises(Refused):
            honest.rows(sql)
        tampered = SqliteFile(tmp_path / f"{name}.db")
        honest.rows(f"VACUUM INTO '{tampered.path}'")
        with tampered.unguarded():
            tampered.rows(sql)
        with open_ledger(tampered.url, create=False) as ledger:
            assert found in str(ledger.verify(annexes=annexes()).findings), name
