"""A real process as the source of the live view: its looks, its exec, its end, and the recording."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

if sys.platform != "linux":
    pytest.skip("live processes are tracked on Linux only", allow_module_level=True)

from pagescan.errors import AccessDenied, AlreadyExists, KernelCannot
from pagescan.recording import EndReason, Recording
from pagescan.trackers.process_tracker import ProcessTracker, spawn
from pagescan.trackers.written import Quality
from pagescan.views.source import Ended, ProcessSource, Seen, in_words
from pagescan.views.state import State

PAGE = 4096
#: Maps 64 pages between two that nobody may touch, and then does what each line of its input says.
TARGET = """
import ctypes, mmap, os, sys
libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
outer = libc.mmap(None, 66 * 4096, 0, 0x22, -1, 0)
at = libc.mmap(outer + 4096, 64 * 4096, 3, 0x32, -1, 0)
print(at, flush=True)
for line in sys.stdin:
    word, number = line.split()
    if word == "write":
        for page in range(int(number)):
            ctypes.memset(at + page * 4096, 7, 1)
    elif word == "exec":
        os.execv(sys.executable, [sys.executable, "-c", "import sys; print('again', flush=True); sys.stdin.read()"])
    elif word == "exit":
        os._exit(int(number))
    print("done", flush=True)
"""


class Target:
    """The process, tracked since before its start."""

    def __init__(self) -> None:
        try:
            self.tracker: ProcessTracker = spawn(
                [sys.executable, "-c", TARGET], stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
        except (KernelCannot, AccessDenied) as error:
            pytest.skip(f"needs a process that can be tracked: {error.message}")
        assert self.tracker.popen is not None
        self.popen = self.tracker.popen
        self.start = int(self.popen.stdout.readline())  # type: ignore[union-attr]

    def do(self, line: str) -> bytes:
        self.popen.stdin.write(line.encode() + b"\n")  # type: ignore[union-attr]
        self.popen.stdin.flush()  # type: ignore[union-attr]
        return self.popen.stdout.readline()  # type: ignore[union-attr]


@pytest.fixture
def target() -> Iterator[Target]:
    one = Target()
    with one.popen, one.tracker:
        yield one
        one.popen.kill()


def seen(source: ProcessSource) -> Seen:
    found = source.look()
    assert isinstance(found, Seen)
    return found


def test_looks_count_the_pages_of_their_interval(target):
    source = ProcessSource(target.tracker)
    first = source.start()
    state = State.start(first.time_ns, first.mappings).after(seen(source).look)
    for count in (5, 64, 0):
        target.do(f"write {count}")
        state = state.after(seen(source).look)
        (row,) = (row for row in state.rows if row.mapping.start == target.start)
        assert state.now(row.finds) == count * PAGE / state.interval_seconds
    assert [find.written for find in row.finds][-2:] == [5 * PAGE, 64 * PAGE]
    assert row.mapping.size == 64 * PAGE
    assert row.untracked == ""


def test_a_look_tells_what_it_took(target):
    source = ProcessSource(target.tracker)
    before = time.monotonic_ns()
    found = seen(source)
    assert before <= found.look.time_ns <= time.monotonic_ns()
    assert 0 < found.duration_ns < 10**10
    assert found.pause_ns == target.tracker.pause_ns
    assert source.command.startswith(sys.executable + " -c")
    assert source.recorded is None


def test_end_has_the_exit_status(target):
    source = ProcessSource(target.tracker)
    seen(source)
    target.do("exit 3")
    target.popen.wait()
    assert source.look() == source.look() == source.ended == Ended("it returned 3", 3)


def test_another_program_in_the_same_process_is_followed(target):
    source = ProcessSource(target.tracker)
    first = source.start()
    state = State.start(first.time_ns, first.mappings).after(seen(source).look)
    assert target.do("exec 0") == b"again\n"
    state = state.after(seen(source).look)
    assert not next(row for row in state.rows if row.mapping.start == target.start).lives
    assert state.totals().mappings > 0
    assert state.totals().now > 0
    target.popen.stdin.close()
    target.popen.wait()
    assert source.look() == Ended("it returned 0", 0)


def test_recording_has_what_was_seen(target, tmp_path):
    path = tmp_path / "run.pagescan"
    source = ProcessSource(target.tracker, path=str(path), interval_ns=123)
    seen(source)
    target.do("write 9")
    found = seen(source)
    assert source.recorded == 2
    target.do("exit 0")
    target.popen.wait()
    assert isinstance(source.look(), Ended)
    source.close()
    with Recording.open(path) as recording:
        assert [sample.quality for sample in recording] == [Quality.EXACT, Quality.EXACT, Quality.LOST]
        assert recording[1].regions.to_records().tolist() == found.look.regions.to_records().tolist()
        assert recording[1].regions.clip(target.start, target.start + 64 * PAGE).page_count == 9
        assert recording[1].time_ns == found.look.time_ns
        assert any(mapping.start == target.start for mapping in recording[1].mappings)
        assert (recording.info.interval_ns, recording.info.pid) == (123, target.popen.pid)
        assert recording.ending is not None
        assert (recording.ending.reason, recording.ending.detail) == ("exited", "it returned 0")


def test_recording_that_is_broken_off_says_so(target, tmp_path):
    source = ProcessSource(target.tracker, path=str(tmp_path / "run.pagescan"))
    seen(source)
    source.close(EndReason.INTERRUPTED)
    with Recording.open(tmp_path / "run.pagescan") as recording:
        assert recording.ending is not None
        assert (len(recording), recording.ending.reason) == (1, "interrupted")
    assert target.popen.poll() is None


def test_nothing_is_overwritten_and_the_process_is_let_go(target, tmp_path):
    path = tmp_path / "run.pagescan"
    path.write_text("mine")
    with pytest.raises(AlreadyExists):
        ProcessSource(target.tracker, path=str(path))
    assert path.read_text() == "mine"
    assert target.tracker.closed
    assert target.do("write 1") == b"done\n"


def test_endings_in_words():
    assert in_words(0) == "it returned 0"
    assert in_words(-9) == "it was ended by signal 9"
