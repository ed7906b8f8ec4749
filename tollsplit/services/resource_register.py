"""Resources that are paid for, and who has paid for which."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated

from msgspec import Meta

from ..ledger import Annex, Transfer, append_only
from ..ledger.store import Store
from ..ledger.transfer import Provenance
from ..limits import BILLING_LICENCE_S_MAX
from ..model import Posting
from .operation import Call, Operation, Service
from .problem import NOT_FOUND, OVERDRAFT, UNFIT, WRONG_STATE, Kind
from .role import only
from .wire import AccountName, Amount, Answer, Request, Unit, instant, new_id, whole

Name = Annotated[
    str, Meta(min_length=1, max_length=64, pattern=whole(r"[A-Za-z0-9][A-Za-z0-9._-]*"))
]
Digest = Annotated[str, Meta(pattern=whole(r"[0-9a-f]{64}"))]
_YEAR_S = 366 * 24 * 3600
Period = Annotated[int, Meta(ge=1, le=10 * _YEAR_S)]
OfflinePeriod = Annotated[int, Meta(ge=0, le=BILLING_LICENCE_S_MAX)]

PRICE_CHANGED = Kind("price-changed", 409, "The price is another one")
_SECOND_NS = 1_000_000_000
_KEY = "resource-purchase "


class RegisterResource(Request):
    """Say what a resource costs; said again, it replaces what was said."""

    resource: Name
    account: AccountName  # in the ledger: who is paid
    amount: Amount
    unit: Unit
    period_s: Period  # how long a purchase is good for
    digest: Digest | None = None  # SHA-256 of its file; null: it is not compared
    offline_s: OfflinePeriod = 0  # how long a licence does without the server; 0: none is given


class Resource(Answer):
    resource: str
    amount: int
    unit: str
    period_s: int
    offline_s: int
    paid_until: datetime | None  # by the caller's account; null: it is not


class Look(Request):
    resource: Name


class Buy(Request):
    """Pay for a resource, at the price that was shown. What is paid for already is prolonged."""

    resource: Name
    amount: Amount
    unit: Unit


@dataclass(frozen=True, slots=True)
class Terms:
    """What is said of a resource."""

    name: str
    account: str
    amount: int
    unit: str
    period_s: int
    digest: str | None
    offline_s: int


def terms_of(store: Store, resource: str) -> Terms | None:
    for row in store.rows(_TERMS, resource):
        return Terms(*row)
    return None


def paid_until_ns(store: Store, account: str, resource: str) -> int:
    """Until when an account has paid for a resource; 0: it has not. What was paid back counts for
    nothing.
    """
    ((until,),) = store.rows(_PAID_UNTIL, account, resource)
    return int(until)


def _register(call: Call[RegisterResource]) -> Resource:
    asked = call.asked
    if not list(call.store.rows(_ACCOUNT, asked.account, asked.unit)):
        raise NOT_FOUND("no such account in this unit", at="$.account")
    call.store.write(_PUT, [
        (asked.resource, asked.account, asked.amount, asked.unit, asked.period_s, asked.digest,
         asked.offline_s)
    ])  # fmt: skip
    return _shown(call, _expect(call.store, asked.resource))


def _look(call: Call[Look]) -> Resource:
    return _shown(call, _expect(call.store, call.asked.resource))


def _buy(call: Call[Buy]) -> Resource:
    asked, store, account = call.asked, call.store, call.device.account
    terms = _expect(store, asked.resource)
    if (asked.amount, asked.unit) != (terms.amount, terms.unit):
        raise PRICE_CHANGED("look at the resource again", amount=terms.amount, unit=terms.unit)
    if account == terms.account:
        raise UNFIT("the account is the one that would be paid")
    purchase = new_id()
    posted = call.ledger.transfer(Transfer(
        f"{_KEY}{purchase}", "payment",
        (Posting(account, terms.unit, -terms.amount),
         Posting(terms.account, terms.unit, terms.amount)),
        f"resource {terms.name}", Provenance(service_request=purchase),
    ))  # fmt: skip
    # The payer's account is locked by now: of two purchases one prolongs the other.
    begins_ns = max(call.now_ns, paid_until_ns(store, account, terms.name))
    store.write(_PURCHASE, [
        (purchase, account, terms.name, terms.account, terms.amount, terms.unit,
         begins_ns + terms.period_s * _SECOND_NS, posted.transaction)
    ])  # fmt: skip
    return _shown(call, terms)


def _expect(store: Store, resource: str) -> Terms:
    terms = terms_of(store, resource)
    if terms is None:
        raise NOT_FOUND("no such resource", at="$.resource")
    return terms


def _shown(call: Call[RegisterResource] | Call[Look] | Call[Buy], terms: Terms) -> Resource:
    until_ns = paid_until_ns(call.store, call.device.account, terms.name)
    return Resource(
        resource=terms.name, amount=terms.amount, unit=terms.unit, period_s=terms.period_s,
        offline_s=terms.offline_s, paid_until=instant(until_ns) if until_ns > call.now_ns else None,
    )  # fmt: skip


def _astray(store: Store) -> Iterator[str]:
    for purchase, transaction in store.rows(_UNLIKE):
        yield f"purchase {purchase}: transaction {transaction} is not what was bought"
    for transaction, key in store.rows(_UNASKED):
        yield f"transaction {transaction}: {key}: nobody bought it"


ANNEX = Annex(
    "resources",
    (
        (
            "CREATE TABLE service_resources (resource TEXT PRIMARY KEY, account TEXT NOT NULL, "
            "amount BIGINT NOT NULL CHECK (amount > 0), unit TEXT NOT NULL, "
            "period_s BIGINT NOT NULL, digest TEXT, offline_s BIGINT NOT NULL)",
            "CREATE TABLE service_purchases (id TEXT PRIMARY KEY, account TEXT NOT NULL, "
            "resource TEXT NOT NULL, payee_account TEXT NOT NULL, amount BIGINT NOT NULL, "
            "unit TEXT NOT NULL, until_ns BIGINT NOT NULL, transaction_id BIGINT NOT NULL UNIQUE "
            "REFERENCES transactions (id))",
            "CREATE INDEX service_purchases_of_account ON service_purchases (account, resource)",
            *append_only("service_purchases", "purchases stay as they were made"),
        ),
    ),
    (("purchases were paid", _astray),),
)  # fmt: skip
REGISTER_RESOURCE = Operation(
    "resources.register", "POST", "/resources", "Say what a resource costs", RegisterResource,
    Resource, _register, only("operator"), (NOT_FOUND,),
)  # fmt: skip
LOOK = Operation(
    "resources.look", "GET", "/resources/{resource}", "What a resource costs, and whether it is "
    "paid for", Look, Resource, _look, only("terminal", "operator"), (NOT_FOUND,),
)  # fmt: skip
BUY = Operation(
    "resources.buy", "POST", "/resources/{resource}/purchases", "Pay for a resource", Buy, Resource,
    _buy, only("terminal"), (NOT_FOUND, PRICE_CHANGED, OVERDRAFT, WRONG_STATE, UNFIT),
)  # fmt: skip
SERVICE = Service("resources", (REGISTER_RESOURCE, LOOK, BUY), ANNEX)

_ACCOUNT = "SELECT 1 FROM accounts WHERE name = ? AND unit = ?"
_TERMS = """
    SELECT resource, account, amount, unit, period_s, digest, offline_s
    FROM service_resources WHERE resource = ?"""
_PUT = """
    INSERT INTO service_resources (resource, account, amount, unit, period_s, digest, offline_s)
    VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (resource) DO UPDATE SET account = excluded.account,
        amount = excluded.amount, unit = excluded.unit, period_s = excluded.period_s,
        digest = excluded.digest, offline_s = excluded.offline_s"""
_PURCHASE = """
    INSERT INTO service_purchases (id, account, resource, payee_account, amount, unit, until_ns,
        transaction_id)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?)"""
_PAID_UNTIL = """
    SELECT coalesce(max(p.until_ns), 0) FROM service_purchases p
    WHERE p.account = ? AND p.resource = ?
        AND NOT EXISTS (SELECT 1 FROM transactions t WHERE t.reverses = p.transaction_id)"""
# Bought, and not by a transaction with just these two postings.
_UNLIKE = """
    SELECT s.id, s.transaction_id FROM service_purchases s
    LEFT JOIN transactions t ON t.id = s.transaction_id
        AND t.idempotency_key = 'transfer resource-purchase ' || s.id
    WHERE t.id IS NULL OR 2 <> (
        SELECT count(*) FROM postings p JOIN accounts a ON a.id = p.account_id
        WHERE p.transaction_id = t.id AND a.unit = s.unit
            AND ((a.name = s.account AND p.amount = -s.amount)
                OR (a.name = s.payee_account AND p.amount = s.amount)))
    ORDER BY s.id"""
_UNASKED = """
    SELECT t.id, t.idempotency_key FROM transactions t
    WHERE substr(t.idempotency_key, 1, 27) = 'transfer resource-purchase ' AND NOT EXISTS (
        SELECT 1 FROM service_purchases s
        WHERE t.idempotency_key = 'transfer resource-purchase ' || s.id)
    ORDER BY t.id"""
