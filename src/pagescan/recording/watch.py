"""Waiting for whichever comes first: a moment, the end of a process, or being told to stop."""

from __future__ import annotations

import contextlib
import enum
import os
import select
import time
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from types import TracebackType

_MILLISECOND = 1_000_000


class Happened(enum.Enum):
    """Why a wait ended."""

    DUE = "due"  #: the moment has come
    EXITED = "exited"  #: the process has exited
    STOPPED = "stopped"  #: :meth:`Watch.stop` was called


class Watch:
    """Waits on behalf of a recorder. A context manager.

    Raises NoSuchProcess if there is no process of this pid.
    """

    def __init__(self, pid: int):
        from ..kernel import memory  # on Linux only

        self._pidfd = memory.pidfd_open(pid)
        self._ear, self._mouth = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._poll = select.poll()
        self._poll.register(self._pidfd, select.POLLIN)
        self._poll.register(self._ear, select.POLLIN)

    def stop(self) -> None:
        """End the wait under way, and all later ones. From any thread, or a signal handler."""
        with contextlib.suppress(BlockingIOError):  # full: it was said often enough
            os.write(self._mouth, b"!")

    def wait(self, until_ns: int | None) -> Happened:
        """Wait for a moment on the monotonic clock, or with None for ever. Never back before; late by a millisecond or
        less on an idle machine."""
        while True:
            left = None if until_ns is None else max(0, until_ns - time.monotonic_ns())
            ready = {fd for fd, _ in self._poll.poll(None if left is None else left / _MILLISECOND)}
            if self._pidfd in ready:
                return Happened.EXITED
            if self._ear in ready:
                return Happened.STOPPED
            if until_ns is not None and time.monotonic_ns() >= until_ns:
                return Happened.DUE

    def close(self) -> None:
        for fd in (self._pidfd, self._ear, self._mouth):
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
