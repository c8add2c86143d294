"""``/proc/PID/pagemap``: the file that ``PAGEMAP_SCAN`` is called on, and whose 64-bit entries can be read.

The open file is bound to the address space it was opened for: it still means that one after the process forked or
executed another program. Opening it needs ptrace-read permission; no later call asks again.

Source: ``fs/proc/task_mmu.c``; 52526ca7fdb9 ("fs/proc/task_mmu: implement IOCTL to get and optionally clear info about
PTEs"), Linux 6.7.
"""

from __future__ import annotations

import errno
import fcntl
import functools
import os
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np

from ..abi import USER_LIMIT, pack_scan_argument
from ..errors import Closed, InvalidArgument, KernelCannot, NoSuchProcess, PagescanError
from ..query import Category
from .ioctl import PAGEMAP_SCAN
from .procfs import open_process_file, process_error, read_stat

if TYPE_CHECKING:
    import io
    from collections.abc import Callable
    from types import TracebackType

    from numpy.typing import NDArray

    from ..abi import AddressSpace

PAGE_SIZE = os.sysconf("SC_PAGE_SIZE")


def probe_categories(scan: Callable[[bytearray], int]) -> Category:
    """The categories a kernel knows, from one scan of nothing (start = end = 0) for each.

    Args:
        scan: makes one PAGEMAP_SCAN call; raises OSError.

    EINVAL for a bit means that the kernel does not know it. Every other error is raised: it proves nothing. EINVAL
    without any bit, or ENOTTY, means that there is no such ioctl (KernelCannot).
    """
    try:
        scan(pack_scan_argument())
    except OSError as error:
        if error.errno not in (errno.ENOTTY, errno.EINVAL):
            raise
        raise KernelCannot(
            "this kernel has no PAGEMAP_SCAN, which Linux 6.7 brought",
            hint="run Linux 6.7 or later",
            errno=error.errno,
        ) from error
    known = Category(0)
    for category in Category:
        try:
            scan(pack_scan_argument(return_mask=category))
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
        else:
            known |= category
    return known


class _Descriptor:
    """What ioctl asks for the descriptor: the file's own ``fileno``, looked up once.

    A file object can be closed, and then refuses; its number would come to mean the next file opened. One page, Linux
    6.18, CPython 3.11, in microseconds: the number 0.975, this 1.012, the file object itself 1.092.
    """

    __slots__ = ("fileno",)

    def __init__(self, file: io.FileIO):
        self.fileno = file.fileno


