"""Request and system call numbers, and the call."""

from __future__ import annotations

import errno
import fcntl
import os

import pytest

from pagescan.errors import KernelCannot
from pagescan.kernel import ioctl
from pagescan.kernel.ioctl import GENERIC, PARISC, POWERPC, abi_name, encoding_for, syscall_number


@pytest.mark.parametrize(
    ("encoding", "iowr", "ior", "io"),
    [
        (GENERIC, 0xC0606610, 0x8010AA01, 0x0000AA00),
        (POWERPC, 0xC0606610, 0x4010AA01, 0x2000AA00),
        (PARISC, 0xC0606610, 0x4010AA01, 0x0000AA00),
    ],
)
def test_an_encoding_packs_direction_size_letter_and_number(encoding, iowr, ior, io):
    assert encoding.iowr(ord("f"), 16, 96) == iowr
    assert encoding.ior(0xAA, 1, 16) == ior
    assert encoding.io(0xAA, 0) == io


def test_write_is_the_other_direction():
    assert (GENERIC.iow(0xAA, 10, 8), POWERPC.iow(0xAA, 10, 8)) == (0x4008AA0A, 0x8008AA0A)


@pytest.mark.parametrize(
    ("machine", "bits", "abi"),
    [
        ("x86_64", 64, "x86_64"),
        ("AMD64", 64, "x86_64"),
        ("x86_64", 32, "i386"),
        ("i686", 32, "i386"),
        ("aarch64", 64, "aarch64"),
        ("arm64", 64, "aarch64"),
        ("aarch64", 32, "arm"),
        ("armv7l", 32, "arm"),
        ("riscv64", 64, "riscv64"),
        ("loongarch64", 64, "loongarch64"),
        ("s390x", 64, "s390x"),
        ("ppc64le", 64, "powerpc"),
        ("mips64", 64, "mips64"),
        ("mips", 32, "mips32"),
        ("sparc64", 64, "sparc64"),
    ],
)
def test_the_interface_follows_machine_and_pointer_size(machine, bits, abi):
    assert abi_name(machine, bits) == abi


def test_each_interface_has_its_encoding():
    assert [encoding_for(abi) for abi in ("x86_64", "aarch64", "s390x", "loongarch64")] == [GENERIC] * 4
    assert [encoding_for(abi) for abi in ("powerpc", "mips64", "sparc64", "alpha64")] == [POWERPC] * 4
    assert encoding_for("parisc64") == PARISC


def test_late_system_calls_have_one_number_plus_an_offset():
    assert [syscall_number("pidfd_getfd", abi) for abi in ("x86_64", "s390x", "mips64", "alpha64")] == [
        438,
        438,
        5438,
        548,
    ]


@pytest.mark.parametrize(("name", "abi"), [("userfaultfd", "vax"), ("reboot", "x86_64")])
def test_an_unknown_system_call_is_refused_rather_than_guessed(name, abi):
    with pytest.raises(KernelCannot, match=f"{name} on {abi}"):
        syscall_number(name, abi)


def test_an_interrupted_call_is_made_again(monkeypatch):
    answers = iter([InterruptedError(errno.EINTR, "interrupted"), 7])

    def call(*_):
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(fcntl, "ioctl", call)
    assert ioctl.ioctl(0, 0, bytearray()) == 7


def test_other_errors_pass_through():
    reader, writer = os.pipe()
    try:
        with pytest.raises(OSError, match="ioctl") as caught:
            ioctl.ioctl(reader, ioctl.PAGEMAP_SCAN, bytearray(96))
        assert caught.value.errno == errno.ENOTTY
    finally:
        os.close(reader)
        os.close(writer)
