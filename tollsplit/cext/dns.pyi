from typing import Any

BOUNDS: dict[str, int]

def read(octets: bytes) -> dict[str, Any] | None: ...
