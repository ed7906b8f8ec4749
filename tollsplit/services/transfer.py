"""Service B: a transfer from the account of a smart card that a device has read.

The steps of the specification: 1 to 3 are the device's (see `tollsplit transfer pay`); 4 and 5 are
`ask`; 6 is `authenticate`; 7 is `confirm`; 8 is `confirm_associated`; 9 is `_book`, which each of
them may come to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from msgspec import Struct, field

from ..errors import MissingError, OverdraftError, StateError
from ..ledger import Annex, Transfer
from ..ledger.store import Store
from ..ledger.transfer import Provenance
from ..limits import TRANSFER_WAIT_S
from ..model import Posting
from . import card_register, secret
from .card import masked
from .card_register import Number, Secret
from .operation import Call, Operation, Service
from .problem import (
    EXPIRED,
    FORBIDDEN,
    NOT_FOUND,
    OVERDRAFT,
    UNFIT,
    WRONG_STATE,
    Kind,
    Problem,
)
from .role import only
from .states import StateMachine
from .wire import AccountName, Amount, Answer, Id, Line, Request, Unit, instant, new_id

# Which of the optional steps have to be gone through: each takes in those before it.
Steps = Literal["none", "authenticate", "confirm", "associate"]

NOT_AUTHENTICATED = Kind("not-authenticated", 403, "The card's holder is not authenticated")
ALTERED = Kind("altered", 409, "What was confirmed is not what was asked for")


# A hundred yuan: what a thief of a number may have before its holder is asked.
_SMALL_AMOUNTS: dict[Unit, Amount] = {"CNY/1000000": 100_000_000}


class Settings(Struct, frozen=True, forbid_unknown_fields=True):
    """[transfer] of the settings: which steps apply to which amounts."""

    # By unit: up to this much in all, since the card's holder was last authenticated, is small.
    # Units that are not named have no small amounts.
    small_amounts: dict[Unit, Amount] = field(default_factory=lambda: dict(_SMALL_AMOUNTS))
    small: Steps = "none"
    # A card's number is no secret, so "none" is no choice here.
    above: Literal["authenticate", "confirm", "associate"] = "associate"


class Ask(Request):
    """Ask for a transfer from a card's account to a payee."""

    card: Number
    payee: Line
    amount: Amount
    unit: Unit
    device: Id | None = None  # the device's own identifier; it has to be the one that signs


class Confirmation(Answer):
    """The four fields that a person sees before it is said yes or no."""

    card_account: str  # the card's number, masked as on receipts
    amount: int
    unit: str
    payee: str
    payee_account: str


class TransferState(Answer):
    transfer: str
    state: str
    expires_at: datetime | None  # of a state that waits
    confirmation: Confirmation | None  # where one is waited for, and of what was booked


class Read(Request):
    transfer: Id


class Authenticate(Request):
    """Prove to be the card's holder."""

    transfer: Id
    secret: Secret


class Confirm(Request):
    """Say yes or no to what was shown, and what that was."""

    transfer: Id
    accept: bool
    card_account: Line
    amount: Amount
    unit: Unit
    payee: Line
    payee_account: AccountName


TRANSFERS = StateMachine(
    "transfer", "service_transfers",
    {
        "asked": ("authenticating", "booked", "refused", "expired"),
        "authenticating": ("confirming", "booked", "refused", "expired"),
        "confirming": ("confirming-associated", "booked", "denied", "refused", "expired"),
        "confirming-associated": ("booked", "denied", "refused", "expired"),
        "booked": (), "denied": (), "refused": (), "expired": (),
    },
    fixed=("device", "card", "card_account", "associated", "payee", "payee_account", "amount",
           "unit", "steps"),
)  # fmt: skip
_WAITING_FOR_ASSOCIATED = "confirming-associated"


@dataclass(frozen=True, slots=True)
class _Asked:
    """A transfer as it was asked for."""

    state: str  # now
    id: str
    device: str
    card: str
    card_account: str | None  # None: no such card
    associated: str | None
    payee: str
    payee_account: str
    amount: int
    unit: str
    steps: Steps
    expires_at_ns: int

    @property
    def confirmation(self) -> Confirmation:
        return Confirmation(
            card_account=masked(self.card), amount=self.amount, unit=self.unit, payee=self.payee,
            payee_account=self.payee_account,
        )  # fmt: skip

    @property
    def key(self) -> str:
        """The ledger's idempotency key."""
        return f"{_KEY}{self.id}"


