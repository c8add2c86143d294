"""The model and this kernel, the same operations, every answer compared (the machinery is in differential.py).

``python -m tests.model.histories --minutes 10`` runs longer histories.
"""

from __future__ import annotations

import errno
import os
import random
import sys
from collections.abc import Callable, Iterator, Sequence

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from pagescan.model import KernelFailure

if sys.platform != "linux":
    pytest.skip("the differential test needs Linux", allow_module_level=True)

from .answers import ARENA, FANOUT, PAGES, Operation
from .differential import Difference, Pair, free_huge_pages, has_swap, run
from .histories import TOPICS, Generator, fuzz, in_short

TOPIC_SETS = [
    ("anonymous", "unregister", "unmap", "free"),
    ("anonymous", "guard", "mprotect", "unregister"),
    ("thp", "unregister", "unmap"),
    ("shared", "memfd", "remove", "unregister"),
    ("anonymous", "mremap", "unregister"),
    ("anonymous", "shared", "memfd", "fork", "guard", "mremap"),
    tuple(topic for topic in TOPICS if topic != "free"),
    ("anonymous", "thp", "swap", "unregister"),
    ("hugetlb", "hugetlb-shared", "fork", "unregister"),
    ("hugetlb", "hugetlb-shared", "anonymous", "fork", "unregister", "mprotect", "remove", "unmap"),
]
#: Of test_many_histories.
SEED = 1


#: Seconds of test_many_histories: short by itself, longer in the guests of scripts/test-kernels.
SECONDS = float(os.environ.get("PAGESCAN_DIFFERENTIAL_SECONDS", "2"))


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    """This kernel and its twin; skips by name where the kernel lacks what is compared."""
    try:
        made = Pair()
    except OSError as problem:
        if problem.errno == errno.ENOTTY:
            pytest.skip("this kernel has no PAGEMAP_SCAN, which Linux 6.7 brought")
        pytest.skip(f"no memory at {ARENA:#x}, no pagemap or no asynchronous write protection: {problem}")
    yield made
    made.restart()


def needs(topics: Sequence[str]) -> None:
    """Skip by name what this machine has no swap or no huge pages for."""
    if "swap" in topics and not has_swap():
        pytest.skip("no swap space")
    if "hugetlb" in topics and free_huge_pages() < 8:
        pytest.skip("fewer than 8 free hugetlb pages (vm.nr_hugepages)")


def test_the_kernel_is_recognised(pair: Pair, record_property: Callable[[str, object], None]) -> None:
    """Every trait was answered in one of the ways that the model knows (that of hugetlb needs a free huge page)."""
    record_property("model", str(pair.release))
    assert set(pair.release.untold) <= {"partial-hugetlb-progress"}


@pytest.mark.timeout(SECONDS + 300)
def test_many_histories(pair: Pair, record_property: Callable[[str, object], None]) -> None:
    found = fuzz(pair, TOPICS, seconds=SECONDS, seed=SEED)
    record_property("histories", str(found))
    assert not found.differences, "\n".join(found.differences)
    assert found.count


@pytest.mark.parametrize("topics", TOPIC_SETS, ids="+".join)
@pytest.mark.parametrize("seed", range(3))
def test_random_histories(pair: Pair, topics: tuple[str, ...], seed: int) -> None:
    needs(topics)
    history = Generator(random.Random(f"{seed}-{topics}"), topics, pair.categories).history(40)
    difference = run(pair, history)
    assert difference is None, in_short(pair, history, difference)


pages = st.one_of(
    st.integers(0, PAGES - 1),
    st.builds(lambda pmd, off: max(0, min(PAGES - 1, pmd * FANOUT + off)), st.integers(0, 3), st.integers(-3, 3)),
)
counts = st.one_of(st.integers(1, 20), st.sampled_from([FANOUT, 2 * FANOUT]))
masks = st.tuples(*[st.one_of(st.sampled_from([0, 2, 8, 16]), st.integers(0, 1023))] * 4)
lengths = st.sampled_from([0, 1, 2, 3, FANOUT - 1, FANOUT, FANOUT + 1, 2 * PAGES])


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
        known = tuple(mask & self.pair.categories for mask in masks)
        self.apply("scan", page, min(count, PAGES - page), flags, known, vec_len, limit)

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


@pytest.mark.timeout(SECONDS + 300)
def test_state_machine(pair: Pair) -> None:
    Twins.pair = pair
    examples = int(os.environ.get("PAGESCAN_DIFFERENTIAL_EXAMPLES", "25"))
    slow = [HealthCheck.too_slow]
    run_state_machine_as_test(
        Twins,
        settings=settings(
            max_examples=examples, stateful_step_count=30, deadline=None, suppress_health_check=slow, database=None
        ),
    )


def test_a_difference_is_found(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison itself works: a model that forgets to protect is caught, and the history shortened."""
    monkeypatch.setattr("pagescan.model.scan._Call._protect", lambda *arguments: None)
    protects = [("map", 0, 40, "anonymous"), ("register", 0, 40), ("scan", 0, 40, 3, (0, 0, 0, 2), 10, 0)]
    difference = run(pair, protects)
    assert isinstance(difference, Difference)
    assert (difference.step, difference.what) == (4, "categories")


#: Shortened histories in which the model was wrong once.
MENDED: dict[str, list[Operation]] = {
    # The first window of pages mapped around a fault begins where the mapping begins, and reaches into the next.
    "fault-around": [
        ("map", 7, 512, "memfd"),
        ("fork",),
        ("child-write", 15, 30, 183),
        ("advise", 13, 9, "populate_read"),
    ],
    # A read beyond the end of a file maps the pages before the end all the same.
    "fault-around-beyond-the-end": [
        ("map", 520, 1024, "shared"),
        ("move", 1536, 1, 700, 0),
        ("read", 0, 30),
        ("advise", 0, 512, "dontneed"),
        ("read", 14, 2),
    ],
    # What lies before part of a hugetlb page is unregistered before that is found to be impossible.
    "unregister-up-to-part-of-hugetlb": [
        ("map", 0, 4 * FANOUT, "hugetlb-shared"),
        ("map", 0, FANOUT, "anonymous"),
        ("register", 0, 2 * FANOUT),
        ("unregister", FANOUT - 6, FANOUT),
    ],
    # The child gets a table of tables for memory that has none, and so its hugetlb entries are empty ones.
    "fork-of-empty-hugetlb": [
        ("map", 0, 2 * FANOUT, "anonymous"),
        ("write", 0, 2, 52),
        ("map", 0, FANOUT, "hugetlb-shared"),
        ("fork",),
    ],
}


@pytest.mark.parametrize("name", MENDED)
def test_histories_that_differed_once(pair: Pair, name: str) -> None:
    if "hugetlb" in name:
        needs(["hugetlb"])
    assert run(pair, MENDED[name]) is None
