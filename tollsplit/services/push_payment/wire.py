"""What terminals, payees and operating systems' servers ask of payments, and what they are told."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from msgspec import Meta

from ..problem import Kind
from ..wire import VISIBLE, AccountName, Amount, Answer, Id, Line, Request, whole
from .policy import Opening

State = Literal["waiting", "pushed", "opened", "held", "authorised", "captured", "declined",
                "voided", "blocked", "expired"]  # fmt: skip
Money = Annotated[str, Meta(pattern=whole(r"[A-Z]{3}/1000000"))]
Secret = Annotated[str, Meta(min_length=4, max_length=128)]
Digest = Annotated[str, Meta(pattern=whole(r"[0-9a-f]{64}"))]
# What two screens are compared by.
Words = Annotated[str, Meta(min_length=1, max_length=64, pattern=whole(VISIBLE))]


class Ask(Request):
    """Ask for a payment by another terminal of the same account."""

    first_terminal: Id  # the one that asks
    payee: AccountName
    unit: Money
    amount: Amount
    # SHA-256 of the code that the first terminal shows. The code stays there.
    code_digest: Digest
    second_terminal: Id | None = None  # None: the one that makes the gesture, or the only other
    binding_message: Words | None = None  # None: the service makes one up


class Named(Request):
    payment: Id


class MakeGesture(Request):
    """Call what waits for such a gesture to the terminal that made it."""

    gesture: Literal["swipe", "tap", "lift"]


class RelayGesture(Request):
    """Tell of a gesture that a terminal made, as its operating system's server."""

    terminal: Id
    gesture: Literal["swipe", "tap", "lift"]
    made_at_s: Annotated[int, Meta(ge=0, le=2**53)]  # since 1970-01-01 UTC


class Open(Request):
    """Open the payment's page. code: what the first terminal showed."""

    payment: Id
    code: Line | None = None


class Authorise(Request):
    """Agree to a payment: to this amount, to this payee, by the account's secret."""

    payment: Id
    secret: Secret
    payee: AccountName
    unit: Money
    amount: Amount
    binding_message: Words


class Take(Request):
    """Capture what was agreed to. amount: None: all of it; the rest is released."""

    payment: Id
    amount: Amount | None = None


class PaymentView(Answer):
    id: str
    state: State
    first_terminal: str
    second_terminal: str | None
    payee: str
    unit: str
    amount: int
    binding_message: str
    gesture: str
    opening: Opening
    capture: str
    captured: int  # of the amount
    expires_at: datetime
    poll_s: int  # how often the first terminal may ask


class Pushed(Answer):
    pushed: list[str]  # payments that this gesture called


OTHER_ACCOUNT = Kind("other-account", 403, "The terminals are not of one account")
NOTHING_WAITS = Kind("nothing-waits", 404, "No payment waits for this gesture")
STALE = Kind("stale-gesture", 410, "This gesture is too long ago")
WRONG_CODE = Kind("wrong-code", 403, "This is not the code that the first terminal shows")
ALTERED = Kind("altered", 409, "This is not the payment that was asked for")
NOT_AUTHENTICATED = Kind("not-authenticated", 403, "The payment was not authenticated")
# As OpenID CIBA and RFC 8628 call them; `error` has their own spelling.
PENDING = Kind("authorization-pending", 400, "Nobody has agreed yet")
SLOW_DOWN = Kind("slow-down", 400, "Asked too often")
TOKEN_EXPIRED = Kind("expired-token", 400, "Its time is over")
DENIED = Kind("access-denied", 400, "It was not agreed to")
