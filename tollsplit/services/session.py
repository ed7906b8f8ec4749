"""Sponsored sessions: permitted, given a proxy and a mark, open while the mark is in force."""

from __future__ import annotations

import hmac
from datetime import datetime
from pathlib import Path
from typing import Annotated

from msgspec import Meta, Struct

from ..errors import UsageError
from ..ledger import Annex, Guard
from ..ledger.store import Store
from . import secret, session_marks
from .identifier import Identifier, identifier
from .marks import Publication
from .operation import Call, Errand, Moment, Operation, Service
from .problem import EXPIRED, NOT_FOUND, UNFIT, WRONG_STATE, Kind, Problem
from .role import only
from .sponsorship import Permission, SessionPolicy, Sponsorship, place
from .states import StateMachine
from .wire import AccountName, Answer, Id, Line, Request, instant, new_id, whole

IDENTITY = "session-identity"  # the kind of secret
# Whatever is wrong, the answer is this: who guesses learns nothing.
NOT_PERMITTED = Kind("not-permitted", 403, "That is not permitted")
NO_MARK = Kind("no-mark-free", 503, "Every mark of this sponsorship is in use")
Text = Annotated[str, Meta(min_length=1, max_length=64)]
Secret = Annotated[str, Meta(min_length=4, max_length=256)]
Digest = Annotated[str, Meta(pattern=whole(r"([0-9a-f]{64})?"))]

SESSIONS = StateMachine(
    "session", "service_sessions",
    {"allocated": ("open", "ended", "expired"), "open": ("ended", "expired"), "ended": (),
     "expired": ()},
    fixed=("device", "account", "identifier", "address", "sponsorship", "sponsor", "permission",
           "proxy_address", "proxy_port", "tag", "credential_digest"),
)  # fmt: skip
ANNEX = Annex(
    "session",
    (
        (
            "CREATE TABLE service_subscribers (identifier TEXT PRIMARY KEY, account TEXT NOT NULL, "
            "address TEXT NOT NULL, changed_at_ns BIGINT NOT NULL)",
            Guard("service_subscribers_keep", "service_subscribers", "UPDATE",
                  "a subscriber keeps the identifier", ("identifier",)),
            f"CREATE TABLE service_sessions (id TEXT PRIMARY KEY, {SESSIONS.columns}, "
            "device TEXT NOT NULL REFERENCES service_devices (id), account TEXT NOT NULL, "
            "identifier TEXT NOT NULL, address TEXT NOT NULL, sponsorship TEXT NOT NULL, "
            "sponsor TEXT NOT NULL, permission TEXT NOT NULL, proxy_address TEXT NOT NULL, "
            "proxy_port BIGINT NOT NULL, tag TEXT NOT NULL, credential_digest TEXT NOT NULL)",
            *SESSIONS.guards,
            "CREATE UNIQUE INDEX service_sessions_live ON service_sessions (identifier) "
            "WHERE state IN ('allocated', 'open')",
            *session_marks.TABLE,
        ),
    ),
    (("sessions go from state to state as agreed", SESSIONS.astray),
     ("open sessions have their marks in force", session_marks.astray)),
)  # fmt: skip


# --- subscribers -----------------------------------------------------------------------------


class Subscribe(Request):
    """Say whose an identifier is. Said again, it is changed."""

    identifier: Text
    account: AccountName
    address: Text  # that its packets come from
    identity: Secret | None = None  # what the subscriber proves to be; None: as it was


class Subscriber(Answer):
    identifier: str
    account: str
    address: str


def _hash(call: Call[Subscribe]) -> str | None:
    return secret.make(call.asked.identity) if call.asked.identity is not None else None


def _subscribe(call: Call[Subscribe]) -> Subscriber:
    who = _identifier(call.asked.identifier, "$.identifier")
    address = _identifier(f"address:{call.asked.address}", "$.address").value
    if who.kind == "address" and who.value != address:
        raise UNFIT("expected the address that the identifier is", at="$.address")
    call.store.write(_SUBSCRIBE, [(str(who), call.asked.account, address, call.now_ns)])
    if call.prepared is not None:
        secret.put(call.store, IDENTITY, str(who), call.prepared, call.now_ns)
    return Subscriber(str(who), call.asked.account, address)


