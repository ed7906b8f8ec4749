"""Who agrees to a payment: beside the terminal's key, whoever has the account's secret.

Wrong ones are counted for the account, not for the payment: new payments give no new guesses.
"""

from __future__ import annotations

from ...ledger.store import Store
from .. import secret
from ..operation import Call, Operation
from ..role import only
from ..secret import Compared
from ..wire import AccountName, Answer, Request
from .wire import Authorise, Secret

_KIND = "push-payment"


class SetSecret(Request):
    """Say what an account's payments are agreed to by; said again, it unblocks the account."""

    account: AccountName
    secret: Secret


class SecretSet(Answer):
    account: str


def compare(call: Call[Authorise]) -> Compared:
    """Before the transaction: compare what was given with the secret of the caller's account."""
    return secret.compare(call.store, _KIND, call.device.account, call.asked.secret)


def is_blocked(store: Store, account: str) -> bool:
    return secret.is_blocked(store, _KIND, account)


def _hash(call: Call[SetSecret]) -> str:
    return secret.make(call.asked.secret)


def _set(call: Call[SetSecret]) -> SecretSet:
    secret.put(call.store, _KIND, call.asked.account, call.prepared, call.now_ns)
    return SecretSet(call.asked.account)


SECRET = Operation(
    "push-payment.secret", "POST", "/push-payments/secrets", "Set an account's secret",
    SetSecret, SecretSet, _set, only("operator"), before=_hash,
)
