from collections.abc import Iterable
from typing import Any

BOUNDS: dict[str, int]

class Direction:
    def __init__(self, answers: Iterable[str] | None = None) -> None: ...
    def feed(self, octets: bytes) -> list[tuple[str, int, Any]]: ...
