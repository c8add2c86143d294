"""What tracking another process costs it: how long it stands still, and how many SETs fewer a redis serves.

Targets run on any processor, whatever this program is pinned to: who tracks a process seldom sits on its processor.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

import pagescan
from harness import Effort, Goal, Pairs, Report
from native import Missing

#: Design's goal: the median pause.
PAUSE_GOAL_NS = 300e3
TARGETS = {
    "blocked": "import time; print('ready', flush=True); time.sleep(1000)",
    "running": "print('ready', flush=True)\nwhile True: pass",
}
#: What a tracker in a new process does once: nothing of it has run before.
FIRST = "import sys, pagescan; print(pagescan.attach(int(sys.argv[1])).pause_ns)"
INTERVAL = 0.1
#: SETs in one measurement: half a second or so.
REQUESTS = 200_000


def pause(report: Report, effort: Effort) -> None:
    """The pause of attaching, again and again from one process, and once from each of several new ones."""
    count = 100 if effort.seconds > 1 else 30
    with anywhere():
        for name, program in TARGETS.items():
            with target(program) as pid:
                pauses = [_attached(pid) for _ in range(count + 3)][3:]
                report.measured("pause", f"attach, target {name}: pause", pauses, PAUSE_GOAL_NS)
                pauses = [_first(pid) for _ in range(count // 4)]
                report.measured("pause", f"first attach of a process, target {name}: pause", pauses, PAUSE_GOAL_NS)


def _attached(pid: int) -> int:
    with pagescan.attach(pid) as tracker:
        return tracker.pause_ns


def _first(pid: int) -> int:
    done = subprocess.run([sys.executable, "-c", FIRST, str(pid)], capture_output=True, text=True, check=True)
    return int(done.stdout)


@contextlib.contextmanager
def anywhere() -> Iterator[None]:
    """This program, and what it starts, on any processor meanwhile."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, range(os.cpu_count() or 1))
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextlib.contextmanager
def target(program: str) -> Iterator[int]:
    """A Python program that has said "ready"."""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield process.pid
        finally:
            process.kill()


# --- redis -----------------------------------------------------------------------------------------------------------


def redis(report: Report, effort: Effort) -> None:
    """Random SETs of 512 bytes, eight at a time: untracked, tracked at 10 Hz, and after detaching, in turn."""
    for program in ("redis-server", "redis-benchmark"):
        if shutil.which(program) is None:
            raise Missing(f"no {program} here: apt-get install redis-server redis-tools")
    with anywhere(), _server() as (pid, socket):
        times: dict[str, list[float]] = {"untracked": [], "tracked": [], "after": []}
        _sets(socket)  # fills the memory
        for _ in range(max(3, round(effort.seconds * 2))):
            times["untracked"].append(_sets(socket))
            with _tracked(pid):
                times["tracked"].append(_sets(socket))
            times["after"].append(_sets(socket))
    untracked = np.array(times["untracked"])
    for name, what in (("tracked", "redis SET, tracked at 10 Hz"), ("after", "redis SET, after detaching")):
        pairs = Pairs(np.array(times[name]), untracked)
        rate = f"{1e9 / np.median(pairs.ours):,.0f} a second, untracked {1e9 / np.median(pairs.theirs):,.0f}"
        report.add("redis", what, "untracked", pairs, Goal(), note=rate)


@contextlib.contextmanager
def _server() -> Iterator[tuple[int, str]]:
    with tempfile.TemporaryDirectory(prefix="pagescan-bench-") as folder:
        socket = str(Path(folder) / "socket")
        command = ["redis-server", "--port", "0", "--unixsocket", socket, "--save", "", "--dir", folder]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for line in process.stdout:
                if "eady to accept connections" in line:
                    break
            else:
                raise RuntimeError(f"redis-server ended with status {process.wait()}")
            try:
                yield process.pid, socket
            finally:
                process.kill()


def _sets(socket: str) -> float:
    """Nanoseconds for each SET."""
    command = ["redis-benchmark", "-s", socket, "-t", "set", "-n", str(REQUESTS), "-r", "100000", "-d", "512"]
    done = subprocess.run([*command, "-P", "8", "--csv"], capture_output=True, text=True, check=True, timeout=120)
    last = next(line for line in reversed(done.stdout.splitlines()) if line.startswith('"SET"'))
    return 1e9 / float(last.split(",")[1].strip('"'))


@contextlib.contextmanager
def _tracked(pid: int) -> Iterator[None]:
    """The process tracked meanwhile, its written pages taken ten times a second."""
    over = threading.Event()
    with pagescan.attach(pid) as tracker:
        taker = threading.Thread(target=_take_until, args=(over, tracker.take))
        taker.start()
        try:
            yield
        finally:
            over.set()
            taker.join()


def _take_until(over: threading.Event, take: Callable[[], object]) -> None:
    while not over.wait(INTERVAL):
        take()
