"""Whom this process may look at, and whom it may track: tried on processes of our own making, never on strangers.

Two permissions matter (ptrace(2), "Ptrace access mode checking"). PTRACE_MODE_READ opens ``/proc/PID/pagemap`` and is
enough to see every page state. PTRACE_MODE_ATTACH is what ``pidfd_getfd`` and ``process_vm_readv`` ask for, and what
tracking another process needs; the Yama security module restricts it further.
"""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import AccessDenied, PagescanError
from . import memory
from .findings import Outcome, State, works
from .pagemap import Pagemap
from .procfs import process_error, read_status, sudo_command
from .trial import Child, child

CAP_SYS_PTRACE, CAP_SYS_ADMIN = 19, 21
#: "nobody" on most systems; all that matters is that it is not this user.
_OTHER_USER = 65534
_YAMA = Path("/proc/sys/kernel/yama/ptrace_scope")
_YAMA_SCOPES = {
    0: "0: every process of the same user may be attached to",
    1: "1: only descendants may be attached to",
    2: "2: only with CAP_SYS_PTRACE",
    3: "3: nobody may attach, until the next boot",
}


def own_child() -> Outcome:
    with child() as other:
        return _look_and_attach(other, "a child process")


def same_user() -> Outcome:
    """A process of this user that is no descendant of this one: what Yama's scope 1 forbids."""
    with child(orphan=True) as other:
        return _look_and_attach(other, "a process of this user that is no child of this one")


def other_user() -> Outcome:
    """Only root can make a process of another user to try it on; for others their capability decides."""
    if os.geteuid() != 0:
        if has_capability(CAP_SYS_PTRACE):
            return Outcome(State.UNKNOWN, "CAP_SYS_PTRACE is there; only root can make a process to try it on")
        raise AccessDenied("it needs CAP_SYS_PTRACE, which an ordinary user has not", hint=sudo_command())
    with child(_become_other_user) as other:
        if other.answer.startswith("error"):
            return Outcome(State.UNKNOWN, f"a child process could not become user {_OTHER_USER}: {other.answer}")
        return _look_and_attach(other, f"a process of another user ({_OTHER_USER})")


def _become_other_user() -> str:
    os.setgroups([])
    os.setgid(_OTHER_USER)
    os.setuid(_OTHER_USER)
    return ""


def _look_and_attach(other: Child, whom: str) -> Outcome:
    try:
        Pagemap.open(other.pid).close()
    except AccessDenied as error:
        return Outcome(State.REFUSED, f"opening the pagemap of {whom}: refused", error.message, error.hint)
    try:
        _attach(other)
    except PagescanError as error:
        seen = f"opened the pagemap of {whom}: scanning it works, but tracking it is refused"
        return Outcome(State.REFUSED, seen, error.message, error.hint)
    return works(f"opened the pagemap of {whom} and copied a descriptor out of it (pidfd_getfd)")


def _attach(other: Child) -> None:
    pidfd = memory.pidfd_open(other.pid)
    try:
        os.close(memory.pidfd_getfd(pidfd, other.descriptor))
    except OSError as error:
        raise process_error(error, other.pid, f"attach to process {other.pid}", attach=True) from error
    finally:
        os.close(pidfd)


def confinement() -> Outcome:
    """What limits this process: nothing is tried, the kernel's own words are repeated."""
    seccomp = read_status(os.getpid()).seccomp
    names = [("CAP_SYS_PTRACE", CAP_SYS_PTRACE), ("CAP_SYS_ADMIN", CAP_SYS_ADMIN)]
    capabilities = ", ".join(f"{name} {'yes' if has_capability(bit) else 'no'}" for name, bit in names)
    said = f"{capabilities}; Yama {_yama()}; seccomp {('none', 'strict', 'a filter')[seccomp]}"
    if seccomp == 0:
        return works(said)
    cause = "a seccomp filter may refuse system calls one by one: the lines above show which"
    return Outcome(State.UNKNOWN, said, cause)


def has_capability(bit: int) -> bool:
    """Whether this process has a capability (``include/uapi/linux/capability.h``) in effect."""
    return bool(read_status(os.getpid()).effective_capabilities >> bit & 1)


def _yama() -> str:
    try:
        scope = int(_YAMA.read_text())
    except OSError:
        return "is not there"
    return f"ptrace_scope {_YAMA_SCOPES.get(scope, str(scope))}"
