from typing import Any

import numpy as np
import numpy.typing as npt

UNLIMITED: int

def paid(
    totals: npt.NDArray[np.int64], steps: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]: ...
def divide(
    columns: dict[str, npt.NDArray[Any]],
    steps: npt.NDArray[np.int64],
    first: npt.NDArray[np.uint32],
    period: npt.NDArray[np.uint32],
    per: npt.NDArray[np.uint8],
    pair: npt.NDArray[np.uint32] | None,
    pairs: int,
    before: npt.NDArray[np.int64] | None,
    result: npt.NDArray[np.int64],
) -> tuple[npt.NDArray[np.int64], int, int]: ...
