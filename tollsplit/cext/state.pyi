from collections.abc import Hashable, Iterable
from typing import Protocol

BOUNDS: dict[str, int]
KEY_OCTETS: int
OWN_KEY: bytes

class Gate(Protocol):
    def ask(
        self,
        carried: bytes,
        version: int,
        subscriber: int,
        subscriber_length: int,
        server: int,
        at_ns: int,
    ) -> int: ...

class Answers(Protocol):
    hints: bytearray

    def ask(self, question: Hashable, now_ns: int) -> None: ...
    def answer(
        self,
        question: Hashable,
        name: bytes,
        facts: int,
        given: Iterable[tuple[int, int, int]],
        now_ns: int,
    ) -> bool: ...
    def names(self, version: int, number: int, now_ns: int) -> list[bytes]: ...

class State:
    def __init__(
        self,
        datagrams: int,
        fragments: int,
        fragment_timeout_ns: int,
        flows: int,
        held: int,
        flow_idle_ns: int,
        flow_hold_ns: int,
        copies: int,
        streams: int,
        sent: int,
        calls: int,
        talks: int,
        requests: int,
        gate: Gate | None = None,
        share: int = 0,
        shares: int = 1,
        *,
        answers: Answers,
        key: bytes = ...,
    ) -> None: ...
    @property
    def room(self) -> list[tuple[int, int]]: ...
    set_back: bool
