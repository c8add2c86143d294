"""A userfaultfd of another process: made there by one system call on its behalf, and moved here.

A userfaultfd acts on the address space of the process that made it, whoever holds it later; so the target has to make
it, and everything afterwards works from outside. The target stands still once, for a fraction of a millisecond, and
keeps nothing of it: no descriptor, no changed register; at most bytes below its stack pointer, as after a signal.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from ..errors import AccessDenied, Closed, InvalidArgument, KernelCannot, NoSuchProcess, PagescanError
from ..kernel import memory, procfs, ptrace, remote
from ..kernel.gadgets import find_gadgets
from ..kernel.guards import NO_GUARDS, find_guards
from ..kernel.ioctl import syscall_number
from ..kernel.space import LinuxSpace
from ..kernel.userfaultfd import UFFD_USER_MODE_ONLY, Userfaultfd, adopt, describe_features, handshake
from .current import current_space
from .facts import LinuxFacts
from .permission import Permission, check_attach, explain_seize, thirty_two_bit
from .process import Process

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..abi import AddressSpace, Mapping
    from ..kernel.remote import Pause, RemoteCalls

#: Seconds a thread may take to stop.
STOP_TIMEOUT = 2.0
#: Seconds to wait for the process to close its descriptor (it does not while something else has stopped it).
_CLOSE_TIMEOUT = 1.0
_FLAGS = os.O_CLOEXEC | os.O_NONBLOCK | UFFD_USER_MODE_ONLY


@dataclass(frozen=True, slots=True)
class Adopted:
    """A userfaultfd of another process, in this one; :meth:`open` makes it usable.

    Attributes:
        fd: the descriptor in this process, close-on-exec; whoever holds this object closes it.
        pid: the process on whose memory it acts.
        tid: the thread that stood still for it; 0 if none did.
        stop_ns: nanoseconds from asking it to stop until it was seen stopped (it ran on for a part of that).
        held_ns: nanoseconds from then until it was let go.
        survives: had this process been killed meanwhile, the target would have gone on unharmed.
        lacks: why not, or "".
        features: those of the handshake it has had already, or None.
    """

    fd: int
    pid: int
    tid: int = 0
    stop_ns: int = 0
    held_ns: int = 0
    survives: bool = True
    lacks: str = ""
    features: int | None = None

    @property
    def pause_ns(self) -> int:
        """The longest the thread can have stood still, in nanoseconds."""
        return self.stop_ns + self.held_ns

    def open(self, features: int) -> Userfaultfd:
        """The handshake, and the descriptor as an object that owns it. On failure the descriptor is closed.

        Raises KernelCannot: the kernel lacks a feature; AccessDenied: EVENT_FORK without CAP_SYS_PTRACE.
        """
        try:
            if self.features is None:
                handshake(self.fd, features)
            elif features & ~self.features:
                raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        except OSError as error:
            self.close()
            wanted = describe_features(features)
            if error.errno == errno.EPERM:
                hint = procfs.sudo_command()
                raise AccessDenied(
                    f"{wanted} need CAP_SYS_PTRACE", hint=hint, pid=self.pid, errno=error.errno
                ) from error
            raise KernelCannot(
                f"the userfaultfd of process {self.pid} does not grant {wanted}",
                hint="run a later kernel, on x86-64 (or arm64 from Linux 6.10 on)",
                pid=self.pid,
                errno=error.errno,
            ) from error
        return adopt(self.fd, features if self.features is None else self.features)

    def close(self) -> None:
        """Close the descriptor, if it was not opened."""
        os.close(self.fd)


def take_userfaultfd(
    process: int | Process | LinuxSpace, tid: int | None = None, *, timeout: float = STOP_TIMEOUT, frame: bool = True
) -> Adopted:
    """Have another process make a userfaultfd, and move it here.

    Args:
        process: its pid, or an object that names it for ever (pid and start time).
        tid: the thread to stop; its first one by default, or another while that one is in an uninterruptible wait.
        timeout: seconds the thread may take to stop.
        frame: use the form that survives the death of this process, where it can be (x86-64).

    Raises as :func:`.permission.check_attach`, before anything is touched; KernelCannot: the thread did not stop in
    time, its text has no system call instruction, or the call failed there. The target always goes on unharmed.
    """
    pid = process if isinstance(process, int) else process.pid
    _check_identity(process)
    tid = _pick_thread(pid) if tid is None else tid
    permission = check_attach(pid, tid)
    pidfd = memory.pidfd_open(pid)
    try:
        _check_identity(process)  # the pidfd names the process from here on
        fd, pause = _attach(pid, tid, pidfd, permission, timeout, frame)
    finally:
        os.close(pidfd)
    return Adopted(fd, pid, tid, pause.stop_ns, pause.held_ns, pause.survives, pause.lacks)


def _check_identity(process: int | Process | LinuxSpace) -> None:
    if isinstance(process, int):
        return
    space = process.space if isinstance(process, Process) else process
    if procfs.read_stat(space.pid).start_time != space.start_time:
        raise NoSuchProcess(f"process {space.pid} has exited; another one has its id now", pid=space.pid)


def _pick_thread(pid: int) -> int:
    """The first thread; or, while it is in an uninterruptible wait, one that is not."""
    if pid <= 0:
        raise InvalidArgument(f"{pid} is no process id")
    if procfs.read_stat(pid).state == "D":
        for name in os.listdir(f"/proc/{pid}/task"):
            try:
                if procfs.read_stat(int(name)).state in "RST":
                    return int(name)
            except PagescanError:
                continue
    return pid


def _attach(pid: int, tid: int, pidfd: int, permission: Permission, timeout: float, frame: bool) -> tuple[int, Pause]:
    """Stop the thread and take the descriptor; again while a signal came in between, or the text changed."""
    options = ptrace.PTRACE_O_SUSPEND_SECCOMP if permission.suspend_seccomp else 0
    deadline = time.monotonic() + timeout
    # The first thread's stack has a name. When it runs on other memory guards prove nothing: its control block is not
    # at the end of a stack, so any memory, with a guard somewhere below it, can lie right below that block.
    guards = frame and tid != pid
    known = look(pid, permission, guards=guards)
    while True:
        try:
            (ours, theirs), pause = ptrace.in_tracer_thread(
                lambda known=known: remote.with_stopped_thread(  # type: ignore[misc]
                    tid, known, lambda calls: take(calls, pidfd, pid), options=options, frame=frame, timeout=timeout
                )
            )
            _await_closed(pid, theirs)
            return ours, pause
        except remote.SignalDue:
            if time.monotonic() > deadline:
                raise _never_quiet(tid, timeout) from None
        except remote.TextChanged:
            if time.monotonic() > deadline:
                raise _never_quiet(tid, timeout) from None
            known = look(pid, permission, guards=guards)
        except remote.ForeignThread:
            raise thirty_two_bit(pid) from None
        except PagescanError:
            raise
        except OSError as error:
            raise explain_seize(error, pid, permission) from error


def _never_quiet(tid: int, timeout: float) -> KernelCannot:
    return KernelCannot(
        f"thread {tid} was about to handle a signal, or had changed its text, whenever it was stopped in {timeout:g} s",
        hint="try again, with a longer timeout=",
        pid=tid,
        errno=errno.EAGAIN,
    )


def look(pid: int, permission: Permission, *, guards: bool = False) -> remote.Known:
    """What has to be known of a process before it is stopped; ``guards``: also what tells the stacks of its threads.

    Raises NoSuchProcess, AccessDenied, KernelCannot.
    """
    gadgets = find_gadgets(pid, permission.layout)
    if gadgets.call is None:
        raise KernelCannot(
            f"cannot attach to process {pid}: no instruction that enters the kernel was found in its text",
            hint="the program can hand over its own userfaultfd: pagescan.share()",
            pid=pid,
        )
    mappings = procfs.list_mappings(pid)
    found = find_guards(pid, mappings) if guards else NO_GUARDS
    return remote.Known(permission.layout, gadgets, mappings, permission.shadow_stack, found)


def take(calls: RemoteCalls, pidfd: int, pid: int) -> tuple[int, int]:
    """Within the stop: make a userfaultfd there, copy the descriptor, have it closed there. Returns ours and theirs.

    Raises KernelCannot, AccessDenied: the call failed there; OSError: it could not be copied.
    """
    theirs = calls.call(syscall_number("userfaultfd"), _FLAGS)
    if theirs < 0:
        raise _refused(-theirs, pid)
    calls.call_last(calls.layout.close, theirs)
    return ptrace.pidfd_getfd(pidfd, theirs), theirs


def _await_closed(pid: int, fd: int) -> None:
    """Wait until the process has closed its own, which it does as soon as its thread gets a processor again."""
    deadline = time.monotonic() + _CLOSE_TIMEOUT
    with contextlib.suppress(OSError):
        while "userfaultfd" in os.readlink(f"/proc/{pid}/fd/{fd}") and time.monotonic() < deadline:
            time.sleep(50e-6)


def _refused(number: int, pid: int) -> PagescanError:
    said = f"process {pid} cannot make a userfaultfd ({errno.errorcode.get(number, number)})"
    if number in (errno.EMFILE, errno.ENFILE):
        hint = f"prlimit --pid {pid} --nofile=65536" if number == errno.EMFILE else "sudo sysctl fs.file-max=1000000"
        return KernelCannot(f"{said}: all descriptors it may have are in use", hint=hint, pid=pid, errno=number)
    if number == errno.ENOSYS:
        return KernelCannot(f"{said}: this kernel was built without CONFIG_USERFAULTFD", pid=pid, errno=number)
    if number in (errno.EPERM, errno.EACCES):
        why = "a security module forbids it the system call"
        return AccessDenied(
            f"{said}: {why}", hint="see its audit log: sudo dmesg | grep -i denied", pid=pid, errno=number
        )
    return KernelCannot(f"{said}: {os.strerror(number)}", pid=pid, errno=number)


# --- as an address space ---------------------------------------------------------------------------------------------


class TracedSpace(LinuxSpace):
    """The memory of another process that can be tracked: an :class:`~pagescan.abi.AddressSpace` whose
    :meth:`open_userfaultfd` takes one from the process.

    It stands for the memory that the process had when this object was made: after an exec that memory is gone, and
    :meth:`open_userfaultfd` says so. Use it as a context manager, or :meth:`close` it.

    Attributes:
        adopted: how each userfaultfd was had, in order: pauses, and whether the target would have survived our death.
    """

    runs_by_itself = True
    adopted: list[Adopted]
    #: Soft-dirty bits are not read and reset in one step, and a running process does not stand still for it.
    engines: tuple[str, ...] = ("pagemap-scan", "pagemap-read", "compare")

    def __init__(self, process: int | Process, *, ready: Adopted | None = None):
        """``ready``: a descriptor already there (from a spawned or a cooperating process), used first.

        Raises NoSuchProcess, AccessDenied.
        """
        super().__init__(process if isinstance(process, int) else process.pid)
        if isinstance(process, Process):
            self.start_time = process.start_time
            _check_identity(self)
        # Bound to the memory at its opening, it reads as empty once that is gone (proc_maps_open() in the kernel).
        self._memory = procfs.open_process_file(self.pid, "maps")
        self.adopted = []
        self._ready = ready
        self._seen: tuple[bytes, Sequence[Mapping]] = b"", ()

    @property
    def pause_ns(self) -> int:
        """The longest the process can have stood still for us, altogether, in nanoseconds."""
        return sum(one.pause_ns for one in self.adopted)

    @property
    def facts(self) -> LinuxFacts:
        """What a recording says of the process."""
        return LinuxFacts(self.pid)

    @property
    def proven_on(self) -> AddressSpace:
        """This very process: what Linux can do is the same for both."""
        return current_space()

    def again(self) -> TracedSpace:
        """The memory the same process has now, after an exec, with the pauses so far. Raises NoSuchProcess."""
        space = TracedSpace(self.pid)
        if space.start_time != self.start_time:
            space.close()
            raise NoSuchProcess(f"process {self.pid} has exited", pid=self.pid)
        space.adopted[:0] = self.adopted
        return space

    def holds(self) -> bool:
        """Whether the process still has this memory: it has neither exited nor executed another program."""
        try:
            return bool(os.pread(self._memory.fileno(), 1, 0))
        except OSError:
            return False

    def mappings(self) -> Sequence[Mapping]:
        """Every mapping, by address; the same object as before if nothing has changed. Raises NoSuchProcess,
        AccessDenied."""
        text = self._maps_text()
        if not text or text != self._seen[0]:
            self._seen = text, super().mappings()
        return self._seen[1]

    def _maps_text(self) -> bytes:
        """What ``/proc/PID/maps`` says; nothing once this memory is gone."""
        try:
            self._memory.seek(0)
            return self._memory.readall()
        except (OSError, ValueError):  # gone, or closed here
            return b""

    def open_userfaultfd(self, features: int) -> Userfaultfd:
        """A userfaultfd on this memory. Raises as :func:`take_userfaultfd`, and as :meth:`Adopted.open`."""
        self._check()
        ready, self._ready = self._ready, None
        adopted = ready or take_userfaultfd(self)
        try:
            self._check()  # it may have executed another program just before the stop
        except BaseException:
            adopted.close()
            raise
        self.adopted.append(adopted)
        return adopted.open(features)

    def _check(self) -> None:
        if self._memory.closed:
            raise Closed(f"the address space of {self.label} is closed", pid=self.pid)
        if not self.holds():
            what = "has executed another program since" if self.is_alive() else "has exited"
            raise NoSuchProcess(f"{self.label} {what}", hint="attach again to what it is now", pid=self.pid)

    def close(self) -> None:
        """Free the descriptors that nobody took."""
        self._memory.close()
        ready, self._ready = self._ready, None
        if ready is not None:
            ready.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
