"""The terminal's side of sponsored sessions: from a payment that is noticed to the way back."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from socket import AF_INET, AF_INET6

from ..errors import TollsplitError
from ..limits import SESSION_LINGER_S, SESSION_LOOK_S, SESSION_POLL_S
from ..rules.marks import tag
from .claim import Claim, Payee
from .client import Client, UnreachableError
from .detector import Payment, Report, detected
from .exchange import Asked, Place, Refused, Route
from .forwarding import Told
from .identifier import Identifier
from .network import Switch
from .proxy import Resolve, resolved
from .reports import Directions
from .session import END, LOOK, OPEN, ByBehaviour, ByIdentity, End, Look, Open, Opened


@dataclass(frozen=True, slots=True)
class Subscription:
    """Who the terminal is to the operator.

    identity   the subscriber's, where sessions are asked for by it; a secret
    network    the operator's network by name, where the identifier does not tell
    """

    identifier: Identifier
    identity: str | None = field(default=None, repr=False)
    network: str | None = None


class Session:
    """A session that is open: what the terminal shows the sponsor's proxy, and for whom."""

    def __init__(self, opened: Opened, identifier: Identifier) -> None:
        self.id = opened.session
        self.sponsor = opened.sponsor
        self.payees = frozenset(Payee(one.host, one.port) for one in opened.payees)
        self.tag = tag(opened.tag) if opened.tag else None
        family = AF_INET6 if ":" in opened.proxy.host else AF_INET
        self.proxy = Place(family, opened.proxy.host, opened.proxy.port)
        self.authorization = Claim(str(identifier), self.tag, opened.credential).header()


@contextmanager
def sponsored(
    client: Client, who: Subscription, payment: Payment, switch: Switch | None
) -> Iterator[Session]:
    """Inside, the terminal is on the operator's network and its session is open.

    Whatever ends it, the session is ended and the terminal returns to the network that it was on.

    switch  None: the terminal is on the operator's network, or has no other

    Raises Problem where it is refused, NetworkError, UnreachableError.
    """
    with switch.attached(who.identifier, who.network) if switch else _nothing():
        opened = client.call(OPEN, Open(str(who.identifier), _permission(who, payment)))
        try:
            _await_open(client, opened)
            yield Session(opened, who.identifier)
        finally:
            # Where it ended by itself, or nobody answers, it is over all the same.
            with suppress(TollsplitError):
                client.call(END, End(opened.session))


@contextmanager
def _nothing() -> Iterator[None]:
    yield


def _permission(who: Subscription, payment: Payment) -> ByIdentity | ByBehaviour:
    if who.identity is None:
        return ByBehaviour(payment.behaviour)
    host, port = payment.payee
    return ByIdentity(who.identity, f"{host}:{port}")


def _await_open(client: Client, opened: Opened) -> None:
    """Come back once the session's mark is in force: before, its traffic is the subscriber's."""
    while (state := client.call(LOOK, Look(opened.session)).state) == "allocated":
        time.sleep(SESSION_POLL_S)
    if state != "open":
        raise UnreachableError(f"session {opened.session}: it is {state}; its mark did not come "
                               "into force in time")


class Terminal:
    """One session at a time, from the first report of a payment until the last page is left.

    told     is given what happens, as plain values without secrets
    resolve  a name's addresses, for what is not sponsored
    """

    def __init__(
        self, client: Client, who: Subscription, told: Told, switch: Switch | None = None,
        resolve: Resolve = resolved,
    ) -> None:  # fmt: skip
        self._client = client
        self._who = who
        self._tell = told
        self._switch = switch
        self._resolve = resolve
        self._lock = threading.Lock()
        self._places: set[int] = set()  # tabs in which a payment goes on
        self._left_s = 0.0  # when the last of them was left
        self._begun: Future[Session] | None = None  # the session, from its asking on
        self._thread: threading.Thread | None = None
        self._over = threading.Event()
        self.relay = ""  # the address that requests for the session's payment servers go to

    # --- what the browser tells ---------------------------------------------------------

    def take(self, report: Report) -> Directions:
        """Do what a report asks for; comes back once a session is open, or none will be."""
        payment = detected(report)
        with self._lock:
            if payment is None and not report.over:
                return self._directions(self._begun)
            if payment is None:
                self._places.discard(report.tab)
                self._left_s = time.monotonic()
                return self._directions(self._begun)
            self._places.add(payment.place)
            begun = self._begun or self._begin(payment)
        with suppress(TollsplitError):
            begun.result()
        return self._directions(begun)

    def _begin(self, payment: Payment) -> Future[Session]:
        begun: Future[Session] = Future()
        self._begun = begun
        self._tell({"event": "detected", "detector": payment.detector,
                    "payee": f"{payment.payee.host}:{payment.payee.port}"})  # fmt: skip
        self._thread = threading.Thread(target=self._session, args=(payment, begun))
        self._thread.start()
        return begun

    def _directions(self, begun: Future[Session] | None) -> Directions:
        if begun is None or not begun.done() or begun.exception() is not None:
            return Directions()
        return Directions.through(self.relay, sorted(begun.result().payees))

    # --- a session ----------------------------------------------------------------------

    def _session(self, payment: Payment, begun: Future[Session]) -> None:
        """On a thread of its own: begin it, wait until it is over, and go back."""
        event: Mapping[str, object] = {"event": "refused"}
        try:
            with sponsored(self._client, self._who, payment, self._switch) as session:
                event = {"event": "ended", "session": session.id}
                self._tell({"event": "open", "session": session.id, "sponsor": session.sponsor})
                begun.set_result(session)
                self._await_over(session)
        except TollsplitError as error:
            event = {"event": "failed" if begun.done() else "refused", "reason": str(error)}
        finally:
            with self._lock:
                self._begun = None
            self._tell(event)
            if not begun.done():
                begun.set_exception(TollsplitError("no session"))

    def _await_over(self, session: Session) -> None:
        looked_s = time.monotonic()
        while not self._over.wait(SESSION_POLL_S):
            now_s = time.monotonic()
            with self._lock:
                if not self._places and now_s - self._left_s > SESSION_LINGER_S:
                    return
            if now_s - looked_s > SESSION_LOOK_S:
                looked_s = now_s
                if self._client.call(LOOK, Look(session.id)).state != "open":
                    return

    def close(self) -> None:
        """End the session, and return to the network that it was begun on."""
        self._over.set()
        thread = self._thread
        if thread is not None:
            thread.join()

    # --- the relay ----------------------------------------------------------------------

    async def route(self, asked: Asked) -> Route:
        """To the sponsor's proxy while there is a session for it, else straight to the server."""
        begun = self._begun
        if begun is not None and begun.done() and begun.exception() is None:
            session = begun.result()
            if asked.payee in session.payees:
                return Route([session.proxy], {"session": session.id}, session.tag,
                             authorization=session.authorization)  # fmt: skip
        try:
            return Route(await self._resolve(asked.payee), {"session": None})
        except (OSError, UnicodeError):
            raise Refused(502, "name: unknown") from None
