"""Descendants of a tracked process, mappings' qualities, and answers of one moment."""

from __future__ import annotations

import os
import signal
from typing import Any, Self

import pytest

import pagescan
from pagescan import NoSuchProcess, PagescanError, Quality

from .target import PAGE, Target
from .test_process_tracker import pages, target, tracked  # noqa: F401 - fixtures

#: Forks a child that does what its parent's pipe says, as the target does; returns its pid and leaves "give", "get".
FORK = """
def forked():
    ears, give = os.pipe(); get, mouth = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(give); os.close(get)
        for line in os.fdopen(ears):
            os.write(mouth, (str(eval(line)) + "\\n").encode())
        os._exit(0)
    os.close(ears); os.close(mouth)
    globals().update(give=give, get=os.fdopen(get), child=child)
    return child
"""


class Parent(Target):
    """A target with one child, which does what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.do(f"exec({FORK!r}, globals())")

    def fork(self) -> int:
        return self.do("forked()")

    def child(self, code: str) -> None:
        line = (code + "\n").encode()
        self.do(f"os.write(give, {line!r}) and get.readline() and 0")

    def end_child(self) -> None:
        self.do("os.close(give) or os.waitpid(child, 0)[1]")


@pytest.fixture
def parent():
    made = Parent()
    yield made
    made.end()


def attach(pid: int, **how: Any) -> pagescan.ProcessTracker:
    try:
        return pagescan.attach(pid, **how)
    except PagescanError as error:
        pytest.skip(f"attaching: {error.message}")


class TestForks:
    def test_a_new_child_is_named_in_full_then_by_what_it_writes(self, parent):
        at = parent.area(8)
        with attach(parent.pid, follow_forks=True) as tracker:
            assert tracker.children == []
            child = parent.fork()
            parent.child(f"put({at}, 2)")
            answers = tracker.take_all()
            assert set(answers) == {parent.pid, child}
            assert pages(answers[child], at, 8) == list(range(8))
            assert answers[child].quality is Quality.SUPERSET
            assert "forked" in answers[child].reason
            parent.child(f"put({at}, 3)")
            parent.do(f"put({at}, 5)")
            answers = tracker.take_all()
            assert pages(answers[child], at, 8) == [3]
            assert pages(answers[parent.pid], at, 8) == [5]
            assert answers[child].quality is Quality.EXACT
            (follower,) = tracker.children
            assert (follower.pid, follower.read(answers[child]).size > 0) == (child, True)

    def test_those_there_already_are_followed_too(self, parent):
        child = parent.fork()
        with attach(parent.pid, follow_forks=True) as tracker:
            assert [one.pid for one in tracker.children] == [child]

    def test_the_exit_of_a_child(self, parent):
        child = parent.fork()
        with attach(parent.pid, follow_forks=True) as tracker:
            tracker.take_all()
            parent.end_child()
            answers = tracker.take_all()
            assert answers[child].quality is Quality.LOST
            assert tracker.children == []
            assert set(tracker.take_all()) == {parent.pid}

    def test_a_child_outlives_its_parent(self, parent):
        child = parent.fork()
        with attach(parent.pid, follow_forks=True) as tracker:
            tracker.take_all()
            parent.process.kill()
            parent.process.wait()
            assert tracker.take_all()[parent.pid].quality is Quality.LOST
            # Its input ends with its parent, so it exits soon after.
            while True:
                try:
                    answers = tracker.take_all()
                except NoSuchProcess:
                    break
                assert set(answers) <= {child}

    def test_a_child_that_cannot_be_tracked_is_named_with_the_reason(self, parent, monkeypatch):
        with attach(parent.pid, follow_forks=True) as tracker:
            child = parent.fork()

            def refuse(pid: int) -> None:
                raise pagescan.AccessDenied("not this one", pid=pid)

            monkeypatch.setattr(tracker._family, "_follow", refuse)
            assert set(tracker.take_all()) == {parent.pid}
            assert tracker.refused == {child: "not this one"}
            parent.end_child()
            tracker.take()
            assert tracker.refused == {}

    def test_not_asked_for_nothing_is_followed(self, parent):
        parent.fork()
        with attach(parent.pid) as tracker:
            assert (set(tracker.take_all()), tracker.children, tracker.refused) == ({parent.pid}, [], {})

    def test_detaching_lets_go_of_all(self, parent):
        child = parent.fork()
        tracker = attach(parent.pid, follow_forks=True)
        (follower,) = tracker.children
        tracker.detach()
        assert follower.closed
        parent.child("0")
        with attach(child) as again:
            assert again.pages


class TestFreeze:
    def test_taking_and_reading_are_of_one_moment(self):
        with Counting() as counting, attach(counting.pid, freeze=True) as tracker:
            at = counting.area(4)
            counting.start(at)
            whole = pagescan.Regions.span(at, at + 2 * PAGE, page_size=PAGE)
            for _ in range(20):
                with tracker.taking() as written:
                    words = tracker.read(whole).view("u8")
                    # The second counter is written after the first, each round.
                    assert words[0] - words[PAGE // 8] in (0, 1)
                    assert not tracker.peek() or written
                    assert (tracker.read(whole).view("u8") == words).all()

    def test_a_cursor_holds_still_as_well_and_the_process_goes_on(self, target):  # noqa: F811
        with attach(target.pid, freeze=True) as tracker:
            cursor = tracker.cursor()
            at = target.area(2)
            assert pages(cursor.take(), at, 2) == [0, 1]
            target.do("0")

    def test_the_last_answer_of_one_that_exited(self, target):  # noqa: F811
        with attach(target.pid, freeze=True) as tracker:
            target.end()
            assert tracker.take().quality is Quality.LOST
            with pytest.raises(NoSuchProcess):
                tracker.take()

    def test_an_exception_in_the_body_lets_it_go_on(self, target):  # noqa: F811
        with attach(target.pid, freeze=True) as tracker:
            with pytest.raises(ZeroDivisionError), tracker.taking():
                raise ZeroDivisionError
            target.do("0")


class Counting(Target):
    """A target that, told to, counts in two pages for ever, one after the other."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.kill(self.pid, signal.SIGKILL)
        self.process.communicate()

    def start(self, at: int) -> None:
        code = (
            f"a, b = ctypes.c_uint64.from_address({at}), ctypes.c_uint64.from_address({at + PAGE})\n"
            "a.value = b.value = 0\nprint('0', flush=True)\n"
            "while True:\n a.value += 1\n b.value += 1\n"
        )
        self.do(f"exec({code!r}, globals())")


