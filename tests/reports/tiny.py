"""The smallest recording in which everything happens once: four samples, two mappings, six written pages."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

from pagescan.abi import Mapping
from pagescan.query import Category
from pagescan.ranges import Regions
from pagescan.recording import Recording, RecordingInfo, RecordingWriter
from pagescan.reports import Material
from pagescan.trackers.written import Quality

PAGE = 4096
MS = 1_000_000
INFO = RecordingInfo(
    pid=4711,
    start_time=99,
    command_line=("prog", "-x"),
    kernel="6.18.44",
    machine="x86_64",
    page_size=PAGE,
    engine="pagemap-scan",
    interval_ns=100 * MS,
    pagescan_version="0.1.0",
    started_ns=1000 * MS,
    started_wall_ns=1_700_000_000_000 * MS,
)
#: Pages 0x10 to 0x1f, and 0x7f0000000 to 0x7f0000007.
HEAP = Mapping(0x10000, 0x20000, "rw-p", name="[heap]")
FILE = Mapping(0x7F0000000000, 0x7F0000008000, "rw-s", 0, "08:02", 5, "/srv/file")
#: The pages that each sample has.
WRITTEN = ((0x10, 0x11), (0x10, 0x7F0000000), (), (0x10, 0x11))


def pages(*numbers: int) -> Regions:
    return Regions.from_pages([number * PAGE for number in numbers], Category.WRITTEN)


def write_tiny(path: Path, *, samples: int = 4, info: RecordingInfo = INFO, ended: bool = True) -> RecordingWriter:
    """The first so many samples, 100 ms apart, each scanned in 1 ms; the last one is a superset."""
    writer = RecordingWriter(path, info)
    for number, written in enumerate(WRITTEN[:samples]):
        at = (number + 1) * 100 * MS
        last = number == len(WRITTEN) - 1
        writer.append(
            pages(*written),
            time_ns=info.started_ns + at,
            wall_ns=info.started_wall_ns + at,
            duration_ns=MS,
            pause_ns=0 if number else 2 * MS,
            quality=Quality.SUPERSET if last else Quality.EXACT,
            reason="shared edge pages" if last else "",
            resident_pages=10 + number,
            mappings=(HEAP, FILE),
        )
    if ended:
        writer.close("duration")
    return writer


def material(path: Path) -> Material:
    with Recording.open(path) as recording:
        return Material.of(recording)


def damage(path: Path, number: int) -> None:
    """Flips the last byte of a sample's lengths."""
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        (blob,) = database.execute("SELECT lengths FROM sample WHERE number = ?", (number,)).fetchone()
        spoilt = blob[:-1] + bytes([blob[-1] ^ 1])
        database.execute("UPDATE sample SET lengths = ? WHERE number = ?", (spoilt, number))
