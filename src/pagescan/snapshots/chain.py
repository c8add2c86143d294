"""Writes the versions of a series: what is due, less what has not really changed, as packs and a manifest.

A :class:`Chain` knows the digest of every page of the version it builds on. Pages that are due are copied, hashed, and
kept only where the digest differs. Two steps, so that many writers can make one version together:
:meth:`Chain.prepare` writes packs, which nobody sees yet; :func:`create` writes the manifest that names them.
"""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from ..errors import InvalidArgument, VersionConflict
from .base import GRACE_NS
from .budget import Budget, to_merge
from .contents import load, page_count, read_manifest
from .digests import empty_table, is_zero, table_digest
from .manifest import BufferEntry, Manifest, PackRef, manifest_digest
from .writer import DuePages, PackWriter

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from .base import Backend
    from .contents import Contents
    from .digests import Table
    from .memory import Source

    T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Prepared:
    """What one writer brings to a version: its buffers, and packs that are written and that nobody names yet.

    Made of plain values, so that it can be pickled and sent to the writer that commits.

    Attributes:
        series: the name.
        parent: number of the version it builds on, None for the first of the series.
        parent_digest: of that version's manifest.
        newest: number of the newest version in the store when this was prepared, 0 for none.
        time_ns: when that was, since 1970 in UTC.
        commit: 32 random hexadecimal digits, of this writer and this step.
        page_size: bytes of a page.
        buffers: all that this writer has.
        packs: all packs that are needed to read them, oldest first.
        new_packs: how many of those, the last, were written now.
    """

    series: str
    parent: int | None
    parent_digest: str
    newest: int
    time_ns: int
    commit: str
    page_size: int
    buffers: tuple[BufferEntry, ...]
    packs: tuple[PackRef, ...]
    new_packs: int


@dataclass(slots=True)
class _Pages:
    """What a version says of a buffer's pages: their digests, and which of its packs has each (-1: none)."""

    digest: Table
    pack: NDArray[np.int32]

    def resized(self, pages: int) -> _Pages:
        """A copy, for a buffer of so many pages."""
        kept = min(pages, len(self.pack))
        new = _Pages(empty_table(pages), np.full(pages, -1, np.int32))
        new.digest[:kept], new.pack[:kept] = self.digest[:kept], self.pack[:kept]
        return new


@dataclass(slots=True)
class _Known:
    """A version as the writer of the next one knows it; ``pages`` by the buffers' keys."""

    number: int | None
    digest: str
    entries: dict[str, BufferEntry]
    pages: dict[str, _Pages]
    packs: tuple[PackRef, ...]

    @property
    def live(self) -> int:
        """Pages that are not zeros."""
        return sum(int((~is_zero(pages.digest)).sum()) for pages in self.pages.values())


_NOTHING = _Known(None, "", {}, {}, ())


