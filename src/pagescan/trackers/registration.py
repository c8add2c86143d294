"""From pages to extents, and registering them with a userfaultfd: what every engine on userfaultfd does alike."""

from __future__ import annotations

import bisect
import contextlib
import errno
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ..errors import (
    CoverageLost,
    DroppableMemory,
    InvalidArgument,
    KernelCannot,
    NoSuchProcess,
    NotWriteProtectable,
    PagescanError,
    RegisteredElsewhere,
)
from ..ranges import Regions
from ..records import runs
from .base import Extent
from .extents import BRIDGED_PAGES, TOGETHER

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from ..abi import AddressSpace, Mapping, Userfaultfd

#: Asking for one mapping takes some 25 microseconds, reading all of a small process some 500.
_ASKED_ONE_BY_ONE = 16
#: Bytes of holes that are protected without asking: 512 KiB of page tables.
HOLES_LIMIT = 256 << 20
#: Bytes of holes in shared memory or files beyond which covering is refused: 64 MiB of page tables.
SHARED_HOLES_LIMIT = 32 << 30


def plan_extents(space: AddressSpace, pages: Regions) -> tuple[list[Extent], list[Mapping]]:
    """The pages as extents, one for each mapping they lie in (and that mapping beside it), whole huge pages each.

    Raises InvalidArgument naming the first address that is not mapped.
    """
    extents: list[Extent] = []
    found: list[Mapping] = []
    mapping_at = _finder(space, len(pages))
    for wanted in pages:
        position = wanted.start
        while position < wanted.end:
            mapping = mapping_at(position)
            if mapping is None:
                raise InvalidArgument(
                    f"{position:#x} in {space.label} is not mapped, so {wanted.start:#x}-{wanted.end:#x} cannot be "
                    "tracked",
                    hint="the buffer was freed or unmapped; track memory that is alive",
                )
            extents.append(_extent(mapping, position, min(mapping.end, wanted.end)))
            found.append(mapping)
            position = mapping.end
    return extents, found


def _finder(space: AddressSpace, questions: int) -> Callable[[int], Mapping | None]:
    """Which mapping holds an address: a few are asked for one by one, for many all are read at once."""
    if questions <= _ASKED_ONE_BY_ONE:
        return space.mapping_at
    mappings = space.mappings()
    starts = [mapping.start for mapping in mappings]

    def find(address: int) -> Mapping | None:
        at = bisect.bisect_right(starts, address) - 1
        return mappings[at] if at >= 0 and address < mappings[at].end else None

    return find


def _extent(mapping: Mapping, start: int, end: int) -> Extent:
    size, base = mapping.page_size, mapping.start
    low, high = base + (start - base) // size * size, base + -(-(end - base) // size) * size
    return Extent(low, high, size, private=not mapping.shared, anonymous=mapping.private_anonymous)


def plan_with_holes(space: AddressSpace, pages: Regions, holes: Callable[[Extent], int]) -> list[Extent]:
    """The extents, those sparse that have too many holes to protect; ``holes`` counts their bytes in one extent.

    Raises as :func:`plan_extents`, and InvalidArgument where shared memory has too many.
    """
    extents, mappings = plan_extents(space, pages)
    if sum(extent.size for extent in extents) <= HOLES_LIMIT:
        return extents
    small = space.page_size
    may_be = (extent.page_size == small and extent.size > HOLES_LIMIT for extent in extents)
    counts = (holes(extent) if ask else 0 for extent, ask in zip(extents, may_be, strict=True))
    return [_maybe_sparse(*both) for both in zip(extents, mappings, counts, strict=True)]


def _maybe_sparse(extent: Extent, mapping: Mapping, holes: int) -> Extent:
    if holes <= HOLES_LIMIT:
        return extent
    if extent.anonymous:
        return replace(extent, sparse=True)
    if holes > SHARED_HOLES_LIMIT:
        raise InvalidArgument(
            f"{mapping} has {holes:,} bytes that were never touched; protecting them would take "
            f"{holes >> 9:,} bytes of page tables",
            hint="track the part that is in use (a slice of the buffer)",
        )
    return extent


def register(space: AddressSpace, uffd: Userfaultfd, extents: Sequence[Extent], mode: int) -> None:
    """``UFFDIO_REGISTER`` each; raises a typed error naming the first mapping that cannot be."""
    for extent in extents:
        try:
            uffd.register(extent.start, extent.size, mode)
        except OSError as error:
            raise _explained(space, error, extent) from None


