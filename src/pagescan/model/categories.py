"""What ``PAGEMAP_SCAN`` calls an entry: categories, matching and protecting, each as a table of all 256 entries.

One scan of one mapping needs three tables: does this entry match, what is reported of it, and what does it become when
protected. That makes a scan of a GiB a few passes of numpy over 256 KiB.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from ..query import Category, matches
from .pages import ANON, GUARD, HUGE, NONE, PRESENT, PROTECT_BY_SCAN, UFFD, ZERO, lookup

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .behaviour import Behaviour
    from .vma import Vma

_WRITTEN = int(Category.WRITTEN)


@dataclass(frozen=True, slots=True)
class Masks:
    """The four masks of one call, in the kernel's encoding."""

    inverted: int
    mask: int
    anyof: int
    returned: int

    def match(self, categories: int) -> bool:
        return bool(matches(categories, self.inverted, self.mask, self.anyof))

    @property
    def fast(self) -> bool:
        """The second fast path: exactly WRITTEN is asked for and returned."""
        return self == Masks(0, _WRITTEN, 0, _WRITTEN)


@dataclass(frozen=True, slots=True)
class _Kind:
    """What of a mapping decides its pages' categories; ``categories`` are those every page of it has."""

    wp: bool
    rwp: bool
    hugetlb: bool
    categories: int


def page_categories(entry: int, vma: _Kind, behaviour: Behaviour) -> int:
    """The categories of one entry, without those of its mapping: ``pagemap_page_category()`` and its huge brothers."""
    huge = int(Category.HUGE) if entry & HUGE else 0
    clear = 0
    if not entry & UFFD:
        clear |= _WRITTEN if vma.wp or not behaviour.written_needs_registration else 0
        clear |= int(Category.ACCESSED) if vma.rwp and behaviour.knows_accessed else 0
    if entry & PRESENT:
        return huge | clear | int(Category.PRESENT) | _of_present(entry, behaviour)
    if entry & ~(HUGE | UFFD) == NONE:
        return huge or (clear & _WRITTEN if behaviour.written_for_none_generic else 0)
    guard = int(Category.GUARD) if entry & GUARD and behaviour.knows_guard else 0
    return huge | clear | int(Category.SWAPPED) | guard


def _of_present(entry: int, behaviour: Behaviour) -> int:
    if entry & ZERO:
        return int(Category.PFNZERO) if not entry & HUGE or behaviour.huge_zero_is_pfnzero else 0
    return 0 if entry & ANON else int(Category.FILE)


def vma_categories(vma: Vma) -> int:
    """The categories every page of the mapping has."""
    return int(Category.WPALLOWED) if vma.wp_allowed else 0


def hole_categories(vma: _Kind, behaviour: Behaviour) -> int:
    """The categories of memory without a page table: ``pagemap_scan_pte_hole()``."""
    written = vma.wp and not vma.hugetlb and behaviour.written_for_pmd_hole
    return vma.categories | (_WRITTEN if written else 0)


@dataclass(frozen=True, slots=True)
class Rules:
    """One call's view of one mapping.

    Attributes:
        output: int16 (256): what is reported of a matching entry, -1 for one that does not match.
        hole: the same for memory without a page table.
        empty_huge: the same for an empty hugetlb entry.
        protected: uint8 (256): the entry after WP_MATCHING, where it matches and is WRITTEN.
        protects: bool (256): where that is so.
    """

    output: NDArray[np.int16]
    hole: int
    empty_huge: int
    protected: NDArray[np.uint8]
    protects: NDArray[np.bool_]

    @classmethod
    def of(cls, vma: Vma, behaviour: Behaviour, masks: Masks, *, exclusive: bool) -> Rules:
        """``exclusive``: the first fast path, which protects every small page whatever the masks say."""
        kind = _Kind(vma.wp, vma.rwp, vma.hugetlb, vma_categories(vma))
        return _rules(kind, behaviour, masks, exclusive)


@lru_cache(maxsize=256)
def _rules(kind: _Kind, behaviour: Behaviour, masks: Masks, exclusive: bool) -> Rules:
    all_categories = [kind.categories | page_categories(entry, kind, behaviour) for entry in range(256)]
    fast = masks.fast and (kind.wp or not behaviour.written_needs_registration)
    matching = [masks.match(categories) for categories in all_categories]
    if fast:
        for entry in range(HUGE):
            matching[entry] = not entry & UFFD
            all_categories[entry] = _WRITTEN | kind.categories
    output = [c & masks.returned if m else -1 for c, m in zip(all_categories, matching, strict=True)]
    protects = np.array([m and bool(c & _WRITTEN) for c, m in zip(all_categories, matching, strict=True)])
    if exclusive:
        protects[:HUGE] = True
    hole = hole_categories(kind, behaviour)
    return Rules(
        output=np.array(output, dtype=np.int16),
        hole=hole & masks.returned if masks.match(hole) else -1,
        empty_huge=output[HUGE],
        protected=np.where(protects, PROTECT_BY_SCAN, lookup(lambda entry: entry)),
        protects=protects,
    )
