"""The desk: from a request's octets to an answer's, for every operation the same way."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from threading import Event, Lock
from typing import Any

import msgspec

from ..errors import LedgerError, TollsplitError
from ..ledger import Ledger
from ..ledger.store import Row
from . import device, idempotency, notice, signature
from .books import Books
from .call_log import log
from .idempotency import Kept, Key
from .operation import Call, Errand, Moment, Operation, Service, Settings
from .problem import (
    FORBIDDEN,
    INTERNAL,
    KEY_IN_PROGRESS,
    MEDIA_TYPE,
    UNAVAILABLE,
    UNSIGNED,
    Problem,
    of_ledger,
)
from .rate import Buckets, Rates
from .signature import Message, Signed


@dataclass(frozen=True, slots=True)
class Asking:
    """A request as it came in."""

    message: Message  # its method, the URL as the caller had it, its headers
    path: Mapping[str, str]  # the operation's path names, with what they stand for
    query: Mapping[str, str]
    body: bytes
    key: str | None  # its Idempotency-Key


@dataclass(frozen=True, slots=True)
class Reply:
    """What is answered."""

    status: int
    media_type: str
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    device: str = ""  # who called, for the log
    refusal: str = ""  # the kind of problem that it is

    @classmethod
    def refusing(cls, problem: Problem, caller: str = "") -> Reply:
        return cls(problem.kind.status, MEDIA_TYPE, problem.body, problem.headers, caller,
                   problem.kind.name)  # fmt: skip


class Desk:
    """Answers requests, on as many threads as call it."""

    def __init__(
        self, books: Books, services: tuple[Service, ...], settings: Settings,
        clock_ns: Callable[[], int], ring: Callable[[Collection[str]], None] = lambda devices: None,
    ) -> None:  # fmt: skip
        """ring  told of devices that have a new notice, once it is booked"""
        self._books = books
        self._ring = ring
        self._services = services
        self._settings = settings
        self._clock_ns = clock_ns
        # Set when an errand of the service may have something to do.
        self.due = {service.name: Event() for service in services if service.errand}
        self._due_by = {operation.name: self.due[service.name] for service in services
                        if service.errand for operation in service.operations}  # fmt: skip
        rates = settings.get(Rates)
        assert isinstance(rates, Rates)
        self._buckets = Buckets(rates.device_per_s, rates.device_burst)
        self._proxies = Buckets(rates.proxy_per_s, rates.proxy_burst)
        self._lock = Lock()
        self._under_way: set[tuple[str, str, str]] = set()
        # Signatures of reads → until when, as they came.
        self._read: OrderedDict[tuple[str, str], int] = OrderedDict()

    def answer(self, operation: Operation[Any, Any], asking: Asking) -> Reply:
        """Answer a request; whatever goes wrong is a reply too."""
        caller = ""
        try:
            now_ns = self._clock_ns()
            asked = None
            if operation.newcomer:
                asked = operation.decode(asking.path, asking.query, asking.body)
            signed, who = self._identified(operation, asked, asking, now_ns)
            caller = signed.device if signed else ""
            if signed:
                is_proxy = who is not None and who.role == "proxy"
                (self._proxies if is_proxy else self._buckets).take(caller)
            _admit(operation, who)
            if asked is None:
                asked = operation.decode(asking.path, asking.query, asking.body)
            call = Call(ledger=_NOWHERE, now_ns=now_ns, settings=self._settings, asked=asked,
                        caller=who)  # fmt: skip
            if not operation.changes:
                return self._reading(operation, call, signed)
            key = idempotency.key_of(caller, operation.name, asking.key,
                                     str(sorted(asking.path.items())), asking.body)  # fmt: skip
            with self._alone(key):
                return self._changing(operation, call, signed, key)
        except Problem as problem:
            return Reply.refusing(_expected(operation, problem), caller)
        except LedgerError as error:
            refusal = of_ledger(error)
            if refusal.kind is UNAVAILABLE:
                log.warning("ledger", extra={"what": str(error)})
            return Reply.refusing(_expected(operation, refusal), caller)
        except Exception:
            log.exception("broken", extra={"operation": operation.name})
            return Reply.refusing(INTERNAL("it is in the log"), caller)

    # --- who calls ----------------------------------------------------------------------

    def _identified(
        self, operation: Operation[Any, Any], asked: Any, asking: Asking, now_ns: int
    ) -> tuple[Signed | None, device.Device | None]:
        if operation.newcomer:
            public_key = operation.newcomer(asked)
            if not signature.is_public_key(public_key):
                raise UNSIGNED("expected an Ed25519 public key")
            known = {signature.device_id(public_key): public_key}
            signed = signature.verify(asking.message, asking.body, known.get, now_ns,
                                      has_key=operation.changes)  # fmt: skip
            return signed, None
        if not operation.roles:
            return None, None
        return self._registered(asking, now_ns, has_key=operation.changes)

    def _registered(
        self, asking: Asking, now_ns: int, *, has_key: bool
    ) -> tuple[Signed, device.Device]:
        who: list[device.Device] = []

        def public_key(name: str) -> str | None:
            found = self._books.read(lambda ledger: device.find(ledger.store, name))
            if found is None:
                return None
            who.append(found)
            return found.public_key

        signed = signature.verify(asking.message, asking.body, public_key, now_ns, has_key=has_key)
        return signed, who[-1]

    def device_of(self, asking: Asking) -> device.Device:
        """Who signed a request that reads, and that no operation is asked by. Raises Problem."""
        now_ns = self._clock_ns()
        signed, who = self._registered(asking, now_ns, has_key=False)
        self._buckets.take(who.id)
        self._spend_read(signed, now_ns)
        return who

    def _spend_read(self, signed: Signed, now_ns: int) -> None:
        """Of reads nothing is written: their signatures are used up in memory alone."""
        with self._lock:
            # Those that came first are over first, give or take a minute.
            while self._read and next(iter(self._read.values())) <= now_ns:
                self._read.popitem(last=False)
            if (signed.device, signed.nonce) in self._read:
                raise UNSIGNED("this signature was used before")
            self._read[signed.device, signed.nonce] = signed.expires_at_ns

    def expect_ledger(self) -> None:
        """Raises Problem where the ledger can't be written to or read."""
        try:
            self._books.write(lambda ledger: None)
            self._books.read(lambda ledger: None)
        except LedgerError as error:
            log.warning("ledger", extra={"what": str(error)})
            raise of_ledger(error) from error

    def told(self, name: str, last: int) -> list[Row] | None:
        """Notices of a device after a number; None: there is no such device."""

        def work(ledger: Ledger) -> list[Row] | None:
            known = device.find(ledger.store, name)
            return notice.since(ledger.store, name, last) if known else None

        return self._books.read(work)

    # --- what is done -------------------------------------------------------------------

    def _reading(
        self, operation: Operation[Any, Any], call: Call[Any], signed: Signed | None
    ) -> Reply:
        if signed:
            self._spend_read(signed, call.now_ns)

        def work(ledger: Ledger) -> Kept:
            call.ledger = ledger
            return _kept(operation, operation.handler(call))

        return _reply(self._books.read(work), call)

    def _changing(
        self, operation: Operation[Any, Any], call: Call[Any], signed: Signed | None, key: Key
    ) -> Reply:
        if operation.before is not None:
            call.prepared = self._books.read(partial(_before, operation, call))

        def work(ledger: Ledger) -> Kept | Problem | LedgerError:
            if signed:
                idempotency.spend(ledger.store, signed)
            try:
                # Undone by itself where it is refused: the signature stays used up.
                with ledger.atomic():
                    return _once(operation, call, key, ledger)
            except Problem as problem:
                return problem
            except LedgerError as error:
                if of_ledger(error).kind is UNAVAILABLE:
                    raise
                return error

        found = self._books.write(work)
        if not isinstance(found, Kept):
            raise found
        self._ring(call.told)
        if operation.name in self._due_by:
            self._due_by[operation.name].set()
        for after in call.after:
            try:
                after()
            except Exception:  # what was booked is booked; a sweep will do it
                log.exception("afterwards", extra={"operation": operation.name})
        return _reply(found, call)

    @contextmanager
    def _alone(self, key: Key) -> Iterator[None]:
        name = key.principal, key.route, key.text
        with self._lock:
            if name in self._under_way:
                raise KEY_IN_PROGRESS("ask again for its answer")
            self._under_way.add(name)
        try:
            yield
        finally:
            with self._lock:
                self._under_way.discard(name)

    # --- what happens by itself ---------------------------------------------------------

    def sweep(self) -> None:
        """Let happen what has to happen by itself; each service in a transaction of its own. What
        fails is in the log, and done next time: another process may have been faster.
        """
        for service in self._services:
            if service.sweep is not None or service.machines:
                with _logged("sweep", service.name):
                    self._ring(self._books.write(partial(self._sweep, service)))
        with _logged("sweep", "requests"):
            self._books.write(self._forget)

    def _forget(self, ledger: Ledger) -> None:
        now_ns = self._clock_ns()
        idempotency.forget(ledger.store, now_ns)
        notice.forget(ledger.store, now_ns)

    def _sweep(self, service: Service, ledger: Ledger) -> set[str]:
        moment = Moment(ledger=ledger, now_ns=self._clock_ns(), settings=self._settings)
        if service.sweep is not None:
            service.sweep(moment)
        for machine in service.machines:
            machine.expire(ledger.store, moment.now_ns)
        return moment.told

    def run_errand(self, service: Service) -> None:
        """Do what a service has to do outside the ledger; what fails is in the log, and due."""
        assert service.errand is not None
        with _logged("errand", service.name):
            service.errand(Errand(self._books, self._clock_ns, self._settings, self._ring))


