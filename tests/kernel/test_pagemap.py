"""The pagemap file: opening, closing, known categories, scanning, reading entries."""

from __future__ import annotations

import errno
import os

import numpy as np
import pytest

from pagescan.abi import REGION_DTYPE, Entry, pack_scan_argument
from pagescan.abi import Pagemap as Protocol
from pagescan.errors import Closed, InvalidArgument, KernelCannot, NoSuchProcess
from pagescan.kernel import pagemap as module
from pagescan.kernel.memory import PAGE_SIZE, Advice, madvise
from pagescan.kernel.pagemap import Pagemap, probe_categories
from pagescan.query import Category

NO_SUCH_PID = 2**22 + 1
FIRST = Category((1 << 7) - 1)  # the seven of Linux 6.7


def kernel(knows, *, failing=None):
    """A PAGEMAP_SCAN that knows some categories, and fails with ``failing`` for those asked beyond."""

    def scan(argument):
        mask = int.from_bytes(argument[88:96], "little")
        assert argument[16:32] == bytes(16), "the probe must scan nothing"
        if mask & ~int(knows):
            raise OSError(failing or errno.EINVAL, "fake")
        return 0

    return scan


def test_each_category_is_asked_for():
    assert probe_categories(kernel(FIRST)) == FIRST
    assert probe_categories(kernel(FIRST | Category.GUARD)) == FIRST | Category.GUARD


@pytest.mark.parametrize("number", [errno.ENOTTY, errno.EINVAL])
def test_no_ioctl_names_the_release(number):
    def scan(argument):
        raise OSError(number, "fake")

    with pytest.raises(KernelCannot, match=r"no PAGEMAP_SCAN, which Linux 6\.7 brought") as caught:
        probe_categories(scan)
    assert caught.value.errno == number


@pytest.mark.parametrize("number", [errno.ESRCH, errno.EPERM, errno.ENOTTY])
def test_a_probe_that_fails_otherwise_proves_nothing(number):
    with pytest.raises(OSError, match="fake") as caught:
        probe_categories(kernel(FIRST, failing=number))
    assert caught.value.errno == number


def test_this_kernel_knows_at_least_the_first_seven(pagemap):
    assert pagemap.known & FIRST == FIRST


def test_categories_are_asked_for_once_in_a_process(pagemap, monkeypatch):
    assert pagemap.known
    monkeypatch.setattr(module, "probe_categories", lambda scan: pytest.fail("asked again"))
    with Pagemap.open("self") as other:
        assert other.known == pagemap.known


def test_it_is_what_the_layers_above_take(pagemap):
    assert isinstance(pagemap, Protocol)
    assert pagemap.prepared_scans is None
    assert pagemap.space.label == "this process"


def test_a_scan_finds_the_pages_in_memory(pagemap, pages):
    area = pages(6)
    madvise(area.address, area.length, Advice.NOHUGEPAGE)
    area[1] = area[2] = area[4] = 1
    vec = np.zeros(4, REGION_DTYPE)
    argument = pack_scan_argument(
        start=area.address,
        end=area.end,
        vec=vec.ctypes.data,
        vec_len=4,
        category_mask=Category.PRESENT,
        return_mask=Category.PRESENT | Category.FILE,
    )
    expected = [(area.at(1), area.at(3), Category.PRESENT), (area.at(4), area.at(5), Category.PRESENT)]
    assert pagemap.ioctl_scan(argument, vec) == 2
    assert vec[:2].tolist() == expected
    vec[:] = 0
    call = pagemap.bind(argument, vec)
    assert call() == 2
    assert vec[:2].tolist() == expected


def test_a_bound_call_keeps_its_vector_alive(pagemap):
    vec = np.zeros(1, REGION_DTYPE)
    assert pagemap.bind(pack_scan_argument(), vec).__dict__["vec"] is vec


def test_an_unknown_flag_is_refused_with_the_errno(pagemap):
    with pytest.raises(OSError, match="Invalid argument") as caught:
        pagemap.ioctl_scan(pack_scan_argument(flags=1 << 40), None)
    assert caught.value.errno == errno.EINVAL