class TestQualities:
    def test_of_each_kind_of_mapping(self, tracked, tmp_path):  # noqa: F811
        process, tracker, at = tracked
        (tmp_path / "file").write_bytes(bytes(PAGE))
        process.do(f"globals().update(fd=os.open({str(tmp_path / 'file')!r}, os.O_RDWR))")
        shared = process.do(f"libc.mmap(None, {PAGE}, 3, 1, fd, 0)")
        private = process.do(f"libc.mmap(None, {PAGE}, 3, 2, fd, 0)")
        process.do(f"globals().update(only=os.open({str(tmp_path / 'file')!r}, os.O_RDONLY))")
        tracker.take()
        found = {one.mapping.start: one for one in tracker.qualities()}
        assert (found[at].quality, found[at].reason) == (Quality.EXACT, "")
        assert found[shared].quality is Quality.EXACT
        assert "others write" in found[shared].reason
        assert "MADV_DONTNEED" in found[private].reason
        assert list(found) == sorted(found)

    def test_of_memory_for_huge_pages(self, tracked):  # noqa: F811
        process, tracker, _ = tracked
        at = process.do(f"new({(8 << 20) // PAGE})")
        process.do(f"libc.madvise({at}, {8 << 20}, 14)")
        tracker.take()
        found = next(one for one in tracker.qualities() if one.mapping.start <= at < one.mapping.end)
        try:
            with open("/sys/kernel/mm/transparent_hugepage/enabled") as file:
                never = "[never]" in file.read()
        except OSError:
            never = True
        assert found.quality is (Quality.EXACT if never else Quality.SUPERSET)

    def test_of_what_is_not_tracked(self, tracked):  # noqa: F811
        _, tracker, at = tracked
        mapping = next(m for m in tracker.mappings() if m.start <= at < m.end)
        tracker._following._forget(pagescan.Regions.span(mapping.start, mapping.end, page_size=PAGE))
        tracker._following.untracked[mapping.start, mapping.end] = mapping, "somebody has it"
        found = next(one for one in tracker.qualities() if one.mapping.start == mapping.start)
        assert (found.quality, found.reason) == (None, "somebody has it")
