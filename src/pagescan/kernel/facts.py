"""The feature table: what Linux has for us, since when, and how a machine shows that it works.

Each row cites the commit that brought the feature. Releases are for the reader alone: whether a machine has a feature
is decided by a round trip (map pages, do one thing, look), never by the release and never by a flag being accepted,
since distributions back-port and configurations differ.

Everything a probe maps, opens or starts is given back. Nothing of the machine is changed: no huge page is reserved, no
setting is written, no process but our own children is looked at.
"""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass

from . import permissions as may
from . import probes, probes_tracking
from .bugs import BUGS
from .findings import BugFinding, Fact, Finding, examine, examine_bug
from .memory import PAGE_SIZE

_SCAN = '52526ca7fdb9 ("fs/proc/task_mmu: implement IOCTL to get and optionally clear info about PTEs")'
_ASYNC = 'd61ea1cb0095 ("userfaultfd: UFFD_FEATURE_WP_ASYNC")'
_UNPOPULATED = '2bad466cc9d9 ("mm/uffd: UFFD_FEATURE_WP_UNPOPULATED")'
_NOT_ANONYMOUS = 'b1f9e876862d ("mm/uffd: enable write protection for shmem & hugetlbfs")'
_SOFT_DIRTY = 'e6a9a2cbc13b ("fs/proc/task_mmu: report SOFT_DIRTY bits through the PAGEMAP_SCAN ioctl")'
_GUARD = 'a516403787e0 ("fs/proc: extend the PAGEMAP_SCAN ioctl to report guard regions")'
_RWP = "the series of K. Shutsemau, 20260427114607.4068647-1-kas@kernel.org and later"
_USER_MODE = '37cd0575b851 ("userfaultfd: add UFFD_USER_MODE_ONLY")'
_SYSCTL = 'cefdca0a86be ("userfaultfd/sysctl: add vm.unprivileged_userfaultfd")'
_DEVICE = '2d5de004e009 ("userfaultfd: add /dev/userfaultfd for fine grained access control")'
_CLEAR_REFS = '0f8975ec4db2 ("mm: soft-dirty bits for user memory changes tracking")'
_QUERY = 'ed5d583a88a9 ("fs/procfs: implement efficient VMA querying API for /proc/<pid>/maps")'
_GETFD = '8649c322f75c ("pid: Implement pidfd_getfd syscall")'

_PAGES, _TRACK, _UFFD, _OTHER, _PROCESSES = (
    "Page states (PAGEMAP_SCAN)",
    "Written pages",
    "Ways to a userfaultfd",
    "Other interfaces",
    "Other processes",
)


