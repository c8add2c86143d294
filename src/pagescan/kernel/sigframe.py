"""The x86-64 signal frame: a thread's whole state in its own memory, which ``rt_sigreturn`` puts back.

While a thread makes a call on somebody else's behalf its registers are not its own. If the tracer dies in that moment
nobody restores them, and the thread would run on with wrong ones. So its state is first written below its stack in the
form the kernel itself uses when it delivers a signal. The injected ``syscall`` is one that a ``ret`` follows, and the
frame begins with the address of libc's ``mov $15, %eax; syscall``: a thread left alone finishes the call, returns into
that, and is back where it was.

Layout: ``struct rt_sigframe`` in ``arch/x86/include/asm/sigframe.h``; ``struct ucontext``, ``struct sigcontext_64`` and
``struct _fpx_sw_bytes`` in ``arch/x86/include/uapi/asm/``. ``restore_sigcontext()`` and ``check_xstate_in_sigframe()``
read it. Linux 6.12.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .registers import (
    CS,
    EFLAGS,
    R8,
    R9,
    R10,
    R11,
    R12,
    R13,
    R14,
    R15,
    RAX,
    RBP,
    RBX,
    RCX,
    RDI,
    RDX,
    RIP,
    RSI,
    RSP,
    SS,
)

if TYPE_CHECKING:
    from .registers import Words

#: Bytes below the stack pointer that belong to the running function (System V ABI, AMD64 supplement, 3.2.2).
RED_ZONE = 128

UC_FP_XSTATE, UC_SIGCONTEXT_SS, UC_STRICT_RESTORE_SS = 1, 2, 4
_UC_FLAGS = UC_FP_XSTATE | UC_SIGCONTEXT_SS | UC_STRICT_RESTORE_SS
#: An alternative signal stack that sigaltstack(2) refuses: ``restore_altstack()`` then leaves the thread's own alone.
_INVALID_STACK_FLAGS = 0x100

_GENERAL = (R8, R9, R10, R11, R12, R13, R14, R15, RDI, RSI, RBP, RBX, RDX, RAX, RCX, RSP, RIP, EFLAGS)
_UCONTEXT = struct.Struct("=QQ QiIQ")  # uc_flags, uc_link, uc_stack: ss_sp, ss_flags, padding, ss_size
_SIGCONTEXT = struct.Struct("=18Q 4H 5Q 64x")  # general registers; cs gs fs ss; err trapno oldmask cr2 fpstate
assert _SIGCONTEXT.size == 256
_SIGINFO_SIZE = 128
#: pretcode, ucontext up to its signal mask of 8 bytes, siginfo.
FRAME_SIZE = 8 + _UCONTEXT.size + _SIGCONTEXT.size + 8 + _SIGINFO_SIZE
assert FRAME_SIZE == 440

# struct _fpx_sw_bytes, in the last 48 bytes of the 512 of the legacy area.
_SW_BYTES = struct.Struct("=IIQI28x")  # magic1, extended_size, xfeatures, xstate_size
_SW_OFFSET = 464
assert _SW_OFFSET + _SW_BYTES.size == 512
_HEADER_END = 576
FP_XSTATE_MAGIC1, FP_XSTATE_MAGIC2 = 0x46505853, 0x46505845
_MAGIC2 = struct.pack("=I", FP_XSTATE_MAGIC2)
_TILE_DATA, _TILE_DATA_SIZE = 18, 8192


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame ready to be written.

    Attributes:
        address: where its first byte belongs; the stack pointer with which the thread makes its call.
        data: its bytes, up to the end of the extended state.
    """

    address: int
    data: bytes

    @property
    def end(self) -> int:
        """One past its last byte (address)."""
        return self.address + len(self.data)


def signal_state(regset: bytes) -> bytes:
    """The extended state (``NT_X86_XSTATE``) in the form that signal frames have.

    ptrace gives the size of everything this processor could save, a signal frame must not be larger than what this
    thread may use: the 8 KiB of AMX tiles, always the last component, are left out of threads that hold none.

    Raises ValueError for a state without the XSAVE header.
    """
    if len(regset) <= _HEADER_END:
        raise ValueError("no extended state: the processor has no XSAVE")
    features, in_use = struct.unpack_from("=Q", regset, _SW_OFFSET)[0], struct.unpack_from("=Q", regset, 512)[0]
    size = len(regset)
    if size > _HEADER_END + _TILE_DATA_SIZE and not in_use >> _TILE_DATA & 1:
        size -= _TILE_DATA_SIZE
        features &= ~(1 << _TILE_DATA)
    marks = _SW_BYTES.pack(FP_XSTATE_MAGIC1, size + 4, features, size)
    return b"".join((regset[:_SW_OFFSET], marks, regset[512:size], _MAGIC2))


def build(words: Words, stack: int, state: bytes, mask: bytes, restorer: int) -> Frame:
    """The frame that brings a thread back to these registers.

    Args:
        words: the registers to come back to.
        stack: the stack pointer below whose red zone the frame goes.
        state: of :func:`signal_state`.
        mask: the blocked signals, 8 bytes.
        restorer: the address of the instructions that call ``rt_sigreturn``.
    """
    state_at = (stack - RED_ZONE - len(state)) & ~63  # XRSTOR wants 64
    address = (state_at - FRAME_SIZE) & ~15
    context = _UCONTEXT.pack(_UC_FLAGS, 0, 0, _INVALID_STACK_FLAGS, 0, 0)
    general = [words[index] for index in _GENERAL]
    segments = (words[CS] & 0xFFFF, 0, 0, words[SS] & 0xFFFF)
    context += _SIGCONTEXT.pack(*general, *segments, 0, 0, 0, 0, state_at)
    frame = struct.pack("=Q", restorer) + context + mask + bytes(_SIGINFO_SIZE)
    return Frame(address, frame.ljust(state_at - address, b"\0") + state)
