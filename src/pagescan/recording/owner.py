"""Whether a recording is still being written: the writer leaves its identity in the file."""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import PagescanError


def own_identity() -> str | None:
    """``BOOT_ID PID_NAMESPACE PID START_TIME`` of this process: no other process ever has the same. None off Linux."""
    place = _place()
    started = _start_time(os.getpid())
    return f"{place} {os.getpid()} {started}" if place and started is not None else None


def is_running(identity: str | None) -> bool | None:
    """Whether the process of this identity runs; None if that cannot be known from here (another machine, another
    pid namespace, no /proc)."""
    place = _place()
    words = (identity or "").split()
    # A boot id of another boot may also be that of another machine, where the writer still runs.
    if place is None or len(words) != 4 or " ".join(words[:2]) != place:
        return None
    return _start_time(int(words[2])) == int(words[3])


def _place() -> str | None:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return None


def _start_time(pid: int) -> int | None:
    """In clock ticks after boot; None if there is no such process, or only its zombie."""
    try:
        from ..kernel.procfs import read_stat

        stat = read_stat(pid)
    except (ImportError, OSError, PagescanError):
        return None
    return None if stat.state in "ZX" else stat.start_time
