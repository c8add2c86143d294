"""Round trips for userfaultfd, for tracking on each kind of memory, and for what else pagescan can use."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

from ..abi import Entry
from ..errors import AccessDenied, KernelCannot
from . import memory
from .findings import Outcome, State, works
from .ioctl import USERFAULTFD_IOC_NEW, ioctl, syscall_number
from .probes import compare
from .procfs import open_process_file, query_mapping
from .proof import try_tracking
from .trial import Pages, Trial, child
from .userfaultfd import DEVICE, UFFD_USER_MODE_ONLY

_SYSCTL = Path("/proc/sys/vm/unprivileged_userfaultfd")


def tracking() -> Outcome:
    return works(try_tracking().why)


def unpopulated() -> Outcome:
    with Trial() as trial:
        pages = trial.pages(4)
        trial.register(pages)
        trial.protect(pages)
        pages.read(1)
        before = trial.written(pages)
        pages.write(2)
        done = "protected 4 pages that were never touched, read page 1, wrote to page 2"
        if before:
            return Outcome(State.MISSING, f"{done}: reading made a page written", "the kernel's answer is wrong")
        return compare(trial.written(pages), [2], done, "written")


def kernel_writes() -> Outcome:
    with Trial() as trial:
        pages = trial.pages(4)
        trial.register(pages)
        trial.protect(pages)
        with open("/dev/zero", "rb", buffering=0) as source:
            source.readinto(memory.as_array(pages.address(2), pages.size))  # type: ignore[arg-type]
        return compare(trial.written(pages), [2], "protected 4 pages, had read(2) fill page 2", "written")


def shared_memory() -> Outcome:
    with Trial() as trial:
        return _one_write(trial, trial.memfd(4, shared=True), "shared memory (a memfd)")


def mapped_file() -> Outcome:
    with Trial() as trial, tempfile.TemporaryFile() as file:
        file.truncate(4 * memory.PAGE_SIZE)
        pages = trial.pages(4, flags=memory.MAP_SHARED, fd=file.fileno())
        return _one_write(trial, pages, f"a file mapped from {tempfile.gettempdir()}")


def _one_write(trial: Trial, pages: Pages, where: str) -> Outcome:
    trial.register(pages)
    trial.protect(pages)
    pages.write(1)
    return compare(trial.written(pages), [1], f"protected 4 pages of {where}, wrote to page 1", "written")


# --- userfaultfd ------------------------------------------------------------------------------------------------------


def _open_and_close(flags: int) -> None:
    os.close(memory.syscall(syscall_number("userfaultfd"), os.O_CLOEXEC | flags))


def user_mode_only() -> Outcome:
    try:
        _open_and_close(UFFD_USER_MODE_ONLY)
    except OSError as error:
        if error.errno == errno.ENOSYS:
            raise KernelCannot("this kernel has no userfaultfd(2), or a container's filter hides it") from error
        if error.errno == errno.EINVAL:
            raise KernelCannot("this kernel does not know the flag; Linux 5.11 brought it") from error
        raise AccessDenied(
            f"userfaultfd(2) is blocked ({errno.errorcode.get(error.errno or 0)}): a container's seccomp filter, or a "
            "security module",
            hint="docker run --security-opt seccomp=unconfined ...",
        ) from error
    return works("opened a userfaultfd with UFFD_USER_MODE_ONLY, which is all that tracking needs")


def unrestricted() -> Outcome:
    try:
        _open_and_close(0)
    except PermissionError as error:
        raise AccessDenied(
            "it needs CAP_SYS_PTRACE or vm.unprivileged_userfaultfd=1 (tracking does not need it)",
            hint="sudo sysctl vm.unprivileged_userfaultfd=1",
        ) from error
    try:
        setting = _SYSCTL.read_text().strip()
    except OSError:
        setting = "not there"
    return works(f"opened a userfaultfd without the flag (vm.unprivileged_userfaultfd is {setting})")


def device() -> Outcome:
    try:
        opened = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
        try:
            os.close(ioctl(opened, USERFAULTFD_IOC_NEW, os.O_CLOEXEC | UFFD_USER_MODE_ONLY))
        finally:
            os.close(opened)
    except FileNotFoundError as error:
        raise KernelCannot(f"there is no {DEVICE} (Linux 6.1 brought it; a container may hide it)") from error
    except PermissionError as error:
        raise AccessDenied(
            f"{DEVICE} is not this user's to open (tracking needs it only where the system call is blocked)",
            hint=f"sudo setfacl -m u:{os.geteuid()}:rw {DEVICE}",
        ) from error
    return works(f"opened a userfaultfd through {DEVICE}")


# --- other ways -------------------------------------------------------------------------------------------------------


def clear_refs() -> Outcome:
    """In a process of its own: clearing concerns all memory of a process, also what others look at."""
    with child(_soft_dirty_pages) as other:
        answer = other.answer
    done = "in a child process: wrote to 4 pages, cleared all soft-dirty bits, wrote to page 2"
    if answer == "0123 - 2":
        return works(f"{done}: exactly page 2 is soft-dirty")
    if answer.startswith("- - -"):
        cause = "this kernel was built without CONFIG_MEM_SOFT_DIRTY: clear_refs accepts the write and does nothing"
        return Outcome(State.MISSING, f"{done}: no page is ever soft-dirty", cause)
    return Outcome(State.UNKNOWN, f"{done}: soft-dirty at first, after clearing, after writing: {answer}")


def _soft_dirty_pages() -> str:
    with Trial() as trial:
        pages = trial.pages(4)
        pages.write(0, 1, 2, 3)
        seen = [_soft_dirty(trial, pages)]
        Path("/proc/self/clear_refs").write_text("4")
        seen.append(_soft_dirty(trial, pages))
        pages.write(2)
        return " ".join([*seen, _soft_dirty(trial, pages)])


def _soft_dirty(trial: Trial, pages: Pages) -> str:
    entries = trial.pagemap.read_entries(pages.start, pages.end)
    return "".join(str(i) for i, entry in enumerate(entries.tolist()) if entry & Entry.SOFT_DIRTY) or "-"


def procmap_query() -> Outcome:
    with Trial() as trial, open_process_file(os.getpid(), "maps") as maps:
        # A memfd: anonymous mappings of one kind join into one.
        pages = trial.memfd(3, shared=True)
        try:
            found = query_mapping(maps, pages.address(1))
        except OSError as error:
            if error.errno != errno.ENOTTY:
                raise
            raise KernelCannot("this kernel has none; Linux 6.11 brought it (maps is read instead)") from error
    if found and (found.start, found.end, found.page_size) == (pages.start, pages.end, pages.size):
        return works("asked for the mapping of one address: its bounds and page size are right")
    return Outcome(State.MISSING, f"asked for the mapping of one address and got {found}", "the answer is wrong")
