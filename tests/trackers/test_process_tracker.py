"""Another process tracked from outside, whatever it does to its address space. Each event is one that was measured."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import pagescan
from pagescan import Closed, InvalidArgument, NoSuchProcess, PagescanError, ProcessTracker, Quality, Regions
from pagescan.kernel import procfs
from tests.droppable import MAP_DROPPABLE, NO_DROPPABLE, has_droppable, refused

from ..process import replica
from .target import PAGE, TARGET, Target


@pytest.fixture
def target() -> Iterator[Target]:
    made = Target()
    yield made
    made.end()


@pytest.fixture
def tracked(target: Target) -> Iterator[tuple[Target, ProcessTracker, int]]:
    """The target, its tracker, and an area of 16 pages in it."""
    at = target.area(16)
    try:
        tracker = pagescan.attach(target.pid)
    except PagescanError as error:
        if error.errno is None and not error.hint:
            raise
        pytest.skip(f"attaching: {error.message}")
    with tracker:
        target.do("0")
        tracker.take()
        yield target, tracker, at


def pages(written: Regions, at: int, count: int = 16) -> list[int]:
    """Page numbers within an area."""
    return [(int(page) - at) // PAGE for page in written.clip(at, at + count * PAGE).pages().tolist()]


class TestWrites:
    def test_exactly_the_written_pages_once(self, tracked):
        target, tracker, at = tracked
        target.do(f"put({at}, 5) or put({at}, 9)")
        written = tracker.take()
        assert pages(written, at) == [5, 9]
        assert written.quality is Quality.EXACT
        assert pages(tracker.take(), at) == []

    def test_reading_them(self, tracked):
        target, tracker, at = tracked
        target.do(f"put({at}, 5, 77)")
        written = tracker.take().clip(at, at + 16 * PAGE)
        assert tracker.read(written)[0] == 77
        with tracker.frozen():
            assert tracker.read(written).nbytes == PAGE
        target.do("0")

    def test_readers_have_their_own(self, tracked):
        target, tracker, at = tracked
        cursor = tracker.cursor()
        target.do(f"put({at}, 1)")
        assert pages(tracker.take(), at) == [1]
        target.do(f"put({at}, 2)")
        assert pages(cursor.take(), at) == [1, 2]
        assert pages(tracker.take(), at) == [2]

    def test_a_failed_body_gives_back(self, tracked):
        target, tracker, at = tracked
        target.do(f"put({at}, 1)")
        taking = tracker.taking()
        assert pages(taking.__enter__(), at) == [1]
        assert not taking.__exit__(OSError, OSError(), None)
        assert pages(tracker.take(), at) == [1]

    def test_the_pause_is_told(self, tracked):
        _, tracker, _ = tracked
        assert 0 < tracker.pause_ns < 2_000_000_000

    def test_nothing_stays_in_the_target(self, tracked):
        target, _, _ = tracked
        names = [os.readlink(f"/proc/{target.pid}/fd/{fd}") for fd in os.listdir(f"/proc/{target.pid}/fd")]
        assert not [name for name in names if "userfaultfd" in name]


class TestMappingsThatComeAndGo:
    def test_a_new_mapping_is_reported_with_all_it_holds(self, tracked):
        target, tracker, _ = tracked
        at = target.area(8)
        assert pages(tracker.take(), at, 8) == list(range(8))
        assert pages(tracker.take(), at, 8) == []
        target.do(f"put({at}, 3)")
        assert pages(tracker.take(), at, 8) == [3]

    def test_memory_of_a_new_mapping_never_touched_is_not_reported(self, tracked):
        target, tracker, _ = tracked
        at = target.do("new(64)")
        target.do(f"put({at}, 7)")
        assert pages(tracker.take(), at, 64) == [7]

    def test_a_mapping_that_grows(self, tracked):
        target, tracker, _ = tracked
        whole = target.do("new(40, prot=0)")
        at = target.do(f"fill(new(8, at={whole + PAGE}), 8)")
        tracker.take()
        target.do(f"libc.munmap({at + 8 * PAGE}, {8 * PAGE})")
        assert target.do(f"libc.mremap({at}, {8 * PAGE}, {16 * PAGE}, 0, None)") == at
        target.do(f"put({at}, 12)")
        assert pages(tracker.take(), at) == [12]

    def test_a_mapping_that_moves(self, tracked):
        target, tracker, at = tracked
        whole = target.do("new(20, prot=0)")
        new = target.do(f"libc.mremap({at}, {16 * PAGE}, {16 * PAGE}, 3, {whole + PAGE})")
        assert pages(tracker.take(), new) == list(range(16))
        target.do(f"put({new}, 4)")
        assert pages(tracker.take(), new) == [4]

    def test_a_mapping_replaced_at_the_same_address(self, tracked):
        target, tracker, at = tracked
        target.do(f"fill(new(16, at={at}), 5)")
        assert pages(tracker.take(), at) == [0, 1, 2, 3, 4]
        target.do(f"put({at}, 2)")
        assert pages(tracker.take(), at) == [2]

    def test_what_could_not_be_tracked_is_tried_again_when_something_else_lies_there(self, tracked):
        target, tracker, _ = tracked
        at = target.area(8)
        (mapping,) = [mapping for mapping in tracker.mappings() if mapping.start == at]
        tracker._following.untracked[at, mapping.end] = mapping, "somebody has it"
        assert pages(tracker.take(), at, 8) == []
        assert tracker.untracked == [(mapping, "somebody has it")]
        target.do(f"fill(new(4, at={at}), 2) and libc.munmap({at + 4 * PAGE}, {4 * PAGE})")
        assert pages(tracker.take(), at, 8) == [0, 1]
        assert tracker.untracked == []

    def test_a_mapping_that_goes(self, tracked):
        target, tracker, at = tracked
        target.do(f"put({at}, 2) or libc.munmap({at}, {16 * PAGE})")
        assert pages(tracker.take(), at) == []
        assert not tracker.pages.clip(at, at + 16 * PAGE)

    def test_memory_given_back(self, tracked):
        target, tracker, at = tracked
        target.do(f"libc.madvise({at + 3 * PAGE}, {PAGE}, 4)")
        assert pages(tracker.take(), at) == [3]
        assert pages(tracker.take(), at) == []

    def test_protection_that_changes(self, tracked):
        target, tracker, at = tracked
        target.do(f"libc.mprotect({at}, {16 * PAGE}, 1)")
        target.do(f"libc.mprotect({at}, {16 * PAGE}, 3)")
        target.do(f"put({at}, 6)")
        assert pages(tracker.take(), at) == [6]

    def test_a_large_reserve_costs_no_page_tables(self, tracked):
        target, tracker, _ = tracked

        def page_tables() -> int:
            with open(f"/proc/{target.pid}/status") as file:
                return next(int(line.split()[1]) for line in file if line.startswith("VmPTE"))

        at = target.do("new(1 << 22, flags=0x4022)")
        target.do(f"libc.madvise({at}, {(1 << 22) * PAGE}, 15)")  # MADV_NOHUGEPAGE: Debian gives huge pages unasked
        target.do(f"put({at}, 1000)")
        before = page_tables()
        assert pages(tracker.take(), at, 1 << 22) == [1000]
        assert page_tables() - before < 100

    def test_a_fork_leaves_the_parent_tracked(self, tracked):
        target, tracker, at = tracked
        child = target.do("os.fork() or os._exit(0)")
        target.do(f"os.waitpid({child}, 0)[1]")
        tracker.take()
        target.do(f"put({at}, 8)")
        assert pages(tracker.take(), at) == [8]


def during_the_look(tracker: ProcessTracker, monkeypatch: pytest.MonkeyPatch, event: Callable[[], object]) -> None:
    """Have `event` happen once, in the middle of the next look: before it marks what was given back."""
    engine: Any = tracker._following.engine
    userfaultfd = engine._uffd
    mark, events = userfaultfd.writeprotect, [event]

    def late(start: int, length: int, **options: bool) -> None:
        if events:
            events.pop()()
        mark(start, length, **options)

    monkeypatch.setattr(userfaultfd, "writeprotect", late)


class TestDroppableMemory:
    """The kernel may empty it at any moment, so it is no state of the process. glibc 2.41 has some in most of them."""

    @pytest.fixture
    def droppable(self, tracked) -> int:
        """8 pages of it, mapped since the last look."""
        if not has_droppable():
            pytest.skip(NO_DROPPABLE)
        return tracked[0].do(f"fill(new(8, flags={MAP_DROPPABLE | 0x20}), 8)")

    def test_it_is_passed_over_without_a_word(self, tracked, droppable):
        target, tracker, at = tracked
        if not refused():
            pytest.skip("this kernel lets droppable memory be registered (before Linux 6.17)")
        target.do(f"put({droppable}, 1) or put({at}, 2)")
        written = tracker.take()
        assert pages(written, at) == [2]
        assert pages(written, droppable, 8) == []
        assert not tracker.pages.clip(droppable, droppable + 8 * PAGE)
        assert tracker.untracked == []
        assert not [found for found in tracker.qualities() if found.mapping.start == droppable]

    def test_what_it_is_is_asked_once(self, tracked, droppable, monkeypatch):
        target, tracker, _ = tracked
        asked = []
        plain = procfs.vm_flags

        def ask(pid: int, address: int) -> frozenset[str]:
            asked.append(address)
            return plain(pid, address)

        monkeypatch.setattr(procfs, "vm_flags", ask)
        for _ in range(3):
            tracker.take()
            target.area(2)  # the maps change
        assert asked.count(droppable) == (1 if refused() else 0)

    @pytest.mark.parametrize("looked", [True, False])
    def test_ordinary_memory_in_its_place_is_tracked(self, tracked, droppable, looked):
        target, tracker, _ = tracked
        tracker.take()
        if looked:
            target.do(f"libc.munmap({droppable}, {8 * PAGE})")
            tracker.take()
        target.do(f"fill(new(8, at={droppable}), 3)")  # looks the same in maps
        assert pages(tracker.take(), droppable, 8) == [0, 1, 2]
        target.do(f"put({droppable}, 6)")
        assert pages(tracker.take(), droppable, 8) == [6]


class TestEnds:
    def test_exit_gives_a_last_answer_and_then_says_so(self, tracked):
        target, tracker, _ = tracked
        target.end()
        last = tracker.take()
        assert last.quality is Quality.LOST
        assert "exited" in last.reason
        with pytest.raises(NoSuchProcess):
            tracker.take()

    def test_exit_during_a_look_gives_the_last_answer_too(self, tracked, monkeypatch):
        target, tracker, at = tracked
        during_the_look(tracker, monkeypatch, target.end)
        target.do(f"libc.madvise({at}, {2 * PAGE}, 4)")  # MADV_DONTNEED: the look will leave markers there
        assert tracker.take().quality is Quality.LOST
        with pytest.raises(NoSuchProcess):
            tracker.take()

    def test_memory_unmapped_during_a_look_is_forgotten(self, tracked, monkeypatch):
        target, tracker, at = tracked
        other = target.area(2)
        tracker.take()
        during_the_look(tracker, monkeypatch, lambda: target.do(f"libc.munmap({at}, {PAGE})"))
        target.do(f"libc.madvise({at}, {2 * PAGE}, 4)")
        target.do(f"put({other}, 1)")
        written = tracker.take()
        assert pages(written, other, 2) == [1]
        assert 1 in pages(written, at)
        target.do(f"put({at}, 1)")
        assert pages(tracker.take(), at) == [1]

    def test_exec_is_followed(self, target):
        with pagescan.attach(target.pid) as tracker:
            target.stdin.write(f"os.execv({sys.executable!r}, ['python', '-c', {TARGET!r}])\n")
            target.stdin.flush()
            assert target.stdout.readline() == "ready\n"
            at = target.area(4)
            assert pages(tracker.take(), at, 4) == [0, 1, 2, 3]
            target.do(f"put({at}, 2)")
            assert pages(tracker.take(), at, 4) == [2]

    def test_detached_it_goes_on(self, tracked):
        target, tracker, at = tracked
        tracker.detach()
        target.do(f"put({at}, 1)")
        with pytest.raises(Closed):
            tracker.take()
        with pagescan.attach(target.pid) as again:
            target.do(f"put({at}, 2)")
            assert pages(again.take(), at) == [2]

    def test_frozen_is_always_thawed(self, tracked):
        target, tracker, _ = tracked
        with pytest.raises(ZeroDivisionError), tracker.frozen():
            raise ZeroDivisionError
        target.do("0")

    def test_what_was_stopped_stays_stopped(self, tracked):
        target, tracker, _ = tracked
        os.kill(target.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, target.pid, os.WSTOPPED)
        with tracker.frozen():
            pass
        with open(f"/proc/{target.pid}/stat") as file:
            assert file.read().rpartition(")")[2].split()[0] == "T"
        os.kill(target.pid, signal.SIGCONT)
        target.do("0")


class TestChoosing:
    def test_by_name(self, target):
        with pagescan.attach(target.pid, mappings="[heap]") as tracker:
            names = {m.name for m in tracker.mappings() if tracker.pages.clip(m.start, m.end)}
            assert names == {"[heap]"}

    def test_by_function(self, target):
        at = target.area(4)
        with pagescan.attach(target.pid, mappings=lambda m: m.start == at) as tracker:
            assert tracker.pages == Regions.span(at, at + 4 * PAGE, page_size=PAGE)

    def test_oneself_is_refused(self):
        with pytest.raises(InvalidArgument, match="itself"):
            pagescan.attach(os.getpid())

    def test_a_process_that_is_not_there(self, target):
        target.end()
        with pytest.raises(NoSuchProcess):
            pagescan.attach(target.pid)


class TestSpawn:
    def test_from_the_first_instruction_to_the_last(self):
        code = "import mmap; m = mmap.mmap(-1, 1 << 20); m[:] = b'x' * (1 << 20); input()"
        with pagescan.spawn([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as tracker:
            popen = tracker.popen
            assert popen
            assert popen.stdin
            seen = 0
            while seen < 256:
                seen += tracker.take().page_count
            popen.stdin.write(b"\n")
            popen.stdin.close()
            assert popen.wait(timeout=30) == 0
            assert tracker.take().quality is Quality.LOST

    def test_a_program_that_is_not_there(self):
        with pytest.raises(InvalidArgument, match="no-such-program"):
            pagescan.spawn(["no-such-program"])


@pytest.mark.skipif(PAGE != 4096, reason="the writer is written for pages of 4 KiB")
def test_a_replica_of_a_process_with_writing_threads_ends_equal():
    """take + read, round after round, while threads write and give memory back; `scripts/replica` is the long form."""
    try:
        outcome = replica.run(500)
    except FileNotFoundError:
        pytest.skip("no gcc to compile the writer")
    assert outcome.copied > 500
    assert (outcome.rounds, outcome.differing) == (500, 0)


def test_killing_the_tracker_leaves_the_target_unharmed(target):
    at = target.area(4)
    code = f"""
