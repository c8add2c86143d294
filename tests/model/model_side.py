"""The model's side of the differential test: the arena in a process of the model."""

from __future__ import annotations

from typing import Any

from pagescan.abi import TRACKING_FEATURES
from pagescan.model import Process

from .answers import ARENA, PAGE, address


class ModelSide:
    """The arena in a process of the model."""

    def __init__(self, process: Process, categories: int):
        self.process = process
        self.categories = categories
        self._uffd: Any = None

    def map(self, page: int, count: int, kind: str) -> None:
        self.process.mmap(
            count * PAGE,
            {"memfd": "shmem", "hugetlb": "hugetlb", "hugetlb-shared": "hugetlb"}.get(kind, "anonymous"),
            shared="shared" in kind,
            thp=kind == "thp",
            fixed=address(page),
        )

    def unmap(self, page: int, count: int) -> None:
        self.process.munmap(address(page), count * PAGE)

    def protect(self, page: int, count: int, prot: str) -> None:
        self.process.mprotect(address(page), count * PAGE, prot)

    def advise(self, page: int, count: int, what: str) -> None:
        self.process.madvise(address(page), count * PAGE, what)

    def write(self, page: int, count: int, value: int) -> None:
        for at in range(page, page + count):
            self.process.write(address(at), bytes([value]))

    def read(self, page: int, count: int) -> bytes:
        return b"".join(self.process.read(address(at), 1) for at in range(page, page + count))

    def move(self, page: int, count: int, new: int, to: int) -> None:
        self.process.mremap(address(page), count * PAGE, new * PAGE, to=address(to))

    def resize(self, page: int, count: int, new: int) -> None:
        self.process.mremap(address(page), count * PAGE, new * PAGE, may_move=False)

    def open_uffd(self) -> None:
        self.close_uffd()
        self._uffd = self.process.open_userfaultfd(TRACKING_FEATURES)

    def close_uffd(self) -> None:
        if self._uffd is not None:
            self._uffd.close()
            self._uffd = None

    def register(self, page: int, count: int) -> int:
        return int(self._uffd.register(address(page), count * PAGE))

    def unregister(self, page: int, count: int) -> None:
        self._uffd.unregister(address(page), count * PAGE)

    def wp(self, page: int, count: int, on: int) -> None:
        self._uffd.writeprotect(address(page), count * PAGE, protect=bool(on))

    def ioctl_scan(self, argument: bytearray, vec: Any) -> int:
        return self.process.pagemap.ioctl_scan(argument, vec)

    def mappings(self) -> list[tuple[int, int, str]]:
        return [((m.start - ARENA) // PAGE, (m.end - ARENA) // PAGE, m.perms) for m in self.process.mappings()]
