"""The recording loop: its clock, its ends and its costs, on a scripted tracker; and once on a real process."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time

import pytest

if sys.platform != "linux":
    pytest.skip("processes are recorded on Linux only", allow_module_level=True)

import pagescan
from pagescan.errors import AlreadyExists, InvalidArgument, KernelCannot, NoSuchProcess
from pagescan.process.facts import LinuxFacts, has_memory, resident_pages
from pagescan.recording import EndReason, Recording
from pagescan.recording.session import GONE, Session, check_destination
from pagescan.recording.watch import Happened, Watch
from pagescan.trackers.written import Quality, Written

from .samples import FILE, HEAP, MS, PAGE, pages

COVERED = pages(*range(16, 32))
LOST = Written.of(pages(), COVERED, Quality.LOST, "gone")


class Clock:
    """Nanoseconds that pass only when somebody says so."""

    def __init__(self):
        self.now = 1000 * MS

    def __call__(self) -> int:
        return self.now


class ScriptedTracker:
    """Answers as written down: page numbers, an answer, or an error; each take lasts ``lasts`` nanoseconds."""

    engine = "scripted"
    pages = COVERED

    def __init__(self, clock, answers, lasts=()):
        self.pid, self.pause_ns, self.clock = os.getpid(), 5, clock
        self.facts = LinuxFacts(self.pid)
        self.answers, self.lasts = list(answers), list(lasts)

    def take(self):
        self.clock.now += self.lasts.pop(0) if self.lasts else MS
        answer = self.answers.pop(0) if self.answers else []
        if isinstance(answer, Exception):
            raise answer
        return answer if isinstance(answer, Written) else Written.of(pages(*answer), COVERED)

    def mappings(self):
        return [HEAP, FILE]

    def detach(self):
        raise AssertionError("a session does not detach")


class ScriptedWatch:
    """Comes to each moment asked for, until the n-th wait, which ends as ``then``."""

    def __init__(self, clock, waits=99, then=Happened.STOPPED):
        self.clock, self.waits, self.then, self.asked = clock, waits, then, []

    def wait(self, until_ns):
        self.asked.append(until_ns // MS)
        if len(self.asked) >= self.waits:
            return self.then
        self.clock.now = max(self.clock.now, until_ns)
        return Happened.DUE


@pytest.fixture
def start(tmp_path):
    """``start(answers, lasts)`` is a session at 1,000 ms, with intervals of 100 ms, and its clock."""

    def call(answers=(), lasts=()):
        clock = Clock()
        tracker = ScriptedTracker(clock, answers, lasts)
        return Session(tracker, tmp_path / "r", interval_ns=100 * MS, clock=clock, force=True), clock

    return call


def samples(session):
    with Recording.open(session.path) as recording:
        return list(recording.samples()), recording.ending


class TestClock:
    def test_ticks_do_not_drift(self, start):
        session, clock = start(lasts=[30 * MS, 70 * MS, 99 * MS])
        watch = ScriptedWatch(clock, waits=5)
        session.run(watch)
        assert watch.asked == [1100, 1200, 1300, 1400, 1500]
        assert session.cost.missed == 0

    def test_late_tick_is_missed_and_the_next_ones_keep_their_places(self, start):
        session, clock = start(lasts=[250 * MS])
        watch = ScriptedWatch(clock, waits=3)
        session.run(watch)
        assert watch.asked == [1100, 1400, 1500]
        assert session.cost.missed == 2

    def test_sample_that_lasts_a_whole_interval_misses_one(self, start):
        session, clock = start(lasts=[100 * MS])
        watch = ScriptedWatch(clock, waits=2)
        session.run(watch)
        assert watch.asked == [1100, 1300]
        assert session.cost.missed == 1

    def test_ticks_after_the_end_are_not_missed(self, start):
        session, clock = start(lasts=[450 * MS])
        watch = ScriptedWatch(clock)
        session.run(watch, 250 * MS)
        assert watch.asked == [1100]
        session, clock = start()
        clock.now += 450 * MS
        watch = ScriptedWatch(clock)
        session.run(watch, 250 * MS)
        assert watch.asked == [1250]
        assert session.cost.missed == 2


class TestEnd:
    def test_duration_ends_with_a_sample_at_its_very_end(self, start):
        session, clock = start()
        watch = ScriptedWatch(clock)
        assert session.run(watch, 250 * MS) is EndReason.DURATION
        assert watch.asked == [1100, 1200, 1250]
        found, ending = samples(session)
        assert [sample.time_ns // MS for sample in found] == [1100, 1200, 1250]
        assert ending.reason == "duration"

    def test_stop_takes_what_was_written_until_then(self, start):
        session, clock = start([[16], [17, 18]])
        assert session.run(ScriptedWatch(clock, waits=2)) is EndReason.INTERRUPTED
        found, ending = samples(session)
        assert [list(sample.regions.pages() // PAGE) for sample in found] == [[16], [17, 18]]
        assert ending.reason == "interrupted"

    @pytest.mark.parametrize("then", [Happened.EXITED, Happened.DUE])
    def test_exit_of_the_process(self, start, then):
        session, clock = start([[16], LOST])
        assert session.run(ScriptedWatch(clock, waits=2, then=then)) is EndReason.EXITED
        found, ending = samples(session)
        assert [(sample.quality, sample.reason, sample.resident_pages is None) for sample in found] == [
            (Quality.EXACT, "", False),
            (Quality.LOST, "gone", True),
        ]
        assert found[1].mappings == (HEAP, FILE)
        assert ending.reason == "exited"

    def test_error_keeps_what_was_recorded(self, start):
        session, clock = start([[16], KernelCannot("not any more")])
        with pytest.raises(KernelCannot, match="not any more"):
            session.run(ScriptedWatch(clock))
        found, ending = samples(session)
        assert len(found) == 1
        assert (ending.reason, ending.detail) == ("error", "KernelCannot: not any more")

    def test_interrupt_keeps_what_was_recorded(self, start):
        session, clock = start([[16]])

        def interrupt(session):
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            session.run(ScriptedWatch(clock), on_sample=interrupt)
        found, ending = samples(session)
        assert (len(found), ending.reason) == (1, "interrupted")


class TestMemoryGone:
    def test_exec_is_waited_for(self, start):
        session, clock = start([NoSuchProcess("executing"), NoSuchProcess("executing"), [17]])
        watch = ScriptedWatch(clock, waits=4)
        assert session.run(watch) is EndReason.INTERRUPTED
        assert watch.asked[:3] == [1100, 1103, 1106]
        found, _ = samples(session)
        assert [list(sample.regions.pages() // PAGE) for sample in found] == [[17], []]

    def test_exit_is_waited_for(self, start):
        session, clock = start([[16], NoSuchProcess("exiting"), NoSuchProcess("exiting")])
        assert session.run(ScriptedWatch(clock, waits=4, then=Happened.EXITED)) is EndReason.EXITED
        found, _ = samples(session)
        assert [(sample.quality, sample.reason) for sample in found] == [(Quality.EXACT, ""), (Quality.LOST, GONE)]

    def test_has_memory(self):
        with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as child:
            assert child.stdin
            assert has_memory(child.pid)
            assert resident_pages(child.pid)
            child.stdin.close()
            os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
            assert not has_memory(child.pid)  # a zombie
        assert not has_memory(child.pid)
        assert resident_pages(child.pid) is None


class TestCost:
    def test_sums(self, start):
        session, clock = start([[16, 17, 19], [], Written.of(pages(20), COVERED, Quality.SUPERSET, "huge")], [3 * MS])
        seen = []
        session.run(ScriptedWatch(clock, waits=3), on_sample=lambda session: seen.append(session.cost.samples))
        cost = session.cost
        assert seen == [1, 2, 3]
        assert (cost.samples, cost.pages, cost.regions, cost.inexact) == (3, 4, 3, 1)
        assert (cost.take_ns, cost.longest_take_ns, cost.mean_take_ns) == (5 * MS, 3 * MS, 5 * MS // 3)
        # The clock stood still in the last wait, so the last sample is at the end of the one before.
        assert cost.elapsed_ns == 201 * MS
        assert cost.cpu_ns > 0
        assert cost.cpu_share == cost.cpu_ns / cost.elapsed_ns

    def test_pause_goes_to_the_sample_in_which_it_was(self, start):
        session, clock = start()

        def stop_again(session):
            session.tracker.pause_ns = 12 if session.cost.samples == 2 else session.tracker.pause_ns

        session.run(ScriptedWatch(clock, waits=4), on_sample=stop_again)
        found, _ = samples(session)
        assert [sample.pause_ns for sample in found] == [5, 0, 7, 0]
        assert session.cost.pause_ns == 12

    def test_nothing_costs_nothing(self, start):
        session, _ = start()
        assert (session.cost.mean_take_ns, session.cost.cpu_share) == (0, 0.0)
        session.writer.close()

    def test_info_describes_the_process(self, start):
        session, _ = start()
        session.writer.close()
        info = session.info
        assert (info.pid, info.engine, info.page_size, info.interval_ns) == (os.getpid(), "scripted", PAGE, 100 * MS)
        assert (info.started_ns, info.pagescan_version) == (1000 * MS, pagescan.__version__)
        with open("/proc/self/cmdline") as file:
            assert "".join(word + "\0" for word in info.command_line) == file.read()


class TestDestination:
    def test_taken(self, tmp_path):
        (tmp_path / "r").touch()
        with pytest.raises(AlreadyExists) as caught:
            check_destination(tmp_path / "r", force=False)
        assert "--force" in str(caught.value.hint)
        check_destination(tmp_path / "r", force=True)

    def test_no_folder(self, tmp_path):
        with pytest.raises(InvalidArgument) as caught:
            check_destination(tmp_path / "no" / "r", force=False)
        assert caught.value.hint == f"mkdir -p {tmp_path}/no"

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
    def test_closed_folder(self, tmp_path):
        tmp_path.chmod(0o500)
        with pytest.raises(pagescan.AccessDenied):
            check_destination(tmp_path / "r", force=False)


class TestWatch:
    @pytest.fixture
    def child(self):
        with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as child:
            yield child

    def test_due_is_never_early(self, child):
        with Watch(child.pid) as watch:
            until = time.monotonic_ns() + 3 * MS
            assert watch.wait(until) is Happened.DUE
            assert time.monotonic_ns() >= until
            assert watch.wait(0) is Happened.DUE

    def test_exit(self, child):
        with Watch(child.pid) as watch:
            child.stdin.close()
            assert watch.wait(None) is Happened.EXITED
            assert watch.wait(0) is Happened.EXITED

    def test_stop_ends_this_wait_and_later_ones(self, child):
        with Watch(child.pid) as watch:
            thread = threading.Timer(0.01, watch.stop)
            thread.start()
            assert watch.wait(None) is Happened.STOPPED
            assert watch.wait(time.monotonic_ns() + 10**12) is Happened.STOPPED
            thread.join()

    def test_stop_never_blocks(self, child):
        with Watch(child.pid) as watch:
            for _ in range(100_000):  # more than a pipe holds
                watch.stop()
            assert watch.wait(None) is Happened.STOPPED

    def test_nobody(self, child):
        child.communicate()
        with pytest.raises(NoSuchProcess):
            Watch(child.pid)


#: Maps 8 pages with a hole on both sides, and writes to those whose numbers it reads.
WRITER = """
import ctypes, mmap, sys
size = mmap.PAGESIZE
libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
outer = libc.mmap(None, 10 * size, 0, 0x22, -1, 0)
inner = libc.mmap(outer + size, 8 * size, 3, 0x32, -1, 0)
print(inner, flush=True)
for line in sys.stdin:
    for page in line.split():
        ctypes.memset(inner + int(page) * size, 1, 1)
    print("done", flush=True)
