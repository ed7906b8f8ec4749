from typing import Any

BOUNDS: dict[str, int]

def read(octets: bytes, bare: bool = False) -> dict[str, Any]: ...
