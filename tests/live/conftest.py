"""The lab, once for all live tests; where it cannot be had they skip, saying what is missing."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from lab import INTERNET, SPONSOR, Lab, missing


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    lack = missing()
    if lack:
        pytest.skip(lack)
    made = Lab()
    yield made
    made.close()


@pytest.fixture(scope="session")
def served(lab: Lab) -> None:
    """HTTP and UDP echo at the sponsor's and on the internet."""
    for end in (SPONSOR, INTERNET):
        lab.serve(end.name)
