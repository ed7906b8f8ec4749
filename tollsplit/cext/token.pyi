from tollsplit.cext.dissect import Frame

FIGURES: dict[str, int]
MAGIC: bytes

def find(frame: Frame, at: str = "inner") -> bytes | None: ...
