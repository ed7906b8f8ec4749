"""Service D: billing status codes, by which a resource knows that its operation is paid for.

The steps of the specification: 1 and 2 are the terminal's (`interface`, `billing_terminal`); 3 is
`issue`; 4 and 5 are `verify`. `licence` is the alternative for who is offline.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta, Struct

from ..ledger import Annex
from ..limits import BILLING_CODE_S
from . import device, secret
from .operation import Call, Operation, Service
from .problem import FORBIDDEN, Kind, Problem
from .resource_register import Digest, Name, paid_until_ns, terms_of
from .role import only
from .states import StateMachine
from .verdict import Licence, Verdict
from .wire import Answer, Id, Line, Request, instant, new_id, whole

# 128 random bits have 22 characters.
Code = Annotated[str, Meta(pattern=whole(r"[A-Za-z0-9_-]{22}"))]

NOT_PAID = Kind("not-paid", 402, "This resource is not paid for")
# One word for whatever is wrong with a code: nothing to learn from it.
PROHIBITED = Kind("prohibited", 403, "The operation is prohibited")
_SECOND_NS = 1_000_000_000


class Settings(Struct, frozen=True, forbid_unknown_fields=True):
    """[billing-auth] of the settings."""

    code_s: Annotated[int, Meta(ge=1, le=BILLING_CODE_S)] = BILLING_CODE_S  # how long a code lives
    # The file of the private key that verdicts and licences are signed with; null: none are.
    key: str | None = None


class Issue(Request):
    """Ask for a code, on behalf of a resource that asked the caller."""

    resource: Name
    operation: Line
    device: Id  # the resource's own: who will have the code verified
    nonce: Code  # the resource's, of this one question
    digest: Digest | None = None  # SHA-256 of the resource's file, as the terminal finds it


class Issued(Answer):
    code: str
    expires_at: datetime


class Verify(Request):
    """Have a code verified, by the resource that it was asked for. It is used up by that."""

    code: Code
    resource: Name
    operation: Line
    nonce: Code


class Allowed(Answer):
    resource: str
    operation: str
    device: str
    account: str
    nonce: str
    signature: str | None  # of the server, over all of it (see verdict.Verdict)


class Licensed(Answer):
    resource: str
    device: str
    account: str
    serial: str
    not_before_ns: int
    expires_at_ns: int
    signature: str  # of the server, over all of it (see verdict.Licence)


CODES = StateMachine(
    "billing status code", "service_billing_codes",
    {"issued": ("passed", "failed", "expired"), "passed": (), "failed": (), "expired": ()},
    fixed=("code_digest", "account", "terminal", "resource", "operation", "device", "nonce_digest"),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Bound:
    """What a code is bound to."""

    account: str
    resource: str
    operation: str
    device: str
    nonce_digest: str


# --- 3: paid or not ---------------------------------------------------------------------


def _issue(call: Call[Issue]) -> Issued:
    asked, store, account = call.asked, call.store, call.device.account
    resource = device.find(store, asked.device)
    # A copy on another user's terminal brings the key of the user that it was taken from.
    if resource is None or resource.role != "resource" or resource.account != account:
        raise PROHIBITED("this resource is not this account's")
    terms = terms_of(store, asked.resource)
    if terms is None or paid_until_ns(store, account, asked.resource) <= call.now_ns:
        raise NOT_PAID("buy it first")
    if terms.digest is not None and terms.digest != asked.digest:
        raise PROHIBITED("this is not the resource as it was registered; install it anew")
    code = secret.new_code()
    lifetime_s = call.setting(Settings).code_s
    CODES.begin(
        store, new_id(), call.now_ns, lifetime_s, code_digest=secret.digest(code),
        account=account, terminal=call.device.id, resource=asked.resource,
        operation=asked.operation, device=resource.id, nonce_digest=secret.digest(asked.nonce),
    )  # fmt: skip
    return Issued(code=code, expires_at=instant(call.now_ns + lifetime_s * _SECOND_NS))


# --- 4, 5: passed or failed -------------------------------------------------------------


def _verify(call: Call[Verify]) -> Allowed | Problem:
    asked = call.asked
    if not _use_up(call):
        return PROHIBITED("expected a fresh code of this resource")
    verdict = Verdict(asked.resource, asked.operation, call.device.id, call.device.account,
                      asked.nonce)  # fmt: skip
    return Allowed(
        resource=verdict.resource, operation=verdict.operation, device=verdict.device,
        account=verdict.account, nonce=verdict.nonce, signature=_signed(call, verdict.text),
    )  # fmt: skip


def _use_up(call: Call[Verify]) -> bool:
    """Whether a code passes. Once it was shown, whoever showed it, it is good for nothing more."""
    asked, store = call.asked, call.store
    for row, state, *bound in store.rows(_CODE, secret.digest(asked.code)):
        if state != "issued":
            return False
        passes = _is_callers(call, _Bound(*bound)) and (
            paid_until_ns(store, call.device.account, asked.resource) > call.now_ns)
        try:
            CODES.move(store, row, "issued", "passed" if passes else "failed", call.now_ns)
        except Problem:  # it has expired, or another one was faster
            return False
        return passes
    return False


def _is_callers(call: Call[Verify], bound: _Bound) -> bool:
    asked = call.asked
    return (
        (bound.account, bound.device) == (call.device.account, call.device.id)
        and (bound.resource, bound.operation) == (asked.resource, asked.operation)
        and secret.is_same(asked.nonce, bound.nonce_digest)
    )


# --- for who is offline -----------------------------------------------------------------


def _licence(call: Call[Verify]) -> Licensed | Problem:
    """A licence instead of one operation, where the resource's terms allow it."""
    asked, account = call.asked, call.device.account
    if not _use_up(call):
        return PROHIBITED("expected a fresh code of this resource")
    terms = terms_of(call.store, asked.resource)
    if terms is None or not terms.offline_s:
        return FORBIDDEN("this resource is not licensed for use offline")
    expires_at_ns = min(call.now_ns + terms.offline_s * _SECOND_NS,
                        paid_until_ns(call.store, account, asked.resource))  # fmt: skip
    licence = Licence(asked.resource, call.device.id, account, new_id(), call.now_ns, expires_at_ns)
    signature = _signed(call, licence.text)
    if signature is None:
        return FORBIDDEN("this server signs no licences")
    return Licensed(
        resource=licence.resource, device=licence.device, account=account, serial=licence.serial,
        not_before_ns=licence.not_before_ns, expires_at_ns=expires_at_ns, signature=signature,
    )  # fmt: skip


