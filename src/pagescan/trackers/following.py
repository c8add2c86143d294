"""What the readers of one tracked process share: its maps are followed, and each look is told to all of them.

Each look begins with the difference between what the process has mapped now and what is covered. New mappings are
registered and reported with all they hold (whatever is in them was written since the last look); those that are gone
are forgotten; one that was replaced at the same address is no longer registered, and is treated as new. So nothing is
lost between two looks, whatever the process does to its address space.
"""

from __future__ import annotations

import bisect
import contextlib
import operator
import threading
import weakref
from dataclasses import replace
from typing import TYPE_CHECKING

from ..errors import Closed, DroppableMemory, NoSuchProcess, PagescanError
from ..query import Category
from ..ranges import Region, Regions
from .base import Findings, Hot
from .exempting import Exempting, check_hot, hot_reason
from .extents import Extents
from .followed import open_engine
from .hub import Reader
from .process_engine import find_bridges, process_extent
from .written import Quality, Written

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from ..abi import FollowedSpace, Mapping
    from .base import Extent
    from .changed import Changed

_FORKED = "it was forked since the last look, and all that it holds is named"
#: What is no state of the process is passed over without a word. Droppable memory is, too (:meth:`_cover_one`).
_NEVER = ("[vdso]", "[vvar]", "[vvar_vclock]", "[vsyscall]")
#: Looks that may each meet a mapping replaced since the one before; a process cannot do that for ever by chance.
_ROUNDS = 8


