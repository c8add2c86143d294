"""Killing the tracker while it attaches, at a chosen request or at random; `scripts/kill-test` is its command line.

The tracker is a fork of this process: so a kill costs a millisecond, not the start of a Python.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from pagescan.errors import AccessDenied, PagescanError
from pagescan.kernel import ptrace
from pagescan.kernel.rehearsal import Nobody
from pagescan.process.attach import take_userfaultfd

from . import targets

#: What the tracker asks of a target, each a moment to die at.
REQUESTS = (
    *("seize", "interrupt", "resume", "resume_to_syscall", "detach", "wait", "words", "set_words", "read"),
    *("registers_into_room", "write_room", "signal_mask", "set_signal_mask", "restartable_area"),
)


#: Seconds after which a tracker is killed at the latest: enough for several attaches.
_LONGEST = 0.02
#: The same, from the moment on at which it is seen to trace: as long as a target stands still.
_LONGEST_INSIDE = 0.0006


def in_fork(work: Callable[[], object]) -> int:
    """Run ``work`` in a forked child; returns its wait status."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        except BaseException:  # noqa: BLE001 - a child of a test must never run on in its parent's code
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitpid(pid, 0)[1]


def attach_and_die(pid: int, point: int, *, tid: int | None = None, after: bool = False) -> bool:
    """Attach from a fork that kills itself at request number ``point``; False if it made no so many requests."""

    def work() -> None:
        count = 0

        def deadly(request: Callable[..., Any]) -> Callable[..., Any]:
            def call(*arguments: Any) -> Any:
                nonlocal count
                if isinstance(arguments[0], Nobody):  # a rehearsal, before anything is asked of the target
                    return request(*arguments)
                count += 1
                if count > point and not after:
                    os.kill(os.getpid(), signal.SIGKILL)
                result = request(*arguments)
                if count > point:
                    os.kill(os.getpid(), signal.SIGKILL)
                return result

            return call

        for name in REQUESTS:
            setattr(ptrace.Tracee, name, deadly(getattr(ptrace.Tracee, name)))
        with contextlib.suppress(PagescanError):  # on a loaded machine the target's time may be over
            take_userfaultfd(pid, tid)

    status = in_fork(work)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, "the tracker failed instead of dying"
    return os.WIFSIGNALED(status)


@contextlib.contextmanager
def tracing(pid: int) -> Iterator[int]:
    """A process that traces ``pid``; yields its own."""
    ready, tell = os.pipe()
    tracer = os.fork()
    if tracer == 0:
        try:
            ptrace.Tracee(pid).seize()
            os.write(tell, b"x")
            signal.pause()
        finally:
            os._exit(1)
    os.close(tell)
    try:
        assert os.read(ready, 1) == b"x"
        yield tracer
    finally:
        os.close(ready)
        os.kill(tracer, signal.SIGKILL)
        os.waitpid(tracer, 0)


def as_nobody(work: Callable[[], object]) -> int:
    """Run ``work`` in a fork that is user 65534 without capabilities; returns its exit status."""

    def demoted() -> None:
        os.setgroups([])
        os.setresgid(65534, 65534, 65534)
        os.setresuid(65534, 65534, 65534)
        work()

    return os.waitstatus_to_exitcode(in_fork(demoted))


def expect_denied(pid: int) -> None:
    """Fail unless attaching to ``pid`` is refused for its owner."""
    with pytest.raises(AccessDenied, match="belongs to user 0") as caught:
        take_userfaultfd(pid)
    assert "sudo" in (caught.value.hint or "")


def attach_to_own(program: str) -> None:
    """Attach to a program of one's own, ten times."""
    with targets.running(program) as process:
        for _ in range(10):
            os.close(take_userfaultfd(process.pid).fd)
        assert targets.verdict(process) == "right"


# --- at random -------------------------------------------------------------------------------------------------------


