"""What a recording consists of, as values. Times are nanoseconds, sizes bytes, ranges half-open."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from ..abi import Mapping
    from ..ranges import Regions
    from ..trackers.written import Quality


class EndReason(enum.StrEnum):
    """Why a recording ended."""

    CLOSED = "closed"  #: the program that recorded was done with it
    DURATION = "duration"  #: the time asked for was over
    INTERRUPTED = "interrupted"  #: Ctrl-C, or a signal to the recorder
    EXITED = "exited"  #: the recorded process ended
    ERROR = "error"  #: the recorder failed; the detail says how


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordingInfo:
    """What was recorded, and how.

    Attributes:
        pid: the process; None where there is none (a process of the model).
        start_time: when it started, in clock ticks after boot (field 22 of ``/proc/PID/stat``), or None.
        command_line: its arguments.
        kernel: the kernel's release (``uname -r``).
        machine: the machine (``uname -m``).
        page_size: bytes of a page.
        engine: which engine found the written pages.
        interval_ns: the time between samples that was asked for.
        pagescan_version: what wrote the file.
        started_ns: when the first interval began (the pages were protected), on the monotonic clock.
        started_wall_ns: the same moment since 1970 in UTC.
    """

    pid: int | None
    start_time: int | None = None
    command_line: tuple[str, ...] = ()
    kernel: str
    machine: str
    page_size: int
    engine: str
    interval_ns: int
    pagescan_version: str
    started_ns: int
    started_wall_ns: int


class MappingSpan(NamedTuple):
    """A mapping and the samples that have it."""

    mapping: Mapping
    appeared: int  #: number of the first sample that has it
    vanished: int | None  #: number of the first sample that no longer has it; None while it lasts

    def lives_at(self, number: int) -> bool:
        """Whether the sample of this number has the mapping."""
        return self.appeared <= number and (self.vanished is None or number < self.vanished)


@dataclass(frozen=True, slots=True)
class Sample:
    """What was written to in one interval: from the sample before (or the recording's start) to this one.

    Attributes:
        number: 0, 1, 2, ...
        time_ns: when it was taken, on the monotonic clock.
        wall_ns: the same moment since 1970 in UTC.
        duration_ns: how long the taking took.
        pause_ns: how long the process was held still for it.
        quality: how far the regions can be relied on.
        reason: why they are not exact; "" if they are.
        resident_pages: pages of the process in memory then, or None where that was not asked.
        regions: the pages that were written to.
        mappings: the mappings of the process then, by address.
    """

    number: int
    time_ns: int
    wall_ns: int
    duration_ns: int
    pause_ns: int
    quality: Quality
    reason: str
    resident_pages: int | None
    regions: Regions
    mappings: tuple[Mapping, ...]


@dataclass(frozen=True, slots=True)
class Ending:
    """The end record of a recording.

    Attributes:
        reason: a word of :class:`EndReason`, or one that a later version writes.
        detail: more of it, in a sentence; may be "".
        time_ns: when, on the monotonic clock.
        wall_ns: when, since 1970 in UTC.
    """

    reason: str
    detail: str
    time_ns: int
    wall_ns: int
