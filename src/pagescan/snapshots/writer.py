"""Copies pages, hashes them, and writes those that really changed as frames into packs.

Hashing and compressing run in threads (both release the interpreter lock), ahead of the backend that takes the
frames. No more than a few MiB are held at a time.
"""

from __future__ import annotations

import contextlib
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from ..errors import PagescanError, VersionConflict
from .ahead import Peekable, mapped, threads
from .codec import Codec, encode
from .digests import differ, digest, empty_table, is_zero, page_digests, table_digest
from .manifest import PackRef
from .packs import FRAME_PAGES, IndexBuilder, header

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import Future, ThreadPoolExecutor

    from numpy.typing import NDArray

    from .base import Backend
    from .digests import Rows, Table
    from .memory import Source

    T = TypeVar("T")

#: Pages that are copied and hashed at a time.
_CHUNK = 256
#: How many times that is hashed, and how many frames are compressed, ahead of the backend.
_CHUNKS_AHEAD, _FRAMES_AHEAD = 4, 8
#: Bytes of pages from which on a pack is full.
PACK_BYTES = 64 << 20


@dataclass(slots=True)
class PageTable:
    """What a version says of a buffer's pages, one element a page.

    Attributes:
        digest: of each page; zeros for a page of zeros.
        pack: which of the version's packs tells of it, -1 for none.
        live: how many pages are not zeros.
    """

    digest: Table
    pack: NDArray[np.int32]
    live: int

    @classmethod
    def of(cls, digest: Table, pack: NDArray[np.int32]) -> PageTable:
        """With ``live`` counted."""
        return cls(digest, pack, int(np.count_nonzero(~is_zero(digest))))

    def resized(self, pages: int, spare: PageTable | None) -> PageTable:
        """A copy, for a buffer of so many pages; in the memory of ``spare``, if that is as long."""
        if spare is not None and len(spare.pack) == len(self.pack) == pages:
            np.copyto(spare.digest, self.digest)
            np.copyto(spare.pack, self.pack)
            spare.live = self.live
            return spare
        kept = min(pages, len(self.pack))
        digest, pack = empty_table(pages), np.full(pages, -1, np.int32)
        digest[:kept], pack[:kept] = self.digest[:kept], self.pack[:kept]
        return PageTable.of(digest, pack)


@dataclass(slots=True)
class DuePages:
    """The pages of one buffer that may have to be written.

    Attributes:
        source: the memory.
        key: of the buffer, in packs.
        due: numbers of the pages, ascending.
        forced: of each page of the buffer, whether it is written even if it has not changed; None: no page is.
        zeros: whether pages that are forced and all zeros have to be told of.
        table: of the version before; updated by writing.
        root: the digest of the buffer, once all pages were looked at; None if no digest changed.
    """

    source: Source
    key: str
    due: NDArray[np.int64]
    forced: NDArray[np.bool_] | None
    zeros: bool
    table: PageTable
    root: Future[bytes] | None = None


@dataclass(frozen=True, slots=True)
class _Frame:
    """Pages that go into one frame; ``digest`` and ``plain`` are None for pages of zeros."""

    work: DuePages
    page: NDArray[np.int64]
    digest: Table | None
    plain: bytes | None

    def encoded(self) -> tuple[Codec, bytes]:
        return (Codec.ZERO, b"") if self.plain is None else encode(self.plain)


class PackWriter:
    """Writes packs. ``first`` is the number that the first of them will have in the manifest."""

    def __init__(self, backend: Backend, page_size: int, first: int):
        self._backend = backend
        self._page_size = page_size
        self._first = first
        self._refs: list[PackRef] = []
        self._begun: list[str] = []

    def write(self, work: list[DuePages], finish: Callable[[tuple[PackRef, ...]], T]) -> T:
        """Write what changed, and call ``finish`` with the new packs within the last batch; returns its answer.

        After an error the packs are deleted, if that is possible and they cannot have been committed.
        """
        finishing = False
        try:
            with threads() as pool:
                frames = Peekable(mapped(_Frame.encoded, self._frames(work, pool), pool, _FRAMES_AHEAD))
                while True:
                    with self._backend.batch():
                        if frames:
                            self._write_pack(frames)
                        if not frames:
                            finishing = True
                            return finish(tuple(self._refs))
        except BaseException as error:
            if not finishing or isinstance(error, VersionConflict):
                self._take_back()
            raise

    def _take_back(self) -> None:
        # The first error says more than one from here; what stays behind harms nothing, and prune() finds it.
        with contextlib.suppress(PagescanError), self._backend.batch():
            self._backend.delete_packs(self._begun)

    def _write_pack(self, frames: Peekable[tuple[_Frame, tuple[Codec, bytes]]]) -> None:
        name = secrets.token_hex(16)
        self._begun.append(name)
        builder = IndexBuilder(self._page_size)
        tail: list[bytes] = []
        size = self._backend.put_pack(name, self._parts(frames, builder, tail))
        self._refs.append(PackRef(name, size, len(tail[0]), digest(tail[0]).hex(), builder.pages))

    def _parts(
        self, frames: Peekable[tuple[_Frame, tuple[Codec, bytes]]], builder: IndexBuilder, tail: list[bytes]
    ) -> Iterator[bytes]:
        number, plain = self._first + len(self._refs), 0
        yield header(self._page_size)
        for frame, (codec, stored) in frames:
            builder.add(frame.work.key, frame.page, frame.digest, codec, len(stored))
            frame.work.table.pack[frame.page] = number
            if stored:
                plain += len(frame.page) * self._page_size
                yield stored
            if plain >= PACK_BYTES:
                break
        tail.append(builder.build().to_bytes())
        yield tail[0]

    def _frames(self, work: list[DuePages], pool: ThreadPoolExecutor) -> Iterator[_Frame]:
        for item in work:
            changed = False
            for (page, rows), new in mapped(_hashed, self._copies(item), pool, _CHUNKS_AHEAD):
                differs = differ(new, item.table.digest[page])
                changed = changed or bool(differs.any())
                yield from _chunk(item, page, rows, new, differs)
            if changed:
                item.root = pool.submit(table_digest, item.table.digest)

    def _copies(self, item: DuePages) -> Iterator[tuple[NDArray[np.int64], Rows]]:
        for at in range(0, len(item.due), _CHUNK):
            page = item.due[at : at + _CHUNK]
            yield page, item.source.read(page, self._page_size)


def _hashed(copy: tuple[NDArray[np.int64], Rows]) -> Table:
    return page_digests(copy[1])


def _chunk(
    item: DuePages, page: NDArray[np.int64], rows: Rows, new: Table, differs: NDArray[np.bool_]
) -> Iterator[_Frame]:
    """The frames of these pages, less those that have not changed; enters their digests in the table."""
    table, zero = item.table, is_zero(new)
    table.live += int(np.count_nonzero(~zero)) - int(np.count_nonzero(~is_zero(table.digest[page])))
    table.digest[page] = new
    wanted, told = differs, page[zero & differs]
    if item.forced is not None:
        forced = item.forced[page]
        table.pack[page[forced & zero]] = -1
        wanted = differs | forced
        told = page[zero & wanted] if item.zeros else told
    if len(told):
        yield _Frame(item, told, None, None)
    kept = np.flatnonzero(~zero & wanted)
    if len(kept) < len(rows):
        rows, page, new = rows[kept], page[kept], new[kept]
    for at in range(0, len(kept), FRAME_PAGES):
        some = slice(at, at + FRAME_PAGES)
        yield _Frame(item, page[some], new[some], rows[some].tobytes())
