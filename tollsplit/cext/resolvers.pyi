from collections.abc import Iterable

from tollsplit.cext.covering import Covering
from tollsplit.cext.lpm import Trie

class Resolvers:
    def __init__(
        self,
        prefixes: Iterable[tuple[int, int, int]],
        pools4: Trie,
        pools6: Trie,
        covering: Covering,
    ) -> None: ...
