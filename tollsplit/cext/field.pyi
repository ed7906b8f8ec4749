from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

FIELDS: tuple[str, ...]
DIRECT_FIELDS: tuple[str, ...]

class Fields:
    count: int
    words: int
    def __init__(self, words: int, fields: Mapping[str, tuple[object, ...]]) -> None: ...

def hashed(
    values: Mapping[int, int],
) -> tuple[npt.NDArray[np.uint16], npt.NDArray[np.uint32]]: ...
