"""Packs: frames of pages, and the index that says which pages they are. Defined by ``docs/formats/store.md``."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import DataCorrupt
from .base import FORMAT
from .codec import Codec
from .digests import DTYPE, SIZE, empty_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from .digests import Table

#: The most pages in a frame that holds any.
FRAME_PAGES = 64

_HEADER = struct.Struct("<4sHHI4x")
_INDEX = struct.Struct("<4sIIIQ")
_MAGIC, _INDEX_MAGIC = b"PgSP", b"PgSI"

FRAME_DTYPE = np.dtype(
    [
        ("buffer", "<u4"),
        ("codec", "<u4"),
        ("pages", "<u4"),
        ("runs", "<u4"),
        ("offset", "<u8"),
        ("length", "<u4"),
        ("reserved", "<u4"),
    ]
)
RUN_DTYPE = np.dtype([("page", "<u8"), ("count", "<u4")])
HEADER_SIZE = _HEADER.size


def header(page_size: int) -> bytes:
    """The first bytes of a pack."""
    return _HEADER.pack(_MAGIC, FORMAT, 0, page_size)


@dataclass(frozen=True, slots=True)
class Records:
    """Every page that a pack tells of, as columns of equal length.

    Attributes:
        buffer: number of its buffer, in ``PackIndex.keys``.
        page: its number in the buffer.
        frame: number of its frame.
        slot: which page of that frame it is.
        digest: its digest; zeros for a page of zeros.
    """

    buffer: NDArray[np.int64]
    page: NDArray[np.int64]
    frame: NDArray[np.int64]
    slot: NDArray[np.int64]
    digest: Table


@dataclass(frozen=True, slots=True)
class PackIndex:
    """What is in a pack.

    Attributes:
        page_size: bytes of a page.
        keys: of the buffers whose pages it holds.
        frames: array of :data:`FRAME_DTYPE`.
        runs: array of :data:`RUN_DTYPE`, those of each frame in order.
        digests: of the pages of every frame that is not ZERO, in order.
    """

    page_size: int
    keys: tuple[str, ...]
    frames: NDArray[np.void]
    runs: NDArray[np.void]
    digests: Table

    def to_bytes(self) -> bytes:
        """The index as it stands at the end of the pack."""
        about = {"page_size": self.page_size, "buffers": self.keys}
        keys = json.dumps(about, ensure_ascii=False, separators=(",", ":")).encode()
        head = _INDEX.pack(_INDEX_MAGIC, len(keys), len(self.frames), len(self.runs), len(self.digests))
        return b"".join([head, keys, self.frames.tobytes(), self.runs.tobytes(), self.digests.tobytes()])

    @classmethod
    def from_bytes(cls, data: bytes) -> PackIndex:
        """Raises DataCorrupt if it makes no sense; that its digest is right was checked before."""
        try:
            return cls._parsed(data)
        except (ValueError, TypeError, KeyError, IndexError, struct.error) as error:
            raise DataCorrupt(f"the index of a pack makes no sense: {error}") from error

    @classmethod
    def _parsed(cls, data: bytes) -> PackIndex:
        magic, key_bytes, frames, runs, digests = _INDEX.unpack_from(data)
        wanted = _INDEX.size + key_bytes + frames * FRAME_DTYPE.itemsize + runs * RUN_DTYPE.itemsize + digests * SIZE
        if magic != _INDEX_MAGIC or len(data) != wanted:
            raise ValueError(f"{len(data)} bytes that begin with {magic!r}")
        at = _INDEX.size
        about = json.loads(data[at : at + key_bytes])
        at += key_bytes
        columns: list[NDArray[Any]] = []
        for dtype, count in ((FRAME_DTYPE, frames), (RUN_DTYPE, runs), (DTYPE, digests)):
            columns.append(np.frombuffer(data, dtype, count, at))
            at += count * dtype.itemsize
        index = cls(about["page_size"], tuple(about["buffers"]), *columns)
        index._check()
        return index

    def _check(self) -> None:
        frames, counts = self.frames, self.runs["count"].astype(np.int64)
        stored = frames["codec"] != Codec.ZERO
        starts = np.cumsum(frames["runs"], dtype=np.int64) - frames["runs"]
        fits = (
            int(frames["runs"].sum()) == len(self.runs)
            and int(frames["pages"][stored].sum()) == len(self.digests)
            and bool((frames["runs"] > 0).all())
            and bool((frames["pages"][stored] <= FRAME_PAGES).all())
            and bool((frames["buffer"] < len(self.keys)).all())
            and (not len(frames) or np.array_equal(np.add.reduceat(counts, starts), frames["pages"]))
        )
        if not fits:
            raise ValueError("its columns do not fit each other")

    def records(self) -> Records:
        """Every page, in the order of the frames."""
        counts = self.runs["count"].astype(np.int64)
        total = int(counts.sum())
        place = np.arange(total)
        page = np.repeat(self.runs["page"].astype(np.int64) - (np.cumsum(counts) - counts), counts) + place
        pages = self.frames["pages"].astype(np.int64)
        frame = np.repeat(np.arange(len(self.frames)), pages)
        slot = place - np.repeat(np.cumsum(pages) - pages, pages)
        table = empty_table(total)
        table[self.frames["codec"][frame] != Codec.ZERO] = self.digests
        return Records(self.frames["buffer"].astype(np.int64)[frame], page, frame, slot, table)


class IndexBuilder:
    """Collects the index of a pack while its frames are written.

    Attributes:
        pages: it tells of so far.
        stored_pages: of these, those that are not in a frame of zeros.
        end: where the next frame is to stand, in bytes.
    """

    def __init__(self, page_size: int) -> None:
        self.page_size = page_size
        self._keys: dict[str, int] = {}
        self._frames: list[tuple[int, ...]] = []
        self._pages: list[NDArray[np.int64]] = []
        self._digests: list[Table] = []
        self.pages = self.stored_pages = 0
        self.end = HEADER_SIZE

    def add(self, key: str, pages: NDArray[np.int64], digests: Table | None, codec: Codec, length: int) -> None:
        """A frame of these pages of a buffer, ascending, of which ``length`` bytes were stored at :attr:`end`."""
        number = self._keys.setdefault(key, len(self._keys))
        self._frames.append((number, codec, len(pages), 0, self.end, length, 0))
        self._pages.append(pages)
        if digests is not None:
            self._digests.append(digests)
            self.stored_pages += len(pages)
        self.pages += len(pages)
        self.end += length

    def build(self) -> PackIndex:
        """The index of all frames so far."""
        frames = np.array(self._frames, FRAME_DTYPE)
        runs, counts = runs_of(_joined(self._pages, np.dtype(np.int64)), frames["pages"].astype(np.int64))
        frames["runs"] = counts
        return PackIndex(self.page_size, tuple(self._keys), frames, runs, _joined(self._digests, DTYPE))


def runs_of(pages: NDArray[np.int64], lengths: NDArray[np.int64]) -> tuple[NDArray[np.void], NDArray[np.int64]]:
    """Page numbers as runs of neighbours, ascending within groups of these lengths; and how many runs each has."""
    ends = np.cumsum(lengths)
    begins = np.ones(len(pages), bool)
    begins[1:] = pages[1:] != pages[:-1] + 1
    begins[ends[:-1]] = True
    first = np.flatnonzero(begins)
    runs = np.empty(len(first), RUN_DTYPE)
    runs["page"], runs["count"] = pages[first], np.diff(np.append(first, len(pages)))
    return runs, np.diff(np.searchsorted(first, np.append(0, ends)))


def _joined(parts: Sequence[NDArray[Any]], dtype: np.dtype[Any]) -> NDArray[Any]:
    return np.concatenate(parts) if parts else np.empty(0, dtype)
