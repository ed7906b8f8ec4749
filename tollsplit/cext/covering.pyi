from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from tollsplit.cext.field import Fields
from tollsplit.cext.suffixes import Suffixes

BOUNDS: dict[str, int]
KINDS: tuple[str, ...]

class Covering:
    count: int
    conditions: list[tuple[str, frozenset[str]] | None]
    def __init__(
        self,
        fields: Fields,
        server: npt.NDArray[np.uint64],
        subscribed: npt.NDArray[np.uint64] | None,
        rules: Sequence[tuple[int, int]],
        kinds: Mapping[str, int],
        names: Suffixes,
        tokens: Mapping[int, int],
        outer: int,
        conditions: list[tuple[str, frozenset[str]] | None],
    ) -> None: ...
