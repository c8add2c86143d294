"""The C side: compiles ``baseline.c`` with gcc and gives its functions Python signatures."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

PAGE = mmap.PAGESIZE
WRITTEN = 1 << 1  # PAGE_IS_WRITTEN
WP_MATCHING, CHECK_WPASYNC = 1 << 0, 1 << 1  # PM_SCAN_*
PAGEMAP_SCAN = 0xC0606610  # where requests are encoded as on x86 and arm
REGION = np.dtype([("start", "u8"), ("end", "u8"), ("categories", "u8")])

U64, I64, POINTER = ctypes.c_uint64, ctypes.c_int64, ctypes.c_void_p
SIGNATURES = {
    "scan": (I64, [ctypes.c_int, *[U64] * 5, POINTER, *[U64] * 3, ctypes.POINTER(I64)]),
    "call": (I64, [ctypes.c_int, *[U64] * 5, POINTER, *[U64] * 2, ctypes.POINTER(I64)]),
    "put_back": (I64, [ctypes.c_int, *[U64] * 5, POINTER, POINTER, *[U64] * 2, ctypes.c_int, ctypes.POINTER(I64)]),
    "copy_runs": (I64, [U64, POINTER, POINTER, U64]),
    "open_userfaultfd": (ctypes.c_int, []),
    "register_memory": (ctypes.c_int, [ctypes.c_int, U64, U64]),
    "write_protect": (ctypes.c_int, [ctypes.c_int, U64, U64]),
    "write_pages": (I64, [POINTER, POINTER, U64, U64]),
    "write_pages_mprotect": (I64, [POINTER, U64, POINTER, U64, U64, POINTER]),
}


class Missing(Exception):
    """Something a row needs is not on this machine; the row is skipped with this reason."""


@dataclass
class Memory:
    """Private anonymous memory, populated, in pages of the base size.

    Transparent huge pages are switched off for it, so that each round does the same work: the first write to a
    protected huge page splits it, and the rounds after that would see other page tables than the first.
    """

    size: int

    def __post_init__(self) -> None:
        self.map = mmap.mmap(-1, self.size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        with contextlib.suppress(OSError):  # a kernel without huge pages has no such advice
            self.map.madvise(mmap.MADV_NOHUGEPAGE)
        self.array = np.frombuffer(self.map, dtype=np.uint8)
        self.array.fill(1)
        self.start = self.array.ctypes.data
        self.end = self.start + self.size
        self.pages = self.size // PAGE


def regions(count: int) -> NDArray[np.void]:
    """Room for so many regions, on a page of its own as pagescan's is: the kernel's copy is a quarter slower to memory
    that begins 16 bytes into a page, as malloc gives it, and that is no merit of either side."""
    vec = np.frombuffer(mmap.mmap(-1, count * REGION.itemsize), dtype=REGION)
    vec["start"] = 0  # populated
    return vec


class Native:
    """``baseline.c`` as functions on numpy arrays. Times are nanoseconds; errors raise OSError."""

    def __init__(self, library: ctypes.CDLL, compiler: str):
        self.compiler = compiler
        self._library = library
        for name, (result, arguments) in SIGNATURES.items():
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
        self.pagemap = os.open("/proc/self/pagemap", os.O_RDONLY | os.O_CLOEXEC)
        self.userfaultfd = -1

    def register(self, memory: Memory) -> None:
        """Register the memory for asynchronous write protection with a userfaultfd of our own."""
        if self.userfaultfd < 0:
            self.userfaultfd = _checked(self._library.open_userfaultfd())
        _checked(self._library.register_memory(self.userfaultfd, memory.start, memory.size))

    def protect(self, start: int, size: int) -> None:
        """``UFFDIO_WRITEPROTECT`` of registered memory."""
        _checked(self._library.write_protect(self.userfaultfd, start, size))

    def scan(
        self, memory: Memory, vec: NDArray[np.void], vec_len: int, *, wp: bool = False, repeats: int = 1
    ) -> tuple[int, int]:
        """The walk of the written pages in calls of ``vec_len`` regions; returns (nanoseconds, regions in ``vec``)."""
        elapsed = I64()
        flags = CHECK_WPASYNC | (WP_MATCHING if wp else 0)
        count = self._library.scan(
            self.pagemap, memory.start, memory.end, flags, WRITTEN, WRITTEN,
            vec.ctypes.data, vec_len, len(vec), repeats, ctypes.byref(elapsed),
        )  # fmt: skip
        return elapsed.value, _checked(count)

    def call(self, start: int, end: int, vec: NDArray[np.void], repeats: int) -> tuple[int, int]:
        """The bare ioctl of the written pages, repeated; returns (nanoseconds, regions in ``vec``)."""
        elapsed = I64()
        count = self._library.call(
            self.pagemap, start, end, CHECK_WPASYNC, WRITTEN, WRITTEN,
            vec.ctypes.data, len(vec), repeats, ctypes.byref(elapsed),
        )  # fmt: skip
        return elapsed.value, _checked(count)

    def put_back(
        self, memory: Memory, saved: NDArray[np.uint8], vec: NDArray[np.void], vec_len: int, *, compare: bool = False
    ) -> tuple[int, int]:
        """Find the written pages, copy them back, protect them again; returns (nanoseconds, regions in ``vec``)."""
        elapsed = I64()
        count = self._library.put_back(
            self.pagemap, memory.start, memory.end, WRITTEN, CHECK_WPASYNC, WP_MATCHING,
            saved.ctypes.data, vec.ctypes.data, vec_len, len(vec), compare, ctypes.byref(elapsed),
        )  # fmt: skip
        return elapsed.value, _checked(count)

    def copy_runs(self, memory: Memory, saved: NDArray[np.uint8], runs: NDArray[np.void]) -> int:
        """Copy these runs back; returns nanoseconds."""
        elapsed: int = self._library.copy_runs(memory.start, saved.ctypes.data, runs.ctypes.data, len(runs))
        return elapsed

    def write(self, memory: Memory, pages: NDArray[np.uint32]) -> int:
        """Change one byte of each page named (index from the memory's start); returns nanoseconds."""
        elapsed: int = self._library.write_pages(memory.start, pages.ctypes.data, len(pages), PAGE)
        return elapsed

    def write_mprotect(self, memory: Memory, pages: NDArray[np.uint32], seen: NDArray[np.uint8]) -> int:
        """The same under ``mprotect`` and a SIGSEGV handler, which marks ``seen``; returns nanoseconds."""
        return _checked(
            self._library.write_pages_mprotect(
                memory.start, memory.size, pages.ctypes.data, len(pages), PAGE, seen.ctypes.data
            )
        )


def _checked(result: int) -> int:
    if result < 0:
        raise OSError(-result, os.strerror(-result))
    return result


@contextlib.contextmanager
def compiled() -> Iterator[Native]:
    """The baselines, compiled into a folder that goes away again. Raises Missing without gcc."""
    with tempfile.TemporaryDirectory(prefix="pagescan-bench-") as folder:
        library = Path(folder, "baseline.so")
        version = compile_into(library, "baseline.c", "-shared", "-fPIC")
        yield Native(ctypes.CDLL(str(library)), version)


def compile_into(path: Path, source: str, *options: str) -> str:
    """Compile a C file of this folder; returns the compiler's version. Raises Missing without gcc."""
    gcc = shutil.which("gcc")
    if gcc is None:
        raise Missing("gcc is not installed (Debian: apt-get install gcc libc6-dev)")
    command = [gcc, "-O2", "-Wall", "-Wextra", *options, "-o", str(path), str(Path(__file__).with_name(source))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Missing(f"gcc cannot compile benchmarks/{source}: {done.stderr.strip()}")
    return subprocess.run([gcc, "--version"], capture_output=True, text=True, check=True).stdout.splitlines()[0]
