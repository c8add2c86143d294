"""What runs in a guest, and what runs the guests: CPython with the tests' packages, and QEMU."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from . import initramfs
from .debian import Debian, Unavailable, run

PYTHON = "3.13"
GUEST_PACKAGES = (f"python{PYTHON}", "libstdc++6", "coreutils", "dash", "grep")
HOST_PACKAGES = ("qemu-system-x86", "qemu-system-arm", "e2fsprogs", f"python{PYTHON}")
#: Of scripts/requirements-dev.txt.
WHEELS = (
    *("hypothesis", "iniconfig", "numpy", "packaging", "pluggy", "pygments"),
    *("pytest", "pytest-timeout", "sortedcontainers"),
)
#: The names that wheels and uv have for Debian's architectures.
MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}
#: Paths in the unpacked packages that no guest needs.
NEEDLESS = re.compile(
    r"(usr/(share|include|sbin|games)|etc|var|s?bin|usr/lib/[^/]*/(perl|gconv|ossl|engines)[^/]*"
    rf"|usr/lib/python{re.escape(PYTHON)}/(test|idlelib|lib2to3|ensurepip|tkinter|turtledemo|pydoc_data)"
    r"|wheels/numpy/(.*/)?tests|usr/bin/(?!python3|(true|false|sleep|cat|echo|env|dash|sh|grep)$).*|.*\.(a|pyi|h))"
)


def host_tools(debian: Debian, cache: Path) -> Path:
    """The folder that QEMU and mke2fs are unpacked into. Raises Unavailable, also for a QEMU that is too old."""
    folder = cache / f"qemu-{debian.digest(*HOST_PACKAGES)}"
    if not folder.exists():
        with tempfile.TemporaryDirectory(dir=cache) as temporary:
            debian.unpack_all(Path(temporary) / "root", *HOST_PACKAGES)
            for older in cache.glob("qemu-*"):
                shutil.rmtree(older)
            (Path(temporary) / "root").rename(folder)
    # QEMU 7.2 let 4 of 8 boots of Linux 6.12 end in random oopses; 10.0 none of 10.
    version = run(*tool(folder, "qemu-system-x86_64"), "--version")
    if int(re.search(r"version (\d+)", version)[1]) < 10:  # type: ignore[index]
        raise Unavailable(f"QEMU 10 is needed, the mirror has {version.splitlines()[0]}")
    return folder


def tool(root: Path, name: str) -> list[str]:
    """The command for a program of an unpacked tree: with the tree's own loader and libraries."""
    (loader,) = [path for path in root.glob("usr/lib*/ld-linux*") if path.parent.name in ("lib", "lib64")][:1]
    libraries = {path.parent for path in root.glob("usr/lib/*/*.so*")} | set(root.glob("usr/lib/*/*/"))
    program = next(path for path in (root / "usr/bin" / name, root / "usr/sbin" / name) if path.exists())
    # The loader by its real name: the link to it may lead into /lib, which is another system's.
    return [str(_inside(root, loader)), "--library-path", ":".join(sorted(map(str, libraries))), str(program)]


def _inside(root: Path, path: Path) -> Path:
    target = path.readlink() if path.is_symlink() else path
    return root / "usr" / str(target).lstrip("/").removeprefix("usr/") if target.is_absolute() else path.parent / target


def guest_system(debian: Debian, cache: Path, tools: Path) -> Path:
    """An initramfs archive with CPython and the tests' packages for an architecture. Raises Unavailable."""
    requirements = _requirements(Path("scripts/requirements-dev.txt").read_text())
    recipe = hashlib.sha256((requirements + Path(__file__).read_text()).encode()).hexdigest()[:12]
    archive = cache / f"python-{debian.architecture}-{debian.digest(*GUEST_PACKAGES)}-{recipe}.cpio"
    if not archive.exists():
        with tempfile.TemporaryDirectory(dir=cache) as temporary:
            root = Path(temporary) / "root"
            debian.unpack_all(root, *GUEST_PACKAGES)
            _install_wheels(requirements, MACHINES[debian.architecture], root / "wheels")
            compile_all(root, tools, f"usr/lib/python{PYTHON}", "wheels")
            _write_system(root, Path(temporary) / "cpio")
            for older in cache.glob(f"python-{debian.architecture}-*.cpio"):
                older.unlink()
            (Path(temporary) / "cpio").rename(archive)
    return archive


