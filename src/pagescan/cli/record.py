"""``pagescan record``: the pages a process writes to, over time, into a file."""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import TYPE_CHECKING, Self

from ..errors import InvalidArgument, PagescanError
from ..units import MILLISECOND, parse_duration
from .command import ExitCode, parsed_by, positive
from .output import note, note_engine
from .record_output import Progress, Summary

if TYPE_CHECKING:
    import argparse
    import subprocess
    from types import FrameType
    from typing import Any

    from ..recording.session import Session
    from ..recording.watch import Watch
    from ..trackers.process_tracker import ProcessTracker
    from .model_workload import WorkloadWatch

SHORTEST_INTERVAL = MILLISECOND
#: Windows has no SIGHUP; there the model is recorded.
_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
#: Of the signals a command ignores, the second one ends the recording, and a later one the waiting for the command.
_ENOUGH = 2
#: Stands for the default name, which has the pid, before the process is known.
_IN_THIS_FOLDER = "pagescan-PID.pagescan"


class Record:
    """Record which pages a process writes to, over time, into a file.

    Each interval is one sample: the pages written to in it. The process is held still for a fraction of a millisecond
    when tracking begins, and when it executes another program. After that it pays a page fault for its first write to
    each page in each interval. Its child processes are not recorded.

    With -p the recording ends when the time of -d is over, the process exits, or by Ctrl-C or SIGTERM; each leaves a
    complete file and exit code 0. With -- CMD the command is tracked from its first instruction on, Ctrl-C is the
    command's, the recording ends with it, and the exit code is the command's (128 + the signal that killed it).

    Examples:
      pagescan record -p 1234 -d 10s
      pagescan record -o run.pagescan -i 50ms -- python train.py
      pagescan record -p 1234 --mappings '[heap]' --json
      pagescan record --model -o model.pagescan
      pagescan report pagescan-1234-20261122-101500.pagescan
    """

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        duration = parsed_by(parse_duration)
        target = parser.add_argument_group("what to record")
        target.add_argument("-p", "--pid", type=parsed_by(positive), help="a process that runs")
        target.add_argument("--socket", metavar="PATH", help="a program that shares itself there: pagescan.share(PATH)")
        target.add_argument(
            "--model",
            action="store_true",
            help="a scripted workload on the model, in its own time; works on any system",
        )
        target.add_argument("program", nargs="*", metavar="CMD", help="after --: a command to start, and its arguments")
        target.add_argument(
            "--mappings",
            action="append",
            metavar="GLOB",
            help="only mappings of this name ('[heap]', '*.so*', '' for anonymous memory); may be repeated",
        )
        parser.add_argument(
            "-i",
            "--interval",
            type=duration,
            default=100 * MILLISECOND,
            metavar="TIME",
            help="time between samples (100ms)",
        )
        parser.add_argument("-d", "--duration", type=duration, metavar="TIME", help="end after this time, as in 30s")
        parser.add_argument(
            "-o", "--output", metavar="FILE", help="the recording (pagescan-PID-YYYYMMDD-HHMMSS.pagescan)"
        )
        parser.add_argument("--force", action="store_true", help="overwrite FILE")
        parser.add_argument("--json", action="store_true", help="a summary as one JSON document on stdout")

    def run(self, options: argparse.Namespace) -> int:
        from ..recording.session import check_destination

        check(options)
        check_destination(options.output or _IN_THIS_FOLDER, force=options.force)
        if options.model:
            from ..trackers.process_tracker import attach
            from .model_workload import Workload, WorkloadWatch

            workload = Workload()
            with attach(workload.process, mappings=options.mappings) as tracker:
                return _Recorder(tracker, options, WorkloadWatch(workload)).run()
        with _begin(options) as tracker:
            return _Recorder(tracker, options).run()


def check(options: argparse.Namespace) -> None:
    """Raises InvalidArgument unless exactly one process is named, and the times make sense."""
    if sum(map(bool, (options.pid, options.socket, options.model, options.program))) != 1:
        raise InvalidArgument(
            "name one process to record: -p PID, --socket PATH, --model, or a command after --",
            hint="pagescan record --help",
        )
    if options.interval < SHORTEST_INTERVAL:
        raise InvalidArgument("the shortest interval is 1ms", hint="-i 1ms")
    if options.duration == 0:
        raise InvalidArgument("a recording of no duration has nothing", hint="-d 10s, or leave it out")


def _begin(options: argparse.Namespace) -> ProcessTracker:
    from ..trackers.process_tracker import attach, spawn

    if options.program:
        return spawn(options.program, mappings=options.mappings)
    tracker = attach(options.socket or options.pid, mappings=options.mappings)
    note_engine(tracker.engine, tracker.why)
    return tracker


