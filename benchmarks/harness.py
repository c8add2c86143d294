"""Two things side by side: timed in turn, compared pair by pair, judged against a goal, printed or written as JSON.

Times of one machine at one moment mean little; the ratio of two that alternate within one run means much more. So each
round times both (in changing order) after the same preparation, and what is reported is the median of the rounds'
ratios with its quartiles.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Effort:
    """How long to measure one row: at least ``least`` rounds, then until ``seconds`` have gone, at most ``most``."""

    seconds: float = 2.0
    least: int = 15
    most: int = 400

    def scaled(self, factor: float, least: int | None = None) -> Effort:
        return Effort(self.seconds * factor, least if least is not None else self.least, self.most)


@dataclass(frozen=True, slots=True)
class Pairs:
    """What both took, round by round, in nanoseconds a repetition."""

    ours: NDArray[np.float64]
    theirs: NDArray[np.float64]

    @property
    def ratio(self) -> float:
        """Ours / theirs: the median over the rounds."""
        return float(np.median(self.ours / self.theirs))

    @property
    def quartiles(self) -> tuple[float, float]:
        low, high = np.percentile(self.ours / self.theirs, [25, 75])
        return float(low), float(high)

    @property
    def more(self) -> float:
        """Ours - theirs in nanoseconds: the median over the rounds."""
        return float(np.median(self.ours - self.theirs))


@dataclass(frozen=True, slots=True)
class Goal:
    """What design asks of a row. Of several limits one must hold.

    Attributes:
        times: ours / theirs at most this.
        more: ours - theirs at most so many nanoseconds.
        faster: theirs / ours at least this.
        within: ours at most so many nanoseconds, whatever theirs.
    """

    times: float | None = None
    more: float | None = None
    faster: float | None = None
    within: float | None = None

    def __str__(self) -> str:
        parts = []
        if self.times is not None:
            parts.append(f"<= {self.times:.2f}x")
        if self.more is not None:
            parts.append(f"<= +{duration(self.more)}")
        if self.faster is not None:
            parts.append(f">= {self.faster:g}x faster")
        if self.within is not None:
            parts.append(f"<= {duration(self.within)}")
        return " or ".join(parts) or "none"

    def verdict(self, pairs: Pairs) -> str:
        """The word "meets", or by how much it falls short; "" where there is no goal."""
        short = []
        if self.times is not None:
            if pairs.ratio <= self.times:
                return "meets"
            short.append(f"{pairs.ratio - self.times:.2f}x")
        if self.more is not None:
            if pairs.more <= self.more:
                return "meets"
            short.append(duration(pairs.more - self.more))
        if self.faster is not None:
            if 1 / pairs.ratio >= self.faster:
                return "meets"
            short.append(f"a factor of {self.faster * pairs.ratio:.2f}")
        if self.within is not None:
            median = float(np.median(pairs.ours))
            if median <= self.within:
                return "meets"
            short.append(duration(median - self.within))
        return f"falls short by {' and '.join(short)}" if short else ""


@dataclass(slots=True)
class Row:
    """One line of the table. Times in nanoseconds; absent where the row was skipped or failed."""

    name: str
    what: str
    against: str
    goal: str = "none"
    verdict: str = ""
    ours_ns: float | None = None
    theirs_ns: float | None = None
    more_ns: float | None = None
    ratio: float | None = None
    ratio_quartiles: tuple[float, float] | None = None
    rounds: int = 0
    skipped: str | None = None
    failed: str | None = None
    note: str = ""


@dataclass(slots=True)
class Report:
    """All rows of a run, and the machine they were measured on."""

    machine: dict[str, Any]
    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, name: str, what: str, against: str, pairs: Pairs, goal: Goal | None = None, note: str = "") -> None:
        goal = goal or Goal()
        self.rows.append(
            Row(
                name,
                what,
                against,
                str(goal),
                goal.verdict(pairs),
                float(np.median(pairs.ours)),
                float(np.median(pairs.theirs)),
                pairs.more,
                pairs.ratio,
                pairs.quartiles,
                len(pairs.ours),
                note=note,
            )
        )

    def measured(self, name: str, what: str, values: Sequence[float], goal_ns: float) -> None:
        """A row of something that is compared with nothing: the median of the values (ns) is to be at most the goal."""
        median, p95, most = (float(value) for value in np.percentile(values, [50, 95, 100]))
        short = f"falls short by {duration(median - goal_ns)}"
        spread = f"95 % within {duration(p95)}, at most {duration(most)}"
        self.rows.append(
            Row(
                name,
                what,
                "",
                f"<= {duration(goal_ns)}",
                "meets" if median <= goal_ns else short,
                ours_ns=median,
                rounds=len(values),
                note=spread,
            )
        )

    def document(self) -> dict[str, Any]:
        """The report for ``--json``: times in nanoseconds, sizes in bytes."""
        rows = [asdict(row) for row in self.rows]
        return {"schema": "pagescan.bench", "version": 1, "machine": self.machine, "rows": rows, "notes": self.notes}

    def table(self) -> str:
        """The report for people."""
        head: tuple[str, ...] = ("what", "against", "ours", "theirs", "ratio", "quartiles", "goal", "verdict")
        lines = [head, *map(_cells, self.rows)]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        widths[-1] = 0  # nothing follows the last column
        text = [
            "  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
        ]
        text.insert(1, "-" * len(text[0]))
        return "\n".join([*text, *(f"\n{note}" for note in self.notes)])


def interleave(
    ours: Callable[[], int],
    theirs: Callable[[], int],
    effort: Effort,
    *,
    prepare: Callable[[], object] | None = None,
    repeats: int = 1,
) -> Pairs:
    """Time both in turn. Each returns the nanoseconds of ``repeats`` repetitions; ``prepare`` runs before each."""
    both: tuple[list[int], list[int]] = ([], [])
    sides = (ours, theirs)
    deadline = None
    rounds = -1  # the first round only warms up
    while rounds < effort.least or (rounds < effort.most and time.monotonic() < (deadline or 0)):
        for side in (0, 1) if rounds % 2 else (1, 0):
            if prepare:
                prepare()
            taken = sides[side]()
            if rounds >= 0:
                both[side].append(taken)
        rounds += 1
        deadline = deadline or time.monotonic() + effort.seconds
    return Pairs(np.array(both[0]) / repeats, np.array(both[1]) / repeats)


def timed(work: Callable[[], object], repeats: int = 1) -> Callable[[], int]:
    """``work``, ``repeats`` times, as a function that returns the nanoseconds it took."""
    clock = time.perf_counter_ns
    if repeats == 1:

        def once() -> int:
            began = clock()
            work()
            return clock() - began

        return once

    def several() -> int:
        steps = iter(range(repeats))
        began = clock()
        for _ in steps:
            work()
        return clock() - began

    return several


def duration(nanoseconds: float) -> str:
    """Three digits and a unit: "450 ns", "12.3 us"."""
    for limit, unit in ((1e3, "ns"), (1e6, "us"), (1e9, "ms")):
        if abs(nanoseconds) < limit * 0.9995:
            return f"{nanoseconds / limit * 1e3:.3g} {unit}"
    return f"{nanoseconds / 1e9:.3g} s"


def _factor(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def size_name(size: int) -> str:
    for unit, step in (("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if size >= 1 << step:
            return f"{size >> step} {unit}"
    return f"{size} B"


def _cells(row: Row) -> tuple[str, ...]:
    if row.skipped or row.failed:
        outcome = f"skipped: {row.skipped}" if row.skipped else f"FAILED: {row.failed}"
        return (row.what, row.against, "", "", "", "", row.goal, outcome)
    assert row.ours_ns is not None
    if row.theirs_ns is None:
        return (row.what, "", duration(row.ours_ns), "", "", "", row.goal, f"{row.verdict}  {row.note}")
    assert row.ratio is not None
    assert row.ratio_quartiles is not None
    if row.goal.endswith("faster"):
        ratio, (low, high) = 1 / row.ratio, (1 / row.ratio_quartiles[1], 1 / row.ratio_quartiles[0])
        shown, spread = f"{_factor(ratio)}x faster", f"{_factor(low)}..{_factor(high)}"
    else:
        shown, spread = f"{row.ratio:.3f}x", f"{row.ratio_quartiles[0]:.3f}..{row.ratio_quartiles[1]:.3f}"
        if "+" in row.goal:
            shown += f" ({'+' if (row.more_ns or 0) >= 0 else ''}{duration(row.more_ns or 0)})"
    verdict = f"{row.verdict}  {row.note}".strip()
    return (row.what, row.against, duration(row.ours_ns), duration(row.theirs_ns), shown, spread, row.goal, verdict)
