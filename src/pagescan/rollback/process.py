"""A mark of another process's memory: put back from outside (``process_vm_writev``) while the process stands still.

It is the *memory* that is put back, nothing else: not the registers, not open files, not what the kernel or other
processes hold. So the process has to be where it was when it was marked, as far as its memory tells: in the same
call, waiting for its next piece of work. Marking only what holds its data (``mappings=``) asks less of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from ..errors import Closed, CoverageLost, NoSuchProcess
from ..ranges import Regions
from ..scanning.walk import populated
from ..trackers.process_tracker import Chosen, ProcessTracker, chooser
from ..trackers.written import Quality
from .copies import Copy, copy_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from types import TracebackType

    from ..abi import Mapping


class ProcessMark:
    """The memory of a tracked process at one moment; made by :func:`pagescan.mark`. A context manager.

    What becomes of mappings: one that is new since the mark is left as it is; one that was replaced by another at the
    same place is put back in full; one that is gone, or no longer writable, is an error, and then nothing is written.
    """

    def __init__(self, tracker: ProcessTracker, mappings: Chosen = None):
        self._tracker = tracker
        self._wanted = chooser(mappings)
        self._copies: list[Copy] = []
        self.closed = False
        with tracker.frozen():
            self._cursor = tracker.cursor()
            self._space = tracker.space
            now = tracker.mappings()
            self._copies = self._copy(self._marked(now), now)
            self._remember(now)

    def restore(self) -> int:
        """Put the marked contents back, copying only the pages written to since; returns the bytes copied.

        The process stands still meanwhile. Raises CoverageLost if a marked mapping is gone or no longer writable, or if
        the process has executed another program: then nothing was written. Raises NoSuchProcess after its exit;
        Closed.
        """
        self._check()
        with self._tracker.frozen(), self._cursor.taking() as written:
            self._check_memory(written.quality)
            now = self._tracker.mappings()
            self._check_mapped(now)
            due = (written | (self._populated - self._in_use(now))) & self.pages
            copied = sum(copy.restore(due) for copy in self._copies)
            self._cursor.forget(due)
        return copied

    def advance(self) -> int:
        """Make the present contents the mark, copying only the pages written to since; returns the bytes copied.

        Mappings that are new are marked as well, those that are gone are dropped. The process stands still meanwhile.
        Raises as :meth:`restore`.
        """
        self._check()
        with self._tracker.frozen(), self._cursor.taking() as written:
            self._check_memory(written.quality)
            now = self._tracker.mappings()
            before, marked, in_use = self.pages, self._marked(now), self._in_use(now)
            due = written | (self._populated - in_use)
            kept = [copy.part(r.start, r.end) for copy in self._copies for r in marked.clip(copy.start, copy.end)]
            copied = sum(copy.renew(due) for copy in kept)
            added = self._copy(marked - before, now)
            self._copies = sorted([*kept, *added], key=lambda copy: copy.start)
            self._remember(now)
        return copied + sum(copy.end - copy.start for copy in added)

    @property
    def pages(self) -> Regions:
        """The page ranges that are marked."""
        return Regions.from_pairs(((c.start, c.end) for c in self._copies), page_size=self._tracker.pages.page_size)

    @property
    def nbytes(self) -> int:
        """Bytes of the marked mappings."""
        return self.pages.byte_count

    def close(self) -> None:
        """Drop the saved contents. The tracker stays; the process stays as it is. Closing twice is no error."""
        self.closed = True
        self._copies = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self.closed else f"{self.nbytes:,} bytes"
        return f"<ProcessMark of process {self._tracker.pid}: {state}>"

    # Which memory ---------------------------------------------------------------------------------------------------

    def _marked(self, now: Sequence[Mapping]) -> Regions:
        """What is tracked and chosen."""
        return self._tracker.pages & self._spans(m for m in now if self._wanted(m))

    def _copy(self, regions: Regions, now: Sequence[Mapping]) -> list[Copy]:
        """Copies of these regions, one for each mapping they lie in."""
        parts = (regions.clip(m.start, m.end) for m in now)
        return [copy_of(self._space, r.start, r.end, own=False) for part in parts for r in part]

    def _remember(self, now: Sequence[Mapping]) -> None:
        """What tells later whether the marked mappings are still the same, and whether they were emptied."""
        self._populated = self._in_use(now)
        self._sorts = {sort: spans & self.pages for sort, spans in _by_sort(now, self._tracker.pages.page_size).items()}

    def _in_use(self, now: Sequence[Mapping]) -> Regions:
        """What is populated of the marked private memory. What was, and no longer is, was given back or replaced, and
        holds zeros; of shared memory and files that says nothing."""
        spans = self.pages & self._spans(m for m in now if m.private_anonymous)
        parts = [populated(self._space, span.start, span.end) for span in spans]
        return Regions.union(parts, page_size=spans.page_size)

    def _spans(self, mappings: Iterable[Mapping]) -> Regions:
        return Regions.from_pairs(((m.start, m.end) for m in mappings), page_size=self._tracker.pages.page_size)

    # What stands in the way -----------------------------------------------------------------------------------------

    def _check(self) -> None:
        if self.closed:
            raise Closed("the mark is closed", hint="call pagescan.mark() again")

    def _check_memory(self, quality: Quality) -> None:
        """That the process still has the memory that was marked."""
        pid = self._tracker.pid
        if quality is Quality.LOST:
            raise NoSuchProcess(f"process {pid} has exited; its memory is gone", pid=pid)
        if self._tracker.space is not self._space or not self._space.holds():
            raise CoverageLost(
                f"process {pid} has executed another program since it was marked: its memory is another",
                hint="close this mark and make a new one",
                pid=pid,
            )

    def _check_mapped(self, now: Sequence[Mapping]) -> None:
        """That all that is marked is mapped for writing, from where it was."""
        size = self._tracker.pages.page_size
        there = _by_sort([m for m in now if m.writable], size)
        nothing = Regions.empty(page_size=size)
        gone = Regions.union([spans - there.get(sort, nothing) for sort, spans in self._sorts.items()], page_size=size)
        if gone:
            first = gone[0]
            mapping = next((m for m in now if m.start <= first.start < m.end), None)
            why = f"is now {mapping}" if mapping else "is no longer mapped"
            raise CoverageLost(
                f"{first.start:#x}-{first.end:#x} of process {self._tracker.pid} {why}, so its contents cannot be put "
                "back; nothing was changed",
                start=first.start,
                end=first.end,
                hint="mark only what stays: mark(tracker, mappings=...); or advance() the mark to what there is now",
                pid=self._tracker.pid,
            )


def _by_sort(mappings: Iterable[Mapping], size: int) -> dict[tuple[object, ...], Regions]:
    """The spans of mappings by what is mapped there: private memory, or which file from which place on."""
    found: dict[tuple[object, ...], list[tuple[int, int]]] = {}
    for m in mappings:
        file = (m.device, m.inode, m.start - m.offset) if m.inode else ()
        found.setdefault((m.shared, *file), []).append((m.start, m.end))
    return {sort: Regions.from_pairs(pairs, page_size=size) for sort, pairs in found.items()}
