from typing import Any

import numpy as np
import numpy.typing as npt

from tollsplit.cext.table import Table

class Columns:
    columns: dict[str, npt.NDArray[Any]]
    pair: npt.NDArray[np.uint32] | None
    pairs: int
    subscribers: npt.NDArray[np.uint64]
    packets: int
    octets: int
    def __init__(
        self,
        table: Table,
        rank: npt.NDArray[np.uint32],
        window: npt.NDArray[np.uint32],
        first: npt.NDArray[np.uint32],
        order: npt.NDArray[np.uint32],
        values: npt.NDArray[np.uint64],
        value_of: npt.NDArray[np.uint64],
        breaks: npt.NDArray[np.uint64],
        paired: bool,
    ) -> None: ...

def counters(table: Table) -> npt.NDArray[np.void]: ...
