"""What tracking another process costs it: how long it stands still, and how many SETs fewer a redis serves.

Targets run on any processor, whatever this program is pinned to: who tracks a process seldom sits on its processor.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np

import pagescan
from harness import Effort, Goal, Pairs, Report, duration, interleave
from native import Missing, compile_into
from pagescan.kernel.gadgets import find_gadgets
from pagescan.kernel.registers import LAYOUTS

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
    """The pause of attaching, again and again from one process, and once from each of several new ones; each in turn
    with the same requests made by a C program. Then the longest time in which a target could not run, as it saw it."""
    count = 100 if effort.seconds > 1 else 30
    with anywhere():
        try:
            with _stopping() as program:
                _beside_c(report, program, count)
                _seen(report, program, count)
        except Missing as missing:
            report.notes.append(f"pause: not compared with C: {missing}")
            _by_itself(report, count)


def _by_itself(report: Report, count: int) -> None:
    for name, code in TARGETS.items():
        with target([sys.executable, "-c", code]) as pid:
            report.measured("pause", _again(name), [_attached(pid) for _ in range(count)], PAUSE_GOAL_NS)
            report.measured("pause", _once(name), [_first(pid) for _ in range(count // 4)], PAUSE_GOAL_NS)


def _beside_c(report: Report, program: str, count: int) -> None:
    for name, code in TARGETS.items():
        with target([sys.executable, "-c", code]) as pid, _kept(program, pid) as in_c:
            pairs = interleave(partial(_attached, pid), in_c, Effort(0, count, count))
            _add(report, _again(name), pairs)
            few = Effort(0, count // 4, count // 4)
            _add(report, _once(name), interleave(partial(_first, pid), partial(_first_in_c, program, pid), few))


def _again(name: str) -> str:
    return f"attach, target {name}: pause"


def _once(name: str) -> str:
    return f"first attach of a process, target {name}: pause"


def _add(report: Report, what: str, pairs: Pairs) -> None:
    spread = f"95 % within {duration(np.percentile(pairs.ours, 95))}, at most {duration(pairs.ours.max())}"
    spread += f" (C: {duration(np.percentile(pairs.theirs, 95))}, {duration(pairs.theirs.max())})"
    report.add("pause", what, "the same requests in C", pairs, Goal(within=PAUSE_GOAL_NS), note=spread)


def _attached(pid: int) -> int:
    with pagescan.attach(pid) as tracker:
        return tracker.pause_ns


def _first(pid: int) -> int:
    done = subprocess.run([sys.executable, "-c", FIRST, str(pid)], capture_output=True, text=True, check=True)
    return int(done.stdout)


def _seen(report: Report, program: str, count: int) -> None:
    """The longest time between two looks at the clock of a program that does nothing else, while it is attached to,
    and while it is left alone."""
    with tempfile.NamedTemporaryFile(prefix="pagescan-bench-") as file:
        file.write(bytes(mmap.PAGESIZE))
        file.flush()
        with mmap.mmap(file.fileno(), mmap.PAGESIZE) as shared, target([program, "watch", file.name]) as pid:
            took = [0.0]

            def attached() -> int:
                shared[:8] = bytes(8)
                began = time.monotonic()
                with pagescan.attach(pid):
                    took[0] = time.monotonic() - began
                    return int.from_bytes(shared[:8], sys.byteorder)

            def alone() -> int:
                shared[:8] = bytes(8)
                time.sleep(took[0])
                return int.from_bytes(shared[:8], sys.byteorder)

            pairs = interleave(attached, alone, Effort(0, count, count))
    spread = f"at most {duration(pairs.ours.max())}, {duration(pairs.theirs.max())} when left alone"
    report.add("pause", "attach: the longest gap the target saw", "left alone as long", pairs, Goal(), note=spread)


# --- the same in C ---------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _stopping() -> Iterator[str]:
    """``stopping.c``, compiled into a folder that goes away again. Raises Missing."""
    if platform.machine() != "x86_64":
        raise Missing("the same requests in C are written for x86-64 alone")
    with tempfile.TemporaryDirectory(prefix="pagescan-bench-") as folder:
        program = Path(folder, "stopping")
        compile_into(program, "stopping.c")
        yield str(program)


def _trace(program: str, pid: int) -> list[str]:
    gadgets = find_gadgets(pid, LAYOUTS["x86_64"])
    return [program, "trace", str(pid), str(gadgets.returning), str(gadgets.restorer)]


@contextlib.contextmanager
def _kept(program: str, pid: int) -> Iterator[Callable[[], int]]:
    """A C program that stays, as a function that has it attach once and returns the pause."""
    pipe = subprocess.PIPE
    with subprocess.Popen(_trace(program, pid), stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        told, tell = process.stdout, process.stdin

        def once() -> int:
            print(file=tell, flush=True)
            return int(told.readline())

        yield once
        tell.close()


def _first_in_c(program: str, pid: int) -> int:
    done = subprocess.run(_trace(program, pid), input="\n", capture_output=True, text=True, check=True)
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
def target(command: list[str]) -> Iterator[int]:
    """A program that has said "ready"."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
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
