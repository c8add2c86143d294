"""What every tracker test needs."""

from __future__ import annotations

import pytest

from tests.conformance.conftest import tracking as tracking


@pytest.fixture(autouse=True)
def _tracking(tracking: None) -> None:
    """Every test here tracks memory of this kernel."""
