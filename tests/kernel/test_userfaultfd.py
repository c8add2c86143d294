"""userfaultfd: negotiation, the calls, closing, and why none can be had."""

from __future__ import annotations

import errno
import os
import socket

import pytest

from pagescan.abi import TRACKING_FEATURES, Feature, RegisterMode
from pagescan.errors import AccessDenied, Closed, KernelCannot
from pagescan.kernel import userfaultfd as module
from pagescan.kernel.memory import PAGE_SIZE, Advice, madvise
from pagescan.kernel.userfaultfd import (
    DEVICE,
    Attempt,
    adopt,
    describe_features,
    explain_failure,
    handshake,
    open_userfaultfd,
    supported_features,
)

BY_CALL = "userfaultfd(UFFD_USER_MODE_ONLY)"


def test_written_pages_are_found_after_protecting_with_the_ioctl(userfaultfd, pagemap, pages, look):
    area = pages(5)
    madvise(area.address, area.length, Advice.NOHUGEPAGE)
    area.bytes[:] = 1
    ioctls = userfaultfd.register(area.address, area.length)
    assert ioctls & 1 << 6, "UFFDIO_WRITEPROTECT must be allowed"
    userfaultfd.writeprotect(area.address, area.length)
    assert look(pagemap, area) == []
    area[1] = area[3] = 7
    assert look(pagemap, area) == [1, 3]
    userfaultfd.writeprotect(area.at(2), PAGE_SIZE, protect=False)
    assert look(pagemap, area, protect=True) == [1, 2, 3]
    assert look(pagemap, area) == []
    userfaultfd.unregister(area.address, area.length)
    with pytest.raises(PermissionError):
        look(pagemap, area)


def test_closing_takes_the_protection_away_and_is_idempotent(pagemap, pages, look, userfaultfd):
    area = pages(1)
    area[0] = 1
    with open_userfaultfd() as opened:
        opened.register(area.address, area.length)
        assert look(pagemap, area) == [0]
    assert opened.closed
    opened.close()
    with pytest.raises(PermissionError):
        look(pagemap, area)


@pytest.mark.parametrize(
    "call",
    [
        lambda u: u.register(0, PAGE_SIZE),
        lambda u: u.unregister(0, PAGE_SIZE),
        lambda u: u.writeprotect(0, PAGE_SIZE),
        lambda u: u.rwprotect(0, PAGE_SIZE),
        lambda u: u.wake(0, PAGE_SIZE),
        lambda u: u.fileno(),
    ],
)
def test_a_closed_one_says_so(call, any_userfaultfd):
    any_userfaultfd.close()
    with pytest.raises(Closed, match="this userfaultfd is closed"):
        call(any_userfaultfd)
    assert issubclass(Closed, ValueError)


def test_the_kernels_errnos_come_through(userfaultfd, pages):
    area = pages(2)
    with pytest.raises(OSError, match="Invalid argument") as misaligned:
        userfaultfd.register(area.address + 1, PAGE_SIZE)
    with pytest.raises(FileNotFoundError):
        userfaultfd.writeprotect(area.address, area.length)
    userfaultfd.register(area.address, area.length)
    with open_userfaultfd() as second, pytest.raises(OSError, match="busy") as taken:
        second.register(area.address, area.length)
    assert (misaligned.value.errno, taken.value.errno) == (errno.EINVAL, errno.EBUSY)


def test_read_write_protection_where_the_kernel_has_it(pages):
    if not supported_features() & Feature.RWP_ASYNC:
        pytest.skip("no RWP_ASYNC, which Linux 7.3 brought")
    area = pages(2)
    with open_userfaultfd(Feature.RWP | Feature.RWP_ASYNC) as opened:
        assert opened.register(area.address, area.length, RegisterMode.RWP) & 1 << 9
        opened.rwprotect(area.address, area.length)
        assert area.bytes[0] == 0
        opened.rwprotect(area.address, area.length, protect=False)


