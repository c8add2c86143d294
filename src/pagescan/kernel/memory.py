"""Memory by address: reading and writing another process, mapping, advice, and descriptors of processes.

Every function of the C library that pagescan calls is declared here, once. They release the interpreter lock, except
:func:`compare_memory`.
"""

from __future__ import annotations

import ctypes
import enum
import errno
import os
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import InvalidArgument, NoSuchProcess
from .ioctl import syscall_number
from .procfs import process_error

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

PAGE_SIZE = os.sysconf("SC_PAGE_SIZE")
#: The most ranges one process_vm_readv(2) takes (``UIO_MAXIOV``, ``include/uapi/linux/uio.h``).
IOV_MAX = 1024

MS_ASYNC = 1
PROT_NONE, PROT_READ, PROT_WRITE = 0, 1, 2
READ_WRITE = PROT_READ | PROT_WRITE
# The values of asm-generic/mman*.h; alpha, mips, parisc and powerpc differ in some, and have no WP_ASYNC.
MAP_SHARED = 0x01
MAP_PRIVATE = 0x02
MAP_FIXED = 0x10
MAP_ANONYMOUS = 0x20
MAP_NORESERVE = 0x4000
MAP_HUGETLB = 0x40000
MAP_FIXED_NOREPLACE = 0x100000
#: Bits 26-31 of the flags of a hugetlb mapping hold log2 of its page size.
MAP_HUGE_SHIFT = 26


class Advice(enum.IntEnum):
    """``MADV_*`` (``include/uapi/asm-generic/mman-common.h``), those that change what pages are."""

    DONTNEED = 4
    FREE = 8
    REMOVE = 9
    DONTFORK = 10
    MERGEABLE = 12
    UNMERGEABLE = 13
    HUGEPAGE = 14
    NOHUGEPAGE = 15
    WIPEONFORK = 18
    COLD = 20
    PAGEOUT = 21
    POPULATE_READ = 22
    POPULATE_WRITE = 23
    COLLAPSE = 25
    GUARD_INSTALL = 102
    GUARD_REMOVE = 103


_libc = ctypes.CDLL(None, use_errno=True)


def declare(name: str, result: Any, *arguments: Any) -> Callable[..., int]:
    function = getattr(_libc, name, None)
    if function is None:
        raise ImportError(f"the C library has no {name}: pagescan.kernel needs Linux")
    function.restype, function.argtypes = result, arguments
    return function  # type: ignore[no-any-return]


_P, _N, _I, _L = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_long
_MAP_FAILED = ctypes.c_void_p(-1).value
_madvise = declare("madvise", _I, _P, _N, _I)
_msync = declare("msync", _I, _P, _N, _I)
_mprotect = declare("mprotect", _I, _P, _N, _I)
_munmap = declare("munmap", _I, _P, _N)
_mmap = declare("mmap", _P, _P, _N, _I, _I, _I, _L)
_syscall = declare("syscall", _L, _L, _L, _L, _L)
_readv = declare("process_vm_readv", ctypes.c_ssize_t, _I, _P, _L, _P, _L, ctypes.c_ulong)
_writev = declare("process_vm_writev", ctypes.c_ssize_t, _I, _P, _L, _P, _L, ctypes.c_ulong)


# Many short calls in a row: letting go of the interpreter lock for each could cost a time slice for each.
_memcmp = ctypes.PyDLL(None).memcmp
_memcmp.restype, _memcmp.argtypes = _I, (_P, _P, _N)


def _failure() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))


def _check(result: int) -> int:
    if result == -1:
        raise _failure()
    return result


def syscall(number: int, *arguments: int) -> int:
    """``syscall(2)`` with up to three integer arguments. Raises OSError with the kernel's errno."""
    return _check(_syscall(number, *arguments, *([0] * (3 - len(arguments)))))


def madvise(address: int, length: int, advice: int) -> None:
    """``madvise(2)`` on this process. ``address`` is page-aligned. Raises OSError with the kernel's errno."""
    _check(_madvise(address, length, advice))


def map_memory(
    length: int,
    *,
    protection: int = READ_WRITE,
    flags: int = MAP_PRIVATE | MAP_ANONYMOUS,
    fd: int = -1,
    offset: int = 0,
    address: int = 0,
) -> int:
    """``mmap(2)`` with any flags: for what Python's ``mmap`` cannot make (hugetlb, PROT_NONE, fixed addresses).

    Returns the address. Nobody unmaps it but :func:`unmap_memory`. Raises OSError with the kernel's errno.
    """
    result = _mmap(address, length, protection, flags, fd, offset)
    if result == _MAP_FAILED:
        raise _failure()
    return result or 0


def unmap_memory(address: int, length: int) -> None:
    """``munmap(2)``. Arrays over the memory must not be touched afterwards. Raises OSError."""
    _check(_munmap(address, length))


def protect_memory(address: int, length: int, protection: int) -> None:
    """``mprotect(2)``. Raises OSError with the kernel's errno."""
    _check(_mprotect(address, length, protection))


def as_array(address: int, length: int) -> NDArray[np.uint8]:
    """The bytes at ``address`` of this process as an array that shares them; it keeps nothing mapped."""
    return np.ctypeslib.as_array((ctypes.c_uint8 * length).from_address(address))


def compare_memory(first: Sequence[int], second: Sequence[int], lengths: Sequence[int]) -> list[bool]:
    """Whether the bytes at the addresses first[i] and second[i] of this process differ, pair by pair (``memcmp``)."""
    return list(map(bool, map(_memcmp, first, second, lengths)))


