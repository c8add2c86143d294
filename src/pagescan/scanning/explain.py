"""The kernel's errnos of ``PAGEMAP_SCAN`` in words: what was asked, why it cannot be, how to mend it.

Source of the errnos: ``pagemap_scan_get_args()`` and ``pagemap_scan_test_walk()`` in ``fs/proc/task_mmu.c``.
"""

from __future__ import annotations

import errno

import numpy as np

from ..abi import REGION_DTYPE, Mapping, Pagemap, pack_scan_argument
from ..errors import InvalidArgument, KernelCannot, NoSuchProcess, NotWriteProtectable, PagescanError
from ..query import Category


def explain(
    error: OSError, pagemap: Pagemap, start: int, end: int, *, protecting: bool = False
) -> PagescanError | OSError:
    """The typed error for what ``PAGEMAP_SCAN`` answered over [start, end); the OSError itself if none is better."""
    asked = f"PAGEMAP_SCAN of {start:#x}-{end:#x} in {pagemap.space.label}"
    code = error.errno
    if code == errno.EPERM:
        return not_write_protectable(pagemap, start, end, protecting=protecting)
    if code == errno.ESRCH:
        return NoSuchProcess(f"{asked}: the process has exited", errno=code)
    if code == errno.EFAULT:
        return InvalidArgument(
            f"{asked}: the range is not (wholly) in the user half of the address space",
            hint="take addresses from the process's mappings; the kernel's own [vsyscall] page cannot be scanned",
            errno=code,
        )
    if code == errno.ENOTTY:
        return KernelCannot(
            f"{asked}: this kernel has no PAGEMAP_SCAN",
            hint="it came with Linux 6.7; see `pagescan doctor`",
            errno=code,
        )
    if code == errno.EINVAL:
        return InvalidArgument(
            f"{asked}: the kernel rejects the argument (unaligned start, or a flag or category it does not know)",
            hint="`pagescan doctor` lists the categories this kernel knows",
            errno=code,
        )
    return error


def not_write_protectable(pagemap: Pagemap, start: int, end: int, *, protecting: bool) -> NotWriteProtectable:
    """EPERM explained: names the first mapping of the range that is not under asynchronous write protection."""
    mapping = first_untracked(pagemap, start, end)
    which = f"the mapping {mapping}" if mapping else f"part of {start:#x}-{end:#x}"
    space = pagemap.space.label
    why = "no userfaultfd holds it in asynchronous write-protect mode"
    return NotWriteProtectable(
        f"{which} in {space} cannot be write-protected: {why}"
        if protecting
        else f"WRITTEN cannot be asked of {which} in {space}: {why}, so the kernel would call every page of it written",
        hint="track the memory first: pagescan.track(buffer)"
        + ("" if protecting else ", or leave WRITTEN out of the masks"),
        errno=errno.EPERM,
    )


def first_untracked(pagemap: Pagemap, start: int, end: int) -> Mapping | None:
    """The first mapping in [start, end) that is not registered in asynchronous mode; None if none can be named."""
    vec = np.zeros(1, dtype=REGION_DTYPE)
    for mapping in pagemap.space.mappings():
        low, high = max(mapping.start, start), min(mapping.end, end)
        if low >= high:
            continue
        argument = pack_scan_argument(
            start=low,
            end=high,
            vec=vec.ctypes.data,
            vec_len=1,
            category_mask=Category.WPALLOWED,
            category_inverted=Category.WPALLOWED,
        )
        try:
            if pagemap.ioctl_scan(argument, vec):
                return mapping
        except OSError:
            return mapping
        # A mapping of device memory is skipped by every scan, and is never registered.
        if not _scannable(pagemap, vec, low, high):
            return mapping
    return None


def _scannable(pagemap: Pagemap, vec: np.ndarray, low: int, high: int) -> bool:
    """Whether a scan that matches everything sees anything at all in this mapping."""
    return pagemap.ioctl_scan(pack_scan_argument(start=low, end=high, vec=vec.ctypes.data, vec_len=1), vec) > 0
