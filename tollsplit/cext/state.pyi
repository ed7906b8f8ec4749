BOUNDS: dict[str, int]

class State:
    def __init__(
        self, datagrams: int, fragments: int, fragment_timeout_ns: int
    ) -> None: ...
