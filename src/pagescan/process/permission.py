"""Whether a process may be attached to: found out before it is touched, and said with the one command that mends it.

What attaching needs (ptrace(2), "Ptrace access mode checking"; seccomp(2)): a live process with memory of its own and
no tracer; PTRACE_MODE_ATTACH, which the owner and CAP_SYS_PTRACE have unless Yama or another security module forbids
it; and that the system call made in its name is allowed to it. Seccomp filters may kill for that, so a filtered process
is attached to only where the filter can be suspended meanwhile, which takes CAP_SYS_ADMIN. (Should this process die in
that fraction of a millisecond the filter is back at once, and one that kills for userfaultfd(2) may do so.)
"""

from __future__ import annotations

import errno
import os
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import AccessDenied, InvalidArgument, KernelCannot, NoSuchProcess, PagescanError
from ..kernel import procfs
from ..kernel.ioctl import ABI
from ..kernel.permissions import CAP_SYS_ADMIN, has_capability
from ..kernel.procfs import Status, process_error, read_status, sudo_command
from ..kernel.registers import current_layout

if TYPE_CHECKING:
    from ..kernel.registers import Layout

_OUTSIDE = "run pagescan as root outside the container"
_ELF32 = 1  # EI_CLASS, include/uapi/linux/elf.h


@dataclass(frozen=True, slots=True)
class Permission:
    """How a thread may be attached to.

    Attributes:
        layout: of its registers.
        suspend_seccomp: it has a filter, which has to be suspended meanwhile.
        shadow_stack: the processor checks its returns.
    """

    layout: Layout
    suspend_seccomp: bool = False
    shadow_stack: bool = False


def check_attach(pid: int, tid: int) -> Permission:
    """How thread ``tid`` of process ``pid`` may be attached to; it is only looked at.

    Raises NoSuchProcess: gone, or a zombie; AccessDenied: another user's, Yama, traced, filtered; KernelCannot: a
    kernel thread, a 32-bit program, a machine pagescan cannot do it on; InvalidArgument: this process itself, or a
    thread of another process.
    """
    layout = current_layout()
    if layout is None:
        raise KernelCannot(
            f"cannot attach to process {pid}: pagescan knows no registers of {ABI}",
            hint="the program can hand over its own: pagescan.share()",
            pid=pid,
        )
    if pid == os.getpid():
        raise InvalidArgument(f"{pid} is this process, which cannot trace itself", hint="use pagescan.track()", pid=pid)
    status = read_status(tid)
    _check_thread(status, pid, tid)
    _check_tracer(status, pid)
    _check_access(pid)
    _check_width(pid)
    return Permission(layout, _must_suspend(status, pid), "shstk" in status.fields.get("x86_Thread_features", ""))


def _check_thread(status: Status, pid: int, tid: int) -> None:
    who = f"cannot attach to process {pid} ({status.name})"
    if int(status["Tgid"]) != pid:
        raise InvalidArgument(f"{tid} is a thread of process {status['Tgid']}, not of {pid}", pid=pid)
    if status.state in "ZX":
        if tid == pid and status.threads > 1:
            why = "its first thread has ended, and with it what the kernel shows of its memory under this id"
            raise KernelCannot(f"{who}: {why}", hint=f"its other threads: ls /proc/{pid}/task", pid=pid)
        why = "it has exited, and its parent has not taken note (a zombie)"
        raise NoSuchProcess(f"{who}: {why}", pid=pid, errno=errno.ESRCH)
    if "VmSize" not in status.fields and not _is_kernel_thread(status):
        raise NoSuchProcess(f"{who}: it is exiting, and its memory is gone", pid=pid, errno=errno.ESRCH)
    if "VmSize" not in status.fields:
        raise KernelCannot(
            f"{who}: it is a kernel thread and has no memory of its own",
            hint="pagescan looks at programs: ps --ppid 2 --pid 2 --deselect",
            pid=pid,
        )


def _is_kernel_thread(status: Status) -> bool:
    """By the line ``Kthread`` (Linux 6.10); before it by the parent, which is kthreadd, process 2."""
    return status.fields.get("Kthread", "1" if status.fields.get("PPid") in ("0", "2") else "0") == "1"


