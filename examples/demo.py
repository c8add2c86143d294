"""A live numpy workload, seen page by page through this kernel's PAGEMAP_SCAN.

A small embedding model is trained: each step looks up a few hundred rows of a large table, in data from a mapped file,
and updates those rows and their momentum. Before each step nothing is said about what it will write; afterwards the
page tables tell.

    python examples/demo.py [--steps N] [--megabytes N]
"""

from __future__ import annotations

import argparse
import ctypes
import mmap
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

import pagescan
from pagescan import Category

DIMENSIONS = 64


class Model(NamedTuple):
    """What the workload keeps in memory."""

    table: NDArray[np.float32]
    momentum: NDArray[np.float32]
    bias: NDArray[np.float32]
    archive: NDArray[np.float32]
    samples: mmap.mmap


def make_model(megabytes: int, file: Path) -> Model:
    rows = megabytes * (1 << 20) // (4 * DIMENSIONS)
    random = np.random.default_rng(1)
    with open(file, "r+b") as data:
        samples = mmap.mmap(data.fileno(), 0)
    table = pagescan.empty((rows, DIMENSIONS), np.float32)
    table[:] = random.standard_normal(table.shape, np.float32)
    archive = pagescan.empty((rows // 4, DIMENSIONS), np.float32)
    archive[:] = 1
    # The momentum is never filled: its pages come into being as rows are first updated.
    momentum = pagescan.zeros((rows, DIMENSIONS), np.float32)
    return Model(table, momentum, pagescan.zeros(DIMENSIONS, np.float32), archive, samples)


def write_samples(file: Path, rows: int, steps: int) -> None:
    """Row numbers for every step: most from a hot eighth of the table, some from anywhere."""
    random = np.random.default_rng(2)
    hot = random.integers(rows // 8, size=(steps, 200))
    cold = random.integers(rows, size=(steps, 60))
    np.concatenate([hot, cold], axis=1).astype(np.int64).tofile(file)


def train(model: Model, step: int) -> None:
    """One step: gradient of a toy loss for the rows this step's samples name."""
    width = 260 * 8
    rows = np.frombuffer(model.samples[step * width : (step + 1) * width], np.int64)
    gradient = 0.1 * model.table[rows] + model.bias
    model.momentum[rows] = 0.9 * model.momentum[rows] + gradient
    model.table[rows] -= 0.01 * model.momentum[rows]
    model.bias[:] += gradient.mean(axis=0)


def page_out(array: NDArray[np.float32]) -> str:
    """Ask the kernel to swap an array out."""
    if Path("/proc/swaps").read_text().count("\n") < 2:
        return "this machine has no swap, so nothing can be swapped out"
    madv_pageout = 21  # Linux 5.4
    ctypes.CDLL(None).madvise(ctypes.c_void_p(array.ctypes.data), ctypes.c_size_t(array.nbytes), madv_pageout)
    return "the kernel was asked to swap the archive out (MADV_PAGEOUT)"


def show_states(model: Model, written: pagescan.Written | None) -> None:
    """One line an array: what PAGEMAP_SCAN knows of its pages."""
    print(f"{'array':<10}{'pages':>8}{'present':>9}{'swapped':>9}{'file':>7}{'zero':>6}{'written':>9}   where written")
    for name, array in model._asdict().items():
        states = pagescan.scan(array)
        counts = [
            states.where(required=category).page_count
            for category in (Category.PRESENT, Category.SWAPPED, Category.FILE, Category.PFNZERO)
        ]
        pages = -(-memoryview(array).nbytes // mmap.PAGESIZE)
        line = f"{name:<10}{pages:>8,}{counts[0]:>9,}{counts[1]:>9,}{counts[2]:>7,}{counts[3]:>6,}"
        if written is None:
            print(f"{line}{'-':>9}")
            continue
        slices = written.slices(array)
        address = np.frombuffer(array, np.uint8).ctypes.data
        count = written.clip(address, address + memoryview(array).nbytes).page_count
        print(f"{line}{count:>9,}   {strip(slices, memoryview(array).nbytes // memoryview(array).itemsize)}")


def strip(slices: list[slice], length: int, width: int = 32) -> str:
    """The array from its first element to its last, darker where more of it was written to."""
    share = np.zeros(width)
    for part in slices:
        first, last = part.start * width // length, min((part.stop - 1) * width // length, width - 1)
        for cell in range(first, last + 1):
            low, high = cell * length / width, (cell + 1) * length / width
            share[cell] += (min(part.stop, high) - max(part.start, low)) / (high - low)
    shades = "·░▒▓█"
    return "".join(shades[0 if s == 0 else 1 + min(3, int(4 * s))] for s in share)


def main() -> int:
    parser = argparse.ArgumentParser(description="A live numpy workload, seen page by page.")
    parser.add_argument("--steps", type=int, default=4, help="training steps to show (4)")
    parser.add_argument("--megabytes", type=int, default=64, help="size of the embedding table (64)")
    options = parser.parse_args()
    rows = options.megabytes * (1 << 20) // (4 * DIMENSIONS)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "samples.bin"
        write_samples(file, rows, options.steps)
        model = make_model(options.megabytes, file)
        try:
            return watch(model, options.steps)
        except pagescan.PagescanError as error:
            print(f"demo: {error}", file=sys.stderr)
            return 5


def watch(model: Model, steps: int) -> int:
    print("before tracking: the states alone (of memory nobody tracks, 'written' cannot be asked)\n")
    show_states(model, None)
    with pagescan.track(*model) as tracker:
        print(f"\ntracking {tracker.pages.byte_count >> 20} MiB with the engine {tracker.engine}: {tracker.why}")
        for step in range(steps):
            train(model, step)
            begin = time.perf_counter_ns()
            written = tracker.take()
            took = (time.perf_counter_ns() - begin) / 1e3
            print(
                f"\nstep {step + 1}: {written.page_count:,} of {tracker.pages.page_count:,} pages written to; ", end=""
            )
            print(f"found and protected again in {took:,.0f} µs ({written.quality})\n")
            show_states(model, written)
        print(f"\n{page_out(model.archive)}; then nothing runs, and nothing is written:\n")
        show_states(model, tracker.take())
        largest = max(tracker.pages, key=lambda region: region.size)
        where = f"{largest.start:#x}-{largest.end:#x}"
        command = ["pagescan", "scan", "-p", str(os.getpid()), "--range", where]
        train(model, 0)
        print("\nafter one more step, the largest part of it, looked at from another process:")
        print(f"\n$ {' '.join(command)}", flush=True)
        return subprocess.run([sys.executable, "-m", *command], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
