"""Physical memory: page frames with reference counts, and files whose pages are frames.

Frames are numbers. Their contents lie in chunks of 1024 frames that exist only once a byte was written to one of them,
so a frame that was merely touched costs four bytes and no memory of its own.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Ids = NDArray[np.int32]

_CHUNK = 1024
#: No frame stands here.
NO_FRAME = -1


class PhysicalMemory:
    """All page frames of a machine. A frame is freed when its last reference is put."""

    def __init__(self, page_size: int):
        self.page_size = page_size
        self._references = np.zeros(_CHUNK, dtype=np.int32)
        self._has_content = np.zeros(_CHUNK, dtype=np.bool_)
        self._folios = np.zeros(_CHUNK, dtype=np.int32)
        self._lazy = np.zeros(_CHUNK, dtype=np.bool_)
        self._any_lazy = False
        self._folio_numbers = itertools.count(1)
        self._chunks: dict[int, NDArray[np.uint8]] = {}
        self._free: list[Ids] = []
        self._next = 0

    def allocate(self, count: int) -> Ids:
        """New frames full of zeros, each with one reference."""
        ids = self._recycled(count)
        missing = count - len(ids)
        if missing:
            fresh = np.arange(self._next, self._next + missing, dtype=np.int32)
            self._next += missing
            self._grow()
            ids = np.concatenate([ids, fresh]) if len(ids) else fresh
        self._references[ids] = 1
        for frame in ids[self._has_content[ids]]:
            self._bytes(int(frame))[:] = 0
        self._has_content[ids] = False
        self._folios[ids] = 0
        self._lazy[ids] = False
        return ids

    def allocate_huge(self, count: int) -> Ids:
        """New frames that belong together: one large folio, until it is split."""
        ids = self.allocate(count)
        self._folios[ids] = next(self._folio_numbers)
        return ids

    def folios(self, ids: Ids) -> Ids:
        """The number of the large folio each frame belongs to, 0 for none. NO_FRAME belongs to none."""
        return np.where(ids >= 0, self._folios[np.maximum(ids, 0)], 0).astype(np.int32)

    def split_folio(self, folio: int) -> None:
        """Its frames belong together no longer."""
        if folio:
            self._folios[self._folios == folio] = 0

    def folio_is_shared(self, folio: int) -> bool:
        """Whether any of its frames is mapped twice."""
        return bool((self._references[self._folios == folio] > 1).any())

    def free_lazily(self, ids: Ids) -> None:
        """MADV_FREE: these may be dropped instead of swapped out, as long as nobody writes to them."""
        self._lazy[ids] = True
        self._any_lazy = self._any_lazy or bool(len(ids))

    def keep(self, ids: Ids) -> None:
        """They are written to: what MADV_FREE said is void, for a large folio as a whole."""
        if not self._any_lazy:
            return
        for folio in np.unique(self.folios(ids)).tolist():
            if folio:
                self._lazy[self._folios == folio] = False
        self._lazy[ids] = False

    def are_lazy(self, ids: Ids) -> NDArray[np.bool_]:
        """Which frames may be dropped. NO_FRAME may not."""
        return (ids >= 0) & self._lazy[np.maximum(ids, 0)]

    def are_zero(self, ids: Ids) -> NDArray[np.bool_]:
        """Which frames hold nothing but zeros."""
        return np.array([not self._has_content[i] or not self.content(int(i)).any() for i in ids], dtype=np.bool_)

    def _recycled(self, count: int) -> Ids:
        parts: list[Ids] = []
        while count and self._free:
            part = self._free.pop()
            if len(part) > count:
                self._free.append(part[count:])
                part = part[:count]
            parts.append(part)
            count -= len(part)
        return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int32)

    def _grow(self) -> None:
        size = len(self._references)
        if self._next <= size:
            return
        more = max(size, self._next - size)
        self._references = np.concatenate([self._references, np.zeros(more, dtype=np.int32)])
        self._has_content = np.concatenate([self._has_content, np.zeros(more, dtype=np.bool_)])
        self._folios = np.concatenate([self._folios, np.zeros(more, dtype=np.int32)])
        self._lazy = np.concatenate([self._lazy, np.zeros(more, dtype=np.bool_)])

    def get(self, ids: Ids) -> None:
        """One reference more for each (no frame twice)."""
        self._references[ids] += 1

    def put(self, ids: Ids) -> None:
        """One reference fewer for each (no frame twice); those without any are free."""
        self._references[ids] -= 1
        gone = ids[self._references[ids] == 0]
        if len(gone):
            self._free.append(gone.copy())

    def references(self, ids: Ids) -> NDArray[np.int32]:
        return self._references[ids]

    @property
    def used(self) -> int:
        """How many frames are in use."""
        return int((self._references[: self._next] > 0).sum())

    def copies(self, ids: Ids) -> Ids:
        """New frames with the contents of these."""
        new = self.allocate(len(ids))
        for position in np.flatnonzero(self._has_content[ids]):
            self.write(int(new[position]), 0, self.content(int(ids[position])))
        return new

    def _bytes(self, frame: int) -> NDArray[np.uint8]:
        number, row = divmod(frame, _CHUNK)
        chunk = self._chunks.get(number)
        if chunk is None:
            # calloc: pages of this chunk that stay untouched cost nothing.
            chunk = self._chunks[number] = np.zeros((_CHUNK, self.page_size), dtype=np.uint8)
        frame_bytes: NDArray[np.uint8] = chunk[row]
        return frame_bytes

    def content(self, frame: int) -> NDArray[np.uint8]:
        """The bytes of a frame (read only by convention)."""
        if frame < 0 or not self._has_content[frame]:
            return np.zeros(self.page_size, dtype=np.uint8)
        return self._bytes(frame)

    def write(self, frame: int, offset: int, data: NDArray[np.uint8]) -> None:
        self._bytes(frame)[offset : offset + len(data)] = data
        self._has_content[frame] = True

    def gather(self, ids: Ids) -> NDArray[np.uint8]:
        """The contents of many frames, (n, page_size); NO_FRAME reads as zeros."""
        out = np.zeros((len(ids), self.page_size), dtype=np.uint8)
        filled = np.flatnonzero((ids >= 0) & self._has_content[np.maximum(ids, 0)])
        numbers = ids[filled] // _CHUNK
        for number in np.unique(numbers):
            here = filled[numbers == number]
            out[here] = self._chunks[int(number)][ids[here] % _CHUNK]
        return out


class File:
    """The pages of a file, or of shared memory, that are in memory: what every mapping of it shares.

    Attributes:
        name: path, as ``/proc/PID/maps`` shows it.
        inode: number, never 0.
        kind: ``"file"`` (a file system), ``"shmem"`` (memfd, tmpfs, MAP_SHARED | MAP_ANONYMOUS) or ``"hugetlb"``.
        writable: whether it was opened for writing.
        frames: one frame number a page, NO_FRAME where there is nothing; its length is the file's in pages.
        swapped: which pages have a frame here and are yet not in memory: swapped out, or written back and dropped.
    """

    _inodes = itertools.count(1001)

    def __init__(self, memory: PhysicalMemory, length: int, *, name: str, kind: str, writable: bool = True):
        self.memory = memory
        self.name = name
        self.inode = next(File._inodes)
        self.kind = kind
        self.writable = writable
        self.frames = np.full(-(-length // memory.page_size), NO_FRAME, dtype=np.int32)
        self.swapped = np.zeros(len(self.frames), dtype=np.bool_)

    @property
    def length(self) -> int:
        """Bytes, in whole pages."""
        return len(self.frames) * self.memory.page_size

    def populate(self, pages: NDArray[np.int64]) -> Ids:
        """The frames of these pages, brought into memory where they are not."""
        missing = np.unique(pages[self.frames[pages] < 0])
        if len(missing):
            self.frames[missing] = self.memory.allocate(len(missing))
        self.swapped[pages] = False
        return self.frames[pages]

    def write(self, offset: int, data: bytes) -> None:
        """``pwrite(2)``: changes what every mapping shows, and no page table."""
        size = self.memory.page_size
        content = np.frombuffer(data, dtype=np.uint8)
        position = 0
        while position < len(content):
            page, within = divmod(offset + position, size)
            count = min(size - within, len(content) - position)
            frame = int(self.populate(np.array([page], dtype=np.int64))[0])
            self.memory.write(frame, within, content[position : position + count])
            position += count

    def read(self, offset: int, length: int) -> bytes:
        """``pread(2)``."""
        size = self.memory.page_size
        first, last = offset // size, -(-(offset + length) // size)
        flat = self.memory.gather(self.frames[first:last]).reshape(-1)
        return flat[offset - first * size :][:length].tobytes()

    def clear(self, first: int, last: int) -> None:
        """Fill what is in memory of pages [first, last) with zeros."""
        for frame in self.frames[first : max(first, last)].tolist():
            if frame >= 0:
                self.memory.write(frame, 0, np.zeros(self.memory.page_size, dtype=np.uint8))

    def drop(self, first: int, last: int) -> None:
        """Forget pages [first, last): they read as zeros afterwards. Page tables are the caller's business."""
        held = self.frames[first:last]
        self.memory.put(held[held >= 0])
        held[:] = NO_FRAME
        self.swapped[first:last] = False