class Chain:
    """The writer of one series. Not for two threads at a time.

    Attributes:
        page_size: bytes of a page in the store.
        newest: number of the newest version in the store, as far as this writer knows; 0 for none.
    """

    def __init__(self, backend: Backend, series: str, *, page_size: int, budget: Budget | None = None):
        self.backend = backend
        self.series = series
        self.page_size = page_size
        self.budget = budget or Budget()
        self.newest = 0
        self._known = _NOTHING
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
            self.build_on(load(self.backend, self.series, numbers[-1]))
        else:
            self._known, self.newest, self._pending = _NOTHING, 0, None

    def build_on(self, contents: Contents) -> None:
        """Let the next version build on this one."""
        manifest = contents.manifest
        self.newest = self.backend.versions(self.series)[-1]
        self._pending = None
        self.page_size = manifest.page_size
        self._known = _Known(
            manifest.version,
            contents.digest,
            {entry.name: entry for entry in manifest.buffers},
            {key: _Pages(columns.digest, columns.pack) for key, columns in contents.pages.items()},
            manifest.packs,
        )

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
        self._settle()
        began, known = time.time_ns(), self._known
        check_newest(self.backend, self.series, self.newest)
        check_parent(self.backend, self.series, known.number, known.digest)
        entries = [self._entry(source) for source in sources]
        pages = [self._pages(entry) for entry in entries]
        wanted = [self._due(due.get(entry.name), entry, old) for entry, old in zip(entries, pages, strict=True)]
        counts = [ref.pages for ref in known.packs]
        # Where all pages are compared, next to none of them may have changed.
        written = sum(len(due[entry.name]) for entry in entries if entry.name in due)
        kept = len(counts) - to_merge(self.budget, counts, known.live, written)
        work = []
        for source, entry, old, some in zip(sources, entries, pages, wanted, strict=True):
            forced = old.pack >= kept
            every = np.union1d(some, np.flatnonzero(forced)) if kept < len(counts) else some
            work.append(DuePages(source, entry.key, every, forced, kept > 0, old.digest, old.pack))

        def prepared(new: tuple[PackRef, ...]) -> T:
            return finish(self._prepared(began, entries, pages, known.packs[:kept], new))

        return PackWriter(self.backend, self.page_size, kept).write(work, prepared)

    def adopt(self, manifest: Manifest) -> None:
        """Build on this version, in which what was prepared last has a part."""
        if self._pending is None or self._pending[0].commit not in manifest.commits:
            raise InvalidArgument(f"version {manifest.version} has nothing of what was prepared here last")
        self._known = self._pending[1]
        self._known.number, self._known.digest = manifest.version, manifest_digest(manifest.to_bytes())
        self.newest, self._pending = manifest.version, None

    def _settle(self) -> None:
        """If the last commit went through although an error came (the answer was lost), build on it."""
        if self._pending is None:
            return
        try:
            manifest, _ = read_manifest(self.backend, self.series, self._pending[0].newest + 1)
        except KeyError:
            return
        if self._pending[0].commit in manifest.commits:
            self.adopt(manifest)

    def _entry(self, source: Source) -> BufferEntry:
        old = self._known.entries.get(source.name)
        key = old.key if old is not None else secrets.token_hex(8)
        return BufferEntry(source.name, key, source.dtype, tuple(source.shape), source.nbytes, "", source.attributes)

    def _pages(self, entry: BufferEntry) -> _Pages:
        pages = page_count(entry.nbytes, self.page_size)
        old = self._known.pages.get(entry.key)
        return (old or _Pages(empty_table(0), np.empty(0, np.int32))).resized(pages)

    def _due(self, due: NDArray[np.int64] | None, entry: BufferEntry, pages: _Pages) -> NDArray[np.int64]:
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
        pages: list[_Pages],
        kept: tuple[PackRef, ...],
        new: tuple[PackRef, ...],
    ) -> Prepared:
        packs, number = _needed(pages, kept + new)
        for part in pages:
            part.pack = number[part.pack]
        final = [
            BufferEntry(e.name, e.key, e.dtype, e.shape, e.nbytes, table_digest(part.digest).hex(), e.attributes)
            for e, part in zip(entries, pages, strict=True)
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
        by_key = {entry.key: part for entry, part in zip(final, pages, strict=True)}
        self._pending = (prepared, _Known(None, "", {entry.name: entry for entry in final}, by_key, packs))
        return prepared


def _needed(pages: list[_Pages], packs: tuple[PackRef, ...]) -> tuple[tuple[PackRef, ...], NDArray[np.int32]]:
    """The packs that still tell of a page, and the new number of each old one (-1 stays -1, being the last)."""
    used = np.zeros(len(packs) + 1, bool)
    for part in pages:
        used[part.pack] = True
    used[-1] = False
    number = np.where(used, np.cumsum(used) - 1, -1).astype(np.int32)
    return tuple(ref for ref, needed in zip(packs, used, strict=False) if needed), number


def check_newest(backend: Backend, series: str, expected: int) -> None:
    """Raise VersionConflict unless the newest version of the series has this number (0: there is none)."""
    numbers = backend.versions(series)
    newest = numbers[-1] if numbers else 0
    if newest != expected:
        raise VersionConflict(
            f"another writer has made version {newest} of {series!r}; this one knows of {expected or 'none'}",
            hint="series.refresh() compares with the newest version; then commit again",
        )


def check_parent(backend: Backend, series: str, number: int | None, expected: str) -> None:
    """Raise VersionConflict unless the version that a writer builds on (None: nothing) is still the one it knows."""
    if number is None:
        return
    try:
        _, found = read_manifest(backend, series, number)
    except KeyError:
        found = "none"
    if found != expected:
        raise VersionConflict(
            f"version {number} of {series!r}, on which this writer builds, was replaced or pruned",
            hint="series.refresh() compares with the newest version; then commit again",
        )


def _check_age(backend: Backend, parts: Sequence[Prepared]) -> None:
    """Raise VersionConflict if packs may already be taken for left over, where nothing can keep others from that."""
    if not backend.atomic and time.time_ns() - min(part.time_ns for part in parts) > GRACE_NS // 2:
        raise VersionConflict(
            f"the next version of {parts[0].series!r} was prepared more than half a day ago, and may have been pruned",
            hint="let every writer prepare() again",
        )


def create(
    backend: Backend, parts: Sequence[Prepared], *, note: str = "", attributes: dict[str, Any] | None = None
) -> Manifest:
    """Make a version of what one or more writers prepared: the commit. Inside a batch of the backend.

    Raises VersionConflict if the store has moved on, InvalidArgument if the parts do not belong together.
    """
    first = parts[0]
    _check_parts(parts)
    _check_age(backend, parts)
    check_newest(backend, first.series, first.newest)
    check_parent(backend, first.series, first.parent, first.parent_digest)
    inherited = _inherited(backend, parts)
    new = [ref for part in parts for ref in part.packs[len(part.packs) - part.new_packs :]]
    manifest = Manifest(
        series=first.series,
        version=first.newest + 1,
        parent=first.parent,
        parent_digest=first.parent_digest,
        commits=tuple(part.commit for part in parts),
        time_ns=time.time_ns(),
        note=note,
        page_size=first.page_size,
        buffers=tuple(entry for part in parts for entry in part.buffers),
        packs=(*inherited, *new),
        new_packs=len(new),
        written_pages=sum(ref.pages for ref in new),
        written_bytes=sum(ref.size for ref in new),
        attributes=attributes or {},
    )
    missing = backend.missing_packs(ref.name for ref in manifest.packs)
    if missing:
        raise VersionConflict(
            f"{len(missing)} of the packs that the next version of {first.series!r} needs were deleted meanwhile",
            hint="series.refresh() compares with the newest version; then commit again",
        )
    backend.create_manifest(first.series, manifest.version, manifest.to_bytes())
    return manifest


def _inherited(backend: Backend, parts: Sequence[Prepared]) -> list[PackRef]:
    """The older packs of all parts, in the order that their parent has them: of two that tell of a page, the later
    has to come later."""
    packs = {ref.name: ref for part in parts for ref in part.packs[: len(part.packs) - part.new_packs]}
    first = parts[0]
    if len(parts) == 1 or first.parent is None:
        return list(packs.values())
    parent, _ = read_manifest(backend, first.series, first.parent)
    order = {ref.name: number for number, ref in enumerate(parent.packs)}
    return sorted(packs.values(), key=lambda ref: order[ref.name])


def _check_parts(parts: Sequence[Prepared]) -> None:
    first = parts[0]
    for part in parts[1:]:
        one, other = ((p.series, p.parent, p.parent_digest, p.newest, p.page_size) for p in (first, part))
        if one != other:
            raise InvalidArgument(
                f"the parts do not build on the same version: {one[:2]} and {other[:2]}",
                hint="let every writer refresh() and prepare() again",
            )
    names = [entry.name for part in parts for entry in part.buffers]
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InvalidArgument(
            f"two writers bring a buffer {twice!r}", hint="give each writer's buffers names of their own"
        )
