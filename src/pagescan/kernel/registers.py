"""The registers of a stopped thread, by architecture: how to have it make a system call, and how it goes on afterwards.

Everything here is a pure function over values, so the layout of every architecture can be tested on any.

What one needs to know: a thread that a ptrace stop took out of a blocking system call shows, in its registers, the
kernel's private "make this call again" (ERESTARTSYS and its like, ``include/linux/errno.h``). The kernel acts on it on
its way back to user mode, and only if the registers still show it then. So there are two ways on, and both are needed:
leave it to the kernel, or do by hand what the kernel would do, and have ``rt_sigreturn`` set those registers.

Sources: ``struct user_regs_struct`` and ``struct user_pt_regs`` in ``arch/{x86,arm64}/include/uapi/asm/ptrace.h``;
``arch_do_signal_or_restart()`` in ``arch/x86/kernel/signal.c``, ``do_signal()`` in ``arch/arm64/kernel/signal.c``;
Linux 6.12 and 7.3.
"""

from __future__ import annotations

import errno
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

from .ioctl import ABI
from .restarted import call_by_arguments, call_by_text

if TYPE_CHECKING:
    from collections.abc import Sequence

#: The registers of ``NT_PRSTATUS``, each an unsigned number of 64 bits, in the kernel's order.
Words = tuple[int, ...]
#: How much of the text before the instruction pointer :meth:`Layout.ways_on` wants to see.
CODE_BEFORE = 7

_MASK = (1 << 64) - 1
#: In the place of the call's number: "this thread is in no system call", so nothing is restarted.
NO_CALL = _MASK
# ``include/linux/errno.h``: never seen by user space.
ERESTARTSYS, ERESTARTNOINTR, ERESTARTNOHAND, ERESTART_RESTARTBLOCK = 512, 513, 514, 516


def signed(word: int) -> int:
    """A register as the signed number it holds."""
    return word - (1 << 64) if word >> 63 else word


class WaysOn(NamedTuple):
    """The registers with which a stopped thread goes on where it was.

    Attributes:
        by_kernel: set in the last stop before it runs: the kernel itself restarts a call it had interrupted.
        by_sigreturn: for a signal frame, with the restart already done. Right but for two things that only the kernel
            can do: ending the call if a signal comes before it is made again, and going on with what was left of a
            timeout.
        outside: it was in no call that has to be restarted, so that both are equally right.
    """

    by_kernel: Words
    by_sigreturn: Words
    outside: bool


class Layout(Protocol):
    """An architecture."""

    @property
    def name(self) -> str:
        """As :data:`.ioctl.ABI` says it."""

    @property
    def form(self) -> struct.Struct:
        """The register set in bytes; that of a 32-bit thread has another size."""

    @property
    def instruction(self) -> bytes:
        """The machine instruction that enters the kernel."""

    @property
    def alignment(self) -> int:
        """What the address of an instruction is a multiple of."""

    @property
    def close(self) -> int:
        """The number of close(2)."""

    @property
    def call_number_set(self) -> int | None:
        """``NT_*`` of a register set with the number of the call the thread is in (4 bytes), if the words lack it."""

    def instruction_pointer(self, words: Words) -> int: ...

    def stack_pointer(self, words: Words) -> int: ...

    def jump(self, words: Words, address: int) -> Words:
        """The same registers at another instruction, in no system call."""

    def calling(self, words: Words, at: int, number: int, arguments: Sequence[int], stack: int | None) -> Words:
        """The registers that make the thread execute the instruction ``at`` as this call, on this stack."""

    def result(self, words: Words) -> int:
        """What the call returned: a negative errno, or a value."""

    def in_call(self, words: Words) -> bool:
        """Whether it was surely a system call that brought the thread into the kernel."""

    def undue_eintr(self, words: Words) -> bool:
        """Whether a call ended with EINTR only because the thread was stopped, provided that no signal is due."""

    def wants_code(self, words: Words) -> bool:
        """Whether :meth:`ways_on` needs to see the text."""

    def ways_on(self, words: Words, code: bytes = b"") -> WaysOn:
        """How it goes on. ``code``: the CODE_BEFORE bytes of text right before its instruction pointer, if wanted."""


