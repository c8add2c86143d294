"""The heat map: which share of which memory was written to, when."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..analysis import Heat, Series, heat
from .base import Report, Screen, Table, Wishes
from .terminal_heat import draw

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .material import Material

#: Cells for machines, where nothing else was wished for.
_ROWS, _COLUMNS = 64, 256


@dataclass(frozen=True, eq=False, slots=True)
class HeatmapReport(Report):
    """Written pages over address and time.

    Attributes:
        series: what is shown.
        wishes: how many rows and columns.
    """

    series: Series
    wishes: Wishes

    @classmethod
    def of(cls, material: Material, wishes: Wishes) -> HeatmapReport:
        return cls(material.series, wishes)

    def heat(self, rows: int = _ROWS, columns: int = _COLUMNS) -> Heat:
        """The map with so many cells at most, unless others were wished for."""
        return heat(self.series, rows=self.wishes.rows or rows, columns=self.wishes.columns or columns)

    def document(self) -> dict[str, Any]:
        found = self.heat()
        rows, columns = found.rows, found.columns
        times = (columns.edges - self.series.edges[0]).tolist()
        return {
            "rows": [
                {
                    "start": f"{start:#x}",
                    "end": f"{end:#x}",
                    "pages": pages,
                    "gap_before": gap,
                    "mapping": self._name(span),
                    "permissions": self.series.spans[span][0].perms if span >= 0 else None,
                }
                for start, end, pages, gap, span in zip(
                    rows.starts.tolist(),
                    rows.ends.tolist(),
                    rows.pages.tolist(),
                    rows.gap_before.tolist(),
                    rows.spans.tolist(),
                    strict=True,
                )
            ],
            "columns": [
                {"from_ns": begin, "to_ns": end, "samples": samples}
                for begin, end, samples in zip(times[:-1], times[1:], np.diff(columns.samples).tolist(), strict=True)
            ],
            "written_pages": found.pages.tolist(),
        }

    def _name(self, span: int) -> str | None:
        return self.series.spans[span][0].name if span >= 0 else None

    def table(self) -> Table:
        header = ("start", "end", "mapping", "from_ns", "to_ns", "written_pages", "bytes_per_second", "share")
        return Table(header, self._cells())

    def _cells(self) -> Iterator[tuple[Any, ...]]:
        """Those in which something was written, row by row."""
        found = self.heat()
        starts, ends, spans = found.rows.starts.tolist(), found.rows.ends.tolist(), found.rows.spans.tolist()
        times = (found.columns.edges - self.series.edges[0]).tolist()
        rates, shares = found.bytes_per_second, found.share
        for row, column in np.argwhere(found.pages).tolist():
            place = (f"{starts[row]:#x}", f"{ends[row]:#x}", self._name(spans[row]))
            amount = (int(found.pages[row, column]), round(rates[row, column]), f"{shares[row, column]:.6g}")
            yield *place, times[column], times[column + 1], *amount

    def lines(self, screen: Screen) -> list[str]:
        return draw(self.series, screen, self.wishes)
