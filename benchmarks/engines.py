"""What each engine costs: ``take()`` by it against ``take()`` by ``pagemap-scan``, and what a write costs under it."""

from __future__ import annotations

from collections.abc import Callable

import pagescan
from harness import Effort, Report, Row, interleave, size_name, timed
from native import Memory, Native
from pagescan.trackers.compare import CompareEngine
from workload import page_indexes, percent, random_pages, require_same

MIB = 1 << 20
SIZE = 64 * MIB
#: (engine, name of the row, bytes up to which compare keeps a copy)
WAYS = (
    ("pagemap-read", "pagemap-read", None),
    ("soft-dirty", "soft-dirty", None),
    ("compare", "compare, a copy", SIZE),
    ("compare", "compare, xxh3 digests", 0),
)


def take(report: Report, native: Native, effort: Effort) -> None:
    """64 MiB, nothing and 1 % of the pages written to. Each side has memory of its own, written to alike."""
    reference = Memory(SIZE)
    with pagescan.track(reference.array, engine="pagemap-scan") as best:
        for engine, name, copy_limit in WAYS:
            try:
                _one(report, native, effort.scaled(1 / len(WAYS)), (reference, best), engine, name, copy_limit)
            except pagescan.KernelCannot as error:
                report.rows.append(Row("engines", f"{name}: take()", "pagemap-scan", skipped=error.message))
            except ImportError as error:
                report.rows.append(Row("engines", f"{name}: take()", "pagemap-scan", skipped=str(error)))


def _one(
    report: Report,
    native: Native,
    effort: Effort,
    best: tuple[Memory, pagescan.Tracker],
    engine: str,
    name: str,
    copy_limit: int | None,
) -> None:
    if copy_limit == 0:
        import xxhash  # noqa: F401 - without it a copy would be measured
    before = CompareEngine.copy_limit
    CompareEngine.copy_limit = copy_limit if copy_limit is not None else before
    memory = Memory(SIZE)
    try:
        tracker = pagescan.track(memory.array, engine=engine)
    finally:
        CompareEngine.copy_limit = before
    with tracker:
        for share in (0.0, 0.01):
            write = _writer(native, memory, best[0], share)
            write()
            found = tracker.take()
            if found.quality is pagescan.Quality.EXACT:
                require_same(page_indexes(found.to_records(), memory.start), random_pages(memory.pages, share), name)
            best[1].take()
            pairs = interleave(timed(tracker.take), timed(best[1].take), effort, prepare=write)
            what = f"{name}: take() {size_name(SIZE)}, {percent(share)} written"
            report.add("engines", what, "pagemap-scan", pairs)


def _writer(native: Native, one: Memory, other: Memory, share: float) -> Callable[[], None]:
    """Writes to the same pages of both, and something new each time: contents have to differ."""
    pages = random_pages(one.pages, share)
    state = [1]

    def write() -> None:
        state[0] = state[0] % 255 + 1
        native.write(one, pages)
        native.write(other, pages)
        one.array[pages.astype("int64") * (one.size // one.pages)] = state[0]

    return write
