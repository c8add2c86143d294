"""Mappings (VMAs): ranges of addresses with equal attributes, split and merged as the kernel does."""

from __future__ import annotations

import bisect
import itertools
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..abi import Feature, RegisterMode

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .physical import File


@dataclass(eq=False, slots=True)
class Context:
    """What a userfaultfd is to the mappings it owns.

    Attributes:
        features: the ones asked for in UFFDIO_API, with what they imply.
    """

    features: int

    @property
    def wp_async(self) -> bool:
        return bool(self.features & Feature.WP_ASYNC)

    @property
    def rwp_async(self) -> bool:
        return bool(self.features & Feature.RWP_ASYNC)

    @property
    def keeps_over_mremap(self) -> bool:
        return bool(self.features & Feature.EVENT_REMAP)

    @property
    def marks_unpopulated(self) -> bool:
        """Whether anonymous memory that is not populated can be protected (WP_ASYNC implies it)."""
        return bool(self.features & (Feature.WP_UNPOPULATED | Feature.WP_ASYNC))


@dataclass(slots=True)
class Vma:
    """One mapping. Addresses in bytes, half-open.

    Attributes:
        prot: some of "r", "w", "x".
        file: its pages, or None for private anonymous memory; ``offset`` is the first page of it (anonymous memory:
            a number that only decides what may merge).
        context, mode: the userfaultfd that owns it, and the RegisterMode bits.
        thp: True after MADV_HUGEPAGE, False after MADV_NOHUGEPAGE, None without either.
        anon: which ``anon_vma`` it has, 0 for none: a page of its own was never made here. Fork copies page tables only
            of those that have one, and two that differ never merge.
        forked: it came by a fork with its ``anon_vma``, and so takes no neighbour that has none.
        account: VM_ACCOUNT, its pages count against the commit limit; it only decides what may merge.
        soft_dirty: VM_SOFTDIRTY: new since the soft-dirty bits were reset; does not hinder merging.
        has_guards: guards were installed, so fork copies its page tables; does not hinder merging.
        pfnmap, special: VM_PFNMAP ([vvar]); VM_SPECIAL ([vvar], [vdso]).
    """

    start: int
    end: int
    prot: str = "rw"
    shared: bool = False
    file: File | None = None
    offset: int = 0
    context: Context | None = None
    mode: int = 0
    thp: bool | None = None
    anon: int = 0
    forked: bool = False
    account: bool = False
    has_guards: bool = False
    soft_dirty: bool = True
    grows_down: bool = False
    pfnmap: bool = False
    special: bool = False
    dontfork: bool = False
    wipeonfork: bool = False
    may_write: bool = True
    name: str = ""

    @property
    def has_anon(self) -> bool:
        return self.anon != 0

    @property
    def anonymous(self) -> bool:
        """``vma_is_anonymous()``: private memory of no file."""
        return self.file is None

    @property
    def hugetlb(self) -> bool:
        return self.file is not None and self.file.kind == "hugetlb"

    @property
    def wp(self) -> bool:
        """VM_UFFD_WP."""
        return bool(self.mode & RegisterMode.WP)

    @property
    def rwp(self) -> bool:
        """VM_UFFD_RWP."""
        return bool(self.mode & RegisterMode.RWP)

    @property
    def uses_markers(self) -> bool:
        """``userfaultfd_wp_use_markers()``."""
        return self.context is not None and (not self.anonymous or self.context.marks_unpopulated)

    @property
    def wp_allowed(self) -> bool:
        """PAGE_IS_WPALLOWED: registered for asynchronous write protection."""
        return self.wp and self.context is not None and self.context.wp_async and self.uses_markers

    @property
    def keeps_uffd_over_mremap(self) -> bool:
        return self.context is not None and self.context.keeps_over_mremap

    def file_page(self, page: int, page_size: int) -> int:
        """The page of the file that stands at this page number of the address space."""
        return page - self.start // page_size + self.offset

    def _attributes(self) -> tuple[object, ...]:
        return (
            self.shared,
            self.file,
            self.context,
            self.mode,
            self.thp,
            self.account,
            self.grows_down,
            self.pfnmap,
            self.special,
            self.dontfork,
            self.wipeonfork,
            self.may_write,
            self.name,
        )

    def continues(self, later: Vma, page_size: int) -> bool:
        """Whether ``later`` begins where this ends and differs, if at all, in ``prot`` and ``anon``."""
        return (
            self.end == later.start
            and self._attributes() == later._attributes()
            and self.offset + (self.end - self.start) // page_size == later.offset
        )

    def joins(self, later: Vma, page_size: int) -> bool:
        """Whether ``later``, which begins where this ends, may become part of it, if their anon_vmas allow it."""
        # VM_DONTEXPAND: what hugetlb mappings were cut into stays apart.
        return not self.hugetlb and self.prot == later.prot and self.continues(later, page_size)


