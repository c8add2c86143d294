"""ptrace(2): the requests as they are, on one thread. What is done with them stands in :mod:`.remote`.

A tracer is a thread, not a process: only the thread that seized another may make requests on it, and when it ends, for
whatever reason, the kernel lets go of everything it traced. So whoever uses this does so in a thread that ends soon
(:func:`in_tracer_thread`).

Every call here keeps the interpreter lock: none of them blocks for long, and a lock given away while another program
stands still could come back after the switch interval (5 ms) of a busy thread of ours.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import gc
import os
import signal
import struct
import sys
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import KernelCannot, NoSuchProcess
from . import procfs
from .ioctl import HasFileno, syscall_number

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

T = TypeVar("T")

# include/uapi/linux/ptrace.h, Linux 6.12.
PTRACE_CONT, PTRACE_DETACH, PTRACE_SYSCALL = 7, 17, 24
PTRACE_GETREGSET, PTRACE_SETREGSET = 0x4204, 0x4205
PTRACE_SEIZE, PTRACE_INTERRUPT = 0x4206, 0x4207
PTRACE_GETSIGMASK, PTRACE_SETSIGMASK = 0x420A, 0x420B
#: Linux 5.13, 90f093fa8ea4 ("rseq, ptrace: Add PTRACE_GET_RSEQ_CONFIGURATION request").
PTRACE_GET_RSEQ_CONFIGURATION = 0x420F
PTRACE_EVENT_EXEC, PTRACE_EVENT_STOP = 4, 128
PTRACE_O_TRACESYSGOOD, PTRACE_O_TRACEEXEC = 1, 1 << PTRACE_EVENT_EXEC
PTRACE_O_EXITKILL = 1 << 20
#: Linux 4.3, 13c4a90119d2 ("seccomp: add ptrace options for suspend/resume"); needs CAP_SYS_ADMIN.
PTRACE_O_SUSPEND_SECCOMP = 1 << 21
#: ``include/uapi/linux/elf.h``: register sets.
NT_PRSTATUS, NT_X86_XSTATE = 1, 0x202
#: ``include/uapi/linux/wait.h``.
WNOHANG, WSTOPPED, WALL = 1, 2, 0x40000000
_P_PID = 1
_SIGINFO_STATUS, _SIGINFO_SIZE = 24, 128  # offset of si_status in the siginfo of SIGCHLD, 64-bit
_ONCE = WSTOPPED | WNOHANG | WALL
ALL_SIGNALS = (1 << 64) - 1
#: Bytes to have ready for a register set (11 KiB with AMX), a frame, or any other exchange.
_ROOM = 1 << 14
_PIECE = 1 << 12  # bytes of a file at once

# Seconds: how long to ask again at once; then after short sleeps that keep the interpreter lock; then after long ones.
# A thread on another processor answers within the first; one that is to run on ours can only once we sleep, and for
# long enough: setting the timer takes most of 10 us on a virtual machine.
_AT_ONCE, _SOON = 80e-6, 1e-3
_SHORT_SLEEP_US, _LONG_SLEEP = 60, 100e-6
_EXIT_TIMEOUT = 1.0
_RANGE = struct.Struct("=QQ")  # struct iovec, of another process
_PR_SET_TIMERSLACK = 29  # include/uapi/linux/prctl.h

_P, _L = ctypes.c_void_p, ctypes.c_long
_libc = ctypes.PyDLL(None, use_errno=True)
# Without argument types, which take half a microsecond a call: numbers are passed as ints, addresses as c_void_p.
_ptrace, _waitid = _libc.ptrace, _libc.waitid
_ptrace.restype = _L
_syscall = _libc.syscall
_syscall.restype, _syscall.argtypes = _L, (_L, _L, _L, _L)
_pread = _libc.pread
_pread.restype, _pread.argtypes = ctypes.c_ssize_t, (ctypes.c_int, _P, ctypes.c_size_t, ctypes.c_int64)
_readv, _writev = _libc.process_vm_readv, _libc.process_vm_writev
for _function in (_readv, _writev):
    _function.restype, _function.argtypes = ctypes.c_ssize_t, (ctypes.c_int, _P, _L, _P, _L, ctypes.c_ulong)


def _failure() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))


class Iovec(ctypes.Structure):
    """``struct iovec``: memory of this process that a request reads or fills."""

    _fields_ = (("base", _P), ("length", ctypes.c_size_t))


@dataclass(frozen=True, slots=True)
class Places:
    """Ranges of another process's memory, in the form the kernel takes them in.

    Attributes:
        packed: an array of ``struct iovec``.
        number: how many they are.
        size: bytes in all of them.
    """

    packed: bytes
    number: int
    size: int

    @classmethod
    def of(cls, *ranges: tuple[int, int]) -> Places:
        """Of (address, size) after (address, size)."""
        packed = b"".join(_RANGE.pack(*one) for one in ranges)
        return cls(packed, len(ranges), _checked(sum(size for _, size in ranges)))

    def and_of(self, address: int, size: int) -> Places:
        """The same and one more."""
        return Places(self.packed + _RANGE.pack(address, size), self.number + 1, _checked(self.size + size))


def _checked(size: int) -> int:
    if size > _ROOM:
        raise ValueError(f"{size} bytes in one exchange, there is room for {_ROOM}")
    return size


#: Memory of this process at a place of its own, of which bytes go to another one without being copied.
Room = ctypes.Array[ctypes.c_char]


@dataclass(frozen=True, slots=True)
class Stop:
    """Why a thread stopped.

    Attributes:
        signal: that it is about to receive, or SIGTRAP; of a system call with bit 7 set.
        event: ``PTRACE_EVENT_*``, or 0.
        is_interrupt: PTRACE_INTERRUPT, or a group stop: the thread is on its way to user mode, outside any call.
        is_group_stop: the whole process is stopped (SIGSTOP and its like).
        is_syscall: the entry or the exit of a system call, under PTRACE_SYSCALL.
    """

    signal: int
    event: int
    is_interrupt: bool
    is_group_stop: bool
    is_syscall: bool


@functools.cache
def stop_of(status: int) -> Stop:
    """The stop of which ``waitid`` tells this status."""
    signal_number, event = status & 0xFF, status >> 8
    interrupt = event == PTRACE_EVENT_STOP
    return Stop(
        signal_number,
        event,
        is_interrupt=interrupt,
        is_group_stop=interrupt and signal_number != signal.SIGTRAP,
        is_syscall=event == 0 and signal_number == signal.SIGTRAP | 0x80,
    )


class StopTimeout(KernelCannot):
    """A thread did not stop in time; nothing was changed in it."""


def _pointer(to: Any) -> ctypes.c_void_p:
    return _P(ctypes.addressof(to))


class Tracee:
    """One thread of another process. Its methods raise OSError with the kernel's errno (ESRCH: it is gone, or runs).

    Everything goes through memory that is there before the thread is stopped. Not for use by several threads.

    Attributes:
        tid: its id; that of the process for its first thread.
        room: memory to make something in that is then written to it; all zeros at first.
        gives_way: whether :meth:`wait` gives up its processor before it asks again, which may be the one the thread is
            to run on. Where others want that processor, it is gone for a whole time slice of milliseconds.
    """

    __slots__ = (
        "_buffer", "_buffer_at", "_iovec", "_iovec_at", "_ours", "_ours_at", "_ptrace", "_room_at", "_siginfo",
        "_siginfo_at", "_status", "_theirs", "_theirs_at", "_waitid", "_word", "_word_at", "gives_way", "room", "tid",
    )  # fmt: skip

    def __init__(self, tid: int):
        self.tid = tid
        self.gives_way = False
        self._ptrace: Callable[[int, int, int, int | ctypes.c_void_p], int] = _ptrace
        self._waitid: Callable[[int, int, ctypes.c_void_p, int], int] = _waitid
        self.room: Room = ctypes.create_string_buffer(_ROOM)
        self._room_at = ctypes.addressof(self.room)
        self._buffer: Any = ctypes.create_string_buffer(_ROOM)  # whose slices are bytes
        self._buffer_at = _pointer(self._buffer)
        self._iovec, self._ours, self._theirs = Iovec(self._buffer_at.value, 0), Iovec(), Iovec()
        self._iovec_at, self._ours_at, self._theirs_at = map(_pointer, (self._iovec, self._ours, self._theirs))
        self._word = ctypes.c_uint64()
        self._word_at = _pointer(self._word)
        self._siginfo = ctypes.create_string_buffer(_SIGINFO_SIZE)
        self._siginfo_at = _pointer(self._siginfo)
        self._status = ctypes.c_int.from_buffer(self._siginfo, _SIGINFO_STATUS)

    def seize(self, options: int = PTRACE_O_TRACESYSGOOD) -> None:
        """Become its tracer without stopping it. EPERM: not allowed, or it has a tracer."""
        if self._ptrace(PTRACE_SEIZE, self.tid, 0, options) == -1:
            raise _failure()

    def interrupt(self) -> None:
        """Have it stop as soon as it can; a blocking call is interrupted for that."""
        if self._ptrace(PTRACE_INTERRUPT, self.tid, 0, 0) == -1:
            raise _failure()

    def resume(self, signal_number: int = 0) -> None:
        """Let it run; from a stop that announced a signal, deliver this one (the same: with its own siginfo)."""
        if self._ptrace(PTRACE_CONT, self.tid, 0, signal_number) == -1:
            raise _failure()

    def resume_to_syscall(self, signal_number: int = 0) -> None:
        """Let it run to the next entry or exit of a system call."""
        if self._ptrace(PTRACE_SYSCALL, self.tid, 0, signal_number) == -1:
            raise _failure()

    def detach(self) -> None:
        """Let go of it; it runs on, or stays stopped if its whole process is."""
        if self._ptrace(PTRACE_DETACH, self.tid, 0, 0) == -1:
            raise _failure()

    # Waiting ----------------------------------------------------------------------------------------------------------

    def wait(self, timeout: float) -> Stop:
        """Wait until it stops. Raises StopTimeout after ``timeout`` seconds; NoSuchProcess.

        It is asked again and again: there is no blocking wait for ptrace stops that ends at a set time.
        """
        if self._waitid(_P_PID, self.tid, self._siginfo_at, _ONCE) == 0 and (status := self._status.value):
            return stop_of(status)  # the most frequent case, and the one that has to be quick
        if self.gives_way:
            _libc.sched_yield()
        began = time.monotonic()
        while not (status := self._poll()):
            waited = time.monotonic() - began
            if waited > _SOON:
                self._check_alive()
                if waited > timeout:
                    raise self._timeout(timeout)
                time.sleep(_LONG_SLEEP)
            elif waited > _AT_ONCE:
                _libc.usleep(_SHORT_SLEEP_US)
        return stop_of(status)

    def _poll(self) -> int:
        """The status of the stop it is in, told once, or 0.

        It is not asked for its end: that is its parent's to hear, who may be we.
        """
        if self._waitid(_P_PID, self.tid, self._siginfo_at, _ONCE) == -1:
            error = _failure()
            raise self._gone() if error.errno == errno.ECHILD else error
        return self._status.value

    def _check_alive(self) -> None:
        if procfs.read_stat(self.tid).state in "ZX":
            raise self._gone()

    def _gone(self) -> NoSuchProcess:
        return NoSuchProcess(f"{self.tid} exited while it was being attached to", pid=self.tid, errno=errno.ESRCH)

    def _timeout(self, timeout: float) -> StopTimeout:
        state = procfs.read_stat(self.tid).state
        why = {
            "D": "it is in an uninterruptible wait: a parent in vfork(), a slow device or network file system",
            "T": "it is stopped, and its stop was taken by another waitpid() of this program",
            "t": "its stop was taken by another waitpid() of this program",
        }.get(state, "it is in the kernel, its processors are too busy, or its control group is frozen")
        return StopTimeout(
            f"thread {self.tid} did not stop within {timeout:g} s (state {state}): {why}",
            hint=f"try again later, or another thread of it: tid=... of /proc/{self.tid}/task",
            pid=self.tid,
            errno=errno.ETIMEDOUT,
        )

    # State ------------------------------------------------------------------------------------------------------------

    def words(self, form: struct.Struct) -> tuple[int, ...] | None:
        """The general registers, each a word of ``form``; None if the set has another size."""
        iovec = self._iovec
        iovec.length = _ROOM
        if self._ptrace(PTRACE_GETREGSET, self.tid, NT_PRSTATUS, self._iovec_at) == -1:
            raise _failure()
        return form.unpack_from(self._buffer) if iovec.length == form.size else None

    def set_words(self, form: struct.Struct, words: tuple[int, ...], kind: int = NT_PRSTATUS) -> None:
        """Set the general registers, or another set."""
        form.pack_into(self._buffer, 0, *words)
        self._iovec.length = form.size
        if self._ptrace(PTRACE_SETREGSET, self.tid, kind, self._iovec_at) == -1:
            raise _failure()

    def registers_into_room(self, offset: int, kind: int) -> int:
        """Put a register set into the room, from ``offset`` on; returns its size, cut off at the end of the room."""
        ours = self._ours
        ours.base, ours.length = self._room_at + offset, _ROOM - offset
        if self._ptrace(PTRACE_GETREGSET, self.tid, kind, self._ours_at) == -1:
            raise _failure()
        size: int = ours.length
        return size

    def signal_mask(self) -> int:
        """The signals it blocks, bit 0 for signal 1; inside sigsuspend(2) or ppoll(2) those it blocks afterwards."""
        if self._ptrace(PTRACE_GETSIGMASK, self.tid, 8, self._word_at) == -1:
            raise _failure()
        return self._word.value

    def set_signal_mask(self, mask: int) -> None:
        """SIGKILL and SIGSTOP cannot be blocked, whatever the mask says."""
        self._word.value = mask
        if self._ptrace(PTRACE_SETSIGMASK, self.tid, 8, self._word_at) == -1:
            raise _failure()

    def restartable_area(self) -> int:
        """The address of its ``struct rseq``, 0 if it has registered none or the kernel does not tell."""
        if self._ptrace(PTRACE_GET_RSEQ_CONFIGURATION, self.tid, 24, self._buffer_at) == -1:
            error = _failure()
            if error.errno in (errno.EIO, errno.EINVAL):
                return 0
            raise error
        return int.from_bytes(self._buffer[:8], sys.byteorder)

    def read(self, places: Places) -> bytes:
        """Bytes of its memory as it is now (also after an exec), one place after another. EFAULT: not readable."""
        self._iovec.length = size = places.size
        self._transfer(_readv, self._iovec_at, places.packed, places.number, size)
        data: bytes = self._buffer[:size]
        return data

    def write_room(self, address: int, size: int) -> None:
        """Write the first bytes of the room to its memory, where it could do so itself.

        EFAULT: not writable, possibly after a part.
        """
        ours, theirs = self._ours, self._theirs
        ours.base, theirs.base = self._room_at, address
        ours.length = theirs.length = size
        self._transfer(_writev, self._ours_at, self._theirs_at, 1, size)

    def _transfer(
        self, call: Any, ours: ctypes.c_void_p, theirs: bytes | ctypes.c_void_p, number: int, size: int
    ) -> None:
        moved = call(self.tid, ours, 1, theirs, number, 0)
        if moved != size:
            raise _failure() if moved == -1 else OSError(errno.EFAULT, os.strerror(errno.EFAULT))


def pidfd_getfd(pidfd: int, fd: int) -> int:
    """:func:`.memory.pidfd_getfd`, keeping the interpreter lock. Raises OSError."""
    result = int(_syscall(syscall_number("pidfd_getfd"), pidfd, fd, 0))
    if result == -1:
        raise _failure()
    return result


def read_file(file: HasFileno) -> bytes:
    """The whole of a small file, keeping the interpreter lock. Raises OSError."""
    buffer, data = ctypes.create_string_buffer(_PIECE), b""
    while True:
        size = int(_pread(file.fileno(), buffer, _PIECE, len(data)))
        if size == -1:
            raise _failure()
        data += buffer.raw[:size]
        if size < _PIECE:
            return data


# --- the thread that traces ------------------------------------------------------------------------------------------


def in_tracer_thread(work: Callable[[], T]) -> T:
    """Run ``work`` in a thread of its own and wait for its end; that end detaches whatever it traced.

    Signals, Ctrl-C among them, wait as long: they must not take the caller away from a thread that holds another
    program. ``work`` bounds its own time.
    """
    results: list[T] = []
    failures: list[BaseException] = []

    def run() -> None:
        _libc.prctl(_PR_SET_TIMERSLACK, 1, 0, 0, 0)  # of this thread alone: short sleeps are to be short
        try:
            results.append(work())
        except BaseException as error:  # noqa: BLE001 - handed to the caller
            failures.append(error)

    thread = threading.Thread(target=run, name="pagescan-tracer", daemon=True)
    with _signals_blocked():
        thread.start()
        thread.join()
        _await_exit(thread)
    if failures:
        raise failures[0]
    return results[0]


def _await_exit(thread: threading.Thread) -> None:
    """Wait until the kernel, too, is done with a thread that Python has joined: not before does it detach."""
    deadline = time.monotonic() + _EXIT_TIMEOUT
    while os.path.exists(f"/proc/self/task/{thread.native_id}") and time.monotonic() < deadline:
        _libc.sched_yield()


@contextlib.contextmanager
def _signals_blocked() -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def no_collection() -> Iterator[None]:
    """No garbage collection meanwhile: one of a large heap takes longer than all the rest."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@contextlib.contextmanager
def prompt_processors() -> Iterator[None]:
    """Have idle processors stay awake meanwhile, where that is allowed (root, outside containers).

    Waking one that sleeps takes tens of microseconds, most of all on a virtual machine, and each time the thread is to
    run on it takes that again. Nothing remains if this process dies: the request holds while the file is open
    (``Documentation/power/pm_qos_interface.rst``).
    """
    try:
        descriptor = os.open("/dev/cpu_dma_latency", os.O_WRONLY | os.O_CLOEXEC)
    except OSError:
        yield
        return
    try:
        with contextlib.suppress(OSError):
            os.write(descriptor, bytes(4))  # microseconds that waking up may take
        yield
    finally:
        os.close(descriptor)
