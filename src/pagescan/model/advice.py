"""``madvise(2)``: what each advice does to page tables, and its errnos."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from . import faults
from .behaviour import GUARD_INSTALL_SPINS
from .mm import KernelFailure, error
from .pages import GUARD, HUGE, MARKER, NONE, SWAP, UFFD, lookup
from .physical import NO_FRAME
from .swap import swap_out, unshared
from .thp import collapse, split_folios

if TYPE_CHECKING:
    from collections.abc import Callable

    from .machine import Machine
    from .mm import Mm
    from .vma import Vma

    Action = Callable[["Machine", Mm, Vma, int, int], None]


def madvise(machine: Machine, mm: Mm, start: int, length: int, advice: str) -> None:
    """Advise [start, start + length). Raises OSError: EINVAL for what cannot be, ENOMEM if part of it is not mapped."""
    action = _ACTIONS.get(advice)
    flags = _FLAGS.get(advice)
    if advice not in ADVICE or (advice in _GUARDS and not _knows_guards(mm)):
        raise error(errno.EINVAL, f"no advice is called {advice!r}: {', '.join(sorted(ADVICE))}")
    end = mm.check_range(start, length, f"madvise({advice})")
    if advice in _POPULATES:
        _populate(mm, start, end, write=_POPULATES[advice])
        return
    pieces = list(mm.pieces(start, end))
    covered = mm.vmas.covers(start, end)
    for vma, first, last in pieces:
        if action is not None:
            action(machine, mm, vma, first, last)
        elif flags is not None:
            mm.change(first * mm.page_size, last * mm.page_size, **flags)
    if not covered:
        raise error(errno.ENOMEM, f"part of {start:#x}-{end:#x} is not mapped")


def _knows_guards(mm: Mm) -> bool:
    return mm.behaviour.guards_anonymous or mm.behaviour.guards_files


def _refuse(vma: Vma, what: str, *, file: bool = False) -> None:
    if vma.pfnmap or (file and not vma.anonymous):
        raise error(errno.EINVAL, f"{what}: not for the mapping {vma.start:#x}-{vma.end:#x} {vma.name}")


def _dontneed(machine: Machine, mm: Mm, vma: Vma, first: int, last: int) -> None:
    _refuse(vma, "MADV_DONTNEED")
    if vma.hugetlb:
        if first % mm.fanout:
            raise error(errno.EINVAL, "MADV_DONTNEED: the start lies inside a huge page")
        last = last // mm.fanout * mm.fanout
    mm.zap(vma, first, last, reclaim=True)


#: Swapped pages are dropped at once; others stay until memory is short, which the model's never is.
_FREED = lookup(lambda entry: NONE if entry & SWAP else entry)


def _free(machine: Machine, mm: Mm, vma: Vma, first: int, last: int) -> None:
    _refuse(vma, "MADV_FREE", file=True)
    for _, row, low, high in list(mm.tables.blocks(first, last)):
        split_folios(mm, row, low, high, keep_whole=True)
        part = mm.tables.entries[row, low:high]
        frames = mm.tables.frames[row, low:high]
        mm.memory.free_lazily(frames[unshared(mm, part, frames)])
        swapped = (part & SWAP) != 0
        if swapped.any():
            mm.memory.put(frames[swapped])
            frames[swapped] = NO_FRAME
            part[:] = _FREED[part]


def _remove(machine: Machine, mm: Mm, vma: Vma, first: int, last: int) -> None:
    if vma.file is None or vma.special:
        raise error(errno.EINVAL, "MADV_REMOVE: for shared memory and files only")
    if not vma.shared or not vma.may_write:
        raise error(errno.EACCES, "MADV_REMOVE: the mapping is not shared and writable")
    low = vma.file_page(first, mm.page_size)
    high = low + last - first
    if vma.hugetlb:
        # Whole huge pages go; parts of others are filled with zeros (hugetlbfs_punch_hole()).
        edges = (low, high)
        low, high = -(-low // mm.fanout) * mm.fanout, high // mm.fanout * mm.fanout
        vma.file.clear(edges[0], min(low, edges[1]))
        vma.file.clear(max(high, edges[0]), edges[1])
    if low < high:
        machine.punch(vma.file, low, high)


def _pageout(machine: Machine, mm: Mm, vma: Vma, first: int, last: int) -> None:
    _refuse(vma, "MADV_PAGEOUT")
    if machine.has_swap:
        swap_out(mm, vma, first, last)


def _collapse(machine: Machine, mm: Mm, vma: Vma, first: int, last: int) -> None:
    if not vma.anonymous:
        raise error(errno.EINVAL, "MADV_COLLAPSE: the model has huge pages in anonymous memory only")
    collapse(mm, vma, first, last)


def _guard_install(machine: Machine, mm: Mm, vma: Vma, first: int, last: int) -> None:
    allowed = mm.behaviour.guards_anonymous if vma.anonymous else mm.behaviour.guards_files
    if not allowed or vma.special or vma.pfnmap or vma.hugetlb:
        raise error(errno.EINVAL, f"MADV_GUARD_INSTALL: not for the mapping {vma.start:#x}-{vma.end:#x}")
    if not vma.anonymous and GUARD_INSTALL_SPINS in machine.bugs and _protected(mm, first, last):
        raise KernelFailure("MADV_GUARD_INSTALL never returns: protected pages of a file leave markers when zapped")
    mm.zap(vma, first, last)
    if vma.anonymous:
        mm.vmas.prepare_anon(vma)
    vma.has_guards = True
    mm.ensure_tables(first, last)
    mm.tables.transform(first, last, _GUARDED)


def _protected(mm: Mm, first: int, last: int) -> bool:
    bits = (mm.tables.entries[row, low:high] & (UFFD | GUARD) for _, row, low, high in mm.tables.blocks(first, last))
    return any(bool((part == UFFD).any()) for part in bits)


def _guarded(entry: int) -> int:
    # A guard that is there already stays as it is, with its userfaultfd bit.
    return entry if entry & GUARD else GUARD


_GUARDED = lookup(_guarded)
_UNGUARDED = lookup(lambda entry: NONE if entry & GUARD and not entry & (MARKER | HUGE) else entry)


def _guard_remove(machine: Machine, mm: Mm, vma: Vma, first: int, last: int) -> None:
    if vma.special or vma.hugetlb:
        raise error(errno.EINVAL, f"MADV_GUARD_REMOVE: not for the mapping {vma.start:#x}-{vma.end:#x}")
    mm.tables.transform(first, last, _UNGUARDED)


def _populate(mm: Mm, start: int, end: int, *, write: bool) -> None:
    """MADV_POPULATE_*: in order, up to the first page that cannot be."""
    position = start
    for vma, first, last in list(mm.pieces(start, end)):
        if first * mm.page_size > position:
            break
        if vma.pfnmap or ("w" if write else "r") not in vma.prot:
            raise error(errno.EINVAL, f"MADV_POPULATE: not for the mapping {vma.start:#x}-{vma.end:#x}")
        position = last * mm.page_size
        faults.fault(mm, first * mm.page_size, position, write=write)
    if position < end:
        raise error(errno.ENOMEM, f"MADV_POPULATE: {position:#x} is not mapped")


_ACTIONS: dict[str, Action] = {
    "dontneed": _dontneed,
    "free": _free,
    "remove": _remove,
    "pageout": _pageout,
    "collapse": _collapse,
    "guard_install": _guard_install,
    "guard_remove": _guard_remove,
}
_POPULATES = {"populate_read": False, "populate_write": True}
_GUARDS = ("guard_install", "guard_remove")
_FLAGS: dict[str, dict[str, object]] = {
    "hugepage": {"thp": True},
    "nohugepage": {"thp": False},
    "dontfork": {"dontfork": True},
    "dofork": {"dontfork": False},
    "wipeonfork": {"wipeonfork": True},
    "keeponfork": {"wipeonfork": False},
}
_WITHOUT_EFFECT = frozenset({"normal", "random", "sequential", "willneed", "cold", "dontdump", "dodump"})

#: Every advice by name.
ADVICE = frozenset(_ACTIONS) | frozenset(_POPULATES) | frozenset(_FLAGS) | _WITHOUT_EFFECT
