"""Page faults: what reading and writing do to page tables, and when they are resolved by userfaultfd.

Every function takes many pages of one mapping at once; the result is that of touching them one after another.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import numpy as np

from .pages import ANON, GUARD, HUGE, MARKER, NONE, PRESENT, SWAP, UFFD, ZERO
from .physical import NO_FRAME
from .thp import fault_huge, write_huge

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .mm import Mm
    from .vma import Vma

    Pages = NDArray[np.int64]

#: Pages mapped around a read of a file's page that are in memory already (fault_around_bytes = 64 KiB).
FAULT_AROUND_BYTES = 65536


class SegmentationFault(OSError):
    """The access is not allowed: no mapping, no permission, or a guard page (SIGSEGV; EFAULT in a system call)."""


class BusError(OSError):
    """The mapping reaches beyond the end of its file (SIGBUS; EFAULT in a system call)."""


class FaultBlocks(OSError):
    """The writer would now wait for a reader of the userfaultfd: the memory is registered, but not async."""


def fault(mm: Mm, start: int, end: int, *, write: bool) -> None:
    """Bring in the pages of [start, end), in order. Raises at the first page that cannot be; those before it stay."""
    first, last = mm.pages(start, end)
    fault_pages(mm, np.arange(first, last, dtype=np.int64), write=write)


def fault_pages(mm: Mm, pages: Pages, *, write: bool) -> None:
    """The same for page numbers in ascending order, each once."""
    position = 0
    while position < len(pages):
        address = int(pages[position]) * mm.page_size
        vma = mm.vmas.find(address)
        if vma is None:
            vma = _grown(mm, address)
        count = int(np.searchsorted(pages[position:], vma.end // mm.page_size))
        _fault_in(mm, vma, pages[position : position + count], write)
        position += count


def _grown(mm: Mm, address: int) -> Vma:
    """Let a stack grow down to the address; it keeps its registration."""
    above = mm.vmas.between(address, address + (8 << 20))
    if not above or not above[0].grows_down:
        raise SegmentationFault(errno.EFAULT, f"nothing is mapped at {address:#x}")
    vma = above[0]
    mm.vmas.remove(vma)
    vma.offset -= (vma.start - address) // mm.page_size
    vma.start = address
    mm.vmas.add(vma)
    return vma


def _fault_in(mm: Mm, vma: Vma, pages: Pages, write: bool) -> None:
    if ("w" if write else "r") not in vma.prot and not (not write and "w" in vma.prot):
        raise SegmentationFault(
            errno.EFAULT, f"{int(pages[0]) * mm.page_size:#x} may not be {_verb(write)} ({vma.prot})"
        )
    if vma.pfnmap:
        raise SegmentationFault(errno.EFAULT, f"{int(pages[0]) * mm.page_size:#x} has no pages of memory")
    pages, beyond = _within_file(mm, vma, pages)
    if vma.hugetlb:
        _fault_hugetlb(mm, vma, np.unique(pages // mm.fanout), write)
    elif len(pages):
        _fault_small(mm, vma, pages, write)
    if beyond:
        if not write and not vma.mode and not vma.hugetlb:
            _fault_around_beyond(mm, vma, beyond)
        if write and not vma.shared:
            # do_cow_fault() prepares for the copy before it looks for the page.
            mm.vmas.prepare_anon(vma)
        raise BusError(errno.EFAULT, f"{beyond * mm.page_size:#x} lies beyond the end of {vma.file and vma.file.name}")


def _verb(write: bool) -> str:
    return "written" if write else "read"


def _within_file(mm: Mm, vma: Vma, pages: Pages) -> tuple[Pages, int]:
    """The pages before the file's end, and the first beyond it (0: none)."""
    if vma.file is None:
        return pages, 0
    limit = len(vma.file.frames) - vma.offset + vma.start // mm.page_size
    inside = int(np.searchsorted(pages, limit))
    return pages[:inside], int(pages[inside]) if inside < len(pages) else 0


