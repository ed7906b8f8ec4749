"""Devices: who may call, by which key, in which role, for which account."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

from ..ledger import Annex, Guard
from ..ledger.store import Store
from ..limits import SERVICE_ENROLMENT_S
from .operation import Call, Operation, Service
from .problem import EXPIRED, FORBIDDEN, NOT_FOUND, UNFIT, WRONG_STATE
from .role import ANYBODY, EVERY, ROLES, Role, only
from .signature import device_id, is_public_key
from .states import StateMachine
from .wire import AccountName, Answer, Id, Line, Request, new_id, whole

PublicKey = Annotated[str, Meta(pattern=whole(r"[0-9a-f]{64}"))]
Token = Annotated[str, Meta(pattern=whole(r"[A-Za-z0-9_-]{20,64}"))]


@dataclass(frozen=True, slots=True)
class Device:
    """Who calls."""

    id: str  # a digest of its public key
    role: Role
    account: str  # whose device it is: the account's name in the ledger
    label: str  # for people
    public_key: str  # Ed25519, hexadecimal


class Enrol(Request):
    """Let a device of an account register: whoever has the token may."""

    role: Role
    account: AccountName


class Enrolment(Answer):
    enrolment: str
    token: str  # told once; the device needs it to register
    role: Role
    account: str


class Register(Request):
    """Register a device's key. The request is signed with it."""

    token: Token
    public_key: PublicKey
    label: Line


class Registered(Answer):
    device: str
    role: Role
    account: str
    label: str


class Myself(Request):
    pass


class Revoke(Request):
    """Take a device's rights away, for good."""

    device: Id


ENROLMENTS = StateMachine(
    "enrolment", "service_enrolments",
    {"open": ("used", "expired"), "used": (), "expired": ()},
    fixed=("token_digest", "role", "account"),
)  # fmt: skip
ANNEX = Annex(
    "devices",
    (
        (
            f"CREATE TABLE service_enrolments (id TEXT PRIMARY KEY, {ENROLMENTS.columns}, "
            "token_digest TEXT NOT NULL UNIQUE, role TEXT NOT NULL, account TEXT NOT NULL)",
            *ENROLMENTS.guards,
            "CREATE TABLE service_devices (id TEXT PRIMARY KEY, role TEXT NOT NULL, "
            "account TEXT NOT NULL, label TEXT NOT NULL, public_key TEXT NOT NULL UNIQUE, "
            "enrolment TEXT NOT NULL UNIQUE REFERENCES service_enrolments (id), "
            "registered_at_ns BIGINT NOT NULL, revoked_at_ns BIGINT)",
            "CREATE INDEX service_devices_of_account ON service_devices (account)",
            Guard("service_devices_keep", "service_devices", "UPDATE",
                  "a device keeps its key, role and account",
                  ("id", "role", "account", "label", "public_key", "enrolment",
                   "registered_at_ns")),
            Guard("service_devices_revoked_once", "service_devices", "UPDATE",
                  "a device is revoked once", when="OLD.revoked_at_ns IS NOT NULL"),
            Guard("service_devices_stay", "service_devices", "DELETE",
                  "devices are revoked, not deleted"),
        ),
    ),
    (("devices are those that were enrolled", lambda store: _astray(store)),
     ("enrolments go from state to state as agreed", ENROLMENTS.astray)),
)  # fmt: skip


def enrol(store: Store, role: Role, account: str, now_ns: int) -> Enrolment:
    """Make an enrolment; its token is kept as a digest alone."""
    token, row = secrets.token_urlsafe(24), new_id()
    ENROLMENTS.begin(store, row, now_ns, SERVICE_ENROLMENT_S,
                     token_digest=_digest(token), role=role, account=account)  # fmt: skip
    return Enrolment(enrolment=row, token=token, role=role, account=account)


def find(store: Store, device: str) -> Device | None:
    """A device that is registered and not revoked."""
    for row in store.rows(_FIND, device):
        return Device(*row)
    return None


def of_account(store: Store, account: str, role: Role = "terminal") -> list[Device]:
    """An account's devices of one role, those that registered first before the others."""
    return [Device(*row) for row in store.rows(_OF_ACCOUNT, account, role)]


