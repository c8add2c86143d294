"""For tests that need guard regions, and a kernel that tells where they are."""

from __future__ import annotations

import pytest

from pagescan.errors import PagescanError
from pagescan.kernel import probes
from pagescan.kernel.findings import State


@pytest.fixture
def guards_told() -> None:
    """Skip, with the reason, where there are no guard regions or nobody tells of them."""
    try:
        outcome = probes.guard()
    except PagescanError as error:
        pytest.skip(error.message)
    if outcome.state is not State.WORKS:
        pytest.skip(outcome.evidence)
