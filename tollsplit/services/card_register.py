"""The register of cards and payees: whose money a card stands for, and whom an identity means."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

from ..errors import CardError
from ..ledger import Annex
from ..ledger.store import Store
from . import device, secret
from .card import expect_number, masked
from .operation import Call, Operation, Service
from .problem import NOT_FOUND, UNFIT
from .role import only
from .wire import AccountName, Answer, Id, Line, Request

SECRET_KIND = "card"
Secret = Annotated[str, Meta(min_length=4, max_length=128)]
Number = Annotated[str, Meta(min_length=12, max_length=19)]


class RegisterCard(Request):
    """Say whose a card is; said again, it replaces what was said."""

    card: Number
    account: AccountName  # in the ledger: what is debited
    # What its holder is authenticated by; set anew it unblocks the card. null: it stays as it is,
    # and where there is none nobody is authenticated.
    secret: Secret | None = None
    associated: Id | None = None  # the device that is asked where another one asks for a transfer


class Card(Answer):
    card_account: str  # its number, masked as on receipts
    account: str
    associated: str | None


class RegisterPayee(Request):
    """Say which account an identity stands for; said again, it replaces what was said."""

    payee: Line  # the identity, as payers know it: a telephone number, a name
    account: AccountName


class Payee(Answer):
    payee: str
    account: str


@dataclass(frozen=True, slots=True)
class Holding:
    """What a card stands for."""

    number: str
    account: str
    associated: str | None
    authenticated_at_ns: int  # when its holder was, last
    is_blocked: bool  # by too many wrong secrets


def expect_card(number: str) -> str:
    """The number, if it can be a card's. Raises Problem UNFIT."""
    try:
        return expect_number(number, "card")
    except CardError as error:
        raise UNFIT(str(error), at="$.card") from None


def locked(store: Store, number: str) -> Holding | None:
    """A card that nobody else looks at so until the transaction ends; None: nobody has it."""
    for account, associated, at_ns in store.rows(
        _CARD + store.locking("service_cards"), number
    ):
        is_blocked = secret.is_blocked(store, SECRET_KIND, number)
        return Holding(number, account, associated, at_ns, is_blocked)
    return None


def account_of(store: Store, payee: str, unit: str) -> str | None:
    """The open account, in that unit, that an identity stands for."""
    for (account,) in store.rows(_PAYEE, payee, unit):
        return str(account)
    return None


def note_holder(store: Store, number: str, now_ns: int) -> None:
    """Note that a card's holder was authenticated."""
    store.write(_AUTHENTICATED, [(now_ns, number)])


def _register_card(call: Call[RegisterCard]) -> Card:
    asked = call.asked
    number = expect_card(asked.card)
    _expect_account(call.store, asked.account)
    if asked.associated is not None and device.find(call.store, asked.associated) is None:
        raise NOT_FOUND("no such device")
    call.store.write(_PUT_CARD, [
        (number, asked.account, asked.associated, call.now_ns)
    ])  # fmt: skip
    if call.prepared is not None:
        secret.put(call.store, SECRET_KIND, number, call.prepared, call.now_ns)
    return Card(card_account=masked(number), account=asked.account, associated=asked.associated)


def _hash(call: Call[RegisterCard]) -> str | None:
    return None if call.asked.secret is None else secret.make(call.asked.secret)


def _register_payee(call: Call[RegisterPayee]) -> Payee:
    _expect_account(call.store, call.asked.account)
    call.store.write(_PUT_PAYEE, [(call.asked.payee, call.asked.account)])
    return Payee(payee=call.asked.payee, account=call.asked.account)


def _expect_account(store: Store, account: str) -> None:
    if not list(store.rows(_ACCOUNT, account)):
        raise NOT_FOUND("no such account", at="$.account")


ANNEX = Annex(
    "cards",
    (
        (
            "CREATE TABLE service_cards (card TEXT PRIMARY KEY, account TEXT NOT NULL, "
            "associated TEXT, registered_at_ns BIGINT NOT NULL, "
            "authenticated_at_ns BIGINT NOT NULL)",
            "CREATE TABLE service_payees (payee TEXT PRIMARY KEY, account TEXT NOT NULL)",
        ),
    ),
)
REGISTER_CARD = Operation(
    "cards.register", "POST", "/cards", "Say whose a card is", RegisterCard, Card, _register_card,
    only("operator"), (NOT_FOUND,), before=_hash,
)  # fmt: skip
REGISTER_PAYEE = Operation(
    "cards.register-payee", "POST", "/payees", "Say which account an identity stands for",
    RegisterPayee, Payee, _register_payee, only("operator"), (NOT_FOUND,),
)  # fmt: skip
SERVICE = Service("cards", (REGISTER_CARD, REGISTER_PAYEE), ANNEX)

_ACCOUNT = "SELECT 1 FROM accounts WHERE name = ?"
_PUT_CARD = """
    INSERT INTO service_cards (card, account, associated, registered_at_ns, authenticated_at_ns)
    VALUES (?1, ?2, ?3, ?4, ?4) ON CONFLICT (card) DO UPDATE SET account = excluded.account,
        associated = excluded.associated, registered_at_ns = excluded.registered_at_ns"""
_PUT_PAYEE = """
    INSERT INTO service_payees (payee, account) VALUES (?, ?)
    ON CONFLICT (payee) DO UPDATE SET account = excluded.account"""
_PAYEE = """
    SELECT a.name FROM service_payees p JOIN accounts a ON a.name = p.account
    WHERE p.payee = ? AND a.unit = ? AND a.state = 'open'"""
_CARD = "SELECT account, associated, authenticated_at_ns FROM service_cards WHERE card = ?"
_AUTHENTICATED = "UPDATE service_cards SET authenticated_at_ns = ? WHERE card = ?"