_KEY = "card-transfer "
_COLUMNS = ("id", "device", "card", "card_account", "associated", "payee", "payee_account",
            "amount", "unit", "steps", "expires_at_ns")  # fmt: skip


# --- 4, 5: the service gets a transfer and finds the payee ------------------------------


def _ask(call: Call[Ask]) -> TransferState | Problem:
    asked, store = call.asked, call.store
    number = card_register.expect_card(asked.card)
    if asked.device not in (None, call.device.id):
        raise FORBIDDEN("the device identifier is not that of the device that signs")
    payee_account = card_register.account_of(store, asked.payee, asked.unit)
    if payee_account is None:
        raise NOT_FOUND("no account matches this payee's identity, in this unit", at="$.payee")
    card_account = associated = None
    # Of a card that nobody has, and of a blocked one: it fails at the secret, as others do.
    steps: Steps = "associate"
    # Two transfers of one card are one after the other, or each would find room for itself.
    card = card_register.locked(store, number)
    if card is not None:
        card_account, associated = card.account, card.associated
        if not card.is_blocked:
            steps = _steps(call, card)
    transfer = new_id()
    TRANSFERS.begin(
        store, transfer, call.now_ns, TRANSFER_WAIT_S, device=call.device.id, card=number,
        card_account=card_account, associated=associated, payee=asked.payee,
        payee_account=payee_account, amount=asked.amount, unit=asked.unit, steps=steps,
    )  # fmt: skip
    found = _read(store, transfer, call.now_ns)
    if steps == "none":
        return _book(call, found)
    return _wait(call, found, "authenticating")


def _steps(call: Call[Ask], card: card_register.Holding) -> Steps:
    """What the policy asks for. Many small amounts count as their sum."""
    settings, asked = call.setting(Settings), call.asked
    ((unproven,),) = call.store.rows(
        _UNPROVEN, card.number, asked.unit, card.authenticated_at_ns)
    is_small = int(unproven) + asked.amount <= settings.small_amounts.get(asked.unit, 0)
    return settings.small if is_small else settings.above


# --- 6: authentication ------------------------------------------------------------------


def _compare(call: Call[Authenticate]) -> secret.Compared:
    """Before the transaction, for it takes long."""
    found = _read(call.store, call.asked.transfer, call.now_ns)
    return secret.compare(call.store, card_register.SECRET_KIND, found.card, call.asked.secret)


def _authenticate(call: Call[Authenticate]) -> TransferState | Problem:
    store = call.store
    found = _read(store, call.asked.transfer, call.now_ns)
    if found.device != call.device.id:
        raise NOT_FOUND("no such transfer")
    _expect_state(found, "authenticating")
    if (refusal := _refused_anew(call, found)) is not None:
        return refusal
    if not secret.settle(store, call.prepared, call.now_ns):
        return NOT_AUTHENTICATED("expected the secret of a card that is not blocked")
    card_register.note_holder(store, found.card, call.now_ns)
    if found.steps == "authenticate":
        return _book(call, found)
    return _wait(call, found, "confirming")


# --- 7, 8: confirmations ----------------------------------------------------------------


def _confirm(call: Call[Confirm]) -> TransferState | Problem:
    found = _answered(call, "confirming", lambda transfer: transfer.device)
    if not isinstance(found, _Asked):
        return found
    # Every request is signed, so the device's identifier is known whether it was sent or not.
    if found.steps == "confirm" or found.device == found.associated:
        return _book(call, found)
    if found.associated is None:
        TRANSFERS.move(call.store, found.id, found.state, "refused", call.now_ns)
        return FORBIDDEN("the card has no associated device that could confirm it")
    told = _wait(call, found, _WAITING_FOR_ASSOCIATED)
    call.notify(found.associated, "transfer.confirm", told)
    return told


def _confirm_associated(call: Call[Confirm]) -> TransferState | Problem:
    found = _answered(call, _WAITING_FOR_ASSOCIATED, lambda transfer: transfer.associated)
    if not isinstance(found, _Asked):
        return found
    return _book(call, found)


def _answered(
    call: Call[Confirm], state: str, who: Callable[[_Asked], str | None]
) -> _Asked | TransferState | Problem:
    """The transfer, where the device that was asked says yes to it as it is."""
    asked = call.asked
    found = _read(call.store, asked.transfer, call.now_ns)
    if call.device.id != who(found):
        raise NOT_FOUND("no such transfer waits for this device")
    _expect_state(found, state)
    seen = Confirmation(
        card_account=asked.card_account, amount=asked.amount, unit=asked.unit, payee=asked.payee,
        payee_account=asked.payee_account,
    )  # fmt: skip
    if seen != found.confirmation:
        TRANSFERS.move(call.store, found.id, state, "refused", call.now_ns)
        _tell(call, found)
        return ALTERED("the transfer is refused; ask for it again and look at every field")
    if not asked.accept:
        TRANSFERS.move(call.store, found.id, state, "denied", call.now_ns)
        return _tell(call, found)
    return _refused_anew(call, found) or found