import os, signal, pagescan
pagescan.attach({target.pid}).take()
os.kill(os.getpid(), signal.SIGKILL)
"""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run([sys.executable, "-c", code], env=env, timeout=30, check=False)
    assert done.returncode == -signal.SIGKILL
    target.do(f"put({at}, 1)")
    with pagescan.attach(target.pid) as tracker:
        target.do(f"put({at}, 3)")
        assert pages(tracker.take(), at, 4) == [3]


class TestHotMemory:
    COUNT = 160

    def test_what_is_written_to_all_the_time_is_named_and_what_cools_is_exact_again(self, target):
        at = target.area(self.COUNT)
        try:
            tracker = pagescan.attach(target.pid, hot="exempt")
        except PagescanError as error:
            pytest.skip(f"attaching: {error.message}")
        with tracker:
            for look in range(12):
                target.do(f"fill({at}, {self.COUNT}) and None")
                answer = tracker.take()
                assert pages(answer, at, self.COUNT) == list(range(self.COUNT))
                if look == 9:
                    target.area(4)  # new memory: what is known of the old one stays known
            hot = pages(answer.exempted, at, self.COUNT)
            assert hot == list(range(hot[0], hot[-1] + 1))
            assert len(hot) >= self.COUNT - 32
            assert answer.quality is Quality.SUPERSET
            assert "hot pages left unprotected" in answer.reason
            for _ in range(17):
                answer = tracker.take()
            assert pages(answer, at, self.COUNT) == []
            target.do(f"put({at}, 70)")
            assert pages(tracker.take(), at, self.COUNT) == [70]

    def test_a_hot_mapping_that_goes_is_forgotten(self, target):
        at = target.area(self.COUNT)
        try:
            tracker = pagescan.attach(target.pid, hot="exempt")
        except PagescanError as error:
            pytest.skip(f"attaching: {error.message}")
        with tracker:
            for _ in range(10):
                target.do(f"fill({at}, {self.COUNT}) and None")
                answer = tracker.take()
            assert pages(answer.exempted, at, self.COUNT)
            target.do(f"libc.munmap({at}, {self.COUNT} * PAGE)")
            assert pages(tracker.take(), at, self.COUNT) == []

    def test_a_word_that_is_neither(self, target):
        with pytest.raises(InvalidArgument, match="hot = 'no'"):
            pagescan.attach(target.pid, hot="no")  # type: ignore[arg-type]
