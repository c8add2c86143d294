"""Reading, writing, mapping and advising memory, with real pages."""

from __future__ import annotations

import errno
import os

import numpy as np
import pytest

from pagescan.errors import InvalidArgument, NoSuchProcess
from pagescan.kernel import memory
from pagescan.kernel.memory import IOV_MAX, PAGE_SIZE, PROT_NONE, PROT_READ, Advice, read_memory, write_memory

NO_SUCH_PID = 2**22 + 1  # one more than the highest PID_MAX_LIMIT


def ranges(*pairs: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    starts, ends = np.array(pairs, np.uint64).reshape(-1, 2).T
    return np.ascontiguousarray(starts), np.ascontiguousarray(ends)


def test_ranges_are_read_one_after_another(pages):
    area = pages(3)
    area.bytes[:] = np.arange(area.length, dtype=np.int64) % 251
    wanted = ranges((area.address + 5, area.address + 9), (area.at(2), area.at(2)), (area.at(1) - 1, area.end))
    data = read_memory(os.getpid(), *wanted)
    assert data.dtype == np.uint8
    assert data.tolist() == [*area.bytes[5:9], *area.bytes[PAGE_SIZE - 1 :]]


def test_no_ranges_are_no_bytes():
    assert read_memory(os.getpid(), *ranges()).tolist() == []


def test_more_ranges_than_one_call_takes(pages):
    area = pages(2)
    area.bytes[:] = np.random.default_rng(1).integers(0, 256, area.length)
    count = 2 * IOV_MAX + 3
    starts = area.address + np.arange(count, dtype=np.uint64) * np.uint64(3)
    data = read_memory(os.getpid(), starts, starts + np.uint64(2))
    assert data.tolist() == area.bytes[: 3 * count].reshape(-1, 3)[:, :2].ravel().tolist()


def test_a_call_that_stops_early_goes_on_where_it_stopped(pages, monkeypatch):
    area = pages(1)
    area.bytes[:100] = range(100)
    calls = []

    def stingy(pid, local, one, remote, count, flags):
        """At most three bytes a call, as the kernel may."""
        address, length = memory.as_array(remote, 16).view(np.uint64).tolist()
        moved = min(3, length)
        memory.as_array(memory.as_array(local, 8).view(np.uint64).tolist()[0], moved)[:] = memory.as_array(
            address, moved
        )
        calls.append(moved)
        return moved

    monkeypatch.setattr(memory, "_readv", stingy)
    data = read_memory(os.getpid(), *ranges((area.address, area.address + 7), (area.address + 50, area.address + 54)))
    assert data.tolist() == [0, 1, 2, 3, 4, 5, 6, 50, 51, 52, 53]
    assert calls == [3, 3, 1, 3, 1]


def test_the_page_that_cannot_be_read_is_named(pages):
    area = pages(4)
    memory.protect_memory(area.at(2), PAGE_SIZE, PROT_NONE)
    with pytest.raises(InvalidArgument, match=f"page at {area.at(2):#x} is not mapped, not readable") as caught:
        read_memory(os.getpid(), *ranges((area.at(3), area.end), (area.at(1), area.end)))
    assert f"[{area.at(1):#x}, {area.end:#x})" in str(caught.value)
    assert caught.value.errno == errno.EFAULT


def test_another_process_is_read_and_written(child):
    process = child(
        "import ctypes, sys\n"
        "b = ctypes.create_string_buffer(b'before')\n"
        "print(ctypes.addressof(b), flush=True)\n"
        "sys.stdin.readline(); print(b.value.decode(), flush=True); sys.stdin.read()"
    )
    address = int(process.stdout.readline())
    assert read_memory(process.pid, *ranges((address, address + 6))).tobytes() == b"before"
    write_memory(
        process.pid, *ranges((address, address + 3), (address + 3, address + 5)), np.frombuffer(b"after", np.uint8)
    )
    process.stdin.write("\n")
    process.stdin.flush()
    assert process.stdout.readline() == "aftere\n"


def test_read_only_memory_is_not_written(pages):
    area = pages(1)
    memory.protect_memory(area.address, PAGE_SIZE, PROT_READ)
    with pytest.raises(InvalidArgument, match="not writable"):
        write_memory(os.getpid(), *ranges((area.address, area.address + 1)), np.zeros(1, np.uint8))


@pytest.mark.parametrize("data", [np.zeros(3, np.uint8), np.zeros(2, np.int16), np.zeros(4, np.uint8)[::2]])
def test_data_must_be_as_long_as_the_ranges(data, pages):
    area = pages(1)
    with pytest.raises(InvalidArgument, match="ranges hold 2 bytes"):
        write_memory(os.getpid(), *ranges((area.address, area.address + 2)), data)


def test_a_process_that_is_not_there():
    with pytest.raises(NoSuchProcess) as caught:
        read_memory(NO_SUCH_PID, *ranges((PAGE_SIZE, 2 * PAGE_SIZE)))
    assert caught.value.pid == NO_SUCH_PID
    with pytest.raises(NoSuchProcess):
        memory.pidfd_open(NO_SUCH_PID)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can drop to a user who may not look")
def test_a_process_of_another_user_is_denied(run_python):
    printed = run_python(
        f"import os, numpy as np\n"
        f"from pagescan.kernel.memory import read_memory\n"
        f"from pagescan.errors import AccessDenied\n"
        f"os.setgroups([]); os.setgid(1234); os.setuid(1234)\n"
        f"a = np.array([4096], np.uint64)\n"
        f"try: read_memory({os.getpid()}, a, a + np.uint64(1))\n"
        f"except AccessDenied as e: print(e.message, '|', e.hint)"
    )
    assert f"process {os.getpid()} belongs to user 0, this one to user 1234" in printed
    assert "sudo" in printed


def test_has_gap_sees_a_hole_and_rounds_out(pages):
    area = pages(4)
    assert not memory.has_gap(area.address, area.end)
    assert not memory.has_gap(area.address + 1, area.end - 1)
    memory.unmap_memory(area.at(2), PAGE_SIZE)
    try:
        assert memory.has_gap(area.address, area.end)
        assert memory.has_gap(area.at(2) - 1, area.at(2) + 1)
        assert not memory.has_gap(area.address, area.at(2))
        assert not memory.has_gap(area.at(3), area.end)
    finally:
        memory.map_memory(
            PAGE_SIZE,
            address=area.at(2),
            flags=memory.MAP_PRIVATE | memory.MAP_ANONYMOUS | memory.MAP_FIXED_NOREPLACE,
        )


def test_has_gap_needs_no_permission_on_the_memory(pages):
    area = pages(2, protection=PROT_NONE)
    assert not memory.has_gap(area.address, area.end)


def test_madvise_drops_pages_and_tells_errnos(pages):
    area = pages(1)
    area[0] = 9
    memory.madvise(area.address, area.length, Advice.DONTNEED)
    assert area.bytes[0] == 0
    with pytest.raises(OSError, match="Invalid argument") as caught:
        memory.madvise(area.address + 1, PAGE_SIZE, Advice.DONTNEED)
    assert caught.value.errno == errno.EINVAL


def test_mapping_at_a_taken_address_fails(pages):
    area = pages(1)
    flags = memory.MAP_PRIVATE | memory.MAP_ANONYMOUS | memory.MAP_FIXED_NOREPLACE
    with pytest.raises(FileExistsError):
        memory.map_memory(PAGE_SIZE, address=area.address, flags=flags)


def test_a_descriptor_is_fetched_from_another_process(child):
    process = child("import os, sys\nr, w = os.pipe(); os.write(w, b'hello')\nprint(r, flush=True); sys.stdin.read()")
    theirs = int(process.stdout.readline())
    pidfd = memory.pidfd_open(process.pid)
    try:
        mine = memory.pidfd_getfd(pidfd, theirs)
        try:
            assert not os.get_inheritable(mine)
            assert os.read(mine, 10) == b"hello"
        finally:
            os.close(mine)
        with pytest.raises(OSError, match="Bad file descriptor"):
            memory.pidfd_getfd(pidfd, 999)
    finally:
        os.close(pidfd)
