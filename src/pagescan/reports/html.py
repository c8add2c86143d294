"""One HTML file that holds everything: data, code and style; it needs no network and asks for none.

The data are made small before they are written (:data:`MAX_BYTES`), whatever the recording's length. Everything that
came from the recorded process (names, its command line) is escaped as text, and a Content-Security-Policy that names
the hashes of the file's own scripts forbids everything else.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html import escape
from importlib import resources
from typing import TYPE_CHECKING, Any

from .. import __version__
from ..errors import PagescanError
from ..units import format_address, format_size
from .html_charts import chart_data
from .html_data import heat_data
from .migration import MigrationReport
from .regions import RegionsReport
from .summary import SummaryReport, damage_text, process_text
from .words import label, percent, rate

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from .base import Wishes
    from .material import Material

#: No file is larger.
MAX_BYTES = 3_000_000
#: Cells of the heat map to begin with; halved until the file is small enough.
MAX_CELLS = 600_000
MIN_CELLS = 1000
_MAPPINGS_SHOWN = 50
_SCRIPTS = ("vendor/uPlot.iife.min.js", "page/format.js", "page/axis.js", "page/heat.js", "page/charts.js",
            "page/main.js")  # fmt: skip
_STYLES = ("vendor/uPlot.min.css", "page/style.css")


def html_page(material: Material, wishes: Wishes) -> bytes:
    """The file, in UTF-8, of at most :data:`MAX_BYTES`."""
    parts = _parts(material, wishes)
    charts = chart_data(material, wishes)
    cells = MAX_CELLS
    while len(page := _filled(parts, {"heat": heat_data(material, wishes, cells), "charts": charts})) > MAX_BYTES:
        if cells < MIN_CELLS:
            raise PagescanError(f"the report would have {len(page):,} bytes, more than {MAX_BYTES:,}")
        cells //= 2
    return page


def _parts(material: Material, wishes: Wishes) -> dict[str, str]:
    """What stands in the page, but for the data."""
    scripts = [_asset(name) for name in _SCRIPTS]
    styles = [_asset(name) for name in _STYLES]
    summary = SummaryReport.of(material, wishes)
    return {
        "POLICY": _policy(scripts, styles),
        "TITLE": escape(f"pagescan: {process_text(material)}"),
        "HEADING": escape(process_text(material)),
        "VERSION": escape(__version__),
        "NOTICES": _notices(material),
        "FACTS": "".join(f"<dt>{escape(word)}</dt><dd>{escape(text)}</dd>" for word, text in summary.facts()[1:]),
        "MAPPINGS": _mappings_table(summary),
        "REGIONS": _regions_table(RegionsReport.of(material, wishes)),
        "MIGRATION": _migration(MigrationReport.of(material, wishes)),
        "LICENCE": escape(_asset("vendor/uPlot.LICENSE").strip()),
        "STYLE": "".join(f"<style>{text}</style>" for text in styles),
        "SCRIPT": "".join(f"<script>{text}</script>" for text in scripts),
    }


def _filled(parts: dict[str, str], data: dict[str, Any]) -> bytes:
    parts = parts | {"DATA": _json(data)}
    page = re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], _asset("page/page.html"))
    return page.encode("utf-8", "backslashreplace")


def _asset(name: str) -> str:
    text = resources.files(__package__).joinpath(name).read_text("utf-8")
    # uPlot's banner is an address on the web; the licence that the file shows takes its place.
    return re.sub(r"\A/\*!.*?\*/\s*", "", text, flags=re.DOTALL)


def _policy(scripts: Iterable[str], styles: Iterable[str]) -> str:
    def hashes(texts: Iterable[str]) -> str:
        return " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(t.encode()).digest()).decode()}'" for t in texts)

    return f"default-src 'none'; img-src data:; script-src {hashes(scripts)}; style-src {hashes(styles)}"


def _json(data: dict[str, Any]) -> str:
    """JSON that may stand in a script element: no ``</script>`` can end it."""
    return json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")


def _notices(material: Material) -> str:
    texts = [f"Damaged: {damage_text(material)}."] if material.damaged else []
    if material.growing:
        texts.append("The recording was still growing when this report was made.")
    if not len(material.series.low):
        texts.append("Nothing was written to in this recording.")
    return "".join(f'<p class="notice" role="note">{escape(text)}</p>' for text in texts)


# --- tables -----------------------------------------------------------------------------------------------------------


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], text: Sequence[int]) -> str:
    """Columns in ``text`` are aligned left, the others right."""

    def cells(row: Sequence[str], tag: str) -> str:
        kinds = ("" if place in text else ' class="number"' for place in range(len(row)))
        return "".join(f"<{tag}{kind}>{escape(cell)}</{tag}>" for cell, kind in zip(row, kinds, strict=True))

    body = "".join(f"<tr>{cells(row, 'td')}</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{cells(head, "th")}</tr></thead><tbody>{body}</tbody></table></div>'


def _mappings_table(summary: SummaryReport) -> str:
    if not summary.mappings:
        return "<p>Nothing was written to.</p>"
    total = sum(written.total for written in summary.mappings)
    rows = [
        (
            written.label[-200:],
            format_address(written.group.start) if written.group else "",
            format_size(written.total * written.page_size),
            percent(written.total / total),
            rate(written.mean),
            rate(written.peak),
        )
        for written in summary.mappings[:_MAPPINGS_SHOWN]
    ]
    more = len(summary.mappings) - len(rows)
    rest = f"<p>and {more:,} more that were written to</p>" if more else ""
    return _table(("Mapping", "Start", "Written", "Share", "Mean", "Peak"), rows, (0,)) + rest


def _regions_table(report: RegionsReport) -> str:
    if not report.hottest:
        return "<p>Nothing was written to.</p>"
    rows = [
        (
            label(hot.mapping)[-200:] if hot.mapping is not None else "(not mapped)",
            f"{hot.start:#x}",
            format_size(hot.end - hot.start),
            f"{hot.samples:,}",
            percent(hot.share),
            rate(hot.bytes_per_second),
        )
        for hot in report.hottest[:_MAPPINGS_SHOWN]
    ]
    return _table(("Mapping", "Start", "Size", "Samples", "Share of samples", "Mean"), rows, (0,))


def _migration(report: MigrationReport) -> str:
    if not report.estimates:
        return "<p>The recording has no duration yet.</p>"
    head, rows = report.cells()
    notes = "".join(f"<p>{escape(note.capitalize())}</p>" for note in report.notes())
    return _table([word.capitalize() for word in head], rows, ()) + notes
