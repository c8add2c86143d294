"""Marks of buffers: their contents at one moment, put back in place by copying only the pages written to since.

What happens in ``restore()``, and why in this order
----------------------------------------------------
1. *Look, without protecting.* The pages written to stay open to writing, so that putting them back costs no faults. (A
   fault costs more than the page's copy: 1 us against 0.2 us.)
2. *Copy back* their saved bytes: only those of the buffer, also where a page holds a neighbour's as well.
3. *Protect them again* and forget, for this mark, that they were written; every other reader of the memory, other
   marks too, is told of them, since to those they *were* written. Pages that somebody wrote to after step 1, and that
   were not put back, stay due.
4. *Compare* what was put back with the mark, if another thread may have written between 2 and 3. One bit a page
   cannot tell its write from ours; what differs stays due. So a page that differs is never taken for a clean one. It
   costs as much again as all the rest, so it is left out where no other thread has run since before 2.

``advance()`` protects first and copies then: what is written to later is due again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from ..errors import Closed, CoverageLost, InvalidArgument, PagescanError
from ..process.buffers import HeldBuffer, require_writable
from ..process.current import is_current
from ..ranges import Regions
from ..trackers.tracker import Tracker, track
from ..trackers.written import Quality, Written
from .copies import Copy, copy_of

if TYPE_CHECKING:
    from types import TracebackType


class Mark:
    """The contents of buffers at one moment; made by :func:`pagescan.mark`. A context manager.

    The buffers are held, as by a tracker: they cannot be freed or resized meanwhile. One thread at a time uses a mark.
    """

    def __init__(self, buffers: tuple[Any, ...]):
        if not buffers:
            raise InvalidArgument("mark() was given no buffer", hint="pass one or more: mark(array, other)")
        for buffer in buffers:
            require_writable(buffer)
        self._buffers = buffers
        self._tracker = self._track()
        self._held: list[HeldBuffer] = []
        try:
            self._held += (HeldBuffer(buffer) for buffer in buffers)
            self._copies: list[Copy] = [
                copy_of(held.space, held.address, held.address + held.nbytes, own=is_current(held.space))
                for held in self._held
            ]
        except BaseException:
            self.close()
            raise
        #: Pages that are due although the tracker does not name them (any more).
        self._due = self._nothing = Regions.empty(page_size=self.pages.page_size)

    def restore(self, *, recheck: bool | None = None) -> int:
        """Put the marked contents back, copying only the pages written to since; returns the bytes copied.

        Args:
            recheck: compare what was put back, once it is protected again, so that what another thread wrote to it
                meanwhile is due at the next restore. By default done if another thread of this process may have
                run meanwhile. ``False`` saves the time (as much again as the rest) where none is known to write.

        A part whose tracking was lost (its mapping was replaced, or this is a forked child) is put back in full, and
        tracked anew. Raises CoverageLost if memory is gone or elsewhere (a tensor's ``resize_``); Closed after close().
        """
        due = self._find_due()
        if not due:
            return 0
        others = _Others(due) if recheck is None else None
        copied = sum(copy.restore(due) for copy in self._copies)
        self._tracker.forget(due)
        self._due = self._nothing
        if others.may_have_run() if others else recheck:
            self._due = Regions.union([copy.differing(due) for copy in self._copies])
        return copied

    def advance(self) -> int:
        """Make the present contents the mark, copying only the pages written to since; returns the bytes copied."""
        due = self._find_due()
        if not due:
            return 0
        self._tracker.forget(due)
        copied = sum(copy.renew(due) for copy in self._copies)
        self._due = self._nothing
        return copied

    def changed(self) -> bool:
        """Whether anything was written to since the mark, or since it was last restored or advanced."""
        return bool(self.peek())

    def peek(self) -> Written:
        """The pages that :meth:`restore` would put back; nothing changes."""
        self._check()
        found = self._tracker.peek()
        return Written.of(found | self._due, found.covered, found.quality, found.reason)

    @property
    def pages(self) -> Regions:
        """The page ranges that hold the buffers."""
        return self._tracker.pages

    @property
    def nbytes(self) -> int:
        """Bytes of the buffers."""
        return sum(held.nbytes for held in self._held)

    @property
    def engine(self) -> str:
        """The name of the engine that finds the written pages."""
        return self._tracker.engine

    @property
    def closed(self) -> bool:
        return self._tracker.closed

    def close(self) -> None:
        """Drop the saved contents and let go of the buffers, which stay as they are. Closing twice is no error."""
        self._tracker.close()
        for held in self._held:
            held.release()
        self._copies = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self.closed else f"{self.nbytes:,} bytes, {self.engine}"
        return f"<Mark: {state}>"

    # What is due ----------------------------------------------------------------------------------------------------

    def _find_due(self) -> Regions:
        """The pages to copy. Until the copying is done they are remembered here, whatever interrupts it."""
        self._check()
        try:
            written = self._tracker.peek()
            found: Regions = self._track_again() if written.quality is Quality.LOST else written
        except CoverageLost:
            found = self._track_again()  # a forked child
        self._due = found | self._due if self._due else found
        return self._due

    def _track_again(self) -> Regions:
        """After a loss: a new tracker, and what is due; of what was lost, everything."""
        try:
            fresh = self._track()
        except PagescanError as error:
            raise CoverageLost(
                f"marked memory is gone, so it cannot be put back: {error.message}",
                hint="close the mark, and mark the memory that there is now",
            ) from error
        lost, self._tracker = self._tracker, fresh
        try:
            # After the new one has begun, so that no write falls between them.
            return lost.peek()
        except CoverageLost:
            return fresh.pages
        finally:
            lost.close()

    def _track(self) -> Tracker:
        return track(*self._buffers, on_lost="report")

    def _check(self) -> None:
        if self.closed:
            raise Closed("the mark is closed", hint="call pagescan.mark() again")
        for held in self._held:
            held.check_place()


class _Others:
    """The other threads of this process, before pages are put back."""

    def __init__(self, due: Regions):
        try:
            from ..kernel import threads
        except ImportError:  # no Linux: the model's memory, which Python threads may write to
            self._before = None
            return
        self._still_resting = threads.still_resting
        # To ask of a thread, and for the threads, costs about as much as to compare some 20 pages.
        self._before = threads.resting_threads(due.byte_count // due.page_size // 20)

    def may_have_run(self) -> bool:
        return self._before is None or not self._still_resting(self._before)
