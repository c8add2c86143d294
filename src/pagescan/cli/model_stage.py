"""The stage of ``pagescan model``: acts on a machine of the model, and writes down what was done."""

from __future__ import annotations

import errno
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from ..abi import TRACKING_FEATURES, Feature, RegisterMode
from ..errors import InvalidArgument
from ..model import Machine, SegmentationFault
from ..query import Category, Op, category_names
from ..scanning.call import pagemap_scan
from ..units import format_count
from .model_look import Strip, View

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ..model import File, Process, Userfaultfd
    from ..model.behaviour import Behaviour


class Step(NamedTuple):
    """What a story says of one step: its name on the command line, a title, and why things are as they are."""

    name: str
    title: str
    why: str


@dataclass(frozen=True, slots=True)
class Scene:
    """One step of a story, as it was seen.

    Attributes:
        step: its name, title and reason.
        operations: what was done, one line each.
        strips: the memory afterwards.
    """

    step: Step
    operations: tuple[str, ...]
    strips: tuple[Strip, ...]


class Area(View):
    """A piece of memory on the stage: acted upon, and each act written down."""

    def __init__(self, stage: Stage, process: Process, start: int, pages: int, name: str):
        super().__init__(process, start, pages, name)
        self.stage = stage

    def _log(self, text: str) -> None:
        self.stage.log(text if len(self.stage.areas) == 1 else f"{self.name}: {text}")

    def _range(self, first: int, last: int | None) -> tuple[int, int, str]:
        """(address, length, words) of pages [first, last); all of it by default."""
        last = self.pages if last is None else last
        size = self.process.page_size
        return self.start + first * size, (last - first) * size, page_words(range(first, last))

    def write(self, *pages: int) -> None:
        """Write one byte of each page."""
        outcome = ""
        try:
            for page in pages:
                self.process.write(self._range(page, page + 1)[0], b"\x07")
        except SegmentationFault:
            outcome = " -> SIGSEGV"
        self._log(f"write to {page_words(pages)}{outcome}")

    def read(self, *pages: int) -> None:
        """Read one byte of each page."""
        for page in pages:
            self.process.read(self._range(page, page + 1)[0], 1)
        self._log(f"read {page_words(pages)}")

    def advise(self, what: str, first: int = 0, last: int | None = None) -> None:
        """``madvise``; an errno is part of the story."""
        start, length, words = self._range(first, last)
        outcome = ""
        try:
            self.process.madvise(start, length, what)
        except OSError as error:
            outcome = f" -> {errno.errorcode.get(error.errno or 0, str(error.errno))}"
        self._log(f"madvise({words}, MADV_{what.upper()}){outcome}")

    def swap_out(self, first: int = 0, last: int | None = None) -> None:
        """Write pages to swap, as a machine short of memory does."""
        start, length, words = self._range(first, last)
        self.process.swap_out(start, length)
        self._log(f"memory is short: the kernel swaps out {words}")

    def mprotect(self, prot: str, first: int = 0, last: int | None = None) -> None:
        """``mprotect``."""
        start, length, words = self._range(first, last)
        self.process.mprotect(start, length, prot)
        self._log(f"mprotect({words}, {prot!r}) -> {format_count(len(self.process.mappings()), 'mapping')}")

    def unmap(self, first: int, last: int) -> None:
        """``munmap``."""
        start, length, words = self._range(first, last)
        self.process.munmap(start, length)
        self._log(f"munmap({words})")

    def move(self, first: int, last: int, name: str) -> Area:
        """``mremap`` to a place of its own, which is shown from now on."""
        start, length, words = self._range(first, last)
        there = self.process.mremap(start, length, length, to=self.process.mmap(length))
        moved = Area(self.stage, self.process, there, last - first, name)
        self._log(f"mremap({words}) to {there:#x}")
        self.stage.areas.append(moved)
        return moved

    def register(self, uffd: Userfaultfd, mode: int = RegisterMode.WP) -> None:
        """``UFFDIO_REGISTER``."""
        start, length, words = self._range(0, None)
        uffd.register(start, length, mode)
        self._log(f"UFFDIO_REGISTER({words}, mode {RegisterMode(mode).name})")

    def rwprotect(self, uffd: Userfaultfd) -> None:
        """``UFFDIO_RWPROTECT`` of all of it."""
        start, length, words = self._range(0, None)
        uffd.rwprotect(start, length)
        self._log(f"UFFDIO_RWPROTECT({words})")

    def scan(self, ops: int, mask: int, first: int = 0, last: int | None = None) -> list[int]:
        """``PAGEMAP_SCAN`` for the pages that have all of ``mask``; the pages found (none for WP alone)."""
        start, length, words = self._range(first, last)
        found = pagemap_scan(
            self.pagemap, start, length, ops=ops, required_mask=mask, return_mask=mask, vec_len=self.pages
        )
        size = self.process.page_size
        pages = [
            page
            for region in found.regions
            for page in range((int(region["start"]) - self.start) // size, (int(region["end"]) - self.start) // size)
        ]
        outcome = f" -> {page_words(pages)}" if ops & Op.GET else ""
        asked = " | ".join(name.upper() for name in category_names(mask))
        verbs = " | ".join(op.name or "" for op in Op if op & ops)
        self._log(f"PAGEMAP_SCAN({words}, {verbs}, required {asked}){outcome}")
        return pages

    def protect(self, uffd: Userfaultfd) -> None:
        """Step 4: protect all of it. Releases before 7.2 do not protect empty entries by a scan with WP alone."""
        if self.stage.behaviour.written_for_none_generic:
            self.scan(Op.WP, Category.WRITTEN)
            return
        start, length, words = self._range(0, None)
        uffd.writeprotect(start, length)
        self._log(f"UFFDIO_WRITEPROTECT({words})")

    def take(self) -> list[int]:
        """Step 5: the pages written to, protected again in the same step."""
        return self.scan(Op.GET | Op.WP, Category.WRITTEN)


class Stage:
    """A machine, one process of it, and the memory that is shown.

    Attributes:
        machine: it behaves as one release.
        process: the one whose memory the story is about.
        areas: what is shown, in order.
    """

    def __init__(self, behaviour: str, *, system_mappings: bool = False):
        self.machine = Machine(behaviour=behaviour)
        self.process = self.machine.process(system_mappings=system_mappings)
        self.areas: list[Area] = []
        self._done: list[str] = []

    @property
    def behaviour(self) -> Behaviour:
        """What the release does."""
        return self.machine.behaviour

    def require(self, has: bool, what: str, since: str) -> None:
        """Refuse to go on where the release lacks what the story is about."""
        if not has:
            raise InvalidArgument(
                f"Linux {self.behaviour.name} has no {what}, which this story is about", hint=f"--behaviour {since}"
            )

    def log(self, text: str) -> None:
        """Write down an operation."""
        self._done.append(text)

    def map(self, pages: int, name: str, /, kind: str = "anonymous", file: File | None = None, **options: Any) -> Area:
        """``mmap``; what is mapped is shown from now on."""
        start = self.process.mmap(pages * self.machine.page_size, kind, file=file, **options)
        area = Area(self, self.process, start, pages, name)
        self.areas.append(area)
        area._log(f"mmap({page_words(range(pages))}, {_sort_of(area)})")
        return area

    def userfaultfd(self, features: int = TRACKING_FEATURES) -> Userfaultfd:
        """Steps 1 and 2: the descriptor and its features."""
        uffd = self.process.open_userfaultfd(int(features))
        names = " | ".join(str(feature.name) for feature in Feature if features & feature)
        self.log(f"userfaultfd(), UFFDIO_API({names})")
        return uffd

    def close(self, uffd: Userfaultfd) -> None:
        """Close the descriptor."""
        uffd.close()
        self.log("close(userfaultfd)")

    def fork(self, area: Area, name: str) -> Area:
        """``fork``; the child's copy of an area is shown from now on."""
        child = Area(self, self.process.fork(), area.start, area.pages, name)
        self.areas.append(child)
        self.log(f"fork(): process {child.process.pid} is the child")
        return child

    def scene(self, step: Step) -> Scene:
        """A picture of everything, and what was done since the last one."""
        operations, self._done = tuple(self._done), []
        return Scene(step, operations, tuple(area.strip() for area in self.areas))


def _sort_of(area: Area) -> str:
    vma = area.process.mm.vmas.find(area.start)
    assert vma is not None
    kind = "anonymous" if vma.file is None else {"shmem": "shared memory"}.get(vma.file.kind, vma.file.kind)
    words = [kind, "MAP_SHARED" if vma.shared else "MAP_PRIVATE", *(["huge pages allowed"] if vma.thp else [])]
    return ", ".join(words)


def page_words(pages: Iterable[int]) -> str:
    """Page numbers as runs: ``"page 2"``, ``"pages 0-3, 7"``, ``"no page"``."""
    runs: list[list[int]] = []
    for page in pages:
        if runs and runs[-1][1] + 1 == page:
            runs[-1][1] = page
        else:
            runs.append([page, page])
    words = ", ".join(str(low) if low == high else f"{low}-{high}" for low, high in runs)
    if not runs:
        return "no page"
    return f"page {words}" if len(runs) == 1 and runs[0][0] == runs[0][1] else f"pages {words}"
