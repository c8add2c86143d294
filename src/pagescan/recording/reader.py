"""Reads a recording, also while it grows."""

from __future__ import annotations

import contextlib
import operator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self

import numpy as np

from ..errors import Closed, DataCorrupt, InvalidArgument
from ..ranges import REGION_DTYPE, Regions
from ..units import format_count
from .blobs import COLUMNS, corrupt, decode_records
from .connect import connect
from .follow import follow
from .lives import Lives
from .model import Ending, MappingSpan, Sample
from .owner import is_running
from .schema import QUALITIES, SELECT_MAPPINGS, explained, mapping_span, read_info

if TYPE_CHECKING:
    import os
    import sqlite3
    from collections.abc import Callable, Iterator
    from types import TracebackType

    from numpy.typing import NDArray

    from ..abi import Mapping
    from ..trackers.written import Quality

Damaged = Literal["raise", "skip"]

_SCALARS = ("time_ns", "wall_ns", "duration_ns", "pause_ns", "quality", "resident_pages", "regions", "pages")
_DTYPE = np.dtype([(name, np.int64) for name in _SCALARS])
_SELECT_SCALARS = f"SELECT number, {', '.join(_SCALARS)} FROM sample WHERE number >= ? ORDER BY number"
# As bytes whatever SQLite takes them for: a type damaged on disk must spoil its own sample only.
_BLOBS = ", ".join(f"CAST({name} AS BLOB)" for name in ("reason", *COLUMNS))
_SELECT_BLOBS = f"SELECT number, unknown, {_BLOBS} FROM sample WHERE number >= ? AND number < ? ORDER BY number"
_BATCH = 256


class RegionTable(NamedTuple):
    """The regions of many samples in one array."""

    records: NDArray[np.void]  #: REGION_DTYPE, in bytes; sample after sample
    offsets: NDArray[np.int64]  #: one more than samples: sample i has ``records[offsets[i]:offsets[i + 1]]``
    damaged: tuple[DataCorrupt, ...]  #: of the samples that could not be read, and have no regions here


