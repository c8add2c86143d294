"""The children of a process, their children, and so on."""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import PagescanError
from ..kernel import procfs


def find_descendants(pid: int) -> list[int]:
    """Every live descendant of a process, parents before their children. Those that begin meanwhile may be missing."""
    found: list[int] = []
    ahead = [pid]
    while ahead:
        children = _children(ahead.pop())
        found += children
        ahead += children
    return [child for child in found if _is_alive(child)]


def _children(pid: int) -> list[int]:
    """From ``/proc/PID/task/TID/children`` of every thread (CONFIG_PROC_CHILDREN); else every process is asked."""
    try:
        files = [Path(f"/proc/{pid}/task/{tid}/children") for tid in os.listdir(f"/proc/{pid}/task")]
        return [int(word) for file in files for word in file.read_text().split()]
    except ProcessLookupError:
        return []
    except FileNotFoundError:
        if not os.path.exists(f"/proc/{pid}"):
            return []
    return [other for other in map(int, filter(str.isdigit, os.listdir("/proc"))) if _parent(other) == pid]


def _parent(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return int(file.read().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def _is_alive(pid: int) -> bool:
    try:
        return procfs.read_stat(pid).state not in "ZX"
    except PagescanError:
        return False