def _identifier(text: str, at: str) -> Identifier:
    try:
        return identifier(text)
    except UsageError as error:
        raise UNFIT(str(error), at=at) from None


# --- permission ------------------------------------------------------------------------------


class ByIdentity(Struct, forbid_unknown_fields=True, tag_field="by", tag="identity"):
    """The subscriber proves who they are, and names the payment server."""

    identity: Secret
    payee: Line  # "shop.example:443"


class ByBehaviour(Struct, forbid_unknown_fields=True, tag_field="by", tag="behaviour"):
    """What is being paid is named; whether somebody sponsors it, the operator's settings say."""

    behaviour: Line


class Open(Request):
    """Ask for a session. It replaces the one that the identifier had."""

    identifier: Text
    permission: ByIdentity | ByBehaviour


class Host(Struct):
    host: str
    port: int


class Opened(Answer):
    """A session that was permitted. It is open once its mark is in force."""

    session: str
    state: str
    sponsor: str
    proxy: Host
    payees: list[Host]
    tag: str | None  # what every packet of the session carries; None: the proxy is the mark
    credential: str | None  # a secret, told once
    expires_at: datetime


def _compared(call: Call[Open]) -> secret.Compared | None:
    asked = call.asked
    if isinstance(asked.permission, ByBehaviour):
        return None
    who = _identifier(asked.identifier, "$.identifier")
    return secret.compare(call.store, IDENTITY, str(who), asked.permission.identity)


def _open(call: Call[Open]) -> Opened | Problem:
    who = _identifier(call.asked.identifier, "$.identifier")
    found = next(iter(call.store.rows(_SUBSCRIBER, str(who))), None)
    # Whose device guesses at others' identities is not let count their failures either.
    if found is None or found[0] != call.device.account:
        return NOT_PERMITTED("ask the operator")
    sponsorship, permission = _permitted(call)
    if sponsorship is None:
        return NOT_PERMITTED("ask the operator")
    _replace(call, str(who))
    account, address = found
    return _allocated(call, who, account, address, sponsorship, permission)


def _permitted(call: Call[Open]) -> tuple[Sponsorship | None, Permission]:
    """The sponsorship that the request is permitted under."""
    policy, asked = call.setting(SessionPolicy), call.asked.permission
    if isinstance(asked, ByBehaviour):
        return policy.of_behaviour(asked.behaviour), "behaviour"
    try:
        payee = place(asked.payee)
    except ValueError as error:
        raise UNFIT(str(error), at="$.permission.payee") from None
    is_right = secret.settle(call.store, call.prepared, call.now_ns)
    return policy.of_payee(payee) if is_right else None, "identity"


def _replace(call: Call[Open], who: str) -> None:
    """A terminal that crashed and came back does not wait for what it left."""
    SESSIONS.expire(call.store, call.now_ns)
    for (session,) in list(call.store.rows(_LIVE, who)):
        SESSIONS.move(call.store, session, ("allocated", "open"), "ended", call.now_ns)


def _allocated(
    call: Call[Open], who: Identifier, account: str, address: str, sponsorship: Sponsorship,
    permission: Permission,
) -> Opened:  # fmt: skip
    policy, row = call.setting(SessionPolicy), new_id()
    credential = secret.new_code() if sponsorship.credential else None
    given = session_marks.allocate(call.store, row, sponsorship, address)
    if given is None:
        raise NO_MARK("try again later")
    SESSIONS.begin(
        call.store, row, call.now_ns, policy.publish_s, device=call.device.id, account=account,
        identifier=str(who), address=address, sponsorship=sponsorship.name,
        sponsor=sponsorship.account, permission=permission, proxy_address=given.proxy.host,
        proxy_port=given.proxy.port, tag=str(given.mark.tag or ""),
        credential_digest=secret.digest(credential) if credential else "",
    )  # fmt: skip
    return Opened(
        row, SESSIONS.first, sponsorship.account, Host(*given.proxy),
        _hosts(sponsorship),
        str(given.mark.tag) if given.mark.tag else None, credential,
        instant(call.now_ns + policy.publish_s * 1_000_000_000),
    )  # fmt: skip


