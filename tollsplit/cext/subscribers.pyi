import numpy as np
import numpy.typing as npt

class Subscribers:
    count: int
    def subscribers(self) -> npt.NDArray[np.void]: ...

def order_of(rows: npt.NDArray[np.void]) -> npt.NDArray[np.uint32]: ...