def test_wake_wakes_nobody(userfaultfd, pages):
    area = pages(1)
    userfaultfd.register(area.address, area.length)
    assert userfaultfd.wake(area.address, area.length) is None


def test_the_features_granted_are_those_asked_for(userfaultfd):
    assert userfaultfd.features == TRACKING_FEATURES
    assert supported_features() & TRACKING_FEATURES == TRACKING_FEATURES
    assert not os.get_inheritable(userfaultfd.fileno())


def test_a_feature_nobody_has_is_named(any_userfaultfd):
    with pytest.raises(KernelCannot, match="lacks bits 0x10000000000") as caught:
        open_userfaultfd(1 << 40)
    assert caught.value.errno == errno.EINVAL


def test_missing_features_are_named_with_their_release(any_userfaultfd, monkeypatch):
    monkeypatch.setattr(module, "handshake", lambda file, features: Feature.WP_UNPOPULATED)
    with pytest.raises(KernelCannot, match=r"lacks WP_ASYNC \(Linux 6\.7\)"):
        open_userfaultfd(TRACKING_FEATURES)


def test_a_feature_that_is_listed_but_not_granted(any_userfaultfd, monkeypatch):
    def listed_only(file, features):
        if features:
            raise OSError(errno.EINVAL, "fake")
        return int(TRACKING_FEATURES)

    monkeypatch.setattr(module, "handshake", listed_only)
    with pytest.raises(KernelCannot, match=r"lists WP_UNPOPULATED .* but does not grant"):
        open_userfaultfd(TRACKING_FEATURES)


def test_features_in_words():
    assert describe_features(1 << 15 | 1 << 17) == "WP_ASYNC (Linux 6.7), RWP (Linux 7.3)"
    assert describe_features(0) == ""
    named = {member.name: int(member) for member in Feature}
    assert named == {name: 1 << bit for bit, (name, _) in enumerate(module.FEATURES) if name in named}


def test_no_descriptor_is_left_open(userfaultfd):
    before = os.listdir("/proc/self/fd")
    open_userfaultfd().close()
    with pytest.raises(KernelCannot):
        open_userfaultfd(1 << 40)
    assert os.listdir("/proc/self/fd") == before


def test_a_descriptor_received_over_a_socket_is_adopted(userfaultfd, pagemap, pages, look):
    area = pages(2)
    ours, theirs = socket.socketpair()
    with ours, theirs, open_userfaultfd() as sent:
        socket.send_fds(ours, [b"x"], [sent.fileno()])
        _, (fd,), _, _ = socket.recv_fds(theirs, 1, 1)
        with adopt(fd, sent.features) as received:
            sent.close()
            received.register(area.address, area.length)
            received.writeprotect(area.address, area.length)
            area[1] = 1
            assert look(pagemap, area) == [1]
            assert received.fileno() == fd


def test_the_device_gives_one_too():
    try:
        fd = module._by_device()
    except OSError as error:
        pytest.skip(f"{DEVICE}: {error.strerror}")
    try:
        assert handshake(fd, 0) == supported_features()
    finally:
        os.close(fd)


# --- why none can be had ---------------------------------------------------------------------------------------------


def explain(call, device, *, seccomp=0, root=False, ways=(BY_CALL,)):
    attempts = [Attempt(way, call) for way in ways] + [Attempt(DEVICE, device)]
    return explain_failure(attempts, seccomp=seccomp, root=root)


def test_without_seccomp_enosys_means_a_kernel_without_it():
    error = explain(errno.ENOSYS, errno.ENOENT)
    assert isinstance(error, KernelCannot)
    assert "CONFIG_USERFAULTFD" in error.message
    assert f"{BY_CALL}: ENOSYS; {DEVICE}: ENOENT" in error.message


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOSYS])
def test_under_seccomp_the_container_profile_is_named(number):
    error = explain(number, errno.ENOENT, seccomp=2)
    assert isinstance(error, AccessDenied)
    assert "seccomp filter, such as a container's profile" in error.message
    assert error.hint == "docker run --security-opt seccomp=unconfined ..."


