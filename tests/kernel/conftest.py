"""Real memory for the tests of the kernel layer, and skips, by probe, where the kernel cannot."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator

import numpy as np
import pytest

if sys.platform != "linux":
    pytest.skip("the kernel layer needs Linux", allow_module_level=True)

from pagescan.abi import PM_SCAN_CHECK_WPASYNC, PM_SCAN_WP_MATCHING, REGION_DTYPE, pack_scan_argument
from pagescan.errors import KernelCannot, PagescanError
from pagescan.kernel.memory import PAGE_SIZE, as_array, map_memory, unmap_memory
from pagescan.kernel.pagemap import Pagemap
from pagescan.kernel.space import LinuxSpace
from pagescan.kernel.userfaultfd import Userfaultfd, open_userfaultfd
from pagescan.query import Category


class Pages:
    """Some pages of this process: ``pages[i] = value`` writes the first byte of page i."""

    def __init__(self, address: int, count: int):
        self.address, self.count, self.length = address, count, count * PAGE_SIZE
        self.end = address + self.length
        self.bytes = as_array(address, self.length)

    def at(self, index: int) -> int:
        return self.address + index * PAGE_SIZE

    def __setitem__(self, index: int, value: int) -> None:
        self.bytes[index * PAGE_SIZE] = value


@pytest.fixture
def pages() -> Iterator[Callable[..., Pages]]:
    """``pages(4, **map_memory's)`` maps four pages, unmapped after the test."""
    mapped: list[Pages] = []

    def make(count: int, **how: int) -> Pages:
        mapped.append(Pages(map_memory(count * PAGE_SIZE, **how), count))
        return mapped[-1]

    yield make
    for one in mapped:
        unmap_memory(one.address, one.length)


@pytest.fixture
def pagemap() -> Iterator[Pagemap]:
    """This process's pagemap; skips where the kernel has no PAGEMAP_SCAN."""
    with Pagemap.open("self") as opened:
        try:
            opened.known  # noqa: B018 - the probe
        except KernelCannot as error:
            pytest.skip(f"no PAGEMAP_SCAN: {error.message}")
        yield opened


@pytest.fixture
def userfaultfd() -> Iterator[Userfaultfd]:
    """An asynchronous userfaultfd; skips where a round trip shows that WP_ASYNC does not work."""
    proof = LinuxSpace.current().prove_tracking()
    if not proof.works:
        pytest.skip(f"no WP_ASYNC: {proof.why}")
    with open_userfaultfd() as opened:
        yield opened


@pytest.fixture
def any_userfaultfd() -> Iterator[Userfaultfd]:
    """A userfaultfd without features; skips where this process can have none."""
    try:
        opened = open_userfaultfd(0)
    except PagescanError as error:
        pytest.skip(f"no userfaultfd: {error.message}")
    with opened:
        yield opened


def written(pagemap: Pagemap, pages: Pages, *, protect: bool = False) -> list[int]:
    """The indices of the written pages; ``protect`` makes them unwritten again in the same call."""
    vec = np.zeros(pages.count, REGION_DTYPE)
    argument = pack_scan_argument(
        flags=PM_SCAN_CHECK_WPASYNC | (PM_SCAN_WP_MATCHING if protect else 0),
        start=pages.address,
        end=pages.end,
        vec=vec.ctypes.data,
        vec_len=len(vec),
        category_mask=Category.WRITTEN,
        return_mask=Category.WRITTEN,
    )
    found = vec[: pagemap.ioctl_scan(argument, vec)]
    first = (found["start"].astype(int) - pages.address) // PAGE_SIZE
    last = (found["end"].astype(int) - pages.address) // PAGE_SIZE
    return [index for a, b in zip(first, last, strict=True) for index in range(a, b)]


@pytest.fixture
def look() -> Callable[..., list[int]]:
    """The function :func:`written`."""
    return written


@pytest.fixture
def child() -> Iterator[Callable[[str], subprocess.Popen[str]]]:
    """``child(program)`` starts a Python that prints a line when ready and lives until its input closes."""
    started: list[subprocess.Popen[str]] = []

    def start(program: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=_environment(),
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.communicate()


@pytest.fixture
def run_python() -> Callable[[str], str]:
    """``run_python(program)`` runs it in a new Python and returns what it prints; its failure fails the test."""

    def run(program: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, timeout=30, env=_environment(), check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


@pytest.fixture
def huge_page() -> Iterator[int]:
    """The size of a huge page of which one is free for the test; skips where root's pool cannot be enlarged."""
    pool = "/proc/sys/vm/nr_hugepages"
    before = _pool(pool)
    try:
        with open(pool, "w") as file:
            file.write(str(before + 1))
    except OSError as error:
        pytest.skip(f"no huge page to be had: {pool}: {error.strerror}")
    try:
        if _pool(pool) <= before:
            pytest.skip("no huge page to be had: memory is too fragmented, or there is no hugetlb")
        with open("/proc/meminfo") as file:
            yield next(1024 * int(line.split()[1]) for line in file if line.startswith("Hugepagesize:"))
    finally:
        with open(pool, "w") as file:
            file.write(str(before))


def _pool(path: str) -> int:
    with open(path) as file:
        return int(file.read())
