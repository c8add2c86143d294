"""What a tracker has cost so far, and what would cost less: counted as it goes, estimated and advised when asked."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from time import perf_counter_ns
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..process.allocate import zeros
from ..units import format_count, format_duration, format_size
from .hot import ANSWERS, HOT_ANSWERS, INTERVALS

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..ranges import Regions
    from .base import Findings

#: Regions that wait to be counted; more are counted at once. Counting right after a look is dear (what the processor
#: had cached of us is gone by then), so it is put off; what waits takes 24 bytes a region.
_UNCOUNTED = 1 << 15
#: Fewer takes are no ground for advice.
_ENOUGH_TAKES = 3
#: A share of written pages from which on dense memory is spoken of.
_DENSE = 0.5
_HUGE = 2 << 20
_ROUNDS = 7


class Costs(NamedTuple):
    """What things cost on this machine.

    Attributes:
        fault_ns: nanoseconds that the first write to a protected page takes longer; 0 where nothing is protected.
        compare_ns: nanoseconds to compare one page with a copy.
        source: where these come from, for people.
    """

    fault_ns: float
    compare_ns: float
    source: str


class Counters:
    """Counts the looks at one coverage. Adding is cheap; a short answer is counted only when somebody asks.

    Attributes:
        takes: answers given by a take, of all readers together.
        looks: times the memory was looked at to protect it again: takes, and what else needs that.
        look_ns: nanoseconds spent in these.
    """

    def __init__(self, faults: Callable[[Regions, int], float]):
        self.takes = self.looks = self.look_ns = 0
        self._faults = faults
        self._written = self._unsure = 0
        self._fault_count = 0.0
        self._uncounted: list[Findings] = []
        self._size = 0

    def add(self, findings: Findings, nanoseconds: int) -> None:
        """A look found this, in so much time."""
        self.looks += 1
        self.look_ns += nanoseconds
        written = findings.written
        if written:
            self._uncounted.append(findings)
            self._size += written.__length_hint__()
            if self._size > _UNCOUNTED:
                self._count()

    def _count(self) -> None:
        for findings in self._uncounted:
            written = findings.written
            if findings.unsure:
                self._unsure += (written & findings.unsure).page_count
                written = written - findings.unsure
            size = written.byte_count
            self._written += size // written.page_size
            self._fault_count += self._faults(written, size)
        self._uncounted.clear()
        self._size = 0

    def totals(self) -> tuple[int, int, int]:
        """Pages found written to, pages named because they were left unprotected, faults that the former took."""
        self._count()
        return self._written, self._unsure, round(self._fault_count)


def count_faults(huge: Regions, huge_size: int) -> Callable[[Regions, int], float]:
    """How many faults found pages stand for: one each, but for hugetlb memory, where it is one for each huge page.

    The function takes the pages, and their bytes.
    """

    def faults(written: Regions, size: int) -> float:
        inside = (written & huge).byte_count if huge else 0
        return (size - inside) / written.page_size + inside / huge_size

    return faults


@dataclass(frozen=True, slots=True)
class Stats:
    """What a tracker and its cursors have cost since they were made. Sizes in bytes, times in nanoseconds.

    Attributes:
        engine: the engine that answers.
        hot: ``"protect"`` or ``"exempt"``, as asked for.
        page_size: of a base page.
        bytes_tracked: in the pages that are covered.
        bytes_shared: of these, in pages that hold something beside the tracked buffers, too: writes to it count.
        bytes_exempt: of these, what is left unprotected now.
        bytes_hugetlb: of these, in memory that is protected by whole huge pages.
        takes: answers given by takes, of all readers together.
        looks: times the memory was looked at and protected again, for takes and for ``changed()``.
        look_ns: time spent in these.
        pages_written: pages that looks found written to, one added up with the other.
        pages_exempted: pages that were named because they were left unprotected, likewise.
        faults: estimated: the first write to a page after each look takes one.
        fault_ns: estimated: what one costs the writer; 0 where the engine protects nothing.
        compare_ns: estimated: what comparing all of the memory with a copy would take, once.
        source: where the last two come from.
    """

    engine: str
    hot: str
    page_size: int
    bytes_tracked: int
    bytes_shared: int
    bytes_exempt: int
    bytes_hugetlb: int
    takes: int
    looks: int
    look_ns: int
    pages_written: int
    pages_exempted: int
    faults: int
    fault_ns: float
    compare_ns: float
    source: str

    @property
    def share_written(self) -> float:
        """Of the tracked pages, the share found written to between two looks, on average: 0 to 1."""
        pages = self.looks * self.bytes_tracked
        return self.pages_written * self.page_size / pages if pages else 0.0

    @property
    def writer_ns(self) -> int:
        """Estimated: what the faults have cost the writers altogether."""
        return round(self.faults * self.fault_ns)

    @property
    def advice(self) -> tuple[str, ...]:
        """What would be cheaper, with the numbers; empty where nothing is, or nothing is known yet.

        Nothing is switched by itself: each has a price of its own, which is said.
        """
        if self.looks < _ENOUGH_TAKES or not self.bytes_tracked:
            return ()
        return tuple(said for said in (_exempt(self), _compare(self), _huge(self), _own_pages(self)) if said)

    def __str__(self) -> str:
        found = format_size(self.pages_written * self.page_size)
        each = f"{self.share_written:.1%} of it in an interval, on average"
        exempted = format_size(self.pages_exempted * self.page_size)
        lines = [
            ("tracked", f"{format_size(self.bytes_tracked)} by {self.engine}{_parts(self)}"),
            ("asked", f"{format_count(self.takes, 'take')} in {format_count(self.looks, 'look')}"),
            ("written", f"{found} found, {each}" + (f"; {exempted} named unasked" if self.pages_exempted else "")),
            ("looking", f"{format_duration(self.look_ns)}, {_each(self.look_ns, self.looks)} a look"),
            ("writer", _writer(self)),
            *(("cheaper", advice) for advice in self.advice),
        ]
        return "\n".join(f"{name:<9}{text}" for name, text in lines)


def _each(nanoseconds: float, count: int) -> str:
    return format_duration(round(nanoseconds / max(count, 1)))


def _parts(stats: Stats) -> str:
    parts = [
        (stats.bytes_shared, "in pages shared with other objects"),
        (stats.bytes_hugetlb, "in huge pages"),
        (stats.bytes_exempt, "left unprotected now"),
    ]
    told = "; ".join(f"{format_size(size)} {where}" for size, where in parts if size)
    return told and f" ({told})"


def _writer(stats: Stats) -> str:
    if not stats.fault_ns:
        return f"nothing: {stats.source}"
    return (
        f"about {format_duration(stats.writer_ns)}, {_each(stats.writer_ns, stats.looks)} an interval: "
        f"{format_count(stats.faults, 'fault')} of some {format_duration(round(stats.fault_ns))} ({stats.source})"
    )


def _interval(stats: Stats) -> float:
    """What tracking costs in one interval, the writers and the look together."""
    return (stats.writer_ns + stats.look_ns) / stats.looks


def _exempt(stats: Stats) -> str:
    """Leaving hot memory unprotected."""
    if stats.hot == "exempt" or not stats.fault_ns or stats.share_written < _DENSE / 2:
        return ""
    saved = stats.writer_ns / stats.looks * (1 - 1 / (INTERVALS[-1] + 1))
    condition = "" if stats.share_written >= HOT_ANSWERS / ANSWERS else "up to "
    always = "" if not condition else ", as far as it is the same memory that is written to each time"
    return (
        f'hot="exempt" would save {condition}{format_duration(round(saved))} of {_each(stats.writer_ns, stats.looks)} '
        f"an interval{always}; what is exempt is named in every answer"
    )


def _compare(stats: Stats) -> str:
    """Comparing with a copy."""
    if stats.engine == "compare" or _interval(stats) <= stats.compare_ns:
        return ""
    return (
        f'engine="compare" would take some {format_duration(round(stats.compare_ns))} an interval in place of '
        f"{format_duration(round(_interval(stats)))}, and {format_size(stats.bytes_tracked)} for a copy"
    )


def _huge(stats: Stats) -> str:
    """hugetlb memory: one fault for two megabytes."""
    small = stats.bytes_tracked - stats.bytes_hugetlb
    if not stats.fault_ns or stats.share_written < _DENSE or small < _HUGE:
        return ""
    faults, fewer = stats.faults / stats.looks, max(stats.bytes_tracked / _HUGE, 1)
    return (
        f"hugetlb memory would take some {format_count(round(fewer), 'fault')} an interval in place of "
        f"{round(faults):,}; answers then name whole huge pages"
    )


def _own_pages(stats: Stats) -> str:
    """Arrays that share no page."""
    if stats.bytes_shared <= stats.bytes_tracked / 2:
        return ""
    return (
        f"{format_size(stats.bytes_shared)} of {format_size(stats.bytes_tracked)} lie in pages shared with other "
        "objects, whose writes count; pagescan.empty and pagescan.zeros make arrays with pages of their own"
    )


@functools.cache
def measured_costs(engine: str) -> Costs:
    """What a fault and a comparison cost in this process, measured once: some milliseconds."""
    if engine in ("compare", "model"):
        return Costs(0.0, _comparison(), f"{engine} protects nothing of this process")
    from .tracker import track

    pages, faults = 256, []
    memory = zeros((pages, 4096), np.uint8)
    with track(memory, engine=engine) as tracker:
        for value in range(1, _ROUNDS + 1):
            tracker.take()
            began = perf_counter_ns()
            memory[:, 0] = value
            first = perf_counter_ns()
            memory[:, 0] = value
            faults.append(2 * first - began - perf_counter_ns())
    return Costs(float(np.median(faults)) / pages, _comparison(), f"measured on {pages} pages of this process")


def _comparison() -> float:
    """Nanoseconds for one page."""
    pages, times = 2048, []
    memory, copy = zeros((2, pages, 4096), np.uint8)
    for _ in range(_ROUNDS):
        began = perf_counter_ns()
        np.array_equal(memory, copy)
        times.append(perf_counter_ns() - began)
    return min(times) / pages
