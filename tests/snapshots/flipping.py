"""Flipping single bits of a store: each is found, or harms nothing; ``scripts/store-flip-test`` runs it long."""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

import pagescan
from pagescan import DataCorrupt, PagescanError

PAGE = os.sysconf("SC_PAGE_SIZE")

Contents = dict[tuple[str, int], dict[str, np.ndarray]]


@dataclass
class Report:
    """What a run of :func:`run` saw.

    Attributes:
        outcomes: how many flips were found on opening, found by verify, or harmed nothing.
        wrong: what went wrong; empty if nothing did.
    """

    outcomes: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return (
            ", ".join(f"{count} {what}" for what, count in self.outcomes.most_common()) + f", {len(self.wrong)} wrong"
        )


def make(path: Path, scale: int = 1) -> Contents:
    """A store of two series with several versions, of pages that compress and that do not; returns what it holds."""
    chance = np.random.default_rng(3)
    contents: Contents = {}
    with pagescan.open_store(path) as store:
        for name in ("training", "other"):
            noise = pagescan.zeros(40 * scale * PAGE, dtype=np.uint8)
            steps = pagescan.zeros(8 * PAGE, dtype=np.int32)
            noise[: noise.nbytes // 2] = chance.integers(0, 256, noise.nbytes // 2, dtype=np.uint8)
            with store.series(name, noise=noise, steps=steps) as series:
                for number in range(4):
                    steps[number * PAGE // 2 : (number + 2) * PAGE // 2] = number + 1
                    at = number * 7 * PAGE
                    noise[at : at + 3 * PAGE] = chance.integers(0, 256, 3 * PAGE, dtype=np.uint8)
                    version = series.commit(note=f"step {number}")
                    contents[name, version.number] = {"noise": noise.copy(), "steps": steps.copy()}
        store.prune("other", keep_last=2)
    contents = {key: value for key, value in contents.items() if key[0] == "training" or key[1] > 2}
    assert {entry.name for entry in path.parent.iterdir()} == {path.name}, "the log is still there"
    return contents


def try_bit(path: Path, bit: int, contents: Contents) -> tuple[str, list[str]]:
    """Flip one bit of the file, and look: what came of it, and what is wrong with that."""
    with path.open("r+b") as file:
        file.seek(bit // 8)
        byte = file.read(1)[0]
        file.seek(bit // 8)
        file.write(bytes([byte ^ 1 << bit % 8]))
    try:
        with pagescan.open_store(path, create=False) as store:
            found = store.verify()
            if found:
                return "harmless", _compare(store, contents, set())
            return _judge(store, found.damage, contents)
    except PagescanError as error:
        # The version of the format is part of the file, and a newer one is no damage.
        kind = "found on opening" if isinstance(error, DataCorrupt) or "format" in str(error) else "unexpected"
        return kind, [] if kind != "unexpected" else [f"bit {bit}: {error!r}"]


def _judge(store: pagescan.Store, damage: tuple, contents: Contents) -> tuple[str, list[str]]:
    """Damage was found: what it does not name has to be whole."""
    named = {(d.series, d.version, d.buffer) for d in damage}
    if (None, None, None) in named and len(named) == 1:
        return "found in the database's own structure", []
    if (None, None, None) in named:
        return "found in the database's own structure and in versions", []
    whole = "and named the version and the buffer" if all(d.buffer for d in damage) else "and named the version"
    return f"found by verify {whole}", _compare(store, contents, named)


def _compare(store: pagescan.Store, contents: Contents, named: set) -> list[str]:
    """Read every buffer of every version that was not named as damaged; what differs, in words."""
    wrong = []
    for (name, number), buffers in contents.items():
        ill = {buffer for series, version, buffer in named if (series, version) == (name, number)}
        if None in ill:
            continue
        with contextlib.suppress(DataCorrupt) if ill else contextlib.nullcontext():
            try:
                read = store.read(name, number)
            except PagescanError as error:
                if ill:
                    raise
                wrong.append(f"version {number} of {name} cannot be read: {error}")
                continue
            wrong += [
                f"{key} of version {number} of {name} differs" for key in buffers if not _same(read, buffers, key)
            ]
    return wrong


def _same(read: dict[str, np.ndarray], buffers: dict[str, np.ndarray], key: str) -> bool:
    return np.array_equal(read[key], buffers[key])


def run(
    flips: int, seed: int | None = None, scale: int = 1, say: Callable[[str], object] = lambda text: None
) -> Report:
    """Flip so many bits, each in a fresh copy: half of them anywhere, half where the file is not pages of memory."""
    chance = random.Random(seed)
    report = Report()
    with tempfile.TemporaryDirectory() as folder:
        whole, path = Path(folder) / "whole" / "state.pagescan", Path(folder) / "copy" / "state.pagescan"
        whole.parent.mkdir()
        contents = make(whole, scale)
        size = whole.stat().st_size
        for number in range(flips):
            shutil.rmtree(path.parent, ignore_errors=True)
            path.parent.mkdir()
            shutil.copy(whole, path)
            # The database's header, schema and first pages are small beside the contents, and matter more.
            end = size if number % 2 else min(size, 8 * 8192)
            bit = chance.randrange(end * 8)
            outcome, wrong = try_bit(path, bit, contents)
            report.outcomes[outcome] += 1
            report.wrong += [f"bit {bit} ({outcome}): {what}" for what in wrong]
            if number % 200 == 199:
                say(f"{number + 1} of {flips}: {report}")
    return report


def main() -> int:
    parser = argparse.ArgumentParser(prog="store-flip-test", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--flips", type=int, default=2000, help="how many bits to flip, one at a time (2000)")
    parser.add_argument("--seed", type=int, help="of the random bits")
    parser.add_argument("--scale", type=int, default=4, help="size of the store, in about 0.5 MiB (4)")
    arguments = parser.parse_args()

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    report = run(arguments.flips, arguments.seed, arguments.scale, say)
    print(f"{arguments.flips} bits flipped, one at a time: {report}")
    for what in report.wrong:
        print(f"WRONG: {what}")
    return 1 if report.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