def has_gap(start: int, end: int) -> bool:
    """Whether some page of [start, end) of this process is not mapped; bounds are rounded out to pages.

    ``msync(MS_ASYNC)`` has done nothing since 2.6.19 but walk the mappings, and ends with ENOMEM if it met a hole
    (``mm/msync.c``). It asks for no permission on the memory, starts no writing, and needs no file of /proc.
    """
    first = start - start % PAGE_SIZE
    try:
        _check(_msync(first, end - first, MS_ASYNC))
    except OSError as error:
        if error.errno != errno.ENOMEM:
            raise
        return True
    return False


def pidfd_open(pid: int) -> int:
    """A descriptor of a process (Linux 5.3), close-on-exec. Raises NoSuchProcess, or OSError."""
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError as error:
        raise NoSuchProcess(f"there is no process {pid}", pid=pid, errno=error.errno) from error


def pidfd_getfd(pidfd: int, fd: int) -> int:
    """A copy of descriptor ``fd`` of another process (Linux 5.6, needs ptrace-attach permission), close-on-exec.

    Raises OSError with the kernel's errno: EBADF, EPERM, ESRCH.
    """
    return syscall(syscall_number("pidfd_getfd"), pidfd, fd, 0)


def read_memory(pid: int, starts: NDArray[np.uint64], ends: NDArray[np.uint64]) -> NDArray[np.uint8]:
    """The bytes of the ranges [starts[i], ends[i]) of a process, one after another.

    Reading populates holes of anonymous memory with the zero page, as any read does. Needs ptrace-attach permission
    unless the process is this one (process_vm_readv(2), Linux 3.2).

    Raises InvalidArgument (errno EFAULT) naming the first page that cannot be read; NoSuchProcess; AccessDenied.
    """
    data = np.empty(int((ends - starts).sum()), np.uint8)
    _transfer(_readv, "read", pid, starts, ends, data)
    return data


def read_own_memory(starts: NDArray[np.uint64], ends: NDArray[np.uint64]) -> NDArray[np.uint8]:
    """:func:`read_memory` of this process through ``/proc/self/mem``, where a filter forbids process_vm_readv(2).

    Raises InvalidArgument (errno EFAULT) naming the first page that cannot be read; OSError.
    """
    data = np.empty(int((ends - starts).sum()), np.uint8)
    left = data.data
    with open("/proc/self/mem", "rb", buffering=0) as file:
        for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
            position = start
            while position < end:
                try:
                    count = os.preadv(file.fileno(), [left[: end - position]], position)
                except OSError as error:
                    if error.errno != errno.EIO:
                        raise
                    count = 0
                if not count:
                    raise _unreadable("read", os.getpid(), f"read [{start:#x}, {end:#x}) of this process", position)
                left, position = left[count:], position + count
    return data


def write_memory(pid: int, starts: NDArray[np.uint64], ends: NDArray[np.uint64], data: NDArray[np.uint8]) -> None:
    """Write ``data`` over the ranges [starts[i], ends[i]) of a process, one after another (process_vm_writev(2)).

    Asynchronous write protection sees these writes. Raises as :func:`read_memory`; what came before the page that
    could not be written has been written then.
    """
    size = int((ends - starts).sum())
    if data.dtype != np.uint8 or data.size != size or not data.flags.c_contiguous:
        raise InvalidArgument(f"the ranges hold {size} bytes, the data is not {size} uint8 in a row")
    _transfer(_writev, "write", pid, starts, ends, data)


def _transfer(
    call: Callable[..., int],
    verb: str,
    pid: int,
    starts: NDArray[np.uint64],
    ends: NDArray[np.uint64],
    data: NDArray[np.uint8],
) -> None:
    """Move all of ``data``, at most IOV_MAX ranges a call, going on wherever the kernel stopped.

    A call may stop early (at a bad page, at ``MAX_RW_COUNT`` just under 2 GiB); only one that moves nothing failed.
    """
    lengths = (ends - starts).astype(np.int64)
    offsets = np.cumsum(lengths) - lengths  # where in data each range begins
    done = 0
    while done < data.size:
        first = int(np.searchsorted(offsets, done, side="right")) - 1
        remote = np.empty((min(IOV_MAX, len(starts) - first), 2), np.uintp)
        remote[:, 0] = starts[first : first + IOV_MAX]
        remote[:, 1] = lengths[first : first + IOV_MAX]
        skip = done - int(offsets[first])
        remote[0] += np.array([skip, -skip]).astype(np.uintp)  # wraps round: address + skip, length - skip
        local = np.array([[data.ctypes.data + done, data.size - done]], np.uintp)
        moved = call(pid, local.ctypes.data, 1, remote.ctypes.data, len(remote), 0)
        if moved <= 0:
            raise _transfer_error(verb, pid, int(starts[first]), int(ends[first]), int(remote[0, 0]), moved)
        done += moved


def _transfer_error(verb: str, pid: int, start: int, end: int, address: int, moved: int) -> Exception:
    error = _failure() if moved < 0 else OSError(errno.EFAULT, os.strerror(errno.EFAULT))
    asked = f"{verb} [{start:#x}, {end:#x}) of process {pid}"
    if error.errno != errno.EFAULT:
        return process_error(error, pid, asked, attach=True)
    return _unreadable(verb, pid, asked, address)


def _unreadable(verb: str, pid: int, asked: str, address: int) -> InvalidArgument:
    page = address - address % PAGE_SIZE
    able = "readable" if verb == "read" else "writable"
    return InvalidArgument(
        f"cannot {asked}: the page at {page:#x} is not mapped, not {able}, or a guard page",
        hint=f"/proc/{pid}/maps shows what is mapped there",
        pid=pid,
        errno=errno.EFAULT,
    )
