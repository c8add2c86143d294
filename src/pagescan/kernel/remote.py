"""A system call made by a thread of another process, which notices nothing of it.

The sequence, and why each step stands where it does. The tracer may die (SIGKILL) between any two of them; what becomes
of the thread then is told in brackets, for the form with a signal frame (:mod:`.sigframe`, x86-64).

1. seize, interrupt, wait: the thread stops on its way to user mode. [it runs on as it was]
2. write the frame below its stack [as 1]; set the registers of the call [it makes the call and comes back by the frame]
3. block its signals, so that none is delivered on borrowed registers: they stay queued in the kernel, siginfo and all
   [the frame brings the old mask back]
4. run to the entry and the exit of each call but the last [as 3]
5. the last call, whose result nobody needs: its registers are set and the thread is let go. It makes the call and comes
   back by the frame, mask and all, with nobody waiting for it. [as 3]

That is for a thread that was found in user mode. One that the stop took out of a blocking call needs the kernel's help
to go on with it, so for that one, and where there is no frame, instead of 5:

6. run to the entry of the last call, interrupt, run on: it makes the call, and stops again on its way to user mode,
   before anything of the thread's own is executed [as 3]
7. put back the mask [as 2], then the registers as found: the kernel itself restarts what it had interrupted [as 1].
   Detach.

What lies below the stack pointer is not put back: no program may rely on it, since a signal writes there, too.

Without a frame (arm64, memory that is no plain stack, a shadow stack) a tracer that dies between 2 and 7 leaves the
thread with wrong registers: it crashes or gets a wrong result. Those are about 0.2 ms, once per attach.

Every stop costs two switches of tasks, so there is none that is not needed.
"""

from __future__ import annotations

import bisect
import contextlib
import os
import re
import struct
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from . import registers, sigframe
from .guards import NO_GUARDS
from .procfs import count_runnable, open_process_file
from .ptrace import (
    ALL_SIGNALS,
    NT_X86_XSTATE,
    PTRACE_O_SUSPEND_SECCOMP,
    PTRACE_O_TRACESYSGOOD,
    Places,
    Tracee,
    no_collection,
    prompt_processors,
    read_file,
)
from .rehearsal import everybody

if TYPE_CHECKING:
    import io
    from collections.abc import Callable, Sequence

    from ..abi import Mapping
    from .gadgets import Gadgets
    from .guards import Guards
    from .ptrace import Stop
    from .registers import Layout, Words

T = TypeVar("T")

#: Seconds in which a thread that runs our call must come back; it does in microseconds unless it is frozen.
_CALL_TIMEOUT = 10.0
_CALL_NUMBER = struct.Struct("=i")
#: How often to go through each of the ways with nobody before: after that it gets no faster.
_REHEARSALS = 4
_SIGNALS = re.compile(rb"^(\w{6}):\t([0-9a-f]{16})$", re.MULTILINE)
#: Signals whose default action is to be ignored; a traced thread gets them queued and interrupts calls for them.
_IGNORED_BY_DEFAULT = 1 << 16 | 1 << 17 | 1 << 22 | 1 << 27  # SIGCHLD, SIGCONT, SIGURG, SIGWINCH (bit: number - 1)


class SignalDue(Exception):
    """The stopped thread is about to handle a signal, and its call ended for that: let it, then try again."""


class TextChanged(Exception):
    """The instructions found earlier are not there: the process has executed another program, or unloaded a library."""


