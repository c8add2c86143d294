"""A process with known memory to look at, and the command run as somebody else."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

if sys.platform != "linux":
    pytest.skip("the commands look at Linux processes", allow_module_level=True)

from pagescan.cli import main

#: The child of `target`: maps pages, touches some, prints the address, and waits for the end of its input.
CHILD = """
import ctypes, mmap, sys
pages, touched = int(sys.argv[1]), [int(word) for word in sys.argv[2].split(",")]
size = mmap.PAGESIZE
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
# PROT_NONE on both sides, so that no neighbour joins the mapping.
outer = libc.mmap(None, (pages + 2) * size, 0, 0x22, -1, 0)
inner = libc.mmap(outer + size, pages * size, 3, 0x32, -1, 0)
for page in touched:
    ctypes.memset(inner + page * size, 1, 1)
print(hex(inner), flush=True)
sys.stdin.read()
"""


@dataclass(frozen=True)
class Target:
    """A waiting child: its pid, and the mapping of `pages` pages of which `touched` were written."""

    pid: int
    start: int
    pages: int
    size: int

    @property
    def end(self) -> int:
        return self.start + self.pages * self.size

    @property
    def range(self) -> str:
        return f"{self.start:#x}-{self.end:#x}"

    def address(self, page: int) -> str:
        return f"{self.start + page * self.size:#x}"


@pytest.fixture
def target() -> Iterator[Target]:
    """16 pages in a child process, of which 1, 2 and 9 were touched."""
    command = [sys.executable, "-c", CHILD, "16", "1,2,9"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        start = int(child.stdout.readline(), 16)
        yield Target(child.pid, start, 16, os.sysconf("SC_PAGE_SIZE"))
        child.communicate()


@dataclass(frozen=True)
class Run:
    """What a command line did."""

    code: int
    out: str
    err: str

    def json(self):
        return json.loads(self.out)


@pytest.fixture
def run(capsys) -> Callable[..., Run]:
    """``run("scan", "--self")`` runs the command in this process."""

    def call(*arguments: str) -> Run:
        code = main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return Run(code, out, err)

    return call


def run_confined(prepare: Callable[[], None], *arguments: str) -> Run:
    """Run the command in a forked child after ``prepare``, which may give up privileges.

    The child executes nothing: an interpreter under a private home would be out of an ordinary user's reach.
    """
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        main(list(arguments))  # imports everything, with the privileges that reading it may need
    answer, answer_in = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            out, err = io.StringIO(), io.StringIO()
            prepare()
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                code = int(main(list(arguments)))
            with open(answer_in, "w") as file:
                json.dump([code, out.getvalue(), err.getvalue()], file)
        finally:
            os._exit(0)
    os.close(answer_in)
    with open(answer) as file:
        text = file.read()
    os.waitpid(child, 0)
    assert text, "the confined command died"
    return Run(*json.loads(text))
