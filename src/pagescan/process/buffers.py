"""A Python buffer as memory: where it lies, and holding on to it so that it can neither move nor be freed."""

from __future__ import annotations

import mmap
import weakref
from typing import TYPE_CHECKING, Any

import numpy as np

from ..abi import LocatedBuffer
from ..errors import CoverageLost, InvalidArgument
from ..ranges import Location, locate
from .allocate import OwnPages
from .current import current_space

if TYPE_CHECKING:
    from ..abi import AddressSpace


class HeldBuffer:
    """A buffer that is looked at for longer than one call.

    A buffer export is held where it pins the memory: ``bytearray.extend``, ``mmap.close`` and ``SharedMemory.close``
    then raise BufferError, where freed memory would scan as empty without an error. A numpy array that owns its
    memory can be resized in spite of exports, with ``refcheck=False`` also in spite of references, but not while there
    is a weak reference to it. A tensor can be resized whatever one holds, and is asked for its address again
    (:meth:`check_place`).

    Attributes:
        space: the address space it lies in.
        address, nbytes, itemsize: bytes.
        movable: whether the object can move its memory although it is held.
        exclusive: whether nothing else lies in its pages: it is all of an ``mmap``, or was made by pagescan.empty.
    """

    __slots__ = (
        "_export",
        "_owner",
        "_owner_location",
        "_pin",
        "address",
        "exclusive",
        "itemsize",
        "movable",
        "nbytes",
        "space",
    )

    def __init__(self, buffer: Any):
        self.address, self.nbytes, self.itemsize = locate(buffer)
        # Asked last, as a protocol is asked for each of its attributes.
        located = not isinstance(buffer, np.ndarray | bytearray | memoryview) and isinstance(buffer, LocatedBuffer)
        self.space: AddressSpace = buffer.space if located else current_space()
        self._owner = _owner(buffer)
        self.movable = hasattr(self._owner, "data_ptr")
        self._owner_location: Location = locate(self._owner) if self.movable else Location(0, 0, 1)
        self._pin = weakref.ref(self._owner) if isinstance(self._owner, np.ndarray) else None
        self.exclusive = _has_pages_of_its_own(self._owner, self.nbytes)
        unexported = self.movable or self._pin is not None or located
        self._export = None if unexported else _export(self._owner)

    def page_range(self) -> tuple[int, int]:
        """The pages that hold the buffer: [start, end), rounded outward; equal if the buffer is empty."""
        size = self.space.page_size
        start = self.address // size * size
        return start, (-(-(self.address + self.nbytes) // size) * size if self.nbytes else start)

    def check_place(self) -> None:
        """Raise CoverageLost if the memory is now elsewhere (a tensor's ``resize_``)."""
        if self.movable and locate(self._owner) != self._owner_location:
            raise CoverageLost(
                f"the tracked object's memory was at {self.address:#x} and is now elsewhere (it was resized)",
                start=self.address,
                end=self.address + self.nbytes,
                hint="close this tracker and track the object again",
            )

    def release(self) -> None:
        """Let go of the export, and of what else keeps the memory where it is."""
        self._pin = None
        if self._export is not None:
            self._export.release()
            self._export = None


def require_writable(buffer: Any) -> None:
    """Refuse a buffer into which no contents can be put back: one that is read-only, or holds references.

    Raises InvalidArgument, which says how to mend it; and what :class:`HeldBuffer` raises.
    """
    held, kind = HeldBuffer(buffer), type(buffer).__name__
    try:
        mapped = [m for m in held.space.mappings() if m.start < held.address + held.nbytes and held.address < m.end]
    finally:
        held.release()
    if isinstance(buffer, np.ndarray) and buffer.dtype.hasobject:
        raise InvalidArgument(
            f"an array of dtype {buffer.dtype} holds references to Python objects, whose counts would then be wrong",
            hint="keep the values in an array of numbers",
        )
    if _is_readonly(buffer):
        is_view = isinstance(buffer, np.ndarray) and buffer.base is not None
        base = "mark the array it is a view of, or " if is_view else ""
        raise InvalidArgument(
            f"the {kind} is read-only, so that nothing can be put back into it",
            hint=f"{base}make it writable: numpy.array(it) or bytearray(it) copy, an mmap takes access=ACCESS_COPY",
        )
    if fixed := [mapping for mapping in mapped if not mapping.writable]:
        raise InvalidArgument(
            f"the {kind} lies in {fixed[0]}, which is mapped read-only, so that nothing can be put back into it",
            hint="map it for writing (mprotect with PROT_WRITE)",
        )


def _is_readonly(buffer: Any) -> bool:
    if isinstance(buffer, np.ndarray):
        return not buffer.flags.writeable
    if isinstance(buffer, LocatedBuffer) or hasattr(buffer, "data_ptr"):
        return False
    if hasattr(buffer, "__array_interface__"):
        return bool(buffer.__array_interface__["data"][1])
    with memoryview(getattr(buffer, "buf", buffer)) as view:
        return view.readonly


def _owner(buffer: Any) -> Any:
    """The object that owns the memory: of a view of a view, the array at its root, or what that array was made over."""
    while True:
        if isinstance(buffer, np.ndarray) and buffer.base is not None:
            buffer = buffer.base
        elif isinstance(buffer, memoryview) and isinstance(buffer.obj, np.ndarray):
            buffer = buffer.obj
        else:
            return buffer


def _has_pages_of_its_own(owner: Any, nbytes: int) -> bool:
    """Whether these bytes are all there is in the pages of the owner's mapping."""
    if isinstance(owner, memoryview):
        return isinstance(owner.obj, OwnPages) and owner.nbytes == nbytes
    return isinstance(owner, mmap.mmap) and len(owner) == nbytes


def _export(owner: Any) -> memoryview | None:
    try:
        return memoryview(getattr(owner, "buf", owner))
    except TypeError:
        # An owner without the buffer protocol (an object with __array_interface__): the reference is all there is.
        return None
