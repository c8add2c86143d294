"""What the tests of recordings share: plain values for a writer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pagescan.abi import Mapping
from pagescan.ranges import Regions
from pagescan.recording import RecordingInfo, RecordingWriter

PAGE = 4096
MS = 1_000_000
INFO = RecordingInfo(
    pid=4711,
    start_time=99,
    command_line=("prog", "-x", "", "a\udcffb"),
    kernel="6.18.44",
    machine="x86_64",
    page_size=PAGE,
    engine="pagemap-scan",
    interval_ns=100 * MS,
    pagescan_version="0.1.0",
    started_ns=1000 * MS,
    started_wall_ns=5_000_000 * MS,
)
HEAP = Mapping(0x10000, 0x20000, "rw-p", name="[heap]")
GROWN = Mapping(0x10000, 0x30000, "rw-p", name="[heap]")
FILE = Mapping(0x7F0000000000, 0x7F0000008000, "rw-s", 0x1000, "08:02", (1 << 64) - 5, "/srv/a\udcff b", 4096)
VSYSCALL = Mapping(0xFFFFFFFFFF600000, 0xFFFFFFFFFF601000, "--xp", name="[vsyscall]")


def pages(*numbers: int) -> Regions:
    return Regions.from_pages([number * PAGE for number in numbers], 2)


def append(writer: RecordingWriter, regions: Regions, **more: Any) -> int:
    """A sample 100 ms after the one before."""
    at = (len(writer) + 1) * 100 * MS
    times = {"time_ns": INFO.started_ns + at, "wall_ns": INFO.started_wall_ns + at, "duration_ns": 7}
    return writer.append(regions, **(times | more))


def three(path: Path) -> RecordingWriter:
    """A recording of three samples, open: the heap grows at the second, the file is gone at the third."""
    writer = RecordingWriter(path, INFO)
    append(writer, pages(16, 17, 19), mappings=[HEAP, FILE, VSYSCALL], pause_ns=3, resident_pages=40)
    append(writer, pages(), mappings=[GROWN, FILE, VSYSCALL])
    append(writer, pages(32, 0x7F0000000), mappings=[GROWN, VSYSCALL])
    return writer
