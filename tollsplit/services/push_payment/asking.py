"""A payment is asked for by the first terminal and pushed to the second."""

from __future__ import annotations

import secrets

from ...limits import PUSH_POLL_S, PUSH_WAITING_MAX, SERVICE_SKEW_S
from .. import device
from ..operation import Call
from ..problem import FORBIDDEN, NOT_FOUND, UNFIT, WRONG_STATE
from ..wire import new_id
from . import policy
from .payment import PAYMENTS, told
from .policy import Settings
from .wire import (
    NOTHING_WAITS,
    OTHER_ACCOUNT,
    STALE,
    Ask,
    MakeGesture,
    PaymentView,
    Pushed,
    RelayGesture,
)


def ask(call: Call[Ask]) -> PaymentView:
    asked, caller, store = call.asked, call.device, call.store
    settings = call.setting(Settings)
    if asked.first_terminal != caller.id:
        raise FORBIDDEN("first_terminal: expected the terminal that asks")
    if asked.payee == caller.account:
        raise UNFIT("expected another account than the payer's", at="$.payee")
    if call.ledger.balance(asked.payee, asked.unit).state != "open":
        raise NOT_FOUND("no such payee")
    ((waiting,),) = store.rows(_COUNT, caller.account, call.now_ns)
    if waiting >= PUSH_WAITING_MAX:
        raise WRONG_STATE(f"{waiting} payments wait already; end one of them first")
    needed = policy.of_account(store, caller.account, settings)
    second = _second_terminal(call, may_wait=needed.gesture != "none")
    payment = new_id()
    PAYMENTS.begin(
        store, payment, call.now_ns, settings.lifetime_s, account=caller.account,
        first_terminal=caller.id, second_terminal=second, payee=asked.payee, unit=asked.unit,
        amount=asked.amount, binding_message=asked.binding_message or _words(),
        code_digest=asked.code_digest, gesture=needed.gesture, gesture_from=needed.gesture_from,
        opening=needed.opening, capture=needed.capture, captured=0, failures=0,
        poll_s=PUSH_POLL_S, polled_at_ns=0,
    )  # fmt: skip
    if needed.gesture == "none":
        PAYMENTS.move(store, payment, "waiting", "pushed", call.now_ns)
    return told(call, payment)


def _second_terminal(call: Call[Ask], *, may_wait: bool) -> str | None:
    """The terminal that is pushed to, of the asking one's account; None: a gesture will tell."""
    asked, caller = call.asked, call.device
    others = [one.id for one in device.of_account(call.store, caller.account)
              if one.id != caller.id]  # fmt: skip
    if asked.second_terminal is not None:
        if asked.second_terminal == caller.id:
            raise UNFIT("expected another terminal than the first", at="$.second_terminal")
        if asked.second_terminal not in others:
            # The same for a terminal of somebody else's and for none.
            raise OTHER_ACCOUNT("second_terminal: nothing was pushed")
        return asked.second_terminal
    if may_wait:
        return None
    if len(others) != 1:
        raise UNFIT(f"expected one of the account's {len(others)} other terminals",
                      at="$.second_terminal")  # fmt: skip
    return others[0]


def _words() -> str:
    """Some letters and digits that nobody mistakes for each other."""
    text = "".join(secrets.choice("ABCDEFGHJKLMNPQRTUVWXY34679") for _ in range(6))
    return f"{text[:3]}-{text[3:]}"


def gesture(call: Call[MakeGesture]) -> Pushed:
    return _push(call, call.device, call.asked.gesture, "terminal")


def relay(call: Call[RelayGesture]) -> Pushed:
    asked = call.asked
    found = device.find(call.store, asked.terminal)
    if found is None or not policy.may_relay(call.store, call.device.id, asked.terminal):
        raise FORBIDDEN("this terminal has not named this server as its operating system's")
    if abs(asked.made_at_s - call.now_ns // 1_000_000_000) > SERVICE_SKEW_S:
        raise STALE(f"expected one of the last {SERVICE_SKEW_S} s")
    return _push(call, found, asked.gesture, "platform")


def _push(
    call: Call[MakeGesture] | Call[RelayGesture], terminal: device.Device, gesture: str, source: str
) -> Pushed:
    called = [payment for (payment,) in call.store.rows(
        _CALLED, terminal.account, gesture, source, terminal.id, terminal.id, terminal.id,
        call.now_ns,
    )]  # fmt: skip
    if not called:
        raise NOTHING_WAITS(f"nothing waits for this terminal's {gesture}")
    for payment in called:
        PAYMENTS.move(call.store, payment, "waiting", "pushed", call.now_ns,
                      second_terminal=terminal.id)  # fmt: skip
        told(call, payment)
    return Pushed(pushed=called)


_COUNT = """
    SELECT count(*) FROM service_push_payments WHERE account = ? AND expires_at_ns > ?
        AND state IN ('waiting', 'pushed', 'opened', 'held')"""
# A gesture's source: as the policy has it. A terminal never calls what it asked for itself.
_CALLED = """
    SELECT id FROM service_push_payments
    WHERE account = ? AND state = 'waiting' AND gesture = ? AND gesture_from IN (?, 'either')
        AND coalesce(second_terminal, ?) = ? AND first_terminal <> ? AND expires_at_ns > ?
    ORDER BY created_at_ns, id"""
