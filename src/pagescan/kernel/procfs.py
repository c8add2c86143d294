"""The files of /proc/PID as values: mappings, their sizes, the status, and why a process cannot be looked at.

Parsers are pure functions over text. Names of files are bytes to the kernel: they are decoded as Python decodes file
names (``os.fsdecode``), so that they can be handed to ``open`` again.

Source: ``Documentation/filesystems/proc.rst``; ``fs/proc/task_mmu.c`` (``show_map_vma``, ``do_procmap_query``).
"""

from __future__ import annotations

import ctypes
import errno
import functools
import io
import os
import shlex
import struct
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ..abi import Mapping
from ..errors import AccessDenied, KernelCannot, NoSuchProcess
from .ioctl import PROCMAP_QUERY, HasFileno, ioctl

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE_SIZE = os.sysconf("SC_PAGE_SIZE")


# --- opening ---------------------------------------------------------------------------------------------------------


def open_process_file(pid: int, name: str) -> io.FileIO:
    """``/proc/PID/name``, unbuffered, read-only, close-on-exec. Raises NoSuchProcess, AccessDenied, KernelCannot."""
    who = "self" if pid == os.getpid() else str(pid)  # "self" also holds where /proc is another pid namespace's
    try:
        return io.FileIO(f"/proc/{who}/{name}")
    except OSError as error:
        raise process_error(error, pid, f"open /proc/{who}/{name}") from error


def read_process_file(pid: int, name: str) -> str:
    """The whole of ``/proc/PID/name``. Raises as :func:`open_process_file`."""
    with open_process_file(pid, name) as file:
        try:
            return os.fsdecode(file.readall())
        except OSError as error:
            raise process_error(error, pid, f"read /proc/{pid}/{name}") from error


def write_process_file(pid: int, name: str, content: bytes) -> None:
    """Write to ``/proc/PID/name``, in one call. Raises as :func:`open_process_file`."""
    who = "self" if pid == os.getpid() else str(pid)
    try:
        with open(f"/proc/{who}/{name}", "wb", buffering=0) as file:
            file.write(content)
    except OSError as error:
        raise process_error(error, pid, f"write to /proc/{who}/{name}") from error


def process_error(error: OSError, pid: int, asked: str, *, attach: bool = False) -> Exception:
    """The typed error for what went wrong with a process: who is gone, which permission is missing, how to mend it.

    Args:
        asked: what was tried, as an infinitive: "read /proc/12/maps".
        attach: it needs ptrace-attach permission, which Yama restricts; else ptrace-read permission is enough.
    """
    if error.errno in (errno.EACCES, errno.EPERM):
        if not _has_memory(pid):  # the kernel gives the files of such a process to root (task_dump_owner())
            why = "it has exited, or is about to, or it is a kernel thread without memory"
            return NoSuchProcess(f"cannot {asked}: {why}", pid=pid, errno=errno.ESRCH)
        why, hint = _denial(pid, attach)
        return AccessDenied(f"cannot {asked}: {why}", hint=hint, pid=pid, errno=error.errno)
    if error.errno == errno.ESRCH or (error.errno == errno.ENOENT and not os.path.exists(f"/proc/{pid}")):
        if os.path.exists("/proc/self"):
            why = "there is no such process, it has exited, or it is a kernel thread without memory"
            return NoSuchProcess(f"cannot {asked}: {why}", pid=pid, errno=error.errno)
        return KernelCannot(f"cannot {asked}: /proc is not mounted", hint="mount -t proc proc /proc", errno=error.errno)
    if error.errno == errno.ENOENT:
        why = "the process is there, the file is not: this kernel was built without it (CONFIG_PROC_PAGE_MONITOR)"
        return KernelCannot(
            f"cannot {asked}: {why}",
            hint="run a kernel that has CONFIG_PROC_PAGE_MONITOR=y",
            pid=pid,
            errno=error.errno,
        )
    return error


