"""From pages to extents, and registering them with a userfaultfd: what every engine on userfaultfd does alike."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from ..errors import (
    InvalidArgument,
    KernelCannot,
    NoSuchProcess,
    NotWriteProtectable,
    PagescanError,
    RegisteredElsewhere,
)
from .base import Extent

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..abi import AddressSpace, Mapping, Userfaultfd
    from ..ranges import Regions


def plan_extents(space: AddressSpace, pages: Regions) -> tuple[list[Extent], list[Mapping]]:
    """The pages as extents, one for each mapping they lie in (and that mapping beside it), whole huge pages each.

    Raises InvalidArgument naming the first address that is not mapped.
    """
    extents: list[Extent] = []
    found: list[Mapping] = []
    mappings = space.mappings()
    for wanted in pages:
        position = wanted.start
        for mapping in mappings:
            if mapping.end <= position or mapping.start >= wanted.end:
                continue
            if mapping.start > position:
                break
            extents.append(_extent(mapping, position, min(mapping.end, wanted.end)))
            found.append(mapping)
            position = mapping.end
        if position < wanted.end:
            raise InvalidArgument(
                f"{position:#x} in {space.label} is not mapped, so {wanted.start:#x}-{wanted.end:#x} cannot be tracked",
                hint="the buffer was freed or unmapped; track memory that is alive",
            )
    return extents, found


def _extent(mapping: Mapping, start: int, end: int) -> Extent:
    size, base = mapping.page_size, mapping.start
    low, high = base + (start - base) // size * size, base + -(-(end - base) // size) * size
    return Extent(low, high, size, private=not mapping.shared)


def register(space: AddressSpace, uffd: Userfaultfd, extents: Sequence[Extent], mode: int) -> None:
    """``UFFDIO_REGISTER`` each; raises a typed error naming the first mapping that cannot be."""
    for extent in extents:
        try:
            uffd.register(extent.start, extent.size, mode)
        except OSError as error:
            raise _explained(space, error, extent) from None


def unregister(space: AddressSpace, uffd: Userfaultfd, pages: Regions) -> None:
    """``UFFDIO_UNREGISTER`` what is still mapped of these pages, mapping by mapping: a gap in a range is EINVAL."""
    mappings = space.mappings() if pages else ()
    for region in pages:
        for mapping in mappings:
            low, high = max(region.start, mapping.start), min(region.end, mapping.end)
            if low < high:
                try:
                    uffd.unregister(low, high - low)
                except OSError:
                    # Replaced by memory that cannot be registered, or never was; there is nothing to undo.
                    continue


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
    if error.errno == errno.EINVAL:
        return NotWriteProtectable(
            f"{asked}: the kernel allows it for ordinary memory only (not [vdso], [vvar] or device memory)",
            hint="track buffers of your own, or the process's heap, stack and anonymous mappings",
            errno=errno.EINVAL,
        )
    if error.errno == errno.ENOMEM:
        return NoSuchProcess(f"{asked}: its address space is gone", errno=errno.ENOMEM)
    return KernelCannot(f"{asked}: {error.strerror}", errno=error.errno)
