"""What both machines speak: the argument of ``PAGEMAP_SCAN``, its result, and the protocol of an address space.

`kernel/` implements this protocol with Linux, `model/` with the executable model; the two never import each other, and
everything above takes either. Structures and errnos are the kernel's own, so that every repair (stale ``walk_end``, no
progress, EPERM explained) is written once, above, and meets both.

Source: ``include/uapi/linux/fs.h`` and ``include/uapi/linux/userfaultfd.h``, Linux 7.3.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from .ranges import REGION_DTYPE as REGION_DTYPE
from .ranges import Regions

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager

    import numpy as np
    from numpy.typing import NDArray

    from .query import Category

#: The fields of ``struct pm_scan_arg``, each a u64, in order.
SCAN_FIELDS = (
    "size",
    "flags",
    "start",
    "end",
    "walk_end",
    "vec",
    "vec_len",
    "max_pages",
    "category_inverted",
    "category_mask",
    "category_anyof_mask",
    "return_mask",
)
SCAN_ARG_SIZE = 8 * len(SCAN_FIELDS)
START, END, WALK_END, VEC, VEC_LEN, MAX_PAGES = (
    SCAN_FIELDS.index(f) for f in ("start", "end", "walk_end", "vec", "vec_len", "max_pages")
)
assert SCAN_ARG_SIZE == 96 and REGION_DTYPE.itemsize == 24

PM_SCAN_WP_MATCHING = 1 << 0
PM_SCAN_CHECK_WPASYNC = 1 << 1


def pack_scan_argument(
    *,
    flags: int = 0,
    start: int = 0,
    end: int = 0,
    vec: int = 0,
    vec_len: int = 0,
    max_pages: int = 0,
    category_inverted: int = 0,
    category_mask: int = 0,
    category_anyof_mask: int = 0,
    return_mask: int = 0,
) -> bytearray:
    """A ``struct pm_scan_arg`` (96 bytes) ready for :meth:`Pagemap.ioctl_scan`; the call fills in ``walk_end``."""
    return bytearray(
        struct.pack(
            "=12Q",
            SCAN_ARG_SIZE,
            flags,
            start,
            end,
            0,
            vec,
            vec_len,
            max_pages,
            category_inverted,
            category_mask,
            category_anyof_mask,
            return_mask,
        )
    )


class Entry(enum.IntFlag):
    """Bits of the 64-bit entry that ``/proc/PID/pagemap`` has for each page.

    Source: ``Documentation/admin-guide/mm/pagemap.rst``, ``PM_*`` in ``fs/proc/task_mmu.c``.
    """

    SOFT_DIRTY = 1 << 55  #: written since /proc/PID/clear_refs was given a 4 (Linux 3.11, CONFIG_MEM_SOFT_DIRTY)
    EXCLUSIVE = 1 << 56  #: mapped by this process alone (Linux 4.2)
    UFFD_WP = 1 << 57  #: write-protected by userfaultfd (Linux 5.13; from 7.3 on also read-write-protected)
    GUARD = 1 << 58  #: a guard region (Linux 6.15, 8e2f2aeb8b48)
    FILE = 1 << 61  #: a page of a file, or shared anonymous memory (Linux 3.5)
    SWAPPED = 1 << 62  #: swapped out; also markers, such as the one of a write-protected hole
    PRESENT = 1 << 63  #: in memory


class Feature(enum.IntFlag):
    """``UFFD_FEATURE_*`` (the ones pagescan has a use for; other bits pass through as integers)."""

    PAGEFAULT_FLAG_WP = 1 << 0
    EVENT_FORK = 1 << 1
    EVENT_REMAP = 1 << 2
    WP_HUGETLBFS_SHMEM = 1 << 12
    WP_UNPOPULATED = 1 << 13
    WP_ASYNC = 1 << 15
    RWP = 1 << 17
    RWP_ASYNC = 1 << 18


#: Step 2 of the documented set-up. WP_ASYNC implies WP_UNPOPULATED in released kernels; the document asks for both.
TRACKING_FEATURES = Feature.WP_UNPOPULATED | Feature.WP_ASYNC


class RegisterMode(enum.IntFlag):
    """``UFFDIO_REGISTER_MODE_*``."""

    MISSING = 1 << 0
    WP = 1 << 1
    MINOR = 1 << 2
    RWP = 1 << 3


@dataclass(frozen=True, slots=True)
class Mapping:
    """One mapping (VMA) of an address space.

    Attributes:
        start, end: addresses in bytes, half-open.
        perms: four characters as in ``/proc/PID/maps``, such as ``rw-p`` (the last: ``s`` shared or ``p`` private).
        offset: offset into the file in bytes.
        device: ``major:minor`` in hexadecimal, as in ``/proc/PID/maps``.
        inode: the file's inode; 0 for anonymous memory.
        name: the file's path, a pseudo-name such as ``[heap]``, or "".
        page_size: the size in bytes of the pages that back it (hugetlb: the huge page).
    """

    start: int
    end: int
    perms: str
    offset: int = 0
    device: str = "00:00"
    inode: int = 0
    name: str = ""
    page_size: int = 4096

    @property
    def size(self) -> int:
        """Length in bytes."""
        return self.end - self.start

    @property
    def writable(self) -> bool:
        return self.perms[1] == "w"

    @property
    def shared(self) -> bool:
        return self.perms[3] == "s"

    @property
    def private_anonymous(self) -> bool:
        """Private memory of no file: what is not populated is zero, and nobody else can change it."""
        return not self.shared and self.inode == 0

    def __str__(self) -> str:
        return f"{self.start:#x}-{self.end:#x} {self.perms} {self.name or '(anonymous)'}"


@runtime_checkable
class Pagemap(Protocol):
    """An open pagemap: the descriptor that ``PAGEMAP_SCAN`` is called on."""

    #: Scans made ready by the layer above; None at first.
    prepared_scans: Any

    @property
    def space(self) -> AddressSpace:
        """The address space it was opened for."""

    @property
    def known(self) -> Category:
        """The categories this kernel knows (a bit it does not know is EINVAL)."""

    def ioctl_scan(self, argument: bytearray, vec: NDArray[np.void] | None) -> int:
        """One ``PAGEMAP_SCAN``; ``argument`` is a 96-byte ``struct pm_scan_arg``, updated in place.

        ``vec`` is the array whose address stands in the argument (or None). Returns the number of regions written to
        it. Raises OSError with the kernel's errno.
        """

    def bind(self, argument: bytearray, vec: NDArray[np.void] | None) -> Callable[[], int]:
        """The same call made ready once, for hot paths: calling the result is :meth:`ioctl_scan` of these two."""

    def read_entries(self, start: int, end: int) -> NDArray[np.uint64]:
        """The file's entries (:class:`Entry`) of the pages of [start, end), one each; 0 for what is not mapped."""

    def close(self) -> None: ...


