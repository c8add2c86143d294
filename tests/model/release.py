"""Which release the model has to be for this kernel to be its twin: told by the kernel's answers, never by its version.

A trait of the model (a field of its Behaviour, or a bug by name) comes with a short history whose last answer depends
on it. The kernel is asked once, the model with the trait and without, and what agrees is taken. So the model itself
says what a trait means, and distributions may carry back whatever they like.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from pagescan.model import BEHAVIOURS, KERNEL_BUGS, Behaviour, Machine, behaviour
from pagescan.model.mm import THP_MODES
from pagescan.query import Category

from .answers import CATEGORIES, FANOUT, PAGE, PAGES, Operation, Outcome, outcome, scan
from .kernel_side import KernelSide
from .model_side import ModelSide

WPALLOWED, WRITTEN, FILE, PRESENT, PFNZERO, HUGE = (
    int(c)
    for c in (
        Category.WPALLOWED,
        Category.WRITTEN,
        Category.FILE,
        Category.PRESENT,
        Category.PFNZERO,
        Category.HUGE,
    )
)
GET, WP, CHECK = 0, 1, 2


def look(page: int, count: int, returned: int, *, mask: int = 0, flags: int = GET, vec_len: int = 10) -> Operation:
    """A scan for these categories."""
    return "scan", page, count, flags, (0, mask, 0, returned), vec_len, 0


def _accepts(category: Category) -> list[Operation]:
    # Without an output: what it says of the page is not the question.
    return [("map", 0, 1, "anonymous"), look(0, 1, int(category), vec_len=0)]


#: Where huge pages come from: unasked, where they were asked for, or nowhere. The other histories depend on it.
THP: list[Operation] = [
    ("map", 0, FANOUT, "anonymous"),
    ("map", FANOUT, FANOUT, "thp"),
    ("write", 0, 1, 1),
    ("write", FANOUT, 1, 1),
    look(0, 2 * FANOUT, HUGE, mask=HUGE),
]

#: By field of Behaviour. Each history may depend on the fields above it.
BEHAVES: dict[str, list[Operation]] = {
    "knows_soft_dirty": _accepts(Category.SOFT_DIRTY),
    "knows_guard": _accepts(Category.GUARD),
    "knows_accessed": _accepts(Category.ACCESSED),
    "written_needs_registration": [("map", 0, 4, "anonymous"), ("write", 0, 1, 1), look(0, 1, WRITTEN)],
    "written_for_none_generic": [
        ("map", 0, 4, "anonymous"),
        ("register", 0, 4),
        ("write", 0, 1, 1),
        look(0, 4, WRITTEN | PRESENT),
    ],
    "written_for_pmd_hole": [
        ("map", 0, 2 * FANOUT, "anonymous"),
        ("register", 0, 2 * FANOUT),
        look(0, 2 * FANOUT, WRITTEN | PRESENT),
    ],
    "huge_zero_is_pfnzero": [("map", 0, FANOUT, "thp"), ("read", 0, 1), look(0, 4, PFNZERO | HUGE)],
    "huge_zero_write_is_huge": [("map", 0, FANOUT, "thp"), ("read", 0, 1), ("write", 0, 1, 1), look(0, 4, HUGE)],
    "splits_to_zero_page": [
        ("map", 0, FANOUT, "thp"),
        ("write", 0, 1, 1),
        ("advise", 3, 5, "free"),
        look(0, 16, PFNZERO | HUGE),
    ],
    "guards_anonymous": [("map", 0, 4, "anonymous"), ("advise", 0, 1, "guard_install")],
    "guards_files": [("map", 0, 4, "memfd"), ("advise", 0, 1, "guard_install")],
    "mremap_clears_protection": [
        ("map", 0, 4, "anonymous"),
        ("write", 0, 4, 1),
        ("register", 0, 4),
        ("wp", 0, 4, True),
        ("move", 0, 4, 4, 16),
        ("register", 16, 4),
        look(16, 4, WRITTEN),
    ],
    "mremap_moves_many": [("map", 0, 8, "anonymous"), ("protect", 4, 4, "r"), ("move", 0, 8, 8, 16)],
    "mremap_checks_first": [("map", 4, 4, "anonymous"), ("move", 0, 4, 4, 2)],
    "merges_unfaulted": [
        ("map", 0, 8, "anonymous"),
        ("register", 4, 4),
        ("write", 0, 1, 1),
        ("register", 0, 4),
        ("mappings",),
    ],
    "collapse_of_part_succeeds": [
        ("map", 0, 2 * FANOUT, "thp"),
        ("write", 0, 1, 1),
        ("advise", FANOUT - 5, 1, "collapse"),
    ],
    # An empty table takes small pages, a hole a huge one.
    "frees_empty_tables": [
        ("map", 0, FANOUT, "anonymous"),
        ("advise", 0, FANOUT, "nohugepage"),
        ("write", 0, 1, 1),
        ("advise", 0, FANOUT, "dontneed"),
        ("advise", 0, FANOUT, "hugepage"),
        ("write", 0, 1, 1),
        look(0, 1, HUGE),
    ],
}

#: By bug. None of these histories can harm a kernel that has it.
BUGS: dict[str, list[Operation]] = {
    behaviour.STALE_WALK_END: [
        ("map", 0, PAGES, "memfd"),
        *(("write", page, 1, 1) for page in range(0, 2 * FANOUT + 2, 2)),
        look(0, PAGES, PRESENT, mask=PRESENT, vec_len=PAGES),
    ],
    behaviour.EXCLUSIVE_WP_IGNORES_MASKS: [
        ("map", 0, 4, "anonymous"),
        ("register", 0, 4),
        ("write", 0, 4, 1),
        look(0, 4, FILE, mask=FILE, flags=WP, vec_len=0),
        look(0, 4, WRITTEN),
    ],
    behaviour.SPLIT_KEEPS_APART: [
        ("map", 0, FANOUT, "anonymous"),
        ("map", FANOUT, FANOUT, "thp"),
        ("write", FANOUT - 4, 5, 1),
        ("register", 0, 2 * FANOUT),
        look(FANOUT - 4, 8, WRITTEN | HUGE, mask=WRITTEN, flags=WP),
    ],
    behaviour.ERROR_AFTER_WORK: [
        ("map", 0, 4, "anonymous"),
        ("write", 0, 4, 1),
        ("register", 0, 2),
        look(0, 4, WRITTEN, mask=WRITTEN, flags=WP | CHECK),
        look(0, 2, WRITTEN),
    ],
    behaviour.MREMAP_DROPS_NEIGHBOUR: [
        ("map", 8, 8, "anonymous"),
        ("write", 8, 8, 1),
        ("move", 12, 4, 4, 32),
        ("register", 8, 4),
        ("register", 32, 4),
        ("move", 32, 4, 4, 12),
        look(8, 4, WPALLOWED),
    ],
    # With an output buffer, and of a page that is there: part of an empty one could hang.
    behaviour.PARTIAL_HUGETLB_PROGRESS: [
        ("map", 0, FANOUT, "hugetlb"),
        ("register", 0, FANOUT),
        ("write", 0, 1, 1),
        look(0, 1, WRITTEN, mask=WRITTEN, flags=WP),
    ],
}


@dataclass(frozen=True, slots=True)
class Release:
    """What the model is to be.

    Attributes:
        behaviour, bugs, thp: for Machine.
        untold: the traits for which the kernel answered in neither way (or could not be asked).
    """

    behaviour: Behaviour = BEHAVIOURS["6.18"]
    bugs: frozenset[str] = frozenset(KERNEL_BUGS["6.18"])
    thp: str = "madvise"
    untold: tuple[str, ...] = ()

    @classmethod
    def named(cls, name: str) -> Release:
        """The release as it is in the field: "6.18"."""
        return cls(BEHAVIOURS[name], frozenset(KERNEL_BUGS[name]))

    @property
    def categories(self) -> int:
        """Those that may be compared."""
        return int(self.behaviour.known) & CATEGORIES

    def machine(self, *, swap: bool) -> Machine:
        return Machine(PAGE, self.bugs, self.behaviour, swap=swap, thp=self.thp)

    def __str__(self) -> str:
        """The nearest release that the model has a name for, and in what this differs from it."""
        differences = {name: _differences(self.behaviour, named) for name, named in BEHAVIOURS.items()}
        nearest = min(differences, key=lambda name: len(differences[name]))
        traits = differences[nearest]
        text = f"{nearest} with {', '.join(traits)}" if traits else nearest
        if missing := set(KERNEL_BUGS[nearest]) - self.bugs:
            text += f", without {', '.join(sorted(missing))}"
        if more := self.bugs - set(KERNEL_BUGS[nearest]):
            text += f", also {', '.join(sorted(more))}"
        return text + (f" (untold: {', '.join(self.untold)})" if self.untold else "")


def _differences(found: Behaviour, named: Behaviour) -> list[str]:
    """The fields in which they differ, "not" before those that are off."""
    return [
        f"{'' if getattr(found, name) else 'not '}{name}"
        for name in (field.name for field in fields(found))
        if name in BEHAVES and getattr(found, name) != getattr(named, name)
    ]


def recognise(kernel: KernelSide) -> Release:
    """Ask the kernel for every trait. What no history asks about stays as on 6.18. The arena is empty before and after.

    OSError: it has no PAGEMAP_SCAN (ENOTTY) or no userfaultfd with asynchronous write protection.
    """
    kernel.clear()
    answer, _ = scan(kernel, 0, 1, GET, (0, 0, 0, 0), 0, 0)
    if answer == errno.ENOTTY:
        raise OSError(errno.ENOTTY, "this kernel has no PAGEMAP_SCAN")
    kernel.open_uffd()
    features = kernel.features()
    release = Release(replace(BEHAVIOURS["6.18"], userfaultfd_features=features), frozenset())
    release = _choose(kernel, "thp", THP, [replace(release, thp=mode) for mode in THP_MODES])
    for name, history in [*BEHAVES.items(), *BUGS.items()]:
        release = _choose(kernel, name, history, candidates(name, release))
    return replace(release, bugs=release.bugs | _dangers(kernel, release.behaviour))


def candidates(trait: str, release: Release) -> list[Release]:
    """The release with a trait and without it."""
    if trait in BUGS:
        return [replace(release, bugs=bugs) for bugs in (release.bugs | {trait}, release.bugs - {trait})]
    values: list[dict[str, Any]] = [{trait: True}, {trait: False}]
    return [replace(release, behaviour=replace(release.behaviour, **value)) for value in values]


def model_of(release: Release) -> ModelSide:
    return ModelSide(release.machine(swap=False).process(), release.categories)


def last_answer(side: Any, history: Sequence[Operation]) -> Outcome:
    """What the last operation of a history answers."""
    return [outcome(side, operation) for operation in [("open_uffd",), *history]][-1]


def _choose(kernel: KernelSide, name: str, history: Sequence[Operation], choices: Sequence[Release]) -> Release:
    """The choice whose model answers as the kernel does: the first, if several do or none does."""
    kernel.clear()
    theirs = last_answer(kernel, history)
    kernel.clear()
    for choice in choices:
        if last_answer(model_of(choice), history) == theirs:
            return choice
    return replace(choices[0], untold=(*choices[0].untold, name))


def _dangers(kernel: KernelSide, found: Behaviour) -> set[str]:
    """The bugs that one must not provoke. A history ends before the operation that would.

    The crash and the hang were mended before what WRITTEN says of empty entries was (6.17 and 7.2, 6.12.50 and 6.12.97,
    6.12.103), so a kernel that has this has those. The endless MADV_GUARD_INSTALL can be ended by a signal.
    """
    dangers = (
        set() if found.written_for_none_generic else {behaviour.EXCLUSIVE_WP_OOPS, behaviour.HUGETLB_HOLE_DEADLOCK}
    )
    if found.guards_files and not kernel.guard_install_returns():
        dangers.add(behaviour.GUARD_INSTALL_SPINS)
    return dangers