class Following:
    """What the readers of one process share: the engine, what is covered, and the lock."""

    def __init__(
        self,
        space: FollowedSpace,
        wanted: Callable[[Mapping], bool],
        engine: str = "auto",
        hot: Hot = "protect",
        *,
        arm: bool = True,
    ):
        check_hot(hot)
        self.space = space
        self._wanted = wanted
        self._lock = threading.RLock()
        #: Weakly: a reader lives as long as its cursor.
        self._readers: weakref.WeakSet[Reader] = weakref.WeakSet()
        self.pages = Regions.empty(page_size=space.page_size)
        self.extents: list[Extent] = []
        self._asked: tuple[Regions, Extents] = self.pages, Extents()
        self._exempting = Exempting(Extents(), space.page_size) if hot == "exempt" else None
        self.untracked: dict[tuple[int, int], tuple[Mapping, str]] = {}
        #: What was refused because it is droppable.
        self._droppable: dict[tuple[int, int], Mapping] = {}
        #: What was mapped at the last look; the space gives the same object again as long as that is unchanged.
        self._now: Sequence[Mapping] = ()
        #: Something was forgotten since.
        self._stale = False
        self.closed = False
        self._ended = False
        self.engine, self.why = open_engine(space, engine)
        try:
            held = self._cover(self._changes()[1], arm=arm)
        except BaseException:
            self.engine.close()
            raise
        #: What the first reader's next answer names beside all else, and to whom it is news.
        self._unknown = held
        self._unknown_to: Reader | None = None

    def new_reader(self) -> Reader:
        with self._lock:
            reader = Reader(Regions.span(0, (1 << 63), page_size=self.space.page_size), ())
            if self._readers:
                self._take(None)
            else:
                reader.told(self._unknown)
                self._unknown_to = reader if self._unknown else None
            self._readers.add(reader)
            return reader

    def give_back(self, reader: Reader, written: Written) -> None:
        with self._lock:
            reader.give_back(written, written.exempted)

    def catch_up(self) -> None:
        """Attach again if the process has executed another program."""
        with self._lock, contextlib.suppress(NoSuchProcess):
            self._check()
            if not self.space.holds():
                self._follow_exec()

    def changed(self, reader: Reader) -> Changed:
        with self._lock:
            self._check()
            self._take(None)  # so that all of it is pending, also of this reader
            return reader.changed()

    def _check(self) -> None:
        if self.closed:
            raise Closed(f"process {self.space.pid} is no longer tracked", hint="attach to it again")
        if self._ended:
            raise NoSuchProcess(f"process {self.space.pid} has exited", pid=self.space.pid)

    def forget(self, reader: Reader, regions: Regions) -> None:
        with self._lock:
            self._check()
            found = self.engine.take(Extents.of(self.extents).near(regions)).written
            for other in self._readers:
                if other is not reader:
                    other.told(found)
            reader.forget(found, regions)

    def look(self, reader: Reader, *, take: bool) -> Written:
        with self._lock:
            self._check()
            try:
                found, unsure = reader.found(self._take(reader)) if take else reader.due(self._peek())
            except NoSuchProcess as error:
                return self._last_answer(reader, error)
            written = found.with_categories(Category.WRITTEN)
            if take and self._exempting is not None:
                self._exempting.note(reader, written)
            exempted = written & unsure
            quality = self._quality(found, exempted)  # which its categories may tell
            if reader is self._unknown_to:
                quality = Quality.SUPERSET, _FORKED
                self._unknown_to = None if take else reader
            return Written.of(written, self.pages, *quality, exempted)

    def _quality(self, written: Regions, exempted: Regions) -> tuple[Quality, str]:
        caveat = self.engine.caveat(written, self.extents) if written else ""
        reasons = "; ".join(reason for reason in (caveat, hot_reason(exempted)) if reason)
        return (Quality.SUPERSET, reasons) if reasons else (Quality.EXACT, "")

    def _last_answer(self, reader: Reader, error: PagescanError) -> Written:
        # Without its memory it is exiting, also where it is not gone yet; after an exec the new memory was found.
        self._ended = not (self.space.is_alive() and self.space.holds())
        if not self._ended:
            raise error
        return Written.of(reader.pending, self.pages, Quality.LOST, "the process has exited; its memory is gone")

    def _covered(self) -> Extents:
        """The extents, as one value for as long as nothing changes."""
        if self._asked[0] is not self.pages:
            self._asked = self.pages, Extents(self.extents)
            if self._exempting is not None:
                self._exempting.follow(self._asked[1])
        return self._asked[1]

    def _peek(self) -> Findings:
        extents = self._covered()
        return self._exempting.peek(self.engine, extents) if self._exempting else self.engine.peek(extents)

    def _look(self, reader: Reader | None) -> Findings:
        extents = self._covered()
        if self._exempting is None:
            return self.engine.take(extents)
        return self._exempting.take(self.engine, extents, reader or self)

    def _take(self, reader: Reader | None) -> Findings:
        """Everything written since the last look of anybody; told to every reader but ``reader``."""
        found = unsure = Regions.empty(page_size=self.space.page_size)
        if not self.space.holds():
            self._follow_exec()
        try:
            for _ in range(_ROUNDS):
                gone, new = self._changes()
                self._forget(gone)
                findings = self._look(reader)
                found |= findings.written
                unsure |= findings.unsure or unsure
                for loss in findings.losses:
                    self._forget(Regions.span(loss.extent.start, loss.extent.end, page_size=self.space.page_size))
                found |= self._cover(new)
                if not findings.losses:
                    break
        except NoSuchProcess:
            # It has exited meanwhile; what was found belongs to everybody's last answer.
            for other in self._readers:
                other.told(found, unsure)
            raise
        for other in self._readers:
            if other is not reader:
                other.told(found, unsure)
        return Findings(found, unsure=unsure)

    def _follow_exec(self) -> None:
        """The process has executed another program, whose memory is all new; or has exited (NoSuchProcess)."""
        space = self.space.again()
        try:
            engine, _ = open_engine(space, self.engine.name)
        except BaseException:
            space.close()
            raise
        self.engine.close()
        self.space.close()
        self.engine, self.space = engine, space
        self.pages, self.extents = Regions.empty(page_size=space.page_size), []
        self._stale = True
        self.untracked.clear()
        self._droppable.clear()
        for reader in self._readers:
            reader.pending = reader.unsure = Regions.empty(page_size=space.page_size)
            reader.epoch += 1

    def _changes(self) -> tuple[Regions, Regions]:
        """What is covered and no longer mapped (or wanted), and what is mapped, wanted and not covered."""
        size = self.space.page_size
        now = self.space.mappings()
        self._try_droppable_again()
        if now is self._now and not self._stale:
            return Regions.empty(page_size=size), Regions.empty(page_size=size)
        self._now, self._stale = now, False
        self.untracked = {key: value for key, value in self.untracked.items() if _holds(now, value[0])}
        self._droppable = {key: mapping for key, mapping in self._droppable.items() if _holds(now, mapping)}
        wanted = ((m.start, m.end) for m in now if m.writable and m.name not in _NEVER and self._wanted(m))
        mapped = Regions.from_pairs(wanted, page_size=size)
        refused = Regions.from_pairs([*self.untracked, *self._droppable], page_size=size)
        self._bridge()
        return self.pages - mapped, mapped - self.pages - refused

    def _try_droppable_again(self) -> None:
        """Ordinary memory in its place may look the same in maps. Nobody was told of it, so it must not be missed."""
        taken = [key for key in self._droppable if not self.engine.refuses(*key)]
        for key in taken:
            del self._droppable[key]
        self._stale = self._stale or bool(taken)

    def _cover(self, pages: Regions, *, arm: bool = False) -> Regions:
        """Cover these pages, mapping by mapping; returns all that they hold, unless they are armed first."""
        covered = [extent for mapping, part in _parts(self._now, pages) if (extent := self._cover_one(mapping, part))]
        self.extents = sorted([*self.extents, *covered], key=lambda extent: extent.start)
        self.pages |= Regions.from_pairs(((e.start, e.end) for e in covered), page_size=self.space.page_size)
        if covered:
            self._bridge()
        if arm:
            self.engine.arm(covered, "scan")
            return Regions.empty(page_size=self.space.page_size)
        findings = self.engine.take(covered)
        for loss in findings.losses:  # unmapped again already
            self._forget(Regions.span(loss.extent.start, loss.extent.end, page_size=self.space.page_size))
        return findings.written

    def _bridge(self) -> None:
        self.engine.bridges = find_bridges(self.extents, self._now, set(self._droppable.values()))

    def _cover_one(self, mapping: Mapping, part: Region) -> Extent | None:
        """Register a part of a mapping; what cannot be is noted with the reason."""
        extent = process_extent(mapping, part.start, part.end, self.space.page_size)
        try:
            self.engine.cover([extent])
        except NoSuchProcess:
            raise
        except DroppableMemory:
            # The kernel may empty it at any moment, so nobody relies on it (nearly every process has some: the C
            # library keeps there what vDSO getrandom() needs).
            self._droppable[extent.start, extent.end] = mapping
            return None
        except (PagescanError, OSError) as error:
            said = error.message if isinstance(error, PagescanError) else str(error)
            self.untracked[extent.start, extent.end] = mapping, said
            return None
        return extent

    def _forget(self, pages: Regions) -> None:
        if not pages:
            return
        self.engine.uncover(pages)
        self._stale = True
        for reader in self._readers:
            reader.epoch += 1
        self.pages -= pages
        self.extents = [
            replace(extent, start=part.start, end=part.end)
            for extent in self.extents
            for part in Regions.span(extent.start, extent.end, page_size=self.space.page_size) - pages
        ]
        self.untracked = {key: value for key, value in self.untracked.items() if not pages.clip(*key)}
        self._droppable = {key: value for key, value in self._droppable.items() if not pages.clip(*key)}

    def close(self) -> None:
        with self._lock:
            if not self.closed:
                self.closed = True
                # Closing the descriptor unregisters everything at once.
                self.engine.close()
                self.space.close()


def _holds(mappings: Sequence[Mapping], mapping: Mapping) -> bool:
    """Whether a mapping is among these, which are by address."""
    at = bisect.bisect_left(mappings, mapping.start, key=operator.attrgetter("start"))
    return at < len(mappings) and mappings[at] == mapping


def _parts(mappings: Sequence[Mapping], pages: Regions) -> Iterator[tuple[Mapping, Region]]:
    """The pages by the mapping they lie in."""
    if pages:
        for mapping in mappings:
            for part in pages.clip(mapping.start, mapping.end):
                yield mapping, part
