"""The second terminal opens a payment's page and pays, or does not."""

from __future__ import annotations

from collections.abc import Sequence

from ...ledger import Hold, Provenance
from ...limits import PUSH_CODES_MAX, PUSH_POLL_SLOWER_S
from ...model import Posting
from .. import secret
from ..operation import Call
from ..problem import NOT_FOUND, UNFIT, WRONG_STATE, Problem
from . import authentication
from .payment import PAYMENTS, UNDECIDED, WITH_HOLD, Payment, hold_key, read, told, view
from .policy import Settings
from .wire import (
    ALTERED,
    DENIED,
    NOT_AUTHENTICATED,
    PENDING,
    SLOW_DOWN,
    TOKEN_EXPIRED,
    WRONG_CODE,
    Authorise,
    Named,
    Open,
    PaymentView,
    Take,
)


def _mine(call: Call[Open] | Call[Authorise] | Call[Named]) -> Payment:
    """The payment, where the caller is its second terminal. Others don't learn that it is there."""
    found = read(call.store, call.asked.payment, call.now_ns)
    if found.second_terminal != call.device.id or found.state == "waiting":
        raise NOT_FOUND("no such payment")
    return found


def open_page(call: Call[Open]) -> PaymentView | Problem:
    payment, code = call.asked.payment, call.asked.code
    found = _mine(call)
    if found.state not in ("pushed", "opened", "held"):
        return view(payment, found)  # how it ended
    if code is None:
        if found.opening == "scan" and found.state == "pushed":
            raise WRONG_CODE("scan the code that the first terminal shows")
    elif not secret.is_same(code, found.code_digest):
        return _wrong_code(call, payment, found)
    if found.state == "pushed":
        PAYMENTS.move(call.store, payment, "pushed", "opened", call.now_ns)
        return told(call, payment)
    return view(payment, found)


def _wrong_code(call: Call[Open], payment: str, found: Payment) -> Problem:
    """Count it; the last one that is borne ends the payment."""
    if found.failures + 1 >= PUSH_CODES_MAX:
        _end(call, payment, (found.state,), "blocked", found)
    else:
        PAYMENTS.move(call.store, payment, found.state, found.state, call.now_ns,
                      failures=found.failures + 1)  # fmt: skip
    return WRONG_CODE("scan it again")


def hold(call: Call[Named]) -> PaymentView:
    payment = call.asked.payment
    found = _mine(call)
    PAYMENTS.move(call.store, payment, "opened", "held", call.now_ns)
    left_s = (found.expires_at_ns - call.now_ns) // 1_000_000_000 + 1
    call.ledger.hold(Hold(
        hold_key(payment), found.account, found.unit, found.amount,
        left_s + call.setting(Settings).capture_s, f"push payment to {found.payee}",
        Provenance(service_request=payment),
    ))  # fmt: skip
    return told(call, payment)


def authorise(call: Call[Authorise]) -> PaymentView | Problem:
    asked, payment = call.asked, call.asked.payment
    found = _mine(call)
    if found.state != "held":
        raise WRONG_STATE(f"this payment is {found.state}", state=found.state)
    agreed = asked.payee, asked.unit, asked.amount, asked.binding_message
    if agreed != (found.payee, found.unit, found.amount, found.binding_message):
        raise ALTERED("expected payee, amount and binding message as they were pushed")
    if not secret.settle(call.store, call.prepared, call.now_ns):
        if authentication.is_blocked(call.store, found.account):
            _end(call, payment, ("held",), "blocked", found)
        # Which factor it was is not said, nor how often it may still be tried.
        return NOT_AUTHENTICATED("nothing was paid")
    PAYMENTS.move(call.store, payment, "held", "authorised", call.now_ns,
                  call.setting(Settings).capture_s)  # fmt: skip
    if found.capture == "automatic":
        _book(call, payment, found, found.amount)
    return told(call, payment)


def capture(call: Call[Take]) -> PaymentView:
    asked, payment = call.asked, call.asked.payment
    found = read(call.store, payment, call.now_ns)
    if found.payee != call.device.account:
        raise NOT_FOUND("no such payment")
    amount = found.amount if asked.amount is None else asked.amount
    if amount > found.amount:
        raise UNFIT(f"expected at most {found.amount}", at="$.amount")
    _book(call, payment, found, amount)
    return told(call, payment)


def _book(
    call: Call[Authorise] | Call[Take], payment: str, found: Payment, amount: int
) -> None:
    PAYMENTS.move(call.store, payment, "authorised", "captured", call.now_ns, captured=amount)
    call.ledger.capture(
        hold_key(payment), "payment",
        (Posting(found.account, found.unit, -amount), Posting(found.payee, found.unit, amount)),
        f"push payment: {found.binding_message}", Provenance(service_request=payment),
    )  # fmt: skip


def _end(
    call: Call[Named] | Call[Open] | Call[Authorise], payment: str, before: Sequence[str],
    state: str, found: Payment,
) -> PaymentView:  # fmt: skip
    # From the very state that was read: whether something is held goes with it.
    now = found.state if found.state in before else before
    PAYMENTS.move(call.store, payment, now, state, call.now_ns)
    if found.state in WITH_HOLD:
        call.ledger.void(hold_key(payment))
    return told(call, payment)


def decline(call: Call[Named]) -> PaymentView:
    return _end(call, call.asked.payment, UNDECIDED[1:], "declined", _mine(call))


def void(call: Call[Named]) -> PaymentView:
    """The first terminal takes it back until somebody agreed, the payee until it is captured."""
    found = read(call.store, call.asked.payment, call.now_ns)
    if call.device.account == found.payee:
        return _end(call, call.asked.payment, (*UNDECIDED, "authorised"), "voided", found)
    if call.device.id != found.first_terminal:
        raise NOT_FOUND("no such payment")
    return _end(call, call.asked.payment, UNDECIDED, "voided", found)


def show(call: Call[Named]) -> PaymentView:
    found = read(call.store, call.asked.payment, call.now_ns)
    second = found.second_terminal if found.state != "waiting" else None
    if call.device.id not in (found.first_terminal, second) and (
        call.device.role != "merchant" or call.device.account != found.payee
    ):
        raise NOT_FOUND("no such payment")
    return view(call.asked.payment, found)


def poll(call: Call[Named]) -> PaymentView | Problem:
    """As CIBA's token endpoint, for a first terminal that hears no notices."""
    payment = call.asked.payment
    found = read(call.store, payment, call.now_ns)
    if call.device.id != found.first_terminal:
        raise NOT_FOUND("no such payment")
    if found.state in ("authorised", "captured"):
        return view(payment, found)
    if found.state == "expired":
        return TOKEN_EXPIRED("ask for a new payment", error="expired_token")
    if found.state not in UNDECIDED:
        return DENIED(f"this payment was {found.state}", error="access_denied", state=found.state)
    too_soon = call.now_ns < found.polled_at_ns + found.poll_s * 1_000_000_000
    poll_s = found.poll_s + PUSH_POLL_SLOWER_S * too_soon
    PAYMENTS.move(call.store, payment, found.state, found.state, call.now_ns,
                  polled_at_ns=call.now_ns, poll_s=poll_s)  # fmt: skip
    if too_soon:
        return SLOW_DOWN(f"expected {poll_s} s between two", error="slow_down", poll_s=poll_s)
    return PENDING("ask again", error="authorization_pending", poll_s=poll_s, state=found.state)


