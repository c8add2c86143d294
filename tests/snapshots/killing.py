"""Killing a process while it commits, and filling its disk; ``scripts/store-kill-test`` is the command line.

The memory is shared with this process and outlives the killed one, so that what the next commit has to hold is known
exactly: what the memory holds. Each commit is announced over a pipe with the digest of the contents, and acknowledged.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import mmap
import os
import random
import select
import signal
import struct
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from unittest.mock import patch

import numpy as np

import pagescan
from pagescan import PagescanError
from pagescan.snapshots.budget import Budget

PAGE = mmap.PAGESIZE
PAGES = 512
_RECORD = struct.Struct("<cq16s")


def content_digest(array: np.ndarray) -> bytes:
    return blake2b(array.data, digest_size=16).digest()


@dataclass
class Report:
    """What a run of :func:`run` saw.

    Attributes:
        kills: processes killed.
        inside: those that were in the midst of a commit.
        unacknowledged: versions that were made although their commit was not acknowledged any more.
        versions: acknowledged versions that were read back.
        wrong: what went wrong; empty if nothing did.
    """

    kills: int = 0
    inside: int = 0
    unacknowledged: int = 0
    versions: int = 0
    wrong: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"{self.inside} processes killed in the midst of a commit ({self.kills} in all), {self.versions} "
            f"acknowledged versions read back, {self.unacknowledged} made and not acknowledged, {len(self.wrong)} wrong"
        )


class Killer:
    """A store in a folder, and memory that survives whoever commits it."""

    def __init__(self, folder: Path, seed: int | None = None):
        self.path = folder / "state.pagescan"
        self.chance = random.Random(seed)
        self.memory = np.frombuffer(mmap.mmap(-1, PAGES * PAGE), np.uint8)
        self.report = Report()
        #: The digests of the versions that must be there.
        self.acknowledged: dict[int, bytes] = {}

    def kill_one(self) -> None:
        """Start a process that commits again and again, kill it, and look at what is left."""
        told, tell = os.pipe()
        child = os.fork()
        if child == 0:
            in_child(lambda: commit_for_ever(self.path, self.memory, tell, self.chance.random()))
        os.close(tell)
        with os.fdopen(told, "rb") as pipe:
            begun = self._wait_and_kill(child, pipe.fileno())
            begun = self._drain(pipe.read(), begun)
        self.report.kills += 1
        self.report.inside += begun is not None
        self.look(begun)

    def _wait_and_kill(self, child: int, pipe: int) -> bytes | None:
        """Let it make a few commits, and kill it soon after one has begun; the digest of that one, if not done."""
        begun = None
        for _ in range(self.chance.randint(1, 5)):
            begun = self._next(pipe, b"b") or begun
        # The random moment is the point. While it runs out, the commit may end and others begin.
        end = time.monotonic() + self.chance.uniform(0, 0.03)
        while (left := end - time.monotonic()) > 0 and select.select([pipe], [], [], left)[0]:
            begun = self._note(os.read(pipe, _RECORD.size), begun)
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            self.report.wrong.append("a committing process ended by itself")
        return begun

    def _next(self, pipe: int, wanted: bytes) -> bytes | None:
        begun = None
        while data := os.read(pipe, _RECORD.size):
            begun = self._note(data, begun)
            if data[:1] == wanted:
                break
        return begun

    def _drain(self, data: bytes, begun: bytes | None) -> bytes | None:
        for at in range(0, len(data), _RECORD.size):
            begun = self._note(data[at : at + _RECORD.size], begun)
        return begun

    def _note(self, data: bytes, begun: bytes | None) -> bytes | None:
        """One record: a commit has begun (its digest is returned), or is done."""
        if len(data) < _RECORD.size:
            return begun
        kind, number, digest = _RECORD.unpack(data)
        if kind == b"b":
            return bytes(digest)
        self.acknowledged[number] = digest
        return None

    def look(self, begun: bytes | None) -> None:
        """Verify the store, read every acknowledged version, and commit what the memory holds."""
        wrong = self.report.wrong
        with pagescan.open_store(self.path) as store:
            found = store.verify()
            wrong += map(str, found.damage)
            numbers = [version.number for version in store.versions("s")] if "s" in store.names() else []
            for number in set(numbers) - self.acknowledged.keys():
                self.report.unacknowledged += 1
                if content_digest(store.read("s", number)["memory"]) != begun:
                    wrong.append(f"version {number} is neither acknowledged nor the one under way")
            for number in sorted(self.acknowledged)[-3:]:
                self._check(store, number, numbers)
            with store.series("s", memory=self.memory, budget=BUDGET) as series:
                number = series.commit(note="after the kill").number
            if not np.array_equal(store.read("s", number)["memory"], self.memory):
                wrong.append(f"version {number} does not hold what was due")
            self.acknowledged[number] = content_digest(self.memory)
            for lost in set(numbers) - self.acknowledged.keys():
                self.acknowledged[lost] = content_digest(store.read("s", lost)["memory"])

    def look_at_all(self) -> None:
        """Read every acknowledged version."""
        with pagescan.open_store(self.path) as store:
            numbers = [version.number for version in store.versions("s")]
            for number in sorted(self.acknowledged):
                self._check(store, number, numbers)

    def _check(self, store: pagescan.Store, number: int, numbers: list[int]) -> None:
        if number not in numbers:
            self.report.wrong.append(f"version {number} was acknowledged and is not there")
        elif content_digest(store.read("s", number)["memory"]) != self.acknowledged[number]:
            self.report.wrong.append(f"version {number} was acknowledged and reads back different")
        else:
            self.report.versions += 1


BUDGET = Budget(packs=8, overhead=1.0, spare=0)


def in_child(work: Callable[[], object]) -> None:
    """Run ``work`` and end, whatever happens: a fork must never run on in its parent's code."""
    try:
        work()
    except BaseException:  # noqa: BLE001
        traceback.print_exc()
    finally:
        os._exit(1)


