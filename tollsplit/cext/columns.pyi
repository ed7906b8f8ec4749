from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from tollsplit.cext.order import Order
from tollsplit.cext.table import Table

class Columns(Order):
    columns: dict[str, npt.NDArray[Any]]
    pair: npt.NDArray[np.uint32] | None
    packets: int
    octets: int
    def __init__(
        self,
        tables: list[tuple[Table, npt.NDArray[np.uint32] | None]],
        rank: npt.NDArray[np.uint32],
        window: npt.NDArray[np.uint32],
        first: npt.NDArray[np.uint32],
        order: npt.NDArray[np.uint32],
        values: npt.NDArray[np.uint64],
        value_of: npt.NDArray[np.uint64],
        breaks: npt.NDArray[np.uint64],
        each: Callable[[Callable[[int], None], Iterable[int]], Iterable[None]],
        *,
        paired: bool,
    ) -> None: ...

def counters(table: Table) -> npt.NDArray[np.void]: ...
