"""Level 2: a whole range walked to its end, whatever it holds, as one :class:`Regions` value."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ..errors import InvalidArgument
from ..process.target import Target, resolve
from ..query import ALL_CATEGORIES, Category, Query
from .call import prepare_scan

if TYPE_CHECKING:
    from ..abi import AddressSpace, Pagemap
    from ..ranges import Regions

#: Room for regions in one call of a walk: enough that most ranges take one call (384 KiB of output).
WALK_VEC_LEN = 16384


def scan(
    target: Any = "self",
    *,
    start: int | None = None,
    end: int | None = None,
    required_mask: int = 0,
    anyof_mask: int = 0,
    excluded_mask: int = 0,
    return_mask: int = ALL_CATEGORIES,
    max_pages: int = 0,
    untracked: Literal["error", "skip"] = "error",
) -> Regions:
    """The pages of ``target`` that match, with their categories; nothing is changed.

    Args:
        target: ``"self"``, a pid, a :class:`Process`, or any object with a buffer (numpy array, ``mmap``,
            ``bytearray``, ``memoryview``, ``SharedMemory``, torch CPU tensor). A buffer is looked at in whole pages.
        start, end: addresses in bytes, half-open, rounded outward to pages; by default all of the target.
        required_mask, anyof_mask, excluded_mask, return_mask, max_pages: as in :func:`pagemap_scan`.
        untracked: what to do with mappings of which WRITTEN cannot be asked, if a mask asks for it:
            ``"error"`` raises NotWriteProtectable naming the first, ``"skip"`` leaves them out.

    Returns:
        Regions by address. ``regions.unknown`` has the categories this kernel does not know. SWAPPED is said of pages
        that are really swapped out: the kernel says it of markers too, such as those of protected holes. (Where a
        mapping has both, only CAP_SYS_ADMIN lets one tell them apart; without it they stay SWAPPED.)

    The walk is made of one or more calls, and each call of batches between which the kernel lets others work; a page's
    categories are true of one moment, the whole answer is not one snapshot. Reading another process needs the right
    to trace it (``PTRACE_MODE_READ``).
    """
    if untracked not in ("error", "skip"):
        raise InvalidArgument(f"untracked = {untracked!r}", hint='use "error" or "skip"')
    query = Query(int(required_mask), int(anyof_mask), int(excluded_mask), int(return_mask))
    asks_written = bool(query.asked & Category.WRITTEN)
    if asks_written and untracked == "skip":
        query = replace(query, required=query.required | int(Category.WPALLOWED))
    with resolve(target, start, end) as where:
        return _scan(where, query, max_pages, check=asks_written and untracked == "error")


def populated(space: AddressSpace, start: int, end: int) -> Regions:
    """The pages of [start, end) that are present or swapped out, and not the page of zeros: of private anonymous
    memory all that can hold something."""
    populated = Category.PRESENT | Category.SWAPPED
    return scan(space, start=start, end=end, anyof_mask=populated, excluded_mask=Category.PFNZERO, return_mask=0)


def _scan(where: Target, query: Query, max_pages: int, *, check: bool) -> Regions:
    """Walk with the kernel's masks, then tell SWAPPED pages from markers and ask the query again of what is left."""
    swapped = int(Category.SWAPPED)
    about_swap = bool((query.asked | query.returned) & swapped)
    # What the kernel calls SWAPPED may be a marker, so it must not decide; it decides below.
    asked = _without_swapped(query) if query.asked & swapped else query
    prepared = prepare_scan(
        where.pagemap,
        where.start,
        0,
        required_mask=asked.required,
        anyof_mask=asked.anyof,
        excluded_mask=asked.excluded,
        return_mask=asked.returned,
        vec_len=WALK_VEC_LEN,
        require_wp_async=check,
    )
    found = prepared.walk(where.start, where.end, max_pages if asked is query else 0)
    if about_swap:
        found = _markers_told_apart(where.pagemap, found)
    if asked is query:
        return found
    matching = found.where(query.required, query.anyof, query.excluded)
    return _first_pages(matching.masked(query.returned), max_pages)


def _without_swapped(query: Query) -> Query:
    """A query that matches at least what ``query`` does, leaves SWAPPED open, and returns all that decides."""
    swapped = int(Category.SWAPPED)
    return Query(
        required=query.required & ~swapped,
        anyof=0 if query.anyof & swapped else query.anyof,
        excluded=query.excluded & ~swapped,
        returned=query.returned | query.asked,
    )


def _markers_told_apart(pagemap: Pagemap, found: Regions) -> Regions:
    """SWAPPED taken from what is only a marker (of a protected page that was never touched, of a guard region)."""
    suspects = found.where(required=Category.SWAPPED)
    markers = suspects - pagemap.space.truly_swapped(pagemap, suspects) if suspects else suspects
    if not markers:
        return found
    return (found - markers) | markers.masked(~int(Category.SWAPPED))


def _first_pages(regions: Regions, count: int) -> Regions:
    """The first ``count`` pages (all if 0)."""
    if not count or regions.page_count <= count:
        return regions
    before = np.cumsum((regions.ends - regions.starts) // np.uint64(regions.page_size))
    cut = int(np.searchsorted(before, count, "left"))
    left = count - (int(before[cut - 1]) if cut else 0)
    return regions.clip(0, int(regions.starts[cut]) + left * regions.page_size)
