from typing import Any, Protocol

BOUNDS: dict[str, int]

class Seal(Protocol):
    def open(
        self, version: int, connection_id: bytes, packet: bytes, number_at: int
    ) -> bytes | None: ...

class Handshake:
    def __init__(self, seal: Seal) -> None: ...
    def feed(self, octets: bytes) -> dict[str, Any]: ...