def _changed(words: Words, changes: dict[int, int]) -> Words:
    changed = list(words)
    for index, word in changes.items():
        changed[index] = word & _MASK
    return tuple(changed)


# --- x86-64 ----------------------------------------------------------------------------------------------------------

# struct user_regs_struct: r15 .. ss as below, fs_base, gs_base, ds, es, fs, gs.
_X86_FORM = struct.Struct("=27Q")
(R15, R14, R13, R12, RBP, RBX, R11, R10, R9, R8, RAX, RCX, RDX, RSI, RDI, ORIG_RAX, RIP, CS, EFLAGS, RSP, SS) = range(
    21
)
FS_BASE = 21
_X86_ARGUMENTS = (RDI, RSI, RDX, R10, R8, R9)
_X86_RESTART_SYSCALL = 219
#: Calls of which signal(7) says that they end with EINTR "after a stop signal": the kernel gives up restarting them,
#: though nothing was done yet, so that making them again loses nothing (a relative timeout starts anew). close(2) and
#: other calls that end with EINTR after their work was done are not among them.
X86_NEVER_RESTARTED = {
    "read": 0,  # from a socket with SO_RCVTIMEO
    "write": 1,  # to a socket with SO_SNDTIMEO; so all below
    "readv": 19,
    "writev": 20,
    "connect": 42,
    "accept": 43,
    "sendto": 44,
    "recvfrom": 45,
    "sendmsg": 46,
    "recvmsg": 47,
    "semop": 65,
    "rt_sigtimedwait": 128,
    "io_getevents": 208,
    "semtimedop": 220,
    "epoll_wait": 232,
    "epoll_pwait": 281,
    "accept4": 288,
    "recvmmsg": 299,
    "sendmmsg": 307,
    "io_pgetevents": 333,
    "io_uring_enter": 426,
    "epoll_pwait2": 441,
}
_X86_AGAIN = frozenset(X86_NEVER_RESTARTED.values())
_X86_EINTR, _X86_RESTARTBLOCK = -errno.EINTR & _MASK, -ERESTART_RESTARTBLOCK & _MASK
_X86_RESTARTED = frozenset({-ERESTARTSYS & _MASK, -ERESTARTNOINTR & _MASK, -ERESTARTNOHAND & _MASK, _X86_RESTARTBLOCK})


