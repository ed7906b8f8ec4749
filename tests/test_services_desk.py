"""What a handler may rely on: one at a time for a key, before and after its transaction."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
import pytest
from serving import Served, on_sqlite

from tollsplit.errors import LedgerError
from tollsplit.services import device
from tollsplit.services.operation import Call, Moment, Operation, Service
from tollsplit.services.problem import NOT_FOUND, Kind, Problem
from tollsplit.services.role import ANYBODY, only
from tollsplit.services.wire import Answer, Request, new_id

UNHEARD = Kind("unheard", 409, "Nobody declared it")


class Policy(msgspec.Struct):
    greeting: str = "good day"


class Greet(Request):
    name: str = "you"


class Greeting(Answer):
    text: str


class Steps:
    """What the operations below do, in order, and what they wait for."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.begun = threading.Event()
        self.go_on = threading.Event()
        self.go_on.set()

    def before(self, call: Call[Greet]) -> str:
        self.done.append("before")
        with pytest.raises(LedgerError):  # it has a ledger for reading
            call.store.write("DELETE FROM service_answers WHERE status = ?", [(0,)])
        return call.asked.name.upper()

    def greet(self, call: Call[Greet]) -> Greeting | Problem:
        self.done.append("handler")
        self.begun.set()
        assert self.go_on.wait(10)
        call.afterwards(lambda: self.done.append("after"))
        if call.asked.name == "nobody":
            raise NOT_FOUND("nobody")
        if call.asked.name == "unheard":
            return UNHEARD("of this")
        if call.asked.name == "broken":
            call.afterwards(lambda: 1 // 0)  # type: ignore[arg-type, return-value]
        return Greeting(f"{call.setting(Policy).greeting}, {call.prepared}")

    @property
    def service(self) -> Service:
        more: dict[str, Any] = {"before": self.before}
        return Service("greetings", (
            Operation("greet", "POST", "/greetings", "Greet", Greet, Greeting, self.greet,
                      only("terminal"), (NOT_FOUND,), **more),
            Operation("greet.all", "POST", "/greetings/all", "Greet", Greet, Greeting, self.greet,
                      ANYBODY, (NOT_FOUND,), **more),
        ), settings=Policy)  # fmt: skip


@pytest.fixture
def steps() -> Steps:
    return Steps()


@pytest.fixture
def desk(serve: Callable[..., Any], steps: Steps) -> Iterator[Served]:
    with serve((device.SERVICE, steps.service)) as served:
        yield served


@on_sqlite
def test_desk_does_what_comes_before_and_after_once(desk: Served, steps: Steps) -> None:
    alice, key = desk.device(), new_id()
    greet, greet_all = steps.service.operations
    for _ in range(2):
        assert alice.call(greet, Greet("alice"), key=key).text == "good day, ALICE"
    assert steps.done.count("handler") == steps.done.count("after") == 1
    steps.done.clear()
    for name, kind in (("nobody", "not-found"), ("unheard", "internal")):
        with pytest.raises(Problem) as caught:
            alice.call(greet, Greet(name))
        assert caught.value.kind.name == kind
    assert steps.done.count("handler") == 2
    assert alice.call(greet, Greet("broken")).text == "good day, BROKEN"  # it is booked
    assert desk.client().call(greet_all, Greet("bob")).text == "good day, BOB"


@on_sqlite
def test_desk_lets_a_key_be_under_way_once(desk: Served, steps: Steps) -> None:
    alice, key = desk.device(retries=0), new_id()
    greet, _ = steps.service.operations
    steps.begun.clear()
    steps.go_on.clear()
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(alice.call, greet, Greet("alice"), key=key)
        assert steps.begun.wait(10)
        with pytest.raises(Problem) as caught:
            alice.call(greet, Greet("alice"), key=key)
        assert (caught.value.kind.name, caught.value.kind.status) == ("key-in-progress", 409)
        steps.go_on.set()
        assert first.result(10) == alice.call(greet, Greet("alice"), key=key)
    assert steps.done.count("handler") == 1


@on_sqlite
def test_desk_is_set_by_the_operator(serve: Callable[..., Any], steps: Steps) -> None:
    with serve((device.SERVICE, steps.service), settings={Policy: Policy("hello")}) as served:
        greet, _ = steps.service.operations
        assert served.device().call(greet, Greet("alice")).text == "hello, ALICE"


@on_sqlite
@pytest.mark.parametrize("broken", [NOT_FOUND("gone"), LedgerError("away"), ValueError("a fault")])
def test_desk_sweeps_the_others_where_one_fails(
    serve: Callable[..., Any], broken: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    """Two services on one ledger may be in each other's way; a sweep that ended would leave what is
    held, held.
    """
    swept: list[int] = []

    def fail(moment: Moment) -> None:
        moment.store.write("UPDATE service_devices SET revoked_at_ns = ?", [(1,)])
        raise broken

    def note(moment: Moment) -> None:
        swept.append(moment.now_ns)

    services = device.SERVICE, Service("a", (), sweep=fail), Service("b", (), sweep=note)
    with serve(services) as served:
        alice = served.device()
        served.sweep()
        assert swept and alice.call(device.MYSELF, device.Myself()).account == "alice"
        [failed] = [record for record in caplog.records if record.getMessage() == "sweep"]
        assert failed.__dict__["service"] == "a"
