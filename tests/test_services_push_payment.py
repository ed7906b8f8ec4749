"""Push payment, step by step, each way that it can go."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from bookings import MONEY
from databases import Refused
from push_parties import AMOUNT, CODE, FUNDS, NOTHING, PAID, SECRET, SHOP, Parties, poll
from serving import refused

from tollsplit.services.catalog import annexes
from tollsplit.services.problem import Problem


def test_push_goes_to_the_terminal_that_never_asked(parties: Parties) -> None:
    asked = parties.ask()
    assert asked.state == "pushed" and asked.second_terminal == parties.phone.device
    [(kind, about)] = parties.served.notices(parties.phone)
    shown = about["payee"], about["unit"], about["amount"], about["binding_message"]
    assert kind == "push-payment"
    assert shown == (SHOP, MONEY, AMOUNT, "Two novels")
    assert parties.money() == NOTHING


@pytest.mark.parametrize("gesture", ["swipe", "tap", "lift"])
def test_push_waits_for_the_gesture(parties: Parties, gesture: str) -> None:
    parties.needs(gesture=gesture)
    asked = parties.ask()
    assert asked.state == "waiting" and asked.second_terminal is None
    assert parties.pushed(parties.phone) == []
    for other in {"swipe", "tap", "lift"} - {gesture}:
        assert refused(parties.call, parties.phone, "gesture", gesture=other) == "nothing-waits"
    found = parties.call(parties.phone, "gesture", gesture=gesture)
    assert found.pushed == [asked.id]
    assert parties.pushed(parties.phone) == [(asked.id, "pushed")]
    assert parties.money() == NOTHING  # a trigger, no authentication


def test_gesture_comes_relayed_by_the_operating_systems_server(parties: Parties) -> None:
    parties.needs(gesture="lift", gesture_from="platform")
    platform = parties.served.device("platform", "platform:os")
    parties.call(parties.phone, "trust", platform=platform.device)
    asked = parties.ask()
    assert refused(parties.call, parties.phone, "gesture", gesture="lift") == "nothing-waits"
    assert parties.relay(platform).pushed == [asked.id]
    assert parties.pushed(parties.phone) == [(asked.id, "pushed")]


def test_page_opens_by_the_code_alone_where_the_policy_says_so(parties: Parties) -> None:
    parties.needs(opening="scan")
    payment = parties.ask().id
    assert refused(parties.call, parties.phone, "open", payment=payment) == "wrong-code"
    assert parties.call(parties.phone, "open", payment=payment, code=CODE).state == "opened"
    # Loaded again it is the same page.
    assert parties.call(parties.phone, "open", payment=payment).state == "opened"


def test_code_that_is_guessed_blocks_the_payment(parties: Parties) -> None:
    parties.needs(opening="scan")
    payment = parties.ask().id
    for _ in range(5):
        guessed = refused(parties.call, parties.phone, "open", payment=payment, code="guess")
        assert guessed == "wrong-code"
    assert parties.state(payment) == "blocked"
    assert parties.call(parties.phone, "open", payment=payment, code=CODE).state == "blocked"


def test_code_is_known_to_no_database(parties: Parties) -> None:
    parties.call(parties.phone, "open", payment=parties.ask().id, code=CODE)
    for table in ("push_payments", "answers", "notices"):
        for row in parties.served.database.rows(f"SELECT * FROM service_{table}"):
            assert CODE not in str(row) and SECRET not in str(row)


def test_payment_is_held_authorised_and_captured(parties: Parties) -> None:
    payment = parties.held()
    assert parties.money() == (FUNDS, AMOUNT, 0)
    assert parties.agree(payment).state == "captured"
    assert parties.money() == PAID
    states = [state for _, state in parties.pushed(parties.television)]
    assert states == ["pushed", "opened", "held", "captured"]


def test_payment_is_captured_by_the_payee_where_the_policy_says_so(parties: Parties) -> None:
    parties.needs(capture="manual")
    shop, other = (parties.served.device("merchant", name) for name in (SHOP, "bank"))
    payment = parties.held()

    def capture(who: Any, **more: Any) -> Any:
        return parties.call(who, "capture", payment=payment, **more)

    assert refused(capture, shop) == "wrong-state"
    assert parties.agree(payment).state == "authorised"
    assert parties.pushed(shop) == [(payment, "authorised")]
    assert parties.money() == (FUNDS, AMOUNT, 0)
    assert refused(capture, other) == "not-found"
    assert refused(capture, parties.phone) == "forbidden"
    assert refused(capture, shop, amount=AMOUNT + 1) == "unfit"
    assert capture(shop, amount=AMOUNT - 340_000).captured == AMOUNT - 340_000
    assert parties.money() == (FUNDS - AMOUNT + 340_000, 0, AMOUNT - 340_000)
    assert refused(capture, shop) == "wrong-state"


def test_secret_that_is_guessed_blocks_the_account(parties: Parties) -> None:
    """New payments give no new guesses; the answer is the same for what is wrong."""
    first, second = parties.held(), parties.held()
    answers = set()
    for payment in (first, second, first, second, first):
        with pytest.raises(Problem) as caught:
            parties.agree(payment, secret="a guess")
        answers.add((caught.value.kind.name, caught.value.detail))
    assert len(answers) == 1
    assert parties.state(first) == "blocked"
    assert refused(parties.agree, second) == "not-authenticated"
    assert parties.state(second) == "blocked" and parties.money() == NOTHING
    parties.set_secret()
    assert parties.agree(parties.held()).state == "captured"


@pytest.mark.parametrize("asked_of", ["phone", "television"])
@pytest.mark.parametrize("held", [False, True])
def test_payment_is_refused_by_either_terminal(
    parties: Parties, asked_of: str, held: bool
) -> None:
    payment = parties.held() if held else parties.ask().id
    name, state = {"phone": ("decline", "declined"), "television": ("void", "voided")}[asked_of]
    terminal = getattr(parties, asked_of)
    assert parties.call(terminal, name, payment=payment).state == state
    assert parties.money() == NOTHING
    assert refused(parties.agree, payment) == "wrong-state"
    assert refused(parties.call, terminal, name, payment=payment) == "wrong-state"
    assert parties.pushed(parties.phone)[-1] == (payment, state)


@pytest.mark.parametrize("seconds, state", [(299, "captured"), (300, "expired"), (301, "expired")])
def test_payment_expires_by_the_servers_clock(
    parties: Parties, seconds: int, state: str
) -> None:
    payment = parties.held()
    parties.served.clock.forward(seconds)
    if state == "captured":
        assert parties.agree(payment).state == state
    else:
        assert refused(parties.agree, payment) == "wrong-state"
    assert parties.state(payment) == state
    parties.served.sweep()
    assert parties.money() == (PAID if state == "captured" else NOTHING)
    if state == "expired":
        assert parties.pushed(parties.phone)[-1] == (payment, "expired")
        assert parties.pushed(parties.television)[-1] == (payment, "expired")


def test_payment_happens_once_whoever_hurries(parties: Parties) -> None:
    """A hundred at once under one key, and a hundred under keys of their own: one payment."""
    payment, key = parties.held(), "one key for all of them"
    def agree(turn: int) -> str:
        try:
            return str(parties.agree(payment, key=key if turn % 2 else None).state)
        except Problem as problem:
            return problem.kind.name

    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(agree, range(100)))
    assert set(found) <= {"captured", "wrong-state", "key-in-progress"}
    assert "captured" in found
    assert parties.money() == PAID
    kinds = parties.served.database.rows("SELECT kind FROM transactions")
    assert kinds.count(("payment",)) == 1


def test_asking_happens_once_under_one_key(parties: Parties) -> None:
    key = "the same key for all of it"
    assert len({parties.ask(key=key).id for _ in range(3)}) == 1
    assert refused(parties.ask, key=key, amount=AMOUNT + 1) == "key-reused"
    assert len(parties.pushed(parties.phone)) == 1


def test_final_states_never_change(parties: Parties) -> None:
    payment = parties.held()
    parties.agree(payment)
    for change in ("state = 'held'", "captured = 1", "amount = 1", "payee = 'bank'"):
        with pytest.raises(Refused):
            parties.served.database.rows(f"UPDATE service_push_payments SET {change}")


@pytest.mark.parametrize(("change", "back", "finding"), [
    ("captured = amount - 1", "captured = amount", "by its hold"),
    ("payee = 'bank'", f"payee = '{SHOP}'", "was not paid to"),
    ("account = 'bank'", "account = 'alice'", "was not paid to"),
    ("unit = 'EUR/1000000'", f"unit = '{MONEY}'", "was not paid to"),
    ("id = 'x' || id", "id = substr(id, 2)", "nobody asked for it"),
])  # fmt: skip
def test_verify_finds_a_payment_that_the_ledger_does_not_bear_out(
    parties: Parties, change: str, back: str, finding: str
) -> None:
    parties.agree(parties.held())
    parties.call(parties.phone, "decline", payment=parties.held())
    database = parties.served.database
    with database.unguarded():
        database.rows(f"UPDATE service_push_payments SET {change} WHERE state = 'captured'")
    tables = annexes(parties.served.server.options.services)
    found = parties.served.read(lambda ledger: ledger.verify(annexes=tables))
    assert any(finding in one for one in found.findings)
    with database.unguarded():
        database.rows(f"UPDATE service_push_payments SET {back} WHERE state = 'captured'")


def test_poll_answers_as_ciba_does(parties: Parties) -> None:
    payment = parties.held()
    assert poll(parties, payment) == ("authorization_pending", {
        "error": "authorization_pending", "poll_s": 5, "state": "held"})  # fmt: skip
    parties.served.clock.forward(4.9)
    error, more = poll(parties, payment)
    assert (error, more["poll_s"]) == ("slow_down", 10)
    parties.served.clock.forward(9.9)
    assert poll(parties, payment)[1]["poll_s"] == 15
    parties.served.clock.forward(15)
    assert poll(parties, payment)[0] == "authorization_pending"
    parties.agree(payment)
    assert parties.call(parties.television, "poll", payment=payment).state == "captured"
    assert refused(parties.call, parties.phone, "poll", payment=payment) == "not-found"
