"""A numpy training loop with sparse updates, to look at from outside: each step writes to a few hundred rows.

pagescan record -- python examples/training.py [--seconds N] [--megabytes N]
"""

from __future__ import annotations

import argparse
import time

import numpy as np

DIMENSIONS = 64


def main() -> None:
    parser = argparse.ArgumentParser(description="A numpy training loop with sparse updates.")
    parser.add_argument("--seconds", type=float, default=3.0, help="how long to train (3)")
    parser.add_argument("--megabytes", type=int, default=64, help="size of the embedding table (64)")
    options = parser.parse_args()
    random = np.random.default_rng(1)
    rows = options.megabytes * (1 << 20) // (4 * DIMENSIONS)
    table = random.standard_normal((rows, DIMENSIONS), np.float32)
    momentum = np.zeros_like(table)
    end = time.monotonic() + options.seconds
    steps = 0
    while time.monotonic() < end:
        # A hot eighth of the table that moves on slowly, and a few rows from anywhere.
        first = steps * rows // 2000 % rows
        chosen = np.concatenate([(first + random.integers(rows // 8, size=40)) % rows, random.integers(rows, size=4)])
        momentum[chosen] = 0.9 * momentum[chosen] + 0.1 * table[chosen]
        table[chosen] -= 0.01 * momentum[chosen]
        steps += 1
        time.sleep(0.005)  # what a step computes besides
    print(f"trained {steps:,} steps; the weights' mean square is {np.square(table).mean():.4f}")


if __name__ == "__main__":
    main()
