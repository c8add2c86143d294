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

import operator
import struct
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
    from .ptrace import Room
    from .registers import Words

#: Bytes below the stack pointer that belong to the running function (System V ABI, AMD64 supplement, 3.2.2).
RED_ZONE = 128

UC_FP_XSTATE, UC_SIGCONTEXT_SS, UC_STRICT_RESTORE_SS = 1, 2, 4
_UC_FLAGS = UC_FP_XSTATE | UC_SIGCONTEXT_SS | UC_STRICT_RESTORE_SS
#: An alternative signal stack that sigaltstack(2) refuses: ``restore_altstack()`` then leaves the thread's own alone.
_INVALID_STACK_FLAGS = 0x100

_GENERAL = operator.itemgetter(
    R8, R9, R10, R11, R12, R13, R14, R15, RDI, RSI, RBP, RBX, RDX, RAX, RCX, RSP, RIP, EFLAGS
)  # fmt: skip
# pretcode; struct ucontext: uc_flags, uc_link; uc_stack: ss_sp, ss_flags, padding, ss_size; struct sigcontext_64:
# general registers; cs gs fs ss; err, trapno, oldmask, cr2, fpstate, 8 reserved; then the signal mask of 8 bytes.
_HEAD = struct.Struct("=Q QQ QiIQ 18Q 4H 5Q 64x Q")
_CONTEXT = (_UC_FLAGS, 0, 0, _INVALID_STACK_FLAGS, 0, 0)
_SIGINFO_SIZE = 128
FRAME_SIZE = _HEAD.size + _SIGINFO_SIZE
assert FRAME_SIZE == 440
#: Where the extended state stands: its address is a multiple of 64 (XRSTOR wants that), the frame's one of 16.
STATE_AT = 448

# struct _fpx_sw_bytes, in the last 48 bytes of the 512 of the legacy area.
_SW_BYTES = struct.Struct("=IIQI28x")  # magic1, extended_size, xfeatures, xstate_size
_SW_OFFSET = 464
assert _SW_OFFSET + _SW_BYTES.size == 512
_HEADER_END = 576
FP_XSTATE_MAGIC1, FP_XSTATE_MAGIC2 = 0x46505853, 0x46505845
_MAGIC2 = struct.Struct("=I")
_FEATURES = struct.Struct("=Q 40x Q")  # xfeatures as ptrace leaves it there, and XSTATE_BV of the XSAVE header
_TILE_DATA, _TILE_DATA_SIZE = 18, 8192


def build(room: bytearray | Room, size: int, words: Words, stack: int, mask: int, restorer: int) -> tuple[int, int]:
    """Make the frame that brings a thread back to these registers.

    ptrace gives the size of everything this processor could save, a signal frame must not be larger than what this
    thread may use: the 8 KiB of AMX tiles, always the last component, are left out of threads that hold none.

    Args:
        room: where to make it: zeros, and from STATE_AT on the extended state as ptrace gives it (``NT_X86_XSTATE``).
        size: bytes of that state.
        words: the registers to come back to.
        stack: the stack pointer below whose red zone the frame goes.
        mask: the blocked signals.
        restorer: the address of the instructions that call ``rt_sigreturn``.

    Returns the address where its first byte belongs, which is the stack pointer with which the thread makes its call;
    and its size. Raises ValueError for a state without the XSAVE header, or one too large.
    """
    if size <= _HEADER_END:
        raise ValueError("no extended state: the processor has no XSAVE")
    features, in_use = _FEATURES.unpack_from(room, STATE_AT + _SW_OFFSET)
    if size > _HEADER_END + _TILE_DATA_SIZE and not in_use >> _TILE_DATA & 1:
        size -= _TILE_DATA_SIZE
        features &= ~(1 << _TILE_DATA)
    whole = STATE_AT + size + _MAGIC2.size
    if whole > len(room):
        raise ValueError("the processor has more extended state than there is room for")
    _SW_BYTES.pack_into(room, STATE_AT + _SW_OFFSET, FP_XSTATE_MAGIC1, size + _MAGIC2.size, features, size)
    _MAGIC2.pack_into(room, STATE_AT + size, FP_XSTATE_MAGIC2)
    state_at = stack - RED_ZONE - size - _MAGIC2.size & ~63
    segments = (words[CS] & 0xFFFF, 0, 0, words[SS] & 0xFFFF)
    _HEAD.pack_into(room, 0, restorer, *_CONTEXT, *_GENERAL(words), *segments, 0, 0, 0, 0, state_at, mask)
    return state_at - STATE_AT, whole