def _denial(pid: int, attach: bool) -> tuple[str, str]:
    """Why this process may not look at that one, and the command that lets it (``__ptrace_may_access``)."""
    if os.geteuid() == 0:
        return "this root has no CAP_SYS_PTRACE over it", "in a container: docker run --cap-add SYS_PTRACE ..."
    owner = _owner(pid)
    if owner is not None and owner != os.geteuid():
        return f"process {pid} belongs to user {owner}, this one to user {os.geteuid()}", sudo_command()
    scope = _yama_scope() if attach else 0
    if scope in (1, 2):
        return f"Yama allows it to {('descendants', 'root')[scope - 1]} only", "sudo sysctl kernel.yama.ptrace_scope=0"
    if scope == 3:
        return "Yama forbids it to everybody until the next boot", "set kernel.yama.ptrace_scope=0 and boot again"
    return f"process {pid} is not dumpable: a setuid program, or one with more privileges", sudo_command()


def _owner(pid: int) -> int | None:
    status = _status(pid)
    return status.uids[1] if status else None


def _has_memory(pid: int) -> bool:
    status = _status(pid)
    return status is None or "VmSize" in status.fields


def _status(pid: int) -> Status | None:
    """World-readable, so it is read without the way round through errors."""
    try:
        with open(f"/proc/{pid}/status", "rb") as file:
            return parse_status(os.fsdecode(file.read()))
    except OSError:
        return None


def _yama_scope() -> int:
    try:
        return int(Path("/proc/sys/kernel/yama/ptrace_scope").read_text())
    except OSError:
        return 0


def sudo_command() -> str:
    """The command line of this very program under sudo; in general words where it does not fit on a line."""
    line = shlex.join(sys.orig_argv)
    return f"sudo {line}" if len(line) < 200 and "\n" not in line else "run the same command with sudo"


# --- maps ------------------------------------------------------------------------------------------------------------


def parse_maps(text: str, page_size: int = PAGE_SIZE) -> list[Mapping]:
    r"""``/proc/PID/maps`` as mappings, each with ``page_size``, which the file does not tell.

    The kernel writes a newline within a name as ``\012`` and leaves a backslash as it is (``seq_path(m, path, "\n")``),
    so a name that really holds ``\012`` cannot be told apart.
    """
    return [_parse_line(line, page_size) for line in text.split("\n") if line]


@functools.lru_cache(maxsize=8192)  # a process is looked at again and again, and most of its mappings stay
def _parse_line(line: str, page_size: int) -> Mapping:
    addresses, perms, offset, device, inode, *name = line.split(None, 5)
    start, _, end = addresses.partition("-")
    return Mapping(
        start=int(start, 16),
        end=int(end, 16),
        perms=perms,
        offset=int(offset, 16),
        device=device,
        inode=int(inode),
        name=name[0].replace("\\012", "\n") if name else "",
        page_size=page_size,
    )


# struct procmap_query, 104 bytes: size, query_flags, query_addr, vma_start, vma_end, vma_flags, vma_page_size,
# vma_offset, inode; dev_major, dev_minor, vma_name_size, build_id_size; vma_name_addr, build_id_addr.
_QUERY = struct.Struct("=9Q4I2Q")
QUERY_SIZE = _QUERY.size
assert QUERY_SIZE == 104
COVERING_OR_NEXT_VMA = 0x10
_PERMISSIONS = ((0x1, "r-"), (0x2, "w-"), (0x4, "x-"), (0x8, "sp"))
_NAME_SIZE = 4096  # PATH_MAX; the kernel gives no more


