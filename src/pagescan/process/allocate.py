"""numpy arrays that begin at a page boundary and share their pages with nothing else."""

from __future__ import annotations

import contextlib
import mmap
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import InvalidArgument, KernelCannot

if TYPE_CHECKING:
    from numpy.typing import DTypeLike, NDArray

#: What one entry of the second-lowest page table covers, as entries have 8 bytes: 2 MiB for 4 KiB pages, 32 for 16 KiB.
_HUGE = mmap.PAGESIZE * (mmap.PAGESIZE // 8)

#: MAP_NORESERVE of asm-generic/mman-common.h; Python's mmap has no name for it before 3.13.
_NORESERVE = 0x4000


class OwnPages(mmap.mmap):
    """Memory of which a memoryview is the only user: nothing else lies in its pages."""


def empty(shape: int | tuple[int, ...], dtype: DTypeLike = np.float64, *, huge: bool = False) -> NDArray[Any]:
    """A new array on pages of its own, so that a tracker's answers about it are exact to its last element.

    Args:
        shape, dtype: as for ``numpy.empty``. The contents are zeros (fresh pages always are).
        huge: ask for transparent huge pages, and populate them at once: scanning is then cheaper, as long as a huge
            page is clean. The first write to a tracked huge page splits it, so that tracking stays exact to 4 KiB.

    The memory is returned to the system when the last view of the array goes. Object dtypes are refused: their
    elements are pointers to memory that is elsewhere.
    """
    kind = np.dtype(dtype)
    if kind.hasobject:
        raise InvalidArgument(
            f"dtype {kind} holds references to Python objects, which live elsewhere",
            hint="use numpy.empty for it; tracking sees only the references themselves",
        )
    shape = (shape,) if isinstance(shape, int) else tuple(shape)
    count = int(np.prod(shape, dtype=np.int64))
    nbytes = count * kind.itemsize
    if not nbytes:
        return np.empty(shape, kind)
    memory = _huge_memory(nbytes) if huge else memoryview(OwnPages(-1, nbytes, **_private()))
    return np.frombuffer(memory, dtype=kind, count=count).reshape(shape)


def zeros(shape: int | tuple[int, ...], dtype: DTypeLike = np.float64, *, huge: bool = False) -> NDArray[Any]:
    """:func:`empty`, whose fresh pages hold zeros."""
    return empty(shape, dtype, huge=huge)


def reserve(nbytes: int, *, huge: bool = False) -> NDArray[np.uint8]:
    """Zeros of which few may ever be written to: only those take memory. Page-aligned; not to be handed to users.

    Args:
        nbytes: length; more than there is memory is no error (but for ``vm.overcommit_memory=2``).
        huge: let the kernel back it with transparent huge pages where it has them.
    """
    options = _private()
    if options:
        options["flags"] |= _NORESERVE
    area = OwnPages(-1, max(nbytes, 1), **options)
    if huge and hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):
            area.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(memoryview(area), np.uint8, nbytes)


def _private() -> dict[str, Any]:
    """Private memory: a forked child gets copies. (An anonymous ``mmap`` of Python is shared by default.)"""
    if not hasattr(mmap, "MAP_PRIVATE"):
        return {}
    return {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS}


def _huge_memory(nbytes: int) -> memoryview:
    """Memory that begins at a huge page's boundary, populated with huge pages where the kernel gives them."""
    if not hasattr(mmap, "MADV_HUGEPAGE"):
        raise KernelCannot("huge=True needs transparent huge pages, which Linux alone has", hint="leave huge out")
    # An aligned run of whole huge pages lies somewhere inside; the rest is never touched.
    whole = -(-nbytes // _HUGE) * _HUGE
    area = OwnPages(-1, whole + _HUGE, **_private())
    offset = -int(np.frombuffer(area, np.uint8).__array_interface__["data"][0]) % _HUGE
    try:
        area.madvise(mmap.MADV_HUGEPAGE, offset, whole)
    except OSError as error:
        raise KernelCannot(
            f"this kernel has no transparent huge pages ({error.strerror})",
            hint="leave huge=True out",
            errno=error.errno,
        ) from None
    view = memoryview(area)[offset : offset + nbytes]
    np.frombuffer(view, np.uint8)[:: mmap.PAGESIZE] = 0
    return view
