"""The files of /proc/PID: parsers on literal text, and the real files of real mappings."""

from __future__ import annotations

import errno
import mmap
import os
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pagescan.abi import Mapping
from pagescan.errors import AccessDenied, KernelCannot, NoSuchProcess
from pagescan.kernel import procfs
from pagescan.kernel.memory import (
    MAP_ANONYMOUS,
    MAP_HUGETLB,
    MAP_PRIVATE,
    MAP_SHARED,
    PAGE_SIZE,
    PROT_READ,
    map_memory,
    unmap_memory,
)
from pagescan.kernel.procfs import (
    list_mappings,
    list_smaps,
    mapping_at,
    maybe_huge,
    open_process_file,
    parse_maps,
    parse_smaps,
    parse_stat,
    parse_status,
    process_error,
    query_mapping,
    read_stat,
    read_status,
)
from tests.droppable import droppable as droppable

NO_SUCH_PID = 2**22 + 1

MAPS = r"""55d0c0a00000-55d0c0a21000 rw-p 00000000 00:00 0                          [heap]
7f10a0000000-7f10a0200000 rw-s 00200000 00:0f 51                         /dev/hugepages/a b (deleted)
7f10b0000000-7f10b0001000 r-xp 0000f000 fd:02 1310737                    /tmp/two\012lines
7f10c0000000-7f10c0001000 ---p 00000000 00:00 0 
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]
"""  # noqa: W291 - the kernel writes the blank


def test_maps():
    assert parse_maps(MAPS, 4096) == [
        Mapping(0x55D0C0A00000, 0x55D0C0A21000, "rw-p", name="[heap]"),
        Mapping(0x7F10A0000000, 0x7F10A0200000, "rw-s", 0x200000, "00:0f", 51, "/dev/hugepages/a b (deleted)"),
        Mapping(0x7F10B0000000, 0x7F10B0001000, "r-xp", 0xF000, "fd:02", 1310737, "/tmp/two\nlines"),
        Mapping(0x7F10C0000000, 0x7F10C0001000, "---p"),
        Mapping(0xFFFFFFFFFF600000, 0xFFFFFFFFFF601000, "--xp", name="[vsyscall]"),
    ]
    assert parse_maps("") == []


def as_line(mapping: Mapping) -> str:
    """The kernel's own line (show_map_vma in fs/proc/task_mmu.c)."""
    line = (
        f"{mapping.start:08x}-{mapping.end:08x} {mapping.perms} {mapping.offset:08x} {mapping.device} {mapping.inode} "
    )
    name = mapping.name.replace("\n", "\\012")
    return (line.ljust(73) + name if name else line) + "\n"


flag = st.sampled_from
mappings = st.builds(
    Mapping,
    start=st.integers(0, 2**64 - 1),
    end=st.integers(0, 2**64 - 1),
    perms=st.tuples(flag("r-"), flag("w-"), flag("x-"), flag("sp")).map("".join),
    offset=st.integers(0, 2**64 - 1),
    device=st.tuples(st.integers(0, 4095), st.integers(0, 2**20 - 1)).map(lambda d: f"{d[0]:02x}:{d[1]:02x}"),
    inode=st.integers(0, 2**64 - 1),
    name=st.one_of(
        st.just(""),
        # any bytes a path may hold, decoded as file names are; a backslash alone cannot be told from an escape
        st.binary(max_size=40).map(lambda b: "/" + os.fsdecode(b.replace(b"\0", b"").replace(b"\\", b""))),
        st.text(string.ascii_letters + " :", max_size=10).map(lambda s: f"[anon:{s}]"),
    ),
    page_size=st.just(4096),
)


@given(st.lists(mappings, max_size=4))
def test_maps_are_read_as_the_kernel_writes_them(expected):
    assert parse_maps("".join(as_line(m) for m in expected), 4096) == expected