def query_mapping(maps: HasFileno, address: int, *, or_next: bool = False) -> Mapping | None:
    """The mapping that holds ``address`` (or else the next one above, if asked), through PROCMAP_QUERY.

    Linux 6.11, ed5d583a88a9 ("fs/procfs: implement efficient VMA querying API for /proc/<pid>/maps"). Unlike the text
    it tells the backing page size, and never names ``[vsyscall]``, which is no mapping.

    Args:
        maps: the open ``/proc/PID/maps``.

    Raises OSError: ENOTTY before 6.11; ESRCH after the process's end; E2BIG, ENAMETOOLONG for a path over 4095 bytes.
    """
    name = ctypes.create_string_buffer(_NAME_SIZE)
    found = _query(maps, address, COVERING_OR_NEXT_VMA if or_next else 0, _NAME_SIZE, ctypes.addressof(name))
    if found is None:
        return None
    start, end, flags, page_size, offset, inode, major, minor = found[3:11]
    return Mapping(
        start=start,
        end=end,
        perms="".join(letters[0 if flags & bit else 1] for bit, letters in _PERMISSIONS),
        offset=offset,
        device=f"{major:02x}:{minor:02x}",
        inode=inode,
        name=os.fsdecode(name.raw[: max(0, found[11] - 1)]),
        page_size=page_size,
    )


def _query(maps: HasFileno, address: int, flags: int, name_size: int, name: int) -> tuple[int, ...] | None:
    argument = bytearray(_QUERY.pack(_QUERY.size, flags, address, 0, 0, 0, 0, 0, 0, 0, 0, name_size, 0, name, 0))
    try:
        ioctl(maps, PROCMAP_QUERY, argument)
    except FileNotFoundError:
        return None
    return _QUERY.unpack(argument)


def list_mappings(pid: int) -> list[Mapping]:
    """Every mapping of a process by address, each with its backing page size. Raises as :func:`open_process_file`.

    The text of maps is read in one go, and only mappings that hugetlb could back are asked about one by one. Reading
    everything through PROCMAP_QUERY was slower: 400 mappings, Linux 6.18, CPython 3.11: this way 1.7 ms, one query each
    3.7 ms, smaps 9.6 ms.
    """
    with open_process_file(pid, "maps") as file:
        try:
            mappings = parse_maps(os.fsdecode(file.readall()))
            suspects = [i for i, mapping in enumerate(mappings) if maybe_huge(mapping, smallest_huge_page())]
            sizes = _page_sizes(file, pid, [mappings[i] for i in suspects])
        except OSError as error:
            raise process_error(error, pid, f"read /proc/{pid}/maps") from error
    for index, size in zip(suspects, sizes, strict=True):
        mappings[index] = replace(mappings[index], page_size=size)
    return mappings


def mapping_at(pid: int, address: int) -> Mapping | None:
    """The mapping of a process that holds ``address``, or None. Raises as :func:`open_process_file`."""
    with open_process_file(pid, "maps") as file:
        try:
            found = query_mapping(file, address)
        except OSError as error:
            if error.errno not in (errno.ENOTTY, errno.E2BIG, errno.ENAMETOOLONG):
                raise process_error(error, pid, f"query /proc/{pid}/maps") from error
        else:
            if found is not None:
                return found
    return next((m for m in list_mappings(pid) if m.start <= address < m.end), None)


@functools.cache
def smallest_huge_page() -> int:
    """The size in bytes of the smallest hugetlb page of this kernel; twice the page size where /sys does not tell."""
    try:
        names = os.listdir("/sys/kernel/mm/hugepages")
    except OSError:
        names = []
    sizes = [1024 * int(name.removeprefix("hugepages-").removesuffix("kB")) for name in names]
    return min(sizes, default=2 * PAGE_SIZE)


def maybe_huge(mapping: Mapping, smallest: int) -> bool:
    """Whether hugetlb, or a DAX device, could back the mapping.

    Such a mapping always has an inode (the anonymous ones belong to the kernel's own hugetlbfs), and both its ends are
    multiples of its page size: ``hugetlb_vm_op_split()`` and ``hugetlb_get_unmapped_area()`` in ``mm/hugetlb.c``.
    """
    return mapping.inode != 0 and mapping.start % smallest == 0 and mapping.end % smallest == 0