class VmaList:
    """The mappings of one address space, by address."""

    def __init__(self, page_size: int, *, merges_unfaulted: bool = True):
        self.page_size = page_size
        self._merges_unfaulted = merges_unfaulted
        self._vmas: list[Vma] = []
        self._starts: list[int] = []
        self._anons = itertools.count(1)

    def __iter__(self) -> Iterator[Vma]:
        return iter(tuple(self._vmas))

    def __len__(self) -> int:
        return len(self._vmas)

    def find(self, address: int) -> Vma | None:
        """The mapping that holds the address."""
        index = bisect.bisect_right(self._starts, address) - 1
        if index >= 0 and self._vmas[index].end > address:
            return self._vmas[index]
        return None

    def between(self, start: int, end: int) -> list[Vma]:
        """The mappings that overlap [start, end)."""
        index = max(bisect.bisect_right(self._starts, start) - 1, 0)
        found = []
        while index < len(self._vmas) and self._vmas[index].start < end:
            if self._vmas[index].end > start:
                found.append(self._vmas[index])
            index += 1
        return found

    def covers(self, start: int, end: int) -> bool:
        """Whether every byte of [start, end) is mapped."""
        position = start
        for vma in self.between(start, end):
            if vma.start > position:
                return False
            position = vma.end
        return position >= end

    def prepare_anon(self, vma: Vma) -> None:
        """``anon_vma_prepare()``: a page of its own comes. It shares a neighbour's if the two may merge later."""
        if vma.anon:
            return
        after, before = self.find(vma.end), self.find(vma.start - 1)
        if after and after.anon and not after.forked and vma.continues(after, self.page_size):
            vma.anon = after.anon
        elif before and before.anon and not before.forked and before.continues(vma, self.page_size):
            vma.anon = before.anon
        else:
            vma.anon = next(self._anons)

    def separate_anons(self) -> None:
        """After a fork, every mapping of the child has an ``anon_vma`` of its own."""
        for vma in self._vmas:
            if vma.anon:
                vma.anon, vma.forked = next(self._anons), True

    def add(self, vma: Vma) -> None:
        index = bisect.bisect_left(self._starts, vma.start)
        self._vmas.insert(index, vma)
        self._starts.insert(index, vma.start)

    def remove(self, vma: Vma) -> None:
        index = bisect.bisect_left(self._starts, vma.start)
        del self._vmas[index], self._starts[index]

    def split_at(self, vma: Vma, address: int) -> Vma:
        """Cut a mapping in two; returns the later half."""
        moved = (address - vma.start) // self.page_size
        later = replace(vma, start=address, offset=vma.offset + moved)
        vma.end = address
        self.add(later)
        return later

    def merge(self, start: int) -> None:
        """Join the mapping at ``start``, which is new or was changed, with equal neighbours (``vma_merge()``)."""
        vma = self.find(start)
        assert vma is not None
        before, after = self.find(vma.start - 1), self.find(vma.end)
        if before and not (before.joins(vma, self.page_size) and self._anon_allows(vma, before)):
            before = None
        if after and not (vma.joins(after, self.page_size) and self._anon_allows(vma, after)):
            after = None
        if before and after and before.anon and after.anon and before.anon != after.anon:
            after = None
        if before:
            vma = self._join(before, vma)
        if after:
            self._join(vma, after)

    def _anon_allows(self, changed: Vma, neighbour: Vma) -> bool:
        """``is_mergeable_anon_vma()``: two that have an anon_vma must have the same, and one from a fork none."""
        if bool(changed.anon) == bool(neighbour.anon):
            return changed.anon == neighbour.anon
        if changed.anon and not self._merges_unfaulted:
            return False
        return not (changed if changed.anon else neighbour).forked

    def _join(self, earlier: Vma, later: Vma) -> Vma:
        """The later one takes the earlier one in."""
        self.remove(earlier)
        self.remove(later)
        later.offset, later.start = earlier.offset, earlier.start
        later.anon = later.anon or earlier.anon
        later.has_guards = later.has_guards or earlier.has_guards
        later.soft_dirty = later.soft_dirty or earlier.soft_dirty
        later.forked = later.forked or earlier.forked
        self.add(later)
        return later
