"""``mremap(2)``: growing, shrinking and moving a mapping, and what becomes of its registration.

A move without UFFD_FEATURE_EVENT_REMAP drops the registration and clears the bits (0cef0bb836e3, 6.13, CVE-2025-21696).
"""

from __future__ import annotations

import errno
from dataclasses import replace
from typing import TYPE_CHECKING

from .mm import error
from .pages import HUGE, MARKER, UFFD, lookup
from .physical import NO_FRAME

if TYPE_CHECKING:
    from .mm import Mm

_CLEARED = lookup(lambda entry: entry & HUGE if entry & MARKER else entry & ~UFFD)
_KEPT = lookup(lambda entry: entry)


def resize(mm: Mm, address: int, old: int, new: int) -> bool:
    """Shrink, or grow in place. Returns whether that was enough; otherwise the mapping has to move.

    Raises OSError: EINVAL (alignment, length), EFAULT (the old range is not one mapping).
    """
    _check(mm, address, old, new, may_cross=new <= old)
    if new <= old:
        mm.unmap(address + new, address + old) if new < old else None
        return True
    vma = mm.vmas.find(address)
    assert vma is not None
    if vma.end != address + old or mm.vmas.between(vma.end, address + new):
        return False
    vma.end = address + new
    mm.vmas.merge(vma.start)
    return True


def _check(mm: Mm, address: int, old: int, new: int, *, may_cross: bool = False) -> None:
    if address % mm.page_size or new <= 0 or old <= 0:
        raise error(errno.EINVAL, "mremap: the address must be at a page boundary and the lengths positive")
    vma = mm.vmas.find(address)
    if vma is None or (address + min(old, new) > vma.end and not may_cross):
        raise error(errno.EFAULT, f"mremap: {address:#x}-{address + old:#x} is not one mapping")
    if vma.hugetlb and (address % mm.pmd_size or new % mm.pmd_size or old % mm.pmd_size):
        raise error(errno.EINVAL, "mremap: not whole huge pages")
    if vma.pfnmap or vma.special:
        raise error(errno.EFAULT, f"mremap: {vma.name} cannot be moved")


def move(mm: Mm, address: int, old: int, new: int, target: int, *, merges_first: bool = False) -> None:
    """Move a mapping to ``target`` (MREMAP_FIXED: what was there is unmapped), and resize it.

    A move without resizing may take several mappings at once, none but the last of them registered.

    Args:
        merges_first: the kernel's bug: the copy merges with its new neighbours while it is still registered, and then
            all of it loses the registration.
    """
    if not mm.behaviour.mremap_checks_first:
        _check(mm, address, old, new, may_cross=True)
    if target % mm.page_size or (target < address + old and address < target + new):
        raise error(errno.EINVAL, "mremap: the new place is not aligned or overlaps the old one")
    if old == new and mm.behaviour.mremap_moves_many:
        _move_many(mm, address, address + old, target, merges_first)
        return
    if mm.behaviour.mremap_checks_first:
        _check(mm, address, old, new)
    _move_one(mm, address, old, new, target, merges_first)


def _move_many(mm: Mm, start: int, end: int, target: int, merges_first: bool) -> None:
    """``remap_move()``: one mapping after another, the gaps between them kept; what is done stays done on an error."""
    vmas = mm.vmas.between(start, end)
    if not vmas or vmas[0].start > start:
        raise error(errno.EFAULT, f"mremap: nothing is mapped at {start:#x}")
    _check(mm, start, end - start, end - start, may_cross=True)
    spans = [(max(v.start, start), min(v.end, end), v.end, v.context is not None) for v in vmas]
    for low, high, vma_end, registered in spans:
        if registered and (low != start or vma_end < end):
            raise error(errno.EFAULT, "mremap: several mappings at once, and one is registered with a userfaultfd")
        _move_one(mm, low, high - low, high - low, target + low - start, merges_first)


def _move_one(mm: Mm, address: int, old: int, new: int, target: int, merges_first: bool) -> None:
    mm.unmap(target, target + new)
    if new < old:
        mm.unmap(address + new, address + old)
        old = new
    vma = mm.vmas.find(address)
    if vma is None or address + old > vma.end:
        raise error(errno.EFAULT, f"mremap: {address:#x}-{address + old:#x} is not one mapping")
    drops = vma.context is not None and not vma.keeps_uffd_over_mremap
    shift = (address - vma.start) // mm.page_size
    copy = replace(vma, start=target, end=target + new, offset=vma.offset + shift)
    if vma.anonymous and not vma.has_anon:
        copy.offset = target // mm.page_size
    if drops and not merges_first:
        copy.context, copy.mode = None, 0
    mm.vmas.add(copy)
    mm.vmas.merge(target)
    _move_tables(mm, address, address + old, target, clear=drops and mm.behaviour.mremap_clears_protection)
    merged = mm.vmas.find(target)
    if drops and merged is not None:
        merged.context, merged.mode = None, 0
    mm.unmap(address, address + old)


def _move_tables(mm: Mm, start: int, end: int, target: int, *, clear: bool) -> None:
    """``move_page_tables()``: in steps that stay within one table, at the old and at the new place."""
    position = start
    size = mm.pmd_size
    while position < end:
        to = target + position - start
        step = min(size - position % size, size - to % size, end - position)
        row = mm.tables.row(position // size)
        if row >= 0:
            _move_step(mm, position, to, step, clear)
        position += step


def _move_step(mm: Mm, position: int, to: int, step: int, clear: bool) -> None:
    size = mm.pmd_size
    lut = _CLEARED if clear else _KEPT
    row = mm.tables.row(position // size)
    if step == size and mm.tables.row(to // size) < 0 and (mm.tables.is_huge(row) or not clear):
        mm.tables.entries[row] = lut[mm.tables.entries[row]]
        mm.tables.soft[row] = True  # move_soft_dirty_pmd()
        mm.tables.rename(position // size, to // size)
        return
    mm.split_huge(position // size)
    new = mm.tables.ensure(to // size)
    row = mm.tables.row(position // size)
    count = step // mm.page_size
    low, high = position % size // mm.page_size, to % size // mm.page_size
    entries, frames = mm.tables.entries, mm.tables.frames
    moved = lut[entries[row, low : low + count]]
    entries[row, low : low + count] = 0
    entries[new, high : high + count] = moved
    frames[new, high : high + count] = frames[row, low : low + count]
    frames[row, low : low + count] = NO_FRAME
    mm.tables.soft[new, high : high + count] = True  # move_soft_dirty_pte()
