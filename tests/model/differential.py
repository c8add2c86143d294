"""The same operations on the model and on the running kernel, and every answer compared.

An operation is a tuple: a name and numbers. Pages are counted from the start of an arena, a range of addresses that
both sides use for nothing else. After each operation the two outcomes are compared (a value, or an errno), then the
categories of every page of the arena, then the mappings. ``histories`` makes random ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pagescan.model import KernelFailure

from .answers import Operation, observe, outcome
from .kernel_side import KernelSide, RemoteSide
from .model_side import ModelSide
from .release import Release, recognise


def has_swap() -> bool:
    """Whether anything can be swapped out here (``/proc/swaps`` has more than its heading)."""
    with open("/proc/swaps") as lines:
        return len(lines.readlines()) > 1


def free_huge_pages() -> int:
    """Hugetlb pages of the default size that nobody has."""
    with open("/proc/meminfo") as lines:
        return next((int(line.split()[1]) for line in lines if line.startswith("HugePages_Free")), 0)


@dataclass
class Difference(AssertionError):
    """The two sides disagree."""

    step: int
    operation: Operation
    what: str
    kernel: Any
    model: Any

    def __str__(self) -> str:
        return f"step {self.step}: {self.operation}\n  {self.what}\n  kernel: {self.kernel}\n  model:  {self.model}"


class Pair:
    """Both sides, and their children after a fork. Operations named "child-..." go to the children.

    The model is what ``release`` says, or what the kernel is recognised as. ``ended_early``: whether the last history
    ended before an operation that this kernel would not come back from.
    """

    def __init__(self, release: Release | None = None) -> None:
        self.kernel = KernelSide()
        self.release = release or recognise(self.kernel)
        self.categories = self.kernel.categories = self.release.categories
        self.model = self._new_model()
        self._kernel_child: RemoteSide | None = None
        self._model_child: ModelSide | None = None
        self._step = 0
        self.ended_early = False

    def restart(self) -> None:
        self.close()
        self.kernel.clear()
        self.model = self._new_model()
        self._step = 0

    def _new_model(self) -> ModelSide:
        return ModelSide(self.release.machine(swap=has_swap()).process(), self.categories)

    def close(self) -> None:
        if self._kernel_child is not None:
            self._kernel_child.close()
            self._kernel_child = None
            assert self._model_child is not None
            self._model_child.process.exit()
            self._model_child = None

    @property
    def has_child(self) -> bool:
        return self._kernel_child is not None

    def apply(self, operation: Operation) -> None:
        """Do it on both sides and compare. Raises Difference, or KernelFailure before the kernel is asked."""
        self._step += 1
        name = operation[0]
        if name == "fork":
            if not self.has_child:
                self._kernel_child = self.kernel.fork()
                self._model_child = ModelSide(self.model.process.fork(), self.categories)
        elif name == "child-exit":
            self.close()
        elif name.startswith("child-"):
            if self._kernel_child is not None:
                inner = (name.removeprefix("child-"), *operation[1:])
                self._same(operation, "outcome", self._kernel_child.ask(inner), outcome(self._model_child, inner))
        else:
            twin = outcome(self.model, operation)
            self._same(operation, "outcome", outcome(self.kernel, operation), twin)
        self._compare_state(operation)

    def _compare_state(self, operation: Operation) -> None:
        regions, mappings = observe(self.kernel)
        twin_regions, twin_mappings = observe(self.model)
        self._same(operation, "categories", regions, twin_regions)
        self._same(operation, "mappings", mappings, twin_mappings)
        if self._kernel_child is not None:
            theirs, twin = self._kernel_child.ask("observe"), observe(self._model_child)
            self._same(operation, "categories in the child", theirs[0], twin[0])
            self._same(operation, "mappings in the child", theirs[1], twin[1])

    def _same(self, operation: Operation, what: str, kernel: Any, model: Any) -> None:
        if kernel != model:
            raise Difference(self._step, operation, what, *_shortened(kernel, model))


def _shortened(kernel: Any, model: Any) -> tuple[Any, Any]:
    if isinstance(kernel, list) and isinstance(model, list):
        return [x for x in kernel if x not in model][:8], [x for x in model if x not in kernel][:8]
    return kernel, model


def run(pair: Pair, history: Sequence[Operation]) -> Difference | None:
    """A whole history from an empty arena; the difference, if there is one."""
    pair.restart()
    pair.ended_early = False
    try:
        pair.apply(("open_uffd",))
        for operation in history:
            pair.apply(operation)
    except Difference as difference:
        return difference
    except KernelFailure:
        # The kernel would not come back from the next operation, so it is not tried there.
        pair.ended_early = True
    return None