class ForeignThread(Exception):
    """The thread's register set is not that of this architecture: a 32-bit thread."""


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of a process before it is stopped, so that it need not be looked up meanwhile.

    Attributes:
        layout: of its architecture.
        gadgets: the instructions to use.
        mappings: by address; they tell which memory is a stack.
        shadow_stack: its returns are checked by the processor, so no frame can be returned into.
        guards: regions within the mappings that nothing can be written to.
        expected, places: the bytes of the instructions, and where they stand, made of ``gadgets``.
        starts: of the mappings.
    """

    layout: Layout
    gadgets: Gadgets
    mappings: Sequence[Mapping]
    shadow_stack: bool = False
    guards: Guards = NO_GUARDS
    expected: bytes = field(init=False)
    places: Places = field(init=False)
    starts: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        texts = self.gadgets.texts
        object.__setattr__(self, "expected", b"".join(text for _, text in texts))
        object.__setattr__(self, "places", Places.of(*((address, len(text)) for address, text in texts)))
        object.__setattr__(self, "starts", tuple(mapping.start for mapping in self.mappings))


class RemoteCalls:
    """A thread that stands still, ready to make system calls; :meth:`close` makes it what it was.

    Attributes:
        layout: of its registers.
        survives: a frame holds its state: should this process die now, the thread still goes on unharmed.
        lacks: why there is no such frame, or "".
    """

    __slots__ = (
        "_alone", "_at", "_borrowed", "_frame", "_known", "_last", "_mask", "_tracee", "_ways", "_words",
        "lacks", "layout", "survives",
    )  # fmt: skip

    def __init__(self, tracee: Tracee, known: Known, status: io.FileIO, *, frame: bool = True, attended: bool = False):
        """Takes over a thread in an interrupt stop.

        Args:
            status: its ``/proc/TID/status``, opened before it was stopped.
            attended: the last call, too, must be made before the thread is let go.

        Raises SignalDue, TextChanged, ForeignThread: nothing was changed.
        """
        self._tracee, self._known, self.layout = tracee, known, known.layout
        words = tracee.words(self.layout.form)
        if words is None:
            raise ForeignThread
        self._words = words
        if self.layout.undue_eintr(words) and _signal_due(status):
            raise SignalDue
        sequence = self._check_text()
        if sequence:
            words = leave_restartable_sequence(tracee, self.layout, words, sequence)
        self._ways = self.layout.ways_on(words, self._code() if self.layout.wants_code(words) else b"")
        self._mask = tracee.signal_mask()
        self._alone = self._ways.outside and not attended
        self._frame: int | None = None
        self.lacks = "it was not asked for" if not frame else self._write_frame()
        self.survives = self._frame is not None
        self._at = known.gadgets.returning if self.survives else known.gadgets.call
        self._borrowed = False
        self._last: tuple[int, ...] = ()

    def _check_text(self) -> int:
        """Check that the instructions are there still; returns the restartable sequence the thread is in, or 0."""
        expected = self._known.expected
        # Within a sequence no call may be made, so a thread that a call brought into the kernel is in none.
        area = 0 if self.layout.in_call(self._words) else self._tracee.restartable_area()
        places = self._known.places.and_of(area + _RSEQ_CS, 8) if area else self._known.places
        try:
            now = self._tracee.read(places)
        except OSError as error:
            raise TextChanged from error
        if not now.startswith(expected):
            raise TextChanged
        return int.from_bytes(now[len(expected) :], "little")

    def _code(self) -> bytes:
        start = self.layout.instruction_pointer(self._words) - registers.CODE_BEFORE
        try:
            return self._tracee.read(Places.of((start, registers.CODE_BEFORE)))
        except OSError:
            return b""

    def _write_frame(self) -> str:
        """Write the frame; returns why it could not be, or ""."""
        tracee, gadgets, stack = self._tracee, self._known.gadgets, self.layout.stack_pointer(self._words)
        why = no_frame(self._known, self._words)
        if why or gadgets.restorer is None:
            return why
        try:
            state = tracee.registers_into_room(sigframe.STATE_AT, NT_X86_XSTATE)
            back = self._ways.by_sigreturn
            frame, size = sigframe.build(tracee.room, state, back, stack, self._mask, gadgets.restorer)
            tracee.write_room(frame, size)
        except (OSError, ValueError) as error:
            return f"the memory below its stack cannot hold a frame ({error})"
        self._frame = frame
        return ""

    def call(self, number: int, *arguments: int) -> int:
        """Make one system call; returns its result, a negative errno if it failed."""
        self._prepare(number, *arguments)
        self._run_to_syscall()
        self._run_to_syscall()
        words = self._tracee.words(self.layout.form)
        assert words is not None, "as it was"
        return self.layout.result(words)

    def call_last(self, number: int, *arguments: int) -> None:
        """Have :meth:`close` make one more call, whose result nobody needs."""
        self._last = number, *arguments

    def _prepare(self, number: int, *arguments: int) -> None:
        """Set the registers with which the thread makes a call."""
        assert self._at is not None, "checked before"
        self._set(self.layout.calling(self._words, self._at, number, arguments, self._frame))
        if not self._borrowed:
            self._borrowed = True
            self._tracee.set_signal_mask(ALL_SIGNALS)

    def _set(self, words: Words) -> None:
        self._tracee.set_words(self.layout.form, words)
        if self.layout.call_number_set is not None:
            self._tracee.set_words(_CALL_NUMBER, (-1,), self.layout.call_number_set)

    def _run_to_syscall(self) -> None:
        """Run to the next stop at a system call. Only SIGSTOP can come in between; it is passed on."""
        self._tracee.resume_to_syscall()
        while not (stop := self._tracee.wait(_CALL_TIMEOUT)).is_syscall:
            self._tracee.resume_to_syscall(0 if stop.event else stop.signal)

    def close(self) -> None:
        """Make the last call, and put everything back: the thread is then to be let go.

        Unless it makes that call by itself (never if ``attended``) it is in an interrupt stop, and may also be held.
        """
        if self._last:
            self._prepare(*self._last)
            if self._alone and self._frame is not None:
                return
            self._run_to_syscall()
        if self._borrowed:
            self._tracee.interrupt()
            self._tracee.resume()
            run_to_interrupt(self._tracee, _CALL_TIMEOUT)
            self._tracee.set_signal_mask(self._mask)
        self._set(self._ways.by_kernel)


def run_to_interrupt(tracee: Tracee, timeout: float) -> Stop:
    """Wait for the stop that was asked for; signals announced before it are delivered as they are.

    Raises StopTimeout, NoSuchProcess.
    """
    while not (stop := tracee.wait(timeout)).is_interrupt:
        tracee.resume(0 if stop.event else stop.signal)
    return stop


def _signal_due(status: io.FileIO) -> bool:
    """Whether a signal waits that the thread will handle as soon as it runs, by its ``/proc/TID/status``.

    Some signals are ignored by default, and would never have ended the call had it not been traced (``sig_ignored()``
    in ``kernel/signal.c``): they are due only if the program handles them.
    """
    masks = {name: int(value, 16) for name, value in _SIGNALS.findall(read_file(status))}
    ignored = masks[b"SigIgn"] | _IGNORED_BY_DEFAULT & ~masks[b"SigCgt"]
    return bool((masks[b"SigPnd"] | masks[b"ShdPnd"]) & ~masks[b"SigBlk"] & ~ignored)


# --- what must be so for a frame -------------------------------------------------------------------------------------


def no_frame(known: Known, words: Words) -> str:
    """Why no frame can be put below this thread's stack pointer, or "".

    The memory there must belong to its stack, and to nothing else: coroutines and signal handlers may run on a few
    KiB in the midst of a heap. Two kinds are certain: the first thread's ``[stack]``, and the stack that a libc made
    for a thread, with the thread's control block at its upper end and a guard below it (:func:`_is_guarded`).
    """
    if known.layout.name != "x86_64":
        return f"pagescan knows no signal frame of {known.layout.name}"
    if not known.gadgets.complete:
        return "its text has no `syscall; ret`, or nothing that calls rt_sigreturn"
    if known.shadow_stack:
        return "it has a shadow stack, which would refuse the return"
    stack = known.layout.stack_pointer(words)
    index = bisect.bisect_right(known.starts, stack) - 1
    mapping = known.mappings[index] if index >= 0 else None
    if mapping is None or mapping.end <= stack:
        return "its stack pointer points to no memory known"
    if mapping.name == "[stack]":
        return ""
    block = words[registers.FS_BASE]
    above = mapping.private_anonymous and stack < block < mapping.end
    if above and _is_guarded(known, index, stack, block):
        return ""
    why = "it runs on memory that may not be a stack of its own (a coroutine's, a signal handler's)"
    return why if known.guards.told else f"{why}: guards within a mapping are not told of here (Linux 6.16 does)"


def _is_guarded(known: Known, index: int, stack: int, block: int) -> bool:
    """Whether what begins at a guard and goes on to the thread's control block holds the stack pointer.

    A libc's guard is a mapping without permissions right below the stack's, or a guard region at the stack's lower end
    (:mod:`.guards`). Then the stack shares its mapping with whatever came to lie beside it, and a guard between the
    stack pointer and the control block means that the thread runs on something else.
    """
    mapping, guards = known.mappings[index], known.guards
    below = known.mappings[index - 1] if index else None
    apart = below is not None and below.end == mapping.start and below.perms.startswith("---")
    return (apart or guards.within(mapping.start, stack)) and not guards.within(stack, block)


# --- restartable sequences -------------------------------------------------------------------------------------------

_RSEQ_CS = 8  # offset of rseq_cs in struct rseq
_SEQUENCE = struct.Struct("=IIQQQ")  # struct rseq_cs: version, flags, start_ip, post_commit_offset, abort_ip


def leave_restartable_sequence(tracee: Tracee, layout: Layout, words: Words, sequence: int) -> Words:
    """The registers, aborted if the thread stands inside a restartable sequence (rseq(2)).

    ``sequence`` is the address of the ``struct rseq_cs`` that the thread has marked last.

    A thread that is taken elsewhere for a moment loses the kernel's mark of the sequence (``rseq_ip_fixup()``,
    ``kernel/rseq.c``, include/uapi/linux/rseq.h), and put back inside it would run to its end unprotected. So it is
    aborted here, as the kernel does itself whenever it preempts a thread.
    """
    try:
        _, _, start, length, abort = _SEQUENCE.unpack(tracee.read(Places.of((sequence, _SEQUENCE.size))))
    except OSError:
        return words
    inside = start <= layout.instruction_pointer(words) < start + length
    return layout.jump(words, abort) if inside else words


# --- one stop --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Pause:
    """How long a thread stood still, and how.

    Attributes:
        stop_ns: from asking it to stop until it was seen stopped; it ran on for a part of that.
        held_ns: from then until the kernel was told to let it go, which wakes it at once. (That request may return
            later: the thread can be given the very processor that its tracer was running on.)
        survives: its state lay in a frame meanwhile: had this process died, it would have gone on unharmed.
        lacks: why not, or "".
    """

    stop_ns: int
    held_ns: int
    survives: bool
    lacks: str

    @property
    def pause_ns(self) -> int:
        """The longest it can have stood still: nanoseconds from asking it to stop until it was let go."""
        return self.stop_ns + self.held_ns


def with_stopped_thread(
    tid: int,
    known: Known,
    plan: Callable[[RemoteCalls], T],
    *,
    options: int = 0,
    frame: bool = True,
    timeout: float,
) -> tuple[T, Pause]:
    """Stop a thread, run ``plan`` with its calls, and let it go on; once. Only within :func:`.ptrace.in_tracer_thread`.

    Args:
        options: ``PTRACE_O_*`` beyond what is needed anyway.
        frame: write a signal frame where possible.
        timeout: seconds the thread may take to stop.

    Raises StopTimeout, NoSuchProcess, SignalDue, TextChanged, ForeignThread: the thread goes on as it was; OSError.
    """
    tracee, form = Tracee(tid), Form(frame, bool(options & PTRACE_O_SUSPEND_SECCOMP), timeout)
    with no_collection(), prompt_processors(), open_process_file(tid, "status") as status:
        with open("/proc/thread-self/status", "rb", buffering=0) as own:  # all its signals are blocked, so none is due
            for nobody in everybody(known) * _REHEARSALS:
                _stop_once(nobody, known, own, _rehearsed, 0, form)
        tracee.gives_way = count_runnable() <= (os.cpu_count() or 1)
        return _stop_once(tracee, known, status, plan, PTRACE_O_TRACESYSGOOD | options, form)


def _rehearsed(calls: RemoteCalls) -> None:
    """What a plan does."""
    calls.call_last(calls.call(0), 0)


class Form(NamedTuple):
    """How a thread is to be stopped."""

    frame: bool
    attended: bool
    timeout: float


def _stop_once(
    tracee: Tracee,
    known: Known,
    status: io.FileIO,
    plan: Callable[[RemoteCalls], T],
    options: int,
    form: Form,
) -> tuple[T, Pause]:
    tracee.seize(options)
    asked = time.perf_counter_ns()
    tracee.interrupt()
    stop = run_to_interrupt(tracee, form.timeout)  # on a timeout the end of the thread detaches
    stopped = time.perf_counter_ns()
    try:
        # One whose whole process is stopped would not run on, and not make the last call.
        attended = form.attended or stop.is_group_stop
        calls = RemoteCalls(tracee, known, status, frame=form.frame, attended=attended)
        try:
            result = plan(calls)
        finally:
            calls.close()
    finally:
        let_go = time.perf_counter_ns()
        with contextlib.suppress(ProcessLookupError):  # killed meanwhile
            tracee.detach()
    return result, Pause(stopped - asked, let_go - stopped, calls.survives, calls.lacks)
