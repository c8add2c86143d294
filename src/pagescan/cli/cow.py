"""``pagescan cow``: what a process un-shares from those it was forked with."""

from __future__ import annotations

import sys
import time
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..errors import InvalidArgument, NoSuchProcess
from ..units import MILLISECOND, SECOND, format_count, format_duration, format_size, parse_duration
from .command import ExitCode, parsed_by, positive
from .output import encodable, note, short_size, width_of, write_json

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator

    from ..abi import Mapping
    from ..cow import CowMeter, CowSample

SCHEMA_VERSION = 1
SHORTEST_INTERVAL = 10 * MILLISECOND
_LINE = "{:>8}  {:>8}  {:>8}  {:>8}  {:>7}  {:>7}"


class Cow:
    """Show what a forked process un-shares, and how fast.

    After a fork, parent and child share their private memory until one of them writes to it: then the writer gets a
    copy of the page. This looks again and again which pages are still shared, and counts those that no longer are:
    one line an interval, and by mapping at the end (after -d, by Ctrl-C, or when the process exits).

      unshared  was shared at the look before, and is this process's alone now
      copied    of these, what this process wrote to; the rest was left to it, since the others wrote to it or ended
      shared    private memory that another process maps as well
      alone     private memory that this process alone maps

    The process is not stopped, and nothing of it is changed. COPIED is known to root only (CAP_SYS_ADMIN).

    Examples:
      pagescan cow -p 1234 -d 10s
      pagescan cow -p "$(pgrep -n gunicorn)" -i 5s
      pagescan cow -p "$(pgrep -n redis-server)" -i 100ms --json
    """

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        duration = parsed_by(parse_duration)
        parser.add_argument("-p", "--pid", type=parsed_by(positive), required=True, help="the process to look at")
        parser.add_argument(
            "-i", "--interval", type=duration, default=SECOND, metavar="TIME", help="time between looks (1s)"
        )
        parser.add_argument("-d", "--duration", type=duration, metavar="TIME", help="end after this time, as in 30s")
        parser.add_argument("--all", action="store_true", help="also mappings that un-shared nothing")
        parser.add_argument("--json", action="store_true", help="one JSON document (docs/commands/cow.md)")

    def run(self, options: argparse.Namespace) -> int:
        from ..cow import cow_meter
        from ..recording.watch import Watch
        from .record import Signals

        if options.interval < SHORTEST_INTERVAL:
            raise InvalidArgument("the shortest interval is 10ms", hint="-i 10ms")
        with Watch(options.pid) as watch, cow_meter(options.pid) as meter, Signals(watch, None):
            course = Course(meter.last)
            if not options.json:
                print_head(course)
            reason = follow(meter, watch.wait, course, options)
        if options.json:
            write_json("cow", SCHEMA_VERSION, course.document(options.pid, reason))
        else:
            print_end(course, options, reason)
        return ExitCode.DONE


@dataclass(slots=True)
class Course:
    """All looks of one run.

    Attributes:
        first, last: the first look (nothing is un-shared yet) and the last.
        samples: for each look after the first: nanoseconds since the first, and the look's bytes un-shared, copied
            (None: not known), shared and alone.
        unshared, copied: bytes by mapping, summed over the looks; a mapping that went is known by its last extent.
    """

    first: CowSample
    last: CowSample = field(init=False)
    samples: list[tuple[int, int, int | None, int, int]] = field(default_factory=list)
    unshared: defaultdict[Mapping, int] = field(default_factory=lambda: defaultdict(int))
    copied: defaultdict[Mapping, int] = field(default_factory=lambda: defaultdict(int))

    def __post_init__(self) -> None:
        self.last = self.first

    def add(self, sample: CowSample) -> None:
        """Take in one more look."""
        for row in sample.by_mapping():
            if row.unshared:
                self.unshared[row.mapping] += row.unshared
                self.copied[row.mapping] += row.copied or 0
        copied = None if sample.copied is None else sample.copied.byte_count
        figures = sample.unshared.byte_count, copied, sample.shared.byte_count, sample.alone.byte_count
        self.samples.append((self.elapsed_ns + sample.elapsed_ns, *figures))
        self.last = sample

    @property
    def elapsed_ns(self) -> int:
        return self.samples[-1][0] if self.samples else 0

    @property
    def total(self) -> int:
        """Bytes un-shared."""
        return sum(sample[1] for sample in self.samples)

    @property
    def total_copied(self) -> int | None:
        """Bytes copied, or None if that is not known."""
        known = [sample[2] for sample in self.samples if sample[2] is not None]
        return sum(known) if known else None

    def rows(self) -> list[tuple[Mapping, int, int, int, int | None]]:
        """Mapping, bytes shared and alone now, un-shared and copied since the first look: most un-shared first.

        A mapping that grew meanwhile is one for each extent it had.
        """
        now = {row.mapping: (row.shared, row.alone) for row in self.last.by_mapping()}
        known = self.total_copied is not None
        rows = [
            (
                mapping,
                *now.get(mapping, (0, 0)),
                self.unshared.get(mapping, 0),
                self.copied.get(mapping, 0) if known else None,
            )
            for mapping in {**now, **self.unshared}
        ]
        return sorted(rows, key=lambda row: (-row[3], row[0].start))

    def document(self, pid: int, reason: str) -> dict[str, Any]:
        """What ``--json`` has, described field by field in docs/commands/cow.md."""
        names = ("at_ns", "unshared", "copied", "shared", "alone")
        first = (0, 0, 0, self.first.shared.byte_count, self.first.alone.byte_count)
        return {
            "target": {"pid": pid},
            "page_size": self.last.shared.page_size,
            "ended": reason,
            "elapsed_ns": self.elapsed_ns,
            "samples": [dict(zip(names, sample, strict=True)) for sample in (first, *self.samples)],
            "mappings": [
                {
                    "start": f"{mapping.start:#x}",
                    "end": f"{mapping.end:#x}",
                    "permissions": mapping.perms,
                    "name": mapping.name,
                    "shared": shared,
                    "alone": alone,
                    "unshared": unshared,
                    "copied": copied,
                }
                for mapping, shared, alone, unshared, copied in self.rows()
            ],
            "totals": {
                "unshared": self.total,
                "copied": self.total_copied,
                "shared": self.last.shared.byte_count,
                "alone": self.last.alone.byte_count,
            },
        }


