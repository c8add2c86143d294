"""What both sides of the differential test are asked, and how they answer: the same words for kernel and model."""

from __future__ import annotations

import errno
import mmap
from collections.abc import Sequence
from typing import Any

import numpy as np

from pagescan.abi import REGION_DTYPE, WALK_END, pack_scan_argument
from pagescan.query import ALL_CATEGORIES, Category

PAGE = mmap.PAGESIZE
#: Pages of a PMD range, and so of a huge page.
FANOUT = PAGE // 8
ARENA = 0x10_0000_0000
#: Four PMD ranges.
PAGES = 4 * FANOUT
#: What may be compared, as far as the kernel knows it. Soft-dirty bits depend on its configuration, and the model
#: never sets one.
CATEGORIES = int(ALL_CATEGORIES & ~Category.SOFT_DIRTY)

Operation = tuple[Any, ...]
Outcome = tuple[str, Any]


def address(page: int) -> int:
    return ARENA + page * PAGE


def scan(side: Any, page: int, count: int, flags: int, masks: Sequence[int], vec_len: int, max_pages: int) -> Any:
    """One PAGEMAP_SCAN: (regions in pages, walk_end in pages); on an error (errno, walk_end)."""
    vec = np.zeros(max(vec_len, 1), dtype=REGION_DTYPE)
    inverted, mask, anyof, returned = masks
    argument = pack_scan_argument(
        flags=flags,
        start=address(page),
        end=address(page + count),
        vec=vec.ctypes.data if vec_len else 0,
        vec_len=vec_len,
        max_pages=max_pages,
        category_inverted=inverted,
        category_mask=mask,
        category_anyof_mask=anyof,
        return_mask=returned,
    )
    answer: Any
    try:
        found = vec[: side.ioctl_scan(argument, vec)]
        answer = [((s - ARENA) // PAGE, (e - ARENA) // PAGE, c) for s, e, c in found.tolist()]
    except OSError as problem:
        answer = problem.errno
    return answer, (int(memoryview(argument).cast("Q")[WALK_END]) - ARENA) // PAGE


def outcome(side: Any, operation: Operation) -> Outcome:
    """What an operation answers: ("ok", value) or ("errno", its name)."""
    name, *arguments = operation
    try:
        if name == "scan":
            return "ok", scan(side, *arguments)
        return "ok", getattr(side, name)(*arguments)
    except OSError as problem:
        number = problem.errno or 0
        return "errno", errno.errorcode.get(number, number)


def observe(side: Any) -> tuple[Any, Any]:
    """Everything that can be seen without changing it: the categories of every page, and the mappings."""
    regions, _ = scan(side, 0, PAGES, 0, (0, 0, 0, side.categories), PAGES, 0)
    return regions, side.mappings()
