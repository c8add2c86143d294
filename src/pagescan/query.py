"""What one asks of pages: categories, operations, the four masks, and the formula that decides whether a page matches.

Two vocabularies meet here and nowhere else. The *documented* one has four masks (``required``, ``anyof``,
``excluded``, ``return``). The *merged* kernel interface has ``category_inverted``, ``category_mask``,
``category_anyof_mask`` and ``return_mask``. :meth:`Query.encode` maps the first to the second.

The module is pure: no descriptor, no kernel, no numpy needed.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from .errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Iterable


class Category(enum.IntFlag):
    """What the page tables know of a page: the kernel's ``PAGE_IS_*`` bits, with their values.

    Source: ``include/uapi/linux/fs.h`` (Linux 7.3); merged in 6.7 by 52526ca7fdb9 ("fs/proc/task_mmu: implement
    IOCTL to get and optionally clear info about PTEs"), where no other release is named.
    """

    WPALLOWED = 1 << 0  #: the mapping is registered for asynchronous write protection, so WRITTEN can be trusted
    WRITTEN = 1 << 1  #: the page has been written to since it was last write-protected
    FILE = 1 << 2  #: the page belongs to a file or to shared memory (a privately copied page of a file does not)
    PRESENT = 1 << 3  #: the page is in memory and mapped
    SWAPPED = 1 << 4  #: the entry is neither present nor empty: swapped out, migrating, or a marker
    PFNZERO = 1 << 5  #: the entry maps the shared page of zeros (it was read before it was ever written to)
    HUGE = 1 << 6  #: the page is part of a huge page (a PMD-mapped transparent one, or hugetlb)
    SOFT_DIRTY = 1 << 7  #: the soft-dirty bit is set (Linux 6.8, e6a9a2cbc13b; never set without CONFIG_MEM_SOFT_DIRTY)
    GUARD = 1 << 8  #: the page is a guard region, MADV_GUARD_INSTALL (Linux 6.16, a516403787e0)
    ACCESSED = 1 << 9  #: the page was touched since it was last read-write-protected (Linux 7.3)

    # Enum hashes its name through a Python method; masks are dictionary keys on a hot path.
    __hash__ = int.__hash__


class Op(enum.IntFlag):
    """The two operations of ``PAGEMAP_SCAN``, in the document's words. Either stands alone, or both together."""

    GET = 1 << 0  #: ``PM_SCAN_OP_GET``: report the matching pages (merged: give an output buffer)
    WP = 1 << 1  #: ``PM_SCAN_OP_WP``: write-protect the matching pages (merged: ``PM_SCAN_WP_MATCHING``)

    __hash__ = int.__hash__


#: Every category that any kernel up to 7.3 knows.
ALL_CATEGORIES = Category((1 << 10) - 1)


class Masks(NamedTuple):
    """The four masks in the encoding of the merged kernel interface (``struct pm_scan_arg``)."""

    inverted: int
    mask: int
    anyof: int
    returned: int


def matches(categories: Any, inverted: int, mask: int, anyof: int) -> Any:
    """THE matching formula: does a page with these categories match?

    Args:
        categories: the bits of one page (int), or a numpy array of them (uint64).
        inverted, mask, anyof: the kernel's ``category_inverted``, ``category_mask``, ``category_anyof_mask``.

    Returns:
        bool, or an array of bool of the same shape.

    Source: ``pagemap_scan_is_interesting_page()`` in ``fs/proc/task_mmu.c``. ``inverted`` has an effect only on
    bits that are also in ``mask`` or ``anyof``.
    """
    flipped = categories ^ inverted
    required = (flipped & mask) == mask
    if anyof == 0:
        return required
    return required & ((flipped & anyof) != 0)


@dataclass(frozen=True, slots=True)
class Query:
    """The four documented masks.

    A page matches if it has every category of ``required``, none of ``excluded`` and, if ``anyof`` is not empty, at
    least one of ``anyof``. Of a matching page the categories in ``returned`` are reported.
    """

    required: int = 0
    anyof: int = 0
    excluded: int = 0
    returned: int = int(ALL_CATEGORIES)

    def __post_init__(self) -> None:
        for name in ("required", "anyof", "excluded", "returned"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 0 or value & ~int(ALL_CATEGORIES):
                raise InvalidArgument(
                    f"{name}_mask = {value!r} has bits that no page category has".replace("returned_", "return_"),
                    hint="combine members of pagescan.Category, such as Category.WRITTEN | Category.PRESENT",
                )

    @property
    def impossible(self) -> bool:
        """True if no page can ever match: a bit both required and excluded, or ``anyof`` wholly excluded.

        The merged encoding cannot say these: it would take the first as "must be 0" and the second as "no anyof".
        """
        return bool(self.required & self.excluded) or (self.anyof != 0 and not self.anyof & ~self.excluded)

    @property
    def asked(self) -> int:
        """The categories that decide whether a page matches."""
        return self.required | self.anyof | self.excluded

    def encode(self) -> Masks:
        """The masks as the merged kernel takes them. Only for a query that is not :attr:`impossible`.

        Excluded bits leave ``anyof``: left in, their inversion would make "any of" true of pages without them.
        """
        if self.impossible:
            raise InvalidArgument(f"{self} can never match, and the kernel has no encoding for that")
        return Masks(
            # Plain integers: numpy's uint64 arrays do not combine with members of an IntFlag.
            inverted=int(self.excluded),
            mask=int(self.required | self.excluded),
            anyof=int(self.anyof & ~self.excluded),
            returned=int(self.returned),
        )

    def matches(self, categories: Any) -> Any:
        """Whether pages with these categories (int or uint64 array) match: the formula over the encoded masks."""
        if self.impossible:
            return (categories & 0) != 0
        masks = self.encode()
        return matches(categories, masks.inverted, masks.mask, masks.anyof)


def parse_categories(names: str | Iterable[str]) -> Category:
    """Categories from names: ``"written,present"``, ``"WRITTEN|FILE"``, ``["PAGE_IS_FILE"]``; "" and "none" are 0.

    Raises InvalidArgument naming the word that is no category.
    """
    words = names.replace("|", ",").split(",") if isinstance(names, str) else list(names)
    result = Category(0)
    for word in words:
        name = word.strip().upper().replace("-", "_").removeprefix("PAGE_IS_")
        if name in ("", "NONE"):
            continue
        if name == "ALL":
            result |= ALL_CATEGORIES
        elif name in Category.__members__:
            result |= Category[name]
        else:
            known = ", ".join(member.lower() for member in Category.__members__)
            raise InvalidArgument(f"{word.strip()!r} is no page category", hint=f"the categories are {known}, and all")
    return result


def category_names(categories: int) -> list[str]:
    """The lower-case names of the set bits, lowest bit first: ``["written", "present"]``."""
    return [str(member.name).lower() for member in Category if categories & member]