class Recording:
    """A recording, as it was when opened or last refreshed. Context manager; a sequence of :class:`Sample`.

    Indexing reads one sample, iterating all of them, and :meth:`records` the regions of all in one array. While the
    file grows, :meth:`refresh` takes in what has come since and :meth:`follow` waits for more.

    Attributes:
        path: the file.
        info: what was recorded.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = Path(path)
        self._connection: sqlite3.Connection | None = connect(self.path)
        try:
            with explained(self.path):
                self.info, self._writer = read_info(self._connection)
            self._scalars = np.empty(0, _DTYPE)
            self._spans: list[MappingSpan] = []
            self._ending: Ending | None = None
            self._lives: Lives | None = None  # made when first asked for
            self.refresh()
        except BaseException:
            self.close()
            raise

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Self:
        """Opens the recording at ``path``.

        Raises:
            InvalidArgument: there is no such file, or a newer pagescan wrote it.
            AccessDenied: it may not be read.
            DataCorrupt: it is no recording, or is damaged as a whole.
        """
        return cls(path)

    # How it stands

    def refresh(self) -> int:
        """Takes in the samples, mappings and the end that were written since; returns how many samples are new."""
        with self._snapshot() as connection:
            rows = connection.execute(_SELECT_SCALARS, (len(self),)).fetchall()
            if [row[0] for row in rows] != list(range(len(self), len(self) + len(rows))):
                raise DataCorrupt(f"the recording {self.path} is damaged: samples are missing")
            # NULL (resident_pages was not asked for) becomes -1.
            values = [tuple(-1 if value is None else value for value in row[1:]) for row in rows]
            known = {"known": len(self._spans), "seen": len(self)}
            spans = [(row[0], mapping_span(row[1:])) for row in connection.execute(SELECT_MAPPINGS, known)]
            ending = connection.execute("SELECT reason, detail, time_ns, wall_ns FROM ending").fetchone()
            self._scalars = np.concatenate([self._scalars, np.array(values, _DTYPE)])
        self._scalars.flags.writeable = False
        self._take_spans(spans)
        self._ending = Ending(*ending) if ending else None
        return len(rows)

    def _take_spans(self, found: list[tuple[int, MappingSpan]]) -> None:
        """New mappings, and old ones that have vanished; their ids count from 1."""
        for row, span in found:
            if row <= len(self._spans):
                self._spans[row - 1] = span
            else:
                self._spans.append(span)
        if found:
            self._lives = None

    @property
    def ending(self) -> Ending | None:
        """The end record, or None: it is still being written, or its writer was killed (see :attr:`growing`)."""
        return self._ending

    @property
    def growing(self) -> bool | None:
        """Whether somebody still writes it. None if that cannot be known from here: no end record, and the writer ran
        on another machine, in another container, or before this boot."""
        return False if self._ending is not None else is_running(self._writer)

    # Arrays, one element a sample

    @property
    def times(self) -> NDArray[np.int64]:
        """When the samples were taken, in nanoseconds on the monotonic clock."""
        return self._scalars["time_ns"]

    @property
    def wall_times(self) -> NDArray[np.int64]:
        """The same moments in nanoseconds since 1970 in UTC."""
        return self._scalars["wall_ns"]

    @property
    def durations(self) -> NDArray[np.int64]:
        """How long the taking took, in nanoseconds."""
        return self._scalars["duration_ns"]

    @property
    def pauses(self) -> NDArray[np.int64]:
        """How long the process was held still, in nanoseconds."""
        return self._scalars["pause_ns"]

    @property
    def page_counts(self) -> NDArray[np.int64]:
        """Pages written to."""
        return self._scalars["pages"]

    @property
    def region_counts(self) -> NDArray[np.int64]:
        """Regions they form."""
        return self._scalars["regions"]

    @property
    def resident_pages(self) -> NDArray[np.int64]:
        """Pages of the process in memory; -1 where that was not asked."""
        return self._scalars["resident_pages"]

    @property
    def qualities(self) -> list[Quality]:
        """How far the regions can be relied on."""
        with explained(self.path):
            return [QUALITIES[code] for code in self._scalars["quality"].tolist()]

    @property
    def page_size(self) -> int:
        """Bytes of a page."""
        return self.info.page_size

    @property
    def started_ns(self) -> int:
        """When the first interval began, on the monotonic clock."""
        return self.info.started_ns

    # Samples

    def __len__(self) -> int:
        """Samples known; :meth:`refresh` finds more."""
        return len(self._scalars)

    def __getitem__(self, index: int) -> Sample:
        """One sample; negative indices count from the end. Raises DataCorrupt if this one is damaged."""
        number = range(len(self))[operator.index(index)]
        (sample,) = self._read(number, number + 1)
        if isinstance(sample, DataCorrupt):
            raise sample
        return sample

    def __iter__(self) -> Iterator[Sample]:
        """All samples in order; as :meth:`samples`."""
        return self.samples()

    def samples(self, first: int = 0, last: int | None = None, *, damaged: Damaged = "raise") -> Iterator[Sample]:
        """The samples from number ``first`` to before ``last`` (None: all there are now), in order.

        ``damaged="skip"`` leaves out those that cannot be read (their numbers are missing in what comes); otherwise the
        first one raises DataCorrupt.
        """
        _check_damaged(damaged)
        for low, high in self._batches(first, last):
            for sample in self._read(low, high):
                if not isinstance(sample, DataCorrupt):
                    yield sample
                elif damaged == "raise":
                    raise sample

    def records(self, first: int = 0, last: int | None = None, *, damaged: Damaged = "raise") -> RegionTable:
        """The regions of all these samples in one array: what the functions of ``pagescan.analysis`` work on.

        Takes 24 bytes of memory for each region. ``damaged="skip"`` gives the damaged samples no regions, and their
        errors in ``damaged``.
        """
        _check_damaged(damaged)
        parts: list[NDArray[np.void]] = [np.empty(0, REGION_DTYPE)]
        errors: list[DataCorrupt] = []
        for low, high in self._batches(first, last):
            for number, _, _, *blobs in self._rows(low, high):
                try:
                    parts.append(self._decode(number, tuple(blobs)))
                except DataCorrupt as error:
                    if damaged == "raise":
                        raise
                    errors.append(error)
                    parts.append(parts[0])
        offsets = np.cumsum([len(part) for part in parts], dtype=np.int64)
        return RegionTable(np.concatenate(parts), offsets, tuple(errors))

    def verify(self) -> list[DataCorrupt]:
        """Reads everything, and returns what is damaged: first the file as a whole, then sample by sample."""
        with self._snapshot() as connection:
            found = [text for (text,) in connection.execute("PRAGMA quick_check") if text != "ok"]
        whole = [DataCorrupt(f"the recording {self.path} is damaged: {text}") for text in found]
        return whole + list(self.records(damaged="skip").damaged)

    def follow(
        self, first: int = 0, *, timeout: float | None = None, wait: Callable[[float], object] | None = None
    ) -> Iterator[Sample]:
        """The samples from number ``first`` on, and then each new one as it comes, until the recording ends.

        Looks when the next sample is due (by the interval of the recording), not more often than the interval's eighth
        or 10 ms, whichever is longer; a sample that is late is looked for more and more rarely, up to once a second.
        Ends at the end record, when the writer is gone, or when nothing came for ``timeout`` seconds. Where nobody can
        tell whether the writer still runs (:attr:`growing` is None), it is given up after ten intervals, at least 10 s.

        Args:
            wait: called with seconds in place of ``time.sleep``, for programs with an event loop.
        """
        return follow(self, first, timeout, wait)

    def _batches(self, first: int, last: int | None) -> Iterator[tuple[int, int]]:
        low, high, _ = slice(first, last).indices(len(self))
        return ((at, min(at + _BATCH, high)) for at in range(low, high, _BATCH))

    def _rows(self, low: int, high: int) -> list[tuple[Any, ...]]:
        """The rows of the samples, read at once: an open cursor would keep the writer's WAL from shrinking."""
        with self._snapshot() as connection:
            rows = connection.execute(_SELECT_BLOBS, (low, high)).fetchall()
        if len(rows) != high - low:
            raise DataCorrupt(f"the recording {self.path} is damaged: samples are missing between {low} and {high}")
        return rows

    def _read(self, low: int, high: int) -> Iterator[Sample | DataCorrupt]:
        for number, unknown, reason, *blobs in self._rows(low, high):
            try:
                records = self._decode(number, tuple(blobs))
            except DataCorrupt as error:
                yield error
                continue
            regions = Regions.trusted(records, page_size=self.page_size, unknown=unknown)
            yield self._sample(number, reason.decode(errors="replace"), regions)

    def _sample(self, number: int, reason: str, regions: Regions) -> Sample:
        time, wall, duration, pause, quality, resident, _, _ = self._scalars[number].item()
        with explained(self.path):
            return Sample(
                number=number,
                time_ns=time,
                wall_ns=wall,
                duration_ns=duration,
                pause_ns=pause,
                quality=QUALITIES[quality],
                reason=reason,
                resident_pages=None if resident < 0 else resident,
                regions=regions,
                mappings=self.mappings_at(number),
            )

    def _decode(self, number: int, blobs: tuple[Any, ...]) -> NDArray[np.void]:
        records = decode_records(blobs, number, page_size=self.page_size)
        if len(records) != self._scalars["regions"][number]:
            raise corrupt(number, "regions", f"the blobs hold {len(records)} regions")
        pages = int((records["end"] - records["start"]).sum()) // self.page_size
        if pages != self._scalars["pages"][number]:
            raise corrupt(number, "pages", f"the blobs hold {pages} pages")
        return records

    # Mappings

    @property
    def mappings(self) -> list[MappingSpan]:
        """Every mapping there ever was, with the samples that have it, in the order of appearance."""
        return list(self._spans)

    def mappings_at(self, number: int) -> tuple[Mapping, ...]:
        """The mappings at a sample, by address; negative numbers count from the end."""
        number = range(len(self))[operator.index(number)]
        if self._lives is None:
            self._lives = Lives(self._spans)
        return self._lives.at(number)

    # The connection

    @contextlib.contextmanager
    def _snapshot(self) -> Iterator[sqlite3.Connection]:
        """One read transaction, kept short; SQLite's errors come out as DataCorrupt."""
        if self._connection is None:
            raise Closed(f"the recording {self.path} has been closed")
        with explained(self.path):
            self._connection.execute("BEGIN")
            try:
                yield self._connection
            finally:
                if self._connection.in_transaction:
                    self._connection.execute("COMMIT")

    def close(self) -> None:
        """Closes the file; arrays and samples that were read stay. Once closed, does nothing."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        end = self._ending.reason if self._ending else "no end record"
        return f"<Recording {self.path}: {format_count(len(self), 'sample')}, {end}>"


def _check_damaged(damaged: str) -> None:
    if damaged not in ("raise", "skip"):
        raise InvalidArgument(f"damaged = {damaged!r}", hint='use "raise" or "skip"')