def _signed(call: Call[Any], text: str) -> str | None:
    """The server's signature; None: it has no key."""
    from ..ledger.signing import read_signer

    key = call.setting(Settings).key
    return None if key is None else read_signer(Path(key)).sign(text)


ANNEX = Annex(
    "billing-auth",
    (
        (
            f"CREATE TABLE service_billing_codes (id TEXT PRIMARY KEY, {CODES.columns}, "
            "code_digest TEXT NOT NULL UNIQUE, account TEXT NOT NULL, terminal TEXT NOT NULL, "
            "resource TEXT NOT NULL, operation TEXT NOT NULL, device TEXT NOT NULL, "
            "nonce_digest TEXT NOT NULL)",
            *CODES.guards,
        ),
    ),
    (("codes go from state to state as agreed", CODES.astray),),
)
ISSUE = Operation(
    "billing.issue", "POST", "/billing/codes", "Ask for a billing status code", Issue, Issued,
    _issue, only("terminal"), (NOT_PAID, PROHIBITED), status=201,
)  # fmt: skip
VERIFY = Operation(
    "billing.verify", "POST", "/billing/verifications", "Have a billing status code verified",
    Verify, Allowed, _verify, only("resource"), (PROHIBITED,),
)  # fmt: skip
LICENCE = Operation(
    "billing.licence", "POST", "/billing/licences", "Take a licence for a billing status code",
    Verify, Licensed, _licence, only("resource"), (PROHIBITED,), status=201,
)  # fmt: skip
SERVICE = Service("billing-auth", (ISSUE, VERIFY, LICENCE), ANNEX, (CODES,), settings=Settings)

_CODE = """
    SELECT id, state, account, resource, operation, device, nonce_digest
    FROM service_billing_codes WHERE code_digest = ?"""
