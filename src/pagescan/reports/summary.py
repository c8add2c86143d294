"""The summary: what was recorded, how much was written, where, and what the recording cost."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from ..analysis import WriteCounts, write_counts
from ..units import format_count, format_duration, format_size
from .base import Report, Screen, Table, Wishes
from .words import columns, curve, curve_width, cut, label, percent, rate, safe

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..analysis import Group
    from .material import Material

_ENDINGS = {
    "closed": "closed",
    "duration": "the time asked for was over",
    "interrupted": "interrupted",
    "exited": "the process ended",
    "error": "the recorder failed",
}
_MAPPINGS_SHOWN = 12


@dataclass(frozen=True, eq=False, slots=True)
class Written:
    """What was written to one mapping (or mappings that one thinks of as one).

    Attributes:
        group: which; None for pages in no mapping that the recording knows of.
        pages: int64, one a sample.
        page_size: bytes.
        mean, peak: bytes per second over the recording, and in the sample in which most was.
    """

    group: Group | None
    pages: NDArray[np.int64]
    page_size: int
    mean: float
    peak: float

    @property
    def total(self) -> int:
        """Written pages, counted once for each sample that has them."""
        return int(self.pages.sum())

    @property
    def label(self) -> str:
        return label(self.group.label) if self.group else "(not mapped)"

    def document(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "mapping": self.group.label if self.group else None,
            "start": f"{self.group.start:#x}" if self.group else None,
            "end": f"{self.group.end:#x}" if self.group else None,
            "written_pages": self.total,
            "written_bytes": self.total * self.page_size,
            "mean_bytes_per_second": round(self.mean),
            "peak_bytes_per_second": round(self.peak),
        }


@dataclass(frozen=True, eq=False, slots=True)
class SummaryReport(Report):
    """A recording in numbers.

    Attributes:
        material: the recording.
        counts: pages written once, repeatedly and never.
        mappings: the mappings that were written to; the one with most pages first.
    """

    material: Material
    counts: WriteCounts
    mappings: tuple[Written, ...]

    @classmethod
    def of(cls, material: Material, wishes: Wishes) -> SummaryReport:
        return cls(material, write_counts(material.series), written_by_mapping(material))

    def document(self) -> dict[str, Any]:
        material, counts = self.material, self.counts
        pages, resident = material.page_counts, material.resident_pages
        qualities = Counter(quality.name.lower() for quality in material.qualities)
        return {
            "written": {
                "pages": int(pages.sum()),
                "bytes": int(pages.sum()) * material.page_size,
                "mean_bytes_per_second": round(self._mean),
                "peak_bytes_per_second": round(material.bytes_per_second.max(initial=0.0)),
                "distinct_pages": counts.once + counts.repeatedly,
                "pages_once": counts.once,
                "pages_repeatedly": counts.repeatedly,
                "pages_never": counts.never,
            },
            "resident_pages": {
                "last": int(resident[-1]) if len(resident) and resident[-1] >= 0 else None,
                "max": int(resident.max()) if len(resident) and resident.max() >= 0 else None,
            },
            "cost": {
                "scan_ns": int(material.durations.sum()),
                "scan_median_ns": _median(material.durations),
                "scan_max_ns": int(material.durations.max(initial=0)),
                "scan_share": round(self._scan_share, 6),
                "pause_ns": int(material.pauses.sum()),
                "pause_max_ns": int(material.pauses.max(initial=0)),
            },
            "quality": {name: qualities[name] for name in ("exact", "superset", "lost")}
            | {"reasons": list(material.reasons)},
            "mappings": [written.document() for written in self.mappings],
        }

    @property
    def _mean(self) -> float:
        seconds = self.material.series.duration_ns / 1e9
        return int(self.material.page_counts.sum()) * self.material.page_size / seconds if seconds else 0.0

    @property
    def _scan_share(self) -> float:
        """How much of the recording's duration went by in scans."""
        duration = self.material.series.duration_ns
        return int(self.material.durations.sum()) / duration if duration else 0.0

    def table(self) -> Table:
        header = ("mapping", "start", "end", "written_pages", "written_bytes", "mean_bytes_per_second",
                  "peak_bytes_per_second")  # fmt: skip
        return Table(header, [[*written.document().values()] for written in self.mappings])

    # --- for a reader -------------------------------------------------------------------------------------------------

    def facts(self) -> list[tuple[str, str]]:
        """Pairs of a word and what there is to say of it."""
        material, counts = self.material, self.counts
        info, size = material.info, material.page_size
        pages = int(material.page_counts.sum())
        written = f"{format_size(pages * size)} in {format_count(pages, 'page')}; "
        written += f"mean {rate(self._mean)}, peak {rate(material.bytes_per_second.max(initial=0.0))}"
        distinct, once, again, never = (
            format_size(count * size)
            for count in (counts.once + counts.repeatedly, counts.once, counts.repeatedly, counts.never)
        )
        facts = [
            ("process", process_text(material)),
            ("recorded", self._when()),
            ("system", f"Linux {info.kernel} {info.machine}, pages of {format_size(size)}, engine {info.engine}"),
            ("written", written),
            ("pages", f"{distinct} distinct: {once} once, {again} repeatedly; {never} never"),
            ("cost", self._cost()),
            ("quality", self._quality()),
        ]
        known = material.resident_pages[material.resident_pages >= 0]
        if len(known):
            text = f"{format_size(int(known[-1]) * size)} in the end, {format_size(int(known.max()) * size)} at most"
            facts.insert(5, ("resident", text))
        return facts + [("damaged", damage_text(material))] * bool(material.damaged)

    def _when(self) -> str:
        material = self.material
        begun = datetime.fromtimestamp(material.info.started_wall_ns / 1e9, UTC)
        end = "the writer was killed"
        if material.ending:
            end = _ENDINGS.get(material.ending.reason, safe(material.ending.reason))
            end += f" ({safe(material.ending.detail)})" if material.ending.detail else ""
        elif material.growing is not False:
            end = "still growing" if material.growing else "no end record"
        samples, interval = format_count(len(material.series), "sample"), format_duration(material.info.interval_ns)
        duration = format_duration(material.series.duration_ns)
        return f"{begun:%Y-%m-%d %H:%M:%S} UTC for {duration}: {samples}, one every {interval}; {end}"

    def _cost(self) -> str:
        scans, pauses = self.material.durations, self.material.pauses
        text = (
            f"a scan took {format_duration(_median(scans))} (at most {format_duration(int(scans.max(initial=0)))}), "
            f"{percent(self._scan_share)} of the time; "
        )
        if not pauses.any():
            return text + "the process was never held still"
        return text + (
            f"the process was held still for {format_duration(int(pauses.sum()))} in all, "
            f"at most {format_duration(int(pauses.max()))} at once"
        )

    def _quality(self) -> str:
        counts = Counter(quality.name.lower() for quality in self.material.qualities)
        if set(counts) <= {"exact"}:
            return "every sample is exact"
        text = ", ".join(f"{count:,} {name}" for name, count in counts.items())
        return text + (f" ({'; '.join(map(safe, self.material.reasons))})" if self.material.reasons else "")

    def lines(self, screen: Screen) -> list[str]:
        wide = max(len(word) for word, _ in self.facts())
        lines = []
        for word, text in self.facts():
            lines += [f"{word if not n else '':<{wide}}  {part}" for n, part in enumerate(_wrapped(text, screen, wide))]
        if self.mappings:
            lines += ["", *self._mapping_lines(screen)]
        return lines

    def _mapping_lines(self, screen: Screen) -> list[str]:
        head = ["START", "WRITTEN", "SHARE", "MEAN", "PEAK"]
        total = sum(written.total for written in self.mappings)
        shown = self.mappings[:_MAPPINGS_SHOWN]
        rows = [
            [
                f"{written.group.start:012x}" if written.group else "",
                format_size(written.total * written.page_size),
                percent(written.total / total),
                rate(written.mean),
                rate(written.peak),
            ]
            for written in shown
        ]
        used = len(columns(head, rows, screen.width)[0]) + 2 + min(30, max(len(written.label) for written in shown)) + 2
        if room := min(40, curve_width(screen.width, used)):
            head.append("OVER TIME")
            for row, written in zip(rows, shown, strict=True):
                row.append(curve(written.pages, room, blocks=screen.blocks).ljust(room))
        head.append("MAPPING")
        lines = columns(head, [[*row, w.label] for row, w in zip(rows, shown, strict=True)], screen.width,
                        left=(0, 5, 6))  # fmt: skip
        if len(self.mappings) > len(shown):
            lines.append(f"and {len(self.mappings) - len(shown):,} more that were written to (--json has them all)")
        return lines


