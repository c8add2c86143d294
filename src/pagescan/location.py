"""Where a buffer lies: the address of the first byte, the length, and the size of one element.

Objects are known by what they can do, never by importing the library they come from.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .errors import Closed, NotABuffer, NotContiguous

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Location(NamedTuple):
    """Where a buffer's bytes lie.

    Attributes:
        address: of the first byte. Of a buffer without bytes it means nothing.
        nbytes: length in bytes.
        itemsize: bytes of one element; slices count in these.
    """

    address: int
    nbytes: int
    itemsize: int


def locate(buffer: Any) -> Location:
    """Where the bytes of a buffer lie in its address space. Nothing is read, and no export of it is kept.

    Takes numpy arrays of every dtype, anything with Python's buffer protocol (``bytearray``, ``bytes``, ``mmap``,
    ``memoryview``, ``array.array``, ctypes), ``SharedMemory``, torch tensors on the CPU, objects with an
    ``__array_interface__``, and objects that say themselves (integer ``address``, ``nbytes`` and ``itemsize``).

    Raises:
        NotContiguous: its bytes are not one C-contiguous run.
        NotABuffer: it has no memory of its own, or none of this process (a tensor on a GPU).
        Closed: it was closed or released.
    """
    if isinstance(buffer, np.ndarray):
        return _locate_array(buffer)
    # A numpy scalar hands out a copy of its value, under an address that is soon somebody else's.
    if isinstance(buffer, np.generic):
        raise NotABuffer(f"a numpy scalar ({type(buffer).__name__}) has no memory of its own", hint="give the array")
    if all(isinstance(getattr(buffer, name, None), int) for name in Location._fields):
        return Location(buffer.address, buffer.nbytes, buffer.itemsize)
    if hasattr(buffer, "data_ptr") and hasattr(buffer, "element_size"):
        return _locate_tensor(buffer)
    if hasattr(buffer, "buf") and hasattr(buffer, "unlink"):
        return _locate_shared_memory(buffer)
    if hasattr(buffer, "__array_interface__"):
        return _locate_interface(buffer)
    return _locate_exported(buffer)


def _locate_array(array: NDArray[Any]) -> Location:
    if not array.flags.c_contiguous:
        _refuse_scattered(f"the array of shape {array.shape} and strides {array.strides}", array.flags.f_contiguous)
    return Location(int(array.__array_interface__["data"][0]), array.nbytes, array.itemsize)


def _locate_tensor(tensor: Any) -> Location:
    device = getattr(tensor.device, "type", str(tensor.device))
    if device != "cpu":
        raise NotABuffer(
            f"the tensor lies on {tensor.device}, not in this process's memory",
            hint="only tensors on the CPU have pages; tensor.cpu() makes a copy there",
        )
    if "strided" not in str(getattr(tensor, "layout", "torch.strided")):
        raise NotABuffer(
            f"a tensor of layout {tensor.layout} is several buffers", hint="give its parts, such as tensor.values()"
        )
    if not tensor.is_contiguous():
        _refuse_scattered(f"the tensor of shape {tuple(tensor.shape)}", False)
    return Location(tensor.data_ptr(), tensor.numel() * tensor.element_size(), tensor.element_size())


def _locate_shared_memory(block: Any) -> Location:
    if block.buf is None:
        raise Closed(f"{block!r} was closed")
    return _locate_exported(block.buf)


def _locate_interface(holder: Any) -> Location:
    # "data" may also be bytes made for the occasion (PIL does so), or be missing.
    if not isinstance(holder.__array_interface__.get("data"), tuple):
        raise NotABuffer(
            f"{type(holder).__name__} hands out copies of its contents, not its memory",
            hint="numpy.asarray(it) is an array that has memory",
        )
    return _locate_array(np.asarray(holder))


def _locate_exported(buffer: Any) -> Location:
    try:
        view = memoryview(buffer)
    except TypeError:
        raise NotABuffer(
            f"{type(buffer).__name__} has no memory that pagescan could look at",
            hint="give a numpy array, bytearray, mmap, memoryview, SharedMemory or CPU tensor",
        ) from None
    except ValueError as error:
        raise Closed(f"the {type(buffer).__name__} can no longer be used: {error}") from error
    with view:
        if not view.c_contiguous:
            _refuse_scattered(f"the memoryview of shape {view.shape} and strides {view.strides}", view.f_contiguous)
        # frombuffer asks for plain bytes, so that the element format (ctypes has its own) does not matter.
        address = int(np.frombuffer(view, np.uint8).__array_interface__["data"][0]) if view.nbytes else 0
        return Location(address, view.nbytes, view.itemsize)


def _refuse_scattered(what: str, transposed: bool) -> None:
    raise NotContiguous(
        f"{what} is not one C-contiguous run of bytes",
        hint="give its transpose (array.T), which is" if transposed else "give the whole array that it is a view of",
    )
