"""Writes a recording, sample by sample. Takes plain values: it knows no tracker, no process and no clock but for the
moment of the end."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

from ..errors import Closed, InvalidArgument, PagescanError
from ..trackers.written import Quality
from .blobs import encode_regions
from .create import create_file, open_for_writing, write_error
from .model import EndReason
from .schema import INSERT_MAPPING, QUALITIES, mapping_row

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Sequence
    from types import TracebackType

    from ..abi import Mapping
    from ..ranges import Regions
    from .model import RecordingInfo


class RecordingWriter:
    """A recording that grows. Context manager: ends as ``closed``, after an exception as ``interrupted`` or ``error``.

    Every sample is one transaction: the file can be read at any moment, and a writer that is killed leaves a valid one.
    One thread at a time may use it; a forked child may not at all.

    Args:
        path: the file to make; mode 0600.
        info: what is recorded.
        force: overwrite what has that name. A recording that is still being written is never overwritten.

    Raises:
        AlreadyExists: the name is taken, and ``force`` is not given.
        AccessDenied, InvalidArgument: the folder cannot be written to, or does not exist.
        PagescanError: no space is left.
    """

    def __init__(self, path: str | os.PathLike[str], info: RecordingInfo, *, force: bool = False):
        self.path = Path(path)
        self.info = info
        create_file(self.path, info, force=force)
        self._connection: sqlite3.Connection | None = open_for_writing(self.path)
        self._count = 0
        self._last_ns = info.started_ns
        #: The mappings that live now, with their ids in the file.
        self._alive: dict[Mapping, int] = {}
        #: What the three will be once the sample under way is committed.
        self._underway: tuple[int, int, dict[Mapping, int]] | None = None

    def __len__(self) -> int:
        """Samples written."""
        return self._count

    @property
    def closed(self) -> bool:
        return self._connection is None

    def append(
        self,
        regions: Regions,
        *,
        time_ns: int,
        wall_ns: int,
        duration_ns: int,
        pause_ns: int = 0,
        quality: Quality = Quality.EXACT,
        reason: str = "",
        resident_pages: int | None = None,
        mappings: Sequence[Mapping] | None = None,
    ) -> int:
        """Writes one sample, and returns its number.

        Args:
            regions: the pages written to since the sample before, in whole pages of ``info.page_size``.
            time_ns: when they were taken, on the monotonic clock; never before the last sample.
            wall_ns: the same moment since 1970 in UTC.
            duration_ns: how long the taking took.
            pause_ns: how long the process was held still for it.
            quality, reason: how far the regions can be relied on, and why they are not exact.
            resident_pages: pages of the process in memory, if known.
            mappings: all mappings of the process; None: as in the last sample.

        Raises InvalidArgument for values that cannot be, Closed, and PagescanError if the file cannot be written to;
        in each case the file is as before.
        """
        if time_ns < self._last_ns:
            raise InvalidArgument(f"time_ns = {time_ns} lies before the last sample, {self._last_ns}")
        if regions.page_size != self.info.page_size:
            raise InvalidArgument(f"the recording has pages of {self.info.page_size} bytes, not {regions.page_size}")
        self._settle()
        alive = self._alive if mappings is None else dict.fromkeys(mappings, 0)
        times = (int(time_ns), int(wall_ns), int(duration_ns), int(pause_ns))
        resident = None if resident_pages is None else int(resident_pages)
        counts = (len(regions), regions.page_count, int(regions.unknown))
        blobs = encode_regions(regions, self._count)
        row = (self._count, *times, QUALITIES.index(quality), reason, resident, *counts, *blobs)
        with self._transaction() as connection:
            self._write_mappings(connection, alive)
            connection.execute("INSERT INTO sample VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
            self._underway = (self._count + 1, int(time_ns), alive)
        self._settle(committed=True)
        return self._count - 1

    def _settle(self, *, committed: bool = False) -> None:
        """Makes the sample under way the last one. After a Ctrl-C just before or after its COMMIT the file tells."""
        if self._underway is None or self._connection is None:
            return
        if committed or self._connection.execute("SELECT count(*) FROM sample").fetchone()[0] == self._underway[0]:
            self._count, self._last_ns, self._alive = self._underway
        self._underway = None

    def _write_mappings(self, connection: sqlite3.Connection, now: dict[Mapping, int]) -> None:
        """Writes what appeared and what vanished, and puts their ids to all that live ``now``."""
        if now is self._alive:
            return
        gone = [(self._count, row) for mapping, row in self._alive.items() if mapping not in now]
        connection.executemany("UPDATE mapping SET vanished = ? WHERE id = ?", gone)
        for mapping in now:
            row = self._alive.get(mapping)
            if row is None:
                row = connection.execute(INSERT_MAPPING, mapping_row(mapping, self._count)).lastrowid
            now[mapping] = row or 0

    def close(self, reason: str = EndReason.CLOSED, detail: str = "") -> None:
        """Writes the end record and closes the file; once closed, does nothing.

        Raises PagescanError if the file cannot be written to; it is closed all the same, and valid.
        """
        if self._connection is None:
            return
        connection = self._connection
        try:
            with self._transaction():
                ending = (str(reason), detail, time.monotonic_ns(), time.time_ns())
                connection.execute("INSERT INTO ending VALUES (?, ?, ?, ?)", ending)
            # One plain file again. Refused while somebody reads: then the WAL stays, and that is a valid file too.
            with contextlib.suppress(sqlite3.OperationalError):
                connection.execute("PRAGMA busy_timeout = 0")
                connection.execute("PRAGMA journal_mode = DELETE").fetchone()
        finally:
            self._connection = None
            connection.close()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        connection = self._connection
        if connection is None:
            raise Closed(f"the recording {self.path} has been closed")
        try:
            connection.execute("BEGIN IMMEDIATE")
            yield connection
            connection.execute("COMMIT")
        except BaseException as error:
            # A Ctrl-C in the middle is no half sample either.
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            if isinstance(error, sqlite3.Error | OverflowError):
                raise write_error(self.path, error) from error
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        elif isinstance(error, KeyboardInterrupt):
            self.close(EndReason.INTERRUPTED)
        else:
            with contextlib.suppress(PagescanError):  # the error that is under way says more
                self.close(EndReason.ERROR, f"{type(error).__name__}: {error}")

    def __repr__(self) -> str:
        return f"<RecordingWriter {self.path}: {self._count} samples{', closed' if self.closed else ''}>"
