"""Push payment: what must not happen, and does not. The database makes no difference to it."""

from __future__ import annotations

from typing import Any

import pytest
from push_parties import AMOUNT, CODE, FUNDS, NOTHING, SHOP, Parties, poll
from serving import NOW_NS, on_sqlite, refused

pytestmark = on_sqlite


def test_push_to_another_account_never_happens(parties: Parties) -> None:
    other = parties.served.device(account="mallory")
    for second in (other.device, "nobody"):
        assert refused(parties.ask, second_terminal=second) == "other-account"
    assert parties.pushed(other) == parties.pushed(parties.phone) == []
    assert parties.served.database.rows("SELECT count(*) FROM service_push_payments") == [(0,)]


def test_push_names_the_terminal_that_asks(parties: Parties) -> None:
    """A payment cannot be asked for in another terminal's name."""
    assert refused(parties.ask, first_terminal=parties.phone.device) == "forbidden"
    assert refused(parties.ask, second_terminal=parties.television.device) == "unfit"


def test_push_needs_one_second_terminal(parties: Parties) -> None:
    tablet = parties.served.device()
    assert refused(parties.ask) == "unfit"
    assert parties.ask(second_terminal=tablet.device).state == "pushed"
    assert [state for _, state in parties.pushed(tablet)] == ["pushed"]
    assert parties.pushed(parties.phone) == []


def test_push_needs_a_payee_other_than_the_payer(parties: Parties) -> None:
    assert refused(parties.ask, payee="nobody") == "not-found"
    assert refused(parties.ask, payee="alice") == "unfit"
    assert refused(parties.ask, unit="octet") == "invalid"
    for words in ("", "two\nlines", "\u202eslevon owT", "x" * 65):
        assert refused(parties.ask, binding_message=words) == "invalid"


def test_push_makes_words_up_where_there_are_none(parties: Parties) -> None:
    words = {parties.ask(binding_message=None).binding_message for _ in range(3)}
    assert len(words) == 3 and all(len(one) == 7 for one in words)


def test_push_does_not_flood_a_screen(parties: Parties) -> None:
    for _ in range(10):
        last = parties.ask().id
    assert refused(parties.ask) == "wrong-state"
    parties.call(parties.television, "void", payment=last)
    assert parties.ask().state == "pushed"


def test_gesture_of_the_wrong_device_calls_nothing(parties: Parties) -> None:
    parties.needs(gesture="tap")
    tablet, stranger = parties.served.device(), parties.served.device(account="mallory")
    asked = parties.ask(second_terminal=parties.phone.device)
    for client in (parties.television, tablet, stranger):
        assert refused(parties.call, client, "gesture", gesture="tap") == "nothing-waits"
    assert parties.state(asked.id) == "waiting"
    assert refused(parties.call, parties.phone, "open", payment=asked.id) == "not-found"
    assert parties.call(parties.phone, "gesture", gesture="tap").pushed == [asked.id]


def test_gesture_is_made_once(parties: Parties) -> None:
    """The same request again is told what it did; a new one finds nothing that waits."""
    parties.needs(gesture="lift")
    asked, key = parties.ask(), "a key of sixteen octets"
    for _ in range(2):
        found = parties.call(parties.phone, "gesture", gesture="lift", key=key)
        assert found.pushed == [asked.id]
    assert parties.pushed(parties.phone) == [(asked.id, "pushed")]
    assert refused(parties.call, parties.phone, "gesture", gesture="lift") == "nothing-waits"


def test_gesture_forged_in_relay_calls_nothing(parties: Parties) -> None:
    parties.needs(gesture="lift")
    platform = parties.served.device("platform", "platform:os")
    stranger = parties.served.device("platform", "platform:other")
    parties.call(parties.phone, "trust", platform=platform.device)
    asked = parties.ask()
    assert refused(parties.relay, stranger) == "forbidden"
    assert refused(parties.relay, parties.phone) == "forbidden"  # by its role
    unsigned = parties.served.client()
    assert refused(parties.relay, unsigned) == "unsigned"
    another = {"terminal": parties.television.device}
    assert refused(parties.relay, platform, **another) == "forbidden"
    now_s = NOW_NS // 10**9
    for seconds in (-31, 31):
        assert refused(parties.relay, platform, made_at_s=now_s + seconds) == "stale-gesture"
    assert parties.state(asked.id) == "waiting"
    # 30 s off is what clocks may be.
    assert parties.relay(platform, made_at_s=now_s - 30).pushed == [asked.id]


