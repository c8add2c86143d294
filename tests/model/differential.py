"""The same operations on the model and on the running kernel, and every answer compared.

An operation is a tuple: a name and numbers. Pages are counted from the start of an arena, a range of addresses that
both sides use for nothing else. After each operation the two outcomes are compared (a value, or an errno), then the
categories of every page of the arena, then the mappings. ``histories`` makes random ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pagescan.abi import TRACKING_FEATURES
from pagescan.model import BEHAVIOURS, KERNEL_BUGS, KernelFailure, Machine, Process
from pagescan.query import Category

from .answers import ARENA, CATEGORIES, PAGE, Operation, address, observe, outcome
from .kernel_side import KernelSide, RemoteSide


def has_swap() -> bool:
    """Whether anything can be swapped out here (``/proc/swaps`` has more than its heading)."""
    with open("/proc/swaps") as lines:
        return len(lines.readlines()) > 1


class ModelSide:
    """The arena in a process of the model."""

    def __init__(self, process: Process, categories: int):
        self.process = process
        self.categories = categories
        self._uffd: Any = None

    def map(self, page: int, count: int, kind: str) -> None:
        self.process.mmap(
            count * PAGE,
            {"memfd": "shmem", "hugetlb": "hugetlb", "hugetlb-shared": "hugetlb"}.get(kind, "anonymous"),
            shared="shared" in kind,
            thp=kind == "thp",
            fixed=address(page),
        )

    def unmap(self, page: int, count: int) -> None:
        self.process.munmap(address(page), count * PAGE)

    def protect(self, page: int, count: int, prot: str) -> None:
        self.process.mprotect(address(page), count * PAGE, prot)

    def advise(self, page: int, count: int, what: str) -> None:
        self.process.madvise(address(page), count * PAGE, what)

    def write(self, page: int, count: int, value: int) -> None:
        for at in range(page, page + count):
            self.process.write(address(at), bytes([value]))

    def read(self, page: int, count: int) -> bytes:
        return b"".join(self.process.read(address(at), 1) for at in range(page, page + count))

    def move(self, page: int, count: int, new: int, to: int) -> None:
        self.process.mremap(address(page), count * PAGE, new * PAGE, to=address(to))

    def resize(self, page: int, count: int, new: int) -> None:
        self.process.mremap(address(page), count * PAGE, new * PAGE, may_move=False)

    def open_uffd(self) -> None:
        self.close_uffd()
        self._uffd = self.process.open_userfaultfd(TRACKING_FEATURES)

    def close_uffd(self) -> None:
        if self._uffd is not None:
            self._uffd.close()
            self._uffd = None

    def register(self, page: int, count: int) -> int:
        return int(self._uffd.register(address(page), count * PAGE))

    def unregister(self, page: int, count: int) -> None:
        self._uffd.unregister(address(page), count * PAGE)

    def wp(self, page: int, count: int, on: int) -> None:
        self._uffd.writeprotect(address(page), count * PAGE, protect=bool(on))

    def ioctl_scan(self, argument: bytearray, vec: Any) -> int:
        return self.process.pagemap.ioctl_scan(argument, vec)

    def mappings(self) -> list[tuple[int, int, str]]:
        return [((m.start - ARENA) // PAGE, (m.end - ARENA) // PAGE, m.perms) for m in self.process.mappings()]


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
    """Both sides, and their children after a fork. Operations named "child-..." go to the children."""

    def __init__(self, behaviour: str = "6.18") -> None:
        self._behaviour = behaviour
        # Soft-dirty bits depend on the kernel's configuration, and the model never sets one.
        self.categories = int(BEHAVIOURS[behaviour].known & ~Category.SOFT_DIRTY) & CATEGORIES
        self.kernel = KernelSide(self.categories)
        self.model = self._new_model()
        self._kernel_child: RemoteSide | None = None
        self._model_child: ModelSide | None = None
        self._step = 0

    def restart(self) -> None:
        self.close()
        self.kernel.clear()
        self.model = self._new_model()
        self._step = 0

    def _new_model(self) -> ModelSide:
        machine = Machine(behaviour=self._behaviour, bugs=KERNEL_BUGS[self._behaviour], swap=has_swap())
        return ModelSide(machine.process(), self.categories)

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
    try:
        pair.apply(("open_uffd",))
        for operation in history:
            pair.apply(operation)
    except Difference as difference:
        return difference
    except KernelFailure:
        # The kernel would not come back from the next operation, so it is not tried there.
        pass
    return None