def commit_for_ever(path: Path, memory: np.ndarray, tell: int, seed: float) -> None:
    """Write to the memory and commit it, until killed. Packs are small, so that a commit takes several batches."""
    chance = np.random.default_rng(int(seed * (1 << 53)))
    with patch("pagescan.snapshots.writer.PACK_BYTES", 64 * PAGE), pagescan.open_store(path) as store:
        series = store.series("s", memory=memory, budget=BUDGET)
        while True:
            some = chance.choice(PAGES, chance.integers(1, PAGES if chance.random() < 0.2 else 20), replace=False)
            memory.reshape(-1, PAGE)[some] = chance.integers(0, 256, (len(some), PAGE), dtype=np.uint8)
            digest = content_digest(memory)
            os.write(tell, _RECORD.pack(b"b", 0, digest))
            number = series.commit().number
            os.write(tell, _RECORD.pack(b"d", number, digest))


def run(kills: int, folder: Path, seed: int | None = None, say: Callable[[str], object] = lambda text: None) -> Report:
    """Kill processes until so many were killed in the midst of a commit."""
    killer = Killer(folder, seed)
    while killer.report.inside < kills and not killer.report.wrong:
        killer.kill_one()
        if killer.report.kills % 25 == 0:
            say(str(killer.report))
            with pagescan.open_store(killer.path) as store:
                gone = store.prune(keep_last=20, keep_every=7, grace=0).versions.get("s", ())
            for number in gone:
                killer.acknowledged.pop(number, None)
    killer.look_at_all()
    return killer.report


# --- a full disk -----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def small_disk(size: int) -> Iterator[Path]:
    """A file system of so many bytes. Raises OSError where none can be mounted."""
    with tempfile.TemporaryDirectory() as folder:
        options = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder]
        try:
            done = subprocess.run(options, capture_output=True, text=True, timeout=30)
        except FileNotFoundError:
            raise OSError("there is no mount command") from None
        if done.returncode:
            raise OSError(f"no tmpfs can be mounted: {done.stderr.strip()}")
        try:
            yield Path(folder)
        finally:
            subprocess.run(["umount", folder], check=True, timeout=30)


def resize(folder: Path, size: int) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", folder], check=True, timeout=30)


def fill(size: int, seed: int) -> tuple[int, int]:
    """Commit until no space is left, look, make space, and commit what was due.

    Returns how many versions were made before, and how many commits failed. Raises AssertionError if anything is lost.
    """
    chance = np.random.default_rng(seed)
    array = pagescan.zeros(PAGES * PAGE, dtype=np.uint8)
    kept: dict[int, bytes] = {}
    failed = 0
    with small_disk(size) as folder:
        with pagescan.open_store(folder / "state.pagescan") as store, store.series("s", memory=array) as series:
            while failed < 3:
                some = chance.choice(PAGES, chance.integers(1, 100), replace=False)
                array.reshape(-1, PAGE)[some] = chance.integers(0, 256, (len(some), PAGE), dtype=np.uint8)
                try:
                    kept[series.commit().number] = content_digest(array)
                except PagescanError as error:
                    if error.errno != errno.ENOSPC:
                        raise
                    failed += 1
                    check(store, kept)
            resize(folder, 4 * size + (64 << 20))
            number = series.commit().number
            assert np.array_equal(store.read("s", number)["memory"], array), "the next commit lacks what was due"
            kept[number] = content_digest(array)
            check(store, kept)
        with pagescan.open_store(folder / "state.pagescan") as store:
            check(store, kept)
    return len(kept) - 1, failed


def check(store: pagescan.Store, kept: dict[int, bytes]) -> None:
    """Everything that was acknowledged is there, nothing else, and nothing is damaged."""
    found = store.verify()
    assert found, found.damage
    assert [v.number for v in store.versions("s")] == sorted(kept) if kept else store.names() == []
    for number, digest in kept.items():
        assert content_digest(store.read("s", number)["memory"]) == digest, f"version {number} reads back different"


def main() -> int:
    parser = argparse.ArgumentParser(prog="store-kill-test", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=300, help="how many processes to kill inside a commit (300)")
    parser.add_argument("--disks", type=int, default=40, help="how many disks to fill (40)")
    parser.add_argument("--seed", type=int, help="of the random moments")
    arguments = parser.parse_args()

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    with tempfile.TemporaryDirectory() as folder:
        report = run(arguments.kills, Path(folder), arguments.seed, say)
    print(report)
    for what in report.wrong:
        print(f"WRONG: {what}")
    try:
        made = [fill((2 << 20) + disk * 150_000, disk) for disk in range(arguments.disks)]
        print(f"{len(made)} full disks, {sum(failed for _, failed in made)} commits failed, nothing lost")
    except OSError as error:
        print(f"SKIPPED full disks: {error}")
    return 1 if report.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