def default_name(pid: int) -> str:
    """``pagescan-PID-YYYYMMDD-HHMMSS.pagescan``, in local time."""
    return f"pagescan-{pid}-{time.strftime('%Y%m%d-%H%M%S')}.pagescan"


class _Recorder:
    """One run of the command, from the first interval to the exit code."""

    def __init__(self, tracker: ProcessTracker, options: argparse.Namespace, workload: WorkloadWatch | None = None):
        from ..recording.watch import Watch

        self._clock = workload.clock if workload else time.monotonic_ns
        self._started = self._clock(), time.time_ns()
        self._tracker, self._command, self._options = tracker, tracker.popen, options
        self._watch = workload or Watch(tracker.pid)
        self._signals = Signals(self._watch, self._command)

    def run(self) -> int:
        with self._signals, self._watch:
            session = self._open()
            if not self._tracker.pages:
                note("no mapping of the process is tracked so far")
            try:
                reason = self._record(session)
            except PagescanError as error:
                if self._command is None:
                    raise
                self._tracker.detach()
                _tell(error, self._command)
                return _status(self._signals.wait_for_command()) or ExitCode.FAILED
            untracked = self._tracker.untracked
            status = self._finish(reason)
        Summary.of(session, reason, status, untracked).print(as_json=self._options.json)
        return ExitCode.DONE if status is None else status

    def _open(self) -> Session:
        """The recording's file. If it cannot be made, the command, which has hardly begun, is killed."""
        from ..recording.session import Session

        started_ns, started_wall_ns = self._started
        try:
            return Session(
                self._tracker,
                self._options.output or default_name(self._tracker.pid),
                interval_ns=self._options.interval,
                started_ns=started_ns,
                started_wall_ns=started_wall_ns,
                command_line=self._options.program or None,
                force=self._options.force,
                clock=self._clock,
            )
        except BaseException:
            if self._command is not None:
                self._command.kill()
                self._command.wait()
            raise

    def _record(self, session: Session) -> str:
        progress = Progress(sys.stderr) if sys.stderr.isatty() and self._command is None else None
        try:
            return session.run(self._watch, self._options.duration, progress)
        finally:
            if progress:
                progress.clear()

    def _finish(self, reason: str) -> int | None:
        """The exit code of the command, once it has ended; None without one."""
        if self._command is None:
            return None
        self._tracker.detach()
        if reason != "exited" and self._command.poll() is None:
            note(f"the recording is complete; {self._options.program[0]} goes on, and is waited for")
        return _status(self._signals.wait_for_command())


def _tell(error: PagescanError, command: subprocess.Popen[Any]) -> None:
    note(f"the recording stopped: {error.message}")
    if error.hint:
        print(f"hint: {error.hint}", file=sys.stderr)
    if command.poll() is None:
        note("the command goes on, and is waited for")


def _status(returncode: int) -> int:
    """The exit code as shells give it: 128 + the signal for a killed command."""
    return 128 - returncode if returncode < 0 else returncode


class Signals:
    """Ctrl-C, SIGTERM and SIGHUP while recording. A context manager; puts the handlers back.

    Without a command each of them stops the recording. With one they are the command's, which decides what comes of
    it: they are passed on, unless the terminal has sent it Ctrl-C itself. If the command does not end of it, the next
    one stops the recording, and the one after that the waiting (KeyboardInterrupt).
    """

    def __init__(self, watch: Watch | WorkloadWatch, command: subprocess.Popen[Any] | None):
        self._watch, self._command = watch, command
        self._count = 0
        self._waiting = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        for number in _SIGNALS:
            # nohup ignores SIGHUP, and means it. A shell ignores SIGINT for what a script starts with &; there it is
            # how the script ends the recording.
            if number == signal.SIGINT or signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def wait_for_command(self) -> int:
        """Its return code, negative if a signal killed it."""
        assert self._command is not None, "asked only where there is one"
        self._waiting = True
        self._end_waiting()  # the last signal may have come while the recorder let go of its file
        return self._command.wait()

    def _end_waiting(self) -> None:
        if self._waiting and self._count > _ENOUGH:
            self._waiting = False  # so that a further signal does not disturb the ending
            raise KeyboardInterrupt

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._count += 1
        if self._command is None:
            self._watch.stop()
            return
        if number != signal.SIGINT or not in_foreground():
            self._command.send_signal(number)
        if self._count >= _ENOUGH:
            self._watch.stop()
        self._end_waiting()


def in_foreground() -> bool:
    """Whether Ctrl-C on the terminal reaches this process, and with it the command, which is of the same group."""
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(terminal)