def test_gesture_from_the_terminal_alone_is_not_taken_in_relay(parties: Parties) -> None:
    parties.needs(gesture="lift", gesture_from="terminal")
    platform = parties.served.device("platform", "platform:os")
    parties.call(parties.phone, "trust", platform=platform.device)
    parties.ask()
    assert refused(parties.relay, platform) == "nothing-waits"
    assert refused(parties.call, parties.phone, "trust", platform="nobody") == "not-found"


def test_code_that_was_forwarded_opens_nothing(parties: Parties) -> None:
    parties.needs(opening="scan")
    payment = parties.ask(second_terminal=parties.phone.device).id
    for client in (parties.served.device(account="mallory"), parties.served.device(),
                   parties.television):  # fmt: skip
        for name in ("open", "hold", "decline"):
            more = {"code": CODE} if name == "open" else {}
            assert refused(parties.call, client, name, payment=payment, **more) == "not-found"
    assert parties.state(payment) == "pushed"


def test_payment_that_was_agreed_to_ends_with_the_payee(parties: Parties) -> None:
    """The payer's terminals have no say any more; nothing captured is nothing paid."""
    parties.needs(capture="manual")
    shop = parties.served.device("merchant", SHOP)
    voided, expired = parties.held(), parties.held()
    for payment in (voided, expired):
        parties.agree(payment)
        for client, name in ((parties.television, "void"), (parties.phone, "decline")):
            assert refused(parties.call, client, name, payment=payment) == "wrong-state"
    assert parties.call(shop, "void", payment=voided).state == "voided"
    parties.served.clock.forward(86_400)
    assert refused(parties.call, shop, "capture", payment=expired) == "expired"
    parties.served.sweep()
    assert parties.money() == NOTHING


@pytest.mark.parametrize("altered", [
    {"amount": AMOUNT - 1}, {"payee": "bank"}, {"unit": "USD/1000000"},
    {"binding_message": "Two novel"},
])  # fmt: skip
def test_payment_that_was_altered_on_the_screen_is_refused(
    parties: Parties, altered: dict[str, Any]
) -> None:
    payment = parties.held()
    assert refused(parties.agree, payment, **altered) == "altered"
    assert parties.money() == (FUNDS, AMOUNT, 0)
    assert parties.agree(payment).state == "captured"


def test_secret_of_an_account_without_one_is_never_right(parties: Parties) -> None:
    parties.served.database.rows("DELETE FROM service_secrets")
    payment = parties.held()
    for _ in range(6):
        assert refused(parties.agree, payment) == "not-authenticated"
    assert parties.money() == (FUNDS, AMOUNT, 0)


def test_payment_that_is_not_covered_moves_nothing(parties: Parties) -> None:
    payment = parties.ask(amount=FUNDS + 1).id
    parties.call(parties.phone, "open", payment=payment)
    assert refused(parties.call, parties.phone, "hold", payment=payment) == "overdraft"
    assert parties.state(payment) == "opened"
    assert parties.call(parties.phone, "decline", payment=payment).state == "declined"
    assert parties.money() == NOTHING


def test_poll_tells_how_it_ended(parties: Parties) -> None:
    declined, expired = parties.held(), parties.held()
    parties.call(parties.phone, "decline", payment=declined)
    assert poll(parties, declined)[0] == "access_denied"
    parties.served.clock.forward(300)
    assert poll(parties, expired)[0] == "expired_token"


def test_payment_is_shown_to_whom_it_concerns_alone(parties: Parties) -> None:
    parties.needs(gesture="tap")
    payment = parties.ask(second_terminal=parties.phone.device).id

    def show(client: Any) -> Any:
        return parties.call(client, "show", payment=payment)

    assert refused(show, parties.phone) == "not-found"  # nobody has called it
    parties.call(parties.phone, "gesture", gesture="tap")
    assert show(parties.phone).amount == AMOUNT
    assert show(parties.served.device("merchant", SHOP)).amount == AMOUNT
    for other in (parties.served.device(account="mallory"),
                  parties.served.device("merchant", "bank")):  # fmt: skip
        assert refused(show, other) == "not-found"
