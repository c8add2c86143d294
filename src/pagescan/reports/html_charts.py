"""The line charts of the page: write rate, working set, page counts; at most a thousand points each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..analysis import time_axis
from ..analysis.heat import per_second
from ..units import format_address, format_duration
from .summary import written_by_mapping
from .words import cut
from .working_set import WorkingSetReport

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..analysis import TimeAxis
    from .base import Wishes
    from .material import Material

_POINTS = 1000
_MAPPINGS = 5
_NAME = 60


def chart_data(material: Material, wishes: Wishes) -> list[dict[str, Any]]:
    """Each chart: its title, unit (``bytes/s``, ``bytes`` or ``pages``), times in milliseconds, and its lines."""
    if not len(material.series):
        return []
    axis = time_axis(material.series, _POINTS)
    return [_rates(material, axis), _working_set(material, wishes, axis), _counts(material, axis)]


def _chart(title: str, unit: str, note: str, axis: TimeAxis, lines: list[dict[str, Any]]) -> dict[str, Any]:
    # A value stands at the end of its interval; the first interval begins at 0.
    times = np.round((axis.edges[1:] - axis.edges[0]) / 1e6, 3).tolist()
    return {"title": title, "unit": unit, "note": note, "times": times, "lines": lines}


def _line(name: str, values: NDArray[Any], *, shown: bool = True, peak: bool = False) -> dict[str, Any]:
    """``peak``: drawn thinly, the largest of the samples behind a point."""
    return {"name": name, "values": np.round(values).astype(np.int64).tolist(), "shown": shown, "peak": peak}


def _rates(material: Material, axis: TimeAxis) -> dict[str, Any]:
    size = material.page_size
    lines = [_line("all", per_second(summed(material.page_counts, axis) * size, axis.seconds))]
    if len(axis) < len(material.series):
        lines.append(_line("all, peak", highest(material.bytes_per_second, axis), peak=True))
    mappings = written_by_mapping(material)
    labels = [written.label for written in mappings]
    for written in mappings[:_MAPPINGS] if len(mappings) > 1 else ():
        values = per_second(summed(written.pages, axis) * size, axis.seconds)
        alike = labels.count(written.label) > 1
        start = f" {format_address(written.group.start)}" if alike and written.group else ""
        lines.append(_line(cut(written.label, _NAME) + start, values))
    more = f"; the {_MAPPINGS} mappings with most" if len(mappings) > _MAPPINGS else ""
    return _chart("Write rate", "bytes/s", f"written pages per second, in bytes{more}", axis, lines)


def _working_set(material: Material, wishes: Wishes, axis: TimeAxis) -> dict[str, Any]:
    report = WorkingSetReport.of(material, wishes)
    size = material.page_size
    lines = [
        _line(format_duration(window), highest(pages, axis) * size)
        for window, pages in zip(report.windows_ns, report.found.pages, strict=True)
    ]
    note = "distinct pages written to within a window of time that ends here, in bytes"
    return _chart("Working set", "bytes", note, axis, lines)


def _counts(material: Material, axis: TimeAxis) -> dict[str, Any]:
    samples = np.diff(axis.samples)
    downsampled = len(axis) < len(material.series)
    lines = [_line("pages written", summed(material.page_counts, axis) / samples)]
    if downsampled:
        lines.append(_line("pages written, peak", highest(material.page_counts, axis), peak=True))
    lines.append(_line("regions", summed(material.region_counts, axis) / samples))
    if (material.resident_pages >= 0).any():
        resident = np.maximum(material.resident_pages, 0)
        lines.append(_line("pages resident", highest(resident, axis), shown=False))
    note = "in a sample" + ("; means and peaks of the samples behind each point" if downsampled else "")
    return _chart("Pages", "pages", note, axis, lines)


def summed(values: NDArray[np.int64], axis: TimeAxis) -> NDArray[np.int64]:
    """The sum over each column's samples."""
    return np.add.reduceat(values, axis.samples[:-1])


def highest(values: NDArray[Any], axis: TimeAxis) -> NDArray[Any]:
    """The largest of each column's samples."""
    return np.maximum.reduceat(values, axis.samples[:-1])
