"""All that the reports want of a recording, read once."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from ..analysis import Rates, Series, write_rates
from ..analysis.heat import per_second
from ..errors import DataCorrupt, InvalidArgument
from ..trackers.written import Quality

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..recording import Ending, Recording, RecordingInfo

#: Of so many samples that are not exact the reasons are read.
_REASONS = 100


class _Undamaged:
    """A recording whose damaged samples have no regions; remembers which they are."""

    def __init__(self, recording: Recording):
        self._recording = recording
        self.page_size, self.started_ns = recording.page_size, recording.started_ns
        self.times, self.mappings = recording.times, recording.mappings
        self.damaged: tuple[DataCorrupt, ...] = ()

    def records(self, *, damaged: Any = "raise") -> tuple[NDArray[np.void], NDArray[np.int64], Any]:
        found = self._recording.records(damaged=damaged)
        self.damaged = found.damaged
        return found


@dataclass(frozen=True, eq=False)
class Material:
    """A recording as it was at one moment. The arrays have one element a sample.

    Attributes:
        path: the file.
        info: what was recorded.
        ending: the end record, or None.
        growing: whether it is still being written; None if that cannot be known.
        series: the written regions; damaged samples have none.
        damaged: the errors of the samples that could not be read.
        qualities: how far each sample can be relied on.
        reasons: why some are not exact, each reason once, of the first hundred such samples.
        durations, pauses: nanoseconds, int64: of the scan, and that the process was held still.
        resident_pages: int64, -1 where it was not asked.
    """

    path: str
    info: RecordingInfo
    ending: Ending | None
    growing: bool | None
    series: Series
    damaged: tuple[DataCorrupt, ...]
    qualities: tuple[Quality, ...]
    reasons: tuple[str, ...]
    durations: NDArray[np.int64] = field(repr=False)
    pauses: NDArray[np.int64] = field(repr=False)
    resident_pages: NDArray[np.int64] = field(repr=False)

    @classmethod
    def of(cls, recording: Recording) -> Material:
        """What the recording has now, also while it grows. Raises DataCorrupt if it is damaged as a whole."""
        source = _Undamaged(recording)
        try:
            series = Series.of(source, damaged="skip")
        except InvalidArgument as error:
            raise DataCorrupt(f"the recording {recording.path} is damaged: {error.message}") from error
        bad = {error.sample for error in source.damaged}
        qualities = tuple(recording.qualities)
        return cls(
            str(recording.path),
            recording.info,
            recording.ending,
            recording.growing,
            series,
            source.damaged,
            qualities,
            _reasons(recording, qualities, bad),
            recording.durations,
            recording.pauses,
            recording.resident_pages,
        )

    @property
    def page_size(self) -> int:
        """Bytes of a page."""
        return self.info.page_size

    @cached_property
    def page_counts(self) -> NDArray[np.int64]:
        """Pages written to in each sample; 0 of damaged ones."""
        total = np.append(0, np.cumsum(self.series.high - self.series.low))
        counts: NDArray[np.int64] = np.diff(total[self.series.offsets])
        return counts

    @cached_property
    def rates(self) -> Rates:
        """Written pages by mapping and sample."""
        return write_rates(self.series)

    @property
    def region_counts(self) -> NDArray[np.int64]:
        """Regions they form."""
        return np.diff(self.series.offsets)

    @property
    def bytes_per_second(self) -> NDArray[np.float64]:
        """The rate of each sample; 0 where no time passed."""
        return per_second(self.page_counts * self.page_size, np.diff(self.series.edges) / 1e9)

    @property
    def times_ns(self) -> NDArray[np.int64]:
        """When the samples were taken, from the start of the recording."""
        times: NDArray[np.int64] = self.series.times - self.series.edges[0]
        return times

    def document(self) -> dict[str, Any]:
        """The recording itself, as every JSON document begins."""
        info, ending = self.info, self.ending
        return {
            "path": self.path,
            "pid": info.pid,
            "command_line": list(info.command_line),
            "kernel": info.kernel,
            "machine": info.machine,
            "engine": info.engine,
            "page_size": info.page_size,
            "interval_ns": info.interval_ns,
            "started_wall_ns": info.started_wall_ns,
            "duration_ns": self.series.duration_ns,
            "samples": len(self.series),
            "damaged_samples": [error.sample for error in self.damaged],
            "growing": self.growing,
            "ending": ending and {"reason": ending.reason, "detail": ending.detail},
        }


def _reasons(recording: Recording, qualities: tuple[Quality, ...], bad: set[int | None]) -> tuple[str, ...]:
    inexact = (n for n, quality in enumerate(qualities) if quality is not Quality.EXACT and n not in bad)
    found: dict[str, None] = {}
    for number in itertools.islice(inexact, _REASONS):
        found[recording[number].reason] = None
    return tuple(reason for reason in found if reason)