def _page_sizes(maps: HasFileno, pid: int, mappings: list[Mapping]) -> list[int]:
    """The backing page sizes of some mappings, by PROCMAP_QUERY, or before Linux 6.11 from smaps."""
    if not mappings:
        return []
    try:
        found = [_query(maps, mapping.start, 0, 0, 0) for mapping in mappings]
    except OSError as error:
        if error.errno != errno.ENOTTY:
            raise
        entries = {entry.mapping.start: entry.kernel_page_size for entry in list_smaps(pid)}
        return [entries.get(mapping.start, mapping.page_size) for mapping in mappings]
    return [mapping.page_size if f is None else f[6] for mapping, f in zip(mappings, found, strict=True)]


# --- smaps -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SmapsEntry:
    """One mapping of ``/proc/PID/smaps``.

    Attributes:
        mapping: with the page size that backs it.
        sizes: every figure by its name in the file (``Rss``, ``Swap``, ``Shared_Hugetlb``), in bytes.
        flags: ``VmFlags``, two letters each: ``uw`` registered for userfaultfd write protection, ``ht`` hugetlb, ``dp``
            droppable.
    """

    mapping: Mapping
    sizes: dict[str, int]
    flags: frozenset[str]

    @property
    def rss(self) -> int:
        """Bytes in memory; hugetlb pages are not among them."""
        return self.sizes.get("Rss", 0)

    @property
    def swap(self) -> int:
        """Bytes swapped out."""
        return self.sizes.get("Swap", 0)

    @property
    def anon_huge(self) -> int:
        """Bytes in transparent huge pages."""
        return self.sizes.get("AnonHugePages", 0)

    @property
    def hugetlb(self) -> int:
        """Bytes in hugetlb pages."""
        return self.sizes.get("Shared_Hugetlb", 0) + self.sizes.get("Private_Hugetlb", 0)

    @property
    def kernel_page_size(self) -> int:
        """Bytes of one backing page."""
        return self.mapping.page_size


def parse_smaps(text: str, page_size: int = PAGE_SIZE) -> list[SmapsEntry]:
    """``/proc/PID/smaps`` as entries, by address."""
    blocks: list[list[str]] = []
    for line in filter(None, text.split("\n")):
        if line[0] in "0123456789abcdef":  # a mapping; figures begin with a capital letter
            blocks.append([])
        blocks[-1].append(line)
    return [_parse_block(block, page_size) for block in blocks]


def _parse_block(block: list[str], page_size: int) -> SmapsEntry:
    sizes: dict[str, int] = {}
    flags: frozenset[str] = frozenset()
    for key, values in _fields(block[1:]):
        if key == "VmFlags":
            flags = frozenset(values)
        elif values:
            sizes[key] = int(values[0]) * (1024 if values[-1] == "kB" else 1)
    return SmapsEntry(_parse_line(block[0], sizes.get("KernelPageSize", page_size)), sizes, flags)


def _fields(lines: list[str]) -> Iterator[tuple[str, list[str]]]:
    for line in lines:
        key, _, rest = line.partition(":")
        yield key, rest.split()


def list_smaps(pid: int) -> list[SmapsEntry]:
    """Every mapping of a process with its figures. Walks all its page tables: slow for large processes. Raises as
    :func:`open_process_file`."""
    return parse_smaps(read_process_file(pid, "smaps"))


def vm_flags(pid: int, address: int) -> frozenset[str]:
    """``VmFlags`` of the mapping that holds ``address``; none if nothing does. Raises as :func:`open_process_file`.

    Walks the page tables of what is mapped below it, too, and of hardly anything above.
    """
    block: list[str] = []
    with io.BufferedReader(open_process_file(pid, "smaps")) as file:
        try:
            for line in file:
                block.append(os.fsdecode(line))
                if line.startswith(b"VmFlags:"):
                    entry = _parse_block(block, PAGE_SIZE)
                    if address < entry.mapping.end:
                        return entry.flags if address >= entry.mapping.start else frozenset()
                    block.clear()
        except OSError as error:
            raise process_error(error, pid, f"read /proc/{pid}/smaps") from error
    return frozenset()


