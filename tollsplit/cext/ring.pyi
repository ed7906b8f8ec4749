from typing_extensions import Buffer

class Ring:
    block_octets: int
    block_count: int
    handed_out: int
    faults: int
    interface: int
    def __init__(
        self,
        memory: Buffer,
        block_octets: int,
        link_type: int,
        ingress: int = 0,
        segments: bool = False,
    ) -> None: ...
    def ready(self) -> bool: ...
    def close(self) -> None: ...
    def skip(self) -> tuple[int, int]: ...
    def frames(self, count: int) -> list[tuple[bytes, int, int, int, int, int]]: ...
