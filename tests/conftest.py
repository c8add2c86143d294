"""What every test shares: the hypothesis profiles. The time limits, with their reasons, stand in pyproject.toml."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

# No deadline in either: one example may meet a page fault, a swap-in or a busy machine, and pytest-timeout ends hangs.
settings.register_profile("dev", max_examples=60, deadline=None)
# derandomize: a change must not fail for what it did not touch. suppress: slow data on a loaded machine is no defect.
settings.register_profile(
    "ci",
    max_examples=200,
    deadline=None,
    derandomize=True,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") == "true" else "dev"))
