"""A program that hands over its own userfaultfd."""

from __future__ import annotations

import os
import socket
import sys

import pytest

if sys.platform != "linux":
    pytest.skip("sharing needs Linux", allow_module_level=True)

from pagescan.abi import TRACKING_FEATURES
from pagescan.errors import InvalidArgument, KernelCannot, NoSuchProcess
from pagescan.kernel.space import LinuxSpace
from pagescan.process.attach import TracedSpace
from pagescan.process.share import connect, receive_userfaultfd, send_userfaultfd, share

from . import targets
from .test_attach import PAGE, written


@pytest.fixture(scope="module", autouse=True)
def works() -> None:
    proof = LinuxSpace.current().prove_tracking()
    if not proof.works:
        pytest.skip(f"no WP_ASYNC: {proof.why}")


SHARER = """
import ctypes, mmap, sys
from pagescan.process.share import share
area = mmap.mmap(-1, 4 * mmap.PAGESIZE)
area.write(b"x" * 4 * mmap.PAGESIZE)
sharing = share(sys.argv[1])
print("ready", flush=True)
print(ctypes.addressof(ctypes.c_char.from_buffer(area)), flush=True)
input()
area[2 * mmap.PAGESIZE] = 1
print("wrote", flush=True)
input()
sharing.close()
"""


@pytest.fixture
def sharer(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))
    path = str(tmp_path / "socket")
    with targets.running(*targets.python(SHARER), path) as process:
        yield process, path


def test_what_the_program_writes_is_seen_and_nobody_traced_it(sharer):
    process, path = sharer
    start = int(process.stdout.readline())
    adopted = connect(path)
    assert (adopted.pid, adopted.pause_ns, adopted.tid) == (process.pid, 0, 0)
    with TracedSpace(adopted.pid, ready=adopted) as space, space.open_userfaultfd(TRACKING_FEATURES) as userfaultfd:
        pagemap = space.open_pagemap()
        userfaultfd.register(start, 4 * PAGE)
        assert written(pagemap, start, 4) == [0, 1, 2, 3]
        print(file=process.stdin, flush=True)
        assert process.stdout.readline() == "wrote\n"
        assert written(pagemap, start, 4) == [2]
        pagemap.close()
    print(file=process.stdin, flush=True)
    assert process.wait(20) == 0
    assert not os.path.exists(path)


def test_each_who_asks_gets_one_of_their_own(sharer):
    _, path = sharer
    first, second = connect(path), connect(path)
    assert first.fd != second.fd
    first.close()
    second.close()


def test_a_feature_it_was_not_opened_with(sharer):
    adopted = connect(sharer[1])
    with pytest.raises(KernelCannot, match="does not grant"):
        adopted.open(TRACKING_FEATURES | 1 << 1)


def test_the_socket_is_for_its_owner_only_and_goes_with_it(tmp_path):
    path = str(tmp_path / "socket")
    with share(path) as sharing:
        assert os.stat(path).st_mode & 0o777 == 0o600
        with pytest.raises(InvalidArgument, match="cannot listen") as caught:
            share(path)
        assert caught.value.hint == f"rm {path}"
    assert not os.path.exists(path)
    sharing.close()
    with pytest.raises(NoSuchProcess, match="no program shares") as nobody:
        connect(path)
    assert "pagescan.share()" in (nobody.value.hint or "")


def test_an_abstract_name(tmp_path):
    with share(f"\0{tmp_path}"):
        adopted = connect(f"\0{tmp_path}")
        assert adopted.pid == os.getpid()
        adopted.close()


def test_over_a_socket_one_has_already():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        send_userfaultfd(theirs)
        adopted = receive_userfaultfd(ours)
        assert adopted.pid == os.getpid()
        adopted.open(TRACKING_FEATURES).close()


@pytest.mark.parametrize("what", ["words", "nothing", "another descriptor"])
def test_something_else_at_the_other_end_is_refused(what):
    ours, theirs = socket.socketpair()
    before = None
    with ours, theirs:
        if what == "words":
            theirs.sendall(b"HTTP/1.1 400 Bad")
        elif what == "another descriptor":
            socket.send_fds(theirs, [b"pagescn1" + bytes(8)], [theirs.fileno()])
        else:
            theirs.close()
        before = len(os.listdir("/proc/self/fd"))
        with pytest.raises(InvalidArgument):
            receive_userfaultfd(ours)
        assert len(os.listdir("/proc/self/fd")) == before


def test_one_that_does_not_answer(tmp_path):
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as mute:
        mute.bind(path)
        mute.listen()
        with pytest.raises(NoSuchProcess, match="does not answer"):
            connect(path, timeout=0.05)