def test_a_closed_pagemap_refuses_though_its_number_is_taken_again(pagemap):
    opened = Pagemap.open("self")
    call = opened.bind(pack_scan_argument(), None)
    number = opened._file.fileno()
    opened.close()
    opened.close()
    assert opened.closed
    taken = os.open("/proc/self/pagemap", os.O_RDONLY)
    try:
        assert taken == number
        with pytest.raises(ValueError, match="closed"):
            call()
        with pytest.raises(Closed, match="this pagemap is closed"):
            opened.ioctl_scan(pack_scan_argument(), None)
        with pytest.raises(Closed):
            opened.read_entries(0, PAGE_SIZE)
    finally:
        os.close(taken)


def test_the_descriptor_is_closed_on_exec(pagemap):
    assert not os.get_inheritable(pagemap._file.fileno())


def test_a_context_manager_closes():
    with Pagemap.open("self") as opened:
        assert not opened.closed
    assert opened.closed
    assert repr(opened) == "<Pagemap of this process, closed>"


def test_no_such_process():
    with pytest.raises(NoSuchProcess) as caught:
        Pagemap.open(NO_SUCH_PID)
    assert caught.value.pid == NO_SUCH_PID


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gets as far as the missing memory")
def test_a_kernel_thread_has_no_memory():
    try:
        with open("/proc/2/comm") as file:
            name = file.read()
    except OSError:
        name = ""
    if name != "kthreadd\n":
        pytest.skip("process 2 is no kernel thread here (a pid namespace)")
    with pytest.raises(NoSuchProcess, match="kernel thread"):
        Pagemap.open(2)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can drop to a user who may not look")
def test_another_users_process_is_denied_with_the_command_that_helps(run_python):
    printed = run_python(
        f"import os\n"
        f"from pagescan.kernel.pagemap import Pagemap\n"
        f"from pagescan.errors import AccessDenied\n"
        f"os.setgroups([]); os.setgid(1234); os.setuid(1234)\n"
        f"try: Pagemap.open({os.getpid()})\n"
        f"except AccessDenied as e: print(e.message, '|', e.hint, '|', isinstance(e, PermissionError), e.pid)"
    )
    assert f"belongs to user 0, this one to user 1234 | run the same command with sudo | True {os.getpid()}" in printed


def test_entries_tell_what_is_in_memory(pages):
    area = pages(3)
    madvise(area.address, area.length, Advice.NOHUGEPAGE)
    area[1] = 1
    with Pagemap.open("self") as opened:
        entries = opened.read_entries(area.address, area.end)
    bits = entries & np.uint64(Entry.PRESENT | Entry.SWAPPED | Entry.FILE | Entry.EXCLUSIVE)
    assert bits.tolist() == [0, Entry.PRESENT | Entry.EXCLUSIVE, 0]


def test_entries_tell_what_is_protected(pages, userfaultfd):
    area = pages(2)
    madvise(area.address, area.length, Advice.NOHUGEPAGE)
    area[0] = area[1] = 1
    userfaultfd.register(area.address, area.length)
    userfaultfd.writeprotect(area.at(1), PAGE_SIZE)
    with Pagemap.open("self") as opened:
        entries = opened.read_entries(area.address, area.end - 1)  # the end is rounded up
    assert (entries & np.uint64(Entry.UFFD_WP)).tolist() == [0, Entry.UFFD_WP]


def test_entries_of_a_misaligned_or_outer_range_are_refused():
    with Pagemap.open("self") as opened:
        assert opened.read_entries(PAGE_SIZE, PAGE_SIZE).tolist() == []
        with pytest.raises(InvalidArgument, match=f"does not begin on a page of {PAGE_SIZE} bytes"):
            opened.read_entries(PAGE_SIZE + 1, 2 * PAGE_SIZE)
        with pytest.raises(InvalidArgument, match="beyond the address space of this process"):
            opened.read_entries(1 << 60, (1 << 60) + PAGE_SIZE)