class Registrations:
    """What is registered with one userfaultfd: the extents that are covered, and the short gaps between them.

    A gap within one mapping is registered along, as the mapping then is not split: two more mappings for each buffer
    would soon be all that a process may have, and each costs every look. Gaps are not protected, so a write there
    costs nothing, and no answer names them.
    """

    def __init__(self, space: AddressSpace, uffd: Userfaultfd, mode: int):
        self._space, self._uffd, self._mode = space, uffd, mode
        self._covered = self.regions = Regions.empty(page_size=space.page_size)

    def cover(self, extents: Sequence[Extent]) -> None:
        """Register these; raises a typed error naming the first mapping that cannot be."""
        pages = Regions.from_pairs(((e.start, e.end) for e in extents), page_size=self._space.page_size)
        self._covered |= pages
        spans = self._bridged(pages) if len(pages) >= TOGETHER else pages
        if len(spans) < len(pages):
            try:
                for span in spans:
                    self._uffd.register(span.start, span.size, self._mode)
            except OSError:
                spans = pages  # a gap belongs to somebody else
            else:
                self.regions |= spans
                return
        self.regions |= pages
        register(self._space, self._uffd, extents, self._mode)

    def refuses(self, start: int, end: int) -> bool:
        """Whether this range, which nobody could register, still is such: other memory may lie there by now."""
        try:
            self._uffd.register(start, end - start, self._mode)
        except OSError as error:
            return error.errno != errno.EBUSY
        return False

    def uncover(self, pages: Regions) -> None:
        """Unregister these, and the gaps that no longer lie between two that are covered."""
        self._covered -= pages
        kept = _joined(self._covered, _near(self._covered) & _same_range(self._covered, self.regions))
        gone, self.regions = self.regions - kept, kept
        unregister(self._space, self._uffd, gone)

    def _bridged(self, pages: Regions) -> Regions:
        """The pages and those short gaps between them that lie in one mapping."""
        near = _near(pages)
        mapping_at = _finder(self._space, int(near.sum()))
        for gap in np.flatnonzero(near).tolist():
            mapping = mapping_at(int(pages.ends[gap]))
            near[gap] = mapping is not None and mapping.end > pages.starts[gap + 1]
        return _joined(pages, near)


def _near(pages: Regions) -> NDArray[np.bool_]:
    """For each region but the last: whether the next begins within a short gap."""
    return pages.starts[1:] - pages.ends[:-1] <= BRIDGED_PAGES * pages.page_size


def _same_range(pages: Regions, ranges: Regions) -> NDArray[np.bool_]:
    """For each region but the last: whether the next begins in the same one of the ranges."""
    place = np.searchsorted(ranges.starts, pages.starts, "right")
    same: NDArray[np.bool_] = place[1:] == place[:-1]
    return same


def _joined(pages: Regions, joined: NDArray[np.bool_]) -> Regions:
    """The regions, those that are joined as one together with the gap between them."""
    first, last = runs(~joined, len(pages))
    records = pages.to_records()[first]
    records["end"] = pages.ends[last]
    return Regions.trusted(records, page_size=pages.page_size)


def protect_again(uffd: Userfaultfd, found: NDArray[np.void], page_size: int = 1) -> None:
    """``UFFDIO_WRITEPROTECT`` these records, rounded out to ``page_size``, each by itself: only what a look names.

    Raises CoverageLost for what is no longer registered, NoSuchProcess.
    """
    try:
        for start, end in zip(found["start"].tolist(), found["end"].tolist(), strict=True):
            low, high = start // page_size * page_size, -(-end // page_size) * page_size
            uffd.writeprotect(low, high - low)
    except FileNotFoundError:  # ENOENT
        raise CoverageLost("part of it was moved, unmapped or unregistered") from None
    except ProcessLookupError:  # ESRCH
        raise NoSuchProcess("the process exited during the look") from None


def unregister(space: AddressSpace, uffd: Userfaultfd, pages: Regions) -> None:
    """``UFFDIO_UNREGISTER`` what is still mapped of these pages; where that is refused, mapping by mapping."""
    refused = []
    for region in pages:
        try:
            uffd.unregister(region.start, region.size)
        except OSError:
            # One mapping that cannot be registered (what was here is gone), and the kernel does nothing at all.
            refused.append(region)
    mappings = space.mappings() if refused else ()
    for region in refused:
        for mapping in mappings:
            low, high = max(region.start, mapping.start), min(region.end, mapping.end)
            if low < high:
                # Replaced by memory that cannot be registered, or never was; there is nothing to undo.
                with contextlib.suppress(OSError):
                    uffd.unregister(low, high - low)


def _explained(space: AddressSpace, error: OSError, extent: Extent) -> PagescanError:
    mapping = space.mapping_at(extent.start)
    asked = f"the mapping {mapping or hex(extent.start)} in {space.label} cannot be registered for tracking"
    if error.errno == errno.EBUSY:
        return RegisteredElsewhere(
            f"{asked}: another userfaultfd owns it, and the kernel allows one only",
            hint="close the other tracker (of another kind, another library, a virtual machine monitor) first",
            errno=errno.EBUSY,
        )
    if error.errno == errno.EPERM:
        return NotWriteProtectable(
            f"{asked}: it shares a file that was opened read-only, so it can never be written to from here",
            hint="map the file for writing, or privately (ACCESS_COPY), or leave it out",
            errno=errno.EPERM,
        )
    if error.errno == errno.EINVAL and mapping and _is_droppable(space, mapping):
        return DroppableMemory(
            f"{asked}: it is droppable memory (MAP_DROPPABLE): the kernel may empty its pages at any moment, and lets "
            "nobody track them",
            hint="keep what must not be lost in ordinary memory, and track that",
            errno=errno.EINVAL,
        )
    if error.errno == errno.EINVAL:
        return NotWriteProtectable(
            f"{asked}: the kernel allows it for ordinary memory only (not [vdso], [vvar] or device memory)",
            hint="track buffers of your own, or the process's heap, stack and anonymous mappings",
            errno=errno.EINVAL,
        )
    if error.errno == errno.ENOMEM:
        return NoSuchProcess(f"{asked}: its address space is gone", errno=errno.ENOMEM)
    return KernelCannot(f"{asked}: {error.strerror}", errno=error.errno)


def _is_droppable(space: AddressSpace, mapping: Mapping) -> bool:
    with contextlib.suppress(PagescanError):  # where we may not know, the plain reason has to do
        return space.is_droppable(mapping)
    return False
