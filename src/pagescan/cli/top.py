"""``pagescan top``: what a process writes, live."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import IO, TYPE_CHECKING

from ..errors import AlreadyExists, InvalidArgument, MissingExtra
from ..units import MILLISECOND, SECOND, parse_duration
from .command import ExitCode, parsed_by, positive
from .output import note, note_engine

if TYPE_CHECKING:
    import argparse

    from ..trackers.process_tracker import ProcessTracker
    from ..views.app import TopApp
    from ..views.source import ProcessSource

SHORTEST_INTERVAL = 100 * MILLISECOND


class Top:
    """Show live what a process writes to, and how fast.

    One line a mapping: its size, the rate at which its pages become dirty, now and over the last minute, and where in
    it. The process is held still once, for a fraction of a millisecond, when tracking begins (a started command not at
    all). At one look a second the view takes no more than 5 % of one core; if looking costs more, it looks less often.

    Keys: q quit, space pause, s < > sort, / filter, t heat over time, i leave out idle, h help.

    A command after -- is tracked from its first instruction on. It has no terminal: its input is empty, and its output
    goes nowhere, or into the file of --log. When it has ended, q returns its exit code (128 + the signal that killed
    it). q before that lets it go on; Ctrl-C interrupts it.

    Examples:
      pagescan top -p 1234
      pagescan top -p 1234 -i 500ms -o run.pagescan
      pagescan top --log train.log -- python train.py
      pagescan top --model
    """

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        target = parser.add_argument_group("what to watch")
        target.add_argument("-p", "--pid", type=parsed_by(positive), help="a process that runs")
        target.add_argument("--socket", metavar="PATH", help="a program that shares itself there: pagescan.share(PATH)")
        target.add_argument(
            "--model", action="store_true", help="a scripted workload on the model, to try the view on any system"
        )
        target.add_argument("program", nargs="*", metavar="CMD", help="after --: a command to start, and its arguments")
        target.add_argument(
            "--mappings",
            action="append",
            metavar="GLOB",
            help="only mappings of this name ('[heap]', '*.so*', '' for anonymous memory); may be repeated",
        )
        parser.add_argument(
            "-i", "--interval", type=parsed_by(parse_duration), default=SECOND, metavar="TIME",
            help="time between looks (1s; at least 100ms)",
        )  # fmt: skip
        parser.add_argument("-o", "--output", metavar="FILE", help="record what is seen, as pagescan record does")
        parser.add_argument("--log", metavar="FILE", help="where the output of CMD goes (nowhere)")
        parser.add_argument("--force", action="store_true", help="overwrite FILE")

    def run(self, options: argparse.Namespace) -> int:
        check(options)
        _check_terminal()
        app_class = _app_class()
        if options.output:
            from ..recording.session import check_destination

            check_destination(options.output, force=options.force)
        source = _source(options)
        return _watch(app_class, source, options)


def check(options: argparse.Namespace) -> None:
    """Raises InvalidArgument unless exactly one process is named, and the options make sense together."""
    if sum(map(bool, (options.pid, options.socket, options.model, options.program))) != 1:
        raise InvalidArgument(
            "name one process to watch: -p PID, --socket PATH, --model, or a command after --",
            hint="pagescan top --help",
        )
    if options.interval < SHORTEST_INTERVAL:
        raise InvalidArgument(
            "the shortest interval of the view is 100ms", hint="pagescan record takes samples every 1ms and up"
        )
    if options.log and not options.program:
        raise InvalidArgument("--log is for the output of a command after --")


def _check_terminal() -> None:
    """Raises InvalidArgument unless the view has a terminal to draw on and to read keys from."""
    if os.environ.get("TERM") == "dumb" or not all(stream.isatty() for stream in (sys.stdin, sys.stdout, sys.stderr)):
        raise InvalidArgument(
            "the live view needs a terminal (input, output and error output)",
            hint="into a file or a pipe: pagescan record -p PID -d 10s -o FILE && pagescan report FILE",
        )


def _app_class() -> type[TopApp]:
    try:
        import textual  # noqa: F401 - tells a missing package from an error in ours
    except ImportError:
        raise MissingExtra(
            "the live view needs the package textual, which is not installed", hint="pip install 'pagescan[cli]'"
        ) from None
    from ..views.app import TopApp

    return TopApp


def _source(options: argparse.Namespace) -> ProcessSource:
    from ..views.source import ProcessSource

    between = None
    if options.model:
        from ..trackers.process_tracker import attach
        from .model_workload import Workload

        workload = Workload()
        between = workload.tick
        tracker = attach(workload.process, mappings=options.mappings)
    else:
        tracker = _track(options)
    try:
        return ProcessSource(
            tracker,
            path=options.output,
            interval_ns=options.interval,
            force=options.force,
            between=between,
        )
    except BaseException:
        if tracker.popen:
            tracker.popen.kill()  # it has hardly begun
            tracker.popen.wait()
        raise


def _track(options: argparse.Namespace) -> ProcessTracker:
    from ..trackers.process_tracker import attach, spawn

    if not options.program:
        tracker = attach(options.socket or options.pid, mappings=options.mappings)
        note_engine(tracker.engine, tracker.why)
        return tracker
    with _log(options) as log:
        return spawn(
            options.program, mappings=options.mappings, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
        )


def _log(options: argparse.Namespace) -> IO[bytes]:
    """Where the command writes to. Raises AlreadyExists."""
    if not options.log:
        return open(os.devnull, "wb")
    flags = os.O_TRUNC if options.force else os.O_EXCL
    try:
        return open(os.open(options.log, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | flags, 0o600), "wb")
    except FileExistsError:
        raise AlreadyExists(f"{options.log} exists", hint="use another file, or overwrite it: --force") from None


def _watch(app_class: type[TopApp], source: ProcessSource, options: argparse.Namespace) -> int:
    """Show the view until it is quit; the exit code."""
    from ..recording import EndReason
    from ..views.layout import ASCII, BLOCKS

    encoding = (sys.stderr.encoding or "").lower()
    reason, detail = EndReason.ERROR, ""
    try:
        app = app_class(source, options.interval, alphabet=BLOCKS if "utf" in encoding else ASCII)
        interrupted = bool(app.run(mouse=False))
        if app.failure:
            detail = str(app.failure)
            raise app.failure
        if app.return_code:
            return ExitCode.FAILED  # an error of ours, which textual has shown
        reason = EndReason.INTERRUPTED if interrupted else EndReason.CLOSED
    finally:
        source.close(reason, detail)
    return _exit_code(source, interrupted)


def _exit_code(source: ProcessSource, interrupted: bool) -> int:
    command = source.popen
    status = None if command is None else command.poll()
    if command is not None and status is None:
        if interrupted:
            command.send_signal(signal.SIGINT)
        else:
            note(f"process {source.pid} goes on; to end it: kill {source.pid}")
            # Python would warn of a child that nobody has waited for; it is the system's now.
            command.returncode = 0
    if interrupted:
        return ExitCode.INTERRUPTED
    if status is not None:
        return 128 - status if status < 0 else status
    return ExitCode.DONE
