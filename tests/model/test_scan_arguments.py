"""The checks of kernel-facts 1.2, in their order, with their errnos."""

from __future__ import annotations

import errno
from typing import Any

import numpy as np
import pytest

from pagescan.abi import REGION_DTYPE, SCAN_FIELDS, WALK_END, pack_scan_argument
from pagescan.errors import Closed

from .helpers import CHECK, PAGE, WRITTEN, Arena, refused

TASK_SIZE = (1 << 47) - PAGE


def call(arena: Arena, change: dict[str, int] | None = None, vec: Any = "own", *, size: int = 96) -> int:
    own = np.zeros(4, dtype=REGION_DTYPE)
    argument = pack_scan_argument(
        start=arena.at, end=arena.at + arena.pages * PAGE, vec=own.ctypes.data, vec_len=len(own), return_mask=2
    )
    words = memoryview(argument).cast("Q")
    for name, value in (change or {}).items():
        words[SCAN_FIELDS.index(name)] = value
    words.release()
    return arena.process.pagemap.ioctl_scan(argument[:size], own if isinstance(vec, str) else vec)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"size": 88}, errno.EINVAL),
        ({"size": 104}, errno.EINVAL),
        ({"flags": 4}, errno.EINVAL),
        ({"flags": 1 << 63}, errno.EINVAL),
        ({"category_inverted": 1 << 10}, errno.EINVAL),
        ({"category_mask": 1 << 63}, errno.EINVAL),
        ({"category_anyof_mask": 1 << 9}, errno.EINVAL),
        ({"return_mask": 1 << 9}, errno.EINVAL),
        ({"start": 1}, errno.EINVAL),
        ({"end": PAGE}, errno.EFAULT),
        ({"end": TASK_SIZE + PAGE}, errno.EFAULT),
        ({"vec": 0}, errno.EINVAL),
        ({"vec_len": 1 << 60}, errno.EFAULT),
        ({"vec": TASK_SIZE}, errno.EFAULT),
        # The first check that fails decides.
        ({"size": 0, "end": PAGE}, errno.EINVAL),
        ({"start": 1, "end": 0}, errno.EINVAL),
        ({"end": PAGE, "vec": 0}, errno.EFAULT),
    ],
)
def test_refused(change: dict[str, int], expected: int) -> None:
    with refused(expected):
        call(Arena(), change)


def test_a_short_argument_is_efault() -> None:
    with refused(errno.EFAULT):
        call(Arena(), size=88)


@pytest.mark.parametrize(("behaviour", "bit"), [("6.7", 7), ("6.12", 8), ("6.18", 9), ("7.3", 10)])
def test_each_release_refuses_the_bit_it_does_not_know(behaviour: str, bit: int) -> None:
    arena = Arena(behaviour=behaviour)
    assert call(arena, {"return_mask": 1 << (bit - 1)}) >= 0
    with refused(errno.EINVAL):
        call(arena, {"return_mask": 1 << bit})


def test_end_is_rounded_up_to_a_page() -> None:
    arena = Arena(4)
    arena.write(0, 1, 2, 3)
    own = np.zeros(4, dtype=REGION_DTYPE)
    argument = pack_scan_argument(start=arena.at, end=arena.at + 1, vec=own.ctypes.data, vec_len=4)
    assert arena.process.pagemap.ioctl_scan(argument, own) == 1
    assert own[0]["end"] == arena.at + PAGE
    assert memoryview(argument).cast("Q")[WALK_END] == arena.at + PAGE


def test_an_empty_range_is_nothing_and_done() -> None:
    arena = Arena()
    answer = arena.scan(3, 3)
    assert (answer.regions, answer.walk_end) == ([], 3)


def test_zero_masks_match_everything_also_with_no_category_returned() -> None:
    arena = Arena(4)
    arena.write(1)
    assert arena.scan(returned=0).regions == [(0, 4, 0)]


def test_a_vec_that_is_not_there_or_read_only_is_efault() -> None:
    arena = Arena()
    read_only = np.zeros(4, dtype=REGION_DTYPE)
    read_only.flags.writeable = False
    for vec in (None, read_only):
        with refused(errno.EFAULT):
            call(arena, vec=vec)


def test_efault_comes_after_the_work_where_the_bug_is_on() -> None:
    """kernel-facts 0.3: the pages are protected, and what was written to them is lost."""
    arena = Arena(4, real=True)
    arena.register()
    arena.write(1)
    with pytest.raises(OSError, match="output buffer"):
        call(arena, {"flags": 1, "category_mask": 2}, vec=None)
    assert arena.written() == []


def test_clean_machine_refuses_before_the_work() -> None:
    arena = Arena(4)
    arena.register()
    arena.write(1)
    with pytest.raises(OSError, match="output buffer"):
        call(arena, {"flags": 1, "category_mask": 2}, vec=None)
    assert arena.written() == [0, 1, 2, 3]


def test_an_exited_process_is_esrch_where_the_mm_is_pinned() -> None:
    arena, older = Arena(), Arena(behaviour="6.12")
    arena.process.exit()
    older.process.exit()
    with refused(errno.ESRCH):
        arena.scan()
    assert older.scan().regions == []


def test_a_closed_pagemap_says_so() -> None:
    arena = Arena()
    arena.process.pagemap.close()
    with pytest.raises(Closed):
        arena.scan()


def test_bind_is_the_same_call() -> None:
    arena = Arena(4)
    arena.write(2)
    own = np.zeros(4, dtype=REGION_DTYPE)
    argument = pack_scan_argument(
        start=arena.at, end=arena.at + 4 * PAGE, vec=own.ctypes.data, vec_len=4, category_mask=8, return_mask=8
    )
    run = arena.process.pagemap.bind(argument, own)
    assert run() == 1
    arena.write(0)
    assert run() == 2


def test_check_wp_async_needs_no_masks() -> None:
    """kernel-facts 1.5: EPERM whether or not WP_MATCHING is set; gaps are skipped silently."""
    arena = Arena(8)
    with refused(errno.EPERM):
        arena.scan(flags=CHECK)
    arena.process.munmap(arena.at, 8 * PAGE)
    assert arena.scan(flags=CHECK, mask=WRITTEN).regions == []
