"""Random histories for the differential test.

``python -m tests.model.histories --minutes 10`` runs them and prints those that differ, shortened. Topics:

* ``swap`` needs swap space; a busy kernel may decline to page out, a difference that does not come again.
* ``hugetlb`` and ``hugetlb-shared`` need a few free huge pages (``vm.nr_hugepages``).

The model is what the kernel is recognised as (release.py), unless ``--behaviour`` names a release.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from pagescan.model import BEHAVIOURS

from .answers import CATEGORIES, FANOUT, PAGE, PAGES, Operation
from .differential import Difference, Pair, run
from .release import Release

#: More than one PMD range, less than two.
SOME = FANOUT * 700 // 512
KINDS = ("anonymous", "thp", "shared", "memfd", "hugetlb", "hugetlb-shared")


class Generator:
    """Random operations, mostly near each other and near PMD borders. ``topics`` chooses which."""

    def __init__(self, rng: random.Random, topics: Sequence[str], categories: int = CATEGORIES):
        self._rng = rng
        self._categories = categories
        self._topics = topics

    def history(self, length: int) -> list[Operation]:
        """Maps first, then ``length`` operations."""
        kinds = [k for k in KINDS if k in self._topics] or ["anonymous"]
        start = [("map", *self.span(wide=True), self._rng.choice(kinds)) for _ in range(self._rng.randint(1, 3))]
        return start + [self.operation(kinds) for _ in range(length)]

    def span(self, *, wide: bool = False) -> tuple[int, int]:
        """(page, count)."""
        r = self._rng
        page = r.choice((r.randrange(PAGES), r.randrange(4) * FANOUT, FANOUT + r.randrange(-9, 9), r.randrange(16)))
        count = r.choice(
            (1, r.randint(1, 20), r.randint(1, SOME), FANOUT, 2 * FANOUT)
            if not wide
            else (40, FANOUT, SOME, 2 * FANOUT, PAGES)
        )
        page = max(0, min(page, PAGES - 1))
        if any("hugetlb" in topic for topic in self._topics) and r.random() < 0.8:
            page, count = page // FANOUT * FANOUT, max(count // FANOUT, 1) * FANOUT
        return page, max(1, min(count, PAGES - page))

    def small(self) -> tuple[int, int]:
        page, count = self.span()
        return page, min(count, self._rng.choice((1, 2, 5, 30)))

    def masks(self) -> tuple[int, int, int, int]:
        r = self._rng
        if r.random() < 0.3:
            return 0, 2, 0, 2
        bits = [r.choice((0, 0, 1 << r.randrange(10), r.randrange(1024) & r.randrange(1024))) for _ in range(3)]
        bits.append(r.choice((CATEGORIES, 2, r.randrange(1024))))
        inverted, mask, anyof, returned = (value & self._categories for value in bits)
        return inverted, mask, anyof, returned

    def scan(self) -> Operation:
        r = self._rng
        flags = r.choice((0, 1, 1, 2, 3, 3))
        vec_len = r.choice((0, 1, 2, 3, 10, FANOUT - 1, FANOUT, FANOUT + 1, 2 * PAGES))
        limit = r.choice((0, 0, 1, 2, 7, 100, FANOUT - 1, FANOUT, FANOUT + 1, r.randint(1, PAGES)))
        return ("scan", *self.span(wide=r.random() < 0.5), flags, self.masks(), vec_len, limit)

    def operation(self, kinds: Sequence[str]) -> Operation:
        r = self._rng
        choices: list[tuple[int, str, Callable[[], Operation]]] = [
            (6, "", self.scan),
            (5, "", lambda: ("write", *self.small(), r.randrange(256))),
            (3, "", lambda: ("read", *self.small())),
            (3, "", lambda: ("register", *self.span(wide=r.random() < 0.6))),
            (2, "", lambda: ("wp", *self.span(), r.random() < 0.8)),
            (2, "", lambda: ("advise", *self.span(), "dontneed")),
            (1, "", lambda: ("map", *self.span(wide=True), r.choice(kinds))),
            (1, "", lambda: ("advise", *self.span(), r.choice(("populate_read", "populate_write")))),
            (2, "swap", lambda: ("advise", *self.span(), "pageout")),
            (1, "free", lambda: ("advise", *self.span(), "free")),
            (1, "unregister", lambda: ("unregister", *self.span())),
            (1, "unregister", lambda: ("open_uffd",)),
            (1, "unmap", lambda: ("unmap", *self.span())),
            (2, "guard", lambda: ("advise", *self.span(), r.choice(("guard_install", "guard_remove")))),
            (2, "mprotect", lambda: ("protect", *self.span(), r.choice(("none", "r", "rw", "rw")))),
            (2, "thp", lambda: ("advise", *self.span(), r.choice(self._huge_advice()))),
            (1, "remove", lambda: ("advise", *self.span(), "remove")),
            (2, "mremap", self.move),
            (1, "mremap", self.resize),
            (1, "fork", lambda: (r.choice(("fork", "fork", "child-exit")),)),
            (3, "fork", lambda: ("child-write", *self.small(), r.randrange(256))),
            (2, "fork", lambda: ("child-read", *self.small())),
            (1, "fork", lambda: ("child-" + (s := self.scan())[0], *s[1:])),
        ]
        weighted = [(w, make) for w, topic, make in choices if not topic or topic in self._topics]
        return r.choices([make for _, make in weighted], [w for w, _ in weighted])[0]()

    def _huge_advice(self) -> tuple[str, ...]:
        # The model has huge pages in anonymous memory only.
        files = {"shared", "memfd"} & set(self._topics)
        return ("hugepage", "nohugepage") + (() if files else ("collapse", "collapse"))

    def resize(self) -> Operation:
        page, count = self.span()
        return "resize", page, count, min(self._rng.randint(1, SOME), PAGES - page)

    def move(self) -> Operation:
        page, count = self.span()
        to, room = self.span(wide=True)
        if self._rng.random() < 0.3:
            page, to = page // FANOUT * FANOUT, to // FANOUT * FANOUT
        count = min(count, PAGES - page)
        return "move", page, count, min(self._rng.choice((count, count, room)), PAGES - to), to


TOPICS = (
    "anonymous",
    "thp",
    "shared",
    "memfd",
    "free",
    "unregister",
    "unmap",
    "guard",
    "mprotect",
    "remove",
    "mremap",
    "fork",
)


def shorten(pair: Pair, history: list[Operation]) -> list[Operation]:
    """Leave out whatever is not needed for a difference to remain."""
    step = max(len(history) // 2, 1)
    while step:
        at = 0
        while at < len(history):
            shorter = history[:at] + history[at + step :]
            if run(pair, shorter) is not None:
                history = shorter
            else:
                at += step
        step //= 2
    return history


def in_short(pair: Pair, history: list[Operation], difference: Difference) -> str:
    """A history that differs, shortened, and the difference that remains."""
    history = shorten(pair, history)
    lines = "\n".join(f"    {operation!r}," for operation in history)
    return f"{lines}\n  {run(pair, history) or difference}"


@dataclass
class Findings:
    """What a run of random histories came to.

    Attributes:
        topics: of the histories; ``length``: operations of each.
        count: histories run.
        ended_early: how many ended before an operation that this kernel would not come back from.
        differences: texts, one for each history that differs, shortened.
        passing: texts for those that differed once and not again.
    """

    topics: Sequence[str]
    length: int
    count: int = 0
    ended_early: int = 0
    differences: list[str] = field(default_factory=list)
    passing: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        text = f"{self.count} histories of {self.length} operations, {len(self.differences)} with a difference"
        text += f", {len(self.passing)} that differed once and not again" if self.passing else ""
        text += f", {self.ended_early} ended before a call that hangs or crashes" if self.ended_early else ""
        return f"{text} ({', '.join(self.topics)})"


def fuzz(
    pair: Pair,
    topics: Sequence[str],
    *,
    seconds: float,
    histories: int = 0,
    seed: int = 0,
    length: int = 40,
    stop: int = 3,
    tell: Callable[[str], None] = lambda text: None,
) -> Findings:
    """Run random histories, until the time is over, or so many (0: no limit) were run, or ``stop`` differed."""
    found = Findings(topics, length)
    end = time.monotonic() + seconds
    while time.monotonic() < end and (not histories or found.count < histories) and len(found.differences) < stop:
        name = f"{seed}-{found.count}"
        history = Generator(random.Random(name), topics, pair.categories).history(length)
        found.count += 1
        if found.count % 1000 == 0:
            tell(f"{found.count} histories so far")
        difference = run(pair, history)
        found.ended_early += pair.ended_early
        if difference is None:
            continue
        again = next((one for one in (run(pair, history) for _ in range(3)) if one), None)
        if again is None:
            found.passing.append(f"history {name}, once and not again: {difference}")
            tell(found.passing[-1])
            continue
        found.differences.append(f"history {name}:\n{in_short(pair, history, again)}")
        tell(found.differences[-1])
    pair.restart()
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--histories", type=int, default=0, help="end after so many (and not later than --minutes)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--length", type=int, default=40)
    parser.add_argument("--stop", type=int, default=3, help="differences after which to stop")
    parser.add_argument("--topics", default=",".join(TOPICS), help="comma-separated")
    parser.add_argument("--behaviour", choices=BEHAVIOURS, help="the release the model is to be (default: this one)")
    options = parser.parse_args()
    pair = Pair(Release.named(options.behaviour) if options.behaviour else None)
    print(f"Linux {os.uname().release}, {os.uname().machine}, pages of {PAGE}: the model as {pair.release}", flush=True)
    found = fuzz(
        pair,
        options.topics.split(","),
        seconds=options.minutes * 60,
        histories=options.histories,
        seed=options.seed,
        length=options.length,
        stop=options.stop,
        tell=lambda text: print(text, flush=True),
    )
    print(found)
    return 1 if found.differences else 0


if __name__ == "__main__":
    sys.exit(main())
