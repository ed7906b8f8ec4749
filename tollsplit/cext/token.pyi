from tollsplit.cext.dissect import Frame

FIGURES: dict[str, int]
MAGIC: bytes
REFUSAL_NAMES: tuple[str, ...]

def find(frame: Frame, at: str = "inner") -> bytes | None: ...