def compile_all(root: Path, tools: Path, *folders: str) -> None:
    """Make byte code for what lies in these folders of ``root``: making it in a guest would take half a minute.

    It is the same on every architecture, so the same version of Python makes it here.
    """
    # Never compared with the source again; and paths in tracebacks as the guest sees them.
    options = ["-q", "--invalidation-mode", "unchecked-hash", "-s", str(root), "-p", "/"]
    # Some of the standard library's tests are meant not to compile: the exit status says nothing.
    command = [*tool(tools, f"python{PYTHON}"), "-m", "compileall", *options, *(str(root / name) for name in folders)]
    home = {**os.environ, "PYTHONHOME": str(tools / "usr"), "PYTHONPATH": ""}
    subprocess.run(command, env=home, capture_output=True, check=False)


def _write_system(root: Path, archive: Path) -> None:
    with archive.open("wb") as file:
        file.writelines(initramfs.folders("dev", "proc", "sys", "tmp", "disk", "etc", "usr", "repo", "modules"))
        file.writelines(initramfs.devices())
        file.writelines(initramfs.links(lib="usr/lib", lib64="usr/lib64", bin="usr/bin", sbin="usr/bin"))
        file.write(initramfs.member("etc/passwd", 0o100644, b"root:x:0:0::/:/bin/false\n"))
        file.writelines(initramfs.tree(root, keep=lambda name: not NEEDLESS.fullmatch(name)))
        file.write(initramfs.end())


def _requirements(text: str) -> str:
    """The lines of a requirements file, hashes included, that the guests' Python needs."""
    blocks = re.findall(r"^(\S+?)==(\S+)( ;[^\\\n]*)?(.*(?:\n .*)*)", text, re.MULTILINE)
    return "\n".join(
        f"{name}=={version} {hashes}" for name, version, marker, hashes in blocks if name in WHEELS and _meant(marker)
    )


def _meant(marker: str) -> bool:
    """Whether a marker, of which only comparisons with a version of Python occur here, fits the guests' Python."""
    version = tuple(map(int, PYTHON.split(".")))
    for comparison, other in re.findall(r"python_(?:full_)?version (<|>=) '([\d.]+)'", marker):
        bound = tuple(map(int, other.split(".")))
        if (version < bound) != (comparison == "<"):
            return False
    return True


def _install_wheels(requirements: str, machine: str, target: Path) -> None:
    """Unpack wheels for another machine, with the first installer there is."""
    listed = target.parent / "requirements.txt"
    listed.write_text(requirements)
    common = ["--no-deps", "--require-hashes", "--only-binary", ":all:", "--target", str(target), "-r", str(listed)]
    common += ["--python-version", PYTHON]
    if uv := shutil.which("uv"):
        run(uv, "pip", "install", "--python-platform", f"{machine}-manylinux_2_28", *common)
        return
    if subprocess.run([sys.executable, "-m", "pip", "--version"], capture_output=True, check=False).returncode:
        raise Unavailable("neither uv nor pip is there to fetch wheels for the guests")
    options = [f"--platform=manylinux{glibc}_{machine}" for glibc in ("_2_28", "_2_27", "2014", "_2_17")]
    # Else pip compares what a wheel wants with the Python that pip itself runs in.
    options += ["--disable-pip-version-check", "--ignore-requires-python", "--no-compile"]
    run(sys.executable, "-m", "pip", "install", "--quiet", *options, *common)
