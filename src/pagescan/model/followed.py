"""What a tracker that follows a process through its life asks of it (:class:`pagescan.abi.FollowedSpace`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from ..errors import NoSuchProcess
from .pages import PRESENT, ZERO

if TYPE_CHECKING:
    from .mm import Mm
    from .process import Process


class Facts:
    """What a recording says of a process of the model."""

    #: There is no architecture.
    machine = "model"

    def __init__(self, process: Process):
        self._process = process
        self.kernel = process.machine.behaviour.name
        self.start_time = process.pid

    def command_line(self) -> tuple[str, ...]:
        return (self._process.label,)

    def has_memory(self) -> bool:
        return self._process.mm.alive

    def resident_pages(self) -> int | None:
        tables = self._process.mm.tables
        entries = tables.entries[tables.tables(0, 1 << 62)[1]]
        resident = int(((entries & PRESENT != 0) & (entries & ZERO == 0)).sum())
        return resident if self._process.mm.alive else None


class Followed:
    """The part of a process that such a tracker calls. Nothing was opened for it, so there is nothing to close."""

    pid: int
    mm: Mm
    runs_by_itself = False
    pause_ns = 0

    @property
    def facts(self) -> Facts:
        """What a recording says of the process."""
        return Facts(self)  # type: ignore[arg-type]  # every Followed is a Process

    @property
    def proven_on(self) -> Process:
        """The process itself: the round trip is made on a machine like its own."""
        return self  # type: ignore[return-value]  # every Followed is a Process

    def is_alive(self) -> bool:
        """Whether the process has not exited."""
        return self.mm.alive

    def holds(self) -> bool:
        """The same: the model has no exec."""
        return self.mm.alive

    def again(self) -> NoReturn:
        """Raises NoSuchProcess: its memory is gone only because it has exited."""
        raise NoSuchProcess(f"model process {self.pid} has exited", pid=self.pid)

    def close(self) -> None:
        """Nothing: it goes on."""
