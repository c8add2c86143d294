"""What every scanning test needs."""

from __future__ import annotations

from tests.conformance.conftest import tracking as tracking
