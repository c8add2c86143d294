"""The argument checks of ``PAGEMAP_SCAN``, in the kernel's order: ``pagemap_scan_get_args()``."""

from __future__ import annotations

import errno
from dataclasses import dataclass

from ..abi import PM_SCAN_CHECK_WPASYNC, PM_SCAN_WP_MATCHING, REGION_DTYPE, SCAN_ARG_SIZE
from .mm import TASK_SIZE, error


@dataclass(frozen=True, slots=True)
class Arguments:
    """One call's checked arguments. Addresses in bytes; ``vec_len`` 0: no output buffer; ``max_pages`` 0: no limit."""

    flags: int
    start: int
    end: int
    vec_len: int
    max_pages: int
    inverted: int
    mask: int
    anyof: int
    returned: int

    @property
    def protects(self) -> bool:
        return bool(self.flags & PM_SCAN_WP_MATCHING)

    @property
    def check_wp_async(self) -> bool:
        return bool(self.flags & PM_SCAN_CHECK_WPASYNC)


def read_arguments(argument: bytearray, known: int, page_size: int) -> Arguments:
    """Check a 96-byte ``struct pm_scan_arg``. Raises OSError: EINVAL or EFAULT, the first that applies."""
    if len(argument) < SCAN_ARG_SIZE:
        raise error(errno.EFAULT, "PAGEMAP_SCAN: the argument is shorter than struct pm_scan_arg")
    size, flags, start, end, _, vec, vec_len, max_pages, *masks = memoryview(argument)[:SCAN_ARG_SIZE].cast("Q")
    _require(size == SCAN_ARG_SIZE, f"size {size} is not {SCAN_ARG_SIZE}")
    _require(not flags & ~(PM_SCAN_WP_MATCHING | PM_SCAN_CHECK_WPASYNC), f"flags {flags:#x}")
    _require(not any(mask & ~known for mask in masks), f"masks {masks}: this kernel knows {known:#x}")
    _require(start % page_size == 0, f"start {start:#x} is not at a page boundary")
    if end < start or end > TASK_SIZE:
        raise error(errno.EFAULT, f"PAGEMAP_SCAN: {start:#x}-{end:#x} is no range of user memory")
    _require(bool(vec) or not vec_len, "vec_len without vec")
    if vec and vec + vec_len * REGION_DTYPE.itemsize > TASK_SIZE:
        raise error(errno.EFAULT, f"PAGEMAP_SCAN: {vec_len} regions at {vec:#x} do not fit user memory")
    rounded = -(-end // page_size) * page_size
    return Arguments(flags, start, rounded, vec_len, max_pages, *masks)


def _require(good: bool, text: str) -> None:
    if not good:
        raise error(errno.EINVAL, f"PAGEMAP_SCAN: {text}")
