"""userfaultfd: the descriptor through which memory is put under (asynchronous) write protection.

What one needs to know to read on:

* A userfaultfd acts on the address space of the process that created it, whoever holds the descriptor later.
* ``UFFDIO_API`` must come first, and can succeed only once: what a kernel supports is asked on a descriptor to throw
  away (ioctl_userfaultfd(2), UFFDIO_API(2const)).
* With ``WP_ASYNC`` the kernel resolves write faults by itself: nobody reads the descriptor, no writer waits. So
  ``UFFD_USER_MODE_ONLY``, which every user may have, is enough, also for writes that the kernel makes.
"""

from __future__ import annotations

import errno
import io
import os
import struct
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from ..abi import TRACKING_FEATURES, RegisterMode
from ..errors import AccessDenied, Closed, KernelCannot, PagescanError
from .ioctl import (
    UFFD_API,
    UFFDIO_API,
    UFFDIO_REGISTER,
    UFFDIO_RWPROTECT,
    UFFDIO_UNREGISTER,
    UFFDIO_WAKE,
    UFFDIO_WRITEPROTECT,
    USERFAULTFD_IOC_NEW,
    ioctl,
    syscall_number,
)
from .memory import syscall
from .procfs import read_status, sudo_command

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

#: Only faults from user mode block; allowed to everybody. Linux 5.11, 37cd0575b851 ("userfaultfd: add
#: UFFD_USER_MODE_ONLY").
UFFD_USER_MODE_ONLY = 1
_FLAGS = os.O_CLOEXEC | os.O_NONBLOCK
#: Linux 6.1, 2d5de004e009 ("userfaultfd: add /dev/userfaultfd for fine grained access control").
DEVICE = "/dev/userfaultfd"

WRITEPROTECT_MODE_WP = 1  #: ``UFFDIO_WRITEPROTECT_MODE_WP``; without it the call takes the protection away
RWPROTECT_MODE_RWP = 1  #: ``UFFDIO_RWPROTECT_MODE_RWP``

#: ``UFFD_FEATURE_*`` by bit, each with the release that brought it (UFFDIO_API(2const); RWP by the 7.3 sources).
FEATURES = (
    ("PAGEFAULT_FLAG_WP", "5.7"),
    ("EVENT_FORK", "4.11"),
    ("EVENT_REMAP", "4.11"),
    ("EVENT_REMOVE", "4.11"),
    ("MISSING_HUGETLBFS", "4.11"),
    ("MISSING_SHMEM", "4.11"),
    ("EVENT_UNMAP", "4.11"),
    ("SIGBUS", "4.14"),
    ("THREAD_ID", "4.14"),
    ("MINOR_HUGETLBFS", "5.13"),
    ("MINOR_SHMEM", "5.14"),
    ("EXACT_ADDRESS", "5.18"),
    ("WP_HUGETLBFS_SHMEM", "5.19"),
    ("WP_UNPOPULATED", "6.4"),
    ("POISON", "6.6"),
    ("WP_ASYNC", "6.7"),
    ("MOVE", "6.8"),
    ("RWP", "7.3"),
    ("RWP_ASYNC", "7.3"),
)


