"""A buffer of this process, or of the model, as a store needs it: named, and read and written by pages of the store.

The pages of a store are counted from the buffer's first byte, wherever that lies: a version says nothing of addresses.
So a page of memory that was written to touches one page of the store if the buffer begins at a page boundary
(``pagescan.zeros`` does), and else two.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ..abi import LocatedBuffer
from ..errors import NotABuffer
from ..location import locate

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..ranges import Regions
    from .digests import Rows


class Source(Protocol):
    """Named memory that a version is made of.

    Attributes:
        name: of the buffer in the version.
        dtype: as in the ``.npy`` format.
        shape: elements along each dimension; C order.
        nbytes: length in bytes.
        attributes: values of JSON to keep with the buffer.
    """

    name: str
    dtype: Any
    shape: tuple[int, ...]
    nbytes: int
    attributes: dict[str, Any]

    def read(self, pages: NDArray[np.int64], page_size: int) -> Rows:
        """A copy of these pages, one a row; what lies beyond the end is zeros."""


class BufferMemory:
    """A buffer as a :class:`Source` that can also be written to.

    Raises NotABuffer for objects without memory, or whose elements are references to memory elsewhere.
    """

    def __init__(self, name: str, buffer: Any):
        self.name = name
        self.address, self.nbytes, self.itemsize = locate(buffer)
        self.attributes: dict[str, Any] = {}
        array = _array(buffer)
        if array is not None and array.dtype.hasobject:
            raise NotABuffer(
                f"the elements of {name!r} (dtype {array.dtype}) are references to objects elsewhere",
                hint="keep numbers in arrays of numbers",
            )
        self._bytes = _ModelBytes(buffer) if isinstance(buffer, LocatedBuffer) else _flat(buffer)
        self.dtype: Any = "|u1"
        self.shape: tuple[int, ...] = (self.nbytes,)
        if array is not None:
            self.dtype, self.shape = np.lib.format.dtype_to_descr(array.dtype), array.shape

    @property
    def writable(self) -> bool:
        """Whether it can be written to."""
        return isinstance(self._bytes, _ModelBytes) or self._bytes.flags.writeable

    def read(self, pages: NDArray[np.int64], page_size: int) -> Rows:
        rows = np.empty((len(pages), page_size), np.uint8)
        whole = self.nbytes // page_size
        inside = int(np.searchsorted(pages, whole))
        rows[inside:] = 0
        if isinstance(self._bytes, _ModelBytes):
            for row, page in enumerate(pages.tolist()):
                part = self._bytes.read(page * page_size, min(page_size, self.nbytes - page * page_size))
                rows[row, : len(part)] = part
            return rows
        np.take(
            self._bytes[: whole * page_size].reshape(whole, page_size), pages[:inside], 0, rows[:inside], mode="clip"
        )
        if inside < len(pages):
            rest = self._bytes[whole * page_size :]
            rows[inside, : len(rest)] = rest
        return rows

    def write(self, pages: NDArray[np.int64], rows: Rows) -> None:
        """Put these pages (ascending) back, in place."""
        page_size = rows.shape[1]
        # The pages that are whole at once, and the last, which may be cut, by itself.
        whole, inside = self.nbytes // page_size, 0
        if isinstance(self._bytes, np.ndarray):
            inside = int(np.searchsorted(pages, whole))
            self._bytes[: whole * page_size].reshape(whole, page_size)[pages[:inside]] = rows[:inside]
        for page, row in zip(pages[inside:].tolist(), rows[inside:], strict=True):
            at = page * page_size
            self._bytes[at : min(at + page_size, self.nbytes)] = row[: self.nbytes - at]

    def pages_of(self, written: Regions, page_size: int) -> NDArray[np.int64]:
        """The numbers of the store's pages that these regions of memory touch, ascending."""
        bounds = written.bounds_in(self.address, self.nbytes)
        return expand(bounds[:, 0] // page_size, -(-bounds[:, 1] // page_size))


def expand(starts: NDArray[np.int64], ends: NDArray[np.int64]) -> NDArray[np.int64]:
    """All numbers in ascending ranges [start, end), each once; a range may begin with the last number of another."""
    starts = starts.copy()
    starts[1:] = np.maximum(starts[1:], ends[:-1])
    counts = np.maximum(ends - starts, 0)
    return np.repeat(starts - (np.cumsum(counts) - counts), counts) + np.arange(int(counts.sum()))


class _ModelBytes:
    """The bytes of a buffer of the model."""

    def __init__(self, buffer: Any):
        self._buffer = buffer

    def read(self, offset: int, length: int) -> NDArray[np.uint8]:
        return np.frombuffer(self._buffer[offset : offset + length], np.uint8)

    def __setitem__(self, where: slice, row: NDArray[np.uint8]) -> None:
        self._buffer[where] = row.tobytes()


def _flat(buffer: Any) -> NDArray[np.uint8]:
    """The buffer's bytes as one array, uncopied."""
    array = _array(buffer)
    if array is None:
        plain = getattr(buffer, "buf", buffer)
        return np.frombuffer(plain, np.uint8) if memoryview(plain).nbytes else np.empty(0, np.uint8)
    # A structured or sub-byte view first: reshape(-1) of a contiguous array is never a copy.
    return array.reshape(-1).view(np.uint8) if array.nbytes else np.empty(0, np.uint8)


def _array(buffer: Any) -> NDArray[Any] | None:
    """The numpy array that it is, or shares its memory with; None for plain bytes."""
    if hasattr(buffer, "data_ptr"):
        try:
            return np.asarray(buffer.detach().numpy())
        except TypeError as error:
            raise NotABuffer(
                f"numpy has no dtype for a tensor of {buffer.dtype}",
                hint="give tensor.view(torch.uint8) or .view(torch.int16), which share its memory",
            ) from error
    if isinstance(buffer, np.ndarray) or hasattr(buffer, "__array_interface__"):
        return np.asarray(buffer)
    return None
