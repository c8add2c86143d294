"""The scripted workload of ``record --model`` and ``top --model``: a process of the model that writes here and there.

It runs in its own time: each look of the recorder lets one interval pass, and nobody waits for it.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Self

from ..model import Machine
from ..recording.watch import Happened

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ..model import Process

#: Intervals it runs for, and then exits.
LENGTH = 40
_KIB = 1 << 10


class Workload:
    """A process of the model, and what it does in each interval.

    A heap with a few hot pages, a large array that is swept, a file that is written to here and there, and a buffer
    that comes and goes.

    Attributes:
        process: the process; exited after LENGTH intervals.
    """

    def __init__(self) -> None:
        self.process: Process = Machine().process()
        self._heap = self.process.mmap(1024 * _KIB, name="[heap]")
        self._array = self.process.mmap(4096 * _KIB)
        data = self.process.machine.file(2048 * _KIB, name="/srv/data")
        self._file = self.process.mmap(2048 * _KIB, "file", file=data, shared=True)
        self._buffer = 0
        self._done = 0
        self._write(self._heap, range(64))
        self._write(self._array, range(512))

    def tick(self) -> bool:
        """One interval. Whether the process still runs; in the last it exits."""
        number, self._done = self._done, self._done + 1
        if number >= LENGTH:
            self.process.exit()
            return False
        self._write(self._heap, range(4))
        self._write(self._array, range(number * 64 % 1024, number * 64 % 1024 + 64))
        self._write(self._file, (n * 97 % 512 for n in range(number * 5, number * 5 + 5)))
        if number == LENGTH // 4:
            self._buffer = self.process.mmap(512 * _KIB)
        if self._buffer:
            self._write(self._buffer, range(128))
        if number == LENGTH // 2:
            self.process.munmap(self._buffer, 512 * _KIB)
            self._buffer = 0
        if number == LENGTH * 3 // 4:
            self.process.madvise(self._array, 2048 * _KIB, "dontneed")
        return True

    def _write(self, base: int, pages: Iterable[int]) -> None:
        size = self.process.page_size
        for page in pages:
            self.process.write(base + page * size, b"w")


class WorkloadWatch:
    """The clock of a recording of the workload: waiting lets an interval pass at once."""

    def __init__(self, workload: Workload):
        self._workload = workload
        self._now = time.monotonic_ns()
        self._stopped = False

    def clock(self) -> int:
        """Nanoseconds of the workload's own time."""
        return self._now

    def wait(self, until_ns: int | None) -> Happened:
        """As :meth:`pagescan.recording.watch.Watch.wait`."""
        if self._stopped:
            return Happened.STOPPED
        self._now = max(self._now, until_ns or 0)
        return Happened.DUE if self._workload.tick() else Happened.EXITED

    def stop(self) -> None:
        """End the wait under way, and all later ones."""
        self._stopped = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
