"""The lab, once for all live tests; where it cannot be had they skip, saying what is missing."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from lab import Lab, missing


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    lack = missing()
    if lack:
        pytest.skip(lack)
    made = Lab()
    yield made
    made.close()
