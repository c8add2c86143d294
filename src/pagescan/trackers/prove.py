"""Whether an engine works on memory of a kind: a round trip with the engine itself, on fresh memory like it.

That a call succeeds proves nothing (a kernel without soft-dirty accepts the reset), nor does a release. So a few pages
are covered, one of them is written to, and the engine is asked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import KernelCannot
from ..ranges import Regions

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..abi import AddressSpace, MemoryKind, TrialMemory
    from .base import Engine


#: Engines that may name too many have as many rounds to name no more than was written to.
_ROUNDS = 3


def prove(space: AddressSpace, kind: MemoryKind, make_engine: Callable[[AddressSpace], Engine]) -> str:
    """What was seen, in a sentence. Raises KernelCannot if it was wrong, and what the engine raises."""
    for attempt in range(_ROUNDS):
        with space.trial(kind) as memory:
            engine = make_engine(memory.space)
            try:
                return _Round(engine, memory, kind).go()
            except _TooMany as error:
                if attempt == _ROUNDS - 1 or not error.said:
                    raise
            finally:
                engine.close()
    raise AssertionError("the last round returns or raises")


class _TooMany(KernelCannot):
    """Pages were named that nobody wrote to; ``said``: the engine owns to naming too many."""

    said = False


class _Round:
    """One engine, some pages, and what is expected of the one about the other."""

    def __init__(self, engine: Engine, memory: TrialMemory, kind: MemoryKind):
        self._engine, self._memory, self._kind = engine, memory, kind
        self._pages = Regions.span(
            memory.start, memory.start + memory.count * memory.size, page_size=memory.space.page_size
        )
        self._extents = engine.plan(self._pages)
        self._middle = memory.count // 2

    def go(self) -> str:
        self._memory.write(0)
        self._engine.cover(self._extents)
        try:
            self._engine.arm(self._extents, "scan")
            self._expect([], "covering fresh pages")
            self._memory.write(self._middle)
            self._expect([self._middle], "writing to one", take=False)
            self._expect([self._middle], "writing to one")
            self._memory.write(0, self._memory.count - 1)
            self._expect(sorted({0, self._memory.count - 1}), "writing to two")
            if self._kind.anonymous:
                self._memory.drop(0)
                self._expect([0], "giving one back")
        finally:
            self._engine.uncover(self._pages)
        count = "one" if self._memory.count == 1 else str(self._memory.count)
        return f"covered {count} fresh page{'s' * (count != 'one')} and wrote to one: it was reported, once"

    def _expect(self, expected: list[int], after: str, *, take: bool = True) -> None:
        """Exactly these pages."""
        findings = self._engine.take(self._extents) if take else self._engine.peek(self._extents)
        memory = self._memory
        found = [i for i in range(memory.count) if findings.written.clip(*self._bounds(i))]
        if findings.losses:
            raise KernelCannot(f"after {after} of {self._kind}, the answer was: {findings.losses[0].why}")
        wrong = f"after {after} of {self._kind}, pages {found} were reported instead of {expected}"
        if set(expected) - set(found):
            raise KernelCannot(wrong)
        if set(found) - set(expected):
            error = _TooMany(wrong)
            error.said = bool(self._engine.caveat(findings.written, self._extents))
            raise error

    def _bounds(self, index: int) -> tuple[int, int]:
        start = self._memory.start + index * self._memory.size
        return start, start + self._memory.size
