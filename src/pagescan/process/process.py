"""Another process, looked at from outside."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import KernelCannot, NoSuchProcess

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from ..abi import Mapping, Pagemap
    from ..kernel.space import LinuxSpace
    from ..ranges import Regions


class Process:
    """A live process, known by its pid and start time, so that a recycled pid is never taken for it.

    Attributes:
        pid: its process id.
        start_time: when it started, in clock ticks after boot (field 22 of ``/proc/PID/stat``).
        space: its address space.

    Raises NoSuchProcess if there is none of that pid.
    """

    space: LinuxSpace

    def __init__(self, pid: int):
        try:
            from ..kernel.space import LinuxSpace
        except ImportError as error:
            raise KernelCannot(f"processes can be looked at on Linux only ({error})") from None
        self.space = LinuxSpace(pid)
        self.pid = self.space.pid
        self.start_time = self.space.start_time

    def alive(self) -> bool:
        """Whether this very process (not another of the same pid) still runs."""
        return self.space.is_alive()

    def mappings(self) -> Sequence[Mapping]:
        """Its mappings, by address."""
        self._check()
        return self.space.mappings()

    def open_pagemap(self) -> Pagemap:
        """Its pagemap; close it when done."""
        self._check()
        return self.space.open_pagemap()

    def read(self, regions: Regions) -> NDArray[np.uint8]:
        """The bytes of the regions, one after another."""
        self._check()
        return self.space.read(regions)

    def _check(self) -> None:
        if not self.alive():
            raise NoSuchProcess(f"process {self.pid} has exited", pid=self.pid)

    def __repr__(self) -> str:
        return f"<Process {self.pid}>"
