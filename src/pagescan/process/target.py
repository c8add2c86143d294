"""From what a caller names ("self", a pid, a Process, a buffer) to a range of an address space."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..abi import LocatedBuffer
from ..errors import InvalidArgument
from ..ranges import locate
from .current import current_pagemap, current_space, is_current
from .process import Process

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..abi import AddressSpace, Pagemap


@dataclass(frozen=True, slots=True)
class Target:
    """A page-aligned range [start, end) of the address space that ``pagemap`` was opened for."""

    pagemap: Pagemap
    start: int
    end: int


@contextlib.contextmanager
def resolve(target: Any, start: int | None = None, end: int | None = None) -> Iterator[Target]:
    """The range that ``target`` names, cut to [start, end) if given. Descriptors opened for it close with the block."""
    space, low, high = _space_of(target)
    if low is None or high is None:
        low, high = _user_span(space)
    size = space.page_size
    low = low if start is None else max(low, _address(start, "start") // size * size)
    high = high if end is None else min(high, -(-_address(end, "end") // size) * size)
    if start is not None and end is not None and end < start:
        raise InvalidArgument(f"the range {start:#x}-{end:#x} ends before it starts")
    with _pagemap_of(space) as pagemap:
        yield Target(pagemap, low, max(low, high))


def _space_of(target: Any) -> tuple[AddressSpace, int | None, int | None]:
    """The address space, and the pages of it that a buffer covers (None, None for a whole process)."""
    if isinstance(target, str):
        if target != "self":
            raise InvalidArgument(f"target = {target!r}", hint='use "self", a pid, a Process or a buffer')
        return current_space(), None, None
    if isinstance(target, int):
        return (current_space() if target == os.getpid() else Process(target).space), None, None
    if isinstance(target, Process):
        return target.space, None, None
    if hasattr(target, "open_pagemap") and hasattr(target, "mappings"):
        return target, None, None
    location = locate(target)
    space = target.space if isinstance(target, LocatedBuffer) else current_space()
    size = space.page_size
    if not location.nbytes:
        return space, location.address // size * size, location.address // size * size
    return space, location.address // size * size, -(-(location.address + location.nbytes) // size) * size


def _user_span(space: AddressSpace) -> tuple[int, int]:
    """From the first mapping to the last; the kernel's own [vsyscall] page lies outside what can be scanned."""
    mappings = [m for m in space.mappings() if m.name != "[vsyscall]"]
    return (mappings[0].start, mappings[-1].end) if mappings else (0, 0)


@contextlib.contextmanager
def _pagemap_of(space: AddressSpace) -> Iterator[Pagemap]:
    if is_current(space):
        yield current_pagemap()
        return
    pagemap = space.open_pagemap()
    try:
        yield pagemap
    finally:
        pagemap.close()


def _address(value: object, name: str) -> int:
    if not isinstance(value, int) or not 0 <= value < 1 << 64:
        raise InvalidArgument(f"{name} = {value!r} is no address", hint="addresses are integers in bytes")
    return value
