"""A report as a picture, drawn by matplotlib where that is installed."""

from __future__ import annotations

import importlib
import io
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import MissingExtra
from ..units import format_duration, format_size
from .grid import fine_heat
from .migration import MigrationReport, bandwidth_text
from .regions import RegionsReport
from .summary import process_text
from .words import cut, label, rate, span_label
from .working_set import WorkingSetReport

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from ..analysis import AddressAxis, Series
    from .base import Wishes
    from .material import Material

_INCHES = (12.0, 7.0)
_ROWS, _COLUMNS = 600, 1100
_TITLE, _NAME = 90, 28
_SMALLEST_SHARE = 1e-4


def png_image(material: Material, wishes: Wishes, kind: str) -> bytes:
    """The report of this name as a PNG of 1440 x 840 pixels. Raises MissingExtra without matplotlib."""
    figure = _figure()
    # A dollar sign would begin a formula.
    figure.suptitle(_plain(cut(process_text(material), _TITLE)))
    _DRAWERS[kind](figure, material, wishes)
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=120)
    return out.getvalue()


def _figure() -> Any:
    """An empty figure that belongs to no window."""
    try:
        module = importlib.import_module("matplotlib.figure")
    except ImportError:
        raise MissingExtra(
            "a PNG needs the package matplotlib, which is not installed; --html works without it",
            hint="pip install 'pagescan[png]'",
        ) from None
    return module.Figure(figsize=_INCHES, layout="constrained")


def _plain(text: str) -> str:
    return text.replace("$", r"\$")


def _heat(axes: Any, material: Material, wishes: Wishes) -> None:
    series = material.series
    found, heights = fine_heat(series, wishes.rows or _ROWS, wishes.columns or _COLUMNS)
    axes.set_xlabel("seconds")
    if not len(found.rows) or not len(found.columns):
        axes.text(0.5, 0.5, "nothing was written to", ha="center", transform=axes.transAxes)
        return
    tops = np.append(0.0, np.cumsum(heights))
    edges = (found.columns.edges - series.edges[0]) / 1e9
    share = np.ma.masked_less_equal(found.share, 0)
    norm = importlib.import_module("matplotlib.colors").LogNorm(_SMALLEST_SHARE, 1.0)
    image = axes.pcolormesh(edges, tops, share, cmap="inferno_r", norm=norm, rasterized=True)
    axes.figure.colorbar(image, ax=axes, label="share of the pages written in a sample")
    axes.set_ylim(tops[-1], 0)
    for row in np.flatnonzero(found.rows.gap_before):
        axes.axhline(tops[row], color="gray", linewidth=0.6, linestyle="--")
    _name_rows(axes, found.rows, series, tops)


def _name_rows(axes: Any, rows: AddressAxis, series: Series, tops: NDArray[np.float64]) -> None:
    """The mapping and first address of each run of rows, where there is room."""
    begins = np.flatnonzero(np.append(True, (np.diff(rows.spans) != 0) | rows.gap_before[1:]))
    ends = np.append(begins[1:], len(rows))
    ticks, texts, free = [], [], -1.0
    for begin, end in zip(begins.tolist(), ends.tolist(), strict=True):
        middle = float(tops[begin] + tops[end]) / 2
        if middle < free:
            continue
        name = cut(span_label(series.spans, int(rows.spans[begin])), _NAME)
        ticks.append(middle)
        texts.append(_plain(f"{name}\n{int(rows.starts[begin]):#x}"))
        free = middle + float(tops[-1]) / 24
    axes.set_yticks(ticks, texts, fontsize=8)


def _draw_heat(figure: Any, material: Material, wishes: Wishes) -> None:
    _heat(figure.subplots(), material, wishes)


def _draw_summary(figure: Any, material: Material, wishes: Wishes) -> None:
    above, below = figure.subplots(2, 1, height_ratios=(3, 1))
    _heat(above, material, wishes)
    below.plot(material.times_ns / 1e9, material.bytes_per_second, linewidth=0.8)
    _byte_axis(below, rate)
    below.set(xlabel="seconds", ylabel="write rate", xlim=(0, max(1e-9, material.series.duration_ns / 1e9)))


def _draw_working_set(figure: Any, material: Material, wishes: Wishes) -> None:
    axes, report = figure.subplots(), WorkingSetReport.of(material, wishes)
    for window, pages in zip(report.windows_ns, report.found.pages, strict=True):
        axes.plot(report.times_ns / 1e9, pages * material.page_size, label=format_duration(window), linewidth=1)
    _byte_axis(axes, lambda value: format_size(round(value)))
    axes.set(xlabel="seconds", ylabel="distinct pages written to within the window")
    if report.windows_ns:
        axes.legend(title="window")


def _draw_regions(figure: Any, material: Material, wishes: Wishes) -> None:
    axes, hottest = figure.subplots(), RegionsReport.of(material, wishes).hottest
    names = [
        f"{cut(label(hot.mapping or ''), _NAME)}  {hot.start:#x}  {format_size(hot.end - hot.start)}" for hot in hottest
    ]
    axes.barh(range(len(hottest)), [hot.samples for hot in hottest])
    axes.set_yticks(range(len(hottest)), [_plain(name) for name in names], fontsize=8)
    axes.invert_yaxis()
    axes.set(xlabel="samples in which it was written to")


def _draw_migration(figure: Any, material: Material, wishes: Wishes) -> None:
    axes, report = figure.subplots(), MigrationReport.of(material, wishes)
    for bandwidth, found in report.estimates:
        sent = [turn.bytes for turn in found.rounds] + [found.final_bytes]
        text = f"{bandwidth_text(bandwidth)}: {format_duration(found.downtime_ns)} of downtime"
        axes.plot(range(1, len(sent) + 1), sent, marker="o", label=text)
    _byte_axis(axes, lambda value: format_size(round(value)))
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set(xlabel="round; the last one while the process stands still", ylabel="sent")
    if report.estimates:
        axes.legend()


def _byte_axis(axes: Any, text: Callable[[float], str]) -> None:
    """From 0, with a mark at every so many times a power of two."""
    ticker = importlib.import_module("matplotlib.ticker")
    axes.set_ylim(bottom=0)
    step = 1 << max(0, math.ceil(math.log2(max(1.0, axes.get_ylim()[1] / 8))))
    axes.yaxis.set_major_locator(ticker.MultipleLocator(step))
    axes.yaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: text(value)))


_DRAWERS: dict[str, Callable[[Any, Material, Wishes], None]] = {
    "summary": _draw_summary,
    "heatmap": _draw_heat,
    "regions": _draw_regions,
    "working-set": _draw_working_set,
    "migration": _draw_migration,
}
