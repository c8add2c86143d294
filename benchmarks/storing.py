"""``series.commit()`` against writing the same pages by hand, and against saving everything."""

from __future__ import annotations

import hashlib
import itertools
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import pagescan
from harness import Effort, Goal, Report, Row, duration, interleave, size_name, timed
from native import PAGE
from workload import random_pages

GIB = 1 << 30
_SHARE = 0.01


class Workload:
    """1 GiB of bytes that do not compress, and 1 % of its pages, new ones in each round."""

    def __init__(self) -> None:
        self.array = pagescan.empty(GIB, dtype=np.uint8)
        self.pages = self.array.reshape(-1, PAGE)
        # Distinct pages of noise, made cheaply.
        noise = np.random.default_rng(1).integers(0, 256, 64 << 20, dtype=np.uint8)
        for at in range(0, GIB, len(noise)):
            self.array[at : at + len(noise)] = noise
        self.pages[:, :8].view(np.uint64)[:, 0] = np.arange(len(self.pages))
        self._rounds = itertools.count(1)
        self.chosen = random_pages(len(self.pages), _SHARE).astype(np.int64)

    def write(self) -> None:
        """Write to the pages that are chosen for this round."""
        number = next(self._rounds)
        self.chosen = np.sort((self.chosen + 12_345 * number) % len(self.pages))
        self.pages[self.chosen, 8:16] = np.frombuffer(np.uint64(number).tobytes(), np.uint8)


def commit(report: Report, effort: Effort) -> None:
    """A commit of 1 % random pages of 1 GiB: against gathering them and one fsync, and against saving everything."""
    if hasattr(os, "sched_setaffinity"):
        # Hashing runs in threads; one processor for all of them would be another question.
        with suppress(OSError):
            os.sched_setaffinity(0, range(os.cpu_count() or 1))
    work = Workload()
    with _folder() as folder, pagescan.open_store(folder / "state.pagescan") as store:
        with store.series("bench", data=work.array) as series:
            series.commit()
            sizes: list[float] = []

            def ours() -> int:
                # Not as a preparation of both sides: what is written before theirs would be due in the next commit.
                work.write()
                return timed(lambda: sizes.append(series.commit().written_bytes))()

            _by_hand(report, effort, work, folder, ours, sizes)
            report.notes.append(_parts(work, folder))
            for name, goal, save in _savers(folder):
                few = Effort(effort.seconds, min(effort.least, 3), 5)
                against = f"{name} of everything"
                if save is None:
                    report.rows.append(Row("store", _what(), against, str(goal), skipped=f"{name} is not installed"))
                    continue
                pairs = interleave(ours, timed(lambda save=save: save(work.array)), few)  # type: ignore[misc]
                report.add("store", _what(), against, pairs, goal)
        assert np.array_equal(store.read("bench")["data"], work.array)


def _what() -> str:
    return f"commit of {size_name(GIB)}, {_SHARE * 100:g} % written"


def _by_hand(
    report: Report, effort: Effort, work: Workload, folder: Path, ours: Callable[[], int], sizes: list[float]
) -> None:
    file = os.open(folder / "pages", os.O_CREAT | os.O_WRONLY | os.O_APPEND)

    def write() -> None:
        # As many others, so that they are no more in the processor's cache than ours.
        os.write(file, work.pages[np.sort((work.chosen + len(work.pages) // 2) % len(work.pages))].data)
        os.fsync(file)

    # No more rounds than the chain takes without a merge, which is another matter.
    some = Effort(effort.seconds, effort.least, 40)
    pairs = interleave(ours, timed(write), some)
    os.close(file)
    share = float(np.median(sizes)) / (len(work.chosen) * PAGE)
    slowest = f"mean {pairs.ours.mean() / pairs.theirs.mean():.2f}x with folding the log in"
    note = f"(wrote {share:.3f}x of the pages; {slowest})"
    report.add("store", _what(), "gather + write + one fsync", pairs, Goal(times=1.5), note=note)


def _parts(work: Workload, folder: Path) -> str:
    """What the parts of a commit take, each alone: no commit is faster than the slowest of them."""
    rows = np.ascontiguousarray(work.pages[work.chosen])
    pieces = [some.reshape(-1).data for some in np.array_split(rows, len(rows) // 256)]
    file = os.open(folder / "over", os.O_CREAT | os.O_WRONLY)

    def overwrite() -> None:
        os.pwrite(file, rows.data, 0)
        os.fsync(file)

    def put() -> None:
        with store.backend.batch():
            store.backend.put_pack(os.urandom(16).hex(), pieces)

    with pagescan.open_store(folder / "parts.pagescan") as store:
        parts: dict[str, Callable[[], object]] = {
            "gathering the pages": lambda: work.pages[work.chosen],
            "BLAKE2b of each": lambda: [hashlib.blake2b(row, digest_size=16).digest() for row in rows],
            "SQLite, one transaction": put,
            "a write over old blocks and fsync": overwrite,
        }
        # The second round on: in the first the files grow.
        taken = {name: np.median([timed(part)() for _ in range(16)][8:]) for name, part in parts.items()}
    os.close(file)
    return "The parts of a commit, each alone: " + ", ".join(f"{name} {duration(t)}" for name, t in taken.items()) + "."


def _savers(folder: Path) -> Iterator[tuple[str, Goal, Callable[[NDArray[np.uint8]], object] | None]]:
    """The ways to save everything, each with an fsync at the end, as ours has."""

    def numpy_save(array: NDArray[np.uint8]) -> None:
        with (folder / "all.npy").open("wb") as file:
            np.save(file, array)
            file.flush()
            os.fsync(file.fileno())

    yield "numpy.save", Goal(faster=10), numpy_save
    try:
        import joblib

        def joblib_dump(array: NDArray[np.uint8]) -> None:
            with (folder / "all.joblib").open("wb") as file:
                joblib.dump(array, file)
                file.flush()
                os.fsync(file.fileno())

        yield "joblib.dump", Goal(faster=10), joblib_dump
    except ImportError:
        yield "joblib.dump", Goal(faster=10), None
    try:
        import zarr

        def zarr_save(array: NDArray[np.uint8]) -> None:
            shutil.rmtree(folder / "all.zarr", ignore_errors=True)
            zarr.save_array(str(folder / "all.zarr"), array)
            os.sync()

        yield "zarr.save_array", Goal(faster=10), zarr_save
    except ImportError:
        yield "zarr.save_array", Goal(faster=10), None


@contextmanager
def _folder() -> Iterator[Path]:
    """On a disk: /tmp may be memory."""
    base = os.environ.get("TMPDIR") or ("/var/tmp" if os.path.isdir("/var/tmp") else None)
    with tempfile.TemporaryDirectory(prefix="pagescan-bench-", dir=base) as name:
        yield Path(name)
