"""What a recording says of the process it is of: from ``/proc``, and from the system."""

from __future__ import annotations

import platform

from ..errors import NoSuchProcess, PagescanError
from ..kernel import procfs


class LinuxFacts:
    """:class:`pagescan.abi.ProcessFacts` of a process of Linux. Raises NoSuchProcess."""

    def __init__(self, pid: int):
        self._pid = pid
        self.kernel, self.machine = platform.release(), platform.machine()

    @property
    def start_time(self) -> int:
        return procfs.read_stat(self._pid).start_time

    def command_line(self) -> tuple[str, ...]:
        return tuple(procfs.read_process_file(self._pid, "cmdline").split("\0")[:-1])

    def has_memory(self) -> bool:
        return has_memory(self._pid)

    def resident_pages(self) -> int | None:
        return resident_pages(self._pid)


def has_memory(pid: int) -> bool:
    """Whether the process has memory: one that exits gives it back before it can be seen to have exited."""
    try:
        return "VmSize" in procfs.read_status(pid).fields
    except NoSuchProcess:
        return False


def resident_pages(pid: int) -> int | None:
    """Pages of the process in memory (the second number of proc_pid_statm(5)); None if it has exited."""
    try:
        return int(procfs.read_process_file(pid, "statm").split()[1])
    except (PagescanError, IndexError):
        return None
