"""The address space of a Linux process: what everything above the kernel layer takes as an argument."""

from __future__ import annotations

import errno
import os
import resource
from typing import TYPE_CHECKING, Any, Self

from ..abi import PlainGapFinder
from ..errors import InvalidArgument, NoSuchProcess
from . import memory, procfs
from .gaps import OwnGapFinder
from .likeness import memory_like
from .pagemap import Pagemap
from .proof import prove_tracking
from .swapped import truly_swapped
from .userfaultfd import Userfaultfd, open_userfaultfd

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager

    import numpy as np
    from numpy.typing import NDArray

    from ..abi import GapFinder, Mapping, MemoryKind, TrackingProof, TrialMemory
    from ..ranges import Regions


#: How often the faults of this process and of one thread are read anew, until they are of one moment.
_QUIET_ATTEMPTS = 16


class LinuxSpace:
    """The memory of a process: this one, or another by its pid (or the id of one of its threads).

    Attributes:
        pid: the process.
        start_time: when it started, in clock ticks since boot; with the pid it names one process for ever.
        page_size: bytes of a base page.

    Raises NoSuchProcess.
    """

    pid: int
    start_time: int
    page_size: int
    engines: tuple[str, ...] = ("pagemap-scan", "pagemap-read", "soft-dirty", "compare")

    def __init__(self, pid: int):
        if pid <= 0:
            raise InvalidArgument(f"{pid} is no process id")
        stat = procfs.read_stat(pid)
        self.pid = pid
        self.start_time = stat.start_time
        self.page_size = memory.PAGE_SIZE
        self._comm = stat.comm

    @classmethod
    def current(cls) -> Self:
        """The address space of this process. A forked child's is another one: ask again there."""
        return cls(os.getpid())

    @property
    def is_self(self) -> bool:
        """Whether this is the memory of the asking process (in a forked child, its parent's is not)."""
        return self.pid == os.getpid()

    @property
    def label(self) -> str:
        """For messages: "this process", "process 1234 (redis-server)"."""
        return "this process" if self.is_self else f"process {self.pid} ({self._comm})"

    def is_alive(self) -> bool:
        """Whether the process still runs: neither gone, nor a zombie, nor replaced by another with its pid."""
        try:
            stat = procfs.read_stat(self.pid)
        except NoSuchProcess:
            return False
        return stat.start_time == self.start_time and stat.state not in "ZX"

    def mappings(self) -> Sequence[Mapping]:
        """Every mapping, by address. Raises NoSuchProcess, AccessDenied."""
        return procfs.list_mappings(self.pid)

    def mapping_at(self, address: int) -> Mapping | None:
        """The mapping that holds this address, or None. Raises NoSuchProcess, AccessDenied."""
        return procfs.mapping_at(self.pid, address)

    def is_droppable(self, mapping: Mapping) -> bool:
        """Whether the kernel may empty this memory at any moment. Raises NoSuchProcess, AccessDenied.

        Linux 6.11, 9651fcedf7b9 ("mm: add MAP_DROPPABLE for designating always lazily freeable mappings").
        """
        return "dp" in procfs.vm_flags(self.pid, mapping.start)

    def has_gap(self, start: int, end: int) -> bool:
        """Whether any page of [start, end) is not mapped at all (such pages scan as empty, without an error)."""
        if not self.is_self:
            return gap_between(self.mappings(), start, end)
        # One call passes over any number of mappings (1,000: 0.07 ms against 4.2 by PROCMAP_QUERY; Linux 6.18).
        return memory.has_gap(start, end)

    def gap_finder(self) -> GapFinder:
        """:meth:`has_gap`, made ready for asking again and again."""
        return OwnGapFinder() if self.is_self else PlainGapFinder(self)

    def prove_tracking(self) -> TrackingProof:
        """Whether asynchronous write protection works on this kernel, by a round trip in this process, made once.

        For another process it says what the kernel can do; whether that one may have a userfaultfd, attaching tells.
        """
        return prove_tracking()

    def trial(self, kind: MemoryKind) -> AbstractContextManager[TrialMemory]:
        """Fresh memory of this kind in this process, whoever's space it is: of another one it says what Linux can do.

        For hugetlb a free huge page is borrowed, if there is one.
        """
        return memory_like(kind, self if self.is_self else LinuxSpace.current())

    def open_pagemap(self) -> Pagemap:
        """Its ``/proc/PID/pagemap``. Raises NoSuchProcess, AccessDenied, KernelCannot."""
        return Pagemap(procfs.open_process_file(self.pid, "pagemap"), self, self.pid)

    def open_userfaultfd(self, features: int) -> Userfaultfd:
        """A userfaultfd that acts on this memory: only of the own process. Raises as :func:`open_userfaultfd`."""
        if not self.is_self:
            raise InvalidArgument(
                f"a userfaultfd acts on the process that makes it: none can be opened here for {self.label}",
                hint=f"pagescan.attach({self.pid}) gets one from it",
                pid=self.pid,
            )
        return open_userfaultfd(features)

    def clear_soft_dirty(self) -> None:
        """Reset the soft-dirty bits of the whole process. Raises NoSuchProcess, AccessDenied.

        Linux 3.11, 0f8975ec4db2 ("mm: soft-dirty bits for user memory changes tracking"). Without
        CONFIG_MEM_SOFT_DIRTY the write succeeds and does nothing.
        """
        procfs.write_process_file(self.pid, "clear_refs", b"4")

    def foreign_faults(self) -> int:
        """Page faults (minor and major) of all threads so far, but for those of the asking one."""
        if not self.is_self:
            return procfs.read_stat(self.pid).faults
        own = _faults(resource.RUSAGE_THREAD)
        for _ in range(_QUIET_ATTEMPTS):
            # Asking may fault by itself (after a reset of the soft-dirty bits every first write does), so this thread's
            # count has to be the same before and after everybody's.
            before, everybody, own = own, _faults(resource.RUSAGE_SELF), _faults(resource.RUSAGE_THREAD)
            if own == before:
                break
        return everybody - own

    def truly_swapped(self, pagemap: Pagemap, suspects: Regions) -> Regions:
        """Those of the suspects that are really in the swap, and no markers; see :mod:`.swapped`."""
        return truly_swapped(self, pagemap, suspects)

    def read(self, regions: Any) -> NDArray[np.uint8]:
        """The bytes of the regions (anything with ``starts`` and ``ends``, uint64 addresses), one after another.

        Raises InvalidArgument naming the page that cannot be read; NoSuchProcess; AccessDenied.
        """
        try:
            return memory.read_memory(self.pid, regions.starts, regions.ends)
        except OSError as error:
            if not self.is_self or error.errno not in (errno.EPERM, errno.ENOSYS):
                raise
        # A container's filter may forbid process_vm_readv(2) even of oneself; the file says the same.
        return memory.read_own_memory(regions.starts, regions.ends)

    def write(self, regions: Any, data: NDArray[np.uint8]) -> None:
        """Write the bytes of ``data`` over the regions, one after another. Protection against writing sees it.

        Raises InvalidArgument naming the page that cannot be written (those before it have been); NoSuchProcess;
        AccessDenied.
        """
        memory.write_memory(self.pid, regions.starts, regions.ends, data)

    def __repr__(self) -> str:
        return f"<LinuxSpace of {self.label}>"


def _faults(who: int) -> int:
    usage = resource.getrusage(who)
    return usage.ru_minflt + usage.ru_majflt


def gap_between(mappings: Sequence[Mapping], start: int, end: int) -> bool:
    """Whether [start, end) is not wholly covered by the mappings, which are sorted by address."""
    position = start
    for mapping in mappings:
        if mapping.start <= position < mapping.end:
            position = mapping.end
    return position < end


Pagemap._space_of = LinuxSpace
