"""Kernels: which ones, and out of which package."""

from __future__ import annotations

import lzma
import re
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .debian import Debian, Package, Unavailable

if TYPE_CHECKING:
    from pathlib import Path

#: Tested when none is named. 6.12-oldest lacks the fixes of 6.12.50, .97 and .103 that docs/kernel-facts.md lists.
DEFAULT = ("6.1", "6.12-oldest", "6.12", "7.3", "6.12-arm64", "6.12-arm64-16k")
#: What a guest may need to see its disks; kernels that have them built in come without.
MODULES = ("nvme", "crc32c_generic", "ext4")

_NAME = re.compile(r"(?P<series>\d+\.\d+)(?P<patch>\.\d+)?(?P<oldest>-oldest)?(?P<arm>-arm64)?(?P<big>-16k)?")


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel by its name, "6.12-oldest-arm64-16k" at its longest.

    Attributes:
        name: the name.
        architecture: "amd64" or "arm64", Debian's word.
        pattern: a regular expression for names of packages that hold it.
        oldest: whether the oldest version on offer is meant, rather than the newest.
    """

    name: str
    architecture: str
    pattern: str
    oldest: bool

    @classmethod
    def parse(cls, name: str) -> Kernel:
        """Raises ValueError for what is no name of a kernel."""
        match = _NAME.fullmatch(name)
        if not match or (match["big"] and not match["arm"]):
            raise ValueError(f"{name!r} is no kernel: SERIES[.PATCH][-oldest][-arm64[-16k]], as in 6.12-arm64")
        version = re.escape(match["series"]) + (re.escape(match["patch"]) if match["patch"] else r"\.\d+")
        flavour = "arm64-16k" if match["big"] else "cloud-arm64" if match["arm"] else "cloud-amd64"
        # linux-image holds the kernel up to 7.0, linux-binary since 6.19 (linux-image is then an empty package).
        pattern = rf"linux-(image|binary)-{version}(-\d+|\+deb\d+(\.\d+)?(\+\d+)?)-{flavour}"
        return cls(name, "arm64" if match["arm"] else "amd64", pattern, bool(match["oldest"]))


@dataclass(frozen=True, slots=True)
class Image:
    """A kernel, unpacked.

    Attributes:
        kernel: which.
        package: what it came in.
        folder: holds ``vmlinuz`` and, in the order to load them in, ``NN-name.ko``.
    """

    kernel: Kernel
    package: Package
    folder: Path

    @property
    def vmlinuz(self) -> Path:
        return self.folder / "vmlinuz"

    @property
    def modules(self) -> list[Path]:
        return sorted(self.folder.glob("*.ko"))


def choose(kernel: Kernel, debian: Debian) -> Package:
    """The package for a kernel. Raises Unavailable if the mirror has none."""
    found = debian.find(kernel.pattern)
    if binary := [package for package in found if package.name.startswith("linux-binary")]:
        found = binary
    if not found:
        raise Unavailable(f"the mirror has no package {kernel.pattern}")
    return found[0 if kernel.oldest else -1]


def obtain(kernel: Kernel, debian: Debian, cache: Path) -> Image:
    """The kernel from the cache or, if need be, from the mirror. Raises Unavailable."""
    package = choose(kernel, debian)
    image = Image(kernel, package, cache / f"{package.name}_{package.version}".replace(":", "_"))
    if not image.vmlinuz.exists():
        with debian.unpacked(package) as root:
            _keep(root, image)
    return image


def _keep(root: Path, image: Image) -> None:
    kernels = sorted([*root.glob("boot/vmlinuz-*"), *root.glob("usr/lib/modules/*/vmlinuz")])
    if not kernels:
        raise Unavailable(f"{image.package} holds no kernel")
    image.folder.mkdir(parents=True, exist_ok=True)
    available = {_module_name(path): path for path in root.rglob("*.ko*")}
    for number, (name, content) in enumerate(_in_order(MODULES, available).items()):
        (image.folder / f"{number:02}-{name}.ko").write_bytes(content)
    shutil.copyfile(kernels[0], image.vmlinuz)  # last: it is what says that the folder is whole


def _module_name(path: Path) -> str:
    return path.name.partition(".ko")[0].replace("-", "_")


def _in_order(wanted: tuple[str, ...], available: dict[str, Path]) -> dict[str, bytes]:
    """The modules with all they depend on, each after what it needs."""
    ordered: dict[str, bytes] = {}

    def add(name: str) -> None:
        if name in ordered or name not in available:
            return
        path = available[name]
        content = lzma.decompress(path.read_bytes()) if path.suffix == ".xz" else path.read_bytes()
        if found := re.search(rb"\0depends=([^\0]*)\0", content):
            for need in filter(None, found[1].decode().split(",")):
                add(need.replace("-", "_"))
        ordered[name] = content

    for name in wanted:
        add(name)
    return ordered
