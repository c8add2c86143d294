"""The written working set: distinct pages written to within windows of time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..analysis import WorkingSet, window_samples, working_set
from ..units import SECOND, format_duration, format_size
from .base import Report, Screen, Table, Wishes
from .words import columns, curve, curve_width

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..analysis import Series
    from .material import Material

#: Windows to choose from, beside one sample and the whole recording.
_USUAL = tuple(seconds * SECOND for seconds in (1, 10, 60, 600, 3600, 86400))


@dataclass(frozen=True, eq=False, slots=True)
class WorkingSetReport(Report):
    """How the working set grows with the window, and changes over time.

    Attributes:
        times_ns: int64: when the samples were taken, from the start of the recording.
        found: the working set; one row a window.
        windows_ns: the windows' lengths as durations, by the median interval.
    """

    times_ns: NDArray[np.int64]
    found: WorkingSet
    windows_ns: tuple[int, ...]

    @classmethod
    def of(cls, material: Material, wishes: Wishes) -> WorkingSetReport:
        series = material.series
        lengths = _lengths(series, wishes.windows_ns)
        interval = int(np.median(np.diff(series.edges))) if len(series) else 0
        return cls(material.times_ns, working_set(series, lengths), tuple(length * interval for length in lengths))

    def _rows(self) -> list[dict[str, Any]]:
        """One a window; of full windows only, unless none is."""
        rows = []
        for index, (samples, window) in enumerate(zip(self.found.windows, self.windows_ns, strict=True)):
            full = self.found.full(index)
            pages = full if len(full) else self.found.pages[index]
            rows.append(
                {
                    "window_ns": window,
                    "samples": samples,
                    "mean_pages": round(float(pages.mean())) if len(pages) else 0,
                    "max_pages": int(pages.max(initial=0)),
                }
            )
        return rows

    def document(self) -> dict[str, Any]:
        rows = self._rows()
        return {
            "windows": [row | {"pages": self.found.pages[index].tolist()} for index, row in enumerate(rows)],
            "times_ns": self.times_ns.tolist(),
        }

    def table(self) -> Table:
        header = ["sample", "time_ns", *(f"pages_in_{window}_ns" for window in self.windows_ns)]
        values = zip(self.times_ns.tolist(), self.found.pages.T.tolist(), strict=True)
        return Table(header, ([number, time, *pages] for number, (time, pages) in enumerate(values)))

    def lines(self, screen: Screen) -> list[str]:
        if not len(self.times_ns):
            return ["no sample yet"]
        size = self.found.page_size
        head = ["WINDOW", "SAMPLES", "MEAN", "MAX"]
        rows = [
            [
                format_duration(row["window_ns"]),
                f"{row['samples']:,}",
                format_size(row["mean_pages"] * size),
                format_size(row["max_pages"] * size),
            ]
            for row in self._rows()
        ]
        used = len(columns(head, rows, screen.width, left=())[0]) + 2
        if room := min(120, curve_width(screen.width, used)):
            head.append("OVER TIME")
            for row, pages in zip(rows, self.found.pages, strict=True):
                row.append(curve(pages, room, blocks=screen.blocks))
        note = "distinct pages written to within a window that ends at each sample; each curve has its own scale"
        return [*columns(head, rows, screen.width, left=(4,)), note[: screen.width]]


def _lengths(series: Series, windows_ns: tuple[int, ...]) -> list[int]:
    """The windows in samples, ascending, each once."""
    if windows_ns:
        return sorted({window_samples(series, window) for window in windows_ns})
    usual = {window_samples(series, window) for window in _USUAL if window < series.duration_ns}
    return sorted({1} | usual | {max(1, len(series))})
