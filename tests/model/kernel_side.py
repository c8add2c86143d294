"""The kernel's side of the differential test: an arena in this very process, and in a forked child.

It is raw on purpose: numbers and structures written out here, nothing of pagescan in between.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import pickle
import platform
import signal
import struct
from collections.abc import Iterator
from typing import Any

from pagescan.abi import TRACKING_FEATURES

from .answers import ARENA, CATEGORIES, PAGE, PAGES, address, observe, outcome

PROTECTIONS = {"none": 0, "r": 1, "rw": 3}
ADVICE = {
    "dontneed": 4,
    "free": 8,
    "remove": 9,
    "hugepage": 14,
    "nohugepage": 15,
    "pageout": 21,
    "populate_read": 22,
    "populate_write": 23,
    "collapse": 25,
    "guard_install": 102,
    "guard_remove": 103,
}

_libc = ctypes.CDLL(None, use_errno=True)
for _name, _arguments in {
    "mmap": (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long),
    "munmap": (ctypes.c_void_p, ctypes.c_size_t),
    "mprotect": (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int),
    "madvise": (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int),
    "mremap": (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int, ctypes.c_void_p),
    "pread": (ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_long),
    "pwrite": (ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_long),
    "syscall": (ctypes.c_long, ctypes.c_long),
    "ioctl": (ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p),
}.items():
    _function = getattr(_libc, _name)
    _function.argtypes = _arguments
    _function.restype = ctypes.c_long
_libc.ioctl.restype = ctypes.c_int

#: userfaultfd(2): x86-64 has numbers of its own, the newer architectures share theirs.
_NR_USERFAULTFD = 323 if platform.machine() == "x86_64" else 282
_PAGEMAP_SCAN = 0xC0606610
_UFFDIO_API, _UFFDIO_REGISTER, _UFFDIO_UNREGISTER, _UFFDIO_WRITEPROTECT = 0xC018AA3F, 0xC020AA00, 0x8010AA01, 0xC018AA06


def _checked(result: int) -> int:
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def _new_uffd() -> int:
    return _checked(_libc.syscall(_NR_USERFAULTFD, 1 | os.O_CLOEXEC | os.O_NONBLOCK))


def _maps() -> Iterator[str]:
    """The lines of /proc/self/maps, made as they are read: the arena lies before nearly everything else."""
    with open("/proc/self/maps", "rb", buffering=0) as file:
        rest = b""
        while part := file.read(4096):
            *lines, rest = (rest + part).split(b"\n")
            yield from (line.decode() for line in lines)


def _exactly(fd: int, length: int) -> bytes:
    """So many bytes, or none if the writer has gone before."""
    data = b""
    while len(data) < length:
        part = os.read(fd, length - len(data))
        if not part:
            return b""
        data += part
    return data


class KernelSide:
    """The arena in this very process."""

    def __init__(self, categories: int = CATEGORIES) -> None:
        self.categories = categories
        self._values = os.memfd_create("values")
        os.write(self._values, bytes(range(256)))
        self._taken = os.memfd_create("taken")
        self._pagemap = os.open("/proc/self/pagemap", os.O_RDONLY)
        self._uffd = -1
        if self.mappings():
            raise OSError(errno.EEXIST, f"something is mapped at {ARENA:#x} already")

    def clear(self) -> None:
        self.close_uffd()
        _checked(_libc.munmap(ARENA, 2 * PAGES * PAGE))

    def map(self, page: int, count: int, kind: str) -> None:
        flags = 0x10 | (0x01 if "shared" in kind else 0x02) | (0 if kind == "memfd" else 0x20)
        flags |= 0x40000 if "hugetlb" in kind else 0
        fd = -1
        if kind == "memfd":
            fd = os.memfd_create("arena")
            os.ftruncate(fd, count * PAGE)
        try:
            _checked(_libc.mmap(address(page), count * PAGE, 3, flags, fd, 0))
        finally:
            if fd >= 0:
                os.close(fd)
        if kind == "thp":
            _checked(_libc.madvise(address(page), count * PAGE, ADVICE["hugepage"]))

    def unmap(self, page: int, count: int) -> None:
        _checked(_libc.munmap(address(page), count * PAGE))

    def protect(self, page: int, count: int, prot: str) -> None:
        _checked(_libc.mprotect(address(page), count * PAGE, PROTECTIONS[prot]))

    def advise(self, page: int, count: int, what: str) -> None:
        _checked(_libc.madvise(address(page), count * PAGE, ADVICE[what]))

    def write(self, page: int, count: int, value: int) -> None:
        # read(2) into the page is an ordinary write fault, and an error instead of a signal where it cannot be.
        for at in range(page, page + count):
            _checked(_libc.pread(self._values, address(at), 1, value))

    def read(self, page: int, count: int) -> bytes:
        got = b""
        for at in range(page, page + count):
            _checked(_libc.pwrite(self._taken, address(at), 1, 0))
            got += os.pread(self._taken, 1, 0)
        return got

    def move(self, page: int, count: int, new: int, to: int) -> None:
        _checked(_libc.mremap(address(page), count * PAGE, new * PAGE, 3, address(to)))

    def resize(self, page: int, count: int, new: int) -> None:
        _checked(_libc.mremap(address(page), count * PAGE, new * PAGE, 0, None))

    def open_uffd(self) -> None:
        self.close_uffd()
        self._uffd = _new_uffd()
        fcntl.ioctl(self._uffd, _UFFDIO_API, struct.pack("=3Q", 0xAA, int(TRACKING_FEATURES), 0))

    def features(self) -> int:
        """Every feature that UFFDIO_API knows, asked on a userfaultfd that is thrown away."""
        fd = _new_uffd()
        try:
            argument = bytearray(struct.pack("=3Q", 0xAA, 0, 0))
            fcntl.ioctl(fd, _UFFDIO_API, argument)
            return int(struct.unpack("=3Q", argument)[1])
        finally:
            os.close(fd)

    def guard_install_returns(self, seconds: float = 1) -> bool:
        """Whether MADV_GUARD_INSTALL over protected shared memory comes to an end; tried in a child, which is ended."""
        if (pid := os.fork()) == 0:
            try:
                signal.signal(signal.SIGALRM, signal.SIG_DFL)  # after a handler the kernel would begin again
                signal.setitimer(signal.ITIMER_REAL, seconds)
                self.forget_parent()
                self.open_uffd()
                for operation in (("map", 0, 4, "memfd"), ("write", 0, 4, 1), ("register", 0, 4), ("wp", 0, 4, True)):
                    outcome(self, operation)
                self.advise(0, 4, "guard_install")
            finally:
                os._exit(0)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) != -signal.SIGALRM

    def close_uffd(self) -> None:
        if self._uffd >= 0:
            os.close(self._uffd)
            self._uffd = -1

    def register(self, page: int, count: int) -> int:
        argument = bytearray(struct.pack("=4Q", address(page), count * PAGE, 2, 0))
        fcntl.ioctl(self._uffd, _UFFDIO_REGISTER, argument)
        return int(struct.unpack("=4Q", argument)[3])

    def unregister(self, page: int, count: int) -> None:
        fcntl.ioctl(self._uffd, _UFFDIO_UNREGISTER, struct.pack("=2Q", address(page), count * PAGE))

    def wp(self, page: int, count: int, on: int) -> None:
        fcntl.ioctl(self._uffd, _UFFDIO_WRITEPROTECT, struct.pack("=3Q", address(page), count * PAGE, on))

    def ioctl_scan(self, argument: bytearray, vec: Any) -> int:
        # Not fcntl.ioctl: from Python 3.14 on it does not hand back what the kernel wrote before an error.
        place = ctypes.addressof((ctypes.c_char * len(argument)).from_buffer(argument))
        return _checked(_libc.ioctl(self._pagemap, _PAGEMAP_SCAN, place))

    def mappings(self) -> list[tuple[int, int, str]]:
        found = []
        for line in _maps():
            span, perms = line.split(None, 2)[:2]
            start, end = (int(part, 16) for part in span.split("-"))
            if start >= ARENA + PAGES * PAGE:
                break
            if start >= ARENA:
                found.append(((start - ARENA) // PAGE, (end - ARENA) // PAGE, perms))
        return found

    def fork(self) -> RemoteSide:
        return RemoteSide(self)

    def forget_parent(self) -> None:
        """In the child: descriptors of the parent's memory go, its own pagemap comes."""
        self.close_uffd()
        os.close(self._pagemap)
        self._pagemap = os.open("/proc/self/pagemap", os.O_RDONLY)


