import numpy as np
import numpy.typing as npt

class Order:
    subscribers: npt.NDArray[np.uint64]
    pairs: int
