"""What tests of other processes share."""

from __future__ import annotations

from tests.conformance.conftest import tracking as tracking
