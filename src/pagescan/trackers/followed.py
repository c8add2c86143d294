"""Which engine follows another process, and what the engines of buffers need for that.

``pagemap-scan`` and ``pagemap-read`` need a userfaultfd of the process: from a stop of a fraction of a millisecond, or
from its own hands. Where that is refused (a seccomp filter, a debugger that traces it, a 32-bit program), ``compare``
needs nothing but the right to read the memory: nobody is stopped, and nothing is done to the process.

``soft-dirty`` is not among them: reading and resetting the bits are two steps, and a running process takes page faults
all the time, after which everything would count as written.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from ..abi import MemoryKind
from ..errors import KernelCannot, NoSuchProcess, NotWriteProtectable, PagescanError
from ..ranges import Regions
from .base import Engine, Extent
from .choose import candidates, first_that_works, prove_engine
from .compare import CompareEngine
from .pagemap_read import PagemapReadEngine
from .process_engine import ProcessEngine

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ..abi import FollowedSpace


class FollowingEngine(Engine, Protocol):
    """An engine on another process, whose mappings somebody else keeps up with."""

    #: (end, start) of neighbours between which there is nothing that anybody may have registered.
    bridges: frozenset[tuple[int, int]]

    def refuses(self, start: int, end: int) -> bool:
        """Whether a range that nobody could cover still is such: other memory may lie there by now."""


class FollowingRead(PagemapReadEngine):
    """``pagemap-read`` on another process."""

    bridges: frozenset[tuple[int, int]] = frozenset()

    def _has_gap(self, extent: Extent) -> bool:
        return False  # whoever follows the maps finds it


class FollowingCompare(CompareEngine):
    """``compare`` on another process, without stopping it."""

    bridges: frozenset[tuple[int, int]] = frozenset()

    def __init__(self, space: FollowedSpace):
        if not space.holds():
            raise NoSuchProcess(f"{space.label} has exited", pid=space.pid)
        super().__init__(space)
        try:
            self._try_reading()
        except BaseException:
            self.close()
            raise

    def _try_reading(self) -> None:
        """A page of the process. Raises AccessDenied, NoSuchProcess."""
        mapping = next((m for m in self._space.mappings() if m.perms.startswith("rw") and not m.shared), None)
        if mapping is not None:
            size = self._space.page_size
            self._space.read(Regions.span(mapping.start, mapping.start + size, page_size=size))

    def cover(self, extents: Sequence[Extent]) -> None:
        super().cover(extents)
        size = self._space.page_size
        for extent in extents:
            try:
                if not extent.anonymous:
                    self._space.read(Regions.span(extent.start, extent.start + size, page_size=size))
            except NoSuchProcess:
                raise
            except (PagescanError, OSError) as error:
                self.uncover(Regions.span(extent.start, extent.end, page_size=size))
                said = error.message if isinstance(error, PagescanError) else str(error)
                raise NotWriteProtectable(f"it cannot be read: {said}") from None

    def refuses(self, start: int, end: int) -> bool:
        return False

    def _has_gap(self, extent: Extent) -> bool:
        return False


_MAKERS: dict[str, Callable[[FollowedSpace], FollowingEngine]] = {
    "model": lambda space: ProcessEngine(space, "model"),
    "pagemap-scan": ProcessEngine,
    "pagemap-read": FollowingRead,
    "compare": FollowingCompare,
}


def open_engine(space: FollowedSpace, name: str = "auto") -> tuple[FollowingEngine, str]:
    """The first engine that proves itself here and that this process lets us have; and why it is this one.

    Raises NoSuchProcess; InvalidArgument for an engine that cannot follow a process; the first engine's AccessDenied or
    KernelCannot if none can be had.
    """
    names, forced = candidates(space, name)
    here = space.proven_on
    kind = MemoryKind(anonymous=True, shared=False, page_size=space.page_size)
    opened: list[FollowingEngine] = []

    def attempt(one: str) -> str:
        try:
            why = prove_engine(here, one, kind)
        except KernelCannot as error:
            raise KernelCannot(f"{space.label} cannot be tracked: {error.message}", hint=error.hint) from None
        opened.append(_MAKERS[one](space))
        return why

    _, why = first_that_works(names, forced, attempt)
    return opened[0], why
