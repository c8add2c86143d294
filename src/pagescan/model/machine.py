"""The machine: physical memory, files and processes, behaving like one kernel release."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from ..errors import InvalidArgument
from .behaviour import BEHAVIOURS, BUGS, Behaviour
from .mm import THP_MODES, Mm
from .physical import File, PhysicalMemory
from .process import Process
from .vma import Vma

if TYPE_CHECKING:
    from collections.abc import Collection


class Machine:
    """A computer in Python, with the part of Linux that page tracking sees.

    Args:
        page_size: bytes of a page: a power of two from 4096 to 65536. A PMD range, and with it a huge page, has
            page_size / 8 pages (4096: 2 MiB).
        bugs: names of kernel bugs to have (:data:`pagescan.model.BUGS`); none by default. The ones a release really
            has are ``KERNEL_BUGS[release]``.
        behaviour: the release to behave like: "6.7", "6.12", "6.18" or "7.3" (:data:`pagescan.model.BEHAVIOURS`); or a
            :class:`Behaviour` of one's own, for a kernel that carries fixes of another release.
        swap: whether ``madvise(..., "pageout")`` finds swap to write to.
        thp: where transparent huge pages come from: "madvise" (only where MADV_HUGEPAGE asks for them), "always" or
            "never", as in ``/sys/kernel/mm/transparent_hugepage/enabled``.
        soft_dirty: whether the kernel has soft-dirty bits, in the pagemap file (CONFIG_MEM_SOFT_DIRTY). Only for "6.7":
            later releases report them through PAGEMAP_SCAN too, which the model does not.

    Attributes:
        memory: all page frames.
        processes: those alive.
    """

    def __init__(
        self,
        page_size: int = 4096,
        bugs: Collection[str] = (),
        behaviour: str | Behaviour = "6.18",
        *,
        swap: bool = True,
        thp: str = "madvise",
        soft_dirty: bool = False,
    ):
        if page_size not in (4096, 8192, 16384, 32768, 65536):
            raise InvalidArgument(f"page_size = {page_size!r}", hint="use a power of two from 4096 to 65536")
        if not isinstance(behaviour, Behaviour) and behaviour not in BEHAVIOURS:
            raise InvalidArgument(f"behaviour = {behaviour!r}", hint=f"use one of {', '.join(BEHAVIOURS)}")
        if thp not in THP_MODES:
            raise InvalidArgument(f"thp = {thp!r}", hint=f"use one of {', '.join(THP_MODES)}")
        unknown = sorted(set(bugs) - BUGS)
        if unknown:
            raise InvalidArgument(f"no bug is called {unknown[0]!r}", hint=f"they are {', '.join(sorted(BUGS))}")
        self.soft_dirty = soft_dirty
        self.page_size = page_size
        self.bugs = frozenset(bugs)
        self.behaviour = behaviour if isinstance(behaviour, Behaviour) else BEHAVIOURS[behaviour]
        self.thp = thp
        if soft_dirty and self.behaviour.knows_soft_dirty:
            raise InvalidArgument(
                f"the model of {self.behaviour.name} has no soft-dirty bits",
                hint='use Machine(behaviour="6.7", soft_dirty=True)',
            )
        self.has_swap = swap
        self.memory = PhysicalMemory(page_size)
        self.processes: list[Process] = []
        self._pids = itertools.count(1)

    def process(self, *, system_mappings: bool = False) -> Process:
        """A new process, its address space empty; or with [vvar], [vdso] and a [stack] that grows down."""
        process = self.adopt(Mm(self.memory, self.behaviour, self.thp, soft_dirty=self.soft_dirty))
        if system_mappings:
            self._map_system(process)
        return process

    def twin(self) -> Machine:
        """Another machine that behaves alike, with nothing on it."""
        return Machine(
            self.page_size, self.bugs, self.behaviour, swap=self.has_swap, thp=self.thp, soft_dirty=self.soft_dirty
        )

    def _map_system(self, process: Process) -> None:
        size = self.page_size
        base = 0x7FFE_0000_0000
        process.mmap(32 * size, fixed=base, grows_down=True, name="[stack]")
        code = self.file(2 * size, name="[vdso]")
        vmas = process.mm.vmas
        vmas.add(
            Vma(base + 64 * size, base + 68 * size, "r", pfnmap=True, special=True, may_write=False, name="[vvar]")
        )
        vmas.add(Vma(base + 68 * size, base + 70 * size, "rx", file=code, special=True, name="[vdso]"))

    def adopt(self, mm: Mm) -> Process:
        """A process around an address space."""
        process = Process(self, next(self._pids), mm)
        self.processes.append(process)
        return process

    def forget(self, process: Process) -> None:
        self.processes.remove(process)

    def address_spaces(self) -> list[Mm]:
        """Of every process that is alive."""
        return [process.mm for process in self.processes]

    def file(
        self, length: int, contents: bytes = b"", *, name: str = "", kind: str = "file", writable: bool = True
    ) -> File:
        """A file of ``length`` bytes, or shared memory (``kind="shmem"``), to map as often as one likes."""
        default = {"shmem": "/memfd:model (deleted)", "hugetlb": "/anon_hugepage (deleted)"}.get(kind, "/model/file")
        file = File(self.memory, length, name=name or default, kind=kind, writable=writable)
        if contents:
            file.write(0, contents)
        return file

    def punch(self, file: File, first: int, last: int) -> None:
        """Take pages [first, last) out of a file and of every page table (hole punch, MADV_REMOVE): zeros then.

        Nothing that was protected becomes WRITTEN by it, although its contents change.
        """
        for mm in self.address_spaces():
            for vma in mm.vmas:
                if vma.file is not file:
                    continue
                begin = vma.start // mm.page_size
                low = max(begin, begin + first - vma.offset)
                high = min(vma.end // mm.page_size, begin + last - vma.offset)
                if low < high:
                    mm.zap_file_pages(vma, low, high)
        file.drop(first, last)