def _refused_anew(call: Call[Authenticate] | Call[Confirm], found: _Asked) -> Problem | None:
    """Refuse it where the card stands for another account by now, or has another device: whoever
    had it registered anew had a reason, a stolen telephone perhaps.
    """
    card = card_register.locked(call.store, found.card)
    now = (card.account, card.associated) if card else (None, None)
    if now == (found.card_account, found.associated):
        return None
    TRANSFERS.move(call.store, found.id, found.state, "refused", call.now_ns)
    _tell(call, found)
    return WRONG_STATE("the card was registered anew; ask for it again", state="refused")


# --- 9: debit and credit ----------------------------------------------------------------


def _book(call: Call[Ask] | Call[Authenticate] | Call[Confirm], found: _Asked) \
        -> TransferState | Problem:
    """Both postings and the last state in one transaction, or a refusal and no posting."""
    assert found.card_account is not None, "a card that nobody has is never authenticated"
    if found.card_account == found.payee_account:
        TRANSFERS.move(call.store, found.id, found.state, "refused", call.now_ns)
        return UNFIT("the payee's account is the card's own", at="$.payee")
    wanted = Transfer(
        found.key, "payment",
        (Posting(found.card_account, found.unit, -found.amount),
         Posting(found.payee_account, found.unit, found.amount)),
        f"card {masked(found.card)} to {found.payee}", Provenance(service_request=found.id),
    )  # fmt: skip
    try:
        with call.ledger.atomic():
            posted = call.ledger.transfer(wanted)
    except (OverdraftError, StateError, MissingError):
        TRANSFERS.move(call.store, found.id, found.state, "refused", call.now_ns)
        _tell(call, found)
        return OVERDRAFT("the card's account cannot pay this")
    TRANSFERS.move(call.store, found.id, found.state, "booked", call.now_ns,
                   transaction_id=posted.transaction)  # fmt: skip
    return _tell(call, found)


# --- what they have in common -----------------------------------------------------------


def _read(store: Store, transfer: str, now_ns: int) -> _Asked:
    return _Asked(*TRANSFERS.read(store, transfer, now_ns, *_COLUMNS))


def _expect_state(found: _Asked, state: str) -> None:
    if found.state == TRANSFERS.expired:
        raise EXPIRED("this transfer has expired", state=found.state)
    if found.state != state:
        raise WRONG_STATE(f"this transfer is {found.state}", state=found.state)


def _wait(
    call: Call[Ask] | Call[Authenticate] | Call[Confirm], found: _Asked, state: str
) -> TransferState:
    TRANSFERS.move(call.store, found.id, found.state, state, call.now_ns, TRANSFER_WAIT_S)
    return _shown(_read(call.store, found.id, call.now_ns))


def _tell(
    call: Call[Ask] | Call[Authenticate] | Call[Confirm], found: _Asked
) -> TransferState:
    """How it ended; the device that asked is told where another one ended it."""
    told = _shown(_read(call.store, found.id, call.now_ns))
    if call.device.id != found.device:
        call.notify(found.device, "transfer.ended", told)
    return told


def _shown(found: _Asked) -> TransferState:
    # Who is not authenticated learns nothing that was not said in the request.
    is_known = found.state in ("confirming", _WAITING_FOR_ASSOCIATED, "booked")
    return TransferState(
        transfer=found.id, state=found.state,
        expires_at=instant(found.expires_at_ns) if found.state in TRANSFERS.waiting else None,
        confirmation=found.confirmation if is_known else None,
    )  # fmt: skip


def _show(call: Call[Read]) -> TransferState:
    found = _read(call.store, call.asked.transfer, call.now_ns)
    if call.device.id not in (found.device, found.associated) and call.device.role != "operator":
        raise NOT_FOUND("no such transfer")
    return _shown(found)


# --- the ledger and this service have to agree ------------------------------------------


def _astray(store: Store) -> Iterator[str]:
    for transfer, transaction in store.rows(_UNLIKE):
        yield f"transfer {transfer}: transaction {transaction} is not what was asked for"
    for transfer, state in store.rows(_UNBOOKED):
        yield f"transfer {transfer}: {state}, but the ledger has a transaction of it"
    for transaction, key in store.rows(_UNASKED):
        yield f"transaction {transaction}: {key}: nobody asked for it"


