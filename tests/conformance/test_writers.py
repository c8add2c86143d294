"""Whoever writes, the page is seen: also the kernel on behalf of a system call, although no handler runs for it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import pagescan

from .kernel_memory import PAGE, SMALL_PAGE_KINDS, Memory, memory_of

ABOUT = b"pagescan writes here"


@pytest.fixture(params=SMALL_PAGE_KINDS)
def memory(request: pytest.FixtureRequest, tracking: None) -> Iterator[Memory]:
    with memory_of(request.param) as made:
        made.buffer[:] = 1
        yield made


def by_readv(view: memoryview) -> None:
    reading, writing = os.pipe()
    os.write(writing, ABOUT)
    assert os.readv(reading, [view]) == len(ABOUT)
    os.close(reading)
    os.close(writing)


def by_read_of_a_file(view: memoryview) -> None:
    fd = os.memfd_create("source")
    os.write(fd, ABOUT)
    assert os.preadv(fd, [view], 0) == len(ABOUT)
    os.close(fd)


def by_recv(view: memoryview) -> None:
    left, right = socket.socketpair()
    with left, right:
        left.sendall(ABOUT)
        assert right.recv_into(view) == len(ABOUT)


def by_proc_self_mem(view: memoryview) -> None:
    fd = os.open("/proc/self/mem", os.O_RDWR)
    try:
        assert os.pwrite(fd, ABOUT, np.frombuffer(view, np.uint8).ctypes.data) == len(ABOUT)
    finally:
        os.close(fd)


def by_direct_io(view: memoryview) -> None:
    """O_DIRECT: the device writes into the page itself."""
    path = f"direct-io-{os.getpid()}.tmp"
    try:
        with open(path, "wb") as file:
            file.write(ABOUT.ljust(PAGE, b"\0"))
        try:
            fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
        except OSError as error:
            pytest.skip(f"this file system has no O_DIRECT: {error.strerror}")
        try:
            assert os.preadv(fd, [view], 0) == PAGE
        finally:
            os.close(fd)
    finally:
        os.unlink(path)


def by_another_process(view: memoryview) -> None:
    """process_vm_writev(2) from a child."""
    address = np.frombuffer(view, np.uint8).ctypes.data
    code = f"""
import numpy as np
from pagescan.kernel.memory import write_memory
a = np.array([{address}], np.uint64)
write_memory({os.getpid()}, a, a + np.uint64({len(ABOUT)}), np.frombuffer({ABOUT!r}, np.uint8))
"""
    _allow_tracing_by_children()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, env=_environment())
    assert done.returncode == 0, done.stderr


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


def _allow_tracing_by_children() -> None:
    """Where Yama restricts tracing to descendants, let anybody trace this process (prctl PR_SET_PTRACER, ANY)."""
    import ctypes

    ctypes.CDLL(None).prctl(0x59616D61, ctypes.c_ulong(-1 & (1 << 64) - 1), 0, 0, 0)


WRITERS: list[Callable[[memoryview], None]] = [
    by_readv,
    by_read_of_a_file,
    by_recv,
    by_proc_self_mem,
    by_direct_io,
    by_another_process,
]


@pytest.mark.parametrize("write", WRITERS, ids=lambda function: function.__name__)
def test_exactly_its_page_is_written_once(memory, write):
    view = memoryview(memory.buffer)[3 * PAGE : 4 * PAGE]
    with pagescan.track(memory.buffer) as tracker:
        write(view)
        written = tracker.take()
        assert bytes(view[: len(ABOUT)]) == ABOUT
        assert written.slices(memory.buffer) == [slice(3 * PAGE, 4 * PAGE)]
        assert len(tracker.take()) == 0


def test_a_swapped_out_page_is_still_written(tracking, swap):
    """A dirty page need not be present: PRESENT is never required."""
    buffer = pagescan.zeros(16 * PAGE, np.uint8)
    buffer[:] = 1
    with pagescan.track(buffer) as tracker:
        buffer[5 * PAGE] = 2
        swap(buffer)
        in_swap = pagescan.scan(buffer, required_mask=pagescan.Category.SWAPPED, return_mask=0)
        assert in_swap.page_count == 16
        assert tracker.take().slices(buffer) == [slice(5 * PAGE, 6 * PAGE)]
        assert buffer[5 * PAGE] == 2
        assert len(tracker.take()) == 0
        buffer[6 * PAGE] = 3
        assert tracker.take().slices(buffer) == [slice(6 * PAGE, 7 * PAGE)]


@pytest.fixture
def swap() -> Iterator[Callable[[np.ndarray], None]]:
    """A function that swaps a buffer out; a swap device is made of zram for the test if there is none."""
    made = _zram_swap() if Path("/proc/swaps").read_text().count("\n") < 2 else None
    try:
        yield _swap_out
    finally:
        if made:
            subprocess.run(["swapoff", made], check=True)
            Path(f"/sys/block/{os.path.basename(made)}/reset").write_text("1")


def _swap_out(buffer: np.ndarray) -> None:
    from .kernel_memory import libc

    madv_pageout = 21
    assert libc.madvise(buffer.ctypes.data, buffer.nbytes, madv_pageout) == 0


def _zram_swap() -> str:
    if os.geteuid() != 0:
        pytest.skip("no swap here, and making one of zram needs root")
    zram = Path("/sys/block/zram0")
    if not zram.exists():
        pytest.skip("no swap here, and no zram to make one of: sudo modprobe zram")
    if (zram / "disksize").read_text().strip() != "0":
        pytest.skip("no swap here, and zram0 is in use for something else")
    (zram / "disksize").write_text(str(64 << 20))
    for command in (["mkswap", "/dev/zram0"], ["swapon", "/dev/zram0"]):
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            (zram / "reset").write_text("1")
            pytest.skip(f"no swap here: {' '.join(command)}: {done.stderr.strip()}")
    return "/dev/zram0"
