"""What a live migration by pre-copy would take, at several bandwidths."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..analysis import MigrationEstimate, estimate_migration
from ..ranges import Regions
from ..units import format_duration, format_size
from .base import Report, Screen, Table, Wishes
from .words import columns

if TYPE_CHECKING:
    from .material import Material

_WHENCE = {
    "given": "as given",
    "resident": "resident when the recording began",
    "writable": "all writable mappings: the resident memory was not recorded",
}


@dataclass(frozen=True, eq=False, slots=True)
class MigrationReport(Report):
    """One estimate for each bandwidth.

    Attributes:
        memory_bytes: what the first round sends.
        memory_from: where that number comes from: "given", "resident" or "writable".
        downtime_ns: how long the process may stand still.
        estimates: bytes per second, and the estimate; empty while the recording has no duration.
    """

    memory_bytes: int
    memory_from: str
    downtime_ns: int
    estimates: tuple[tuple[int, MigrationEstimate], ...]

    @classmethod
    def of(cls, material: Material, wishes: Wishes) -> MigrationReport:
        memory, whence = _memory(material, wishes.memory_bytes)
        estimates = tuple(
            (
                bandwidth,
                estimate_migration(
                    material.series, memory_bytes=memory, bandwidth=bandwidth, downtime_limit_ns=wishes.downtime_ns
                ),
            )
            for bandwidth in (wishes.bandwidths if material.series.duration_ns else ())
        )
        return cls(memory, whence, wishes.downtime_ns, estimates)

    def document(self) -> dict[str, Any]:
        return {
            "memory_bytes": self.memory_bytes,
            "memory_from": self.memory_from,
            "downtime_limit_ns": self.downtime_ns,
            "estimates": [_estimate(bandwidth, estimate) for bandwidth, estimate in self.estimates],
        }

    def table(self) -> Table:
        header = ("bandwidth", "converged", "repeated", "rounds", "total_bytes", "total_ns", "final_bytes",
                  "downtime_ns")  # fmt: skip
        rows = [
            (bandwidth, int(found.converged), int(found.repeated), len(found.rounds), found.total_bytes,
             found.total_ns, found.final_bytes, found.downtime_ns)
            for bandwidth, found in self.estimates
        ]  # fmt: skip
        return Table(header, rows)

    def cells(self) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        """The table for a reader: head and rows."""
        head = ("BANDWIDTH", "ROUNDS", "SENT", "TIME", "DOWNTIME", "WITHIN LIMIT")
        rows: list[tuple[str, ...]] = [
            (
                bandwidth_text(bandwidth),
                f"{len(found.rounds)}",
                format_size(found.total_bytes),
                format_duration(found.total_ns),
                format_duration(found.downtime_ns),
                ("yes" if found.converged else "no") + ("*" if found.repeated else ""),
            )
            for bandwidth, found in self.estimates
        ]
        return head, rows

    def notes(self) -> list[str]:
        """What one has to know to read the table."""
        lines = [
            f"first round: {format_size(self.memory_bytes)} ({_WHENCE[self.memory_from]})",
            f"limit of downtime: {format_duration(self.downtime_ns)}",
        ]
        if any(found.repeated for _, found in self.estimates):
            lines.append("* lasts longer than the recording, which was taken to repeat itself")
        return lines

    def lines(self, screen: Screen) -> list[str]:
        if not self.estimates:
            return ["the recording has no duration yet"]
        return [line[: screen.width] for line in (*columns(*self.cells(), screen.width), *self.notes())]


def bandwidth_text(bandwidth: int) -> str:
    """Bytes per second in decimal bits, as links are named (``"10 Gbit/s"``); as a size if that is no round number."""
    for name, bits in (("Gbit/s", 10**9), ("Mbit/s", 10**6)):
        if bandwidth * 8 % bits == 0:
            return f"{bandwidth * 8 // bits:,} {name}"
    return f"{format_size(bandwidth)}/s"


def _memory(material: Material, given: int | None) -> tuple[int, str]:
    if given is not None:
        return given, "given"
    known = material.resident_pages[material.resident_pages >= 0]
    if len(known):
        return int(known[0]) * material.page_size, "resident"
    pairs = [(m.start, m.end) for m, appeared, _ in material.series.spans if m.writable and not appeared]
    return Regions.from_pairs(pairs, page_size=material.page_size).byte_count, "writable"


def _estimate(bandwidth: int, found: MigrationEstimate) -> dict[str, Any]:
    return {
        "bandwidth": bandwidth,
        "converged": found.converged,
        "repeated": found.repeated,
        "total_bytes": found.total_bytes,
        "total_ns": found.total_ns,
        "final_bytes": found.final_bytes,
        "downtime_ns": found.downtime_ns,
        "rounds": [
            {"bytes": turn.bytes, "duration_ns": turn.duration_ns, "written_bytes": turn.written_bytes}
            for turn in found.rounds
        ],
    }