def _fault_small(mm: Mm, vma: Vma, pages: Pages, write: bool) -> None:
    count, problem = _first_problem(mm, vma, pages, write)
    pages = pages[:count]
    for pmd in np.unique(pages // mm.fanout).tolist():
        row = mm.tables.row(pmd)
        if row < 0 and not fault_huge(mm, vma, pmd, write):
            mm.tables.ensure(pmd)
    index = mm.tables.flat(pages)
    _resolve_protection(mm, vma, pages, index, write)
    _map(mm, vma, pages, index, write)
    if problem is not None:
        raise problem


def _first_problem(mm: Mm, vma: Vma, pages: Pages, write: bool) -> tuple[int, OSError | None]:
    """How many pages can be brought in, and why not the next."""
    entries = mm.tables.entries_of(pages)
    bad = entries & GUARD
    armed = vma.context is not None and (
        (vma.rwp and not vma.context.rwp_async) or (write and vma.wp and not vma.wp_allowed)
    )
    if armed:
        bad = bad | (entries & UFFD)
    where = np.flatnonzero(bad)
    if not len(where):
        return len(pages), None
    at = int(where[0])
    address = f"{int(pages[at]) * mm.page_size:#x}"
    if entries[at] & GUARD:
        return at, SegmentationFault(errno.EFAULT, f"{address} is a guard page")
    return at, FaultBlocks(errno.EAGAIN, f"{address} is protected, and its userfaultfd is not asynchronous")


def _resolve_protection(mm: Mm, vma: Vma, pages: Pages, index: NDArray[np.int64], write: bool) -> None:
    """Asynchronous mode: the fault clears the bit and goes on. A huge page is split first: one page is written."""
    flat = mm.tables.entries.reshape(-1)
    if write or vma.rwp:
        for pmd in np.unique(pages[(flat[index] & HUGE) != 0] // mm.fanout).tolist():
            if write:
                write_huge(mm, vma, pmd)
            elif mm.tables.entries[mm.tables.row(pmd), 0] & UFFD:
                mm.split_huge(pmd)
        entries = flat[index]
        touched = index[(entries & UFFD) != 0]
        # A marker turns into an empty entry, and is then mapped like one.
        flat[touched] &= np.uint8(0xFF & ~(UFFD | MARKER))


def _map(mm: Mm, vma: Vma, pages: Pages, index: NDArray[np.int64], write: bool) -> None:
    flat = mm.tables.entries.reshape(-1)
    frames = mm.tables.frames.reshape(-1)
    entries = flat[index]
    empty = (entries & (PRESENT | SWAP)) == 0
    if empty.any():
        mm.tables.soft.reshape(-1)[index[empty]] = False
        if vma.anonymous:
            _map_anonymous(mm, vma, index[empty], write)
        else:
            _map_file(mm, vma, pages[empty], index[empty], write)
    swapped = index[(entries & SWAP) != 0]
    flat[swapped] = (flat[swapped] & np.uint8(UFFD)) | np.uint8(PRESENT | ANON)
    if write:
        present = index[~empty & ((entries & HUGE) == 0)]
        _copy_on_write(mm, vma, flat, frames, present)
        mm.tables.soft.reshape(-1)[index] = True
        for row in np.unique(index[(flat[index] & HUGE) != 0] // mm.fanout).tolist():
            mm.tables.soft[row] = True  # one bit for all of a huge page


def _map_anonymous(mm: Mm, vma: Vma, index: NDArray[np.int64], write: bool) -> None:
    flat = mm.tables.entries.reshape(-1)
    if write:
        mm.tables.frames.reshape(-1)[index] = mm.memory.allocate(len(index))
        flat[index] = PRESENT | ANON
        mm.vmas.prepare_anon(vma)
    else:
        keep = flat[index] & np.uint8(UFFD if vma.wp or vma.rwp else NONE)
        flat[index] = keep | np.uint8(PRESENT | ZERO)


def _map_file(mm: Mm, vma: Vma, pages: Pages, index: NDArray[np.int64], write: bool) -> None:
    assert vma.file is not None
    flat = mm.tables.entries.reshape(-1)
    frames = mm.tables.frames.reshape(-1)
    if not write and not vma.mode:
        _fault_around(mm, vma, pages)
    here = flat[index]
    left = (here & PRESENT) == 0
    pages, index, here = pages[left], index[left], here[left]
    cached = vma.file.populate(pages - vma.start // mm.page_size + vma.offset)
    if write and not vma.shared:
        frames[index] = mm.memory.copies(cached)
        flat[index] = PRESENT | ANON
        mm.vmas.prepare_anon(vma)
        return
    mm.memory.get(cached)
    frames[index] = cached
    flat[index] = (here & np.uint8(UFFD if vma.wp or vma.rwp else NONE)) | np.uint8(PRESENT)


def _fault_around(mm: Mm, vma: Vma, pages: Pages) -> None:
    """``do_fault_around()``: a read maps the neighbours too, if the file has them in memory. Not where registered."""
    count = max(FAULT_AROUND_BYTES // mm.page_size, 1)
    start = vma.start // mm.page_size
    # The window begins at a multiple of its size, or where the mapping or the page table begins, and keeps its size. So
    # the mapping's first window may reach into the second; what it maps there does not fault, and opens no second one.
    first_end = (start // count + 1) * count
    if start % count and len(pages) and pages[0] < first_end:
        _map_window(mm, vma, np.array([start]), count)
        present = (mm.tables.entries.reshape(-1)[mm.tables.flat(pages)] & PRESENT) != 0
        pages = pages[~present & (pages >= first_end)]
    begin = np.maximum(np.maximum(pages // count * count, start), pages // mm.fanout * mm.fanout)
    _map_window(mm, vma, np.unique(begin), count)


def _fault_around_beyond(mm: Mm, vma: Vma, page: int) -> None:
    """A read beyond the end of the file maps what the file has in the same window, before it fails."""
    count = max(FAULT_AROUND_BYTES // mm.page_size, 1)
    begin = max(page // count * count, vma.start // mm.page_size, page // mm.fanout * mm.fanout)
    if mm.tables.row(page // mm.fanout) < 0 or not mm.tables.entries_of(np.array([page]))[0]:
        _map_window(mm, vma, np.array([begin]), count)


def _map_window(mm: Mm, vma: Vma, begin: Pages, count: int) -> None:
    """Map what the file has in memory of the windows of ``count`` pages that begin there, where nothing is mapped."""
    assert vma.file is not None
    shift = vma.offset - vma.start // mm.page_size
    around = begin[:, None] + np.arange(count)[None, :]
    around = around[around // mm.fanout == (begin // mm.fanout)[:, None]]
    around = np.unique(around[around < min(vma.end // mm.page_size, len(vma.file.frames) - shift)])
    around = around[(vma.file.frames[around + shift] >= 0) & ~vma.file.swapped[around + shift]]
    if not len(around):
        return
    for pmd in np.unique(around // mm.fanout).tolist():
        mm.tables.ensure(pmd)
    index = mm.tables.flat(around)
    empty = mm.tables.entries.reshape(-1)[index] == NONE
    index, found = index[empty], vma.file.frames[around[empty] + shift]
    mm.memory.get(found)
    mm.tables.frames.reshape(-1)[index] = found
    mm.tables.soft.reshape(-1)[index] = False
    mm.tables.entries.reshape(-1)[index] = PRESENT


def _copy_on_write(
    mm: Mm, vma: Vma, flat: NDArray[np.uint8], frames: NDArray[np.int32], index: NDArray[np.int64]
) -> None:
    """A page of one's own for every present page that is shared with somebody and must not be."""
    if vma.shared or not len(index):
        return
    entries = flat[index]
    zero = index[(entries & ZERO) != 0]
    if len(zero):
        frames[zero] = mm.memory.allocate(len(zero))
    rest = index[(entries & ZERO) == 0]
    held = frames[rest]
    mm.memory.keep(held)
    shared = (mm.memory.references(held) > 1) | ((flat[rest] & ANON) == 0)
    if shared.any():
        frames[rest[shared]] = mm.memory.copies(held[shared])
        mm.memory.put(held[shared])
    flat[index] = PRESENT | ANON
    mm.vmas.prepare_anon(vma)


def _fault_hugetlb(mm: Mm, vma: Vma, pmds: Pages, write: bool) -> None:
    for pmd in pmds.tolist():
        row = mm.tables.row(pmd)
        entry = int(mm.tables.entries[row, 0]) if row >= 0 else NONE
        if entry & UFFD and (write or vma.rwp):
            if vma.context is not None and not (vma.context.wp_async or vma.context.rwp_async):
                raise FaultBlocks(errno.EAGAIN, f"the huge page at {pmd * mm.pmd_size:#x} is protected")
            entry &= ~UFFD
        if entry & PRESENT:
            _write_present_hugetlb(mm, vma, pmd, entry, write)
        else:
            _map_hugetlb(mm, vma, pmd, entry, write)


def _map_hugetlb(mm: Mm, vma: Vma, pmd: int, entry: int, write: bool) -> None:
    assert vma.file is not None
    row = mm.tables.ensure(pmd)
    at = vma.file_page(pmd * mm.fanout, mm.page_size)
    pages = np.arange(at, at + mm.fanout, dtype=np.int64)
    # MAP_PRIVATE memory of no named file gets pages of its own; nobody else can see the file.
    private = not vma.shared and (write or vma.file.frames[at] == NO_FRAME)
    if private:
        mm.tables.frames[row] = mm.memory.allocate(mm.fanout)
        mm.vmas.prepare_anon(vma)
    else:
        found = vma.file.populate(pages)
        mm.memory.get(found)
        mm.tables.frames[row] = found
    mm.tables.entries[row] = HUGE | PRESENT | (ANON if private else 0) | (entry & UFFD)


def _write_present_hugetlb(mm: Mm, vma: Vma, pmd: int, entry: int, write: bool) -> None:
    row = mm.tables.row(pmd)
    if write and not vma.shared:
        held = mm.tables.frames[row].copy()
        if not entry & ANON or (mm.memory.references(held) > 1).any():
            mm.tables.frames[row] = mm.memory.copies(held)
            mm.memory.put(held)
            mm.vmas.prepare_anon(vma)
        entry |= ANON
    mm.tables.entries[row] = entry
