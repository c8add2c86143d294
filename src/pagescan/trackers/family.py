"""The descendants of a tracked process, each tracked by itself: their memory is their own, at the same addresses."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import NoSuchProcess, PagescanError
from .written import Quality

if TYPE_CHECKING:
    from collections.abc import Callable

    from .process_tracker import ProcessTracker
    from .written import Written


class Family:
    """Those that are followed. Children are looked for at each look, so one that lives shorter than that is not seen.

    Attributes:
        trackers: by pid.
        refused: the pids of live ones that cannot be tracked, with the reason.
    """

    def __init__(self, pid: int, follow: Callable[[int], ProcessTracker]):
        self._pid = pid
        self._follow = follow
        self.trackers: dict[int, ProcessTracker] = {}
        self.refused: dict[int, str] = {}

    def look(self) -> None:
        """Follow those that are new."""
        from ..process.descendants import find_descendants

        alive = {child for pid in (self._pid, *self.trackers) for child in find_descendants(pid)}
        self.refused = {pid: why for pid, why in self.refused.items() if pid in alive}
        for pid in sorted(alive - self.trackers.keys() - self.refused.keys()):
            try:
                tracker = self._follow(pid)
            except NoSuchProcess:
                continue
            except (PagescanError, OSError) as error:
                self.refused[pid] = error.message if isinstance(error, PagescanError) else str(error)
                continue
            if tracker.pages:
                self.trackers[pid] = tracker
            else:
                tracker.detach()  # between vfork() and exec it has its parent's memory; to be asked again

    def take(self) -> dict[int, Written]:
        """What each has written to; the last answer of those that have exited, who are followed no longer."""
        answers: dict[int, Written] = {}
        for pid, tracker in list(self.trackers.items()):
            try:
                answers[pid] = tracker.take()
            except NoSuchProcess:
                pass
            else:
                if answers[pid].quality is not Quality.LOST:
                    continue
            tracker.detach()
            del self.trackers[pid]
        return answers

    def close(self) -> None:
        """Let go of all of them."""
        while self.trackers:
            self.trackers.popitem()[1].detach()
