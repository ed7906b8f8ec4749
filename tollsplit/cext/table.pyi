import numpy as np
import numpy.typing as npt

class Table:
    @property
    def octets(self) -> int: ...
    def counters(self) -> npt.NDArray[np.void]: ...