SMAPS = """7f10a0000000-7f10a0400000 rw-s 00000000 00:0f 51                         /anon_hugepage (deleted)
Size:               4096 kB
KernelPageSize:     2048 kB
MMUPageSize:        2048 kB
Rss:                   0 kB
Swap:                  0 kB
AnonHugePages:         0 kB
Shared_Hugetlb:     2048 kB
Private_Hugetlb:    4096 kB
THPeligible:           0
VmFlags: rd wr sh mr mw me ms de ht uw 
7ffc00000000-7ffc00021000 rw-p 00000000 00:00 0                          [stack]
KernelPageSize:        4 kB
Rss:                  12 kB
Swap:                  8 kB
AnonHugePages:         4 kB
ProtectionKey:         0
VmFlags: rd wr gd
"""  # noqa: W291


def test_smaps():
    huge, stack = parse_smaps(SMAPS)
    assert huge.mapping == Mapping(
        0x7F10A0000000, 0x7F10A0400000, "rw-s", 0, "00:0f", 51, "/anon_hugepage (deleted)", 2048 * 1024
    )
    assert (huge.rss, huge.hugetlb, huge.kernel_page_size) == (0, 6 << 20, 2 << 20)
    assert huge.sizes["THPeligible"] == 0
    assert {"ht", "uw"} < huge.flags
    assert (stack.rss, stack.swap, stack.anon_huge, stack.hugetlb) == (12288, 8192, 4096, 0)
    assert stack.flags == frozenset({"rd", "wr", "gd"})


def test_the_flags_of_one_mapping(droppable):
    assert {"dp", "rd", "wr"} <= procfs.vm_flags(os.getpid(), droppable)
    assert {"dp", "rd", "wr"} <= procfs.vm_flags(os.getpid(), droppable + 7 * mmap.PAGESIZE)
    for entry in procfs.list_smaps(os.getpid()):
        if entry.mapping.name in ("[stack]", "[vdso]"):
            assert procfs.vm_flags(os.getpid(), entry.mapping.start) == entry.flags
            assert "dp" not in entry.flags
    assert procfs.vm_flags(os.getpid(), 0) == frozenset()
    assert procfs.vm_flags(os.getpid(), (1 << 63) - 1) == frozenset()


def test_stat_with_blanks_and_parentheses_in_the_name():
    text = "4711 (a) S (b c) T " + " ".join(str(field) for field in range(4, 53)) + "\n"
    assert parse_stat(text) == ("a) S (b c", "T", 22, 10 + 12)


STATUS = """Name:\tmy (prog)
State:\tt (tracing stop)
Uid:\t1000\t1001\t1002\t1003
TracerPid:\t42
VmSwap:\t      16 kB
Threads:\t3
CapEff:\t0000000000080000
Seccomp:\t2
"""


def test_status():
    status = parse_status(STATUS)
    assert (status.name, status.state, status.uids) == ("my (prog)", "t", (1000, 1001, 1002, 1003))
    assert (status.tracer_pid, status.threads, status.seccomp) == (42, 3, 2)
    assert status.effective_capabilities == 1 << 19
    assert (status.bytes("VmSwap"), status.bytes("VmRSS")) == (16384, 0)
    assert status["Threads"] == "3"


def test_the_status_of_this_process():
    status = read_status(os.getpid())
    assert status.uids[:2] == (os.getuid(), os.geteuid())
    assert status.threads == len(os.listdir("/proc/self/task"))
    assert status.tracer_pid == 0 or os.path.exists(f"/proc/{status.tracer_pid}")


def test_a_child_started_after_its_parent(child):
    process = child("print(1, flush=True); input()")
    process.stdout.readline()
    stat = read_stat(process.pid)
    assert stat.start_time >= read_stat(os.getpid()).start_time
    assert stat.comm.startswith("python")
    assert stat.state in "RSD"


# --- mappings of this process ----------------------------------------------------------------------------------------


