"""Level 3: ``track`` buffers, and ask again and again which of their pages have been written to."""

from __future__ import annotations

import contextlib
import weakref
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np

from ..errors import Closed, CoverageLost, InvalidArgument
from ..process.buffers import HeldBuffer
from ..query import Category
from ..ranges import Regions
from .choose import What, cover, drop_if_idle
from .exempting import Exempting, check_hot, hot_reason
from .extents import Extents
from .stats import Counters, Stats, count_faults, measured_costs
from .written import Quality, Written

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

    from .base import Arm, Extent, Hot
    from .changed import Changed
    from .hub import Due, Hub, Reader

OnLost = Literal["raise", "report"]


def track(
    *buffers: Any,
    what: What = "written",
    engine: str = "auto",
    arm: Arm = "scan",
    on_lost: OnLost = "raise",
    hot: Hot = "protect",
) -> Tracker:
    """Find, from now on, which pages of these buffers are written to.

    Does the documented set-up in its order: a userfaultfd (one for the whole process, shared by all trackers);
    ``UFFDIO_API`` with WP_UNPOPULATED and WP_ASYNC; ``UFFDIO_REGISTER`` in mode WP; write-protect; and then, at each
    :meth:`Tracker.take`, ``PAGEMAP_SCAN`` that gets the written pages and protects them again, atomically per page.

    Args:
        buffers: any number of objects with memory: C-contiguous numpy arrays of any dtype and alignment, ``bytearray``,
            ``mmap``, ``memoryview``, ``SharedMemory``, torch CPU tensors, buffers of the model. They are held, so that
            they cannot be freed or resized while they are tracked.
        what: ``"written"``, or ``"accessed"`` for pages that were touched at all, also by reading (Linux 7.3).
        engine: ``"auto"`` takes the first that proves itself on this kind of memory: ``"pagemap-scan"``,
            ``"pagemap-read"``, ``"soft-dirty"``, ``"compare"``; or one of these by name. ``tracker.engine`` and
            ``tracker.why`` tell which it is, and why not a better one.
        arm: how the pages are first protected: ``"scan"`` by ``PAGEMAP_SCAN``, ``"ioctl"`` by ``UFFDIO_WRITEPROTECT``.
        on_lost: when coverage of a part is lost (moved, unmapped, unregistered): ``"raise"`` CoverageLost, or
            ``"report"`` the part in full with quality LOST.
        hot: ``"exempt"`` leaves memory that is written to in nearly every interval unprotected, so that its writer pays
            no faults. It is named in every answer, which is then a SUPERSET (``written.exempted`` has these pages), and
            protected again now and then, to see whether it is still hot: memory that is written to no more is named in
            at most 256 further answers. Memory that another tracker covers too is always protected.

    What no page table shows is not seen: writes through another mapping of the same shared memory or file (by another
    process, or ``write(2)``), hole punching (``MADV_REMOVE``, ``ftruncate``) of shared memory, ``MADV_DONTNEED`` of a
    privately mapped file, and DMA into pages that were pinned before they were last protected. See the page on caveats.

    Raises:
        NotABuffer, NotContiguous: what was passed is no memory, or not one run of it.
        NotWriteProtectable, RegisteredElsewhere: the mapping cannot be tracked; named.
        KernelCannot: this machine cannot track; says why and what mends it.
    """
    return Tracker(buffers, what=what, engine=engine, arm=arm, on_lost=on_lost, hot=hot)


class _Coverage:
    """What is covered for one tracker and its cursors: ends by close(), or when none of them is left."""

    def __init__(self, buffers: tuple[Any, ...], what: What, engine: str, arm: Arm, on_lost: OnLost, hot: Hot):
        if not buffers:
            raise InvalidArgument("track() was given no buffer", hint="pass one or more: track(array, other)")
        if what not in ("written", "accessed"):
            raise InvalidArgument(f"what = {what!r}", hint='use "written" or "accessed"')
        if arm not in ("scan", "ioctl"):
            raise InvalidArgument(f"arm = {arm!r}", hint='use "scan" (PAGEMAP_SCAN) or "ioctl" (UFFDIO_WRITEPROTECT)')
        if on_lost not in ("raise", "report"):
            raise InvalidArgument(f"on_lost = {on_lost!r}", hint='use "raise" or "report"')
        check_hot(hot)
        held: list[HeldBuffer] = []
        try:
            held += (HeldBuffer(buffer) for buffer in buffers)
            space = held[0].space
            if any(buffer.space is not space for buffer in held):
                raise InvalidArgument("the buffers lie in different address spaces", hint="use one tracker for each")
            size = space.page_size
            pages = Regions.from_pairs((buffer.page_range() for buffer in held), page_size=size)
            covered = cover(space, pages, engine, what, arm)
        except BaseException:
            _release(held)
            raise
        self.hub, self.extents, self.why = covered.hub, covered.extents, covered.why
        self.pages = self.extents.pages(size)
        self.hot = hot
        self.exempting = Exempting(self.extents, size) if hot == "exempt" else None
        huge = [extent for extent in self.extents if extent.page_size > size]
        self.huge = Extents(huge).pages(size)
        self.counters = Counters(count_faults(self.huge, huge[0].page_size if huge else size))
        self.on_lost = on_lost
        self.edges = _shared_edges(held, size)
        #: Buffers whose object may move its memory in spite of us; the others are pinned by their export.
        self.movable = tuple(buffer for buffer in held if buffer.movable)
        self._end = weakref.finalize(self, _end_coverage, self.hub, self.pages, held)
        self.closed = False

    def close(self) -> None:
        self.closed = True
        self._end()