def test_under_seccomp_a_device_one_may_not_open_is_the_way_out():
    error = explain(errno.EPERM, errno.EACCES, seccomp=2)
    assert f"{DEVICE} is not this user's to open" in error.message
    assert error.hint == f"sudo setfacl -m u:{os.geteuid()}:rw {DEVICE}"


def test_before_5_11_the_sysctl_decides():
    error = explain_failure(
        [Attempt(BY_CALL, errno.EINVAL), Attempt("userfaultfd(0)", errno.EPERM), Attempt(DEVICE, errno.ENOENT)],
        seccomp=0,
        root=False,
    )
    assert error.hint == "sudo sysctl vm.unprivileged_userfaultfd=1"


def test_without_seccomp_eperm_is_a_security_module():
    assert "security module" in explain(errno.EPERM, errno.EACCES).message


def test_the_flag_is_left_out_only_where_it_is_unknown(monkeypatch):
    asked = []

    def refuse(flags):
        asked.append(flags & module.UFFD_USER_MODE_ONLY)
        raise OSError(errno.EINVAL if asked == [1] else errno.EPERM, "fake")

    def no_device():
        raise FileNotFoundError(errno.ENOENT, "fake")

    monkeypatch.setattr(module, "_by_syscall", refuse)
    monkeypatch.setattr(module, "_by_device", no_device)
    with pytest.raises(AccessDenied, match=r"userfaultfd\(0\): EPERM"):
        open_userfaultfd(0)
    assert asked == [1, 0]
    with pytest.raises(AccessDenied):
        open_userfaultfd(0)
    assert asked == [1, 0, 1], "EPERM says nothing about the flag"
    assert supported_features() == 0


def test_running_out_of_descriptors_is_not_taken_for_a_missing_permission(monkeypatch):
    def full(flags):
        raise OSError(errno.EMFILE, "fake")

    monkeypatch.setattr(module, "_by_syscall", full)
    with pytest.raises(OSError, match="fake") as caught:
        open_userfaultfd(0)
    assert caught.value.errno == errno.EMFILE


#: Lets userfaultfd(2) fail with EPERM in this process: load the number, compare, return ERRNO or ALLOW.
FILTER = """
import ctypes, os, struct
from pagescan.errors import AccessDenied
from pagescan.kernel.ioctl import syscall_number
from pagescan.kernel.userfaultfd import open_userfaultfd, supported_features
number = syscall_number("userfaultfd")
code = [(0x20, 0, 0, 0), (0x15, 0, 1, number), (0x06, 0, 0, 0x00050001), (0x06, 0, 0, 0x7FFF0000)]
program = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *line) for line in code))
libc = ctypes.CDLL(None, use_errno=True)
if {uid}:
    os.setgroups([]); os.setgid({uid}); os.setuid({uid})
assert libc.prctl(38, 1, 0, 0, 0) == 0
fprog = ctypes.create_string_buffer(struct.pack("@HP", len(code), ctypes.addressof(program)))
assert libc.prctl(22, 2, fprog, 0, 0) == 0, ctypes.get_errno()
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can drop to another user")
def test_a_real_filter_is_explained(run_python):
    program = FILTER.format(uid=1234) + (
        "try: open_userfaultfd(0)\nexcept AccessDenied as e: print(e.message, '|', e.hint, supported_features())"
    )
    printed = run_python(program)
    assert "userfaultfd(UFFD_USER_MODE_ONLY): EPERM" in printed
    assert "seccomp filter" in printed
    assert printed.rstrip().endswith(" 0")


@pytest.mark.skipif(not os.access(DEVICE, os.R_OK | os.W_OK), reason=f"{DEVICE} cannot be opened")
def test_the_device_works_under_a_filter(run_python):
    program = FILTER.format(uid=0) + "with open_userfaultfd(0) as u: print(u.features, supported_features() > 0)"
    assert run_python(program) == "0 True\n"
