"""``pagescan snapshot create``: versions of a live process's memory."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

from ..errors import NoSuchProcess
from ..units import format_count, format_duration, format_size
from .command import ExitCode
from .output import note, printable, write_json
from .progress import bar

if TYPE_CHECKING:
    import argparse

    from ..recording.watch import Watch
    from ..snapshots.process import ProcessSeries
    from ..snapshots.store import Store
    from ..snapshots.version import Version
    from ..trackers.process_tracker import ProcessTracker

SCHEMA_VERSION = 1


def create(options: argparse.Namespace) -> int:
    """Attach, make versions until there are enough, the process exits, or a signal; say what was made."""
    from ..recording.watch import Watch
    from ..snapshots.process import ProcessSeries
    from ..snapshots.store import open_store
    from ..trackers.process_tracker import attach
    from .record import Signals

    with open_store(options.store) as store, attach(options.pid, mappings=options.mappings) as tracker:
        name = options.series or f"{_command(options.pid)}-{options.pid}"
        series = ProcessSeries(store, name, tracker, freeze=not options.no_freeze)
        with Watch(options.pid) as watch, Signals(watch, None):
            run = _Run(store, series, tracker, options)
            if not options.json:
                print(f"series {printable(name)} of process {options.pid}, in {printable(store.url)}", flush=True)
            ended = run.follow(watch)
        if tracker.untracked:
            mapping, why = tracker.untracked[0]
            count = format_count(len(tracker.untracked), "mapping")
            note(f"{count} left out that cannot be tracked, the first {printable(str(mapping))}: {why}")
    if options.json:
        write_json("snapshot.create", SCHEMA_VERSION, run.document(ended))
    if ended == "exited" and not run.made:
        raise NoSuchProcess(f"process {options.pid} exited before a version was made", pid=options.pid)
    return ExitCode.DONE


class _Run:
    """The versions of one run."""

    def __init__(self, store: Store, series: ProcessSeries, tracker: ProcessTracker, options: argparse.Namespace):
        self._store, self._series, self._tracker, self._options = store, series, tracker, options
        self.made: list[tuple[Version, int]] = []

    def follow(self, watch: Watch) -> str:
        """Make versions; returns why it ended: "count", "exited" or "interrupted"."""
        from ..recording.watch import Happened

        options, due = self._options, time.monotonic_ns()
        wanted = options.count or (None if options.every else 1)
        while True:
            try:
                self._make()
            except NoSuchProcess as error:
                if self._tracker.space.is_alive():
                    raise
                note(error.message)
                return "exited"
            if wanted is not None and len(self.made) >= wanted:
                return "count"
            due = max(due + (options.every or 0), time.monotonic_ns())
            happened = watch.wait(due)
            if happened is not Happened.DUE:
                return "exited" if happened is Happened.EXITED else "interrupted"

    def _make(self) -> None:
        options = self._options
        attributes = {"pid": options.pid, "command": _command(options.pid), "frozen": not options.no_freeze}
        with bar(f"version {len(self.made) + 1}") as progress:
            version = self._series.commit(options.note, attributes=attributes, progress=progress)
        self.made.append((version, self._series.pause_ns))
        if not options.json:
            print(self._line(version), flush=True)
        if self._series.unreadable:
            count = format_count(self._series.unreadable, "page")
            note(f"{count} of version {version.number} could not be read, and are zeros in it")

    def _line(self, version: Version) -> str:
        pause = self._series.pause_ns
        stood = f"stood still {format_duration(pause)}" if pause else "ran on"
        return (
            f"version {version.number}: {format_count(version.written_pages, 'page')} written, "
            f"{format_size(version.written_bytes)} stored, of {format_size(version.nbytes)} in "
            f"{format_count(len(version.buffers), 'mapping')}; {stood}"
        )

    def document(self, ended: str) -> dict[str, Any]:
        """What ``--json`` has."""
        from .snapshot_look import version_document

        return {
            "store": self._store.url,
            "series": self._series.name,
            "pid": self._options.pid,
            "ended": ended,
            "attach_pause_ns": self._tracker.pause_ns,
            "versions": [version_document(version) | {"pause_ns": pause} for version, pause in self.made],
            "untracked": [
                {"start": f"{mapping.start:#x}", "end": f"{mapping.end:#x}", "name": mapping.name, "why": why}
                for mapping, why in self._tracker.untracked
            ],
        }


def _command(pid: int) -> str:
    """The name of the process's command, as ``ps -o comm`` has it."""
    try:
        with open(f"/proc/{pid}/comm", "rb") as file:
            return os.fsdecode(file.read()).strip() or "process"
    except OSError:
        return "process"
