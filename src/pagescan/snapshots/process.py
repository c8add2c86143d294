"""Versions of another process's memory: each dump reads only the pages that were written to since the one before.

A buffer of a version is a tracked mapping (or 1 GiB of a larger one), named by its address and its name, in plain
bytes. Memory that was never touched is left out. What was known of a version goes with the tracker; so the first
commit of a :class:`ProcessSeries` compares all pages with the newest version, and writes those that differ.
"""

from __future__ import annotations

import contextlib
import errno
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import InvalidArgument, NoSuchProcess
from ..ranges import Regions
from ..scanning.walk import populated
from ..trackers.process_tracker import Chosen, ProcessTracker, chooser
from ..trackers.written import Quality
from .chain import Chain
from .version import Version

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from ..abi import AddressSpace, Mapping
    from .digests import Rows
    from .store import Store

    #: Called now and then: pages read so far, pages in all.
    Progress = Callable[[int, int], object]

#: Mappings are cut at multiples of this: reserved memory that is hardly used costs tables only where it is used.
PIECE = 1 << 30


class MappingMemory:
    """A piece of a mapping as a :class:`.memory.Source`.

    Attributes:
        start, end: addresses in bytes.
        in_use: what may hold other bytes than zeros.
        unreadable: pages that could not be read (beyond the end of a file, guard pages); zeros stand for them.
    """

    def __init__(self, space: AddressSpace, mapping: Mapping, start: int, end: int, in_use: Regions):
        self._space = space
        self.start, self.end, self.in_use = start, end, in_use
        self.name = f"{start:#x} {mapping.name or 'anonymous'}"
        self.dtype: Any = "|u1"
        self.nbytes = end - start
        self.shape: tuple[int, ...] = (self.nbytes,)
        self.attributes: dict[str, Any] = {
            "start": f"{start:#x}",
            "end": f"{end:#x}",
            "perms": mapping.perms,
            "mapping": mapping.name,
            "offset": mapping.offset + start - mapping.start if mapping.inode else 0,
        }
        self.unreadable = 0
        self.read_pages: Callable[[int], object] = lambda count: None

    def read(self, pages: NDArray[np.int64], page_size: int) -> Rows:
        rows = np.zeros((len(pages), page_size), np.uint8)
        if len(pages):
            addresses = pages.astype(np.uint64) * np.uint64(page_size) + np.uint64(self.start)
            used = self.in_use.clip(int(addresses[0]), int(addresses[-1]) + page_size).pages()
            wanted = np.flatnonzero(np.isin(addresses, used, assume_unique=True))
            for row, data in self._readable(wanted, addresses[wanted], page_size):
                rows[row] = data
        self.read_pages(len(pages))
        return rows

    def _readable(
        self, numbers: NDArray[np.int64], addresses: NDArray[np.uint64], page_size: int
    ) -> Iterator[tuple[NDArray[np.int64], Rows]]:
        """The pages at these addresses, together if all can be read, else those that can."""
        if not len(numbers):
            return
        try:
            data = self._space.read(Regions.from_pages(addresses, page_size=page_size))
            yield numbers, data.reshape(-1, page_size)
        except InvalidArgument as error:
            if error.errno != errno.EFAULT:
                raise
            if len(numbers) == 1:
                self.unreadable += 1
                return
            half = len(numbers) // 2
            yield from self._readable(numbers[:half], addresses[:half], page_size)
            yield from self._readable(numbers[half:], addresses[half:], page_size)

    def numbers(self, regions: Regions) -> NDArray[np.int64]:
        """The numbers of its pages that these regions name."""
        pages = regions.clip(self.start, self.end).pages()
        return ((pages - np.uint64(self.start)) // np.uint64(regions.page_size)).astype(np.int64)


class ProcessSeries:
    """The memory of a tracked process, with its versions in a store.

    Args:
        store: where the versions go.
        name: of the series; one that is in the store already goes on there.
        tracker: of the process; it stays the caller's.
        mappings: which of the tracked mappings, as for :func:`pagescan.attach`.
        freeze: whether the process stands still while a version is made, so that it is of one moment.

    Attributes:
        pause_ns: how long it stood still for the last version.
        unreadable: pages of the last version that could not be read.
    """

    def __init__(
        self, store: Store, name: str, tracker: ProcessTracker, *, mappings: Chosen = None, freeze: bool = True
    ):
        self.name = name
        self.pause_ns = self.unreadable = 0
        self._store, self._tracker, self._freeze = store, tracker, freeze
        self._wanted = chooser(mappings)
        self._cursor = tracker.cursor()
        self._page_size = tracker.pages.page_size
        self._chain = Chain(store.backend, name, page_size=self._page_size)
        with store.locked():
            self._chain.refresh()
        if self._chain.page_size != self._page_size:
            raise InvalidArgument(
                f"series {name!r} has pages of {self._chain.page_size} bytes, and this machine of {self._page_size}",
                hint="give the series another name",
            )
        #: Of the version built on: what was in use of private memory. None: nobody tracked since that one was made.
        self._in_use: Regions | None = None

    def commit(
        self, note: str = "", *, attributes: dict[str, Any] | None = None, progress: Progress | None = None
    ) -> Version:
        """Make a version of what the process's memory holds now. After an error the same pages are due again.

        Raises NoSuchProcess once it has exited, and what :meth:`Series.commit` raises.
        """
        frozen = self._tracker.frozen() if self._freeze else contextlib.nullcontext()
        with self._store.locked(), frozen, self._cursor.taking() as written:
            began = time.monotonic_ns()
            if written.quality is Quality.LOST:
                raise NoSuchProcess(f"process {self._tracker.pid} has exited", pid=self._tracker.pid)
            sources = list(self._sources())
            in_use = Regions.union([source.in_use for source in sources], page_size=self._page_size)
            due: dict[str, NDArray[np.int64]] = {}
            if self._in_use is not None:
                changed = written | (self._in_use - in_use)
                due = {source.name: source.numbers(changed) for source in sources}
            _count(sources, due, self._page_size, progress)
            manifest = self._chain.commit(sources, due, note=note, attributes=attributes)
            self._in_use = in_use
            self.pause_ns = time.monotonic_ns() - began if self._freeze else 0
        self.unreadable = sum(source.unreadable for source in sources)
        return Version.of(manifest)

    def _sources(self) -> Iterator[MappingMemory]:
        """What there is to keep, by address."""
        space = self._tracker.space
        for mapping in self._tracker.mappings():
            if not self._wanted(mapping):
                continue
            for covered in self._tracker.pages.clip(mapping.start, mapping.end):
                for start in range(covered.start // PIECE * PIECE, covered.end, PIECE):
                    low, high = max(start, covered.start), min(start + PIECE, covered.end)
                    in_use = Regions.span(low, high, page_size=self._page_size)
                    if mapping.private_anonymous:
                        in_use = populated(space, low, high)
                    if in_use:
                        yield MappingMemory(space, mapping, low, high, in_use)


def _count(
    sources: list[MappingMemory], due: dict[str, NDArray[np.int64]], page_size: int, progress: Progress | None
) -> None:
    """Have reading the sources tell how far it is."""
    if progress is None:
        return
    total = sum(len(due[s.name]) if s.name in due else s.nbytes // page_size for s in sources)
    done = 0

    def told(count: int) -> None:
        nonlocal done
        done += count
        progress(min(done, total), total)

    for source in sources:
        source.read_pages = told
