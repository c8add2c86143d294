"""Debian's packages, of any architecture, without installing any: apt with sources and state of its own.

Mirrors are those of the machine's own apt; PAGESCAN_DEBIAN_MIRROR names one where the machine is not a Debian.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import re
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Bookworm has Linux 6.1, its backports the first 6.12; trixie has QEMU 10 and 6.12, its backports the newest.
SUITES = {
    "Debian": ("bookworm", "bookworm-backports", "trixie", "trixie-backports"),
    "Debian-Security": ("bookworm-security", "trixie-security"),
}
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
#: Seconds after which the lists of packages are fetched anew.
LISTS_LAST = 24 * 3600


class Unavailable(Exception):
    """Something cannot be had on this machine; the message says what and why."""


def run(*command: str | Path, cwd: Path | None = None) -> str:
    """The standard output of a command that succeeds. Raises Unavailable with the end of what it said."""
    done = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Unavailable(f"{command[0]} failed: {(done.stderr or done.stdout).strip()[-300:]}")
    return done.stdout


def compare_versions(a: Package, b: Package) -> int:
    """Below, at or above 0 as ``a`` is older than, as old as or newer than ``b``, which dpkg knows best."""
    if a.version == b.version:
        return 0
    newer = subprocess.run(["dpkg", "--compare-versions", a.version, "gt", b.version], check=False)
    return 1 if newer.returncode == 0 else -1


@dataclass(frozen=True, slots=True)
class Package:
    """One version of one package on offer."""

    name: str
    version: str

    def __str__(self) -> str:
        return f"{self.name}={self.version}"


class Debian:
    """Packages of one architecture ("amd64", "arm64"; "" is this machine's), by apt with its state under ``folder``."""

    def __init__(self, folder: Path, architecture: str = ""):
        self.folder = folder
        self.architecture = architecture or run("dpkg", "--print-architecture").strip()

    def update(self) -> str:
        """Fetch the lists of packages if they are older than a day. Returns what went wrong, if old ones can do.

        Raises:
            Unavailable: there are no lists, neither new nor old.
        """
        stamp = self.folder / "updated"
        if stamp.exists() and time.time() - stamp.stat().st_mtime < LISTS_LAST:
            return ""
        self._write_sources()
        command = ["apt-get", "--quiet", *self._options("all"), "update"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            stamp.touch()
            return ""
        if not any((self.folder / "lists").glob("*_Packages*")):
            raise Unavailable(f"apt-get update failed: {done.stderr.strip()[-300:]}")
        return f"apt-get update failed, the lists fetched before are used: {done.stderr.strip()[-300:]}"

    def find(self, pattern: str) -> list[Package]:
        """Every version of the packages whose whole name matches a regular expression, oldest first."""
        names = run("apt-cache", *self._options(), "pkgnames", "linux-").split()
        fitting = [name for name in names if re.fullmatch(pattern, name)]
        if not fitting:
            return []
        lines = [line.split("|") for line in run("apt-cache", *self._options(), "madison", *fitting).splitlines()]
        found = {Package(name.strip(), version.strip()) for name, version, where in lines if "Sources" not in where}
        return sorted(found, key=functools.cmp_to_key(compare_versions))

    @contextlib.contextmanager
    def unpacked(self, package: Package) -> Iterator[Path]:
        """Download one package; the folder it is unpacked into, for as long as the context lasts."""
        with tempfile.TemporaryDirectory(dir=self.folder) as temporary:
            run("apt-get", "--quiet", *self._options(), "download", str(package), cwd=Path(temporary))
            (archive,) = Path(temporary).glob("*.deb")
            root = Path(temporary) / "root"
            run("dpkg-deb", "--extract", archive, root)
            yield root

    def digest(self, *packages: str) -> str:
        """A name for these packages with all they depend on, in the versions on offer."""
        lines = self._install("--print-uris", *packages).splitlines()
        archives = sorted(line.split()[1] for line in lines if line.startswith("'"))
        if not archives:
            raise Unavailable(f"apt finds no way to {' '.join(packages)}")
        return hashlib.sha256("\n".join(archives).encode()).hexdigest()[:12]

    def unpack_all(self, target: Path, *packages: str) -> None:
        """Download packages with all they depend on, and unpack them into ``target``."""
        with tempfile.TemporaryDirectory(dir=self.folder) as temporary:
            (Path(temporary) / "partial").mkdir()
            self._install("--download-only", "-o", f"Dir::Cache::Archives={temporary}", *packages)
            for archive in sorted(Path(temporary).glob("*.deb")):
                run("dpkg-deb", "--extract", archive, target)

    def _install(self, *arguments: str) -> str:
        # With an empty list of installed packages, so that nothing counts as there.
        empty = self.folder / "none-installed"
        empty.touch()
        status = ("-o", f"Dir::State::Status={empty}")
        command = ("apt-get", "--quiet", *self._options(), *status, "--yes", "--no-install-recommends", "install")
        return run(*command, *arguments)

    def _options(self, architecture: str = "") -> list[str]:
        for part in ("lists/partial", "cache/archives/partial"):
            (self.folder / part).mkdir(parents=True, exist_ok=True)
        settings: dict[str, object] = {
            "Dir::Etc::SourceList": self.folder / "sources.list",
            "Dir::Etc::SourceParts": "-",
            "Dir::Etc::Preferences": "/dev/null",
            "Dir::Etc::PreferencesParts": "-",
            "Dir::State::Lists": self.folder / "lists",
            "Dir::Cache": self.folder / "cache",
            "APT::Sandbox::User": "root",  # the cache folder may be closed to apt's own user
            "Acquire::Languages": "none",
        }
        if architecture != "all":
            settings["APT::Architecture"] = settings["APT::Architectures"] = self.architecture
            # What apt worked out for one architecture does not hold for the other.
            settings["Dir::Cache::pkgcache"] = settings["Dir::Cache::srcpkgcache"] = ""
        return [part for name, value in settings.items() for part in ("-o", f"{name}={value}")]

    def _write_sources(self) -> None:
        signed = f" signed-by={KEYRING}" if KEYRING.exists() else ""
        own = run("dpkg", "--print-architecture").strip()
        architectures = ",".join(sorted({"amd64", "arm64", own}))
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "sources.list").write_text(
            "".join(
                f"deb [arch={architectures}{signed}] {address} {suite} main\n"
                for label, address in mirrors().items()
                for suite in SUITES[label]
            )
        )


def mirrors() -> dict[str, str]:
    """Label and address of the Debian mirrors in the machine's own apt sources."""
    if named := os.environ.get("PAGESCAN_DEBIAN_MIRROR"):
        return {"Debian": named}
    lines = run("apt-get", "indextargets", "--format", "$(LABEL)|$(REPO_URI)").splitlines()
    found = dict(reversed([line.split("|", 1) for line in lines if line.split("|")[0] in SUITES]))
    # Enabled, but its lists were never fetched: then apt does not name it.
    if "Debian-Security" not in found and (address := re.search(r"https?://\S+/debian-security\b", _sources())):
        found["Debian-Security"] = address[0]
    if "Debian" not in found:
        raise Unavailable("apt's own sources name no mirror of Debian; PAGESCAN_DEBIAN_MIRROR=URL can")
    return found


def _sources() -> str:
    """The machine's own apt sources."""
    folder = Path("/etc/apt")
    files = [folder / "sources.list", *folder.glob("sources.list.d/*.list"), *folder.glob("sources.list.d/*.sources")]
    text = "\n".join(path.read_text(errors="replace") for path in files if path.exists())
    return re.sub(r"(?m)#.*", "", text)
