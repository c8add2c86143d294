"""Whether memory of this process is mapped throughout, as trackers ask it after every look."""

from __future__ import annotations

import errno
import mmap
from collections.abc import Iterator

import pytest

from pagescan.kernel import memory
from pagescan.kernel.gaps import OwnGapFinder
from pagescan.kernel.memory import PAGE_SIZE
from pagescan.kernel.procfs import query_mapping


@pytest.fixture
def has_gap() -> Iterator[OwnGapFinder]:
    finder = OwnGapFinder()
    yield finder
    finder.close()


@pytest.mark.parametrize("hole", [0, 1, 3])
def test_an_unmapped_page_is_found_wherever_it_lies(pages, has_gap, hole):
    area = pages(4)
    assert not has_gap(area.address, area.end)
    memory.unmap_memory(area.at(hole), PAGE_SIZE)
    try:
        assert has_gap(area.address, area.end)
        assert has_gap(area.at(hole), area.at(hole) + PAGE_SIZE)
        assert not any(has_gap(area.at(i), area.at(i) + PAGE_SIZE) for i in range(4) if i != hole)
    finally:
        flags = memory.MAP_PRIVATE | memory.MAP_ANONYMOUS | memory.MAP_FIXED_NOREPLACE
        memory.map_memory(PAGE_SIZE, address=area.at(hole), flags=flags)


def test_several_mappings_side_by_side_leave_no_gap(pages, has_gap):
    area = pages(4)
    memory.protect_memory(area.at(1), PAGE_SIZE, mmap.PROT_READ)
    assert not has_gap(area.address, area.end)


def test_a_kernel_that_cannot_be_asked_is_asked_another_way(pages, has_gap, monkeypatch):
    area = pages(3)

    def refuse() -> int:
        raise OSError(errno.ENOTTY, "before Linux 6.11")

    monkeypatch.setattr(has_gap, "_ask", refuse)
    assert not has_gap(area.address, area.end)
    assert has_gap(0, PAGE_SIZE)


def test_where_a_query_settles_it_nobody_else_is_asked(pages, has_gap, monkeypatch):
    area = pages(3)
    try:
        query_mapping(has_gap._maps, area.address)
    except OSError:
        pytest.skip("no PROCMAP_QUERY, which Linux 6.11 brought")
    monkeypatch.setattr(memory, "has_gap", lambda *bounds: pytest.fail(f"asked about {bounds}"))
    assert not has_gap(area.at(1), area.end)
