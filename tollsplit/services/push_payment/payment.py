"""A payment: its row, its states, and who is told of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ...ledger import Annex
from ...ledger.store import Store
from .. import device
from ..operation import Call, Moment
from ..states import StateMachine
from ..wire import instant
from . import policy
from .policy import Opening
from .wire import PaymentView, State

PAYMENTS = StateMachine(
    "payment", "service_push_payments",
    {
        "waiting": ("pushed", "voided", "expired"),  # for the second one's gesture
        "pushed": ("opened", "declined", "voided", "blocked", "expired"),
        "opened": ("held", "declined", "voided", "blocked", "expired"),
        "held": ("authorised", "declined", "voided", "blocked", "expired"),
        "authorised": ("captured", "voided", "expired"),
        "captured": (), "declined": (), "voided": (), "blocked": (), "expired": (),
    },
    fixed=("account", "first_terminal", "payee", "unit", "amount", "binding_message",
           "code_digest", "gesture", "gesture_from", "opening", "capture"),
)  # fmt: skip
UNDECIDED = ("waiting", "pushed", "opened", "held")
WITH_HOLD = ("held", "authorised")

@dataclass(frozen=True, slots=True)
class Payment:
    """A row, as it is now."""

    state: State
    account: str
    first_terminal: str
    second_terminal: str | None
    payee: str
    unit: str
    amount: int
    binding_message: str
    code_digest: str
    gesture: str
    gesture_from: str
    opening: Opening
    capture: str
    captured: int
    failures: int
    poll_s: int
    polled_at_ns: int
    expires_at_ns: int


_COLUMNS = tuple(Payment.__dataclass_fields__)[1:]


def hold_key(payment: str) -> str:
    return f"push-payment {payment}"


def read(store: Store, payment: str, now_ns: int) -> Payment:
    return Payment(*PAYMENTS.read(store, payment, now_ns, *_COLUMNS))


def view(payment: str, found: Payment) -> PaymentView:
    return PaymentView(
        id=payment, state=found.state, first_terminal=found.first_terminal,
        second_terminal=found.second_terminal, payee=found.payee, unit=found.unit,
        amount=found.amount, binding_message=found.binding_message, gesture=found.gesture,
        opening=found.opening, capture=found.capture, captured=found.captured,
        expires_at=instant(found.expires_at_ns), poll_s=found.poll_s,
    )  # fmt: skip


def told(call: Call[Any] | Moment, payment: str) -> PaymentView:
    """What the payment is now, told to all that it concerns."""
    found = read(call.store, payment, call.now_ns)
    about = view(payment, found)
    concerned = [found.first_terminal]
    if found.second_terminal and found.state != "waiting":
        concerned.append(found.second_terminal)
    if found.capture == "manual" and found.state in ("authorised", "captured", "voided"):
        concerned += [one.id for one in device.of_account(call.store, found.payee, "merchant")]
    for one in concerned:
        call.notify(one, "push-payment", about)
    return about


def sweep(moment: Moment) -> None:
    """Release what is held for payments whose time is over, and say that it is."""
    for payment, state in PAYMENTS.overdue(moment.store, moment.now_ns, "state"):
        if state in WITH_HOLD:
            moment.ledger.void(hold_key(payment))
        told(moment, payment)


def _astray(store: Store) -> Iterator[str]:
    """Payments that the ledger's holds and transactions do not bear out."""
    for payment, state, amount, captured, held, held_state, held_captured in store.rows(_CHECK):
        expected = {"captured": ("captured",), "held": ("held", "expired"),
                    "authorised": ("held", "expired")}  # fmt: skip
        if held_state not in expected.get(state, (None, "voided", "expired")):
            yield f"payment {payment}: {state}, its hold is {held_state}"
        if held is not None and held != amount:
            yield f"payment {payment}: of {amount}, its hold is of {held}"
        if captured != (held_captured or 0):
            yield f"payment {payment}: {captured} captured, by its hold {held_captured}"
    for payment, captured, payee in store.rows(_UNPAID):
        yield f'payment {payment}: {captured} captured, and it was not paid to "{payee}"'
    for (key,) in store.rows(_UNASKED):
        yield f'hold "{key}": nobody asked for it'


ANNEX = Annex(
    "push-payment",
    (
        (
            f"CREATE TABLE service_push_payments (id TEXT PRIMARY KEY, {PAYMENTS.columns}, "
            "account TEXT NOT NULL, first_terminal TEXT NOT NULL REFERENCES service_devices (id), "
            "second_terminal TEXT REFERENCES service_devices (id), payee TEXT NOT NULL, "
            "unit TEXT NOT NULL, amount BIGINT NOT NULL CHECK (amount > 0), "
            "binding_message TEXT NOT NULL, code_digest TEXT NOT NULL, gesture TEXT NOT NULL, "
            "gesture_from TEXT NOT NULL, opening TEXT NOT NULL, capture TEXT NOT NULL, "
            "captured BIGINT NOT NULL CHECK (captured BETWEEN 0 AND amount), "
            "failures BIGINT NOT NULL, poll_s BIGINT NOT NULL, polled_at_ns BIGINT NOT NULL)",
            *PAYMENTS.guards,
            "CREATE INDEX service_push_payments_of_account ON service_push_payments (account)",
            *policy.TABLES,
        ),
    ),
    (("payments are borne out by the ledger", _astray),
     ("payments go from state to state as agreed", PAYMENTS.astray),
     ("policies say what they may", policy.astray)),
)  # fmt: skip

_CHECK = """
    SELECT p.id, p.state, p.amount, p.captured, h.amount, h.state, h.captured
    FROM service_push_payments p
    LEFT JOIN holds h ON h.idempotency_key = 'push-payment ' || p.id ORDER BY p.id"""
# Captured, and not by a transaction with just these two postings.
_UNPAID = """
    SELECT s.id, s.captured, s.payee FROM service_push_payments s
    JOIN holds h ON h.idempotency_key = 'push-payment ' || s.id
    WHERE s.state = 'captured' AND 2 <> (
        SELECT count(*) FROM postings p JOIN accounts a ON a.id = p.account_id
        WHERE p.transaction_id = h.transaction_id AND a.unit = s.unit
            AND ((a.name = s.account AND p.amount = -s.captured)
                OR (a.name = s.payee AND p.amount = s.captured)))
    ORDER BY s.id"""
_UNASKED = """
    SELECT h.idempotency_key FROM holds h
    WHERE substr(h.idempotency_key, 1, 13) = 'push-payment ' AND NOT EXISTS (
        SELECT 1 FROM service_push_payments s
        WHERE h.idempotency_key = 'push-payment ' || s.id)
    ORDER BY h.id"""
