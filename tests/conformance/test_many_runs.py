"""More runs of written pages than one call has room for, in random patterns: every engine names them each time."""

from __future__ import annotations

import mmap
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import pagescan
from pagescan.errors import KernelCannot
from pagescan.scanning.walk import WALK_VEC_LEN

PAGE = mmap.PAGESIZE
COUNT = 4 * WALK_VEC_LEN

pytestmark = pytest.mark.usefixtures("tracking")

Pages = NDArray[np.int64]


def scattered(random: np.random.Generator) -> Pages:
    return np.flatnonzero(random.random(COUNT) < random.choice([0.01, 0.3, 0.5]))


def striped(random: np.random.Generator) -> Pages:
    return np.arange(int(random.integers(3)), COUNT, int(random.integers(2, 4)))


def part(random: np.random.Generator) -> Pages:
    start, length = int(random.integers(COUNT)), int(random.integers(COUNT // 2, COUNT))
    return np.arange(start, min(start + length, COUNT), 2)


def private() -> Any:
    array = pagescan.zeros(COUNT * PAGE, np.uint8)
    array[::PAGE] = 1
    return array


def shared() -> Any:
    return np.frombuffer(mmap.mmap(-1, COUNT * PAGE), np.uint8)


@pytest.mark.parametrize("memory", [private, shared])
@pytest.mark.parametrize("engine", ["pagemap-scan", "pagemap-read", "compare"])
def test_every_page_is_named_in_the_answer_it_belongs_to(engine: str, memory: Callable[[], Any]) -> None:
    random = np.random.default_rng(7)
    array = memory()
    pages, first = array.reshape(COUNT, PAGE), array.ctypes.data // PAGE
    try:
        tracker = pagescan.track(array, engine=engine)
    except KernelCannot as error:
        pytest.skip(f"{engine}: {error.message}")
    kept: list[tuple[pagescan.Written, Pages]] = []
    with tracker:
        for value, pattern in enumerate(5 * [striped, part, scattered], start=2):
            written = pattern(random)
            pages[written, random.integers(PAGE)] = value
            kept = [*kept[-1:], (tracker.take(), written)]
            for answer, expected in kept:  # also that no later look writes to an answer that is kept
                assert np.array_equal(answer.pages() // np.uint64(PAGE) - np.uint64(first), expected)