class Pagemap:
    """An open ``/proc/PID/pagemap``, usable as a context manager.

    ::

        with Pagemap.open("self") as pagemap:
            scan = pagescan.pagemap_scan(pagemap, start, length, required_mask=Category.PRESENT)

    Attributes:
        space: the address space it belongs to.
    """

    space: AddressSpace

    #: Makes the address space of a process; ``space.py`` puts itself here, since it imports this module.
    _space_of: ClassVar[Callable[[int], AddressSpace]]
    _known_here: ClassVar[Category | None] = None

    def __init__(self, file: io.FileIO, space: AddressSpace, pid: int):
        """Takes over ``file``; use :meth:`open`."""
        self.space = space
        self._file = file
        self._descriptor = _Descriptor(file)
        self._pid = pid
        #: Scans made ready by the layer above.
        self.prepared_scans: Any = None

    @classmethod
    def open(cls, target: Literal["self"] | int) -> Self:
        """The pagemap of this process ("self") or of another (its pid).

        Raises NoSuchProcess (also for a kernel thread, which has no memory), AccessDenied, KernelCannot.
        """
        pid = os.getpid() if target == "self" else target
        space = cls._space_of(pid)
        file = open_process_file(pid, "pagemap")
        # Before 65c66047259f ("proc: fix the issue of proc_mem_open returning NULL"; 6.16, 6.12.59) the pagemap of a
        # kernel thread opens, and PAGEMAP_SCAN on it crashes the kernel (seen on 6.12.43). It reads as empty.
        if target != "self" and not os.pread(file.fileno(), 8, 0):
            file.close()
            gone = ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))
            raise process_error(gone, pid, f"open /proc/{pid}/pagemap")
        return cls(file, space, pid)

    @property
    def closed(self) -> bool:
        return self._file.closed

    @functools.cached_property
    def known(self) -> Category:
        """The categories this kernel knows; asked of the kernel once per process.

        Raises KernelCannot if there is no PAGEMAP_SCAN; NoSuchProcess if the pagemap's process has exited.
        """
        if Pagemap._known_here is None:
            try:
                Pagemap._known_here = probe_categories(lambda argument: self.ioctl_scan(argument, None))
            except KernelCannot:
                raise
            except OSError as error:
                raise process_error(error, self._pid, "ask the kernel for its page categories") from error
        return Pagemap._known_here

    def ioctl_scan(self, argument: bytearray, vec: NDArray[np.void] | None) -> int:
        """One ``PAGEMAP_SCAN``; ``argument`` is a 96-byte ``struct pm_scan_arg``, updated in place.

        ``vec`` is the array whose address stands in the argument. Returns the number of regions written to it. Raises
        OSError with the kernel's errno (EINTR only when this process is being killed), and Closed.
        """
        try:
            return int(fcntl.ioctl(self._descriptor, PAGEMAP_SCAN, argument))
        except ValueError as error:
            raise self._refusal(error) from error

    def bind(self, argument: bytearray, vec: NDArray[np.void] | None) -> Callable[[], int]:
        """:meth:`ioctl_scan` with everything looked up beforehand, for a call that is made again and again.

        The result keeps ``argument`` and ``vec`` alive. On a closed pagemap it raises ValueError.
        """
        call = functools.partial(fcntl.ioctl, self._descriptor, PAGEMAP_SCAN, argument)
        call.__dict__["vec"] = vec
        return call

    def read_entries(self, start: int, end: int) -> NDArray[np.uint64]:
        """The entries (:class:`~pagescan.abi.Entry`) of the pages of [start, end); ``start`` is page-aligned.

        Bits 0-54 (frame number, or place in the swap) are zero without CAP_SYS_ADMIN.
        Raises InvalidArgument if the range is misaligned or leaves the address space; OSError; Closed.
        """
        if start % PAGE_SIZE or end < start:
            raise InvalidArgument(
                f"[{start:#x}, {end:#x}) does not begin on a page of {PAGE_SIZE} bytes, or is no range"
            )
        if end > USER_LIMIT:
            raise InvalidArgument(f"page {start:#x} is beyond the address space of {self.space.label}")
        entries = np.empty(-(-(end - start) // PAGE_SIZE), np.uint64)
        self._read(entries.view(np.uint8).data, 8 * (start // PAGE_SIZE))
        return entries

    def _read(self, buffer: memoryview, offset: int) -> None:
        try:
            descriptor = self._file.fileno()
        except ValueError as error:
            raise self._refusal(error) from error
        while buffer:
            count = os.preadv(descriptor, [buffer], offset)
            if not count:
                raise self._end_of_file(offset // 8 * PAGE_SIZE)
            buffer, offset = buffer[count:], offset + count

    def _end_of_file(self, page: int) -> PagescanError:
        """Why the file ends here: the memory it was opened for is gone, or the address is none."""
        try:
            gone = read_stat(self._pid).state in "ZX"
        except NoSuchProcess as error:
            return error
        if gone:
            return NoSuchProcess(f"{self.space.label} has exited", pid=self._pid, errno=errno.ESRCH)
        return InvalidArgument(f"page {page:#x} is beyond the address space of {self.space.label}")

    def _refusal(self, error: ValueError) -> Exception:
        return Closed("this pagemap is closed", hint="open it again: Pagemap.open(...)") if self.closed else error

    def close(self) -> None:
        """Close the file. Closing again does nothing."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Pagemap of {self.space.label}{', closed' if self.closed else ''}>"