class Userfaultfd(Protocol):
    """A userfaultfd after its ``UFFDIO_API`` handshake. Every method raises OSError with the kernel's errno."""

    features: int

    def register(self, start: int, length: int, mode: int = RegisterMode.WP) -> int:
        """``UFFDIO_REGISTER``; returns the bit mask of ioctls the range allows."""

    def unregister(self, start: int, length: int) -> None: ...

    def writeprotect(self, start: int, length: int, *, protect: bool = True) -> None: ...

    def rwprotect(self, start: int, length: int, *, protect: bool = True) -> None: ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class TrackingProof:
    """What a round trip showed: map pages, register them, protect, look, write, look again.

    Attributes:
        works: written pages are found on this machine.
        why: one sentence: what was seen, or what failed.
        hint: the one command that mends it, if one does.
        reports_dropped: memory that was given back (MADV_DONTNEED) down to its page table is reported as written.
            Kernels before 7.2 and without the back-port do not ("fs/proc/task_mmu: written state for PMD holes",
            K. Shutsemau, July 2026; in 6.12.103 and 6.18.44).
    """

    works: bool
    why: str
    hint: str | None = None
    reports_dropped: bool = False


@dataclass(frozen=True, slots=True)
class MemoryKind:
    """What of a mapping decides whether its written pages can be found: its likes behave alike.

    Attributes:
        anonymous: private memory of no file.
        shared: others may map the same pages.
        page_size: bytes of the pages that back it (hugetlb: the huge page).
    """

    anonymous: bool
    shared: bool
    page_size: int

    def __str__(self) -> str:
        what = (
            "private anonymous memory" if self.anonymous else "shared memory" if self.shared else "private file memory"
        )
        return f"{what} in pages of {self.page_size:,} bytes"


class TrialMemory(Protocol):
    """A few fresh pages to try an engine on; never touched, readable and writable.

    Attributes:
        start, count, size: address of the first, how many, and bytes of each.
    """

    start: int
    count: int
    size: int

    @property
    def space(self) -> AddressSpace:
        """The address space they lie in."""

    def write(self, *indices: int) -> None:
        """Write one byte to each of these pages; never the value that is there."""

    def drop(self, index: int) -> None:
        """Give a page back (MADV_DONTNEED)."""


class GapFinder(Protocol):
    """:meth:`AddressSpace.has_gap`, made ready for asking again and again. Not for two threads at a time."""

    def __call__(self, start: int, end: int) -> bool: ...

    def close(self) -> None:
        """Let go of what was opened for it."""


