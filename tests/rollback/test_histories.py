"""Random histories of several marks over the same memory, against whole copies of it, on both machines."""

from __future__ import annotations

import mmap
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule

import pagescan
from pagescan.model import Machine
from tests.conformance.kernel_memory import libc

PAGE = mmap.PAGESIZE
PAGES = 40
NBYTES = PAGES * PAGE
MADV_DONTNEED = 4

places = st.integers(0, NBYTES - 1)
lengths = st.one_of(st.integers(1, 40), st.integers(PAGE - 2, 6 * PAGE))


class KernelMachine:
    """Private memory of this process."""

    def __init__(self) -> None:
        self.array = pagescan.zeros(NBYTES, np.uint8)

    def part(self, start: int, end: int) -> Any:
        return self.array[start:end]

    def write(self, start: int, data: bytes) -> None:
        self.array[start : start + len(data)] = np.frombuffer(data, np.uint8)

    def drop(self, start: int, length: int) -> None:
        assert libc.madvise(self.array.ctypes.data + start, length, MADV_DONTNEED) == 0

    def contents(self) -> bytes:
        return self.array.tobytes()


class ModelMachine:
    """The same of a process of the model."""

    def __init__(self) -> None:
        self.process = Machine().process()
        self.at = self.process.mmap(NBYTES)

    def part(self, start: int, end: int) -> Any:
        return self.process.buffer(self.at + start, end - start)

    def write(self, start: int, data: bytes) -> None:
        self.process.write(self.at + start, data)

    def drop(self, start: int, length: int) -> None:
        self.process.madvise(self.at + start, length, "dontneed")

    def contents(self) -> bytes:
        return self.process.read(self.at, NBYTES)


class Marked:
    """A mark of [start, end), the bytes it must put back, and the pages that may have changed since."""

    def __init__(self, machine: Any, start: int, end: int):
        self.start, self.end = start, end
        self.mark = pagescan.mark(machine.part(start, end))
        self.bytes = machine.contents()[start:end]
        self.touched: set[int] = set()


class Histories(RuleBasedStateMachine):
    """``expected`` is what the memory must hold; each mark knows which pages at most it may copy."""

    machine_type: Any
    marks = Bundle("marks")

    @initialize(seed=st.binary(min_size=1, max_size=8))
    def begin(self, seed):
        self.machine = self.machine_type()
        self.machine.write(0, (seed * NBYTES)[:NBYTES])
        self.expected = bytearray(self.machine.contents())
        self.open: list[Marked] = []

    def touch(self, start: int, end: int, but: Marked | None = None) -> None:
        for other in self.open:
            if other is not but:
                other.touched |= set(range(start // PAGE, -(-end // PAGE)))

    @rule(target=marks, start=places, length=st.one_of(st.just(NBYTES), lengths, st.integers(0, NBYTES)))
    def make(self, start, length):
        if len(self.open) >= 4:
            return multiple()
        marked = Marked(self.machine, start, min(NBYTES, start + length))
        self.open.append(marked)
        return marked

    @rule(start=places, data=st.binary(min_size=1, max_size=8), length=lengths)
    def write(self, start, data, length):
        content = (data * length)[: min(length, NBYTES - start)]
        self.machine.write(start, content)
        self.expected[start : start + len(content)] = content
        self.touch(start, start + len(content))

    @rule(pages=st.sets(st.integers(0, PAGES - 1), min_size=20), value=st.integers(0, 255))
    def scatter(self, pages, value):
        for page in pages:
            self.machine.write(page * PAGE + 17, bytes([value]))
            self.expected[page * PAGE + 17] = value
            self.touch(page * PAGE, page * PAGE + 18)

    @rule(page=st.integers(0, PAGES - 1), count=st.integers(1, PAGES))
    def give_back(self, page, count):
        count = min(count, PAGES - page)
        self.machine.drop(page * PAGE, count * PAGE)
        self.expected[page * PAGE : (page + count) * PAGE] = bytes(count * PAGE)
        self.touch(page * PAGE, (page + count) * PAGE)

    @rule(marked=marks, recheck=st.booleans())
    def restore(self, marked, recheck):
        allowed = self.bytes_of(marked)
        assert marked.mark.restore(recheck=recheck) <= allowed
        self.expected[marked.start : marked.end] = marked.bytes
        for page in marked.touched:
            low, high = max(marked.start, page * PAGE), min(marked.end, (page + 1) * PAGE)
            if low < high:
                self.touch(low, high, but=marked)
        marked.touched = set()
        assert marked.mark.restore() == 0

    @rule(marked=marks)
    def advance(self, marked):
        assert marked.mark.advance() <= self.bytes_of(marked)
        marked.bytes = bytes(self.expected[marked.start : marked.end])
        marked.touched = set()
        assert not marked.mark.changed()

    @rule(marked=consumes(marks))
    def close(self, marked):
        marked.mark.close()
        self.open.remove(marked)

    def bytes_of(self, marked: Marked) -> int:
        """The bytes of the mark in pages that were touched: as many as it may copy."""
        bounds = ((max(marked.start, p * PAGE), min(marked.end, (p + 1) * PAGE)) for p in marked.touched)
        return sum(max(0, high - low) for low, high in bounds)

    @invariant()
    def memory_is_as_expected(self):
        if hasattr(self, "machine"):
            assert self.machine.contents() == self.expected

    def teardown(self):
        for marked in getattr(self, "open", []):
            marked.mark.close()


class OnKernel(Histories):
    machine_type = KernelMachine


class OnModel(Histories):
    machine_type = ModelMachine


TestOnModel = OnModel.TestCase
TestOnKernel = pytest.mark.usefixtures("tracking")(OnKernel.TestCase)
TestOnModel.settings = TestOnKernel.settings = settings(max_examples=40, stateful_step_count=30)
