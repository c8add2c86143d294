"""One engine of each sort for a whole address space, and many readers of it.

A second userfaultfd on the same memory is refused (EBUSY), and protecting a page again makes it "not written" for
everybody. So all trackers of an address space that use the same sort of engine share one, and what one reader's look
finds is handed to every other reader that covers it: each has its own "since I last asked".
"""

from __future__ import annotations

import os
import threading
import weakref
from collections import Counter
from time import perf_counter_ns
from typing import TYPE_CHECKING

from ..errors import CoverageLost
from ..process.current import close_in_children
from ..ranges import Regions
from .changed import Changed
from .extents import Extents

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ..abi import AddressSpace
    from .base import Arm, Engine, Extent, Findings, Loss
    from .exempting import Exempting
    from .stats import Counters


#: What is due to a reader: the pages, written to as far as is known; those that may not have been (not all of them need
#: be among the former).
Due = tuple[Regions, Regions]


class Reader:
    """One "since I last asked" over some extents. Its fields change only under the hub's lock.

    Attributes:
        pages: the page ranges it asks about.
        extents: the same, as the engine handles them.
        pending: written pages that other looks than a take of this reader found, or that were given back.
        losses: extents that can no longer be asked, with the reason.
        epoch: counts the looks, whoever's, that found something new in its pages.
        peers: the readers of the same coverage, this one among them.
        alone: whether it never had another beside it.
        exempting: what exempts hot pages of the coverage, if that was asked for.
        unsure: of the pending pages, those that may not have been written to.
        counters: counts the looks at the coverage.
    """

    __slots__ = (
        "__weakref__",
        "_bounds",
        "_identity",
        "alone",
        "counters",
        "epoch",
        "exempting",
        "extents",
        "losses",
        "pages",
        "peers",
        "pending",
        "unsure",
    )

    def __init__(
        self,
        pages: Regions,
        extents: Sequence[Extent],
        exempting: Exempting | None = None,
        counters: Counters | None = None,
    ):
        self.pages = pages
        self.exempting = exempting
        self.counters = counters
        self._bounds = (int(pages.starts[0]), int(pages.ends[-1])) if pages else (0, 0)
        self.peers: weakref.WeakSet[Reader] = weakref.WeakSet()
        self.alone = True
        self.extents = Extents.of(extents)
        self.pending = self.unsure = Regions.empty(page_size=pages.page_size)
        self.losses: list[Loss] = []
        self.epoch = 0
        #: Random, so that a key that was stored or sent elsewhere is never mistaken for one of another reader's.
        self._identity = os.urandom(12)

    def told(self, written: Regions, unsure: Regions | None = None) -> None:
        """Remember what a look found that this reader did not take."""
        low, high = self._bounds
        if not written or written.ends[-1] <= low or written.starts[0] >= high:
            return
        mine = written & self.pages
        if mine:
            self.epoch += 1
            self.pending |= mine
            if unsure:
                self.unsure |= unsure & mine

    def found(self, findings: Findings) -> Due:
        """Everything due, now that this reader takes, and these are its own look's findings; nothing is due then."""
        written = findings.written
        if written:
            self.epoch += 1
        if not self.pending and not findings.unsure:  # spelt out, for most takes
            return written, self.unsure
        due = self.due(findings)
        if self.pending:
            self.pending = self.unsure = Regions.empty(page_size=self.pages.page_size)
        return due

    def due(self, findings: Findings) -> Due:
        """What is due to the reader, with these findings of its own look."""
        written = findings.written | self.pending if self.pending else findings.written
        return written, self.unsure | findings.unsure if findings.unsure else self.unsure

    def give_back(self, written: Regions, unsure: Regions) -> None:
        """These pages are due again; nothing new was found."""
        self.pending |= written & self.pages
        self.unsure |= unsure

    def forget(self, found: Regions, regions: Regions) -> None:
        """Leave ``regions`` out of the next answer; what a look ``found`` beside them is due in it."""
        if found:
            self.epoch += 1
        if self.pending:
            self.pending -= regions
            self.unsure -= regions
        # Nearly always the very same runs, and then there is nothing to work out.
        if found != regions:
            self.told(found - regions)

    def lost(self, losses: Sequence[Loss]) -> None:
        """Note that these extents are gone, and ask of them no more."""
        if not losses:
            return
        self.losses += losses
        gone = {id(loss.extent) for loss in losses}
        self.extents = Extents(extent for extent in self.extents if id(extent) not in gone)

    def changed(self) -> Changed:
        """Whether anything is due, and a key of this moment: after a look that protected again what it found."""
        if self.losses:
            # What is lost may be written to unseen, so no two moments are alike.
            self.epoch += 1
        return Changed(bool(self.pending or self.losses), self._identity, self.epoch)