def written_by_mapping(material: Material) -> tuple[Written, ...]:
    """What was written to each mapping; those with most pages first, those with none left out."""
    rates = material.rates
    seconds = material.series.duration_ns / 1e9
    speeds = rates.bytes_per_second
    found = [
        Written(group, pages, rates.page_size, _per(int(pages.sum()) * rates.page_size, seconds), float(speed.max()))
        for group, pages, speed in zip(rates.groups, rates.pages, speeds, strict=True)
        if pages.any()
    ]
    if rates.unmapped.any():
        peak = float((rates.unmapped * rates.page_size / np.maximum(rates.columns.seconds, 1e-9)).max())
        lost = _per(int(rates.unmapped.sum()) * rates.page_size, seconds)
        found.append(Written(None, rates.unmapped, rates.page_size, lost, peak))
    return tuple(sorted(found, key=lambda written: -written.total))


def process_text(material: Material) -> str:
    """The command line, and the pid."""
    command = safe(" ".join(material.info.command_line)) or "(no command line)"
    return f"{cut_end(command, 200)} (pid {material.info.pid})" if material.info.pid is not None else command


def damage_text(material: Material) -> str:
    """Which samples could not be read."""
    numbers = [str(error.sample) for error in material.damaged]
    more = f" and {len(numbers) - 20} more" if len(numbers) > 20 else ""
    what = "sample" if len(numbers) == 1 else "samples"
    return f"{what} {', '.join(numbers[:20])}{more}: reported as if nothing had been written in them"


def cut_end(text: str, width: int) -> str:
    """At most ``width`` characters; here the beginning tells more."""
    return text if len(text) <= width else f"{text[: width - 3]}..."


def _wrapped(text: str, screen: Screen, indent: int) -> list[str]:
    """The text in the room beside its word; at least 20 characters a line."""
    import textwrap

    lines = textwrap.wrap(text, max(20, screen.width - indent - 2)) if screen.width < 1000 else [text]
    return [cut(line, screen.width) for line in lines]


def _median(values: NDArray[np.int64]) -> int:
    return int(np.median(values)) if len(values) else 0


def _per(amount: int, seconds: float) -> float:
    return amount / seconds if seconds else 0.0