@pytest.fixture
def maps():
    with open_process_file(os.getpid(), "maps") as file:
        try:
            query_mapping(file, 0)
        except OSError as error:
            if error.errno != errno.ENOTTY:
                raise
            pytest.skip("no PROCMAP_QUERY, which Linux 6.11 brought")
        yield file


def test_a_file_with_an_odd_name(tmp_path, maps):
    path = tmp_path / "two\nlines and a blank "
    path.write_bytes(bytes(3 * PAGE_SIZE))
    fd = os.open(path, os.O_RDONLY)
    inode = os.fstat(fd).st_ino
    start = map_memory(2 * PAGE_SIZE, protection=PROT_READ, flags=MAP_PRIVATE, fd=fd, offset=PAGE_SIZE)
    try:
        path.unlink()
        expected = (start + 2 * PAGE_SIZE, "r--p", PAGE_SIZE, inode, f"{path} (deleted)", PAGE_SIZE)
        for found in (
            next(m for m in list_mappings(os.getpid()) if m.start == start),
            query_mapping(maps, start + PAGE_SIZE),
            mapping_at(os.getpid(), start + 2 * PAGE_SIZE - 1),
        ):
            assert found is not None
            assert (found.end, found.perms, found.offset, found.inode, found.name, found.page_size) == expected
            assert found.device == f"{os.major(os.stat(tmp_path).st_dev):02x}:{os.minor(os.stat(tmp_path).st_dev):02x}"
    finally:
        unmap_memory(start, 2 * PAGE_SIZE)
        os.close(fd)


def test_text_and_queries_agree_on_every_mapping(maps):
    queried, address = [], 0
    listed = list_mappings(os.getpid())
    while found := query_mapping(maps, address, or_next=True):
        queried.append(found)
        address = found.end
    # Our own heap may grow between the two; vsyscall is no mapping, and only the text shows it.
    still = [m.name not in ("[vsyscall]", "[heap]") and m.inode != 0 for m in listed]
    assert [m for m, keep in zip(listed, still, strict=True) if keep] == [m for m in queried if m.inode != 0]
    assert any(m.inode for m in queried)


def test_nothing_mapped(maps, pages):
    area = pages(2)
    unmap_memory(area.at(1), PAGE_SIZE)
    try:
        assert query_mapping(maps, area.at(1)) is None
        assert mapping_at(os.getpid(), area.at(1)) is None
        above = query_mapping(maps, area.at(1), or_next=True)
        assert above is not None
        assert above.start > area.at(1)
        below = mapping_at(os.getpid(), area.address)
        assert below is not None
        assert below.end == area.at(1)
    finally:
        map_memory(PAGE_SIZE, address=area.at(1), flags=MAP_PRIVATE | MAP_ANONYMOUS | 0x100000)


@pytest.mark.parametrize("sharing", [MAP_PRIVATE, MAP_SHARED])
@pytest.mark.parametrize("query", [True, False])
def test_huge_pages_are_told_with_and_without_procmap_query(huge_page, sharing, query, monkeypatch):
    start = map_memory(huge_page, flags=sharing | MAP_ANONYMOUS | MAP_HUGETLB)
    if not query:

        def before_6_11(*_):
            raise OSError(errno.ENOTTY, "fake")

        monkeypatch.setattr(procfs, "ioctl", before_6_11)
    try:
        (mine,) = [m for m in list_mappings(os.getpid()) if m.start == start]
        assert (mine.page_size, mine.end, mine.shared) == (huge_page, start + huge_page, sharing == MAP_SHARED)
        assert mapping_at(os.getpid(), start + PAGE_SIZE) == mine
        (entry,) = [e for e in list_smaps(os.getpid()) if e.mapping.start == start]
        assert entry.mapping == mine
        assert "ht" in entry.flags
    finally:
        unmap_memory(start, huge_page)


