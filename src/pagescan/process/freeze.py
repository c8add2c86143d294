"""A process held still for a while, and let go again whatever happens: also if this process is killed meanwhile.

By its control group where that is possible (version 2, Linux 5.2: a group that holds this process alone, and that we
may freeze): nobody is told of it. Else by SIGSTOP and SIGCONT, which its parent can see, a shell as "Stopped". Either
way a blocking call that signal(7) lists as never restarted ends with EINTR, as after any stop.

A process that dies thaws nobody. So a guardian, a shell in a session of its own, knows whether the process is frozen,
and thaws it when the pipe to us breaks.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ..errors import AccessDenied, KernelCannot, NoSuchProcess
from ..kernel import procfs

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Seconds a process may take until it stands still.
FREEZE_TIMEOUT = 2.0
_ASK_AGAIN = 0.0002
_GROUPS = (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified"))
# Remembers the last word; at the end of its input thaws if that was "frozen".
_GUARDIAN = 'while read word; do last=$word; done; [ "$last" != frozen ] || '


class _Way(Protocol):
    """How one process is frozen."""

    @property
    def thawing(self) -> str:
        """What the guardian's shell does to thaw it."""

    def freeze(self) -> None: ...

    def is_frozen(self) -> bool: ...

    def thaw(self) -> None: ...


@dataclass(frozen=True, slots=True)
class ByGroup:
    """By its control group, the folder ``group``."""

    group: Path

    @property
    def thawing(self) -> str:
        return f"echo 0 > '{self.group}/cgroup.freeze'"

    def freeze(self) -> None:
        (self.group / "cgroup.freeze").write_text("1")

    def is_frozen(self) -> bool:
        return "frozen 1" in (self.group / "cgroup.events").read_text()

    def thaw(self) -> None:
        with contextlib.suppress(FileNotFoundError):  # it has exited, and its group is gone
            (self.group / "cgroup.freeze").write_text("0")


@dataclass(frozen=True, slots=True)
class BySignal:
    """By SIGSTOP."""

    pid: int

    @property
    def thawing(self) -> str:
        return f"kill -CONT {self.pid}"

    def freeze(self) -> None:
        _signal(self.pid, signal.SIGSTOP)

    def is_frozen(self) -> bool:
        try:
            return all(procfs.read_stat(int(tid)).state in "TtZX" for tid in os.listdir(f"/proc/{self.pid}/task"))
        except (FileNotFoundError, NoSuchProcess):
            raise NoSuchProcess(f"process {self.pid} has exited", pid=self.pid) from None

    def thaw(self) -> None:
        with contextlib.suppress(NoSuchProcess):
            _signal(self.pid, signal.SIGCONT)


class Freezer:
    """Freezes one process, again and again. Close it when done. Safe to use from several threads.

    Attributes:
        pid: the process.
    """

    def __init__(self, pid: int):
        self.pid = pid
        self._lock = threading.RLock()
        self._depth = 0
        self._guardian: subprocess.Popen[bytes] | None = None
        self._guarded = ""

    @contextlib.contextmanager
    def frozen(self, timeout: float = FREEZE_TIMEOUT) -> Iterator[None]:
        """The process stands still while the body runs; within another such body nothing more happens.

        One that was stopped already, by whomever, stays so afterwards. Raises KernelCannot if it does not stand still
        within ``timeout`` seconds; NoSuchProcess; AccessDenied.
        """
        with self._lock:
            if self._depth or procfs.read_stat(self.pid).state in "Tt":
                yield
                return
            way = way_of(self.pid)
            self._depth += 1
            self._guard(way)
            try:
                self._say("frozen")
                way.freeze()
                _await_frozen(way, self.pid, timeout)
                yield
            finally:
                self._depth -= 1
                way.thaw()
                self._say("thawed")

    def _guard(self, way: _Way) -> None:
        """A guardian that knows how to thaw."""
        if self._guardian is not None and self._guarded == way.thawing and self._guardian.poll() is None:
            return
        self.close()
        command = ["/bin/sh", "-c", _GUARDIAN + way.thawing]
        quiet = subprocess.DEVNULL
        self._guardian = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=quiet, stderr=quiet, start_new_session=True, bufsize=0
        )
        self._guarded = way.thawing

    def _say(self, word: str) -> None:
        assert self._guardian is not None, "it was just made"
        assert self._guardian.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # somebody killed it
            self._guardian.stdin.write(word.encode() + b"\n")

    def close(self) -> None:
        """Let the guardian end."""
        guardian, self._guardian = self._guardian, None
        if guardian is not None:
            assert guardian.stdin is not None
            guardian.stdin.close()
            guardian.wait()


def way_of(pid: int) -> _Way:
    """How this process can be frozen."""
    group = _own_group(pid)
    return BySignal(pid) if group is None else ByGroup(group)


def _own_group(pid: int) -> Path | None:
    """The folder of the control group that holds this process and no other, if we may freeze it."""
    try:
        lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
        path = next(line.removeprefix("0::/") for line in lines if line.startswith("0::/"))
        for root in _GROUPS:
            group = root / path
            if path and os.access(group / "cgroup.freeze", os.W_OK) and _members(group) == {pid}:
                return group
    except (OSError, StopIteration, ValueError):
        pass
    return None


def _members(group: Path) -> set[int]:
    """The processes in a group and the groups within it."""
    return {int(word) for file in group.rglob("cgroup.procs") for word in file.read_text().split()}


def _await_frozen(way: _Way, pid: int, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    while not way.is_frozen():
        if time.monotonic() > deadline:
            raise KernelCannot(
                f"process {pid} did not stop within {timeout:g} s",
                hint=f"it may be in an uninterruptible wait: cat /proc/{pid}/wchan",
                pid=pid,
            )
        time.sleep(_ASK_AGAIN)


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        raise NoSuchProcess(f"process {pid} has exited", pid=pid) from None
    except PermissionError:
        hint = procfs.sudo_command()
        raise AccessDenied(f"process {pid} may not be sent {number.name}", hint=hint, pid=pid) from None
