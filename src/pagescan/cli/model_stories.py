"""The stories of ``pagescan model``: each acts on a stage step by step, and says why things are as they are.

A story is a generator that acts and then yields the :class:`Step` of what it did. What it claims of a release it
derives from that release's behaviour; what is drawn beside it comes from the model alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..abi import Feature, RegisterMode
from ..errors import InvalidArgument
from ..query import Category, Op
from .model_stage import Scene, Stage, Step

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ..model import Process

    Script = Callable[[Stage], Iterator[Step]]

#: The release that can play every story.
LATEST = "7.3"


@dataclass(frozen=True, slots=True)
class Story:
    """A story.

    Attributes:
        name: on the command line.
        title: what it tells.
        script: acts it out.
        behaviour: the release it is played on unless another is asked for.
        system_mappings: its process has a stack and the kernel's special mappings, too.
    """

    name: str
    title: str
    script: Script
    behaviour: str = "6.18"
    system_mappings: bool = False

    def stage(self, behaviour: str | None = None) -> Stage:
        """An empty stage for it. Raises InvalidArgument: no such release."""
        return Stage(behaviour or self.behaviour, system_mappings=self.system_mappings)

    def play(self, stage: Stage) -> Iterator[Scene]:
        """Its scenes, one after another; the stage shows what is left when they are done."""
        for step in self.script(stage):
            yield stage.scene(step)


def find_story(name: str) -> Story:
    """The story of this name. Raises InvalidArgument, naming those there are."""
    if name not in STORIES:
        raise InvalidArgument(f"no story is called {name!r}", hint=f"the stories are {', '.join(STORIES)}")
    return STORIES[name]


def act_out(name: str) -> Process:
    """The process a story is about, after its last step. Raises InvalidArgument: no such story."""
    story = find_story(name)
    stage = story.stage()
    for _ in story.play(stage):
        pass
    return stage.process


def _tracking(stage: Stage) -> Iterator[Step]:
    memory = stage.map(8, "memory")
    yield Step(
        "map", "An empty mapping", "mmap hands out addresses and nothing else: no page, and not even a page table."
    )
    memory.write(1, 2)
    yield Step(
        "first-write",
        "The first write",
        "The first write to a page faults. The kernel makes the page table, takes a frame of memory for each page, "
        "and lets the write go on. The entries of all other pages are empty.",
    )
    memory.read(4)
    yield Step(
        "read-hole",
        "Reading what was never written to",
        "A read faults, too, but costs no memory: the entry points at the one page of zeros that everybody shares.",
    )
    uffd = stage.userfaultfd()
    memory.register(uffd)
    rest = (
        "so every page counts as written to."
        if stage.behaviour.written_for_none_generic
        else "so pages count as written to. (This release says so of empty entries only when asked for WRITTEN alone.)"
    )
    yield Step(
        "register",
        "Steps 1 to 3: register",
        f"Registering marks the mapping, and no page yet: no entry has the bit that says protected, {rest}",
    )
    memory.protect(uffd)
    yield Step(
        "protect",
        "Step 4: protect",
        "Each entry gets the bit. Where there was no entry, a marker holds it: no memory, only a note that the page is "
        "protected. PAGEMAP_SCAN calls a marker swapped.",
    )
    memory.read(6)
    yield Step(
        "read-marker",
        "Reading is not writing",
        "The read replaces the marker by the page of zeros, and the bit stays: the page is still not written to.",
    )
    memory.write(2, 5)
    yield Step(
        "write",
        "A write to a protected page",
        "Each write faults once. The kernel clears the bit by itself and lets the write go on; nobody is asked, and "
        "further writes to the page cost nothing. No bit means WRITTEN, whether the page was there or a marker was.",
    )
    memory.take()
    yield Step(
        "take",
        "Step 5: get, and protect again",
        "One call finds the pages without the bit and sets it again, each page under the lock of its page table. No "
        "write can fall between the look and the protection.",
    )
    memory.write(2)
    memory.take()
    yield Step(
        "again",
        "And again",
        "The next round finds what was written to since the last: steps 1 to 3 are done once, step 5 again and again.",
    )
    stage.close(uffd)
    yield Step(
        "close",
        "The end",
        "Closing the userfaultfd unregisters the memory, clears every bit and removes the markers. Of memory that "
        "nobody tracks, WRITTEN is not said.",
    )


def _memory(stage: Stage) -> Iterator[Step]:
    memory = stage.map(8, "memory")
    memory.write(0, 1, 2, 3, 4)
    uffd = stage.userfaultfd()
    memory.register(uffd)
    memory.protect(uffd)
    memory.write(1)
    yield Step(
        "start", "Tracked memory", "Pages 0-4 were there before they were protected; page 1 was written to since."
    )
    memory.advise("dontneed", 0, 1)
    rest = (
        "and the page is WRITTEN: its contents did change."
        if stage.behaviour.written_for_none_generic
        else "and the page is WRITTEN, though this release says so only when asked for WRITTEN alone."
    )
    yield Step(
        "dontneed",
        "Memory given back",
        f"MADV_DONTNEED drops the frame and empties the entry. The next read will find zeros. The bit is gone, {rest}",
    )
    memory.swap_out(1, 4)
    yield Step(
        "swap-out",
        "To swap, and the bit with it",
        "The entries now name places in swap, and keep the bit as it was. Page 1 is WRITTEN without being PRESENT: "
        "who requires PRESENT of written pages misses it.",
    )
    memory.read(1, 2)
    yield Step(
        "swap-in", "And back", "A read brings the pages back. Page 2 is still protected, page 1 is still WRITTEN."
    )
    memory.write(3)
    yield Step(
        "write-swapped",
        "Writing to a page in swap",
        "The fault brings the page back and clears its bit in one go.",
    )
    if stage.behaviour.guards_anonymous:
        memory.advise("guard_install", 6, 7)
        memory.write(6)
        yield Step(
            "guard",
            "A guard",
            "A guard is a marker that makes every access fail. PAGEMAP_SCAN calls it SWAPPED, too, and WRITTEN until "
            "it is protected.",
        )
    memory.take()
    yield Step(
        "take",
        "What has been written to?",
        "Whatever changed is found, wherever the page went meanwhile. A written page need not be in memory.",
    )


def _fork(stage: Stage) -> Iterator[Step]:
    parent = stage.map(6, "parent")
    parent.write(*range(6))
    uffd = stage.userfaultfd()
    parent.register(uffd)
    parent.protect(uffd)
    parent.write(1)
    yield Step("start", "A tracked process", "Six pages, protected; page 1 was written to since.")
    child = stage.fork(parent, "child")
    yield Step(
        "fork",
        "fork copies the page table, not the pages",
        "Parent and child map the same frames. The child's copy is not registered and has no bits: nobody tracks the "
        "child. The parent's tracking goes on.",
    )
    parent.write(2)
    yield Step(
        "parent-writes",
        "Copy on write in the parent",
        "The frame has two users, so the parent gets a copy in a frame of its own. Its bit goes with the same fault: "
        "page 2 is WRITTEN.",
    )
    child.write(3)
    yield Step(
        "child-writes",
        "Copy on write in the child",
        "Now the child gets the copy. The parent's memory did not change, and its page 3 keeps the bit.",
    )
    parent.take()
    yield Step(
        "take", "What has the parent written to?", "Its own two pages. What the child writes does not concern it."
    )


def _huge(stage: Stage) -> Iterator[Step]:
    memory = stage.map(1024, "memory", thp=True)
    memory.write(100)
    yield Step(
        "first-write",
        "One write, 512 pages",
        "Where huge pages are allowed, the first write to a stretch of 2 MiB gets a huge page: one entry for 512 "
        "pages. The second stretch has no page table at all.",
    )
    uffd = stage.userfaultfd()
    memory.register(uffd)
    memory.protect(uffd)
    yield Step(
        "protect",
        "Protected as a whole",
        "One bit in the one entry protects all 512 pages; the huge page stays huge. The untouched stretch gets a page "
        "table full of markers, which costs a page of memory for each 2 MiB.",
    )
    memory.write(7)
    yield Step(
        "write",
        "The first write splits it",
        "The fault replaces the one entry by 512 that map the same memory, all with the bit, and clears the bit of the "
        "page that was written to. Tracking stays exact to 4 KiB.",
    )
    memory.take()
    yield Step("take", "One page, not 512", "One byte was written, and one page is found.")
    memory.advise("collapse", 0, 512)
    yield Step(
        "collapse",
        "It stays split while it is protected",
        "As long as any of the pages is protected, the kernel refuses to put them together again: one entry has one "
        "bit, which cannot say which page was written to.",
    )


def _files(stage: Stage) -> Iterator[Step]:
    size = stage.machine.page_size
    file = stage.machine.file(6 * size, b"\x01" * 6 * size, kind="shmem")
    tracked = stage.map(6, "tracked", "shmem", file, shared=True)
    other = stage.map(6, "elsewhere", "shmem", file, shared=True)
    private = stage.map(6, "private", "shmem", file, shared=False)
    private.read(0)
    yield Step(
        "read",
        "A page of a file",
        "All three map the same shared memory. The pages are in memory already, so one read maps its neighbours as "
        "well. The frames have other users: the file, and later the other mappings.",
    )
    private.write(1)
    yield Step(
        "private-write",
        "A private copy",
        "A write to a private mapping copies the page. The copy belongs to the process and no longer to the file: "
        "FILE tells of the page, not of the mapping.",
    )
    uffd = stage.userfaultfd()
    tracked.register(uffd)
    tracked.protect(uffd)
    tracked.write(2)
    yield Step(
        "tracked",
        "Tracking shared memory",
        "Empty entries are protected by markers. The write to page 2 is seen, since it went through this page table.",
    )
    other.write(3)
    yield Step(
        "elsewhere",
        "A write through another mapping is not seen",
        "It took its fault in another entry, of another page table. Page 3 of the tracked mapping keeps its marker, "
        "although its contents changed.",
    )
    tracked.read(4)
    tracked.advise("remove", 4, 5)
    yield Step(
        "punch",
        "A hole in the file is not seen",
        "MADV_REMOVE takes the page out of the file, and out of every page table. Protection is kept by a marker, so "
        "that the page counts as clean, although it now reads as zeros.",
    )


def _moves(stage: Stage) -> Iterator[Step]:
    memory = stage.map(8, "memory")
    memory.write(*range(8))
    uffd = stage.userfaultfd()
    memory.register(uffd)
    memory.protect(uffd)
    memory.write(2)
    yield Step("start", "Tracked memory", "Eight pages in one mapping, protected; page 2 was written to since.")
    memory.mprotect("r", 4, 6)
    yield Step(
        "mprotect",
        "Cut in three",
        "Other rights for two pages make three mappings of one. The bits are in the page table, which is not touched: "
        "what is WRITTEN stays the same.",
    )
    memory.mprotect("rw", 4, 6)
    yield Step(
        "merge", "And merged again", "Equal neighbours become one mapping again, and no page becomes WRITTEN by it."
    )
    memory.unmap(7, 8)
    yield Step(
        "munmap",
        "Unmapped",
        "Page 7 is gone. A scan says nothing of what is not mapped, not even an error; a tracker has to look for it.",
    )
    memory.move(0, 4, "moved")
    yield Step(
        "mremap",
        "Moved away, out of sight",
        "The pages and their frames move. The registration does not, unless the userfaultfd asked for EVENT_REMAP: "
        "nobody tracks the new place. A tracker reports such memory as lost.",
    )


def _accessed(stage: Stage) -> Iterator[Step]:
    stage.require(stage.behaviour.knows_accessed, "PAGE_IS_ACCESSED", "7.3")
    memory = stage.map(8, "memory")
    memory.write(0, 1, 2, 3)
    uffd = stage.userfaultfd(Feature.RWP | Feature.RWP_ASYNC)
    memory.register(uffd, RegisterMode.RWP)
    memory.rwprotect(uffd)
    yield Step(
        "protect",
        "Protected against reading, too",
        "In mode RWP the same bit makes every access fault, reads included (Linux 7.3). An empty entry has no bit, "
        "and is not called ACCESSED until it is touched.",
    )
    memory.read(1)
    memory.write(2)
    memory.read(6)
    yield Step(
        "touch",
        "Reads and writes",
        "Each first touch clears the bit, and no bit means ACCESSED here. WRITTEN is not said: the memory is not "
        "registered for it.",
    )
    memory.scan(Op.GET, Category.ACCESSED)
    yield Step("scan", "Which pages were touched?", "The working set, page by page, from one call.")


def _workload(stage: Stage) -> Iterator[Step]:
    size = stage.machine.page_size
    huge = size // 8
    code = stage.machine.file(8 * size, b"\x90" * 8 * size, name="/usr/bin/example")
    text = stage.map(8, "program", "file", code, shared=False, prot="rx")
    heap = stage.map(32, "heap", name="[heap]")
    table = stage.map(2 * huge, "table", thp=True)
    cache = stage.map(16, "cache", "shmem")
    pool = stage.map(huge, "pool", "hugetlb")
    yield Step(
        "map",
        "A program's memory",
        "A program file, a heap, a large table, shared memory and hugetlb pages: all promises.",
    )
    text.read(0)
    heap.write(*range(20))
    heap.read(24, 25)
    table.write(0)
    cache.write(0, 1, 2, 3)
    pool.write(0)
    yield Step(
        "fill",
        "Use",
        "Each kind of memory is given out in its own way: pages of the file, pages of zeros where the heap was only "
        "read, a huge page for the table, and a hugetlb page.",
    )
    uffd = stage.userfaultfd()
    for area in (heap, table, cache):
        area.register(uffd)
        area.protect(uffd)
    yield Step("track", "Track the heap, the table and the cache", "Registered and protected: nothing is WRITTEN yet.")
    heap.write(2, 3, 4, 11)
    table.write(7, 300)
    cache.write(2, 9)
    yield Step(
        "work", "The program works", "The pages it writes to are WRITTEN. The huge page had to be split for that."
    )
    heap.swap_out(8, 16)
    yield Step(
        "pressure",
        "Some of it is swapped out",
        "Page 11 of the heap was written to and is in swap: WRITTEN all the same.",
    )


#: Every story by name, the first one to begin with.
STORIES = {
    story.name: story
    for story in (
        Story("tracking", "From an empty mapping to the pages written to since one last asked", _tracking),
        Story("memory", "Memory given back, swapped out, guarded: what becomes of the bit", _memory),
        Story("fork", "fork and copy on write: two page tables, one set of frames", _fork),
        Story("huge", "A huge page is protected as a whole, and split by the first write", _huge),
        Story("files", "Files and shared memory: whose page it is, and what cannot be seen", _files),
        Story("moves", "mprotect, munmap and mremap: what splits, and what is lost", _moves),
        Story("accessed", "Which pages were touched, reads included (Linux 7.3)", _accessed, "7.3"),
        Story(
            "workload",
            "The memory of a whole program, which `pagescan scan --model` looks at",
            _workload,
            system_mappings=True,
        ),
    )
}
