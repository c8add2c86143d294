"""Reads pages of a version, each checked against its digest before anybody sees it."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..errors import DataCorrupt
from .ahead import mapped, threads
from .codec import decode
from .contents import blamed
from .digests import differ, is_zero, page_digests

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from .base import Backend
    from .contents import Contents
    from .digests import Rows
    from .manifest import BufferEntry

#: The most bytes read in one piece, where frames lie one after the other.
_READ = 8 << 20


@dataclass(frozen=True, slots=True)
class _Frame:
    """A frame that is needed, and which pages of it.

    Attributes:
        pack, offset, length: where it is stored.
        codec, pages: how, and how many pages it holds.
        page: the numbers of the pages that are wanted, ascending.
        slot: which of its pages they are.
    """

    pack: int
    offset: int
    length: int
    codec: int
    pages: int
    page: NDArray[np.int64]
    slot: NDArray[np.uint8]


def read_pages(
    backend: Backend, contents: Contents, entry: BufferEntry, wanted: NDArray[np.int64]
) -> Iterator[tuple[NDArray[np.int64], Rows]]:
    """The wanted pages (ascending) of a buffer, in pieces: page numbers, and the pages as rows.

    Pages of zeros are left out. Raises DataCorrupt, which names version and buffer.
    """
    manifest, columns = contents.manifest, contents.pages[entry.key]
    used = wanted[~is_zero(columns.digest[wanted])]

    def decoded(task: tuple[_Frame, bytes]) -> Rows:
        frame, data = task
        plain = decode(frame.codec, data, frame.pages * manifest.page_size)
        rows = np.frombuffer(plain, np.uint8).reshape(frame.pages, -1)[frame.slot]
        wrong = np.flatnonzero(differ(page_digests(rows), columns.digest[frame.page]))
        if len(wrong):
            raise DataCorrupt(f"page {frame.page[wrong[0]]} does not match its digest")
        return rows

    with blamed(manifest.series, manifest.version, entry.name), threads() as pool:
        stored = _stored(backend, contents, _frames(contents, entry, used))
        for (frame, _), rows in mapped(decoded, stored, pool):
            yield frame.page, rows


def _frames(contents: Contents, entry: BufferEntry, used: NDArray[np.int64]) -> Iterator[_Frame]:
    """The frames that hold these pages, in the order of the packs."""
    columns = contents.pages[entry.key]
    pack, number = columns.pack[used].astype(np.int64), columns.frame[used].astype(np.int64)
    place = pack << 32 | number
    order = np.argsort(place, kind="stable")
    starts = np.flatnonzero(np.diff(place[order], prepend=-1))
    for group in np.split(order, starts[1:]) if len(order) else ():
        first = group[0]
        info = contents.indexes[int(pack[first])].frames[int(number[first])]
        page = used[group]
        yield _Frame(
            int(pack[first]),
            int(info["offset"]),
            int(info["length"]),
            int(info["codec"]),
            int(info["pages"]),
            page,
            columns.slot[page],
        )


def _pieces(frames: Iterator[_Frame], gap: int) -> Iterator[list[_Frame]]:
    """Frames that lie one after the other, with at most ``gap`` bytes in between, to be read at once."""
    piece: list[_Frame] = []
    for frame in frames:
        if piece:
            last = piece[-1]
            joins = frame.pack == last.pack and 0 <= frame.offset - last.offset - last.length <= gap
            if not joins or frame.offset + frame.length - piece[0].offset > _READ:
                yield piece
                piece = []
        piece.append(frame)
    if piece:
        yield piece


def _stored(backend: Backend, contents: Contents, frames: Iterator[_Frame]) -> Iterator[tuple[_Frame, bytes]]:
    """Each frame with its stored bytes."""
    pieces = _pieces(frames, backend.gap)
    while some := list(itertools.islice(pieces, backend.at_once)):
        names = [contents.manifest.packs[piece[0].pack].name for piece in some]
        spans = [(piece[0].offset, piece[-1].offset + piece[-1].length) for piece in some]
        stored = backend.read_packs([(name, at, end - at) for name, (at, end) in zip(names, spans, strict=True)])
        for piece, name, (at, end), data in zip(some, names, spans, stored, strict=True):
            if data is None:
                raise DataCorrupt(f"its pack {name} is missing")
            if len(data) != end - at:
                raise DataCorrupt(f"its pack {name} is cut off")
            for frame in piece:
                yield frame, data[frame.offset - at : frame.offset - at + frame.length]


def all_pages(contents: Contents, entry: BufferEntry) -> NDArray[np.int64]:
    """The numbers of all pages of a buffer."""
    return np.arange(len(contents.pages[entry.key].pack))
