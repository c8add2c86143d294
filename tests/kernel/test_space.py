"""The address space of a process as one object: this one's, and another's."""

from __future__ import annotations

import os
import signal
import threading
from types import SimpleNamespace

import numpy as np
import pytest

from pagescan.abi import TRACKING_FEATURES, Mapping
from pagescan.errors import InvalidArgument, NoSuchProcess
from pagescan.kernel.memory import MAP_ANONYMOUS, MAP_FIXED_NOREPLACE, MAP_PRIVATE, PAGE_SIZE, map_memory, unmap_memory
from pagescan.kernel.pagemap import Pagemap
from pagescan.kernel.space import LinuxSpace, gap_between

NO_SUCH_PID = 2**22 + 1

SLEEPER = """
import mmap, ctypes, sys
area = mmap.mmap(-1, 4 * mmap.PAGESIZE)
area[mmap.PAGESIZE] = 65; area[3 * mmap.PAGESIZE] = 66
print(ctypes.addressof(ctypes.c_char.from_buffer(area)), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def other(child):
    """Another process, and the address of its four pages, of which the second and fourth hold "A" and "B"."""
    process = child(SLEEPER)
    return LinuxSpace(process.pid), int(process.stdout.readline())


def test_this_process():
    space = LinuxSpace.current()
    assert (space.pid, space.is_self, space.label) == (os.getpid(), True, "this process")
    assert space.page_size == os.sysconf("SC_PAGE_SIZE")
    assert space.is_alive()
    assert repr(space) == "<LinuxSpace of this process>"


def test_mappings_of_this_process(pages):
    area = pages(3)
    space = LinuxSpace.current()
    (mine,) = [m for m in space.mappings() if m.start <= area.address < m.end]
    assert mine.end >= area.end
    assert (mine.perms, mine.page_size) == ("rw-p", PAGE_SIZE)
    assert space.mapping_at(area.at(1)) == mine
    assert space.mapping_at(0) is None


def test_a_gap_in_this_process(pages):
    area = pages(3)
    space = LinuxSpace.current()
    assert not space.has_gap(area.address, area.end)
    unmap_memory(area.at(1), PAGE_SIZE)
    try:
        assert space.has_gap(area.address, area.end)
        assert gap_between(space.mappings(), area.address, area.end)
    finally:
        map_memory(PAGE_SIZE, address=area.at(1), flags=MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE)


@pytest.mark.parametrize(
    ("start", "end", "gap"),
    [(0, 10, True), (10, 30, False), (15, 25, False), (25, 45, True), (40, 50, False), (45, 51, True), (12, 12, False)],
)
def test_gaps_between_mappings(start, end, gap):
    mappings = [Mapping(10, 20, "rw-p"), Mapping(20, 30, "r--p"), Mapping(40, 50, "rw-p")]
    assert gap_between(mappings, start, end) is gap


def test_another_process(other):
    space, address = other
    assert not space.is_self
    assert space.label.startswith(f"process {space.pid} (python")
    assert space.mapping_at(address).start <= address
    assert not space.has_gap(address, address + 4 * PAGE_SIZE)
    assert space.has_gap(0, PAGE_SIZE)
    regions = SimpleNamespace(
        starts=np.array([address + PAGE_SIZE, address + 3 * PAGE_SIZE], np.uint64),
        ends=np.array([address + PAGE_SIZE + 2, address + 3 * PAGE_SIZE + 1], np.uint64),
    )
    assert space.read(regions).tobytes() == b"A\0B"


def test_another_processs_pagemap(other):
    space, address = other
    with space.open_pagemap() as ours, Pagemap.open(space.pid) as named:
        assert ours.space is space
        assert named.space.label == space.label
        for pagemap in (ours, named):
            present = pagemap.read_entries(address, address + 4 * PAGE_SIZE) >> np.uint64(63)
            assert present.tolist() == [0, 1, 0, 1]


def test_a_userfaultfd_of_another_process_must_come_from_it(other):
    space, _ = other
    with pytest.raises(InvalidArgument, match="none can be opened here for process") as caught:
        space.open_userfaultfd(TRACKING_FEATURES)
    assert f"pagescan.attach({space.pid})" in str(caught.value)


def test_a_userfaultfd_of_this_process(userfaultfd):
    with LinuxSpace.current().open_userfaultfd(TRACKING_FEATURES) as opened:
        assert opened.features == TRACKING_FEATURES


def test_a_process_that_ended_is_known_to_have(child):
    process = child(SLEEPER)
    process.stdout.readline()
    space = LinuxSpace(process.pid)
    with space.open_pagemap() as pagemap:
        assert space.is_alive()
        os.kill(process.pid, signal.SIGKILL)
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert not space.is_alive(), "a zombie is not alive"
        process.wait()
        assert not space.is_alive()
        with pytest.raises(NoSuchProcess):
            space.mappings()
        assert not pagemap.closed
    with pytest.raises(NoSuchProcess):
        space.open_pagemap()


def test_another_process_with_the_same_pid_is_not_the_same():
    space = LinuxSpace.current()
    space.start_time -= 1
    assert not space.is_alive()


def test_in_a_forked_child_the_parents_space_is_not_its_own():
    space = LinuxSpace.current()
    pid = os.fork()
    if pid == 0:
        os._exit(0 if not space.is_self and LinuxSpace.current().is_self else 1)
    assert os.waitpid(pid, 0)[1] == 0


@pytest.mark.parametrize("pid", [0, -1])
def test_what_is_no_pid(pid):
    with pytest.raises(InvalidArgument, match="no process id"):
        LinuxSpace(pid)
    with pytest.raises(InvalidArgument):
        Pagemap.open(pid)


def test_no_such_process():
    with pytest.raises(NoSuchProcess):
        LinuxSpace(NO_SUCH_PID)


def test_the_proof_of_tracking_is_made_once(userfaultfd):
    first = LinuxSpace.current().prove_tracking()
    assert (first.works, first.hint) == (True, None)
    assert LinuxSpace.current().prove_tracking() is first


def test_faults_that_asking_takes_are_not_counted():
    """After a fork every first write faults, as after a reset of the soft-dirty bits: also those of asking itself."""
    space = LinuxSpace.current()
    space.foreign_faults()
    for _ in range(5):
        pid = os.fork()
        if pid == 0:
            signal.pause()
        first, second = space.foreign_faults(), space.foreign_faults()
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        assert first == second


def test_faults_of_other_threads_are_counted_and_our_own_are_not():
    space = LinuxSpace.current()
    before = space.foreign_faults()
    own = np.zeros(1 << 22, np.uint8)
    own[:] = 1
    assert space.foreign_faults() == before
    thread = threading.Thread(target=lambda: np.zeros(1 << 22, np.uint8).fill(1))
    thread.start()
    thread.join()
    assert space.foreign_faults() > before
