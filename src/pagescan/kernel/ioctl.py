"""Request numbers, system call numbers, and the call itself.

An ioctl request number packs four things: a direction, the size of the argument, a type letter and a number. Most
architectures pack them one way (``include/uapi/asm-generic/ioctl.h``), some another (their own ``asm/ioctl.h``). The
functions here are pure, so that the numbers of every architecture can be checked on any.

System call numbers: ``scripts/syscall.tbl`` and ``arch/*/.../syscall*.tbl``, Linux 7.3.
"""

from __future__ import annotations

import fcntl
import functools
import platform
import struct
from dataclasses import dataclass
from typing import Protocol

from ..errors import KernelCannot


class HasFileno(Protocol):
    """An open file; :func:`fcntl.ioctl` asks it for its descriptor, and a closed one refuses with ValueError."""

    def fileno(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Encoding:
    """How an architecture packs a request number.

    Attributes:
        size_bits: width of the argument size; the direction lies above it.
        none, write, read: the direction values. "write" means that the kernel reads the argument.
    """

    size_bits: int
    none: int
    write: int
    read: int

    def _request(self, direction: int, letter: int, number: int, size: int) -> int:
        return direction << (16 + self.size_bits) | size << 16 | letter << 8 | number

    def io(self, letter: int, number: int) -> int:
        """``_IO``: no argument structure."""
        return self._request(self.none, letter, number, 0)

    def ior(self, letter: int, number: int, size: int) -> int:
        """``_IOR``: the kernel writes ``size`` bytes (so says the name; userfaultfd uses it for input, too)."""
        return self._request(self.read, letter, number, size)

    def iow(self, letter: int, number: int, size: int) -> int:
        """``_IOW``: the kernel reads ``size`` bytes."""
        return self._request(self.write, letter, number, size)

    def iowr(self, letter: int, number: int, size: int) -> int:
        """``_IOWR``: both ways."""
        return self._request(self.write | self.read, letter, number, size)


GENERIC = Encoding(size_bits=14, none=0, write=1, read=2)  #: x86, arm, riscv, s390, loongarch, m68k, sh
POWERPC = Encoding(size_bits=13, none=1, write=4, read=2)  #: powerpc, mips, sparc, alpha
PARISC = Encoding(size_bits=14, none=0, write=2, read=1)


def abi_name(machine: str, pointer_bits: int) -> str:
    """The system call interface of a Python of ``pointer_bits`` on ``machine`` (as :func:`platform.machine` says it).

    A 32-bit Python on a 64-bit kernel speaks the 32-bit interface, whatever the machine's name.
    """
    name = machine.lower()
    if name in ("x86_64", "amd64") or (name.startswith("i") and name.endswith("86")):
        return "x86_64" if pointer_bits == 64 else "i386"
    if name in ("aarch64", "arm64") or name.startswith("arm"):
        return "aarch64" if pointer_bits == 64 else "arm"
    for family in ("riscv", "loongarch", "mips", "sparc", "alpha", "parisc"):
        if name.startswith(family):
            return f"{family}{pointer_bits}"
    return "powerpc" if name.startswith("ppc") else name


def encoding_for(abi: str) -> Encoding:
    """The request encoding of an interface named by :func:`abi_name`."""
    if abi.startswith(("powerpc", "mips", "sparc", "alpha")):
        return POWERPC
    return PARISC if abi.startswith("parisc") else GENERIC


#: ``userfaultfd(2)``, the only call pagescan makes whose number is not the same nearly everywhere.
_USERFAULTFD = {
    "x86_64": 323,
    "i386": 374,
    "aarch64": 282,
    "arm": 388,
    "riscv64": 282,
    "riscv32": 282,
    "loongarch64": 282,
    "s390x": 355,
    "powerpc": 364,
    "mips64": 5317,
    "mips32": 4357,
    "sparc64": 352,
    "alpha64": 516,
    "parisc64": 344,
    "parisc32": 344,
}
#: Calls since 5.3 have one number everywhere, plus an offset on two families.
_UNIFIED = {"pidfd_open": 434, "pidfd_getfd": 438, "process_madvise": 440}
_OFFSET = {"mips64": 5000, "mips32": 4000, "alpha64": 110}

ABI = abi_name(platform.machine(), 8 * struct.calcsize("P"))
ENCODING = encoding_for(ABI)


@functools.cache
def syscall_number(name: str, abi: str = ABI) -> int:
    """The number of ``userfaultfd``, ``pidfd_open``, ``pidfd_getfd`` or ``process_madvise``.

    Raises KernelCannot where pagescan does not know it; another number would be another call.
    """
    if name in _UNIFIED:
        return _UNIFIED[name] + _OFFSET.get(abi, 0)
    if name == "userfaultfd" and abi in _USERFAULTFD:
        return _USERFAULTFD[abi]
    raise KernelCannot(
        f"pagescan does not know the number of the system call {name} on {abi}",
        hint="pagescan.scan still shows every category but WRITTEN; tell us the number for this architecture",
    )


PAGEMAP_SCAN = ENCODING.iowr(ord("f"), 16, 96)
PROCMAP_QUERY = ENCODING.iowr(ord("f"), 17, 104)

UFFD_API = 0xAA
UFFDIO_API = ENCODING.iowr(UFFD_API, 0x3F, 24)
UFFDIO_REGISTER = ENCODING.iowr(UFFD_API, 0x00, 32)
UFFDIO_UNREGISTER = ENCODING.ior(UFFD_API, 0x01, 16)
UFFDIO_WAKE = ENCODING.ior(UFFD_API, 0x02, 16)
UFFDIO_WRITEPROTECT = ENCODING.iowr(UFFD_API, 0x06, 24)
UFFDIO_RWPROTECT = ENCODING.iowr(UFFD_API, 0x09, 24)
USERFAULTFD_IOC_NEW = ENCODING.io(UFFD_API, 0x00)


def ioctl(file: int | HasFileno, request: int, argument: bytearray | int) -> int:
    """One ioctl; ``argument`` is a structure, updated in place, or a number. Raises OSError with the kernel's errno.

    What the kernel writes before it returns an error is lost from Python 3.14 on; nothing here needs it.
    A call that a signal interrupted (EINTR) is made again. PAGEMAP_SCAN ends with EINTR only for a signal that kills
    (``mmap_read_lock_killable()`` in ``fs/proc/task_mmu.c``), so its hot path does without this.
    """
    while True:
        try:
            return int(fcntl.ioctl(file, request, argument))
        except InterruptedError:
            continue
