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

    from .base import Backend
    from .digests import Rows, Table
    from .memory import Source

    T = TypeVar("T")

#: Pages that are copied at a time.
_CHUNK = 1024
#: Bytes of pages from which on a pack is full.
PACK_BYTES = 64 << 20


@dataclass(slots=True)
class DuePages:
    """The pages of one buffer that may have to be written.

    Attributes:
        source: the memory.
        key: of the buffer, in packs.
        due: numbers of the pages, ascending.
        forced: of each page of the buffer, whether it is written even if it has not changed.
        zeros: whether pages that are forced and all zeros have to be told of.
        digest: of each page in the version before; updated by writing.
        pack: of each page which pack tells of it, -1 for none; updated by writing.
    """

    source: Source
    key: str
    due: NDArray[np.int64]
    forced: NDArray[np.bool_]
    zeros: bool
    digest: Table
    pack: NDArray[np.int32]


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
                frames = Peekable(mapped(_Frame.encoded, self._frames(work, pool), pool))
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
            frame.work.pack[frame.page] = number
            if stored:
                plain += len(frame.page) * self._page_size
                yield stored
            if plain >= PACK_BYTES:
                break
        tail.append(builder.build().to_bytes())
        yield tail[0]

    def _frames(self, work: list[DuePages], pool: ThreadPoolExecutor) -> Iterator[_Frame]:
        for item in work:
            for at in range(0, len(item.due), _CHUNK):
                yield from self._chunk(item, item.due[at : at + _CHUNK], pool)

    def _chunk(self, item: DuePages, page: NDArray[np.int64], pool: ThreadPoolExecutor) -> Iterator[_Frame]:
        rows = item.source.read(page, self._page_size)
        new = _digests(rows, pool)
        zero, forced = is_zero(new), item.forced[page]
        changed = differ(new, item.digest[page])
        item.digest[page] = new
        item.pack[page[forced & zero]] = -1
        told = page[zero & (changed | forced)] if item.zeros else page[zero & changed]
        if len(told):
            yield _Frame(item, told, None, None)
        kept = np.flatnonzero(~zero & (changed | forced))
        for at in range(0, len(kept), FRAME_PAGES):
            some = kept[at : at + FRAME_PAGES]
            yield _Frame(item, page[some], new[some], rows[some].tobytes())


def _digests(rows: Rows, pool: ThreadPoolExecutor) -> Table:
    if len(rows) <= FRAME_PAGES:
        return page_digests(rows)
    step = -(-len(rows) // 4)
    return np.concatenate(list(pool.map(page_digests, (rows[at : at + step] for at in range(0, len(rows), step)))))