@pytest.mark.parametrize(
    ("mapping", "maybe"),
    [
        (Mapping(1 << 21, 1 << 22, "rw-p", inode=3), True),
        (Mapping(1 << 21, 1 << 22, "rw-p", inode=0), False),
        (Mapping(1 << 21, (1 << 22) + 4096, "rw-p", inode=3), False),
        (Mapping((1 << 21) + 4096, 1 << 22, "rw-p", inode=3), False),
    ],
)
def test_only_aligned_mappings_of_files_can_be_huge(mapping, maybe):
    assert maybe_huge(mapping, 1 << 21) is maybe


# --- errors ----------------------------------------------------------------------------------------------------------


def test_a_process_that_is_not_there():
    for read in (list_mappings, list_smaps, read_status, read_stat):
        with pytest.raises(NoSuchProcess) as caught:
            read(NO_SUCH_PID)
        assert caught.value.pid == NO_SUCH_PID


def test_a_file_the_kernel_was_built_without():
    with pytest.raises(KernelCannot, match="the file is not"):
        open_process_file(os.getpid(), "no-such-file")


def denied(monkeypatch, *, owner, scope=0, attach=False):
    """The denial of a process of ``owner`` (1000 + n) to user 1000."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(procfs, "_owner", lambda pid: owner)
    monkeypatch.setattr(procfs, "_yama_scope", lambda: scope)
    error = process_error(PermissionError(errno.EACCES, "fake"), 77, "look at process 77", attach=attach)
    assert isinstance(error, AccessDenied)
    assert (error.pid, error.errno) == (77, errno.EACCES)
    return error


def test_another_users_process(monkeypatch):
    error = denied(monkeypatch, owner=0)
    assert error.message == "cannot look at process 77: process 77 belongs to user 0, this one to user 1000"
    assert "sudo" in error.hint


@pytest.mark.parametrize(
    ("scope", "says", "hint"),
    [
        (1, "descendants only", "sudo sysctl kernel.yama.ptrace_scope=0"),
        (2, "root only", "sudo sysctl kernel.yama.ptrace_scope=0"),
        (3, "until the next boot", "set kernel.yama.ptrace_scope=0 and boot again"),
        (0, "not dumpable", "sudo"),
    ],
)
def test_yama_is_named_where_it_counts(monkeypatch, scope, says, hint):
    error = denied(monkeypatch, owner=1000, scope=scope, attach=True)
    assert says in error.message
    assert hint in error.hint
    assert "not dumpable" in denied(monkeypatch, owner=1000, scope=scope).message, "reading is not Yama's affair"


def test_root_without_the_capability(monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    error = process_error(PermissionError(errno.EPERM, "fake"), 77, "look at process 77")
    assert "CAP_SYS_PTRACE" in str(error)
    assert "docker run --cap-add SYS_PTRACE" in str(error)


def test_the_sudo_command_repeats_the_program(monkeypatch):
    monkeypatch.setattr("sys.orig_argv", ["pagescan", "scan", "-p", "12", "--name", "a b"])
    assert procfs.sudo_command() == "sudo pagescan scan -p 12 --name 'a b'"
    monkeypatch.setattr("sys.orig_argv", ["python", "-c", "one\ntwo"])
    assert procfs.sudo_command() == "run the same command with sudo"


def test_other_errors_are_left_as_they_are():
    error = OSError(errno.EMFILE, "fake")
    assert process_error(error, os.getpid(), "open a file") is error


def test_threads_that_want_to_run(monkeypatch, tmp_path):
    assert procfs.count_runnable() >= 1
    (tmp_path / "loadavg").write_text("0.40 0.31 1.57 3/92 2001\n")
    monkeypatch.setattr(procfs, "Path", lambda _: tmp_path / "loadavg")
    assert procfs.count_runnable() == 3
    monkeypatch.setattr(procfs, "Path", lambda _: tmp_path / "missing")
    assert procfs.count_runnable() == 0