class Userfaultfd:
    """A userfaultfd after its handshake, usable as a context manager.

    Its calls raise OSError with the kernel's errno; who knows what was being done explains it. After :meth:`close`
    they raise Closed (a ValueError). Closing takes away all protection at once (8.6 ms per armed GiB were measured).

    Attributes:
        features: the ``UFFD_FEATURE_*`` bits that were asked for and granted.
    """

    features: int

    def __init__(self, file: io.FileIO, features: int):
        """Takes over ``file``, an open userfaultfd that has had its handshake; use :func:`open_userfaultfd`."""
        self._file = file
        self.features = features

    def register(self, start: int, length: int, mode: int = RegisterMode.WP) -> int:
        """``UFFDIO_REGISTER``: put [start, start + length) under this userfaultfd; gaps in it are allowed.

        Returns a bit mask of the ioctls the range allows (bit 6 UFFDIO_WRITEPROTECT). EBUSY: another userfaultfd has
        it; EINVAL: not aligned, nothing mapped, or a mapping that cannot be; EPERM: a file opened read-only is shared.
        """
        argument = bytearray(struct.pack("=4Q", start, length, mode, 0))
        self._call(UFFDIO_REGISTER, argument)
        return int.from_bytes(argument[24:], sys.byteorder)

    def unregister(self, start: int, length: int) -> None:
        """``UFFDIO_UNREGISTER``: take the range out, and its protection with it."""
        self._call(UFFDIO_UNREGISTER, bytearray(struct.pack("=2Q", start, length)))

    def writeprotect(self, start: int, length: int, *, protect: bool = True) -> None:
        """``UFFDIO_WRITEPROTECT``: protect the range (or stop). ENOENT: part of it is not registered here."""
        mode = WRITEPROTECT_MODE_WP if protect else 0
        self._call(UFFDIO_WRITEPROTECT, bytearray(struct.pack("=3Q", start, length, mode)))

    def rwprotect(self, start: int, length: int, *, protect: bool = True) -> None:
        """``UFFDIO_RWPROTECT`` (Linux 7.3): the same against reads and writes, for memory registered with RWP."""
        mode = RWPROTECT_MODE_RWP if protect else 0
        self._call(UFFDIO_RWPROTECT, bytearray(struct.pack("=3Q", start, length, mode)))

    def wake(self, start: int, length: int) -> None:
        """``UFFDIO_WAKE``: let threads go on that wait for a fault in the range (never in asynchronous mode)."""
        self._call(UFFDIO_WAKE, bytearray(struct.pack("=2Q", start, length)))

    def _call(self, request: int, argument: bytearray) -> None:
        try:
            ioctl(self._file, request, argument)
        except ValueError as error:
            raise self._refusal(error) from error

    def _refusal(self, error: ValueError) -> Exception:
        return Closed("this userfaultfd is closed", hint="open another one") if self.closed else error

    def fileno(self) -> int:
        """The descriptor. Raises Closed."""
        try:
            return self._file.fileno()
        except ValueError as error:
            raise self._refusal(error) from error

    @property
    def closed(self) -> bool:
        return self._file.closed

    def close(self) -> None:
        """Close the descriptor. Closing again does nothing."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_userfaultfd(features: int = TRACKING_FEATURES) -> Userfaultfd:
    """A userfaultfd of this process with these ``UFFD_FEATURE_*``.

    Raises KernelCannot naming each feature this kernel lacks and the release that brought it, or if there is no
    userfaultfd at all; AccessDenied saying what was tried and the command that mends it.
    """
    with _open_descriptor() as probe:
        missing = features & ~handshake(probe, 0)
    if missing:
        raise KernelCannot(
            f"this kernel's userfaultfd lacks {describe_features(missing)}",
            hint="run a later kernel, on x86-64 (or arm64 from Linux 6.10 on)",
            errno=errno.EINVAL,
        )
    with _open_descriptor() as probe:
        _prove(probe, features)
    file = _open_descriptor()
    try:
        handshake(file, features)
    except BaseException:
        file.close()
        raise
    return Userfaultfd(file, features)


def adopt(fd: int, features: int) -> Userfaultfd:
    """A userfaultfd received from elsewhere, after its handshake with ``features``; takes over the descriptor."""
    os.set_inheritable(fd, False)
    return Userfaultfd(io.FileIO(fd), features)


def supported_features() -> int:
    """The ``UFFD_FEATURE_*`` bits this kernel offers this process; 0 if it can have no userfaultfd."""
    try:
        with _open_descriptor() as probe:
            return handshake(probe, 0)
    except (AccessDenied, KernelCannot):
        return 0


def handshake(file: int | io.FileIO, features: int) -> int:
    """``UFFDIO_API``: fix the features of a new userfaultfd; returns every feature the kernel offers.

    It can succeed once. Raises OSError: EINVAL for a feature the kernel lacks; EPERM for EVENT_FORK, which needs
    CAP_SYS_PTRACE.
    """
    argument = bytearray(struct.pack("=3Q", UFFD_API, features, 0))
    ioctl(file, UFFDIO_API, argument)
    return int.from_bytes(argument[8:16], sys.byteorder)


def _prove(probe: io.FileIO, features: int) -> None:
    """That a feature is listed is no proof that it is granted: ask for it, on a descriptor to throw away."""
    try:
        handshake(probe, features)
    except PermissionError as error:
        raise AccessDenied(
            f"{describe_features(features)} together need CAP_SYS_PTRACE", hint=sudo_command(), errno=error.errno
        ) from error
    except OSError as error:
        raise KernelCannot(
            f"this kernel lists {describe_features(features)} but does not grant them together", errno=error.errno
        ) from error


def describe_features(features: int) -> str:
    """The features in words: "WP_ASYNC (Linux 6.7), RWP (Linux 7.3)"."""
    known = [f"{name} (Linux {release})" for bit, (name, release) in enumerate(FEATURES) if features >> bit & 1]
    unknown = features >> len(FEATURES) << len(FEATURES)
    return ", ".join(known + ([f"bits {unknown:#x}"] if unknown else []))


# --- creating one ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Attempt:
    """One way to a userfaultfd that failed: in words, and the kernel's errno."""

    way: str
    errno: int


