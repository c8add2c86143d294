"""A process that does to its address space what it is told."""

from __future__ import annotations

import os
import subprocess
import sys

PAGE = os.sysconf("SC_PAGE_SIZE")

#: A target that does what its standard input says, line by line, and answers each with a value.
TARGET = """
import ctypes, mmap, os, sys
PAGE = os.sysconf("SC_PAGE_SIZE")
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = libc.mremap.restype = ctypes.c_void_p
libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long)
libc.mremap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int, ctypes.c_void_p)
libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
libc.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
def new(pages, at=None, flags=0x22, prot=3):
    return libc.mmap(at, pages * PAGE, prot, flags | (0x10 if at else 0), -1, 0)
def put(at, page, value=1): ctypes.memset(at + page * PAGE, value, 1)
def fill(at, pages):
    for page in range(pages): put(at, page)
    return at
value = None
sys.stdout.write("ready\\n"); sys.stdout.flush()
for line in sys.stdin:
    value = eval(line)
    sys.stdout.write(repr(value) + "\\n"); sys.stdout.flush()
"""


class Target:
    """The process, and a way to have it do things."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", TARGET], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        assert self.process.stdin
        assert self.process.stdout
        self.stdin, self.stdout = self.process.stdin, self.process.stdout
        assert self.stdout.readline() == "ready\n"
        self.pid = self.process.pid

    def do(self, code: str) -> int:
        self.stdin.write(code + "\n")
        self.stdin.flush()
        answer = self.stdout.readline()
        assert answer, "the target died"
        return int(answer) if answer.strip() not in ("None", "True") else 0

    def area(self, pages: int) -> int:
        """Private memory, every page of it written to, between two mappings without access."""
        whole = self.do(f"new({pages + 2}, prot=0)")
        return self.do(f"fill(new({pages}, at={whole + PAGE}), {pages})")

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()
