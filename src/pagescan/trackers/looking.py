"""One look over several extents: what was found in each, and which of them can no longer be asked."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np

from ..errors import CoverageLost, NoSuchProcess, NotWriteProtectable
from ..query import Category
from ..ranges import REGION_DTYPE, Regions
from ..records import one_after_another
from .base import Findings, Loss
from .extents import Extents

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from numpy.typing import NDArray

    from .base import Extent

UNMAPPED = "part of it is no longer mapped"
MOVED = "it was moved, mapped anew, or unregistered"


def look_at_each(
    extents: Iterable[Extent],
    look: Callable[[Extent], Regions],
    *,
    has_gap: Callable[[int, int], bool] | None = None,
    page_size: int,
) -> Findings:
    """Ask ``look`` for what was found in each extent, and then, if it is given, whether it ``has_gap``.

    A gap is the extent's loss, and so is what they raise: CoverageLost with its message, NotWriteProtectable,
    NoSuchProcess.
    """
    parts: list[Regions] = []
    losses: list[Loss] = []
    for extent in extents:
        try:
            found = look(extent)
            if has_gap is not None and has_gap(extent.start, extent.end):
                raise CoverageLost(UNMAPPED)
        except NotWriteProtectable:
            losses.append(Loss(extent, MOVED))
        except (CoverageLost, NoSuchProcess) as error:
            losses.append(Loss(extent, error.message))
        else:
            if found:
                parts.append(found)
    if len(parts) <= 1:
        return Findings(parts[0] if parts else _nothing(page_size), losses)
    records = one_after_another([part.to_records() for part in parts])
    return Findings(Regions.merged(records, page_size=page_size), losses)


@functools.cache  # the answer of most looks
def _nothing(page_size: int) -> Regions:
    return Regions.empty(page_size=page_size)


def runs_of(pages: NDArray[np.bool_], start: int, page_size: int, categories: int = 0) -> NDArray[np.void]:
    """The records of the pages for which a mask is true; the first of them lies at ``start``."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], pages, [False]])))
    records = np.empty(len(edges) // 2, REGION_DTYPE)
    records["start"] = edges[::2] * page_size + start
    records["end"] = edges[1::2] * page_size + start
    records["categories"] = categories
    return records


def hugetlb_caveat(written: Regions, extents: Sequence[Extent]) -> str:
    """What there is to say of hugetlb memory, whose protection knows whole huge pages only; "" without any of it."""
    for extent in Extents.of(extents).huge(written.page_size):
        if written.clip(extent.start, extent.end):
            return f"hugetlb memory is tracked by whole huge pages of {extent.page_size:,} bytes"
    return ""


_ONLY_READ = Category.PFNZERO | Category.FILE
#: What a look at sparse memory has to ask for, so that :func:`really_written` can judge it.
SPARSE_RETURN = Category.WRITTEN | _ONLY_READ | Category.HUGE


def really_written(found: Regions, before: Regions) -> Regions:
    """What of sparse private memory was written to, of what the tables call so. HUGE stands where a first write has
    filled a whole huge page; the rest of it, too, is named.

    ``before`` is what was populated at the last look. A page of a hole that was only read maps the page of zeros or, in
    a private mapping of a file, the file's own page: WRITTEN in the tables, but it holds what it held.
    """
    if not (found.categories & np.uint64(_ONLY_READ | Category.HUGE)).any():
        return found
    only_read = found.where(anyof=_ONLY_READ) - before
    filled = found.where(required=Category.HUGE, excluded=_ONLY_READ) - before
    return (found - only_read).with_categories(Category.WRITTEN) | filled.masked(Category.HUGE)


def filled_caveat(written: Regions, extents: Sequence[Extent]) -> str:
    """What there is to say of huge pages that a first write has filled; "" without any. Only in sparse extents that is
    looked for (:data:`SPARSE_RETURN`)."""
    if not Extents.of(extents).some_sparse or not (written.categories & np.uint64(Category.HUGE)).any():
        return ""
    return "a first write to memory never touched filled a whole huge page, and all of it is named"
