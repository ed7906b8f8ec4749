"""A share: its row, its states, and who is told of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ...ledger import Annex
from ...ledger.store import Store
from ..operation import Call, Moment
from ..states import StateMachine
from ..wire import instant
from . import lender, usage
from .wire import ShareView, State, Way

SHARES = StateMachine(
    "share", "service_shares",
    {
        "requested": ("connected", "cancelled", "expired"),
        "connected": ("keyed", "cancelled", "expired"),
        "keyed": ("running", "cancelled", "blocked", "expired"),
        "running": ("ended", "expired"),
        "ended": ("settled", "expired"),
        "settled": (), "cancelled": (), "blocked": (), "expired": (),
    },
    fixed=("account", "borrower", "sealing_key", "duration_s"),
)  # fmt: skip
OFFERS = StateMachine(
    "offer", "service_share_offers",
    {"open": ("accepted", "expired"), "accepted": (), "expired": ()},
    fixed=("share", "lender", "account", "octets", "unit", "price"),
)  # fmt: skip
WITH_HOLD = ("connected", "keyed", "running", "ended")


@dataclass(frozen=True, slots=True)
class Share:
    """A row, as it is now."""

    state: State
    account: str  # the borrower's
    borrower: str
    lender: str | None
    lender_account: str | None
    octets: int
    duration_s: int
    unit: str | None
    price: int | None
    sealing_key: str
    proof_digest: str | None
    subscriber: str | None
    failures: int
    verified_by: Way | None
    started_at_ns: int | None
    ended_at_ns: int | None
    used_octets: int
    first_run: int  # runs up to it were booked before the share ran
    seen_run: int  # runs up to it are counted
    alerted_percent: int
    fee: int | None
    lenders_part: int | None
    latitude: int | None
    longitude: int | None
    expires_at_ns: int


_COLUMNS = tuple(Share.__dataclass_fields__)[1:]


def hold_key(share: str) -> str:
    return f"share {share}"


def read(store: Store, share: str, now_ns: int) -> Share:
    return Share(*SHARES.read(store, share, now_ns, *_COLUMNS))


def view(share: str, found: Share) -> ShareView:
    remainder = None
    if found.fee is not None:
        owed = min(found.used_octets, found.octets)
        remainder = usage.remainder_of(owed, found.price or 0)
    return ShareView(
        share=share, state=found.state, borrower=found.borrower, lender=found.lender,
        octets=found.octets, used_octets=found.used_octets, unit=found.unit, price=found.price,
        fee=found.fee, remainder=remainder, lenders_part=found.lenders_part,
        subscriber=found.subscriber,
        sealing_key=found.sealing_key, verified_by=found.verified_by,
        expires_at=instant(found.expires_at_ns),
    )  # fmt: skip


def told(call: Call[Any] | Moment, share: str) -> ShareView:
    """What the share is now, told to both sides."""
    found = read(call.store, share, call.now_ns)
    about = view(share, found)
    for one in (found.borrower, found.lender):
        if one is not None:
            call.notify(one, "share", about)
    return about


def end(call: Call[Any] | Moment, share: str, found: Share, state: State) -> ShareView:
    """End what never ran: nothing is owed, what was held is released. Raises Problem."""
    SHARES.move(call.store, share, found.state, state, call.now_ns, latitude=None, longitude=None)
    if found.state in WITH_HOLD:
        release(call, share)
    return told(call, share)


def release(call: Call[Any] | Moment, share: str) -> None:
    """Void what is held for a share; what costs nothing has no hold."""
    if list(call.store.rows("SELECT 1 FROM holds WHERE idempotency_key = ?", hold_key(share))):
        call.ledger.void(hold_key(share))


def _astray(store: Store) -> Iterator[str]:
    """Shares that the ledger's holds and usage records do not bear out."""
    for share, state, fee, price, octets, hold, captured in store.rows(_HOLDS):
        expected: set[str | None] = {"voided", "expired", None}
        if state in WITH_HOLD:
            expected = {"held", "expired"} if usage.fee_of(octets, price) else {None}
        elif fee:
            expected = {"captured"}
        if hold not in expected:
            yield f"share {share}: {state}, its hold is {hold}"
        if (captured or 0) != (fee or 0):
            yield f"share {share}: its fee is {fee}, {captured} was captured"
    for share, subscriber, account, since, until, *runs, at, used, octets, price, fee in store.rows(
        _SETTLED
    ):
        found = usage.octets(store, account, subscriber, since, until, (runs[0], runs[1]), at)
        if used != found:
            yield f"share {share}: {used} octets settled, its usage records sum to {found}"
        if fee != usage.fee_of(min(used, octets), price):
            yield f"share {share}: a fee of {fee}, for {used} of {octets} octets at {price}"


ANNEX = Annex(
    "share",
    (
        (
            f"CREATE TABLE service_shares (id TEXT PRIMARY KEY, {SHARES.columns}, "
            "account TEXT NOT NULL, borrower TEXT NOT NULL REFERENCES service_devices (id), "
            "lender TEXT REFERENCES service_devices (id), lender_account TEXT, "
            "octets BIGINT NOT NULL CHECK (octets > 0), duration_s BIGINT NOT NULL, unit TEXT, "
            "price BIGINT, sealing_key TEXT NOT NULL, proof_digest TEXT, subscriber TEXT, "
            "failures BIGINT NOT NULL, verified_by TEXT, started_at_ns BIGINT, "
            "ended_at_ns BIGINT, used_octets BIGINT NOT NULL CHECK (used_octets >= 0), "
            "first_run BIGINT NOT NULL, seen_run BIGINT NOT NULL, "
            "alerted_percent BIGINT NOT NULL, fee BIGINT, "
            "lenders_part BIGINT CHECK (lenders_part BETWEEN 0 AND fee), "
            "latitude BIGINT, longitude BIGINT)",
            *SHARES.guards,
            # An address carries one share at a time: its usage belongs to nobody else.
            "CREATE UNIQUE INDEX service_shares_of_subscriber "
            "ON service_shares (lender_account, subscriber) "
            "WHERE state IN ('keyed', 'running')",
            f"CREATE TABLE service_share_offers (id TEXT PRIMARY KEY, {OFFERS.columns}, "
            "share TEXT NOT NULL REFERENCES service_shares (id), "
            "lender TEXT NOT NULL REFERENCES service_devices (id), account TEXT NOT NULL, "
            "octets BIGINT NOT NULL CHECK (octets > 0), unit TEXT NOT NULL, "
            "price BIGINT NOT NULL CHECK (price >= 0), UNIQUE (share, lender))",
            *OFFERS.guards,
            *lender.TABLES,
        ),
    ),
    (("shares are borne out by usage records and holds", _astray),
     ("shares go from state to state as agreed", SHARES.astray),
     ("offers go from state to state as agreed", OFFERS.astray)),
)  # fmt: skip

_HOLDS = """
    SELECT s.id, s.state, s.fee, s.price, s.octets, h.state, h.captured
    FROM service_shares s LEFT JOIN holds h ON h.idempotency_key = 'share ' || s.id
    ORDER BY s.id"""
_SETTLED = """
    SELECT id, subscriber, lender_account, started_at_ns, ended_at_ns, first_run, seen_run,
        changed_at_ns, used_octets, octets, price, fee
    FROM service_shares WHERE state = 'settled' ORDER BY id"""
