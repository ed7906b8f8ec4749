BOUNDS: dict[str, int]

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
        share: int = 0,
        shares: int = 1,
    ) -> None: ...
    @property
    def room(self) -> list[tuple[int, int]]: ...
    set_back: bool