class Hub:
    """The readers of one address space by one sort of engine, which they share. Safe to use from several threads."""

    def __init__(self, space: AddressSpace, make_engine: Callable[[], Engine]):
        self.space = space
        self.pid = os.getpid()
        self.engine = make_engine()
        # Re-entrant: garbage collection may release a coverage while a look is under way.
        self.lock = threading.RLock()
        self._readers: weakref.WeakSet[Reader] = weakref.WeakSet()
        #: What is covered, how often, and who reads it; all pages that are covered, and those covered more than once.
        self._covered: Counter[Regions] = Counter()
        self._peers: dict[Regions, weakref.WeakSet[Reader]] = {}
        self._once = self._often = Regions.empty(page_size=space.page_size)
        self.in_child = False
        close_in_children(self)

    def close_in_child(self) -> None:
        """In a forked child the descriptors act on the parent: let go of them."""
        self.in_child = True
        self.engine.close_in_child()

    def check(self) -> None:
        """Raise CoverageLost in a forked child, which the kernel does not track."""
        if self.in_child or os.getpid() != self.pid:
            raise CoverageLost(
                f"this process (pid {os.getpid()}) is a forked child; the tracker belongs to its parent "
                f"(pid {self.pid}), and the kernel does not track children",
                hint="call pagescan.track() again in the child",
            )

    # Coverage -------------------------------------------------------------------------------------------------------

    def cover(self, pages: Regions, arm: Arm, check: Callable[[Sequence[Extent]], None] | None = None) -> Extents:
        """Cover these pages and make them "not written"; readers that cover them already lose nothing.

        ``check`` raises if the engine is not right for these extents; nothing was done to them then.
        """
        with self.lock:
            self.check()
            extents = Extents(self.engine.plan(pages))
            if check is not None:
                check(extents)
            # A huge page is covered as a whole, also where the buffer is part of it.
            whole = extents.pages(pages.page_size)
            shared = whole & self._once
            try:
                self.engine.cover(extents)
                if shared:
                    self._share(extents.within(shared), shared)
                self.engine.arm(extents.within(whole - shared) if shared else extents, arm)
            except BaseException:
                self.engine.uncover(whole - shared)
                raise
            self._note_covered(whole)
            return extents

    def uncover(self, pages: Regions) -> None:
        """End one coverage of exactly these pages; those that another one covers stay covered."""
        with self.lock:
            self._covered[pages] -= 1
            if not self._covered[pages]:
                del self._covered[pages]
                self._peers.pop(pages, None)
            overlap = pages & self._often
            self._once -= pages
            if overlap:
                others, self._covered = self._covered, Counter()
                self._once = self._often = Regions.empty(page_size=self.space.page_size)
                for other in others.elements():
                    self._note_covered(other)
                for exempting in self._exemptings():
                    exempting.bar(self._often)
            if not self.in_child and os.getpid() == self.pid:
                self.engine.uncover(pages - self._once if overlap else pages)

    def _note_covered(self, pages: Regions) -> None:
        self._covered[pages] += 1
        self._often |= pages & self._once
        self._once |= pages

    def _share(self, extents: Extents, pages: Regions) -> None:
        """Protect these pages, which others cover, for one more; the others are told what was written until now."""
        unsure = [pages - pages]
        for exempting in self._exemptings():
            exempting.bar(self._often | pages)
            unsure.append(exempting.protected(pages))
        findings = self.engine.take(extents)
        findings.unsure = Regions.union(unsure)
        findings.written |= findings.unsure
        self._tell(findings, None)

    def _exemptings(self) -> set[Exempting]:
        return {reader.exempting for reader in self._readers if reader.exempting is not None}

    def covers_anything(self) -> bool:
        """Whether any coverage is left."""
        return bool(self._covered)

    # Readers --------------------------------------------------------------------------------------------------------

    def reader(
        self,
        pages: Regions,
        extents: Extents,
        *,
        fresh: bool,
        exempting: Exempting | None = None,
        counters: Counters | None = None,
    ) -> Reader:
        """A new reader, from now on. ``fresh``: the pages have just been armed, so nothing of before is in them."""
        with self.lock:
            self.check()
            reader = Reader(pages, extents, exempting, counters)
            if exempting is not None:
                exempting.bar(pages & self._often)
            if not fresh:
                findings = self._look(reader)
                self._tell(findings, None)
                reader.lost(findings.losses)
            reader.peers = self._peers.setdefault(pages, reader.peers)
            reader.peers.add(reader)
            if len(reader.peers) > 1:
                for peer in reader.peers:
                    peer.alone = False
            self._readers.add(reader)
            return reader

    def _look(self, reader: Reader) -> Findings:
        """What the engine finds in the reader's pages; protected again, but for what is exempted."""
        began = perf_counter_ns()
        if reader.exempting is None:
            findings = self.engine.take(reader.extents)
        else:
            findings = reader.exempting.take(self.engine, reader.extents, reader)
        if reader.counters is not None:
            reader.counters.add(findings, perf_counter_ns() - began)
        return findings

    def take(self, reader: Reader) -> Due:
        """What was written to since the reader last asked; protected again. Losses are noted in the reader."""
        # The path of every take, which comes right after a long look: what need not be called is not called.
        with self.lock:
            if self.in_child or os.getpid() != self.pid:
                self.check()
            findings = self._look(reader)
            if not reader.alone or self._often:
                self._tell(findings, reader)
            if findings.losses:
                reader.lost(findings.losses)
            due = reader.found(findings)
            if reader.counters is not None:
                reader.counters.takes += 1
            if reader.exempting is not None:
                reader.exempting.note(reader, due[0])
            return due

    def changed(self, reader: Reader) -> Changed:
        """Whether anything is due to the reader. A second write to a page shows only if the page was protected in
        between, so this takes as well, and what it finds stays due to everybody, the reader included."""
        with self.lock:
            self.check()
            findings = self._look(reader)
            if findings.written or findings.losses:
                self._tell(findings, reader)
                reader.told(findings.written, findings.unsure)
                reader.lost(findings.losses)
            return reader.changed()

    def peek(self, reader: Reader) -> Due:
        """What take would find, changing nothing."""
        with self.lock:
            self.check()
            if reader.exempting is None:
                findings = self.engine.peek(reader.extents)
            else:
                findings = reader.exempting.peek(self.engine, reader.extents)
            reader.lost(findings.losses)
            return reader.due(findings)

    def give_back(self, reader: Reader, written: Regions, unsure: Regions) -> None:
        """These pages are due again in the reader's next answer."""
        with self.lock:
            reader.give_back(written, unsure)

    def forget(self, reader: Reader, regions: Regions) -> None:
        """Protect these pages again, and leave them out of the reader's next answer; everybody else is told of them.

        A part that is lost is found at the next look.
        """
        with self.lock:
            self.check()
            findings = self.engine.take(reader.extents.near(regions))
            if not reader.alone or self._often:
                self._tell(findings, reader)
            reader.forget(findings.written, regions)

    def _tell(self, findings: Findings, asked_by: Reader | None) -> None:
        """Hand what a look found to every other reader. A failed look may have protected pages it did not report, so
        to the others the whole extent counts as written; they find the loss by themselves."""
        if not findings.written and not findings.losses:
            return
        lost = ((loss.extent.start, loss.extent.end) for loss in findings.losses)
        news = findings.written | Regions.from_pairs(lost, page_size=self.space.page_size)
        for other in asked_by.peers if asked_by and not self._often else self._readers:
            if other is not asked_by:
                other.told(news, findings.unsure)

    def close(self) -> None:
        """Free the descriptors."""
        self.engine.close()
