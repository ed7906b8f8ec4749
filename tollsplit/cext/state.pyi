from typing import Protocol

BOUNDS: dict[str, int]

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
        gate: Gate | None = None,
        share: int = 0,
        shares: int = 1,
    ) -> None: ...
    @property
    def room(self) -> list[tuple[int, int]]: ...
    set_back: bool