def _enrol(call: Call[Enrol]) -> Enrolment:
    return enrol(call.store, call.asked.role, call.asked.account, call.now_ns)


def _register(call: Call[Register]) -> Registered:
    """The desk has checked that the caller has the private key."""
    asked, store = call.asked, call.store
    for enrolment, role, account in store.rows(_ENROLMENT, _digest(asked.token)):
        ENROLMENTS.move(store, enrolment, "open", "used", call.now_ns)
        row = device_id(asked.public_key)
        if not store.write(_ADD, [
            (row, role, account, asked.label, asked.public_key, enrolment, call.now_ns)
        ]):  # fmt: skip
            raise FORBIDDEN("this key is registered already; make a new one")
        return Registered(device=row, role=role, account=account, label=asked.label)
    raise FORBIDDEN("no such enrolment")


def _myself(call: Call[Myself]) -> Registered:
    return _shown(call.device)


def _revoke(call: Call[Revoke]) -> Registered:
    found = find(call.store, call.asked.device)
    if found is None:
        raise NOT_FOUND("no such device")
    if found.id == call.device.id:
        raise UNFIT("expected another device than the one that asks", at="$.device")
    call.store.write(_REVOKE, [(call.now_ns, found.id)])
    return _shown(found)


def _shown(device: Device) -> Registered:
    return Registered(device=device.id, role=device.role, account=device.account,
                      label=device.label)  # fmt: skip


def _digest(token: str) -> str:
    # Of 192 random bits: nothing to guess, so a plain digest will do.
    return hashlib.sha256(token.encode()).hexdigest()


def _astray(store: Store) -> Iterator[str]:
    for row, key, role, account, state, enrolled_role, enrolled_account in store.rows(_CHECK):
        if not is_public_key(key) or row != device_id(key):
            yield f"device {row}: it is not called by its key"
        if state != "used" or (role, account) != (enrolled_role, enrolled_account):
            yield f'device {row}: {role} of "{account}" was never enrolled'
        if role not in ROLES:
            yield f"device {row}: role {role!r} is none"


ENROL = Operation(
    "device.enrol", "POST", "/enrolments", "Let a device register", Enrol, Enrolment, _enrol,
    only("operator"), status=201,
)  # fmt: skip
REGISTER = Operation(
    "device.register", "POST", "/devices", "Register a device's key", Register, Registered,
    _register, ANYBODY, (EXPIRED, WRONG_STATE), status=201, newcomer=lambda asked: asked.public_key,
)  # fmt: skip
MYSELF = Operation(
    "device.myself", "GET", "/devices/myself", "Who the service takes the caller for", Myself,
    Registered, _myself, EVERY,
)  # fmt: skip
REVOKE = Operation(
    "device.revoke", "POST", "/devices/{device}/revocation", "Take a device's rights away", Revoke,
    Registered, _revoke, only("operator"), (NOT_FOUND,),
)  # fmt: skip
SERVICE = Service("devices", (ENROL, REGISTER, MYSELF, REVOKE), ANNEX, (ENROLMENTS,))

_FIND = """
    SELECT id, role, account, label, public_key FROM service_devices
    WHERE id = ? AND revoked_at_ns IS NULL"""
_OF_ACCOUNT = """
    SELECT id, role, account, label, public_key FROM service_devices
    WHERE account = ? AND role = ? AND revoked_at_ns IS NULL ORDER BY registered_at_ns, id"""
_ENROLMENT = "SELECT id, role, account FROM service_enrolments WHERE token_digest = ?"
_ADD = """
    INSERT INTO service_devices (id, role, account, label, public_key, enrolment, registered_at_ns)
    VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"""
_REVOKE = "UPDATE service_devices SET revoked_at_ns = ? WHERE id = ? AND revoked_at_ns IS NULL"
_CHECK = """
    SELECT d.id, d.public_key, d.role, d.account, e.state, e.role, e.account
    FROM service_devices d JOIN service_enrolments e ON e.id = d.enrolment ORDER BY d.id"""
