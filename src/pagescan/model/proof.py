"""The proof that written pages can be tracked on a machine of the model: the same round trip as on Linux."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from ..abi import (
    PM_SCAN_CHECK_WPASYNC,
    PM_SCAN_WP_MATCHING,
    REGION_DTYPE,
    TRACKING_FEATURES,
    TrackingProof,
    pack_scan_argument,
)
from ..query import Category

if TYPE_CHECKING:
    from .behaviour import Behaviour
    from .machine import Machine
    from .process import Process

_WRITTEN = int(Category.WRITTEN)


def prove_tracking(machine: Machine) -> TrackingProof:
    """The proof for machines like this one: made once, on a machine of its own, and remembered."""
    return _prove(machine.page_size, machine.bugs, machine.behaviour)


@lru_cache(maxsize=64)
def _prove(page_size: int, bugs: frozenset[str], behaviour: Behaviour) -> TrackingProof:
    """Protect pages of a process, write to one, look."""
    from .machine import Machine

    machine = Machine(page_size, bugs, behaviour)
    process = machine.process()
    size, big = machine.page_size, process.mm.pmd_size
    try:
        at = process.mmap(4 * size)
        untouched = process.mmap(2 * big)
        uffd = process.open_userfaultfd(TRACKING_FEATURES)
        uffd.register(at, 4 * size)
        uffd.register(untouched, 2 * big)
        _written(process, at, at + 4 * size, protect=True)
        process.write(at + 2 * size, b"x")
        found = _written(process, at, at + 4 * size, protect=False)
        if found != [(at + 2 * size, at + 3 * size)]:
            return TrackingProof(False, f"wrote to one page of 4, and the model reports {found}")
        dropped = _written(process, untouched, untouched + 2 * big, protect=False)
        return TrackingProof(
            True, "protected 4 pages of the model and wrote to one: exactly that page was reported", None, bool(dropped)
        )
    except OSError as error:
        return TrackingProof(False, f"this model has no asynchronous write protection ({error})")
    finally:
        process.exit()


def _written(process: Process, start: int, end: int, *, protect: bool) -> list[tuple[int, int]]:
    """The regions that are WRITTEN; all of [start, end) is protected if asked."""
    vec = np.zeros(16, REGION_DTYPE)
    argument = pack_scan_argument(
        flags=PM_SCAN_CHECK_WPASYNC | (PM_SCAN_WP_MATCHING if protect else 0),
        start=start,
        end=end,
        vec=vec.ctypes.data,
        vec_len=len(vec),
        category_mask=0 if protect else _WRITTEN,
        return_mask=_WRITTEN,
    )
    count = process.pagemap.ioctl_scan(argument, vec)
    return [(int(region["start"]), int(region["end"])) for region in vec[:count]]
