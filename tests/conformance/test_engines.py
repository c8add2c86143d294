"""The public conformance suite over every engine, on this kernel, on the model, and on fake memory.

What an engine cannot do on a kind of memory, or on this kernel, is skipped with its own reason.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import pytest

from pagescan.abi import MemoryKind
from pagescan.errors import PagescanError
from pagescan.process.current import current_space
from pagescan.testing import FakeMemory, TrackerCases
from pagescan.trackers.choose import prove_engine
from pagescan.trackers.compare import CompareEngine

from . import model_memory

if sys.platform == "linux":
    from . import kernel_memory

#: On the kernel: every sort of page table that an engine can meet.
KINDS = ("anonymous-private", "anonymous-shared", "file-private", "file-shared", "thp", "hugetlb-private")
#: On the model, which is slower: those whose rules differ, by the oldest and the newest release.
MODEL_KINDS = (
    ("anonymous-private", "6.7"),
    ("anonymous-private", "7.3"),
    ("memfd-shared", "7.3"),
    ("file-private", "7.3"),
)
#: What a marker hides from those that look at page tables (docs/caveats.md).
BLIND = ("pagemap-scan", "pagemap-read", "model")


def droppable(kind: str, engine: str) -> bool:
    """Whether memory of this kind may be given back without the engine being blind to it."""
    return engine not in BLIND or kind not in ("file-private", "hugetlb-private")


def digests_only(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("xxhash", reason="the extra pagescan[hash] is not installed")
    monkeypatch.setattr(CompareEngine, "copy_limit", 0)


class KernelCases(TrackerCases):
    @pytest.fixture(params=KINDS)
    def memory(self, request: pytest.FixtureRequest) -> Iterator[Any]:
        if sys.platform != "linux":
            pytest.skip("the kernel's engines need Linux")
        with kernel_memory.memory_of(request.param) as memory:
            space = current_space()
            mapping = space.mapping_at(memory.address)
            assert mapping is not None
            try:
                kind = MemoryKind(mapping.private_anonymous, mapping.shared, mapping.page_size)
                prove_engine(space, self.engine, kind)
            except PagescanError as error:
                pytest.skip(f"{self.engine}: {error.message}")
            memory.droppable = droppable(memory.kind, self.engine)
            yield memory


class TestPagemapScan(KernelCases):
    engine = "pagemap-scan"


class TestPagemapRead(KernelCases):
    engine = "pagemap-read"


class TestSoftDirty(KernelCases):
    engine = "soft-dirty"


class TestCompare(KernelCases):
    engine = "compare"


class TestCompareByDigests(KernelCases):
    engine = "compare"

    @pytest.fixture(autouse=True)
    def _digests(self, monkeypatch: pytest.MonkeyPatch) -> None:
        digests_only(monkeypatch)


class ModelCases(TrackerCases):
    @pytest.fixture(params=MODEL_KINDS, ids="-".join)
    def memory(self, request: pytest.FixtureRequest) -> Iterator[Any]:
        kind, release = request.param
        with model_memory.memory_of(kind, release) as memory:
            memory.droppable = droppable(kind, self.engine)
            yield memory


class TestModel(ModelCases):
    engine = "model"


class TestModelPagemapRead(ModelCases):
    engine = "pagemap-read"


class TestModelCompare(ModelCases):
    engine = "compare"


class TestModelSoftDirty(TrackerCases):
    """The only release whose soft-dirty bits the model has; the same code meets real ones in the guests."""

    engine = "soft-dirty"

    @pytest.fixture(params=["anonymous-private", "file-private", "thp"])
    def memory(self, request: pytest.FixtureRequest) -> Iterator[Any]:
        with model_memory.memory_of(request.param, "6.7", soft_dirty=True) as memory:
            yield memory


class TestFake(TrackerCases):
    engine = "fake"

    @pytest.fixture
    def memory(self) -> FakeMemory:
        return FakeMemory(8 * 4096)
