"""A scan made ready once: argument and result buffers, the call, and the repairs of what the kernel answers.

What is repaired here, for both machines (facts by release in ``docs/kernel-facts.md``):

* ``walk_end`` is stale when a call returns more regions than the kernel's bounce buffer holds (512 with 4 KiB pages;
  seen in 6.12, 6.18 and 7.3). Fewer regions than asked for, and no page limit reached, means the range was finished.
* Without an output buffer the kernel ignores masks and ``max_pages`` for memory mapped by single pages (its
  "exclusive" fast path, 12f6b01a0bcb, "fs/proc/task_mmu: add fast paths to get/clear PAGE_IS_WRITTEN flag", 6.7), and
  before 6.17 (28aa29986dde, "fs/proc/task_mmu: check p->vec_buf for NULL") it could crash. So pagescan always passes
  one, also for `Op.WP` alone.
* Protecting part of a hugetlb page makes no progress, silently; it is refused before the call (``checks.py``).
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np

from ..abi import (
    END,
    MAX_PAGES,
    PM_SCAN_CHECK_WPASYNC,
    PM_SCAN_WP_MATCHING,
    REGION_DTYPE,
    SCAN_FIELDS,
    START,
    VEC,
    WALK_END,
    Pagemap,
    pack_scan_argument,
)
from ..errors import Closed, NoProgress
from ..query import Category, Masks, Op, Query
from ..ranges import Regions
from ..records import Answer
from .checks import ADDRESS_LIMIT, batch_regions, check_numbers, known_only, refuse_partial_huge_pages
from .explain import explain
from .result import Scan
from .result_buffers import ResultBuffer

if TYPE_CHECKING:
    from numpy.typing import NDArray

_WRITTEN = int(Category.WRITTEN)
_WPALLOWED = int(Category.WPALLOWED)
#: So many buffers are kept to be used again: enough for who keeps long answers for a while. Of more, the oldest is let
#: go, and lives as long as somebody reads it.
_KEPT = 32
_MASK, _ANYOF, _RETURN = (SCAN_FIELDS.index(field) for field in ("category_mask", "category_anyof_mask", "return_mask"))


def _reported(masks: Masks, returned: int, nothing: bool) -> int:
    """The return mask: nothing for protecting alone, but WRITTEN where that is all that is asked, as only that form
    reaches empty page table entries before 7.2 (the second fast path)."""
    if not nothing:
        return returned
    return _WRITTEN if (masks.inverted, masks.mask, masks.anyof) == (0, _WRITTEN, 0) else 0


class PreparedScan:
    """One scan, its argument and result buffers made once. Not for two threads at a time.

    ``run()`` makes the call and returns the number of regions; ``regions``, ``walk_end`` and ``complete`` then tell
    of the last run, until the next. ``scan()`` makes the call and returns a :class:`Scan` of its own.
    """

    __slots__ = (
        "__weakref__",
        "_argument",
        "_batch",
        "_buffer",
        "_buffers",
        "_call",
        "_clean",
        "_count",
        "_end",
        "_flags",
        "_handed_out",
        "_impossible",
        "_loop",
        "_mark_untracked",
        "_max_pages",
        "_nothing",
        "_pagemap",
        "_protects",
        "_rare",
        "_start",
        "_strip",
        "_vec_len",
        "_words",
        "page_size",
        "unknown",
    )

    def __init__(
        self,
        pagemap: Pagemap,
        start: int,
        length: int,
        ops: int,
        required_mask: int,
        anyof_mask: int,
        excluded_mask: int,
        return_mask: int,
        max_pages: int,
        vec_len: int,
        require_wp_async: bool | None,
    ):
        self.page_size = page_size = pagemap.space.page_size
        check_numbers(start, length, ops, max_pages, vec_len, page_size)
        query = Query(int(required_mask), int(anyof_mask), int(excluded_mask), int(return_mask))
        returned, self.unknown = known_only(pagemap, query)
        self._pagemap = pagemap
        self._start = start
        self._end = start + -(-length // page_size) * page_size
        self._max_pages = max_pages
        self._vec_len = vec_len
        self._loop = not ops & Op.GET
        #: Beyond so many regions ``walk_end`` is stale, and room left for more tells that the range was done.
        self._batch = batch_regions(page_size)
        self._count = 0
        if require_wp_async is None:
            require_wp_async = bool(query.asked & _WRITTEN or ops & Op.WP)
        required = query.required
        if query.asked & _WRITTEN and not require_wp_async:
            required |= _WPALLOWED
        # What nobody tracks has every page's WRITTEN bit set before 7.3; only WPALLOWED tells it from the truth.
        self._mark_untracked = bool(returned & _WRITTEN) and not (require_wp_async or required & _WPALLOWED)
        self._strip = 0 if returned & _WPALLOWED else _WPALLOWED
        masks = Query(required, query.anyof, query.excluded, returned)
        self._impossible = masks.impossible
        encoded = (Query() if masks.impossible else masks).encode()
        self._flags = PM_SCAN_WP_MATCHING if ops & Op.WP else 0
        self._argument = pack_scan_argument(
            flags=self._flags | (PM_SCAN_CHECK_WPASYNC if require_wp_async else 0),
            start=start,
            end=self._end,
            vec_len=vec_len,
            max_pages=max_pages,
            category_inverted=encoded.inverted,
            category_mask=encoded.mask,
            category_anyof_mask=encoded.anyof,
            return_mask=_reported(encoded, returned, self._loop) | (_WPALLOWED if self._mark_untracked else 0),
        )
        self._words = memoryview(self._argument).cast("Q")
        self._rare = self._impossible or self._loop
        self._protects = bool(ops & Op.WP) and not query.asked & _WRITTEN
        if ops & Op.WP and not self._impossible:
            refuse_partial_huge_pages(pagemap, start, self._end, max_pages)
        #: What :meth:`scan` answers when it finds nothing up to the end; and what :meth:`walk` does.
        self._clean = Scan(bytearray(), 0, self.unknown, page_size)
        self._clean.walk_end, self._clean.complete = self._end, True
        self._nothing = Regions.empty(page_size=page_size, unknown=self.unknown)
        self._buffers: list[ResultBuffer] = []
        #: Whether the answer that lies in the buffer of the next run was handed out.
        self._handed_out = False
        self._use(self._new_buffer())

    def _use_free_buffer(self) -> None:
        """Have the next call write to a buffer that nobody reads."""
        for buffer in self._buffers:
            if buffer is not self._buffer and buffer.is_free():
                break
        else:
            buffer = self._new_buffer()
        self._use(buffer)

    def _new_buffer(self) -> ResultBuffer:
        bind = functools.partial(self._pagemap.bind, self._argument)
        buffer = ResultBuffer(self._vec_len, bind, self.unknown, self.page_size)
        if len(self._buffers) >= _KEPT:
            del self._buffers[0]
        self._buffers.append(buffer)
        return buffer

    def _use(self, buffer: ResultBuffer) -> None:
        self._buffer, self._call = buffer, buffer.call
        self._words[VEC] = buffer.address

    def _hand_out(self) -> Scan:
        """The regions of the last run, as no later run changes them: if they are few, a copy. (With many, the next run
        takes another buffer, and this one is used again when nobody reads it.)"""
        if self._mark_untracked:
            return self._worked_over()
        count, buffer = self._count, self._buffer
        if count <= buffer.short:
            used = buffer.memory[: count * REGION_DTYPE.itemsize]
            return Scan(bytearray(used), count, self.unknown, self.page_size)
        self._handed_out = True
        answer = buffer.answer
        answer.count = count
        return answer

    def _worked_over(self) -> Scan:
        """The regions of the last run as an answer of their own, after :meth:`_told_apart`."""
        found = self.regions
        return Scan(bytearray(found.tobytes()), len(found), self.unknown, self.page_size)

    def run(self) -> int:
        """Make the call; returns how many regions the answer has. Errors as :func:`pagemap_scan`."""
        if self._handed_out:
            if not self._buffer.is_free():
                self._use_free_buffer()
            self._handed_out = False
        if self._rare:
            return self._run_rare()
        try:
            self._count = count = self._call()
        except (OSError, ValueError) as error:
            self._count = 0
            raise self._explained(error) from None
        return count

    def _run_rare(self) -> int:
        """A query that never matches, or protecting without reporting: walk to the end, keep nothing."""
        self._count = 0
        if self._impossible:
            return 0
        position = self._protect()
        if not self._words[_MASK] | self._words[_ANYOF] | self._max_pages:
            # Before 7.2 a call without masks leaves the empty entries of a page table as they are; one that asks for
            # WRITTEN alone does not. What is not WRITTEN is protected already, so together they protect everything.
            self._words[_MASK] = self._words[_RETURN] = _WRITTEN
            self._protect()
            self._words[_MASK] = self._words[_RETURN] = 0
        self._words[WALK_END] = position
        self._count = 0
        return 0

    def _protect(self) -> int:
        """Call until the range, or the page limit, is done; returns where that was."""
        position = self._start
        left = self._max_pages
        while position < self._end:
            self._words[START] = position
            try:
                self._count = self._call()
            except (OSError, ValueError) as error:
                raise self._explained(error) from None
            position = self._advanced(position)
            if left:
                left -= self._pages()
                self._words[MAX_PAGES] = left
                if left <= 0:
                    break
        self._words[START] = self._start
        self._words[MAX_PAGES] = self._max_pages
        return position

    def _pages(self) -> int:
        found = self._buffer.vec[: self._count]
        return int((found["end"] - found["start"]).sum()) // self.page_size

    def _advanced(self, position: int) -> int:
        """Where the scan that began at ``position`` got to: the repaired ``walk_end``. Raises NoProgress."""
        count = self._count
        walk_end: int = self._words[WALK_END]
        if walk_end >= self._end:
            return self._end
        if count >= self._vec_len or (self._words[MAX_PAGES] and self._pages() >= self._words[MAX_PAGES]):
            return min(max(walk_end, int(self._buffer.vec["end"][count - 1])), self._end)
        if count > self._batch:
            return self._end
        if self._flags & PM_SCAN_WP_MATCHING:
            # A huge page that was cut by max_pages was split, and its small pages then did not match: all was examined
            # (6.18). The other cause would be part of a hugetlb page; that is refused beforehand, and here once more,
            # in case the memory was mapped anew since.
            refuse_partial_huge_pages(self._pagemap, position, self._end, 0)
            return self._end
        raise NoProgress(
            f"PAGEMAP_SCAN of {position:#x}-{self._end:#x} in {self._pagemap.space.label} stopped at {walk_end:#x} "
            f"with {count} regions and room for {self._vec_len}",
            hint="a call that only looks always gets to the end; this kernel does something pagescan does not know",
        )

    @property
    def regions(self) -> NDArray[np.void]:
        """The regions of the last run: a view into the buffer that the next run overwrites."""
        found = self._buffer.vec[: self._count]
        return self._told_apart(found) if self._mark_untracked else found

    def _told_apart(self, found: NDArray[np.void]) -> NDArray[np.void]:
        """WRITTEN taken from what nobody tracks, WPALLOWED from what did not ask for it, equal neighbours joined."""
        categories = found["categories"]
        categories[(categories & np.uint64(_WPALLOWED)) == 0] &= np.uint64(~_WRITTEN & (ADDRESS_LIMIT - 1))
        if self._strip:
            categories &= np.uint64(~self._strip & (ADDRESS_LIMIT - 1))
        return Regions.merged(found).to_records()

    @property
    def walk_end(self) -> int:
        """The address up to which the last run examined the range (repaired)."""
        if self._impossible or self._words[WALK_END] >= self._end:
            return self._end  # stale it may be too small, never too large
        return int(self._words[WALK_END]) if self._loop else self._advanced(self._start)

    @property
    def complete(self) -> bool:
        """Whether the last run examined the whole range."""
        return self.walk_end >= self._end

    def scan(self) -> Scan:
        """Make the call; the answer stays valid whatever is run later."""
        count, end = self.run(), self._end
        done = self._words[WALK_END] >= end or (self._batch < count < self._vec_len and not self._max_pages)
        if done and not count and end == self._clean.walk_end:
            return self._clean
        answer = self._hand_out()
        answer.walk_end = end if done else self.walk_end
        answer.complete = answer.walk_end >= end
        return answer

    def walk(self, start: int, end: int, max_pages: int = 0) -> Regions:
        """Go over [start, end), page-aligned addresses, until it is done; returns what all calls found.

        Never bare ``walk_end``: each call resumes at the repaired position, and one that makes no progress raises.
        """
        # Nearly always one call does it. It comes right after a long look, when each step is dear.
        if start != self._start or end != self._end or max_pages != self._max_pages:
            self._aim(start, end, max_pages)
        count = self.run()
        if max_pages or (self._words[WALK_END] < end and not self._batch < count < self._vec_len):
            return self._walk_on(end, max_pages)
        if not count:
            return self._nothing
        # The kernel leaves equal neighbours apart where one of its batches ends, and where it split a huge page.
        return Regions.deferred(self._hand_out(), page_size=self.page_size, unknown=self.unknown)

    def _aim(self, start: int, end: int, max_pages: int) -> None:
        words = self._words
        self._start = words[START] = start
        self._end = words[END] = end
        self._max_pages = words[MAX_PAGES] = max_pages

    def _walk_on(self, end: int, left: int) -> Regions:
        """The walk from the answer of its first call on."""
        parts: list[Answer] = []
        limited = left > 0
        while True:
            position = self.walk_end
            left -= self._pages() if limited else 0
            if self._count:
                parts.append(self._hand_out())
            if position >= end or (limited and left <= 0):
                break
            self._aim(position, end, left)
            self.run()
        if not parts:
            return self._nothing
        answer = parts[0] if len(parts) == 1 else Answer.joined(parts)
        return Regions.deferred(answer, page_size=self.page_size, unknown=self.unknown)

    def _explained(self, error: OSError | ValueError) -> Exception:
        if not isinstance(error, OSError):
            return Closed("the pagemap was closed; it cannot be scanned", hint="open another one: Pagemap.open(...)")
        return explain(error, self._pagemap, self._start, self._end, protecting=self._protects)