class PlainGapFinder:
    """A gap finder of a space for which nothing need be made ready."""

    def __init__(self, space: AddressSpace):
        self._space = space

    def __call__(self, start: int, end: int) -> bool:
        return self._space.has_gap(start, end)

    def close(self) -> None:
        """Nothing was opened."""


class AddressSpace(Protocol):
    """Memory one can look at: this process, another one, or a process of the model."""

    page_size: int
    #: The names of the engines that can track this memory, the best first.
    engines: tuple[str, ...]

    @property
    def label(self) -> str:
        """For messages: "this process", "process 1234 (redis-server)", "model process 1"."""

    def mappings(self) -> Sequence[Mapping]:
        """Every mapping, by address."""

    def mapping_at(self, address: int) -> Mapping | None:
        """The mapping that holds this address, or None."""

    def is_droppable(self, mapping: Mapping) -> bool:
        """Whether the kernel may empty this memory at any moment (MAP_DROPPABLE). Slow: for what was refused already.

        Raises NoSuchProcess, AccessDenied.
        """

    def has_gap(self, start: int, end: int) -> bool:
        """Whether any page of [start, end) is not mapped at all (such pages scan as empty, without an error)."""

    def gap_finder(self) -> GapFinder:
        """:meth:`has_gap`, made ready for asking again and again."""

    def prove_tracking(self) -> TrackingProof:
        """Whether asynchronous write protection works here, by a round trip; made once and remembered."""

    def trial(self, kind: MemoryKind) -> AbstractContextManager[TrialMemory]:
        """Fresh memory of this kind, to prove an engine on by a round trip. It is gone after the block.

        It lies in memory one may write to: for another process that is this one. Where no huge page is free, small
        pages stand for it.
        """

    def open_pagemap(self) -> Pagemap: ...

    def clear_soft_dirty(self) -> None:
        """Reset the soft-dirty bits of the whole process (``/proc/PID/clear_refs``). Raises OSError, PagescanError.

        That it succeeds proves nothing: kernels without soft-dirty accept it and do nothing.
        """

    def foreign_faults(self) -> int:
        """How many page faults others than the asking thread have taken in this address space so far."""

    def open_userfaultfd(self, features: int) -> Userfaultfd: ...

    def truly_swapped(self, pagemap: Any, suspects: Regions) -> Regions:
        """Those of the suspects (SWAPPED by the kernel's word, which counts markers) that are really swapped out.

        Where the kernel does not tell, suspects are kept.
        """

    def read(self, regions: Any) -> NDArray[np.uint8]:
        """The bytes of the regions, one after another."""

    def write(self, regions: Any, data: Any) -> None:
        """Write ``data``, as many bytes as the regions hold, over them, one after another."""


class ProcessFacts(Protocol):
    """What a recording says of the process it is of.

    Attributes:
        kernel, machine: what it runs on: release and architecture.
    """

    kernel: str
    machine: str

    @property
    def start_time(self) -> int:
        """With the pid it names one process for ever (Linux: clock ticks since boot). Raises NoSuchProcess."""

    def command_line(self) -> tuple[str, ...]:
        """The program and its arguments. Raises NoSuchProcess."""

    def has_memory(self) -> bool:
        """Whether it has memory: one that exits gives it back before it can be seen to have exited."""

    def resident_pages(self) -> int | None:
        """Pages in memory; None if it has exited."""


class FollowedSpace(AddressSpace, Protocol):
    """The memory of a process that is followed through its life by a tracker.

    It stands for the memory the process had when this object was made; after an exec that is gone.

    Attributes:
        pid: the process.
        runs_by_itself: false for a process that does something only when it is told to (the model's).
    """

    pid: int
    runs_by_itself: bool

    @property
    def pause_ns(self) -> int:
        """The longest the process can have stood still for us, altogether, in nanoseconds."""

    @property
    def facts(self) -> ProcessFacts:
        """Of the process, as it is now."""

    @property
    def proven_on(self) -> AddressSpace:
        """Where an engine proves itself for this memory by a round trip: never in somebody else's process."""

    def is_alive(self) -> bool:
        """Whether the process still runs."""

    def holds(self) -> bool:
        """Whether the process still has this memory."""

    def again(self) -> FollowedSpace:
        """The memory the same process has now, after an exec. Raises NoSuchProcess: it has exited."""

    def close(self) -> None:
        """Let go of what was opened for it; the process goes on."""


@runtime_checkable
class LocatedBuffer(Protocol):
    """A buffer that tells by itself in which address space it lies (those of the model do)."""

    space: AddressSpace
    address: int
    nbytes: int
    itemsize: int


#: No process has memory from here on, on any architecture. Addresses above are refused before they reach the kernel:
#: arm64 ignores the topmost byte (untagged_addr() in fs/proc/task_mmu.c), and would scan from 0 for 1 << 63.
USER_LIMIT = 1 << 56
