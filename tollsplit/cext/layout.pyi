import numpy as np

FRAME: np.dtype[np.void]
PACKET: np.dtype[np.void]
COUNTER: np.dtype[np.void]
SUBSCRIBER: np.dtype[np.void]
FAULT_NAMES: tuple[str, ...]
BUCKET_NAMES: tuple[str, ...]
SUSPICIOUS: int
FLAG_NAMES: tuple[str, ...]
TAGS: dict[str, int]
LINK_NAMES: dict[int, str]