@dataclass(frozen=True, slots=True)
class X86_64:
    """64-bit x86. ``rax`` holds the result, ``orig_rax`` the number of the call the thread is in, or -1."""

    name: str = "x86_64"
    form: struct.Struct = _X86_FORM
    instruction: bytes = b"\x0f\x05"  # syscall
    alignment: int = 1
    close: int = 3
    call_number_set: int | None = None

    def instruction_pointer(self, words: Words) -> int:
        return words[RIP]

    def stack_pointer(self, words: Words) -> int:
        return words[RSP]

    def jump(self, words: Words, address: int) -> Words:
        return _changed(words, {RIP: address, ORIG_RAX: NO_CALL})

    def calling(self, words: Words, at: int, number: int, arguments: Sequence[int], stack: int | None) -> Words:
        changed = list(words)
        changed[RIP], changed[RAX], changed[ORIG_RAX] = at, number & _MASK, NO_CALL
        for index, argument in zip(_X86_ARGUMENTS, arguments, strict=False):
            changed[index] = argument & _MASK
        if stack is not None:
            changed[RSP] = stack
        return tuple(changed)

    def result(self, words: Words) -> int:
        return signed(words[RAX])

    def in_call(self, words: Words) -> bool:
        return not words[ORIG_RAX] >> 63

    def undue_eintr(self, words: Words) -> bool:
        return words[RAX] == _X86_EINTR and words[ORIG_RAX] in _X86_AGAIN

    def wants_code(self, words: Words) -> bool:
        return words[RAX] == _X86_RESTARTBLOCK and words[ORIG_RAX] == _X86_RESTART_SYSCALL

    def ways_on(self, words: Words, code: bytes = b"") -> WaysOn:
        if self.undue_eintr(words):
            again = self._again(words, words[ORIG_RAX])
            return WaysOn(again, again, outside=False)
        result, call = words[RAX], words[ORIG_RAX]
        if result not in _X86_RESTARTED or not self.in_call(words):
            return WaysOn(words, _changed(words, {ORIG_RAX: NO_CALL}), outside=True)
        if result != _X86_RESTARTBLOCK:
            return WaysOn(words, self._again(words, call), outside=False)
        # nanosleep, poll, futex with a timeout: restart_syscall goes on with what is left of it.
        first = self._restarted(words, code) if call == _X86_RESTART_SYSCALL else call
        ended = _changed(words, {RAX: -errno.EINTR, ORIG_RAX: NO_CALL})
        return WaysOn(words, ended if first is None else self._again(words, first), outside=False)

    def _restarted(self, words: Words, code: bytes) -> int | None:
        by_text = call_by_text(code)
        return call_by_arguments(words[RDI], words[RSI], words[RDX], words[R10]) if by_text is None else by_text

    def _again(self, words: Words, call: int) -> Words:
        """Back on the instruction that made the call (``syscall`` and ``int 0x80`` have two bytes each)."""
        changed = list(words)
        changed[RAX], changed[ORIG_RAX] = call, NO_CALL
        changed[RIP] = words[RIP] - len(self.instruction) & _MASK
        return tuple(changed)


# --- arm64 -----------------------------------------------------------------------------------------------------------

_ARM_FORM = struct.Struct("=34Q")
_SP, _PC, _X8 = 31, 32, 8
#: ``include/uapi/linux/elf.h``.
NT_ARM_SYSTEM_CALL = 0x404


@dataclass(frozen=True, slots=True)
class AArch64:
    """64-bit ARM: x0 to x30, sp, pc, pstate.

    Here the kernel rewinds the registers of an interrupted call *before* a tracer sees them ("so that a debugger will
    see the already changed PC", ``do_signal()``), so the words as found are the way on. What that lacks: a call that
    ended with EINTR has lost its first argument with it and cannot be repaired, and nanosleep and its like start their
    timeout anew instead of going on with the rest.
    """

    name: str = "aarch64"
    form: struct.Struct = _ARM_FORM
    instruction: bytes = b"\x01\x00\x00\xd4"  # svc #0
    alignment: int = 4
    close: int = 57
    call_number_set: int | None = NT_ARM_SYSTEM_CALL

    def instruction_pointer(self, words: Words) -> int:
        return words[_PC]

    def stack_pointer(self, words: Words) -> int:
        return words[_SP]

    def jump(self, words: Words, address: int) -> Words:
        return _changed(words, {_PC: address})

    def calling(self, words: Words, at: int, number: int, arguments: Sequence[int], stack: int | None) -> Words:
        changes = {_PC: at, _X8: number} | dict(enumerate(arguments[:6]))
        if stack is not None:
            changes[_SP] = stack
        return _changed(words, changes)

    def result(self, words: Words) -> int:
        return signed(words[0])

    def in_call(self, words: Words) -> bool:
        return False  # the registers do not tell

    def undue_eintr(self, words: Words) -> bool:
        return False

    def wants_code(self, words: Words) -> bool:
        return False

    def ways_on(self, words: Words, code: bytes = b"") -> WaysOn:
        return WaysOn(words, words, outside=False)


LAYOUTS: dict[str, Layout] = {layout.name: layout for layout in (X86_64(), AArch64())}


def current_layout() -> Layout | None:
    """The layout of the machine this Python runs on; None where pagescan has none (a 32-bit Python, riscv64, ...)."""
    return LAYOUTS.get(ABI)