def kept_from_children(pid: int) -> list[tuple[int, int]]:
    """The mappings, [start, end), that a child forked from now on does not share: MADV_DONTFORK (``dc`` of VmFlags),
    which it does not get, and MADV_WIPEONFORK (``wf``), which it gets empty. Raises as :func:`open_process_file`."""
    found = [entry.mapping for entry in list_smaps(pid) if entry.flags & {"dc", "wf"}]
    return [(mapping.start, mapping.end) for mapping in found]


# --- status and stat -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Status:
    """``/proc/PID/status``: ``status["VmRSS"]`` is the text of a line; the properties are the ones pagescan needs."""

    fields: dict[str, str]

    def __getitem__(self, name: str) -> str:
        return self.fields[name]

    @property
    def name(self) -> str:
        """The command's name, up to 15 bytes."""
        return self.fields.get("Name", "")

    @property
    def state(self) -> str:
        """One letter: R running, S sleeping, D uninterruptible, T stopped, t traced, Z zombie, X dead, I idle."""
        return self.fields["State"][0]

    @property
    def uids(self) -> tuple[int, ...]:
        """Real, effective, saved and file-system user."""
        return tuple(int(uid) for uid in self.fields["Uid"].split())

    @property
    def threads(self) -> int:
        return int(self.fields["Threads"])

    @property
    def tracer_pid(self) -> int:
        """The process that traces this one (a debugger), or 0."""
        return int(self.fields.get("TracerPid", "0"))

    @property
    def seccomp(self) -> int:
        """0 none (or a kernel without seccomp), 1 strict, 2 a filter."""
        return int(self.fields.get("Seccomp", "0"))

    @property
    def effective_capabilities(self) -> int:
        """A bit mask, bit 19 is CAP_SYS_PTRACE, bit 21 CAP_SYS_ADMIN (``include/uapi/linux/capability.h``)."""
        return int(self.fields["CapEff"], 16)

    def bytes(self, name: str) -> int:
        """A figure in kB, such as ``VmSwap``, in bytes; 0 where it is missing (kernel threads have no memory)."""
        return 1024 * int(self.fields.get(name, "0").split()[0])


def parse_status(text: str) -> Status:
    """``/proc/PID/status`` as a value."""
    lines = (line.partition(":") for line in text.split("\n") if line)
    return Status({key: value.strip() for key, _, value in lines})


def read_status(pid: int) -> Status:
    """The status of a process. Everybody may read it. Raises NoSuchProcess."""
    return parse_status(read_process_file(pid, "status"))


class Stat(NamedTuple):
    """What pagescan reads of ``/proc/PID/stat``."""

    comm: str  #: the command's name, up to 15 bytes
    state: str  #: one letter, as :attr:`Status.state`
    start_time: int  #: clock ticks since boot; with the pid it names one process for ever
    faults: int  #: page faults, minor and major, of all its threads so far


def parse_stat(text: str) -> Stat:
    """``/proc/PID/stat`` as a value. The name may hold blanks and parentheses: it ends at the last ``)``."""
    head, _, tail = text.rpartition(")")
    fields = tail.split()  # from field 3 of proc_pid_stat(5) on; the start time is field 22
    faults = int(fields[7]) + int(fields[9])
    return Stat(comm=head.partition("(")[2], state=fields[0], start_time=int(fields[19]), faults=faults)


def read_stat(pid: int) -> Stat:
    """The stat line of a process. Everybody may read it. Raises NoSuchProcess."""
    return parse_stat(read_process_file(pid, "stat"))


def count_runnable() -> int:
    """Threads of the whole machine that run or want to run now, this one among them; 0 if nobody tells."""
    try:
        return int(Path("/proc/loadavg").read_text().split()[3].partition("/")[0])
    except OSError:
        return 0
