"""Looks with known answers, and a source that hands them out."""

from __future__ import annotations

from collections.abc import Sequence

from pagescan.abi import Mapping
from pagescan.errors import PagescanError
from pagescan.ranges import Regions
from pagescan.units import SECOND
from pagescan.views.source import Ended, Seen
from pagescan.views.state import Look

PAGE = 4096


def mapping(start: int, pages: int, name: str = "", perms: str = "rw-p") -> Mapping:
    """A mapping of so many pages at page number ``start``."""
    return Mapping(start * PAGE, (start + pages) * PAGE, perms, name=name)


def pages(*runs: tuple[int, int]) -> Regions:
    """Regions from (first page number, how many)."""
    return Regions.from_pairs((first * PAGE, (first + count) * PAGE) for first, count in runs)


def look(second: float, mappings: Sequence[Mapping], *runs: tuple[int, int], untracked=None) -> Look:
    return Look(round(second * SECOND), pages(*runs), mappings, untracked or {})


class Script:
    """A source that shows what it was given, one look after another, and in the end the end."""

    def __init__(self, first: Look, *steps: Look | Ended | PagescanError, recorded: int | None = None):
        self.pid, self.command = 4321, "python train.py"
        self._first = first
        self._steps = list(steps)
        self._recorded = recorded
        self.looked = 0

    @property
    def recorded(self) -> int | None:
        return None if self._recorded is None else self._recorded + self.looked

    def start(self) -> Look:
        return self._first

    def look(self) -> Seen | Ended:
        self.looked += 1
        step = self._steps.pop(0) if len(self._steps) > 1 else self._steps[0]
        if isinstance(step, PagescanError):
            raise step
        return step if isinstance(step, Ended) else Seen(step, duration_ns=1_500_000, pause_ns=210_000)
