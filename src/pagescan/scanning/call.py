"""Level 1: one ``PAGEMAP_SCAN`` call in the document's words, and its prepared form for repeated calls."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..query import ALL_CATEGORIES, Op
from .prepared import PreparedScan

if TYPE_CHECKING:
    from ..abi import Pagemap
    from .result import Scan

#: What was asked for, and the scan that asks it.
_Made = tuple[tuple[Any, ...], PreparedScan]


class _Ready:
    """The scans of a pagemap that were asked for before, none of them in use.

    Attributes:
        last: the one that was used last. (What is looked up in a dictionary costs 0.4 us, beside a look of 1.)
    """

    __slots__ = ("_others", "last")

    #: So many are kept besides.
    LIMIT = 64

    def __init__(self) -> None:
        self.last: _Made | None = None
        self._others: dict[tuple[Any, ...], PreparedScan] = {}

    def other(self, pagemap: Pagemap, key: tuple[Any, ...], last: _Made | None) -> _Made:
        """A scan for this key, taken out or made anew; ``last``, which is for another, is put back."""
        if last is not None:
            if len(self._others) >= self.LIMIT:
                self._others.clear()
            self._others[last[0]] = last[1]
        return key, self._others.pop(key, None) or PreparedScan(pagemap, *key)


def pagemap_scan(
    pagemap: Pagemap,
    start: int,
    length: int,
    *,
    ops: int = Op.GET,
    required_mask: int = 0,
    anyof_mask: int = 0,
    excluded_mask: int = 0,
    return_mask: int = ALL_CATEGORIES,
    max_pages: int = 0,
    vec_len: int = 512,
    require_wp_async: bool | None = None,
) -> Scan:
    """One ``PAGEMAP_SCAN``: the pages of [start, start + length) that match, and (``Op.WP``) protect them again.

    Args:
        pagemap: an open :class:`Pagemap`, of this process, of another one, or of the model.
        start: address in bytes, page-aligned.
        length: bytes; the kernel rounds the end up to a page. 0 is an empty range.
        ops: ``Op.GET``, ``Op.WP`` or both. Both together are atomic for each page: no write falls between.
            ``Op.WP`` alone protects the matching pages and reports none; it always works to the end of the range.
        required_mask, anyof_mask, excluded_mask: a page matches if it has all, at least one (if any), none of these.
        return_mask: the categories to report of a matching page; neighbours with equal ones are one region.
            WRITTEN asked for here alone is reported only of memory registered for tracking.
        max_pages: stop after so many pages; 0 is no limit.
        vec_len: room for so many regions in the answer.
        require_wp_async: make memory that is not under asynchronous write protection an error
            (``PM_SCAN_CHECK_WPASYNC``). By default true where WRITTEN decides what matches, and for ``Op.WP``. With
            false such memory is passed over: pages nobody tracks are never called written.

    Raises:
        NotWriteProtectable: names the mapping. With ``Op.WP``, pages of mappings before it may be protected already,
            and what had been written to them is then lost: scan mapping by mapping, or use a tracker.
        UnknownCategory: this kernel does not know a category that decides what matches.
        InvalidArgument, NoSuchProcess, KernelCannot, Closed.

    A query that can never match answers empty without a call.
    Source: ``Documentation/admin-guide/mm/pagemap.rst`` and ``PAGEMAP_SCAN(2const)``.
    """
    key = (
        start,
        length,
        ops,
        required_mask,
        anyof_mask,
        excluded_mask,
        return_mask,
        max_pages,
        vec_len,
        require_wp_async,
    )
    ready: _Ready | None = pagemap.prepared_scans
    if ready is None:
        ready = pagemap.prepared_scans = _Ready()
    # Taken out while it is used: two threads must never share one argument buffer. (CPython changes threads at calls
    # and at jumps back, so not within this line.)
    last, ready.last = ready.last, None
    if last is None or last[0] != key:
        last = ready.other(pagemap, key, last)
    answer = last[1].scan()
    ready.last = last
    return answer


def prepare_scan(
    pagemap: Pagemap,
    start: int,
    length: int,
    *,
    ops: int = Op.GET,
    required_mask: int = 0,
    anyof_mask: int = 0,
    excluded_mask: int = 0,
    return_mask: int = ALL_CATEGORIES,
    max_pages: int = 0,
    vec_len: int = 512,
    require_wp_async: bool | None = None,
) -> PreparedScan:
    """:func:`pagemap_scan` made ready once and called often; the same arguments and errors."""
    return PreparedScan(
        pagemap,
        start,
        length,
        ops,
        required_mask,
        anyof_mask,
        excluded_mask,
        return_mask,
        max_pages,
        vec_len,
        require_wp_async,
    )
