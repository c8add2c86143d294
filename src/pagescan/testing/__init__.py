"""For tests: the conformance suite for engines, strategies for hypothesis, and memory that exists only in the test.

* :class:`TrackerCases`: what every engine has to keep. Subclass it with a fixture ``memory``.
* :func:`regions`, :func:`queries`, :func:`histories`: strategies for hypothesis.
* :class:`FakeMemory`: a buffer to track that needs no kernel, and that can be told to lose coverage or to name too many
  pages: for tests of programs that use trackers.

The suite needs pytest and hypothesis, the strategies hypothesis, the fake neither.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .cases import TrackerCases as TrackerCases
    from .fake import FakeMemory as FakeMemory
    from .memory import BufferMemory as BufferMemory
    from .memory import TrackedMemory as TrackedMemory
    from .oracle import Oracle as Oracle
    from .strategies import Step as Step
    from .strategies import histories as histories
    from .strategies import queries as queries
    from .strategies import regions as regions

_HOME = {
    "BufferMemory": "memory",
    "FakeMemory": "fake",
    "Oracle": "oracle",
    "Step": "strategies",
    "TrackedMemory": "memory",
    "TrackerCases": "cases",
    "histories": "strategies",
    "queries": "strategies",
    "regions": "strategies",
}

__all__ = [
    "BufferMemory",
    "FakeMemory",
    "Oracle",
    "Step",
    "TrackedMemory",
    "TrackerCases",
    "histories",
    "queries",
    "regions",
]


if "pytest" in sys.modules:
    # So that a failing case shows values, not a bare AssertionError.
    sys.modules["pytest"].register_assert_rewrite(f"{__name__}.cases", f"{__name__}.oracle")


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{home}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return list(__all__)
