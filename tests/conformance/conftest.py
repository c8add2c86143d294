"""What every conformance test needs."""

from __future__ import annotations

import pytest

from pagescan.errors import KernelCannot
from pagescan.process.current import current_space


@pytest.fixture(scope="session")
def tracking() -> None:
    """Skips by name where written pages cannot be tracked."""
    try:
        proof = current_space().prove_tracking()
    except KernelCannot as error:
        pytest.skip(f"tracking: {error.message}")
    if not proof.works:
        pytest.skip(f"tracking: {proof.why}")
