"""Programs as they are: numpy, and redis under load. What they do is right, and what they write is found."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import pagescan
from pagescan import PagescanError, Quality

PAGE = os.sysconf("SC_PAGE_SIZE")

NUMPY = """
import numpy as np, sys
array = np.zeros(64 << 20, np.uint8)
array[:] = 1
print(array.ctypes.data, flush=True)
for line in sys.stdin:
    array[int(line)] += 1
    product = np.ones((200, 200)) @ np.ones((200, 200))
    print(int(array[int(line)]), product.sum(), flush=True)
"""


def attach(pid: int) -> pagescan.ProcessTracker:
    try:
        return pagescan.attach(pid)
    except PagescanError as error:
        pytest.skip(f"attaching: {error.message}")


def test_numpy():
    with subprocess.Popen(
        [sys.executable, "-c", NUMPY], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    ) as process:
        assert process.stdin
        assert process.stdout
        at = int(process.stdout.readline())
        end = at + (64 << 20)
        with attach(process.pid) as tracker:
            for index in (5, 33 << 20, (64 << 20) - 1):
                process.stdin.write(f"{index}\n")
                assert process.stdout.readline() == "2 8000000.0\n"
                written = tracker.take().clip(at // PAGE * PAGE, end)
                page = (at + index) // PAGE * PAGE
                # Only numpy's own scratch memory may lie in the same mapping.
                assert page in written
                assert written.page_count <= 1 + 2 * (200 * 200 * 8 // PAGE + 2)
                assert tracker.read(pagescan.Regions.span(page, page + PAGE, page_size=PAGE))[(at + index) % PAGE] == 2
        process.stdin.close()
        assert process.wait(timeout=30) == 0


@pytest.fixture
def redis(tmp_path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A redis-server, and its socket."""
    for program in ("redis-server", "redis-benchmark", "redis-cli"):
        if shutil.which(program) is None:
            pytest.skip(f"no {program} here")
    socket = str(Path(tmp_path) / "socket")
    command = ["redis-server", "--port", "0", "--unixsocket", socket, "--save", "", "--dir", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert any("eady to accept connections" in line for line in iter(process.stdout.readline, ""))
        yield process, socket
        process.terminate()
        process.communicate(timeout=30)
        assert process.returncode == 0


def test_redis_under_load(redis):
    """Attached to again and again while it serves; every reply is right, and nothing of us stays in it."""
    process, socket = redis

    def ask(*words: str) -> str:
        return subprocess.run(["redis-cli", "-s", socket, *words], capture_output=True, text=True, check=True).stdout

    load = ["redis-benchmark", "-s", socket, "-t", "set,get,incr,lpush", "-n", "20000", "-r", "1000", "-P", "4", "-q"]
    assert ask("set", "kept", "as it was") == "OK\n"
    with subprocess.Popen(load, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as clients:
        found = attached = 0
        while clients.poll() is None:
            with attach(process.pid) as tracker:
                attached += 1
                for _ in range(3):
                    found += tracker.take().page_count
                assert tracker.take().quality in (Quality.EXACT, Quality.SUPERSET)
        assert clients.stdout
        said = clients.stdout.read()
        assert clients.returncode == 0
    assert "rror" not in said, said
    assert min(found, attached) > 0
    assert ask("get", "kept") == "as it was\n"
    assert process.poll() is None
    assert not [fd for fd in Path(f"/proc/{process.pid}/fd").iterdir() if "userfaultfd" in os.readlink(fd)]
