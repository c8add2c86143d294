"""``fork(2)``: the child shares the pages, and nobody tracks it (unless the parent asked for UFFD_FEATURE_EVENT_FORK).

Page tables are copied only where a page of one's own was ever made; the rest the child faults in by itself
(``vma_needs_copy()``). Without EVENT_FORK the child's userfaultfd bits are cleared, and markers go; guards stay.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ..abi import Feature
from .mm import Mm
from .pages import GUARD, HUGE, MARKER, UFFD, lookup

if TYPE_CHECKING:
    from .vma import Vma


def _unregistered(entry: int) -> int:
    if entry & MARKER:
        return entry & HUGE
    return GUARD if entry & GUARD else entry & ~UFFD


_UNREGISTERED = lookup(_unregistered)
_SAME = lookup(lambda entry: entry)


def fork(parent: Mm) -> Mm:
    """A copy of the address space; private pages are copied on the next write of either."""
    child = Mm(parent.memory, parent.behaviour, parent.thp, soft_dirty=parent.soft_dirty)
    for vma in parent.vmas:
        if vma.dontfork:
            continue
        copy = replace(vma)
        keeps = vma.context is not None and bool(vma.context.features & Feature.EVENT_FORK)
        if not keeps:
            copy.context, copy.mode = None, 0
        child.vmas.add(copy)
        if copy.wipeonfork:
            copy.anon = 0
        elif copy.wp or vma.has_anon or vma.has_guards or vma.pfnmap:
            _copy_tables(parent, child, vma, keeps)
    child.vmas.separate_anons()
    return child


def _copy_tables(parent: Mm, child: Mm, vma: Vma, keeps: bool) -> None:
    lut = _SAME if keeps else _UNREGISTERED
    # copy_pmd_range() and copy_hugetlb_page_range() allocate where the parent has a table of tables, also for nothing.
    puds = range(vma.start // (parent.pmd_size * parent.fanout), -(-vma.end // (parent.pmd_size * parent.fanout)))
    child.tables.puds |= parent.tables.puds & set(puds)
    for pmd, row, low, high in parent.tables.blocks(*parent.pages(vma.start, vma.end)):
        copied = lut[parent.tables.entries[row, low:high]]
        new = child.tables.ensure(pmd)
        child.tables.entries[new, low:high] = copied
        child.tables.soft[new, low:high] = parent.tables.soft[row, low:high]
        frames = parent.tables.frames[row, low:high]
        parent.memory.get(frames[frames >= 0])
        child.tables.frames[new, low:high] = frames
