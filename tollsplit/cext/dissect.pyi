from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Frame = tuple[bytes, int, int, int, int, int]
BOUNDS: dict[str, int]
RETRANSMISSIONS: tuple[str, ...]

class Dissection:
    layer: str
    def __init__(
        self,
        layer: str = "ip",
        at: str = "inner",
        trust_ip_length: bool = False,
        endpoints: Iterable[tuple[int, int, int]] | None = None,
        retransmissions: str = "charge",
        duplicates_ns: int = 0,
        unsolicited: bool = False,
    ) -> None: ...
    def rows(self, frames: Sequence[Frame]) -> npt.NDArray[np.void]: ...

def rows(
    frames: Sequence[Frame],
    layer: str = "ip",
    at: str = "inner",
    trust_ip_length: bool = False,
    endpoints: Iterable[tuple[int, int, int]] | None = None,
) -> npt.NDArray[Any]: ...

def inside(frame: Frame, at: str = "inner") -> dict[str, Any]: ...