def _hosts(sponsorship: Sponsorship) -> list[Host]:
    return [Host(*payee) for payee in sorted(sponsorship.payment_servers)]


# --- what becomes of it ----------------------------------------------------------------------


class Look(Request):
    session: Id


class Session(Answer):
    session: str
    state: str
    sponsor: str
    expires_at: datetime


class End(Request):
    """End a session: its mark is withdrawn."""

    session: Id


def _look(call: Call[Look]) -> Session:
    return _shown(call, call.asked.session)


def _end(call: Call[End]) -> Session:
    _shown(call, call.asked.session)
    SESSIONS.move(call.store, call.asked.session, ("allocated", "open"), "ended", call.now_ns)
    return _shown(call, call.asked.session)


def _shown(call: Call[Look] | Call[End], row: str) -> Session:
    """A session as its own device or an operator sees it; for others there is none."""
    state, device, sponsor, expires_at_ns = SESSIONS.read(
        call.store, row, call.now_ns, "device", "sponsor", "expires_at_ns")
    if device != call.device.id and call.device.role != "operator":
        raise NOT_FOUND("no such session")
    return Session(row, state, sponsor, instant(expires_at_ns))


def _opened(moment: Moment, row: str) -> None:
    """Its mark is in force: from now on it lives as long as was agreed."""
    device, sponsor, name = next(iter(moment.store.rows(_ABOUT, row)))
    known = moment.setting(SessionPolicy).by_name.get(name)
    if known is None:
        return
    try:
        SESSIONS.move(moment.store, row, "allocated", "open", moment.now_ns, known.lifetime_s)
    except Problem:  # it ended meanwhile, and its mark is withdrawn next
        return
    expires_at_ns = moment.now_ns + known.lifetime_s * 1_000_000_000
    moment.notify(device, "session.open", Session(row, "open", sponsor, instant(expires_at_ns)))


def _errand(errand: Errand) -> None:
    session_marks.publish(errand, _opened)


# --- what proxies ask ------------------------------------------------------------------------


class Permit(Request):
    """Whether a claim that a proxy was shown is good now."""

    identifier: Text
    source: Text  # the address that the terminal's packets come from
    preset: Text  # the proxy's address that they came to
    tag: Annotated[str, Meta(max_length=32)] = ""
    credential_digest: Digest = ""  # its SHA-256: the secret itself stays with the proxy


class Permitted(Answer):
    session: str
    sponsor: str
    payees: list[Host]
    tag: str | None


def _permit(call: Call[Permit]) -> Permitted:
    asked = call.asked
    sponsor = call.device.account  # a proxy asks for its own sponsor's sessions alone
    for session, state, expires_at_ns, name, address, preset, tag, kept in call.store.rows(
        _CLAIMED, asked.identifier, sponsor
    ):
        known = call.setting(SessionPolicy).by_name.get(name)
        # All of it is compared, whatever differs first.
        is_good = all([
            state == "open" and expires_at_ns > call.now_ns,
            hmac.compare_digest(asked.credential_digest, kept),
            (tag, preset, address) == (asked.tag, asked.preset, asked.source),
            known is not None and known.account == sponsor,
        ])  # fmt: skip
        if is_good and known is not None:
            return Permitted(session, sponsor, _hosts(known), tag or None)
    raise NOT_PERMITTED("no such session")


# --- what it came to -------------------------------------------------------------------------


class Fee(Request):
    session: Id


class Consumption(Answer):
    """What of a session is booked: octets of its marked traffic, and who pays for how many. The
    engine books them when their window is over.
    """

    session: str
    sponsor: str
    uplink_octets: int
    downlink_octets: int
    sponsor_octets: int
    subscriber_octets: int


def _fee(call: Call[Fee]) -> Consumption:
    row = call.asked.session
    _, device, account, sponsor, name = SESSIONS.read(
        call.store, row, call.now_ns, "device", "account", "sponsor", "sponsorship")
    role = call.device.role
    if role != "operator" and (call.device.account != sponsor) and device != call.device.id:
        raise NOT_FOUND("no such session")
    begin, end = session_marks.in_force(call.store, row)
    octets = [0, 0, 0, 0]
    known = call.setting(SessionPolicy).by_name.get(name)
    if begin is not None and known is not None:
        policy = call.setting(SessionPolicy)
        rules = Publication(Path(policy.rules), Path(policy.engine)).rules_of(known.marks)
        octets = _consumed(call.store, account, sponsor, rules, begin, end)
    return Consumption(row, sponsor, *octets)


