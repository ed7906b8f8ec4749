"""Push payment: one terminal asks, another one of the same account is shown it and pays.

The second terminal never asks for anything: the payment is pushed to it, where the account's policy
says so only after a gesture that calls it. A gesture proves nothing; whoever agrees signs with the
terminal's key, repeats what is paid to whom, and gives the account's secret.
"""

from __future__ import annotations

from ..operation import Operation, Service
from ..problem import EXPIRED, NOT_FOUND, OVERDRAFT, WRONG_STATE
from ..role import only
from . import asking, authentication, paying, policy
from .page import PAGES
from .payment import ANNEX, PAYMENTS, sweep
from .policy import Settings
from .wire import (
    ALTERED,
    DENIED,
    NOT_AUTHENTICATED,
    NOTHING_WAITS,
    OTHER_ACCOUNT,
    PENDING,
    SLOW_DOWN,
    STALE,
    TOKEN_EXPIRED,
    WRONG_CODE,
    Ask,
    Authorise,
    MakeGesture,
    Named,
    Open,
    PaymentView,
    Pushed,
    RelayGesture,
    Take,
)

_TERMINAL, _PAYEE = only("terminal"), only("merchant")
_HERE = (NOT_FOUND, WRONG_STATE, EXPIRED)
ASK = Operation(
    "push-payment.ask", "POST", "/push-payments", "Ask for a payment", Ask,
    PaymentView, asking.ask, _TERMINAL, (NOT_FOUND, WRONG_STATE, OTHER_ACCOUNT), 201,
)
GESTURE = Operation(
    "push-payment.gesture", "POST", "/push-payments/gestures",
    "Call what waits for a gesture", MakeGesture, Pushed, asking.gesture, _TERMINAL,
    (NOTHING_WAITS, *_HERE),
)
RELAY = Operation(
    "push-payment.relay", "POST", "/push-payments/relayed-gestures",
    "Tell of a terminal's gesture", RelayGesture, Pushed, asking.relay,
    only("platform"), (NOTHING_WAITS, STALE, *_HERE),
)
SHOW = Operation(
    "push-payment.show", "GET", "/push-payments/{payment}", "What became of it",
    Named, PaymentView, paying.show, _TERMINAL | _PAYEE, (NOT_FOUND,),
)
POLL = Operation(
    "push-payment.poll", "POST", "/push-payments/{payment}/poll",
    "Whether somebody has agreed", Named, PaymentView, paying.poll, _TERMINAL,
    (PENDING, SLOW_DOWN, TOKEN_EXPIRED, DENIED, *_HERE),
)
OPEN = Operation(
    "push-payment.open", "POST", "/push-payments/{payment}/open",
    "Open the payment's page", Open, PaymentView, paying.open_page, _TERMINAL,
    (WRONG_CODE, *_HERE),
)
HOLD = Operation(
    "push-payment.hold", "POST", "/push-payments/{payment}/hold",
    "Set the amount aside", Named, PaymentView, paying.hold, _TERMINAL,
    (OVERDRAFT, *_HERE),
)
AUTHORISE = Operation(
    "push-payment.authorise", "POST", "/push-payments/{payment}/authorise",
    "Agree to the payment", Authorise, PaymentView, paying.authorise, _TERMINAL,
    (ALTERED, NOT_AUTHENTICATED, *_HERE), before=authentication.compare,
)
CAPTURE = Operation(
    "push-payment.capture", "POST", "/push-payments/{payment}/capture",
    "Take what was agreed to", Take, PaymentView, paying.capture, _PAYEE, _HERE,
)
DECLINE = Operation(
    "push-payment.decline", "POST", "/push-payments/{payment}/decline",
    "Refuse to pay", Named, PaymentView, paying.decline, _TERMINAL, _HERE,
)
VOID = Operation(
    "push-payment.void", "POST", "/push-payments/{payment}/void",
    "Take it back", Named, PaymentView, paying.void, _TERMINAL | _PAYEE, _HERE,
)
SERVICE = Service(
    "push-payment",
    (ASK, GESTURE, RELAY, policy.POLICY, policy.TRUST, authentication.SECRET, SHOW, POLL, OPEN,
     HOLD, AUTHORISE, CAPTURE, DECLINE, VOID),
    ANNEX, (PAYMENTS,), sweep=sweep, settings=Settings, pages=PAGES,
)  # fmt: skip