@dataclass
class Report:
    """What a run of :func:`run` saw.

    Attributes:
        kills: trackers killed while they attached, again and again.
        inside: those of them that were tracing a target at that very moment.
        leaked: descriptors that killed trackers left in targets.
        harmed: targets that crashed or went wrong.
    """

    kills: int = 0
    inside: int = 0
    leaked: int = 0
    harmed: int = 0


def run(
    kills: int, seed: int | None = None, say: Callable[[str], object] = lambda text: None, *, frame: bool = True
) -> Report:
    """Kill trackers at random while they attach to programs that check themselves; every other one in the midst of it.

    ``frame=False`` attaches in the form that does not survive: there targets are harmed.
    """
    chance = random.Random(seed)
    report = Report()
    program = targets.build(targets.SPIN)
    while report.kills < kills:
        with targets.running(program, chance.choice(["1", "3"])) as process:
            round_end = min(kills, report.kills + 50)
            threads = sorted(int(tid) for tid in os.listdir(f"/proc/{process.pid}/task"))
            while report.kills < round_end and process.poll() is None:
                watch = bool(report.kills % 2)
                delay = chance.uniform(0, _LONGEST_INSIDE if watch else _LONGEST)
                report.inside += kill_one(process.pid, chance.choice(threads), delay, watch=watch, frame=frame)
                report.kills += 1
            report.leaked += leaked(process.pid)
            report.harmed += harmed(process)
            say(
                f"{report.kills} kills, {report.inside} in the midst of an attach, {report.harmed} targets harmed, "
                f"{report.leaked} descriptors left behind"
            )
    return report


def kill_one(pid: int, tid: int, delay: float, *, watch: bool = False, frame: bool) -> bool:
    """Kill a tracker ``delay`` seconds after it has begun to attach to a thread, again and again; or, with ``watch``,
    after it was seen to trace, which it does for a small part of the time.

    Returns whether it was tracing right before.
    """
    ready, tell = os.pipe()
    tracker = os.fork()
    if tracker == 0:
        try:
            os.write(tell, b"x")
            while True:
                with contextlib.suppress(PagescanError):  # the one before may still be being detached
                    os.close(take_userfaultfd(pid, tid, frame=frame).fd)
        finally:
            os._exit(1)
    os.close(tell)
    os.read(ready, 1)
    os.close(ready)
    try:
        deadline = time.monotonic() + 1
        while watch and not tracer_of(tid) and time.monotonic() < deadline:
            pass
        time.sleep(delay)  # the random moment is the point
        traced = tracer_of(tid) != 0
    finally:
        os.kill(tracker, signal.SIGKILL)
    _, status = os.waitpid(tracker, 0)
    assert os.WIFSIGNALED(status), "the tracker ended by itself"
    return traced


def tracer_of(tid: int) -> int:
    """Who traces a thread; 0 if nobody does, or if there is no such thread any more."""
    try:
        with open(f"/proc/{tid}/status") as file:
            return next(int(line.split()[1]) for line in file if line.startswith("TracerPid:"))
    except OSError:
        return 0


def leaked(pid: int) -> int:
    try:
        links = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
    except OSError:
        return 0
    return links.count("anon_inode:[userfaultfd]")


def harmed(process: subprocess.Popen[str]) -> bool:
    try:
        return targets.verdict(process) != "right"
    except (AssertionError, subprocess.TimeoutExpired):
        return True


def main() -> int:
    parser = argparse.ArgumentParser(prog="kill-test", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=300, help="how many trackers to kill (300)")
    parser.add_argument("--seed", type=int, help="of the random moments")
    parser.add_argument("--plain", action="store_true", help="the form that does not survive, to see the difference")
    arguments = parser.parse_args()

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    report = run(arguments.kills, arguments.seed, say, frame=not arguments.plain)
    print(f"{report.kills} trackers killed, {report.inside} in the midst of an attach: {report.harmed} targets harmed")
    return 1 if report.harmed else 0


if __name__ == "__main__":
    sys.exit(main())