class RemoteSide:
    """The arena in a forked child, driven through two pipes."""

    def __init__(self, parent: KernelSide):
        asks, self._ask = os.pipe()
        self._hear, answers = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            self._serve(parent, asks, answers)
        os.close(asks)
        os.close(answers)
        assert self._receive(self._hear) == "ready"

    def _serve(self, side: KernelSide, asks: int, answers: int) -> None:
        try:
            os.close(self._ask)
            side.forget_parent()
            self._send(answers, "ready")
            while (request := self._receive(asks)) is not None:
                self._send(answers, observe(side) if request == "observe" else outcome(side, request))
        finally:
            os._exit(0)

    @staticmethod
    def _send(fd: int, value: Any) -> None:
        data = pickle.dumps(value)
        os.write(fd, struct.pack("=Q", len(data)) + data)

    @staticmethod
    def _receive(fd: int) -> Any:
        """The next value, or None if the other end is gone."""
        head = _exactly(fd, 8)
        data = _exactly(fd, struct.unpack("=Q", head)[0]) if head else b""
        return pickle.loads(data) if data else None

    def ask(self, request: Any) -> Any:
        self._send(self._ask, request)
        return self._receive(self._hear)

    def close(self) -> None:
        os.close(self._ask)
        os.close(self._hear)
        os.waitpid(self._pid, 0)
