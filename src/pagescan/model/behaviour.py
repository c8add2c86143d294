"""What differs between kernel releases, by name: one table, so that no other file of the model asks for a version.

A *behaviour* is what a release documents or was meant to do. A *bug* is what it does against that; bugs are switched on
by name, so that the repairs above the seam can be tested one at a time. ``Machine()`` is the clean machine;
``Machine(behaviour="6.18", bugs=KERNEL_BUGS["6.18"])`` is the kernel as it is found in the field.

Sources: ``fs/proc/task_mmu.c`` and ``mm/userfaultfd.c`` of 6.12.117, 7.2.13 and 7.3.4, and tests on 6.18.44.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..query import ALL_CATEGORIES, Category

#: ``walk_end`` keeps the position of the last full batch if the batch after it finishes the range (6.7 to 7.3).
STALE_WALK_END = "stale-walk-end"
#: Protecting part of a hugetlb page reports nothing, protects nothing, and leaves ``walk_end`` at that page.
PARTIAL_HUGETLB_PROGRESS = "partial-hugetlb-progress"
#: WP_MATCHING without an output buffer protects every page mapped by a page table, whatever the masks say.
EXCLUSIVE_WP_IGNORES_MASKS = "exclusive-wp-ignores-masks"
#: Where a huge page is split to protect part of it, its pages do not join an equal region before it.
SPLIT_KEEPS_APART = "split-keeps-apart"
#: EPERM and EFAULT are found after pages were protected and reported; ``walk_end`` is then ``end``.
ERROR_AFTER_WORK = "error-after-work"
#: Exclusive WP that cuts a huge page is a NULL dereference (fixed by 28aa29986dde, 6.17, 6.16.10, 6.12.50).
EXCLUSIVE_WP_OOPS = "exclusive-wp-oops"
#: Registered memory that is moved next to other registered memory merges with it before its registration is dropped,
#: and so takes its neighbour's away too. Seen on 6.18.44.
MREMAP_DROPS_NEIGHBOUR = "mremap-drops-neighbour"
#: MADV_GUARD_INSTALL over protected pages of a file or of shared memory never returns (a signal ends it): the marker
#: that zapping leaves behind is taken for a page that must be zapped again. Seen on 6.18.44 and 7.3.4; no report found.
GUARD_INSTALL_SPINS = "guard-install-spins"
#: WP over an unpopulated hugetlb range never returns (fixed by e92d92bbafb2, 7.2, 6.12.97).
HUGETLB_HOLE_DEADLOCK = "hugetlb-hole-deadlock"

BUGS = frozenset(
    {
        STALE_WALK_END,
        PARTIAL_HUGETLB_PROGRESS,
        EXCLUSIVE_WP_IGNORES_MASKS,
        ERROR_AFTER_WORK,
        EXCLUSIVE_WP_OOPS,
        HUGETLB_HOLE_DEADLOCK,
        MREMAP_DROPS_NEIGHBOUR,
        SPLIT_KEEPS_APART,
        GUARD_INSTALL_SPINS,
    }
)
_OPEN = (STALE_WALK_END, PARTIAL_HUGETLB_PROGRESS, EXCLUSIVE_WP_IGNORES_MASKS, ERROR_AFTER_WORK, SPLIT_KEEPS_APART)

#: The bugs each release is known to have, for ``Machine(bugs=...)``.
KERNEL_BUGS: dict[str, tuple[str, ...]] = {
    "6.7": (*_OPEN, EXCLUSIVE_WP_OOPS, HUGETLB_HOLE_DEADLOCK),
    "6.12": (*_OPEN, HUGETLB_HOLE_DEADLOCK),
    "6.18": (*_OPEN, MREMAP_DROPS_NEIGHBOUR, GUARD_INSTALL_SPINS),
    "7.3": (*_OPEN, GUARD_INSTALL_SPINS),
}


@dataclass(frozen=True, slots=True)
class Behaviour:
    """The documented differences, each a named yes or no.

    Attributes:
        name: the release it stands for.
        written_for_none_generic: an empty entry is WRITTEN also outside the fast path ("fix PAGEMAP_SCAN written state
            for unpopulated ptes", 7.2, 6.12.103).
        written_for_pmd_hole: memory without a page table is WRITTEN where registered ("... for PMD holes", the same).
        written_needs_registration: WRITTEN is said only of mappings registered for write protection (7.3).
        knows_soft_dirty: the bit is accepted (6.8, e6a9a2cbc13b); it is never set here.
        knows_guard: PAGE_IS_GUARD (6.16, a516403787e0).
        knows_accessed: PAGE_IS_ACCESSED and read-write protection (7.3).
        huge_zero_is_pfnzero: PFNZERO is reported of the huge zero page (6.16, 6.12.36).
        guards_anonymous, guards_files: MADV_GUARD_INSTALL on such mappings (6.13, 6.15).
        pins_mm: scanning a process that has exited is ESRCH (7.3.2, 6.12.117).
        mremap_clears_protection: moving a registered mapping clears the bits (0cef0bb836e3, 6.13, 6.12.11).
        mremap_moves_many: one call may move several mappings (6.17).
        mremap_checks_first: its arguments are checked before anything is done (6.17); before, nothing mapped at the old
            place was found first, and the new place was unmapped before the old one was found to be two mappings.
        merges_unfaulted: a mapping with pages of its own joins a neighbour that never had any (after 6.12).
        collapse_of_part_succeeds: MADV_COLLAPSE of less than one huge page does nothing, where it was EINVAL (7.3).
        refuses_special: [vdso], [vvar] cannot be registered (CVE-2026-68166, 6.12.105).
        dropping_wp_is_busy: registering again without WP is EBUSY, where older kernels replaced the mode (7.3).
        only_owner_unregisters: unregistering through another userfaultfd is EINVAL.
        frees_empty_tables: MADV_DONTNEED frees page tables it leaves empty (CONFIG_PT_RECLAIM, 6.14).
        splits_to_zero_page: splitting a large folio maps its all-zero pages to the page of zeros (6.12, b1f202060afe).
        huge_zero_write_is_huge: the first write to a huge zero page maps a whole huge page (6.13).
        userfaultfd_features: what UFFDIO_API answers.
    """

    name: str
    written_for_none_generic: bool
    written_for_pmd_hole: bool
    written_needs_registration: bool
    knows_soft_dirty: bool
    knows_guard: bool
    knows_accessed: bool
    huge_zero_is_pfnzero: bool
    guards_anonymous: bool
    guards_files: bool
    pins_mm: bool
    mremap_clears_protection: bool
    mremap_moves_many: bool
    mremap_checks_first: bool
    merges_unfaulted: bool
    collapse_of_part_succeeds: bool
    refuses_special: bool
    dropping_wp_is_busy: bool
    only_owner_unregisters: bool
    frees_empty_tables: bool
    splits_to_zero_page: bool
    huge_zero_write_is_huge: bool
    userfaultfd_features: int

    @property
    def known(self) -> Category:
        """The categories whose bits PAGEMAP_SCAN accepts."""
        unknown = Category(0)
        for knows, category in (
            (self.knows_soft_dirty, Category.SOFT_DIRTY),
            (self.knows_guard, Category.GUARD),
            (self.knows_accessed, Category.ACCESSED),
        ):
            if not knows:
                unknown |= category
        return ALL_CATEGORIES & ~unknown


_6_7 = Behaviour(
    name="6.7",
    written_for_none_generic=False,
    written_for_pmd_hole=False,
    written_needs_registration=False,
    knows_soft_dirty=False,
    knows_guard=False,
    knows_accessed=False,
    huge_zero_is_pfnzero=False,
    guards_anonymous=False,
    guards_files=False,
    pins_mm=False,
    mremap_clears_protection=False,
    mremap_moves_many=False,
    mremap_checks_first=False,
    merges_unfaulted=False,
    collapse_of_part_succeeds=False,
    refuses_special=False,
    dropping_wp_is_busy=False,
    only_owner_unregisters=False,
    frees_empty_tables=False,
    splits_to_zero_page=False,
    huge_zero_write_is_huge=False,
    userfaultfd_features=0xFFFF,
)
_6_12 = replace(
    _6_7,
    name="6.12",
    knows_soft_dirty=True,
    huge_zero_is_pfnzero=True,
    splits_to_zero_page=True,
    mremap_clears_protection=True,
    userfaultfd_features=0x1FFFF,
)
_6_18 = replace(
    _6_12,
    name="6.18",
    written_for_none_generic=True,
    written_for_pmd_hole=True,
    knows_guard=True,
    guards_anonymous=True,
    guards_files=True,
    mremap_moves_many=True,
    mremap_checks_first=True,
    merges_unfaulted=True,
    pins_mm=True,
    refuses_special=True,
    only_owner_unregisters=True,
    frees_empty_tables=True,
    huge_zero_write_is_huge=True,
)
_7_3 = replace(
    _6_18,
    name="7.3",
    written_needs_registration=True,
    knows_accessed=True,
    collapse_of_part_succeeds=True,
    dropping_wp_is_busy=True,
    userfaultfd_features=0x7FFFF,
)

#: By release: "6.7" as merged, "6.12" before the fixes of mid 2026, "6.18" and "7.3" with them (6.18.44, 7.3.4).
BEHAVIOURS: dict[str, Behaviour] = {b.name: b for b in (_6_7, _6_12, _6_18, _7_3)}
