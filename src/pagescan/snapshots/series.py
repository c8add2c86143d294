"""A series: named, tracked buffers of this process, and their versions in a store."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self, SupportsIndex

import numpy as np

from ..errors import AccessDenied, Closed, InvalidArgument
from ..trackers.tracker import Tracker, track
from .chain import Chain
from .digests import differ, empty_table, is_zero, page_digests
from .memory import BufferMemory
from .reader import read_pages
from .version import Version

if TYPE_CHECKING:
    from types import TracebackType

    from numpy.typing import NDArray

    from ..trackers.written import Written
    from .budget import Budget
    from .commit import Prepared
    from .contents import Contents
    from .store import Store

#: Pages that are hashed at a time.
_CHUNK = 4096


class Series:
    """Buffers under names, tracked, with their versions in a store. Made by :meth:`Store.series`. A context manager.

    Attributes:
        name: of the series.
        part: which part of its versions this is, or None if it is all of them.
        tracker: the tracker of the buffers.
    """

    def __init__(
        self,
        store: Store,
        name: str,
        buffers: dict[str, Any],
        *,
        part: str | None,
        engine: str,
        budget: Budget | None,
        relayout: bool,
    ):
        if not buffers:
            raise InvalidArgument("series() was given no buffer", hint='series("name", weights=weights)')
        self.name = name
        self.part = part
        self._store = store
        prefix = part_prefix(part)
        self._memory = [BufferMemory(prefix + key, buffer) for key, buffer in buffers.items()]
        self.tracker: Tracker = track(*buffers.values(), engine=engine)
        try:
            page_size = self.tracker.pages.page_size
            self._chain = Chain(store.backend, name, page_size=page_size, budget=budget, prefix=prefix)
            with store.locked():
                self._chain.refresh()
            if not relayout:
                self._check_layout()
        except BaseException:
            self.tracker.close()
            raise
        #: Whether all pages have to be compared with the version built on: nobody tracked since that one was made.
        self._compare_all = True
        #: What prepare() took and nobody has committed yet, as far as is known: pages of each buffer.
        self._prepared: dict[str, NDArray[np.int64]] = {}

    def _check_layout(self) -> None:
        old = {name: (e.dtype, e.shape) for name, e in self._chain.entries.items()}
        new = {memory.name: (memory.dtype, memory.shape) for memory in self._memory}
        if old and old != new:
            name = next(name for name in {**old, **new} if old.get(name) != new.get(name))
            raise InvalidArgument(
                f"buffer {name!r} of series {self.name!r} is {_layout(new.get(name))}, and in version "
                f"{self._chain.parent} {_layout(old.get(name))}",
                hint="use another name for the series, or relayout=True if that is meant",
            )

    def commit(self, note: str = "", *, attributes: dict[str, Any] | None = None) -> Version:
        """Make a version of what the buffers hold, writing only what has changed since the last one.

        The first version of a series holds everything. The first commit after the series was opened again compares
        all pages with the newest version, by their digests; later ones look at no page that was not written to.

        If this raises, whatever the reason, the store is as before and the same pages are due in the next commit.
        Other threads that write meanwhile make a mix of before and after, page by page: hold them still.

        Args:
            note: words to keep with the version.
            attributes: values of JSON to keep with it.

        Raises:
            VersionConflict: another writer has committed to this series meanwhile. See :meth:`refresh`.
            CoverageLost: the tracker has lost part of the memory.
            PagescanError: no space is left (``errno`` is ENOSPC), or whatever else the store says.
        """
        self._check()
        if self.part is not None:
            raise InvalidArgument(
                f"this is part {self.part!r} of series {self.name!r}: by itself it makes no version",
                hint="prepare() every part, then store.commit([...]) what they return",
            )
        with self._store.locked():
            self._settle()
            with self.tracker.taking() as written:
                manifest = self._chain.commit(self._memory, self._due(written), note=note, attributes=attributes)
                self._settled()
        return Version.of(manifest)

    def prepare(self) -> Prepared:
        """Write what has changed, but make no version of it: :meth:`Store.commit` does, of this and of others' parts.

        So many processes, on many machines, make one version of all their buffers. What is returned is small, and may
        be pickled or sent as JSON. Until it is committed the same pages stay due here: a later prepare() or commit()
        brings them again, if :meth:`settle` (which both call first) does not find them in the store.

        Raises as :meth:`commit`. What was written for something that is never committed goes with :meth:`Store.prune`.
        """
        self._check()
        with self._store.locked():
            self._settle()
            with self.tracker.taking() as written:
                due = self._due(written)
                prepared = self._chain.prepare(self._memory, due, lambda prepared: prepared)
                self._prepared = due
        return prepared

    def settle(self) -> Version | None:
        """Look in the store whether what prepare() returned last has been committed: the version, or None.

        Once it has, its pages are no longer due, and later versions build on that one. To call this again, or not at
        all, does no harm.
        """
        self._check()
        with self._store.locked():
            return self._settle()

    def _settle(self) -> Version | None:
        manifest = self._chain.settle()
        if manifest is None:
            return None
        self._settled()
        return Version.of(manifest)

    def _settled(self) -> None:
        self._compare_all, self._prepared = False, {}

    def _due(self, written: Written) -> dict[str, NDArray[np.int64]]:
        """The pages of each buffer that may not be as in the version built on; none named if it may be any."""
        if self._compare_all:
            return {}
        return {memory.name: self._unsettled(memory, written, self._chain.page_size) for memory in self._memory}

    def _unsettled(self, memory: BufferMemory, written: Written, page_size: int) -> NDArray[np.int64]:
        pages = memory.pages_of(written, page_size)
        before = self._prepared.get(memory.name)
        return pages if before is None else np.union1d(before, pages)

    def refresh(self) -> None:
        """Build on the newest version in the store, whoever made it: the next commit compares all pages with it."""
        self._check()
        with self._store.locked():
            self._chain.refresh()
            self._settled()
            self._compare_all = True

    def restore(self, version: SupportsIndex) -> int:
        """Put the buffers back to what they were at a version, in place; returns the bytes that were copied.

        Only pages that differ are read and written. They are checked before the first is written, so a damaged version
        leaves the buffers as they are. The next commit has this version as its parent.

        Raises NoSuchVersion, DataCorrupt (names version and buffer), InvalidArgument (the version has other buffers).
        """
        self._check()
        with self._store.locked():
            contents = self._store.contents(self.name, version, self._chain.prefix)
            self._check_restorable(contents)
            with self.tracker.taking() as written:
                pairs = [(memory, self._differing(memory, contents, written)) for memory in self._memory]
                for memory, wrong in pairs:
                    for _ in read_pages(self._store.backend, contents, contents.manifest.buffer(memory.name), wrong):
                        pass
                copied = sum(self._put_back(memory, contents, wrong) for memory, wrong in pairs)
                self._chain.build_on(contents)
                # What was put back is due as well, by the tracker: the next commit finds that it has not changed.
                self._settled()
        return copied

    def _check_restorable(self, contents: Contents) -> None:
        for memory in self._memory:
            entry = contents.manifest.buffer(memory.name)
            if entry.nbytes != memory.nbytes:
                raise InvalidArgument(
                    f"buffer {memory.name!r} had {entry.nbytes:,} bytes in version {contents.manifest.version}, "
                    f"and has {memory.nbytes:,} now",
                    hint="read it into a new array: store.read(series, version)",
                )
            if not memory.writable:
                raise AccessDenied(f"buffer {memory.name!r} is read-only", hint="store.read() makes a copy")

    def _differing(self, memory: BufferMemory, contents: Contents, written: Written) -> NDArray[np.int64]:
        """The pages that are not what they were at that version: of those that were not written to since the version
        built on, the digests are known."""
        page_size = contents.manifest.page_size
        target = contents.pages[contents.manifest.buffer(memory.name).key].digest
        entry = self._chain.entries.get(memory.name)
        if self._compare_all or entry is None or entry.nbytes != memory.nbytes or page_size != self._chain.page_size:
            now, unknown = empty_table(len(target)), np.arange(len(target))
        else:
            now, unknown = self._chain.digests(memory.name).copy(), self._unsettled(memory, written, page_size)
        for at in range(0, len(unknown), _CHUNK):
            some = unknown[at : at + _CHUNK]
            now[some] = page_digests(memory.read(some, page_size))
        return np.flatnonzero(differ(now, target))

    def _put_back(self, memory: BufferMemory, contents: Contents, wrong: NDArray[np.int64]) -> int:
        entry, page_size = contents.manifest.buffer(memory.name), contents.manifest.page_size
        zero = wrong[is_zero(contents.pages[entry.key].digest[wrong])]
        for at in range(0, len(zero), _CHUNK):
            some = zero[at : at + _CHUNK]
            memory.write(some, np.zeros((len(some), page_size), np.uint8))
        for page, rows in read_pages(self._store.backend, contents, entry, wrong):
            memory.write(page, rows)
        return int(np.minimum((wrong + 1) * page_size, memory.nbytes).sum() - (wrong * page_size).sum())

    @property
    def versions(self) -> list[Version]:
        """The versions of this series, oldest first."""
        return self._store.versions(self.name)

    def diff(self, one: SupportsIndex, other: SupportsIndex) -> dict[str, list[slice]]:
        """:meth:`Store.diff` of this series."""
        return self._store.diff(self.name, one, other)

    @property
    def closed(self) -> bool:
        return self.tracker.closed

    def _check(self) -> None:
        if self.closed:
            raise Closed(f"the series {self.name!r} is closed", hint="call store.series() again")

    def close(self) -> None:
        """Stop tracking and let go of the buffers. Closing twice is no error."""
        self.tracker.close()
        self._memory = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self.closed else f"{len(self._memory)} buffers, on version {self._chain.parent}"
        return f"<Series {self.name!r}{f', part {self.part!r}' if self.part else ''}: {state}>"


def part_prefix(part: str | None) -> str:
    """With what the names of a part's buffers begin in a version. Raises InvalidArgument."""
    if part is None:
        return ""
    if not part or "/" in part:
        raise InvalidArgument(f"part = {part!r}", hint='a name without "/": part="rank0"')
    return f"{part}/"


def _layout(found: tuple[Any, tuple[int, ...]] | None) -> str:
    return "not there" if found is None else f"{found[0]} of shape {found[1]}"
