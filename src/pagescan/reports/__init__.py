"""A recording as something to read: text, JSON, CSV, a PNG, or one HTML file.

A recording is read once into a :class:`Material`; every report is a value made of that (:data:`REPORTS`), and is shown
by whoever asks for it: :meth:`Report.document` for JSON, :meth:`Report.table` for CSV, :meth:`Report.lines` for a
terminal. :func:`~pagescan.reports.html.html_page` and :func:`~pagescan.reports.png.png_image` make files of them.
"""

from __future__ import annotations

from .base import Report, Screen, Table, Wishes
from .heatmap import HeatmapReport
from .material import Material
from .migration import MigrationReport
from .regions import RegionsReport
from .summary import SummaryReport
from .working_set import WorkingSetReport

#: Every report by its name on the command line.
REPORTS: dict[str, type[Report]] = {
    "summary": SummaryReport,
    "heatmap": HeatmapReport,
    "regions": RegionsReport,
    "working-set": WorkingSetReport,
    "migration": MigrationReport,
}

__all__ = [
    "REPORTS",
    "HeatmapReport",
    "Material",
    "MigrationReport",
    "RegionsReport",
    "Report",
    "Screen",
    "SummaryReport",
    "Table",
    "Wishes",
    "WorkingSetReport",
]
