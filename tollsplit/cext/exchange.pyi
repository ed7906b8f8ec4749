from collections.abc import Mapping

BOUNDS: dict[str, int]

class Exchange:
    def __init__(self, facts: Mapping[bytes, int]) -> None: ...
    def feed(self, octets: bytes, uplink: bool = True) -> int | None: ...
