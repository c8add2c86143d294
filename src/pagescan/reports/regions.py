"""The hottest regions: what was written to in most samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..analysis import WriteCounts, write_counts
from ..units import format_count, format_size
from .base import Report, Screen, Table, Wishes
from .grid import main_spans
from .words import columns, label, percent, rate

if TYPE_CHECKING:
    from .material import Material


@dataclass(frozen=True, slots=True)
class Hot:
    """A run of pages that were all written to in equally many samples.

    Attributes:
        start, end: addresses, half-open.
        samples: in how many samples.
        share: of all samples, from 0 to 1.
        bytes_per_second: as a mean over the recording.
        mapping, permissions: of the mapping it lies in; None where the recording knows of none.
    """

    start: int
    end: int
    samples: int
    share: float
    bytes_per_second: float
    mapping: str | None
    permissions: str | None

    def document(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "start": f"{self.start:#x}",
            "end": f"{self.end:#x}",
            "size": self.end - self.start,
            "samples": self.samples,
            "share": round(self.share, 6),
            "bytes_per_second": round(self.bytes_per_second),
            "mapping": self.mapping,
            "permissions": self.permissions,
        }


@dataclass(frozen=True, eq=False, slots=True)
class RegionsReport(Report):
    """The regions written to in most samples, the hottest first; among equals, the larger one.

    Attributes:
        counts: how often all pages were written to.
        hottest: as many as were wished for.
    """

    counts: WriteCounts
    hottest: tuple[Hot, ...]

    @classmethod
    def of(cls, material: Material, wishes: Wishes) -> RegionsReport:
        series, counts = material.series, write_counts(material.series)
        found = counts.hottest(wishes.limit)
        low, high = (np.array([row[place] for row in found], np.int64) for place in (0, 1))
        spans = main_spans(low, high, series).tolist()
        seconds = series.duration_ns / 1e9
        hot = []
        for (start, end, samples), span in zip(found, spans, strict=True):
            mapping = series.spans[span][0] if span >= 0 else None
            speed = (end - start) * samples / seconds if seconds else 0.0
            place = (mapping.name, mapping.perms) if mapping else (None, None)
            hot.append(Hot(start, end, samples, samples / len(series), speed, *place))
        return cls(counts, tuple(hot))

    def document(self) -> dict[str, Any]:
        return {
            "regions": [hot.document() for hot in self.hottest],
            "regions_in_all": len(self.counts.counts),
            "pages_never": self.counts.never,
            "pages_once": self.counts.once,
            "pages_repeatedly": self.counts.repeatedly,
        }

    def table(self) -> Table:
        header = ("start", "end", "size", "samples", "share", "bytes_per_second", "mapping", "permissions")
        return Table(header, [[*hot.document().values()] for hot in self.hottest])

    def lines(self, screen: Screen) -> list[str]:
        if not self.hottest:
            return ["nothing was written to"]
        head = ("START", "SIZE", "SAMPLES", "SHARE", "RATE", "MAPPING")
        rows = [
            (
                f"{hot.start:012x}",
                format_size(hot.end - hot.start),
                f"{hot.samples:,}",
                percent(hot.share),
                rate(hot.bytes_per_second),
                label(hot.mapping) if hot.mapping is not None else "(not mapped)",
            )
            for hot in self.hottest
        ]
        shown = f"{len(rows):,} of {format_count(len(self.counts.counts), 'region')} shown, the hottest first"
        return [*columns(head, rows, screen.width, left=(0, 5)), shown[: screen.width]]