def follow(meter: CowMeter, wait: Callable[[int | None], Any], course: Course, options: argparse.Namespace) -> str:
    """Look at each interval until the end; returns why it ended."""
    from ..recording.watch import Happened

    start = due = time.monotonic_ns()
    end = None if options.duration is None else start + options.duration
    while True:
        due = max(due + options.interval, time.monotonic_ns())
        if end is not None:
            due = min(due, end)
        happened = wait(due)
        if happened is Happened.EXITED:
            return "exited"
        try:
            course.add(meter.read())
        except NoSuchProcess:
            return "exited"
        if not options.json:
            print_sample(course)
        if happened is Happened.STOPPED:
            return "interrupted"
        if end is not None and due >= end:
            return "duration"


# --- for a reader -----------------------------------------------------------------------------------------------------


def print_head(course: Course) -> None:
    """The headings, and what there is at first."""
    print(_LINE.format("TIME", "UNSHARED", "PER SEC", "COPIED", "SHARED", "ALONE"))
    shared, alone = course.first.shared.byte_count, course.first.alone.byte_count
    print(_LINE.format("0 s", "", "", "", short_size(shared), short_size(alone)), flush=True)
    if not shared:
        note(
            "it shares no private page: it was not forked, or has executed a program of its own, or its relatives ended"
        )


def print_sample(course: Course) -> None:
    """One line."""
    at, unshared, copied, shared, alone = course.samples[-1]
    sizes = short_size(unshared), short_size(_rate(unshared, course.last.elapsed_ns)), _size(copied)
    print(_LINE.format(format_duration(at), *sizes, short_size(shared), short_size(alone)), flush=True)


def print_end(course: Course, options: argparse.Namespace, reason: str) -> None:
    """The table by mapping, and a sentence."""
    from ..reports.words import columns

    if reason == "exited":
        note(f"process {options.pid} has exited; what it un-shared since the last look is not known")
    rows = course.rows()
    shown = [row for row in rows if row[3] or options.all]
    if shown:
        head = ["START", "PERM", "SIZE", "UNSHARED", "PER SEC", "COPIED", "SHARED", "ALONE", "MAPPING"]
        print()
        for line in columns(head, list(_cells(course, shown)), width_of(sys.stdout), left=(0, 1, 8)):
            print(encodable(line.rstrip()))
    if hidden := len(rows) - len(shown):
        print(f"{format_count(hidden, 'mapping')} un-shared nothing (--all)")
    total, elapsed = course.total, course.elapsed_ns
    rate = f" ({format_size(_rate(total, elapsed))} per second)" if total and elapsed else ""
    unshared, shared = format_size(total) if total else "nothing", format_size(course.last.shared.byte_count)
    line = f"process {options.pid}: {unshared} un-shared in {format_duration(elapsed)}{rate}; {shared} still shared"
    print(line, flush=True)
    if course.samples and course.total_copied is None:
        note("COPIED is not known: frame numbers can be read with CAP_SYS_ADMIN only")


def _cells(course: Course, rows: list[tuple[Mapping, int, int, int, int | None]]) -> Iterator[list[str]]:
    from ..reports.words import label

    for mapping, shared, alone, unshared, copied in rows:
        rate = short_size(_rate(unshared, course.elapsed_ns))
        sizes = [short_size(mapping.size), short_size(unshared), rate, _size(copied)]
        state = [short_size(shared), short_size(alone), label(mapping.name)]
        yield [f"{mapping.start:012x}", mapping.perms, *sizes, *state]


def _size(size: int | None) -> str:
    return "-" if size is None else short_size(size)


def _rate(size: int, elapsed_ns: int) -> int:
    """Bytes per second."""
    return round(size * SECOND / max(1, elapsed_ns))