def _end_coverage(hub: Hub, pages: Regions, held: list[HeldBuffer]) -> None:
    hub.uncover(pages)
    drop_if_idle(hub)
    _release(held)


def _release(held: list[HeldBuffer]) -> None:
    for buffer in held:
        buffer.release()


def _shared_edges(held: list[HeldBuffer], size: int) -> Regions:
    """The pages that hold bytes of a tracked buffer and bytes of something else."""
    inside = Regions.from_pairs(((b.address, b.address + b.nbytes) for b in held if not b.exclusive), page_size=size)
    edges = np.concatenate([inside.starts, inside.ends])
    partly = edges[edges % np.uint64(size) != 0]
    return Regions.from_pages(partly // np.uint64(size) * np.uint64(size), page_size=size)


class Cursor:
    """A reader with its own "since I last asked". Made by :meth:`Tracker.cursor`; every tracker is one itself."""

    def __init__(self, coverage: _Coverage, *, fresh: bool = False):
        self._coverage = coverage
        self._hub = coverage.hub
        self._reader: Reader = self._hub.reader(
            coverage.pages,
            coverage.extents,
            fresh=fresh,
            exempting=coverage.exempting,
            counters=coverage.counters,
        )

    def take(self) -> Written:
        """The pages written to since this reader last asked; they are protected again, atomically for each page.

        A write that comes after a page was looked at is in the next answer. So copy after taking, not before.

        Raises CoverageLost (unless ``on_lost="report"``) if part of the memory is no longer tracked; what was found in
        the rest is kept for the next answer. Raises Closed after close().
        """
        coverage, hub, reader = self._coverage, self._hub, self._reader
        if coverage.closed or coverage.movable:
            self._check()
        due = written, unsure = hub.take(reader)
        if reader.losses or unsure or (written and (coverage.edges or hub.engine.caveat(written, coverage.extents))):
            return self._answer(due, keep=True)
        return Written.of(written, coverage.pages, exempted=unsure)

    def peek(self) -> Written:
        """What :meth:`take` would answer; nothing changes."""
        self._check()
        return self._answer(self._hub.peek(self._reader), keep=False)

    def changed(self) -> Changed:
        """Whether anything was written to since this reader last took, and a key for what is computed from the memory.

        The answer is true or false, and it is equal to an earlier answer of this reader if, and only if, nothing was
        written to in between, whoever took meanwhile::

            key = tracker.changed()
            if key != remembered:
                remembered, result = key, expensive(array)      # the key first, then the computation

        What is due stays due: a later :meth:`take` answers the same with and without this call. The written pages are
        protected again, so that a second write to them shows; that write costs a fault as after a take.

        Pages that are written to unseen (exempted, or no longer tracked under ``on_lost="report"``) make it true, and
        equal to no other answer. Raises as :meth:`take`.
        """
        self._check()
        key = self._hub.changed(self._reader)
        self._check_lost()
        return key

    @contextlib.contextmanager
    def taking(self) -> Iterator[Written]:
        """:meth:`take` as a transaction: if the body raises, these pages are due again in the next answer."""
        written = self.take()
        try:
            yield written
        except BaseException:
            self._hub.give_back(self._reader, written, written.exempted)
            raise

    def forget(self, regions: Regions) -> None:
        """Protect these pages again and leave them out of the next answer: this reader wrote to them by itself.

        For whoever puts contents back (:func:`pagescan.mark` does). Other readers are told of the pages as written.
        What another thread writes to them before they are protected is forgotten as well: compare afterwards if
        others may be writing.
        """
        self._check()
        self._hub.forget(self._reader, regions)

    def _check(self) -> None:
        coverage = self._coverage
        if coverage.closed:
            raise Closed("the tracker is closed", hint="call pagescan.track() again")
        for buffer in coverage.movable:
            buffer.check_place()

    def _answer(self, due: Due, *, keep: bool) -> Written:
        coverage, losses = self._coverage, self._reader.losses
        written, unsure = due
        exempted = written & unsure if unsure else None
        if losses:
            if keep and coverage.on_lost == "raise":
                self._hub.give_back(self._reader, written, unsure)
            self._check_lost()
            gone = Regions.from_pairs(
                ((loss.extent.start, loss.extent.end, int(Category.WRITTEN)) for loss in losses),
                page_size=coverage.pages.page_size,
            )
            return Written.of(
                written | gone, coverage.pages, Quality.LOST, _lost_reason(losses[0].extent, losses[0].why), exempted
            )
        if written:
            reasons = _superset_reasons(coverage, written)
            if exempted:
                reasons.append(hot_reason(exempted))
            if reasons:
                written = written.masked(~int(Category.HUGE))  # said by the reason
                return Written.of(written, coverage.pages, Quality.SUPERSET, "; ".join(reasons), exempted)
        return Written.of(written, coverage.pages)

    def _check_lost(self) -> None:
        losses = self._reader.losses
        if losses and self._coverage.on_lost == "raise":
            raise _coverage_lost(losses[0].extent, losses[0].why)


def _superset_reasons(coverage: _Coverage, written: Regions) -> list[str]:
    reasons = []
    if coverage.edges and (written & coverage.edges):
        reasons.append("an edge page is shared with memory beside the buffer")
    caveat = coverage.hub.engine.caveat(written, coverage.extents)
    return [*reasons, caveat] if caveat else reasons


def _lost_reason(extent: Extent, why: str) -> str:
    return f"{extent.start:#x}-{extent.end:#x} is no longer tracked: {why}"


def _coverage_lost(extent: Extent, why: str) -> CoverageLost:
    return CoverageLost(
        f"{_lost_reason(extent, why)}; pages of it written to meanwhile are unknown",
        start=extent.start,
        end=extent.end,
        hint='treat that range as changed and track the memory anew, or use track(..., on_lost="report")',
    )


class Tracker(Cursor):
    """Tracked buffers; made by :func:`track`. A context manager.

    Attributes:
        engine: the name of the engine that answers.
        why: why this one, and why the better ones were passed over.
        pages: the page ranges that are covered.
    """

    def __init__(self, buffers: tuple[Any, ...], *, what: What, engine: str, arm: Arm, on_lost: OnLost, hot: Hot):
        coverage = _Coverage(buffers, what, engine, arm, on_lost, hot)
        try:
            super().__init__(coverage, fresh=True)
        except BaseException:
            coverage.close()
            raise

    @property
    def engine(self) -> str:
        return self._hub.engine.name

    @property
    def why(self) -> str:
        return self._coverage.why

    @property
    def pages(self) -> Regions:
        return self._coverage.pages

    @property
    def closed(self) -> bool:
        """Whether :meth:`close` was called."""
        return self._coverage.closed

    def cursor(self) -> Cursor:
        """An independent reader: it answers what is written to from now on, whatever the others take."""
        self._check()
        return Cursor(self._coverage)

    def stats(self) -> Stats:
        """What this tracker and its cursors have cost so far, and what would cost less; ``print`` it.

        Looks and what they found are counted. What a fault costs the writer and what a comparison would take are
        measured once, in some milliseconds, on memory of this process; for the model they are nothing.
        """
        self._check()
        coverage, size = self._coverage, self.pages.page_size
        with self._hub.lock:
            counters = coverage.counters
            written, exempted, faults = counters.totals()
            takes, looks, look_ns = counters.takes, counters.looks, counters.look_ns
            exempt = coverage.exempting.exempt.byte_count if coverage.exempting else 0
        costs = measured_costs(self.engine)
        return Stats(
            engine=self.engine,
            hot=coverage.hot,
            page_size=size,
            bytes_tracked=self.pages.byte_count,
            bytes_shared=coverage.edges.page_count * size,
            bytes_exempt=exempt,
            bytes_hugetlb=coverage.huge.byte_count,
            takes=takes,
            looks=looks,
            look_ns=look_ns,
            pages_written=written,
            pages_exempted=exempted,
            faults=faults,
            fault_ns=costs.fault_ns,
            compare_ns=costs.compare_ns * self.pages.page_count,
            source=costs.source,
        )

    def close(self) -> None:
        """Stop tracking and let go of the buffers; also ends its cursors. Closing twice is no error.

        Unregistering armed memory takes the kernel some 9 ms for each GiB.
        """
        self._coverage.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self.closed else self.engine
        return f"<Tracker: {self.pages.page_count:,} pages, {state}>"
