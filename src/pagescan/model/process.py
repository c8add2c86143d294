"""A process of the model: what a program can do to its memory, and what others can see of it.

It is an :class:`pagescan.abi.AddressSpace`, so everything that works on a Linux process works on it.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from ..abi import Mapping, PlainGapFinder, TrackingProof
from ..ranges import Regions
from . import advice, faults, remap, swap
from .behaviour import MREMAP_DROPS_NEIGHBOUR
from .buffer import Buffer
from .followed import Followed
from .fork import fork
from .likeness import memory_like
from .mm import TASK_SIZE, Mm, error
from .pages import SWAP
from .proof import prove_tracking
from .scan import Pagemap
from .userfaultfd import Userfaultfd
from .vma import Vma

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager

    from numpy.typing import NDArray

    from ..abi import GapFinder, MemoryKind, TrialMemory
    from .machine import Machine
    from .physical import File

_KINDS = ("anonymous", "shmem", "file", "hugetlb")
#: Where mappings without an address of their own are put: each at a PMD boundary, with a gap before the next.
_MMAP_BASE = 0x7000_0000_0000


class Process(Followed):
    """One process. Made by :meth:`Machine.process` and :meth:`fork`.

    Attributes:
        machine: the machine it runs on.
        pid: its number.
        page_size: bytes.
        mm: its address space (mappings and page tables), for those who want to look inside.
        pagemap: an open :class:`Pagemap` of it.
    """

    engines: tuple[str, ...] = ("model", "pagemap-read", "soft-dirty", "compare")

    def __init__(self, machine: Machine, pid: int, mm: Mm):
        self.machine = machine
        self.pid = pid
        self.page_size = machine.page_size
        self.mm = mm
        self.pagemap = Pagemap(self)
        self._next = _MMAP_BASE

    @property
    def label(self) -> str:
        """For messages."""
        return f"model process {self.pid}"

    def __repr__(self) -> str:
        return f"<{self.label}: {len(self.mm.vmas)} mappings, {len(self.mm.tables)} page tables>"

    # -- system calls ------------------------------------------------------------------------------------------------

    def mmap(
        self,
        length: int,
        kind: str = "anonymous",
        *,
        shared: bool | None = None,
        thp: bool = False,
        fixed: int | None = None,
        prot: str = "rw",
        file: File | None = None,
        offset: int = 0,
        grows_down: bool = False,
        name: str = "",
    ) -> int:
        """``mmap(2)``; returns the address.

        Args:
            length: bytes, rounded up to pages (hugetlb: huge pages).
            kind: "anonymous", "shmem" (memfd, tmpfs), "file" or "hugetlb".
            shared: MAP_SHARED; by default only shmem is. Shared anonymous memory is shmem.
            thp: MADV_HUGEPAGE: the first fault of an untouched PMD range maps a huge page.
            fixed: MAP_FIXED: this address; what is mapped there is unmapped.
            prot: "none", or some of "rwx".
            file: map this file (:meth:`Machine.file`) instead of a new one; ``offset`` is in bytes.
            grows_down: like a stack.
        """
        if kind not in _KINDS or length <= 0:
            raise error(errno.EINVAL, f"mmap: {length} bytes of kind {kind!r}; kinds are {', '.join(_KINDS)}")
        unit = self.mm.pmd_size if kind == "hugetlb" else self.page_size
        length = -(-length // unit) * unit
        shared = kind == "shmem" if shared is None else shared
        kind = "shmem" if kind == "anonymous" and shared else kind
        if file is None and kind != "anonymous":
            file = self.machine.file(length, kind=kind)
        address = self._place(length, fixed, unit)
        self.mm.unmap(address, address + length)
        self.mm.vmas.add(
            Vma(
                start=address,
                end=address + length,
                prot=_prot(prot),
                shared=shared,
                file=file,
                offset=offset // self.page_size if file else address // self.page_size,
                account="w" in _prot(prot) and not shared and kind != "hugetlb",
                grows_down=grows_down,
                may_write=not (shared and file is not None and not file.writable),
                name=name,
            )
        )
        self.mm.vmas.merge(address)
        if thp:
            self.mm.change(address, address + length, thp=True)
        return address

    def _place(self, length: int, fixed: int | None, unit: int) -> int:
        if fixed is not None:
            if fixed % unit or fixed < 65536 or fixed + length > TASK_SIZE:
                raise error(errno.EINVAL, f"mmap: {fixed:#x} is no place for {length} bytes")
            return fixed
        size = self.mm.pmd_size
        while self.mm.vmas.between(self._next, self._next + length):
            self._next += size
        address = self._next
        self._next += -(-length // size) * size + size
        return address

    def munmap(self, address: int, length: int) -> None:
        """``munmap(2)``."""
        if length <= 0:
            raise error(errno.EINVAL, "munmap: no length")
        self.mm.unmap(address, self.mm.check_range(address, length, "munmap"))

    def mprotect(self, address: int, length: int, prot: str) -> None:
        """``mprotect(2)``: "none", or some of "rwx". The userfaultfd bits stay as they are. ENOMEM: a gap."""
        end = self.mm.check_range(address, length, "mprotect")
        position = address
        for vma, first, last in list(self.mm.pieces(address, end)):
            if first * self.page_size > position:
                break
            if "w" in _prot(prot) and not vma.may_write:
                raise error(errno.EACCES, f"mprotect: {vma.start:#x} maps a file that is open for reading only")
            self.mm.change(first * self.page_size, last * self.page_size, prot=_prot(prot), account=_account(vma, prot))
            position = last * self.page_size
        if position < end:
            raise error(errno.ENOMEM, f"mprotect: {position:#x} is not mapped")

    def madvise(self, address: int, length: int, what: str) -> None:
        """``madvise(2)``: "dontneed", "free", "remove", "pageout", "collapse", "guard_install" ... (advice.ADVICE)."""
        advice.madvise(self.machine, self.mm, address, length, what)

    def mremap(self, address: int, old: int, new: int, *, to: int | None = None, may_move: bool = True) -> int:
        """``mremap(2)``; returns the address. ``to`` is MREMAP_FIXED. ENOMEM: it cannot grow where it is."""
        size = self.page_size
        old, new = -(-old // size) * size, -(-new // size) * size
        if to is None and remap.resize(self.mm, address, old, new):
            return address
        if to is None and not may_move:
            raise error(errno.ENOMEM, f"mremap: {address:#x} cannot grow in place")
        target = self._place(new, None, size) if to is None else to
        merges_first = MREMAP_DROPS_NEIGHBOUR in self.machine.bugs
        remap.move(self.mm, address, old, new, target, merges_first=merges_first)
        return target

    def fork(self) -> Process:
        """``fork(2)``: the child."""
        child = self.machine.adopt(fork(self.mm))
        child._next = self._next
        return child

    def exit(self) -> None:
        """The process ends; its memory goes. Open descriptors of it stay, and say so."""
        self.mm.close()
        self.machine.forget(self)

    # -- memory ------------------------------------------------------------------------------------------------------

    def write(self, where: Any, data: Any) -> None:
        """``write(address, data)``: write bytes, as the program would: with page faults. ``write(regions, data)``: over
        the regions, one after another (``process_vm_writev``). Raises SegmentationFault, BusError or FaultBlocks."""
        content = np.frombuffer(data, dtype=np.uint8)
        if hasattr(where, "starts"):
            position = 0
            for start, end in zip(where.starts.tolist(), where.ends.tolist(), strict=True):
                self._write_at(start, content[position : position + end - start])
                position += end - start
        else:
            self._write_at(int(where), content)

    def _write_at(self, address: int, content: NDArray[np.uint8]) -> None:
        if not len(content):
            return
        try:
            faults.fault(self.mm, address, address + len(content), write=True)
        except OSError:
            # Pages before the bad one were written; see how far that is.
            self._store(address, content[: self._present_from(address, len(content))])
            raise
        self._store(address, content)

    def _present_from(self, address: int, length: int) -> int:
        """How many bytes from here on lie in pages that a write reaches without a fault."""
        size = self.page_size
        done = 0
        while done < length:
            step = size - (address + done) % size
            try:
                faults.fault(self.mm, address + done, address + done + 1, write=True)
            except OSError:
                break
            done += step
        return min(done, length)

    def _store(self, address: int, content: NDArray[np.uint8]) -> None:
        size = self.page_size
        first, last = self.mm.pages(address, address + len(content))
        frames = self.mm.tables.frames_of(first, last).tolist()
        position = 0
        for page, frame in zip(range(first, last), frames, strict=True):
            within = address + position - page * size
            count = min(size - within, len(content) - position)
            self.machine.memory.write(frame, within, content[position : position + count])
            position += count

    def touch(self, addresses: NDArray[Any]) -> None:
        """Write to one byte of the page of each address (any order), without changing it. For many pages at once."""
        pages = np.unique(np.asarray(addresses, dtype=np.uint64) // np.uint64(self.page_size)).astype(np.int64)
        faults.fault_pages(self.mm, pages, write=True)

    @overload
    def read(self, where: int, length: int) -> bytes: ...
    @overload
    def read(self, where: Any, length: None = None) -> NDArray[np.uint8]: ...
    def read(self, where: Any, length: int | None = None) -> bytes | NDArray[np.uint8]:
        """``read(address, n)``: n bytes, as the program would, with faults. ``read(regions)``: their bytes, in order.

        Reading regions is what another process does (``process_vm_readv``): it faults too.
        """
        if length is not None:
            return self._load(int(where), int(where) + length).tobytes()
        parts = [self._load(s, e) for s, e in zip(where.starts.tolist(), where.ends.tolist(), strict=True)]
        return np.concatenate(parts) if parts else np.zeros(0, dtype=np.uint8)

    def _load(self, start: int, end: int) -> NDArray[np.uint8]:
        if end <= start:
            return np.zeros(0, dtype=np.uint8)
        faults.fault(self.mm, start, end, write=False)
        first, last = self.mm.pages(start, end)
        flat = self.machine.memory.gather(self.mm.tables.frames_of(first, last)).reshape(-1)
        return flat[start - first * self.page_size : end - first * self.page_size]

    def swap_out(self, address: int, length: int) -> None:
        """Write the pages of this range to swap, whether or not the machine is short of memory."""
        end = self.mm.check_range(address, length, "swap_out")
        for vma, first, last in self.mm.pieces(address, end):
            swap.swap_out(self.mm, vma, first, last)

    def buffer(self, address: int, length: int, itemsize: int = 1) -> Buffer:
        """A piece of this process's memory, to give to ``pagescan.track``, ``scan`` and the like."""
        return Buffer(self, address, length, itemsize)

    # -- what others see -----------------------------------------------------------------------------------------------

    def mappings(self) -> Sequence[Mapping]:
        """Every mapping, by address."""
        return [self._mapping(vma) for vma in self.mm.vmas]

    def mapping_at(self, address: int) -> Mapping | None:
        """The mapping that holds this address."""
        vma = self.mm.vmas.find(address)
        return self._mapping(vma) if vma is not None else None

    def _mapping(self, vma: Vma) -> Mapping:
        prot = "".join(letter if letter in vma.prot else "-" for letter in "rwx")
        return Mapping(
            start=vma.start,
            end=vma.end,
            perms=prot + ("s" if vma.shared else "p"),
            offset=vma.offset * self.page_size if vma.file else 0,
            device="00:01" if vma.file else "00:00",
            inode=vma.file.inode if vma.file else 0,
            name=vma.file.name if vma.file else vma.name,
            page_size=self.mm.pmd_size if vma.hugetlb else self.page_size,
        )

    def is_droppable(self, mapping: Mapping) -> bool:
        """No: the model has no MAP_DROPPABLE."""
        return False

    def has_gap(self, start: int, end: int) -> bool:
        """Whether any page of [start, end) is not mapped."""
        return not self.mm.vmas.covers(start, end)

    def gap_finder(self) -> GapFinder:
        """:meth:`has_gap`; nothing need be made ready."""
        return PlainGapFinder(self)

    def prove_tracking(self) -> TrackingProof:
        """Whether written pages can be tracked on this machine, by a round trip."""
        return prove_tracking(self.machine)

    def trial(self, kind: MemoryKind) -> AbstractContextManager[TrialMemory]:
        """Fresh memory of this kind, on a machine like this process's."""
        return memory_like(kind, self.machine)

    def clear_soft_dirty(self) -> None:
        """``4`` to ``/proc/PID/clear_refs``. Accepted also by a machine without soft-dirty bits, and without effect."""
        self.mm.clear_soft_dirty()

    def foreign_faults(self) -> int:
        """None: the model's processes have one thread."""
        return 0

    def truly_swapped(self, pagemap: Any, suspects: Regions) -> Regions:
        """Those of the suspects that are swapped out, and no markers or guards."""
        found = [Regions.empty(page_size=self.page_size)]
        for region in suspects:
            pages = np.arange(region.start // self.page_size, region.end // self.page_size)
            swapped = pages[(self.mm.tables.entries_of(pages) & SWAP) != 0]
            found.append(Regions.from_pages(swapped.astype(np.uint64) * self.page_size, page_size=self.page_size))
        return Regions.union(found)

    def open_pagemap(self) -> Pagemap:
        """``open("/proc/PID/pagemap")``."""
        if not self.mm.alive:
            raise error(errno.ESRCH, f"{self.label} has exited")
        return Pagemap(self)

    def open_userfaultfd(self, features: int) -> Userfaultfd:
        """``userfaultfd(2)`` and UFFDIO_API. EINVAL: a feature this release does not have."""
        return Userfaultfd(self, features)


def _account(vma: Vma, prot: str) -> bool:
    """VM_ACCOUNT after mprotect: what was never written to and can no longer be gives its charge back."""
    if "w" in prot:
        return vma.account or not (vma.shared or vma.hugetlb or "w" in vma.prot)
    return vma.account and not (vma.anonymous and not vma.has_anon)


def _prot(prot: str) -> str:
    if prot != "none" and (not prot or set(prot) - set("rwx")):
        raise error(errno.EINVAL, f'prot = {prot!r} is neither "none" nor some of "rwx"')
    return "" if prot == "none" else "".join(letter for letter in "rwx" if letter in prot)