def _consumed(
    store: Store, account: str, sponsor: str, rules: tuple[str, ...], begin: int, end: int | None
) -> list[int]:
    """Uplink, downlink, of them the sponsor's, of them the subscriber's octets.

    No record mixes versions of the rules, and marks are among them: so a record is of one session.
    """
    sums = [0, 0, 0, 0]
    for rule in rules:
        for row in store.rows(_CONSUMED, account, sponsor, rule, begin, end or 2**63 - 1):
            sums = [a + int(b) for a, b in zip(sums, row, strict=True)]
    return sums


TERMINALS, PARTIES = only("terminal"), only("terminal", "operator", "proxy")
SUBSCRIBE = Operation(
    "session.subscriber", "POST", "/subscribers", "Say whose an identifier is", Subscribe,
    Subscriber, _subscribe, only("operator"), before=_hash,
)  # fmt: skip
OPEN = Operation(
    "session.open", "POST", "/sessions", "Ask for a sponsored session", Open, Opened, _open,
    TERMINALS, (NOT_PERMITTED, NO_MARK), 201, before=_compared,
)  # fmt: skip
LOOK = Operation(
    "session.look", "GET", "/sessions/{session}", "What state a session is in", Look, Session,
    _look, only("terminal", "operator"), (NOT_FOUND,),
)  # fmt: skip
END = Operation(
    "session.end", "POST", "/sessions/{session}/ending", "End a session", End, Session, _end,
    only("terminal", "operator"), (NOT_FOUND, WRONG_STATE, EXPIRED),
)  # fmt: skip
PERMIT = Operation(
    "session.permit", "GET", "/permits", "Whether a claim is good", Permit, Permitted, _permit,
    only("proxy"), (NOT_PERMITTED,),
)  # fmt: skip
FEE = Operation(
    "session.fee", "GET", "/sessions/{session}/consumption", "What of a session is booked", Fee,
    Consumption, _fee, PARTIES, (NOT_FOUND,),
)  # fmt: skip
SERVICE = Service(
    "session", (SUBSCRIBE, OPEN, LOOK, END, PERMIT, FEE), ANNEX, (SESSIONS,), errand=_errand,
    settings=SessionPolicy,
)  # fmt: skip

_SUBSCRIBE = """
    INSERT INTO service_subscribers (identifier, account, address, changed_at_ns)
    VALUES (?, ?, ?, ?) ON CONFLICT (identifier) DO UPDATE
    SET account = excluded.account, address = excluded.address,
        changed_at_ns = excluded.changed_at_ns"""
_SUBSCRIBER = "SELECT account, address FROM service_subscribers WHERE identifier = ?"
_LIVE = """
    SELECT id FROM service_sessions
    WHERE identifier = ? AND state IN ('allocated', 'open') ORDER BY id"""
_ABOUT = "SELECT device, sponsor, sponsorship FROM service_sessions WHERE id = ?"
_CLAIMED = """
    SELECT id, state, expires_at_ns, sponsorship, address, proxy_address, tag, credential_digest
    FROM service_sessions
    WHERE identifier = ? AND sponsor = ? AND state IN ('allocated', 'open') ORDER BY id"""
_CONSUMED = """
    SELECT u.uplink_octets, u.downlink_octets, coalesce((
        SELECT sum(p.octets) FROM usage_shares p
        JOIN sponsors x ON x.id = p.sponsor_id JOIN accounts y ON y.id = x.account_id
        WHERE p.run_id = u.run_id AND p.sequence = u.sequence AND y.name = ?2), 0),
        u.subscriber_octets
    FROM usage_records u JOIN accounts a ON a.id = u.account_id JOIN runs r ON r.id = u.run_id
    WHERE u.rule = ?3 AND a.name = ?1 AND u.first_packet_ns >= ?4 AND u.last_packet_ns < ?5
    AND NOT EXISTS (SELECT 1 FROM transactions t WHERE t.reverses = r.transaction_id)"""