FACTS: tuple[Fact, ...] = (
    Fact(
        "tracking",
        _TRACK,
        "tracking",
        "the whole round: register, protect, write, look, get and protect again",
        "6.7",
        _ASYNC,
        probes_tracking.tracking,
    ),
    Fact(
        "untouched-memory",
        _TRACK,
        "untouched memory",
        "WP_UNPOPULATED: memory can be protected before it is ever touched",
        "6.4",
        _UNPOPULATED,
        probes_tracking.unpopulated,
    ),
    Fact(
        "kernel-writes",
        _TRACK,
        "writes by the kernel",
        "read(2), recv(2) and their like into tracked memory are seen, also with UFFD_USER_MODE_ONLY",
        "6.7",
        _ASYNC,
        probes_tracking.kernel_writes,
    ),
    Fact("shared-memory", _TRACK, "shared memory", "shm, memfd", "6.7", _NOT_ANONYMOUS, probes_tracking.shared_memory),
    Fact("mapped-file", _TRACK, "mapped files", "MAP_SHARED of a file", "6.7", _ASYNC, probes_tracking.mapped_file),
    Fact(
        "thp",
        _TRACK,
        "transparent huge",
        "transparent huge pages: tracked exactly, since the first write splits them",
        "6.7",
        _ASYNC,
        probes.transparent_huge,
    ),
    Fact("hugetlb", _TRACK, "hugetlb", "tracked by whole huge pages", "6.7", _NOT_ANONYMOUS, probes.hugetlb),
    Fact("pagemap-scan", _PAGES, "PAGEMAP_SCAN", "the ioctl itself", "6.7", _SCAN, probes.pagemap_scan),
    Fact("wpallowed", _PAGES, "WPALLOWED", "registered for tracking", "6.7", _SCAN, probes.wpallowed),
    Fact("written", _PAGES, "WRITTEN", "written since it was last protected", "6.7", _SCAN, probes.written),
    Fact("file", _PAGES, "FILE", "a page of a file or of shared memory", "6.7", _SCAN, probes.of_file),
    Fact("present", _PAGES, "PRESENT", "in memory and mapped", "6.7", _SCAN, probes.present),
    Fact("swapped", _PAGES, "SWAPPED", "swapped out (or a marker)", "6.7", _SCAN, probes.swapped),
    Fact("pfnzero", _PAGES, "PFNZERO", "the shared page of zeros", "6.7", _SCAN, probes.pfnzero),
    Fact("huge", _PAGES, "HUGE", "part of a huge page", "6.7", _SCAN, probes.huge),
    Fact("soft-dirty", _PAGES, "SOFT_DIRTY", "the soft-dirty bit is set", "6.8", _SOFT_DIRTY, probes.soft_dirty),
    Fact("guard", _PAGES, "GUARD", "a guard region", "6.16", _GUARD, probes.guard),
    Fact("accessed", _PAGES, "ACCESSED", "read or written since read-write-protected", "7.3", _RWP, probes.accessed),
    Fact(
        "user-mode-only",
        _UFFD,
        "USER_MODE_ONLY",
        "userfaultfd(2) for every user; enough for tracking",
        "5.11",
        _USER_MODE,
        probes_tracking.user_mode_only,
    ),
    Fact(
        "unrestricted",
        _UFFD,
        "without the flag",
        "userfaultfd(2) that also handles faults of the kernel; tracking does not need it",
        "4.3",
        _SYSCTL,
        probes_tracking.unrestricted,
    ),
    Fact(
        "device",
        _UFFD,
        "/dev/userfaultfd",
        "the way where a filter blocks the system call",
        "6.1",
        _DEVICE,
        probes_tracking.device,
    ),
    Fact(
        "clear-refs",
        _OTHER,
        "soft-dirty reset",
        "/proc/PID/clear_refs: the predecessor, for whole processes",
        "3.11",
        _CLEAR_REFS,
        probes_tracking.clear_refs,
    ),
    Fact(
        "procmap-query",
        _OTHER,
        "PROCMAP_QUERY",
        "one mapping by its address; without it maps is read",
        "6.11",
        _QUERY,
        probes_tracking.procmap_query,
    ),
    Fact("own-children", _PROCESSES, "own children", "scan and track a child", "5.6", _GETFD, may.own_child),
    Fact("same-user", _PROCESSES, "same user", "scan and track any process of this user", "5.6", _GETFD, may.same_user),
    Fact("other-users", _PROCESSES, "other users", "scan and track everybody", "5.6", _GETFD, may.other_user),
    Fact("confinement", _PROCESSES, "what limits this one", "capabilities, Yama, seccomp", "", "", may.confinement),
)


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What this machine shows, to this process.

    Attributes:
        findings: one for each row of :data:`FACTS`, in its order.
        bugs: one for each row of :data:`~pagescan.kernel.bugs.BUGS`.
        release: what ``uname -r`` says; for the reader, nothing is decided by it.
        architecture: what ``uname -m`` says.
        page_size: bytes of a base page.
        user: the effective user's number.
    """

    findings: tuple[Finding, ...]
    bugs: tuple[BugFinding, ...]
    release: str
    architecture: str
    page_size: int
    user: int

    def __getitem__(self, key: str) -> Finding:
        """The finding of the fact with this key. Raises KeyError."""
        for finding in self.findings:
            if finding.key == key:
                return finding
        raise KeyError(key)


def probe_machine() -> Capabilities:
    """Run every probe (some tenths of a second) and put everything back. Raises nothing that a probe met."""
    return Capabilities(
        findings=tuple(examine(fact) for fact in FACTS),
        bugs=tuple(examine_bug(bug) for bug in BUGS),
        release=platform.release(),
        architecture=platform.machine(),
        page_size=PAGE_SIZE,
        user=os.geteuid(),
    )