@contextmanager
def _logged(event: str, service: str) -> Iterator[None]:
    """What fails inside is in the log."""
    try:
        yield
    except TollsplitError as error:
        log.warning(event, extra={"service": service, "what": str(error)})
    except Exception:
        log.exception(event, extra={"service": service})


def _admit(operation: Operation[Any, Any], who: device.Device | None) -> None:
    if who is not None and who.role not in operation.roles:
        raise FORBIDDEN(f"this is for {', '.join(sorted(operation.roles))}; the device is a "
                        f"{who.role}")  # fmt: skip


def _once(operation: Operation[Any, Any], call: Call[Any], key: Key, ledger: Ledger) -> Kept:
    known = idempotency.recall(ledger.store, key, call.now_ns)
    if known is not None:
        return known
    call.ledger = ledger
    found = _kept(operation, operation.handler(call))
    idempotency.keep(ledger.store, key, found, call.now_ns)
    return found


def _before(operation: Operation[Any, Any], call: Call[Any], ledger: Ledger) -> Any:
    call.ledger = ledger
    assert operation.before is not None
    return operation.before(call)


def _kept(operation: Operation[Any, Any], found: Any) -> Kept:
    if isinstance(found, Problem):
        if found.kind not in operation.all_refusals:
            raise found  # a fault of ours is no answer to keep
        return Kept(found.kind.status, MEDIA_TYPE, found.body)
    return Kept(operation.status, "application/json", msgspec.json.encode(found))


def _reply(kept: Kept, call: Call[Any]) -> Reply:
    return Reply(kept.status, kept.media_type, kept.body,
                 device=call.caller.id if call.caller else "")  # fmt: skip


def _expected(operation: Operation[Any, Any], problem: Problem) -> Problem:
    """A refusal that the API's description does not know is a fault of ours."""
    if problem.kind in operation.all_refusals:
        return problem
    log.error("undeclared", extra={"operation": operation.name, "refusal": problem.kind.name})
    return INTERNAL("it is in the log")


_NOWHERE: Any = None  # a call has its ledger once its transaction has begun