ANNEX = Annex(
    "transfer",
    (
        (
            f"CREATE TABLE service_transfers (id TEXT PRIMARY KEY, {TRANSFERS.columns}, "
            "device TEXT NOT NULL, card TEXT NOT NULL, card_account TEXT, associated TEXT, "
            "payee TEXT NOT NULL, payee_account TEXT NOT NULL, amount BIGINT NOT NULL "
            "CHECK (amount > 0), unit TEXT NOT NULL, steps TEXT NOT NULL, transaction_id BIGINT "
            "UNIQUE REFERENCES transactions (id), "
            "CHECK ((state = 'booked') = (transaction_id IS NOT NULL)))",
            *TRANSFERS.guards,
            "CREATE INDEX service_transfers_of_card ON service_transfers "
            "(card, unit, created_at_ns) WHERE steps = 'none'",
        ),
    ),
    (("transfers go from state to state as agreed", TRANSFERS.astray),
     ("what was booked is what was asked for", _astray)),
)  # fmt: skip

_WAITS = (NOT_FOUND, WRONG_STATE, EXPIRED)
ASK = Operation(
    "transfer.ask", "POST", "/transfers", "Ask for a transfer from a card's account", Ask,
    TransferState, _ask, only("terminal"), (NOT_FOUND, OVERDRAFT), status=201,
)  # fmt: skip
SHOW = Operation(
    "transfer.show", "GET", "/transfers/{transfer}", "What became of a transfer", Read,
    TransferState, _show, only("terminal", "operator"), (NOT_FOUND,),
)  # fmt: skip
AUTHENTICATE = Operation(
    "transfer.authenticate", "POST", "/transfers/{transfer}/authentication",
    "Prove to be the card's holder", Authenticate, TransferState, _authenticate, only("terminal"),
    (*_WAITS, NOT_AUTHENTICATED, OVERDRAFT), before=_compare,
)  # fmt: skip
CONFIRM = Operation(
    "transfer.confirm", "POST", "/transfers/{transfer}/confirmation",
    "Confirm a transfer at the device that asked for it", Confirm, TransferState, _confirm,
    only("terminal"), (*_WAITS, ALTERED, OVERDRAFT),
)  # fmt: skip
CONFIRM_ASSOCIATED = Operation(
    "transfer.confirm-associated", "POST", "/transfers/{transfer}/associated-confirmation",
    "Confirm a transfer at the card's associated device", Confirm, TransferState,
    _confirm_associated, only("terminal"), (*_WAITS, ALTERED, OVERDRAFT),
)  # fmt: skip
SERVICE = Service(
    "transfer",
    (ASK, SHOW, AUTHENTICATE, CONFIRM, CONFIRM_ASSOCIATED),
    ANNEX, (TRANSFERS,), settings=Settings,
)  # fmt: skip

_UNPROVEN = """
    SELECT coalesce(sum(amount), 0) FROM service_transfers
    WHERE card = ? AND unit = ? AND created_at_ns >= ? AND steps = 'none' AND state = 'booked'"""
# Booked, and not by a transaction with just these two postings.
_UNLIKE = """
    SELECT s.id, s.transaction_id FROM service_transfers s
    LEFT JOIN transactions t ON t.id = s.transaction_id
        AND t.idempotency_key = 'transfer card-transfer ' || s.id
    WHERE s.state = 'booked' AND (t.id IS NULL OR 2 <> (
        SELECT count(*) FROM postings p JOIN accounts a ON a.id = p.account_id
        WHERE p.transaction_id = t.id AND a.unit = s.unit
            AND ((a.name = s.card_account AND p.amount = -s.amount)
                OR (a.name = s.payee_account AND p.amount = s.amount))))
    ORDER BY s.id"""
_UNBOOKED = """
    SELECT s.id, s.state FROM service_transfers s
    JOIN transactions t ON t.idempotency_key = 'transfer card-transfer ' || s.id
    WHERE s.state <> 'booked' ORDER BY s.id"""
_UNASKED = """
    SELECT t.id, t.idempotency_key FROM transactions t
    WHERE substr(t.idempotency_key, 1, 23) = 'transfer card-transfer ' AND NOT EXISTS (
        SELECT 1 FROM service_transfers s
        WHERE t.idempotency_key = 'transfer card-transfer ' || s.id)
    ORDER BY t.id"""
