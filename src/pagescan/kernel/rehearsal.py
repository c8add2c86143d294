"""The stop of a thread, gone through with nobody: so that the first real one is not the slow one.

What runs while another program stands still should have run before: the interpreter adapts its code to what it meets,
and everything that was not used lately has left the processor's caches. Here the very same code runs on a thread that
does not exist, with answers as the kernel gives them, right before it is needed.
"""

from __future__ import annotations

import ctypes
import errno
import signal
from typing import TYPE_CHECKING, Any

from .ptrace import (
    NT_PRSTATUS,
    PTRACE_CONT,
    PTRACE_EVENT_STOP,
    PTRACE_GET_RSEQ_CONFIGURATION,
    PTRACE_GETREGSET,
    PTRACE_INTERRUPT,
    PTRACE_SYSCALL,
    Tracee,
    _ptrace,
)
from .registers import ERESTARTSYS, NO_CALL

if TYPE_CHECKING:
    from .remote import Known

#: Bytes of an extended state with AVX-512; which one does not matter.
_XSTATE = bytes(2696)
_INTERRUPTED = PTRACE_EVENT_STOP << 8 | signal.SIGTRAP
_IN_CALL = signal.SIGTRAP | 0x80


class Nobody(Tracee):
    """A thread on its process's first stack that obeys every request at once."""

    __slots__ = ("_known", "_registers", "_stop")

    def __init__(self, known: Known, result: int | None):
        """``result``: of the call that the stop took it out of; None: it was in none."""
        super().__init__(0)
        self._known = known
        stack = next((mapping.end for mapping in known.mappings if mapping.name == "[stack]"), 1 << 16) - (1 << 12)
        blank = (0,) * (known.layout.form.size // 8)
        words = known.layout.calling(blank, 0, 0 if result is None else result, (), stack)
        words = tuple(0 if word == NO_CALL and result is not None else word for word in words)
        self._registers = known.layout.form.pack(*words)
        self._ptrace, self._waitid = self._obey, self._stopped
        self._stop = _INTERRUPTED

    def _obey(self, request: int, tid: int, address: int, data: int | ctypes.c_void_p) -> int:
        _ptrace(request, 0, address, data)  # of no thread at all: that fails, but has then been made
        if request == PTRACE_GETREGSET:
            answer = self._registers if address == NT_PRSTATUS else _XSTATE
            iovec = self._ours if data is self._ours_at else self._iovec
            iovec.length = len(answer)
            ctypes.memmove(iovec.base, answer, len(answer))
        elif request == PTRACE_GET_RSEQ_CONFIGURATION:
            ctypes.memset(data, 0, address)
        elif request in (PTRACE_CONT, PTRACE_SYSCALL, PTRACE_INTERRUPT):
            self._stop = _IN_CALL if request == PTRACE_SYSCALL else _INTERRUPTED
        return 0

    def _stopped(self, *_: object) -> int:
        self._status.value = self._stop
        return 0

    def _transfer(
        self, call: Any, ours: ctypes.c_void_p, theirs: bytes | ctypes.c_void_p, number: int, size: int
    ) -> None:
        call(0, ours, 1, theirs, number, 0)
        if theirs is self._known.places.packed:
            ctypes.memmove(self._buffer_at, self._known.expected, size)


def everybody(known: Known) -> tuple[Nobody, ...]:
    """Threads in a process of which this is known: in user mode, and out of calls that each take another way on."""
    return Nobody(known, None), Nobody(known, -ERESTARTSYS), Nobody(known, -errno.EINTR)
