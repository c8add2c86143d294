"""What tests of marks share: skipping by name where memory cannot be tracked."""

from __future__ import annotations

from tests.conformance.conftest import tracking as tracking