def _open_descriptor() -> io.FileIO:
    """A new userfaultfd without handshake, by the system call or else the device."""
    attempts: list[Attempt] = []
    ways: tuple[tuple[str, Callable[[], int]], ...] = (
        ("userfaultfd(UFFD_USER_MODE_ONLY)", lambda: _by_syscall(_FLAGS | UFFD_USER_MODE_ONLY)),
        ("userfaultfd(0)", lambda: _by_syscall(_FLAGS)),
        (DEVICE, _by_device),
    )
    for way, make in ways:
        if way == "userfaultfd(0)" and attempts[0].errno != errno.EINVAL:
            continue  # EINVAL alone says that the flag is not known (before 5.11)
        try:
            return io.FileIO(make())
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
                raise
            attempts.append(Attempt(way, error.errno or 0))
    raise explain_failure(attempts, seccomp=_seccomp(), root=os.geteuid() == 0)


def _by_syscall(flags: int) -> int:
    return syscall(syscall_number("userfaultfd"), flags)


def _by_device() -> int:
    device = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
    try:
        return ioctl(device, USERFAULTFD_IOC_NEW, _FLAGS | UFFD_USER_MODE_ONLY)
    finally:
        os.close(device)


def _seccomp() -> int:
    try:
        return read_status(os.getpid()).seccomp
    except PagescanError:
        return 0


def explain_failure(attempts: list[Attempt], *, seccomp: int, root: bool) -> PagescanError:
    """Why no userfaultfd can be had, from how each way failed.

    Args:
        attempts: every way tried, the device last.
        seccomp: this process's ``Seccomp`` line: 0 means that no filter can be the cause.
        root: whether this is root.
    """
    tried = "; ".join(f"{a.way}: {errno.errorcode.get(a.errno, a.errno)}" for a in attempts)
    call, device = attempts[-2].errno, attempts[-1].errno
    message = f"no userfaultfd can be opened ({tried}): "
    grant = f"sudo setfacl -m u:{os.geteuid()}:rw {DEVICE}"
    if call == errno.ENOSYS and not seccomp:
        why = "this kernel was built without CONFIG_USERFAULTFD"
        return KernelCannot(message + why, hint="run a kernel that has CONFIG_USERFAULTFD=y", errno=call)
    if seccomp:
        why = "a seccomp filter, such as a container's profile, blocks the system call"
        hint = "docker run --security-opt seccomp=unconfined ..."
        if device in (errno.EACCES, errno.EPERM) and not root:
            why, hint = f"{why}, and {DEVICE} is not this user's to open", grant
        return AccessDenied(message + why, hint=hint, errno=call)
    if call in (errno.EPERM, errno.EACCES):
        why = "without UFFD_USER_MODE_ONLY it needs CAP_SYS_PTRACE or vm.unprivileged_userfaultfd=1"
        hint = "sudo sysctl vm.unprivileged_userfaultfd=1"
        if len(attempts) == 2:
            why, hint = "a security module forbids the system call", grant
        return AccessDenied(message + why, hint=hint, errno=call)
    return KernelCannot(message + "the system call fails for a reason unknown to pagescan", errno=call)
