"""Push payments: what an account's payments need, and whose gestures may be relayed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

from msgspec import Struct

from ...ledger.store import Store
from .. import device
from ..operation import Call, Operation
from ..problem import NOT_FOUND
from ..role import only
from ..wire import AccountName, Answer, Id, Request

Gesture = Literal["none", "swipe", "tap", "lift"]
# Who may tell of a gesture: the terminal itself, its operating system's server, or either.
Source = Literal["terminal", "platform", "either"]
# How the second terminal gets to the payment's page: at once, by the first one's code, or either.
Opening = Literal["direct", "scan", "either"]
# Who captures what was agreed to: the service at once, or the payee when it delivers.
Capture = Literal["automatic", "manual"]


class Settings(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The table [push-payment] of the settings: for accounts without a policy of their own."""

    gesture: Gesture = "none"
    gesture_from: Source = "either"
    opening: Opening = "either"
    capture: Capture = "automatic"
    lifetime_s: int = 300  # from the request until somebody has agreed
    capture_s: int = 86_400  # from then until a payee has captured


@dataclass(frozen=True, slots=True)
class Policy:
    """What one payment needs."""

    gesture: Gesture
    gesture_from: Source
    opening: Opening
    capture: Capture


class SetPolicy(Request):
    """Say what an account's payments need from now on; those under way stay as they are."""

    account: AccountName
    gesture: Gesture = "none"
    gesture_from: Source = "either"
    opening: Opening = "either"
    capture: Capture = "automatic"


class PolicyView(Answer):
    account: str
    gesture: Gesture
    gesture_from: Source
    opening: Opening
    capture: Capture


class Trust(Request):
    """Let an operating system's server tell of this terminal's gestures, and no other one."""

    platform: Id


class Trusted(Answer):
    terminal: str
    platform: str


def of_account(store: Store, account: str, settings: Settings) -> Policy:
    for row in store.rows(_OF_ACCOUNT, account):
        return Policy(*row)
    return Policy(settings.gesture, settings.gesture_from, settings.opening, settings.capture)


def may_relay(store: Store, platform: str, terminal: str) -> bool:
    return bool(list(store.rows(_MAY_RELAY, terminal, platform)))


def _set(call: Call[SetPolicy]) -> PolicyView:
    asked = call.asked
    call.store.write(_SET, [
        (asked.account, asked.gesture, asked.gesture_from, asked.opening, asked.capture)
    ])  # fmt: skip
    return PolicyView(account=asked.account, gesture=asked.gesture, opening=asked.opening,
                      gesture_from=asked.gesture_from, capture=asked.capture)  # fmt: skip


def _trust(call: Call[Trust]) -> Trusted:
    found = device.find(call.store, call.asked.platform)
    if found is None or found.role != "platform":
        raise NOT_FOUND("no such operating system's server")
    call.store.write(_TRUST, [(call.device.id, found.id)])
    return Trusted(terminal=call.device.id, platform=found.id)


def astray(store: Store) -> Iterator[str]:
    for account, *chosen in store.rows("SELECT account, gesture, gesture_from, opening, capture "
                                       "FROM service_push_policies ORDER BY account"):  # fmt: skip
        for value, known in zip(chosen, (Gesture, Source, Opening, Capture), strict=True):
            if value not in get_args(known):
                yield f'policy of account "{account}": {value!r} is none of {get_args(known)}'


TABLES = (
    "CREATE TABLE service_push_policies (account TEXT PRIMARY KEY, gesture TEXT NOT NULL, "
    "gesture_from TEXT NOT NULL, opening TEXT NOT NULL, capture TEXT NOT NULL)",
    "CREATE TABLE service_push_platforms (terminal TEXT PRIMARY KEY REFERENCES service_devices "
    "(id), platform TEXT NOT NULL REFERENCES service_devices (id))",
)
POLICY = Operation(
    "push-payment.policy", "POST", "/push-payments/policies", "Say what payments need",
    SetPolicy, PolicyView, _set, only("operator"),
)
TRUST = Operation(
    "push-payment.trust", "POST", "/push-payments/platform",
    "Let an operating system's server relay gestures", Trust, Trusted, _trust, only("terminal"),
    (NOT_FOUND,),
)

_OF_ACCOUNT = """
    SELECT gesture, gesture_from, opening, capture FROM service_push_policies WHERE account = ?"""
_SET = """
    INSERT INTO service_push_policies (account, gesture, gesture_from, opening, capture)
    VALUES (?, ?, ?, ?, ?) ON CONFLICT (account) DO UPDATE SET gesture = excluded.gesture,
        gesture_from = excluded.gesture_from, opening = excluded.opening,
        capture = excluded.capture"""
_TRUST = """
    INSERT INTO service_push_platforms (terminal, platform) VALUES (?, ?)
    ON CONFLICT (terminal) DO UPDATE SET platform = excluded.platform"""
_MAY_RELAY = "SELECT 1 FROM service_push_platforms WHERE terminal = ? AND platform = ?"
