"""What the tests of stores need."""

from __future__ import annotations

import pytest

from tests.conformance.conftest import tracking as tracking


@pytest.fixture
def path(tmp_path):
    """Where a store may be made."""
    return tmp_path / "state.pagescan"
