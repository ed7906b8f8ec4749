from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tollsplit.cext.classify import Classifier
from tollsplit.cext.dissect import Dissection, Frame
from tollsplit.cext.merge import Merge
from tollsplit.cext.reader import Reader
from tollsplit.cext.recorder import Recorder
from tollsplit.cext.ring import Ring
from tollsplit.cext.state import State
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
        state: State | None = None,
    ) -> None: ...
    def run(
        self, frames: Reader | Ring | Merge, limit: int = ..., recorder: Recorder | None = ...
    ) -> int: ...
    def succeed(self, successor: Meter, until_ns: int) -> None: ...
    def finish(self) -> None: ...
    def hand_over(self, fresh: Meter) -> None: ...
    def absorb(self, other: Meter) -> None: ...
    def forget(self) -> None: ...
    def annex(self, other: Meter) -> None: ...
    def export(
        self,
    ) -> tuple[npt.NDArray[np.void], npt.NDArray[np.void], npt.NDArray[np.uint64]]: ...
    def load(
        self,
        counters: npt.NDArray[np.void],
        subscribers: npt.NDArray[np.void],
        totals: npt.NDArray[np.uint64],
        cells: int,
    ) -> None: ...
    @property
    def seen(self) -> tuple[int, int]: ...
    def rows(self, frames: Sequence[Frame]) -> npt.NDArray[Any]: ...
    def facts(self, rows: npt.NDArray[Any]) -> npt.NDArray[np.uint64]: ...
    def sums(self) -> dict[str, tuple[int, int]]: ...
