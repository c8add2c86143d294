"""What is refused before a call, since the kernel would pass over it silently or answer with a bare EINVAL."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..abi import USER_LIMIT
from ..errors import InvalidArgument, UnknownCategory
from ..query import Category, Op, Query, category_names

if TYPE_CHECKING:
    from ..abi import Pagemap

#: One past the largest address.
ADDRESS_LIMIT = 1 << 64
#: No scan asks for more regions in one call than this (24 MiB of output).
MAX_VEC_LEN = 1 << 20


def batch_regions(page_size: int) -> int:
    """How many regions the kernel gathers before it copies them out: ``PMD_SIZE >> PAGE_SHIFT``, 512 for 4 KiB."""
    return page_size // 8


def refuse_partial_huge_pages(pagemap: Pagemap, start: int, end: int, max_pages: int) -> None:
    """Raise InvalidArgument if protecting [start, end) would cut a hugetlb page: the kernel passes over it silently."""
    if start == end:
        return
    space = pagemap.space
    for edge, address in ((start, start), (end, end - 1)):
        mapping = space.mapping_at(address)
        if mapping and (edge - mapping.start) % mapping.page_size:
            size = mapping.page_size
            low, high = start // size * size, -(-end // size) * size
            raise InvalidArgument(
                f"{edge:#x} lies inside a huge page of {size:,} bytes of the mapping {mapping}; hugetlb memory is "
                "protected by whole huge pages only",
                hint=f"scan {low:#x}-{high:#x}",
            )
    if max_pages and any(m.page_size > space.page_size and m.start < end and m.end > start for m in space.mappings()):
        raise InvalidArgument(
            "max_pages with Op.WP over hugetlb memory can stop inside a huge page, which the kernel then passes over",
            hint="leave max_pages at 0 for hugetlb mappings, or scan a smaller range",
        )


def known_only(pagemap: Pagemap, query: Query) -> tuple[int, Category]:
    """The returned categories this kernel knows, and the asked-for ones it does not. Raises UnknownCategory."""
    known = int(pagemap.known)
    strange = query.asked & ~known
    if strange:
        names = ", ".join(category_names(strange))
        raise UnknownCategory(
            f"this kernel does not know the category {names}, so it cannot decide what matches",
            hint=f"it knows {', '.join(category_names(known))}; see `pagescan doctor`",
        )
    return query.returned & known, Category(query.returned & ~known)


def check_numbers(start: int, length: int, ops: int, max_pages: int, vec_len: int, page_size: int) -> None:
    """Everything about the range and the buffer that can be seen to be wrong before the call."""
    if not 0 <= start < ADDRESS_LIMIT or start % page_size:
        raise InvalidArgument(
            f"start = {start:#x} is not an address at a page boundary",
            hint=f"pages are {page_size} bytes; round down to {start // page_size * page_size:#x}",
        )
    if length >= 0 and USER_LIMIT < start + length <= ADDRESS_LIMIT - page_size:
        raise InvalidArgument(
            f"{start:#x}-{start + length:#x} is not (wholly) in the user half of the address space",
            hint="take addresses from the process's mappings",
        )
    if length < 0 or start + length > ADDRESS_LIMIT - page_size:
        raise InvalidArgument(
            f"length = {length} does not fit: the range must end below 2**64 and not before its start"
        )
    if not ops or ops & ~int(Op.GET | Op.WP):
        raise InvalidArgument(f"ops = {ops!r} is no operation", hint="use Op.GET, Op.WP or Op.GET | Op.WP")
    if max_pages < 0:
        raise InvalidArgument(f"max_pages = {max_pages} is negative", hint="0 means no limit")
    if not 1 <= vec_len <= MAX_VEC_LEN:
        raise InvalidArgument(
            f"vec_len = {vec_len} regions is outside 1..{MAX_VEC_LEN}", hint="512 is what the kernel gathers at a time"
        )
