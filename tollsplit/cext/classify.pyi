from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from tollsplit.cext.covering import Covering
from tollsplit.cext.field import Fields
from tollsplit.cext.lpm import Trie
from tollsplit.cext.quic import Seal
from tollsplit.cext.resolvers import Resolvers

BOUNDS: dict[str, int]
CLASSES_MAX: int
HOLDERS_MAX: int

class Classifier:
    words: int
    detail: bool
    tracks: bool
    serial: int
    resolvers: Resolvers | None
    seal: Seal | None
    def __init__(
        self,
        trie4: Trie,
        trie6: Trie,
        pools: Sequence[tuple[int, int, int, Trie | None, Trie | None]],
        segments: tuple[
            npt.NDArray[np.uint32], npt.NDArray[np.uint64], npt.NDArray[np.uint32]
        ],
        server: npt.NDArray[np.uint64],
        subscribed: tuple[
            npt.NDArray[np.uint16], npt.NDArray[np.uint64], npt.NDArray[np.uint64]
        ] | None,
        fields: Fields,
        claims: npt.NDArray[np.uint64] | None,
        where: tuple[int, npt.NDArray[np.uint64]] | None,
        tracks: bool,
        covering: Covering,
    ) -> None: ...
    @property
    def bounds(self) -> tuple[int, int, int]: ...
