"""The proof that written pages can be tracked here: a round trip, since that a flag is accepted proves nothing.

It takes well under a millisecond and runs before the first tracker. All it maps and opens is given back.
"""

from __future__ import annotations

import os

from ..abi import TrackingProof
from ..errors import KernelCannot, PagescanError
from .trial import Pages, Trial

_WRITTEN_PAGE = 2
_proofs: dict[int, TrackingProof] = {}


def prove_tracking() -> TrackingProof:
    """Whether asynchronous write protection works on this machine, for this process.

    A success is remembered for the life of the process; a forked child, which may give up privileges, proves it anew.
    A failure is tried again when asked again: a permission may have been granted since.
    """
    pid = os.getpid()
    if pid not in _proofs:
        try:
            proof = try_tracking()
        except PagescanError as error:
            return TrackingProof(works=False, why=error.message, hint=error.hint)
        except OSError as error:
            return TrackingProof(works=False, why=f"the round trip failed: {error}")
        _proofs.clear()
        _proofs[pid] = proof
    return _proofs[pid]


def try_tracking() -> TrackingProof:
    """The round trip itself. Raises AccessDenied, KernelCannot; OSError for what has no explanation."""
    with Trial() as trial:
        _ = trial.pagemap.known  # KernelCannot without PAGEMAP_SCAN
        pages = trial.pages(4)
        trial.register(pages)
        trial.protect(pages)
        _expect(trial, pages, [], "protecting 4 fresh pages")
        pages.write(_WRITTEN_PAGE)
        _expect(trial, pages, [_WRITTEN_PAGE], "writing to page 2 of 4 protected ones")
        _expect(trial, pages, [_WRITTEN_PAGE], "the same, asked with get and protect", protect=True)
        _expect(trial, pages, [], "getting and protecting them again")
        return TrackingProof(
            works=True,
            why="protected 4 fresh pages and wrote to one: exactly that page was reported, once",
            reports_dropped=reports_dropped(trial),
        )


def _expect(trial: Trial, pages: Pages, expected: list[int], after: str, *, protect: bool = False) -> None:
    found = trial.written(pages, protect=protect)
    if found != expected:
        raise KernelCannot(
            f"after {after}, PAGEMAP_SCAN reports pages {found} as written instead of {expected}",
            hint="do not track on this kernel: its answers are wrong; report it to its maker",
        )


def reports_dropped(trial: Trial) -> bool:
    """Whether registered memory that has no page table at all (untouched, or dropped) is reported as written.

    "fs/proc/task_mmu: written state for PMD holes", K. Shutsemau, July 2026 (7.2; in 6.12.103 and 6.18.44).
    """
    area = trial.area()
    trial.register(area)
    return trial.written(area.part(0, 1)) == [0]
