"""Versions of another process's memory: a real child, and what each version reads and writes of it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

import pagescan
from pagescan import NoSuchProcess, PagescanError, ProcessTracker, Regions, Store
from pagescan.abi import Mapping
from pagescan.snapshots.process import MappingMemory, ProcessSeries
from tests.conformance.conftest import tracking as tracking
from tests.trackers.target import PAGE, Target

pytestmark = pytest.mark.usefixtures("tracking")

PAGES = 16


class Kept:
    """A target, its tracker, a store, and an area in it of which every page holds ones."""

    def __init__(self, target: Target, tracker: ProcessTracker, at: int, store: Store):
        self.target, self.tracker, self.at, self.store = target, tracker, at, store
        self.extra: list[int] = []

    def area(self, mapping: Mapping) -> bool:
        inside = self.at <= mapping.start < self.at + PAGES * PAGE
        return inside or any(mapping.start <= at < mapping.end for at in self.extra)

    def put(self, page: int, value: int) -> None:
        self.target.do(f"put({self.at}, {page}, {value})")

    def series(self, **options) -> ProcessSeries:
        return ProcessSeries(self.store, "target", self.tracker, mappings=self.area, **options)

    def look(self) -> np.ndarray:
        return self.tracker.read(Regions.span(self.at, self.at + PAGES * PAGE, page_size=PAGE))

    def read(self, version=None) -> np.ndarray:
        return self.store.read("target", version)[f"{self.at:#x} anonymous"]


@pytest.fixture
def kept(tmp_path) -> Iterator[Kept]:
    target = Target()
    try:
        at = target.area(PAGES)
        try:
            tracker = pagescan.attach(target.pid)
        except PagescanError as error:
            if error.errno is None and not error.hint:
                raise
            pytest.skip(f"attaching: {error.message}")
        with tracker, pagescan.open_store(tmp_path / "store") as store:
            yield Kept(target, tracker, at, store)
    finally:
        target.end()


def test_the_first_version_is_the_memory_and_the_next_what_was_written_to(kept):
    series = kept.series()
    first = series.commit("start")
    assert (first.number, first.note, first.nbytes, first.written_pages) == (1, "start", PAGES * PAGE, PAGES)
    assert series.pause_ns > 0
    before = kept.look()
    assert np.array_equal(kept.read(), before)
    kept.put(3, 9)
    kept.put(8, 1)  # written to, and the same as before
    second = series.commit()
    assert (second.number, second.parent, second.written_pages) == (2, 1, 1)
    assert np.array_equal(kept.read(), kept.look())
    assert np.array_equal(kept.read(1), before)
    assert kept.store.diff("target", 1, 2) == {f"{kept.at:#x} anonymous": [slice(3 * PAGE, 4 * PAGE)]}
    assert series.commit().written_pages == 0


def test_only_what_is_due_is_read(kept, monkeypatch):
    series = kept.series()
    series.commit()
    seen: list[int] = []
    read = MappingMemory.read

    def spy(self, pages, page_size):
        seen.extend(pages.tolist())
        return read(self, pages, page_size)

    monkeypatch.setattr(MappingMemory, "read", spy)
    kept.put(5, 2)
    told: list[tuple[int, int]] = []
    series.commit(progress=lambda done, total: told.append((done, total)))
    assert seen == [5]
    assert told == [(1, 1)]


def test_another_run_compares_and_writes_what_differs(kept):
    kept.series().commit()
    kept.put(2, 7)
    version = kept.series().commit()
    assert (version.number, version.written_pages) == (2, 1)
    assert kept.read()[2 * PAGE] == 7


def test_memory_given_back_is_zeros(kept):
    series = kept.series()
    series.commit()
    kept.target.do(f"libc.madvise({kept.at} + 5 * PAGE, 2 * PAGE, 4)")
    series.commit()
    assert not kept.read()[5 * PAGE : 7 * PAGE].any()
    assert kept.read()[7 * PAGE] == 1


def test_mappings_that_come_go_and_are_replaced(kept):
    series = kept.series()
    series.commit()
    kept.extra.append(kept.target.area(4))
    kept.target.do(f"new(3, at={kept.at} + 2 * PAGE)")
    version = series.commit()
    assert set(version.buffers) == {f"{kept.at:#x} anonymous", f"{kept.extra[0]:#x} anonymous"}
    assert kept.read()[: 6 * PAGE : PAGE].tolist() == [1, 1, 0, 0, 0, 1]
    kept.target.do(f"libc.munmap({kept.extra[0]}, 4 * PAGE)")
    assert set(series.commit().buffers) == {f"{kept.at:#x} anonymous"}


def test_what_was_never_touched_is_left_out(kept):
    kept.extra.append(kept.target.do("new(64)"))
    at = kept.extra[0]
    names = set(kept.series().commit().buffers)
    assert f"{kept.at:#x} anonymous" in names
    assert not any(
        int(name.split()[0], 16) <= at < int(name.split()[0], 16) + PAGE for name in names - {f"{at:#x} anonymous"}
    )
    kept.target.do(f"put({at}, 9, 5)")
    arrays = kept.store.read("target", kept.series().commit())
    assert any(array.any() and array.nbytes >= 64 * PAGE for array in arrays.values())


def test_a_commit_that_fails_loses_nothing(kept, monkeypatch):
    series = kept.series()
    series.commit()
    kept.put(4, 8)
    monkeypatch.setattr(series._chain, "commit", lambda *args, **kwargs: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        series.commit()
    monkeypatch.undo()
    assert series.commit().written_pages == 1
    assert kept.read()[4 * PAGE] == 8


def test_the_attributes_say_where_it_was(kept):
    version = kept.series(freeze=False).commit(attributes={"pid": kept.target.pid})
    (buffer,) = version.buffers.values()
    assert buffer.attributes["start"] == f"{kept.at:#x}"
    assert buffer.attributes["end"] == f"{kept.at + PAGES * PAGE:#x}"
    assert buffer.attributes["perms"] == "rw-p"
    assert version.attributes == {"pid": kept.target.pid}


def test_pages_that_cannot_be_read_are_zeros_and_counted(kept):
    kept.target.do(f"libc.mprotect({kept.at} + 3 * PAGE, PAGE, 0)")
    mapping = Mapping(kept.at, kept.at + PAGES * PAGE, "rw-p")
    in_use = Regions.span(mapping.start, mapping.end, page_size=PAGE)
    memory = MappingMemory(kept.tracker.space, mapping, mapping.start, mapping.end, in_use)
    rows = memory.read(np.arange(PAGES), PAGE)
    assert rows[:, 0].tolist() == [1, 1, 1, 0, *[1] * 12]
    assert memory.unreadable == 1


def test_after_its_exit(kept):
    series = kept.series()
    kept.target.end()
    with pytest.raises(NoSuchProcess):
        series.commit()
