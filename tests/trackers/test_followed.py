"""Another process tracked by each engine that can: what it does to its memory is in the answers of all of them."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

import pagescan
from pagescan import AccessDenied, InvalidArgument, KernelCannot, NoSuchProcess, PagescanError, Quality, Regions
from pagescan.process import attach as attaching

from .target import PAGE, Target
from .test_process_tracker import pages

ENGINES = ["pagemap-scan", "pagemap-read", "compare"]


@pytest.fixture
def target() -> Iterator[Target]:
    made = Target()
    yield made
    made.end()


@pytest.fixture(params=ENGINES)
def tracked(request: pytest.FixtureRequest, target: Target) -> Iterator[tuple[Target, pagescan.ProcessTracker, int]]:
    at = target.area(16)
    try:
        tracker = pagescan.attach(target.pid, engine=request.param)
    except PagescanError as error:
        if error.errno is None and not error.hint:
            raise
        pytest.skip(f"attaching by {request.param}: {error.message}")
    with tracker:
        assert tracker.engine == request.param
        target.do("0")
        tracker.take()
        yield target, tracker, at


class TestEveryEngine:
    def test_written_pages_are_named_once(self, tracked):
        target, tracker, at = tracked
        target.do(f"put({at}, 5, 7) or put({at}, 9, 7)")
        assert pages(tracker.peek(), at) == [5, 9]
        assert pages(tracker.take(), at) == [5, 9]
        assert pages(tracker.take(), at) == []

    def test_contents_are_read(self, tracked):
        target, tracker, at = tracked
        target.do(f"put({at}, 3, 65)")
        written = tracker.take().clip(at, at + 16 * PAGE)
        assert bytes(tracker.read(Regions.trusted(written.to_records(), page_size=PAGE))[:2]) == b"A\1"[:1] + b"\0"

    def test_cursors_and_transactions(self, tracked):
        target, tracker, at = tracked
        cursor = tracker.cursor()
        target.do(f"put({at}, 1, 7)")
        taking = tracker.taking()
        assert pages(taking.__enter__(), at) == [1]
        assert not taking.__exit__(ConnectionError, ConnectionError(), None)
        target.do(f"put({at}, 2, 7)")
        assert pages(tracker.take(), at) == [1, 2]
        assert pages(cursor.take(), at) == [1, 2]

    def test_new_memory_is_named_and_followed(self, tracked):
        target, tracker, _ = tracked
        new = target.do("fill(new(8), 8)")
        assert pages(tracker.take(), new, 8) == list(range(8))
        target.do(f"put({new}, 4, 9)")
        assert pages(tracker.take(), new, 8) == [4]

    def test_memory_given_back_is_named(self, tracked):
        target, tracker, at = tracked
        target.do(f"libc.madvise({at + 3 * PAGE}, PAGE, 4)")
        assert pages(tracker.take(), at) == [3]
        target.do(f"put({at}, 3, 9)")
        assert pages(tracker.take(), at) == [3]

    def test_memory_replaced_at_the_same_place(self, tracked):
        target, tracker, at = tracked
        target.do(f"fill(new(4, at={at + 4 * PAGE}), 4) and put({at}, 5, 8)")
        assert 5 in pages(tracker.take(), at)
        target.do(f"put({at}, 6, 8)")
        assert 6 in pages(tracker.take(), at)

    def test_memory_that_goes_is_forgotten(self, tracked):
        target, tracker, at = tracked
        target.do(f"put({at}, 1, 8) or libc.munmap({at + 8 * PAGE}, {8 * PAGE})")
        assert pages(tracker.take(), at) == [1]
        assert len(tracker.pages.clip(at + 8 * PAGE, at + 16 * PAGE)) == 0

    def test_after_its_end_there_is_one_last_answer(self, tracked):
        target, tracker, at = tracked
        cursor = tracker.cursor()
        target.do(f"put({at}, 1, 8)")
        tracker.take()
        target.end()
        last = cursor.take()
        assert last.quality is Quality.LOST
        assert pages(last, at) == [1]
        with pytest.raises(NoSuchProcess):
            cursor.take()


class TestChoice:
    def test_an_engine_that_cannot_follow_is_refused(self, target):
        with pytest.raises(InvalidArgument, match="'soft-dirty' cannot track") as caught:
            pagescan.attach(target.pid, engine="soft-dirty")
        assert "compare" in str(caught.value.hint)

    def test_compare_does_nothing_to_the_process(self, target):
        with pagescan.attach(target.pid, engine="compare") as tracker:
            assert tracker.pause_ns == 0
            assert tracker.why.startswith("forced by name; ")

    def test_without_a_userfaultfd_it_compares_and_says_why(self, target, monkeypatch):
        def refuse(*_, **__):
            raise AccessDenied("its seccomp filter might kill it", hint="sudo", pid=target.pid)

        monkeypatch.setattr(attaching, "take_userfaultfd", refuse)
        with pagescan.attach(target.pid) as tracker:
            assert tracker.engine == "compare"
            assert "pagemap-scan was passed over: its seccomp filter might kill it" in tracker.why
        with pytest.raises(AccessDenied, match="might kill it"):
            pagescan.attach(target.pid, engine="pagemap-scan")

    def test_a_process_that_is_traced_already(self, target):
        """One tracer at a time; reading memory needs none."""
        at = target.area(4)
        code = f"""
import ctypes, sys
libc = ctypes.CDLL(None, use_errno=True)
assert libc.ptrace(0x4206, {target.pid}, None, None) == 0       # PTRACE_SEIZE
print("traced", flush=True); sys.stdin.read()
"""
        tracer = subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert tracer.stdin
        assert tracer.stdout
        try:
            if tracer.stdout.readline() != "traced\n":
                pytest.skip("this process may not be traced by a sibling")
            with pagescan.attach(target.pid) as tracker:
                assert tracker.engine == "compare"
                assert "there can be one tracer only" in tracker.why
                target.do("0")
                tracker.take()
                target.do(f"put({at}, 2, 9)")
                assert pages(tracker.take(), at, 4) == [2]
        finally:
            tracer.communicate()

    def test_a_process_that_is_gone_is_gone_for_every_engine(self, target):
        target.process.send_signal(signal.SIGKILL)
        target.process.wait()
        for engine in ("auto", *ENGINES):
            with pytest.raises((NoSuchProcess, KernelCannot)) as caught:
                pagescan.attach(target.pid, engine=engine)
            assert isinstance(caught.value, NoSuchProcess) or engine == "pagemap-read"
