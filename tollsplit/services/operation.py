"""Operations: what can be asked of a service, each a value that everything else is made from."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

import msgspec

from ..ledger import Annex, Ledger
from ..ledger.store import Store
from . import notice
from .problem import (
    FORBIDDEN,
    INTERNAL,
    INVALID,
    KEY_IN_PROGRESS,
    KEY_REUSED,
    MALFORMED,
    MEDIA,
    SLOW,
    TOO_LARGE,
    TOO_MANY,
    UNAVAILABLE,
    UNFIT,
    UNSIGNED,
    Kind,
    Problem,
)
from .role import Role
from .states import StateMachine
from .wire import Answer, Request

if TYPE_CHECKING:
    from starlette.routing import BaseRoute

    from .books import Books
    from .device import Device

Asked = TypeVar("Asked", bound=Request)
Told = TypeVar("Told", bound=Answer)
Item = TypeVar("Item")
Setting = TypeVar("Setting", bound=msgspec.Struct)
Settings = Mapping[type[msgspec.Struct], msgspec.Struct]


@dataclass(slots=True, kw_only=True)
class Moment:
    """What has to be done at one moment, in one transaction, and what it is done with.

    All that is done with `ledger` and `store` is undone where something is raised.
    """

    ledger: Ledger
    now_ns: int  # the server's UTC clock; decides what has expired
    settings: Settings
    told: set[str] = field(default_factory=set)  # devices that have a new notice

    @property
    def store(self) -> Store:
        return self.ledger.store

    def setting(self, kind: type[Setting]) -> Setting:
        """What the operator set for a service (see Service.settings)."""
        found = self.settings[kind]
        assert isinstance(found, kind)
        return found

    def notify(self, device: str, kind: str, about: Answer) -> None:
        """Tell a device, by its id, once this is booked: at once, or when it next looks."""
        notice.put(self.store, device, kind, msgspec.json.encode(about).decode(), self.now_ns)
        self.told.add(device)


@dataclass(slots=True, kw_only=True)
class Call(Moment, Generic[Asked]):
    """One call of an operation: what a handler has to work with."""

    asked: Asked
    caller: Device | None
    prepared: Any = None  # what the operation's `before` found
    after: list[Callable[[], None]] = field(default_factory=list)

    @property
    def device(self) -> Device:
        """Who calls."""
        assert self.caller is not None, "an operation for anybody has no device"
        return self.caller

    def afterwards(self, work: Callable[[], None]) -> None:
        """Do something outside the ledger once this call is booked. It may be lost in a crash, so
        a sweep has to be able to do it again.
        """
        self.after.append(work)


@dataclass(frozen=True)
class Operation(Generic[Asked, Told]):
    """What can be asked by one method at one path."""

    name: str  # "transfer.confirm": also its id in the API's description
    method: Literal["GET", "POST"]  # a POST changes something and needs an Idempotency-Key
    path: str  # "/transfers/{transfer}": its names are fields of the request, of type str
    summary: str
    asked: type[Asked]
    told: type[Told]
    handler: Callable[[Call[Asked]], Told | Problem]
    roles: frozenset[Role]  # who may call it
    refusals: tuple[Kind, ...] = ()  # beside those that any operation may give
    status: int = 200
    # What takes long (a password's hash) is done before the transaction, on a thread of its own and
    # with a ledger for reading; the handler finds its result in `prepared`.
    before: Callable[[Call[Asked]], Any] | None = None
    # Of a newcomer's request: the public key that it is signed with (hexadecimal).
    newcomer: Callable[[Asked], str] | None = None

    @property
    def changes(self) -> bool:
        return self.method == "POST"

    @cached_property
    def all_refusals(self) -> tuple[Kind, ...]:
        """Every kind of problem that it may answer with."""
        found = [*self.refusals, MALFORMED, INVALID, UNFIT, TOO_MANY, INTERNAL, UNAVAILABLE]
        if self.roles or self.newcomer:
            found += [UNSIGNED, FORBIDDEN]
        if self.changes:
            found += [KEY_IN_PROGRESS, KEY_REUSED, TOO_LARGE, MEDIA, SLOW]
        return tuple(dict.fromkeys(found))

    @cached_property
    def path_names(self) -> tuple[str, ...]:
        return tuple(re.findall(r"{(\w+)}", self.path))

    def decode(
        self, path: Mapping[str, str], query: Mapping[str, str], body: bytes
    ) -> Asked:
        """The request; raises Problem with the place of what is wrong."""
        if self.changes:
            given = _object(body)
        elif body:
            raise MALFORMED("expected no body")
        else:
            given = dict(query)
        for name in path:
            if name in given:
                raise INVALID(f"expected `{name}` in the path alone", at=f"$.{name}")
        try:
            return msgspec.convert({**given, **path}, self.asked, strict=self.changes)
        except msgspec.ValidationError as error:
            place = str(error).partition(" - at `")[2].rstrip("`") or "$"
            raise INVALID(str(error), at=place) from error


def _number(text: str) -> int | float:
    """JSON knows one kind of number: 5.0 is a whole one."""
    value = float(text)
    return int(value) if value.is_integer() and abs(value) < 2**53 else value


_JSON = msgspec.json.Decoder(float_hook=_number)


def _object(body: bytes) -> dict[str, Any]:
    try:
        found = _JSON.decode(body or b"{}")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MALFORMED(f"expected JSON: {error}") from error
    if not isinstance(found, dict):
        raise INVALID("expected an object", at="$")
    return found


@dataclass(frozen=True)
class Errand:
    """What an errand has to work with. Each read and each write is a transaction of its own."""

    books: Books
    clock_ns: Callable[[], int]
    settings: Settings
    ring: Callable[[set[str]], None]  # told of devices that have a new notice

    def setting(self, kind: type[Setting]) -> Setting:
        return self._moment(_NOWHERE).setting(kind)

    def read(self, work: Callable[[Moment], Item]) -> Item:
        return self.books.read(lambda ledger: work(self._moment(ledger)))

    def write(self, work: Callable[[Moment], Item]) -> Item:
        moments: list[Moment] = []

        def book(ledger: Ledger) -> Item:
            moments.append(self._moment(ledger))
            return work(moments[-1])

        found = self.books.write(book)
        self.ring(moments[-1].told)
        return found

    def _moment(self, ledger: Ledger) -> Moment:
        return Moment(ledger=ledger, now_ns=self.clock_ns(), settings=self.settings)


@dataclass(frozen=True)
class Service:
    """All that one service is."""

    name: str
    operations: tuple[Operation[Any, Any], ...]
    annex: Annex | None = None  # its tables
    machines: tuple[StateMachine, ...] = ()  # what expires by itself, beside `sweep`
    # Called every few seconds and after a start: whatever has to happen by itself. It comes before
    # its machines' waits are expired, so it may resolve what belongs to them.
    sweep: Callable[[Moment], None] | None = None
    # What is done outside the ledger, in files or with other programs: on a thread of its own,
    # after a start, after each call that changed something, and every few seconds. It finds in the
    # tables what is to be done, and writes there what was. May raise TollsplitError: it is tried
    # again.
    errand: Callable[[Errand], None] | None = None
    # What the operator may set for it in a file: the table [name], every field with a default.
    settings: type[msgspec.Struct] | None = None
    # Pages for people, which are no operations.
    pages: tuple[BaseRoute, ...] = ()


_NOWHERE: Any = None  # settings need no ledger
