"""A process that never was, as a recording: what its pages would show is known, and any length can be had at once.

It writes in four ways at the same time: it sweeps through a large array from one end to the other and begins again; it
rewrites a small hot region in every interval; it writes to pages at random in a second array; and it appends to a log
that is mapped from a file, and to its stack. Half-way a new mapping appears, is filled once, and stays.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pagescan.abi import Mapping
from pagescan.query import Category
from pagescan.ranges import Regions
from pagescan.recording import RecordingInfo, RecordingWriter
from pagescan.trackers.written import Quality

PAGE = 4096
MS = 1_000_000
WRITTEN = Category.WRITTEN
MIB_PAGES = (1 << 20) // PAGE
#: Page numbers, half-open.
HEAP = (0x55D0C8A00, 0x55D0C8A00 + 8 * MIB_PAGES)
SWEPT = (0x7F2A00000, 0x7F2A00000 + 64 * MIB_PAGES)
RANDOM = (0x7F2A40000, 0x7F2A40000 + 256 * MIB_PAGES)
LOADED = (0x7F2B00000, 0x7F2B00000 + 32 * MIB_PAGES)
LOG = (0x7F2C00000, 0x7F2C00000 + 4 * MIB_PAGES)
STACK = (0x7FFD10000, 0x7FFD10000 + 33)

INFO = RecordingInfo(
    pid=4711,
    start_time=99,
    command_line=("python", "train.py", "--epochs", "3"),
    kernel="6.18.44",
    machine="x86_64",
    page_size=PAGE,
    engine="pagemap-scan",
    interval_ns=100 * MS,
    pagescan_version="0.1.0",
    started_ns=1000 * MS,
    started_wall_ns=1_700_000_000_000 * MS,
)


def mapping(pages: tuple[int, int], perms: str = "rw-p", name: str = "") -> Mapping:
    inode = 77 if name.startswith("/") else 0
    return Mapping(pages[0] * PAGE, pages[1] * PAGE, perms, 0, "08:01" if inode else "00:00", inode, name, PAGE)


MAPPINGS = (
    mapping(HEAP, name="[heap]"),
    mapping(SWEPT),
    mapping(RANDOM, "rw-s", "/dev/shm/parameters"),
    mapping(LOG, "rw-s", "/var/log/train.log"),
    mapping(STACK, name="[stack]"),
)


def write_workload(path: Path, samples: int = 300, regions: int = 60, *, ended: bool = True) -> RecordingWriter:
    """A recording of so many samples of about so many regions each, 100 ms apart; closed if ``ended``."""
    generator = np.random.default_rng(7)
    writer = RecordingWriter(path, INFO)
    for number in range(samples):
        at = (number + 1) * INFO.interval_ns
        writer.append(
            _regions(generator, number, samples, regions),
            time_ns=INFO.started_ns + at,
            wall_ns=INFO.started_wall_ns + at,
            duration_ns=350_000 + 1000 * (number % 50),
            pause_ns=180_000 if number == 0 else 0,
            quality=Quality.SUPERSET if number % 97 == 96 else Quality.EXACT,
            reason="KSM merged pages" if number % 97 == 96 else "",
            resident_pages=20_000 + (number * 30_000) // samples,
            mappings=MAPPINGS + ((mapping(LOADED),) if number >= samples // 2 else ()),
        )
    if ended:
        writer.close("duration")
    return writer


def _regions(generator: np.random.Generator, number: int, samples: int, regions: int) -> Regions:
    pairs = [
        _sweep(SWEPT, number, 50),
        (HEAP[0] + 256, HEAP[0] + 320),  # hot: in every sample
        (STACK[1] - 3, STACK[1] - 1),
        _sweep(LOG, number, samples),
    ]
    half = number - samples // 2
    if 0 <= half < 20:
        pairs.append(_sweep(LOADED, half, 20))
    scattered = RANDOM[0] + generator.integers(0, RANDOM[1] - RANDOM[0], max(0, regions - len(pairs)))
    # Training has phases: every fifth stretch of ten samples writes in one place only.
    if number // 10 % 5 == 4:
        scattered = RANDOM[0] + (scattered - RANDOM[0]) % (16 * MIB_PAGES)
    whole = Regions.from_pairs([(low * PAGE, high * PAGE, WRITTEN) for low, high in pairs], page_size=PAGE)
    return whole | Regions.from_pages(scattered * PAGE, WRITTEN, page_size=PAGE)


def _sweep(pages: tuple[int, int], number: int, steps: int) -> tuple[int, int]:
    """Step ``number`` of a sweep through the pages in so many steps, again and again."""
    low, high = pages
    step = number % steps
    return low + (high - low) * step // steps, max(low + (high - low) * (step + 1) // steps, low + 1)
