"""Archives a kernel unpacks into its first file system: cpio, "newc" format, one after the other."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: Character devices the kernel wants before anything is mounted: name, major, minor.
DEVICES = (("dev/console", 5, 1), ("dev/null", 1, 3))


def tree(root: Path, keep: Callable[[str], bool] = lambda name: True, under: str = "") -> Iterator[bytes]:
    """An archive of a folder's contents, all of it root's; ``keep`` says of each path below ``root`` whether to."""
    for folder, folders, files in os.walk(root):
        folders.sort()
        here = os.path.relpath(folder, root)
        prefix = "" if here == "." else here + "/"
        # A link to a folder is a link.
        links = [name for name in folders if os.path.islink(os.path.join(folder, name))]
        folders[:] = [name for name in folders if name not in links and keep(prefix + name)]
        yield from (member(under + prefix + name, stat.S_IFDIR | 0o755) for name in folders)
        for name in sorted(links + files):
            if keep(prefix + name):
                yield _of(Path(folder, name), under + prefix + name)


def folders(*names: str) -> Iterator[bytes]:
    """An archive of empty folders."""
    yield from (member(name, stat.S_IFDIR | 0o755) for name in names)


def links(**targets: str) -> Iterator[bytes]:
    """An archive of symbolic links."""
    yield from (member(name, stat.S_IFLNK | 0o777, target.encode()) for name, target in targets.items())


def devices() -> Iterator[bytes]:
    """An archive of :data:`DEVICES`."""
    yield from (member(name, stat.S_IFCHR | 0o600, device=(major, minor)) for name, major, minor in DEVICES)


def member(name: str, mode: int, content: bytes = b"", device: tuple[int, int] = (0, 0)) -> bytes:
    """One file of an archive."""
    # inode, mode, uid, gid, nlink, mtime, size, major, minor, device's major and minor, length of the name, checksum
    encoded = name.encode() + b"\0"
    numbers = (0, mode, 0, 0, 1, 0, len(content), 0, 0, *device, len(encoded), 0)
    header = b"070701" + b"".join(b"%08x" % number for number in numbers)
    return _padded(header + encoded) + _padded(content)


def end() -> bytes:
    """What closes an archive; another may follow."""
    return member("TRAILER!!!", 0)


def _of(path: Path, name: str) -> bytes:
    if path.is_symlink():
        return member(name, stat.S_IFLNK | 0o777, os.readlink(path).encode())
    mode = path.stat().st_mode
    return member(name, stat.S_IFREG | stat.S_IMODE(mode), path.read_bytes()) if stat.S_ISREG(mode) else b""


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 4)
