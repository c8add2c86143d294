"""userfaultfd: the handshake, which mappings can be registered, and protecting them.

The model has the part that tracking needs: WP and RWP modes, synchronous and asynchronous. Nobody reads events: a fault
that would wait for a reader raises :class:`faults.FaultBlocks`. Source: ``fs/userfaultfd.c``, ``mm/userfaultfd.c``.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Self

from ..abi import Feature, RegisterMode
from ..errors import Closed
from .mm import TASK_SIZE, Mm, error
from .protect import protect, unprotect
from .vma import Context, Vma

if TYPE_CHECKING:
    from .process import Process

_WAKE, _COPY, _ZEROPAGE, _MOVE, _WRITEPROTECT, _CONTINUE, _POISON, _RWPROTECT = (1 << n for n in range(2, 10))
_BASIC = _WAKE | _COPY | _WRITEPROTECT | _CONTINUE | _POISON


class Userfaultfd:
    """A userfaultfd of a model process, after its UFFDIO_API. Every method raises OSError with the kernel's errno.

    Attributes:
        features: the ones asked for and granted.
        space: the process that created it; it acts on that one only.
    """

    def __init__(self, process: Process, features: int):
        offered = process.mm.behaviour.userfaultfd_features
        if features & ~offered:
            raise error(errno.EINVAL, f"UFFDIO_API: features {features & ~offered:#x} are unknown to this kernel")
        enabled = features | (Feature.WP_UNPOPULATED if features & Feature.WP_ASYNC else 0)
        if enabled & Feature.RWP_ASYNC and not enabled & Feature.RWP:
            raise error(errno.EINVAL, "UFFDIO_API: RWP_ASYNC needs RWP")
        self.space = process
        self.features = int(features)
        self.context = Context(enabled)
        self.closed = False
        self._mm = process.mm

    def register(self, start: int, length: int, mode: int = RegisterMode.WP) -> int:
        """UFFDIO_REGISTER; returns the ioctls the range allows, as bits."""
        self._check_open()
        known = RegisterMode.MISSING | RegisterMode.WP | RegisterMode.MINOR
        if self._mm.behaviour.knows_accessed:
            known |= RegisterMode.RWP
        if not mode or mode & ~int(known):
            raise error(errno.EINVAL, f"UFFDIO_REGISTER: mode {mode:#x}")
        if mode & RegisterMode.RWP and (mode & RegisterMode.WP or not self.context.features & Feature.RWP):
            raise error(errno.EINVAL, "UFFDIO_REGISTER: RWP needs its feature, and does not go with WP")
        end = self._validate(start, length, "UFFDIO_REGISTER")
        vmas = self._vmas(start, end)
        for vma in vmas:
            self._check_registrable(vma, end, mode)
        for vma, first, last in list(self._mm.pieces(start, end)):
            if vma.context is self.context and vma.mode & mode == mode:
                continue
            size = self._mm.page_size
            self._mm.change(first * size, last * size, context=self.context, mode=mode)
        return self._ioctls(any(v.hugetlb for v in vmas), mode)

    def _ioctls(self, hugetlb: bool, mode: int) -> int:
        allowed = _BASIC if hugetlb else _BASIC | _ZEROPAGE | _MOVE
        if not mode & RegisterMode.WP:
            allowed &= ~_WRITEPROTECT
        if not mode & RegisterMode.MINOR:
            allowed &= ~_CONTINUE
        return allowed | (_RWPROTECT if mode & RegisterMode.RWP else 0)

    def _validate(self, start: int, length: int, what: str) -> int:
        """``validate_range()``."""
        size = self._mm.page_size
        if start % size or length % size or length <= 0 or not 65536 <= start < TASK_SIZE or length > TASK_SIZE - start:
            raise error(errno.EINVAL, f"{what}: {start:#x} + {length:#x} is no range of whole pages")
        if not self._mm.alive:
            raise error(errno.ENOMEM, f"{what}: the process has exited")
        return start + length

    def _vmas(self, start: int, end: int) -> list[Vma]:
        vmas = self._mm.vmas.between(start, end)
        if not vmas:
            raise error(errno.EINVAL, f"nothing is mapped in {start:#x}-{end:#x}")
        if vmas[0].hugetlb and start % self._mm.pmd_size:
            raise error(errno.EINVAL, f"{start:#x} lies inside a huge page")
        return vmas

    def _check_registrable(self, vma: Vma, end: int, mode: int) -> None:
        if not self._can_register(vma, mode):
            raise error(errno.EINVAL, f"UFFDIO_REGISTER: not for the mapping {vma.start:#x}-{vma.end:#x} {vma.name}")
        if not vma.may_write:
            raise error(errno.EPERM, f"UFFDIO_REGISTER: {vma.start:#x}-{vma.end:#x} can never be writable")
        if vma.hugetlb and vma.start < end <= vma.end and end % self._mm.pmd_size:
            raise error(errno.EINVAL, f"UFFDIO_REGISTER: {end:#x} lies inside a huge page")
        if vma.context is not None and vma.context is not self.context:
            raise error(errno.EBUSY, f"UFFDIO_REGISTER: {vma.start:#x}-{vma.end:#x} belongs to another userfaultfd")
        if self._mm.behaviour.dropping_wp_is_busy and vma.wp and not mode & RegisterMode.WP:
            raise error(errno.EBUSY, "UFFDIO_REGISTER: WP cannot be dropped by registering again")

    def _can_register(self, vma: Vma, mode: int) -> bool:
        """``vma_can_userfault()``: asynchronous WP alone takes any memory, the rest anonymous and shared memory."""
        if vma.special and self._mm.behaviour.refuses_special:
            return False
        kind = vma.file.kind if vma.file else "anonymous"
        if mode & RegisterMode.MINOR and kind not in ("shmem", "hugetlb"):
            return False
        if self.context.wp_async and mode == RegisterMode.WP:
            return True
        return kind != "file"

    def unregister(self, start: int, length: int) -> None:
        """UFFDIO_UNREGISTER: the bits are cleared at once, and everything is unprotected."""
        self._check_open()
        end = self._validate(start, length, "UFFDIO_UNREGISTER")
        for vma in self._vmas(start, end):
            if vma.context not in (None, self.context) and self._mm.behaviour.only_owner_unregisters:
                raise error(errno.EINVAL, "UFFDIO_UNREGISTER: the range belongs to another userfaultfd")
            if not self._can_register(vma, vma.mode):
                raise error(errno.EINVAL, f"UFFDIO_UNREGISTER: {vma.start:#x}-{vma.end:#x} cannot be registered")
        self._clear(start, end)

    def _clear(self, start: int, end: int) -> None:
        for vma, first, last in list(self._mm.pieces(start, end)):
            if vma.context is not self.context:
                continue
            low, high = first * self._mm.page_size, last * self._mm.page_size
            if vma.wp or vma.rwp:
                unprotect(self._mm, vma, first, last)
            # EINVAL: the end lies inside a hugetlb page; what came before is unregistered all the same.
            self._mm.isolate(low, high)
            self._mm.change(low, high, context=None, mode=0)

    def writeprotect(self, start: int, length: int, *, protect: bool = True) -> None:
        """UFFDIO_WRITEPROTECT: protect the pages (or with ``protect=False`` clear the bits). ENOENT: not registered."""
        self._range(start, length, RegisterMode.WP, "UFFDIO_WRITEPROTECT", protect)

    def rwprotect(self, start: int, length: int, *, protect: bool = True) -> None:
        """UFFDIO_RWPROTECT (7.3): from now on PAGE_IS_ACCESSED tells which pages were touched."""
        if not self._mm.behaviour.knows_accessed:
            raise error(errno.EINVAL, "UFFDIO_RWPROTECT: unknown to this kernel")
        self._range(start, length, RegisterMode.RWP, "UFFDIO_RWPROTECT", protect)

    def _range(self, start: int, length: int, mode: int, what: str, on: bool) -> None:
        self._check_open()
        end = self._validate(start, length, what)
        pieces = list(self._mm.pieces(start, end))
        if not pieces:
            raise error(errno.ENOENT, f"{what}: nothing is mapped in {start:#x}-{end:#x}")
        for vma, first, last in pieces:
            if not vma.mode & mode:
                raise error(errno.ENOENT, f"{what}: {vma.start:#x}-{vma.end:#x} is not registered for it")
            if vma.hugetlb and (start % self._mm.pmd_size or length % self._mm.pmd_size):
                raise error(errno.EINVAL, f"{what}: not whole huge pages")
            (protect if on else unprotect)(self._mm, vma, first, last)

    def close(self) -> None:
        """Close the descriptor: every mapping of it is unregistered, its bits cleared."""
        if self.closed:
            return
        self.closed = True
        for mm in self.space.machine.address_spaces():
            for vma in mm.vmas:
                if vma.context is self.context:
                    _release(mm, vma)

    def _check_open(self) -> None:
        if self.closed:
            raise Closed("the userfaultfd is closed", hint="open another one: process.open_userfaultfd(features)")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _release(mm: Mm, vma: Vma) -> None:
    if vma.wp or vma.rwp:
        unprotect(mm, vma, *mm.pages(vma.start, vma.end))
    mm.change(vma.start, vma.end, context=None, mode=0)
