"""In a sandbox: what a seccomp filter forbids is passed over with the reason, and everything above works the same.

Each test is a process of its own, which puts itself under a filter and then does what a program would do.
"""

from __future__ import annotations

import os
import struct
import subprocess
import sys

import pytest

from pagescan.kernel.ioctl import ABI, USERFAULTFD_IOC_NEW, syscall_number

if ABI not in ("x86_64", "aarch64"):
    pytest.skip("the filters below are written for x86-64 and arm64", allow_module_level=True)

LOAD, EQUAL, ANSWER = 0x20, 0x15, 0x06  # BPF_LD|W|ABS, BPF_JMP|JEQ|K, BPF_RET|K
ALLOW, REFUSE = 0x7FFF0000, 0x00050000 | 1  # SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO | EPERM
NUMBER, SECOND_ARGUMENT = 0, 24  # offsets in struct seccomp_data
IOCTL = {"x86_64": 16, "aarch64": 29}[ABI]
READV = {"x86_64": 310, "aarch64": 270}[ABI]

#: No userfaultfd, by the system call or by its device.
NO_USERFAULTFD = [
    (LOAD, 0, 0, NUMBER),
    (EQUAL, 0, 1, syscall_number("userfaultfd")),
    (ANSWER, 0, 0, REFUSE),
    (EQUAL, 0, 3, IOCTL),
    (LOAD, 0, 0, SECOND_ARGUMENT),
    (EQUAL, 0, 1, USERFAULTFD_IOC_NEW & 0xFFFFFFFF),
    (ANSWER, 0, 0, REFUSE),
    (LOAD, 0, 0, NUMBER),
]
NO_READV = [(EQUAL, 0, 1, READV), (ANSWER, 0, 0, REFUSE)]

PROGRAM = """
import ctypes, mmap, struct, sys
import numpy as np
import pagescan
from pagescan import Quality
libc = ctypes.CDLL(None, use_errno=True)
def prctl(*arguments):
    assert libc.prctl(arguments[0], *(ctypes.c_ulong(a) for a in arguments[1:])) == 0
code = bytes.fromhex(sys.argv[1])
buffer = ctypes.create_string_buffer(code, len(code))
program = ctypes.create_string_buffer(struct.pack("@HP", len(code) // 8, ctypes.addressof(buffer)))
prctl(38, 1, 0, 0, 0)                                   # PR_SET_NO_NEW_PRIVS
prctl(22, 2, ctypes.addressof(program), 0, 0)           # PR_SET_SECCOMP, SECCOMP_MODE_FILTER
PAGE = mmap.PAGESIZE
array = pagescan.zeros((16, PAGE), np.uint8)
array[:] = 1
def pages(written):
    return [(int(address) - array.ctypes.data) // PAGE for address in written.pages()]
"""


def run(body: str, *rules: list[tuple[int, int, int, int]]) -> str:
    """What the program prints."""
    instructions = [*(one for rule in rules for one in rule), (ANSWER, 0, 0, ALLOW)]
    code = b"".join(struct.pack("=HBBI", *instruction) for instruction in instructions)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    environment.pop("PAGESCAN_ENGINE", None)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM + body, code.hex()], capture_output=True, text=True, timeout=60, env=environment
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


EVERYTHING = """
with pagescan.track(array) as tracker:
    assert tracker.engine in ("compare", "soft-dirty"), tracker.engine
    assert "pagemap-scan was passed over: " in tracker.why and "seccomp" in tracker.why, tracker.why
    exact = tracker.engine == "compare"
    def expect(written, wanted):
        found = pages(written)
        assert found == wanted if exact else set(wanted) <= set(found), (found, wanted)
        assert exact or not found or written.quality is Quality.SUPERSET
        return written
    expect(tracker.take(), [])
    cursor = tracker.cursor()
    array[3, 7] = 2
    assert tracker.changed()
    expect(tracker.peek(), [3])
    try:
        with tracker.taking() as written:
            expect(written, [3])
            array[5, 0] = 2
            raise ConnectionError
    except ConnectionError:
        pass
    expect(tracker.take(), [3, 5])
    array[6] = 9
    expect(cursor.take(), [3, 5, 6])
    with pagescan.track(array[4:8]) as other:
        array[7, 0] = 9
        expect(other.take(), [7])
    written = expect(tracker.take(), [6, 7])
    replica = array.copy()
    array[1] = 4
    for part in tracker.take().slices(array):
        replica.reshape(-1)[part] = array.reshape(-1)[part]
    assert np.array_equal(replica, array)
    print(tracker.engine)
"""


def test_without_userfaultfd_everything_works_and_says_why():
    assert run(EVERYTHING, NO_USERFAULTFD).strip() in ("compare", "soft-dirty")


def test_without_reading_by_system_call_either():
    """Containers of old forbid process_vm_readv(2) too; then memory is read through /proc/self/mem."""
    body = 'import os; os.environ["PAGESCAN_ENGINE"] = "compare"\n' + EVERYTHING.replace(
        'assert "pagemap-scan was passed over: " in tracker.why and "seccomp" in tracker.why, tracker.why', ""
    )
    assert run(body, NO_USERFAULTFD, NO_READV).strip() == "compare"


def test_shared_memory_is_compared():
    """Soft-dirty bits of it cannot be trusted, wherever there are any."""
    body = """
shared = mmap.mmap(-1, 16 * PAGE)
with pagescan.track(shared) as tracker:
    shared[3 * PAGE] = 1
    written = tracker.take()
    print(tracker.engine, written.slices(shared) == [slice(3 * PAGE, 4 * PAGE)], written.quality)
"""
    assert run(body, NO_USERFAULTFD).strip() == "compare True exact"


def test_an_engine_that_cannot_work_is_an_error_where_it_is_forced():
    body = """
for name in ("pagemap-scan", "pagemap-read"):
    try:
        pagescan.track(array, engine=name)
    except pagescan.PagescanError as error:
        assert "seccomp" in str(error) and error.hint, error
        print(type(error).__name__)
"""
    kinds = set(run(body, NO_USERFAULTFD).split())
    assert kinds <= {"AccessDenied", "KernelCannot"}
    assert kinds


def test_who_forbids_nothing_has_the_best():
    """The filters do not stand in the way of anything else."""
    out = run("with pagescan.track(array) as tracker: print(tracker.engine)")
    assert out.strip() in ("pagemap-scan", "compare", "soft-dirty")
