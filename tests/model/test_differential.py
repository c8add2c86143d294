"""The model and this kernel, the same operations, every answer compared (the machinery is in differential.py).

``python -m tests.model.histories --minutes 10`` runs longer histories.
"""

from __future__ import annotations

import os
import random
import sys

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from pagescan.model import KernelFailure

if sys.platform != "linux":
    pytest.skip("the differential test needs Linux", allow_module_level=True)

from .answers import ARENA, PAGES, Operation
from .differential import Difference, Pair, run
from .histories import TOPICS, Generator

TOPIC_SETS = [
    ("anonymous", "unregister", "unmap", "free"),
    ("anonymous", "guard", "mprotect", "unregister"),
    ("thp", "unregister", "unmap"),
    ("shared", "memfd", "remove", "unregister"),
    ("anonymous", "mremap", "unregister"),
    ("anonymous", "shared", "memfd", "fork", "guard", "mremap"),
    tuple(topic for topic in TOPICS if topic != "free"),
]


def why_not() -> str:
    """Why this kernel cannot be compared with the model's 6.18, or "": probed, never told by its version."""
    try:
        pair = Pair()
    except OSError as problem:
        return f"no memory at {ARENA:#x} or no pagemap: {problem}"
    try:
        # What 6.18.44 and the model answer; an older or newer release differs in one of these (kernel-facts 1.9).
        difference = run(pair, PROBE)
    except OSError as problem:
        return f"no userfaultfd with asynchronous write protection: {problem}"
    finally:
        pair.restart()
    return f"this kernel behaves like another release: {difference}" if difference else ""


PROBE: list[Operation] = [
    ("map", 0, 40, "anonymous"),
    ("write", 3, 1, 1),
    ("scan", 0, 40, 0, (0, 0, 0, 511), 10, 0),
    ("register", 0, 40),
    ("scan", 0, 40, 3, (0, 2, 0, 2), 10, 0),
    ("advise", 3, 1, "dontneed"),
    ("scan", 0, 40, 1, (0, 2, 0, 3), 10, 0),
    ("advise", 5, 1, "guard_install"),
]
REASON = why_not()
pytestmark = pytest.mark.skipif(bool(REASON), reason=REASON)


@pytest.fixture(scope="module")
def pair() -> Pair:
    return Pair()


@pytest.mark.parametrize("topics", TOPIC_SETS, ids="+".join)
@pytest.mark.parametrize("seed", range(3))
def test_random_histories(pair: Pair, topics: tuple[str, ...], seed: int) -> None:
    history = Generator(random.Random(f"{seed}-{topics}"), topics).history(40)
    assert run(pair, history) is None


pages = st.one_of(
    st.integers(0, PAGES - 1),
    st.builds(lambda pmd, off: max(0, min(PAGES - 1, pmd * 512 + off)), st.integers(0, 3), st.integers(-3, 3)),
)
counts = st.one_of(st.integers(1, 20), st.sampled_from([512, 1024]))
masks = st.tuples(*[st.one_of(st.sampled_from([0, 2, 8, 16]), st.integers(0, 511))] * 4)
lengths = st.sampled_from([0, 1, 2, 3, 511, 512, 513, 4000])


class Twins(RuleBasedStateMachine):
    """Each rule is one operation on both sides; Pair.apply compares the outcome and the state of every page."""

    pair: Pair

    def __init__(self) -> None:
        super().__init__()
        self.over = False

    def apply(self, *operation: object) -> None:
        if self.over:
            return
        try:
            self.pair.apply(operation)
        except KernelFailure:
            self.over = True

    @initialize(kind=st.sampled_from(["anonymous", "thp", "shared", "memfd"]))
    def begin(self, kind: str) -> None:
        self.pair.restart()
        self.apply("open_uffd")
        self.apply("map", 0, PAGES, kind)

    @rule(page=pages, count=st.integers(1, 20), value=st.integers(0, 255))
    def write(self, page: int, count: int, value: int) -> None:
        self.apply("write", page, min(count, PAGES - page), value)

    @rule(page=pages, count=st.integers(1, 20))
    def read(self, page: int, count: int) -> None:
        self.apply("read", page, min(count, PAGES - page))

    @rule(page=pages, count=counts)
    def register(self, page: int, count: int) -> None:
        self.apply("register", page, min(count, PAGES - page))

    @rule(page=pages, count=counts)
    def unregister(self, page: int, count: int) -> None:
        self.apply("unregister", page, min(count, PAGES - page))

    @rule(page=pages, count=counts, on=st.booleans())
    def protect_by_ioctl(self, page: int, count: int, on: bool) -> None:
        self.apply("wp", page, min(count, PAGES - page), on)

    @rule(flags=st.integers(0, 3), masks=masks, page=pages, count=counts, vec_len=lengths, limit=lengths)
    def scan(self, flags: int, masks: tuple[int, ...], page: int, count: int, vec_len: int, limit: int) -> None:
        self.apply("scan", page, min(count, PAGES - page), flags, masks, vec_len, limit)

    @rule(
        what=st.sampled_from(["dontneed", "guard_install", "guard_remove", "populate_read"]), page=pages, count=counts
    )
    def advise(self, what: str, page: int, count: int) -> None:
        self.apply("advise", page, min(count, PAGES - page), what)

    @rule(prot=st.sampled_from(["none", "r", "rw"]), page=pages, count=counts)
    def protect(self, prot: str, page: int, count: int) -> None:
        self.apply("protect", page, min(count, PAGES - page), prot)

    @rule(page=pages, count=counts, to=pages)
    def move(self, page: int, count: int, to: int) -> None:
        count = min(count, PAGES - max(page, to))
        self.apply("move", page, count, count, to)

    @rule()
    def fork(self) -> None:
        self.apply("fork")

    @rule(page=pages, count=st.integers(1, 20), value=st.integers(0, 255))
    def write_in_the_child(self, page: int, count: int, value: int) -> None:
        self.apply("child-write", page, min(count, PAGES - page), value)

    def teardown(self) -> None:
        self.pair.restart()


def test_state_machine(pair: Pair) -> None:
    Twins.pair = pair
    examples = int(os.environ.get("PAGESCAN_DIFFERENTIAL_EXAMPLES", "25"))
    run_state_machine_as_test(Twins, settings=settings(max_examples=examples, stateful_step_count=30, deadline=None))


def test_a_difference_is_found(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison itself works: a model that forgets to protect is caught, and the history shortened."""
    monkeypatch.setattr("pagescan.model.scan._Call._protect", lambda *arguments: None)
    difference = run(pair, PROBE)
    assert isinstance(difference, Difference)
    assert (difference.step, difference.what) == (6, "categories")


#: Shortened histories in which the model was wrong once.
MENDED: dict[str, list[Operation]] = {
    # The first window of pages mapped around a fault begins where the mapping begins, and reaches into the next.
    "fault-around": [
        ("map", 7, 512, "memfd"),
        ("fork",),
        ("child-write", 15, 30, 183),
        ("advise", 13, 9, "populate_read"),
    ],
}


@pytest.mark.parametrize("name", MENDED)
def test_histories_that_differed_once(pair: Pair, name: str) -> None:
    assert run(pair, MENDED[name]) is None