def _check_tracer(status: Status, pid: int) -> None:
    if not status.tracer_pid:
        return
    tracer, name = _process_of(status.tracer_pid)
    who = f"cannot attach to process {pid} ({status.name})"
    if tracer == os.getpid():
        raise AccessDenied(f"{who}: another thread of this program is attaching to it", hint="try again", pid=pid)
    raise AccessDenied(
        f"{who}: process {tracer} ({name}) traces it, and there can be one tracer only",
        hint=f"have {name} detach, or end it: kill {tracer}",
        pid=pid,
        errno=errno.EPERM,
    )


def _process_of(tid: int) -> tuple[int, str]:
    """The process of a thread, and its name: ``TracerPid`` names the very thread that traces."""
    try:
        status = read_status(tid)
    except PagescanError:
        return tid, "?"
    return int(status["Tgid"]), status.name


def _check_access(pid: int) -> None:
    """Opening its memory asks the kernel for the very permission that ptrace needs, security modules included."""
    asked = f"attach to process {pid}"
    try:
        os.close(os.open(f"/proc/{pid}/mem", os.O_RDONLY | os.O_CLOEXEC))
    except OSError as error:
        raise process_error(error, pid, asked, attach=True) from error


def _check_width(pid: int) -> None:
    if elf_class(pid) == _ELF32:
        raise thirty_two_bit(pid)


def thirty_two_bit(pid: int) -> KernelCannot:
    """The refusal of a 32-bit program."""
    return KernelCannot(
        f"cannot attach to process {pid}: it is a 32-bit program, whose registers pagescan does not know",
        hint=f"its pages can be looked at without tracking: pagescan scan -p {pid}",
        pid=pid,
        errno=errno.ENOEXEC,
    )


def elf_class(pid: int) -> int:
    """1 for a 32-bit program, 2 for a 64-bit one; 0 if its file cannot be read."""
    try:
        with open(f"/proc/{pid}/exe", "rb") as file:
            magic, kind = struct.unpack("=4sB", file.read(5))
    except (OSError, struct.error):
        return 0
    return int(kind) if magic == b"\x7fELF" else 0


def _must_suspend(status: Status, pid: int) -> bool:
    """Whether a seccomp filter must be suspended; AccessDenied if it must and cannot."""
    if not status.seccomp:
        return False
    who = f"cannot attach to process {pid} ({status.name}): its seccomp filter might kill it for the call"
    if not has_capability(CAP_SYS_ADMIN):
        why = "only CAP_SYS_ADMIN may suspend the filter meanwhile"
        raise AccessDenied(f"{who}, and {why}", hint=sudo_command(), pid=pid, errno=errno.EPERM)
    if procfs.read_status(os.getpid()).seccomp:
        why = "who is filtered itself may not suspend the filter of others"
        raise AccessDenied(f"{who}, and {why}", hint=_OUTSIDE, pid=pid, errno=errno.EPERM)
    return True


def explain_seize(error: OSError, pid: int, permission: Permission) -> Exception:
    """Why a process that seemed attachable could not be seized after all; nothing was done to it."""
    if permission.suspend_seccomp and error.errno == errno.EINVAL:
        return KernelCannot(
            f"cannot attach to process {pid}: it has a seccomp filter, and this kernel cannot suspend it "
            "(CONFIG_CHECKPOINT_RESTORE)",
            hint="the program can hand over its own userfaultfd: pagescan.share()",
            pid=pid,
            errno=error.errno,
        )
    if permission.suspend_seccomp and error.errno == errno.EPERM and os.geteuid() == 0:
        why = "suspending its seccomp filter needs CAP_SYS_ADMIN outside of any user namespace"
        return AccessDenied(f"cannot attach to process {pid}: {why}", hint=_OUTSIDE, pid=pid, errno=error.errno)
    if error.errno == errno.EPERM:
        try:
            status = read_status(pid)
            _check_thread(status, pid, pid)  # it may have exited just now
            _check_tracer(status, pid)
        except PagescanError as known:
            return known
    return process_error(error, pid, f"attach to process {pid}", attach=True)