"""


class TalkingWatch:
    """Has the child write before each sample, and ends when there is nothing more to write."""

    def __init__(self, child, lines):
        self.child, self.lines = child, list(lines)

    def wait(self, until_ns):
        self.child.stdin.write(self.lines.pop(0) + "\n")
        self.child.stdin.flush()
        assert self.child.stdout.readline() == "done\n"
        return Happened.DUE if self.lines else Happened.STOPPED


def test_live_process(tmp_path):
    command = [sys.executable, "-c", WRITER]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout
        start = int(child.stdout.readline())
        try:
            tracker = pagescan.attach(child.pid)
        except (pagescan.KernelCannot, pagescan.AccessDenied) as error:
            child.communicate()
            pytest.skip(f"no process can be attached to here: {error.message}")
        with tracker:
            session = Session(tracker, tmp_path / "r", interval_ns=MS)
            session.run(TalkingWatch(child, ["0 2 3", "", "3 7"]))
        size = session.info.page_size
        with Recording.open(session.path) as recording:
            found = [
                [(page - start) // size for page in sample.regions.clip(start, start + 8 * size).pages()]
                for sample in recording.samples()
            ]
            assert recording.info.command_line == (*command,)
            mappings = {(mapping.start, mapping.end) for mapping in next(iter(recording.samples())).mappings}
        assert found == [[0, 2, 3], [], [3, 7]]
        assert (start, start + 8 * size) in mappings
        assert session.cost.pause_ns == tracker.pause_ns > 0
        child.communicate()
        assert child.returncode == 0
