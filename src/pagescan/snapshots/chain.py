"""Writes the versions of a series: what is due, less what has not really changed, as packs and a manifest.

A :class:`Chain` knows the digest of every page of the version it builds on. Pages that are due are copied, hashed, and
kept only where the digest differs. Two steps, so that many writers can make one version together:
:meth:`Chain.prepare` writes packs, which nobody sees yet; ``commit.py`` writes the manifest that names them.
"""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from ..errors import InvalidArgument
from .budget import Budget, to_merge
from .commit import Prepared, check_newest, check_parent, create
from .contents import load, page_count, read_manifest
from .digests import empty_table, table_digest
from .manifest import BufferEntry, Manifest, PackRef, manifest_digest
from .writer import DuePages, PackWriter, PageTable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from .base import Backend
    from .contents import Contents
    from .digests import Table
    from .memory import Source

    T = TypeVar("T")


@dataclass(slots=True)
class _Known:
    """A version as the writer of the next one knows it; ``pages`` by the buffers' keys."""

    number: int | None
    digest: str
    entries: dict[str, BufferEntry]
    pages: dict[str, PageTable]
    packs: tuple[PackRef, ...]


_NOTHING = _Known(None, "", {}, {}, ())


class Chain:
    """The writer of one series. Not for two threads at a time.

    Attributes:
        page_size: bytes of a page in the store.
        newest: number of the newest version in the store, as far as this writer knows; 0 for none.
        prefix: with which the names of this writer's buffers begin; it knows nothing of others.
    """

    def __init__(
        self, backend: Backend, series: str, *, page_size: int, budget: Budget | None = None, prefix: str = ""
    ):
        self.backend = backend
        self.series = series
        self.page_size = page_size
        self.budget = budget or Budget()
        self.newest = 0
        self.prefix = prefix
        self._known = _NOTHING
        #: Tables whose memory the next ones may take.
        self._spare: dict[str, PageTable] = {}
        #: What was prepared last and may have been committed.
        self._pending: tuple[Prepared, _Known] | None = None

    @property
    def parent(self) -> int | None:
        """Number of the version that the next one builds on; None for nothing."""
        return self._known.number

    @property
    def entries(self) -> dict[str, BufferEntry]:
        """The buffers of that version, by name."""
        return self._known.entries

    def digests(self, name: str) -> Table:
        """The digests of a buffer's pages in that version."""
        return self._known.pages[self._known.entries[name].key].digest

    def refresh(self) -> None:
        """Let the next version build on the newest in the store, if there is one. Reads indexes, and no pages."""
        numbers = self.backend.versions(self.series)
        if numbers:
            self.build_on(load(self.backend, self.series, numbers[-1], self.prefix))
        else:
            self._known, self.newest, self._pending = _NOTHING, 0, None

    def build_on(self, contents: Contents) -> None:
        """Let the next version build on this one."""
        manifest = contents.manifest
        self.newest = self.backend.versions(self.series)[-1]
        self._pending = None
        self.page_size = manifest.page_size
        entries = {entry.name: entry for entry in manifest.buffers if entry.name.startswith(self.prefix)}
        pages = {}
        for entry in entries.values():
            columns = contents.pages[entry.key]
            pages[entry.key] = PageTable.of(columns.digest, columns.pack)
        packs = _needed(list(pages.values()), manifest.packs)
        self._known = _Known(manifest.version, contents.digest, entries, pages, packs)

    def commit(
        self,
        sources: Sequence[Source],
        due: Mapping[str, NDArray[np.int64]],
        *,
        note: str = "",
        attributes: dict[str, Any] | None = None,
    ) -> Manifest:
        """Write the next version: packs and manifest, in one step where the backend can.

        Args:
            sources: every buffer of the version; one whose name was there before is taken as the same buffer.
            due: of each source the numbers of the pages that may have changed, ascending; if missing, all may.

        Raises VersionConflict if the store has moved on, and whatever the backend raises. Then nothing has changed,
        except that packs which nobody names may be left.
        """
        manifest = self.prepare(
            sources, due, lambda prepared: create(self.backend, [prepared], note=note, attributes=attributes)
        )
        self.adopt(manifest)
        return manifest

    def prepare(
        self,
        sources: Sequence[Source],
        due: Mapping[str, NDArray[np.int64]],
        finish: Callable[[Prepared], T],
    ) -> T:
        """Write the packs of the next version, and hand what was prepared to ``finish`` within the last batch.

        Until :meth:`adopt` is told of the version that came of it, the next one builds on the same as this.
        """
        self.settle()
        began, known = time.time_ns(), self._known
        check_newest(self.backend, self.series, self.newest)
        check_parent(self.backend, self.series, known.number, known.digest)
        entries = [self._entry(source) for source in sources]
        pages = [self._pages(entry) for entry in entries]
        wanted = [self._due(due.get(entry.name), entry, old) for entry, old in zip(entries, pages, strict=True)]
        counts = [ref.pages for ref in known.packs]
        # Where all pages are compared, next to none of them may have changed.
        written = sum(len(due[entry.name]) for entry in entries if entry.name in due)
        live = sum(table.live for table in known.pages.values())
        kept = len(counts) - to_merge(self.budget, counts, live, written)
        work = []
        for source, entry, table, some in zip(sources, entries, pages, wanted, strict=True):
            forced = table.pack >= kept if kept < len(counts) else None
            every = some if forced is None else np.union1d(some, np.flatnonzero(forced))
            work.append(DuePages(source, entry.key, every, forced, kept > 0, table))

        def prepared(new: tuple[PackRef, ...]) -> T:
            return finish(self._prepared(began, entries, work, known.packs[:kept], new))

        return PackWriter(self.backend, self.page_size, kept).write(work, prepared)

    def adopt(self, manifest: Manifest) -> None:
        """Build on this version, in which what was prepared last has a part."""
        if self._pending is None or self._pending[0].commit not in manifest.commits:
            raise InvalidArgument(f"version {manifest.version} has nothing of what was prepared here last")
        self._spare, self._known = self._known.pages, self._pending[1]
        self._known.number, self._known.digest = manifest.version, manifest_digest(manifest.to_bytes())
        self.newest, self._pending = manifest.version, None

    def settle(self) -> Manifest | None:
        """If what was prepared last is in a version (somebody committed it, or an answer was lost), build on that."""
        if self._pending is None:
            return None
        try:
            manifest, _ = read_manifest(self.backend, self.series, self._pending[0].newest + 1)
        except KeyError:
            return None
        if self._pending[0].commit not in manifest.commits:
            return None
        self.adopt(manifest)
        return manifest

    def _entry(self, source: Source) -> BufferEntry:
        old = self._known.entries.get(source.name)
        key = old.key if old is not None else secrets.token_hex(8)
        return BufferEntry(source.name, key, source.dtype, tuple(source.shape), source.nbytes, "", source.attributes)

    def _pages(self, entry: BufferEntry) -> PageTable:
        old = self._known.pages.get(entry.key) or PageTable(empty_table(0), np.empty(0, np.int32), 0)
        return old.resized(page_count(entry.nbytes, self.page_size), self._spare.get(entry.key))

    def _due(self, due: NDArray[np.int64] | None, entry: BufferEntry, pages: PageTable) -> NDArray[np.int64]:
        """The pages that may have changed: all of a new buffer, and those at the end of one of another length."""
        old = self._known.entries.get(entry.name)
        if due is None or old is None:
            return np.arange(len(pages.pack))
        if old.nbytes == entry.nbytes:
            return due
        tail = np.arange(max(0, min(old.nbytes, entry.nbytes) // self.page_size), len(pages.pack))
        return np.union1d(due, tail)

    def _root(self, entry: BufferEntry, item: DuePages) -> str:
        """The digest of a buffer; that of the version before, if nothing of it has changed."""
        old = self._known.entries.get(entry.name)
        if item.root is not None:
            return item.root.result().hex()
        same = old is not None and len(self._known.pages[entry.key].pack) == len(item.table.pack)
        return old.digest if old is not None and same else table_digest(item.table.digest).hex()

    def _prepared(
        self,
        began: int,
        entries: list[BufferEntry],
        work: list[DuePages],
        kept: tuple[PackRef, ...],
        new: tuple[PackRef, ...],
    ) -> Prepared:
        packs = _needed([item.table for item in work], kept + new)
        final = [
            replace(entry, digest=self._root(entry, item), packs=_used(item.table, len(packs)))
            for entry, item in zip(entries, work, strict=True)
        ]
        known = self._known
        prepared = Prepared(
            self.series,
            known.number,
            known.digest,
            self.newest,
            began,
            secrets.token_hex(16),
            self.page_size,
            tuple(final),
            packs,
            len(new),
        )
        by_key = {item.key: item.table for item in work}
        self._pending = (prepared, _Known(None, "", {entry.name: entry for entry in final}, by_key, packs))
        return prepared


def _needed(tables: list[PageTable], packs: tuple[PackRef, ...]) -> tuple[PackRef, ...]:
    """The packs that still tell of a page; the tables are renumbered if some do not."""
    used = np.zeros(len(packs), bool)
    for table in tables:
        used[list(_used(table, len(packs)))] = True
    if not used.all():
        # One more element, for -1.
        number = np.append(np.where(used, np.cumsum(used) - 1, -1), -1).astype(np.int32)
        for table in tables:
            table.pack[:] = number[table.pack]
    return tuple(ref for ref, needed in zip(packs, used, strict=True) if needed)


def _used(table: PageTable, packs: int) -> tuple[int, ...]:
    """The numbers of the packs that tell of a page of this buffer, of so many packs."""
    return tuple(np.flatnonzero(np.bincount(table.pack + 1, minlength=packs + 1)[1:]).tolist())
