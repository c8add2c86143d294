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
from .digests import buffer_digest
from .manifest import BufferEntry, Manifest, PackRef, manifest_digest
from .table import PageTable, TableChanges
from .writer import DuePages, PackWriter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

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


@dataclass(frozen=True, slots=True)
class _Pending:
    """What was prepared and may have been committed: ``needed``, which of the packs its version has."""

    prepared: Prepared
    changes: dict[str, TableChanges]
    needed: NDArray[np.bool_]

    def settled(self, manifest: Manifest) -> _Known:
        """That version, with the tables that were those of the version before."""
        entries = {entry.name: entry for entry in self.prepared.buffers}
        pages = {key: changes.applied(self.needed) for key, changes in self.changes.items()}
        return _Known(manifest.version, manifest_digest(manifest.to_bytes()), entries, pages, self.prepared.packs)


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
        self._pending: _Pending | None = None

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
        count = len(manifest.packs)
        changes = {}
        for entry in entries.values():
            columns = contents.pages[entry.key]
            changes[entry.key] = TableChanges(PageTable.of(columns.digest, columns.pack, count), count)
        needed = _needed(changes.values(), count)
        pages = {key: each.applied(needed) for key, each in changes.items()}
        self._known = _Known(manifest.version, contents.digest, entries, pages, _chosen(manifest.packs, needed))

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
            work.append(DuePages(source, entry.key, every, forced, kept > 0, TableChanges(table, kept)))

        def prepared(new: tuple[PackRef, ...]) -> T:
            return finish(self._prepared(began, entries, work, known.packs[:kept], new))

        return PackWriter(self.backend, self.page_size, kept).write(work, prepared)

    def adopt(self, manifest: Manifest) -> None:
        """Build on this version, in which what was prepared last has a part."""
        if self._pending is None or self._pending.prepared.commit not in manifest.commits:
            raise InvalidArgument(f"version {manifest.version} has nothing of what was prepared here last")
        # Interrupted in between, settle() does it again.
        self._known = self._pending.settled(manifest)
        self.newest, self._pending = manifest.version, None

    def settle(self) -> Manifest | None:
        """If what was prepared last is in a version (somebody committed it, or an answer was lost), build on that."""
        if self._pending is None:
            return None
        try:
            manifest, _ = read_manifest(self.backend, self.series, self._pending.prepared.newest + 1)
        except KeyError:
            return None
        if self._pending.prepared.commit not in manifest.commits:
            return None
        self.adopt(manifest)
        return manifest

    def _entry(self, source: Source) -> BufferEntry:
        old = self._known.entries.get(source.name)
        key = old.key if old is not None else secrets.token_hex(8)
        return BufferEntry(source.name, key, source.dtype, tuple(source.shape), source.nbytes, "", source.attributes)

    def _pages(self, entry: BufferEntry) -> PageTable:
        old = self._known.pages.get(entry.key) or PageTable.empty()
        return old.resized(page_count(entry.nbytes, self.page_size))

    def _due(self, due: NDArray[np.int64] | None, entry: BufferEntry, pages: PageTable) -> NDArray[np.int64]:
        """The pages that may have changed: all of a new buffer, and those at the end of one of another length."""
        old = self._known.entries.get(entry.name)
        if due is None or old is None:
            return np.arange(len(pages.pack))
        if old.nbytes == entry.nbytes:
            return due
        tail = np.arange(max(0, min(old.nbytes, entry.nbytes) // self.page_size), len(pages.pack))
        return np.union1d(due, tail)

    def _prepared(
        self,
        began: int,
        entries: list[BufferEntry],
        work: list[DuePages],
        kept: tuple[PackRef, ...],
        new: tuple[PackRef, ...],
    ) -> Prepared:
        packs = kept + new
        changes = {item.key: item.changes for item in work}
        for each in changes.values():
            each.sum_up()
        needed = _needed(changes.values(), len(packs))
        number = np.cumsum(needed) - 1
        final = [
            replace(
                entry,
                digest=buffer_digest(item.changes.total),
                packs=tuple(number[item.changes.used(len(packs))].tolist()),
            )
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
            _chosen(packs, needed),
            len(new),
        )
        self._pending = _Pending(prepared, changes, needed)
        return prepared


def _needed(changes: Iterable[TableChanges], packs: int) -> NDArray[np.bool_]:
    """Which of so many packs still tell of a page."""
    needed = np.zeros(packs, bool)
    for each in changes:
        needed |= each.used(packs)
    return needed


def _chosen(packs: tuple[PackRef, ...], needed: NDArray[np.bool_]) -> tuple[PackRef, ...]:
    return tuple(ref for ref, some in zip(packs, needed.tolist(), strict=True) if some)
