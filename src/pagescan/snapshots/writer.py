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
from .digests import differ, digest, is_zero, page_digests
from .manifest import PackRef
from .packs import FRAME_PAGES, IndexBuilder, header

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import ThreadPoolExecutor

    from numpy.typing import NDArray

    from .base import Backend, Piece
    from .digests import Rows, Table
    from .memory import Source
    from .table import TableChanges

    T = TypeVar("T")

#: Pages that are copied and hashed at a time.
_CHUNK = 256
#: How many times that is hashed and compressed ahead of the backend.
_CHUNKS_AHEAD = 4
#: Bytes of pages from which on a pack is full.
PACK_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class _Frame:
    """Pages that go into one frame, and how; ``digest`` is None for pages of zeros."""

    page: NDArray[np.int64]
    digest: Table | None
    codec: Codec
    length: int


@dataclass(frozen=True, slots=True)
class _Looked:
    """What came of looking at some pages of a buffer.

    Attributes:
        work: whose they are.
        page, digest: those that changed, and what they are now.
        gone: pages of zeros that no pack is to tell of any more.
        frames: what is to be written.
        stored: what is stored of the frames, in as few pieces as possible.
    """

    work: DuePages
    page: NDArray[np.int64]
    digest: Table
    gone: NDArray[np.int64]
    frames: list[_Frame]
    stored: list[Piece]


@dataclass(frozen=True, slots=True)
class DuePages:
    """The pages of one buffer that may have to be written.

    Attributes:
        source: the memory.
        key: of the buffer, in packs.
        due: numbers of the pages, ascending.
        forced: of each page of the buffer, whether it is written even if it has not changed; None: no page is.
        zeros: whether pages that are forced and all zeros have to be told of.
        changes: what writing them changes in the table of the version before.
    """

    source: Source
    key: str
    due: NDArray[np.int64]
    forced: NDArray[np.bool_] | None
    zeros: bool
    changes: TableChanges

    def copies(self, page_size: int) -> Iterator[tuple[NDArray[np.int64], Rows]]:
        """The pages as they are now, in pieces."""
        for at in range(0, len(self.due), _CHUNK):
            page = self.due[at : at + _CHUNK]
            yield page, self.source.read(page, page_size)

    def look(self, copy: tuple[NDArray[np.int64], Rows]) -> _Looked:
        """Hash these pages, and encode those that have changed or are forced. For many threads at a time."""
        page, rows = copy
        new = page_digests(rows)
        differs, zero = differ(new, self.changes.before.digest[page]), is_zero(new)
        wanted, told, gone = differs, zero & differs, np.zeros(len(page), bool)
        if self.forced is not None:
            forced = self.forced[page]
            wanted = differs | forced
            told = zero & wanted if self.zeros else told
            gone = zero & forced & ~told
        frames = [_Frame(page[told], None, Codec.ZERO, 0)] if told.any() else []
        kept = np.flatnonzero(~zero & wanted)
        some = (page, new, rows) if len(kept) == len(page) else (page[kept], new[kept], rows[kept])
        encoded, stored = _encoded(*some)
        return _Looked(self, page[differs], new[differs], page[gone], frames + encoded, stored)


def _encoded(page: NDArray[np.int64], digest: Table, rows: Rows) -> tuple[list[_Frame], list[Piece]]:
    """Pages as frames, and what is stored of these: of all that lie one after the other uncompressed, one piece."""
    frames: list[_Frame] = []
    pieces: list[Piece] = []
    raw = 0  # where the pages begin that are still to be put into a piece
    for at in range(0, len(page), FRAME_PAGES):
        some = slice(at, at + FRAME_PAGES)
        codec, stored = encode(_flat(rows[some]))
        frames.append(_Frame(page[some], digest[some], codec, len(stored)))
        if codec != Codec.RAW:
            pieces += [_flat(rows[raw:at]), stored]
            raw = at + FRAME_PAGES
    pieces.append(_flat(rows[raw:]))
    return frames, [piece for piece in pieces if len(piece)]


def _flat(rows: Rows) -> memoryview:
    return rows.reshape(-1).data


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
                looked = Peekable(self._looked(work, pool))
                while True:
                    with self._backend.batch():
                        if looked:
                            self._write_pack(looked)
                        if not looked:
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

    def _write_pack(self, looked: Peekable[_Looked]) -> None:
        name = secrets.token_hex(16)
        self._begun.append(name)
        builder = IndexBuilder(self._page_size)
        tail: list[bytes] = []
        size = self._backend.put_pack(name, self._parts(looked, builder, tail))
        self._refs.append(PackRef(name, size, len(tail[0]), digest(tail[0]).hex(), builder.pages))

    def _parts(self, looked: Peekable[_Looked], builder: IndexBuilder, tail: list[bytes]) -> Iterator[Piece]:
        number = self._first + len(self._refs)
        yield header(self._page_size)
        for each in looked:
            for frame in each.frames:
                builder.add(each.work.key, frame.page, frame.digest, frame.codec, frame.length)
                each.work.changes.moved(frame.page, number)
            yield from each.stored
            if builder.stored_pages * self._page_size >= PACK_BYTES:
                break
        tail.append(builder.build().to_bytes())
        yield tail[0]

    def _looked(self, work: list[DuePages], pool: ThreadPoolExecutor) -> Iterator[_Looked]:
        """What there is to write. (Of what there is not, nothing comes out.)"""
        for item in work:
            for _, each in mapped(item.look, item.copies(self._page_size), pool, _CHUNKS_AHEAD):
                item.changes.rehashed(each.page, each.digest)
                item.changes.moved(each.gone, -1)
                if each.frames:
                    yield each
