from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tollsplit.cext.classify import Classifier
from tollsplit.cext.dissect import Dissection, Frame
from tollsplit.cext.reader import Reader
from tollsplit.cext.subscribers import Subscribers
from tollsplit.cext.table import Table

class Meter:
    table: Table
    tables: list[tuple[Table, npt.NDArray[np.uint32] | None]]
    subscribers: Subscribers
    def __init__(
        self,
        dissection: Dissection,
        classifier: Classifier,
        cell_at: Callable[[int], tuple[int, int, int] | None],
    ) -> None: ...
    def run(self, reader: Reader, limit: int = ...) -> int: ...
    def absorb(self, other: Meter) -> None: ...
    def annex(self, other: Meter) -> None: ...
    def rows(self, frames: Sequence[Frame]) -> npt.NDArray[Any]: ...
    def sums(self) -> dict[str, tuple[int, int]]: ...
