"""The stop of a thread, gone through with nobody: so that the first real one is not the slow one.

What runs while another program stands still should have run before: the interpreter adapts its code to what it meets,
and everything that was not used lately has left the processor's caches. Here the very same code runs on a thread that
does not exist, with answers as the kernel gives them, right before it is needed.
"""

from __future__ import annotations

import ctypes
import signal
from typing import TYPE_CHECKING, Any

from .ptrace import (
    NT_PRSTATUS,
    PTRACE_CONT,
    PTRACE_EVENT_STOP,
    PTRACE_GET_RSEQ_CONFIGURATION,
    PTRACE_GETREGSET,
    PTRACE_SYSCALL,
    Stop,
    Tracee,
)
from .registers import ERESTARTSYS, NO_CALL, pack

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .remote import Known

#: Bytes of an extended state with AVX-512; which one does not matter.
_XSTATE = bytes(2696)
_INTERRUPTED = Stop(signal.SIGTRAP, PTRACE_EVENT_STOP)
_IN_CALL = Stop(signal.SIGTRAP | 0x80, 0)


class Nobody(Tracee):
    """A thread on its process's first stack that obeys every request at once."""

    __slots__ = ("_known", "_registers", "_stop")

    def __init__(self, known: Known, *, in_call: bool):
        """``in_call``: the stop took it out of a call."""
        super().__init__(0)
        self._known = known
        stack = next((mapping.end for mapping in known.mappings if mapping.name == "[stack]"), 1 << 16) - (1 << 12)
        words = known.layout.calling((0,) * (known.layout.size // 8), 0, -ERESTARTSYS, (), stack)
        self._registers = pack(tuple(0 if word == NO_CALL and in_call else word for word in words))
        self._stop: Stop | None = _INTERRUPTED

    def _request(self, request: int, address: int = 0, data: int = 0) -> int:
        if request == PTRACE_GETREGSET:
            self._put(self._registers if address == NT_PRSTATUS else _XSTATE)
        elif request == PTRACE_GET_RSEQ_CONFIGURATION:
            ctypes.memset(self._address, 0, address)
        elif request in (PTRACE_CONT, PTRACE_SYSCALL):
            self._stop = _IN_CALL if request == PTRACE_SYSCALL else _INTERRUPTED
        return 0

    def _transfer(self, call: Any, ranges: Sequence[tuple[int, int]]) -> None:
        if tuple(ranges) == self._known.places:
            self._put(self._known.expected)

    def _poll(self) -> Stop | None:
        return self._stop
