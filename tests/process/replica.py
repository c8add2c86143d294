"""A live replica of a process whose threads write and give memory back; `scripts/replica` is its command line.

Round after round the written pages are taken and copied. Once the writer has stopped, a last round must make the copy
equal to the original, byte for byte; else a page was missed somewhere on the way.
"""

from __future__ import annotations

import argparse
import contextlib
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import pagescan
from pagescan import Regions

PAGE = 4096
PAGES = 1024

#: Writes words, whole pages, and gives pages back (MADV_DONTNEED), at random, in as many threads as asked for.
WRITER = r"""
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#define PAGES 1024
static unsigned char *area;
static volatile int stop;
static void *work(void *seed) {
    unsigned s = (unsigned)(size_t)seed;
    while (!stop) {
        size_t page = rand_r(&s) % PAGES;
        switch (rand_r(&s) % 16) {
        case 0: madvise(area + page * 4096, 4096, MADV_DONTNEED); break;
        case 1: memset(area + page * 4096, (int)s, 4096); break;
        default: __atomic_add_fetch((unsigned *)(area + page * 4096 + rand_r(&s) % 1024 * 4), 1, __ATOMIC_RELAXED);
        }
    }
    return 0;
}
int main(int argc, char **argv) {
    int count = argc > 1 ? atoi(argv[1]) : 2;
    pthread_t threads[64];
    area = mmap(0, PAGES * 4096, 3, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memset(area, 1, PAGES * 4096);
    printf("%zu\n", (size_t)area);
    fflush(stdout);
    getchar();
    for (int i = 0; i < count; i++) pthread_create(&threads[i], 0, work, (void *)(size_t)(i + 1));
    getchar();
    stop = 1;
    for (int i = 0; i < count; i++) pthread_join(threads[i], 0);
    puts("stopped");
    fflush(stdout);
    getchar();
    return 0;
}
"""


@dataclass
class Outcome:
    """What a run saw.

    Attributes:
        rounds: takes while the threads wrote.
        copied: pages copied in all.
        differing: pages in which the replica differs in the end.
    """

    rounds: int = 0
    copied: int = 0
    differing: int = 0


@contextlib.contextmanager
def writer(threads: int) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """The program, waiting to begin, and where its memory is. Raises FileNotFoundError without gcc."""
    with tempfile.TemporaryDirectory(prefix="pagescan-replica-") as folder:
        program = Path(folder) / "writer"
        subprocess.run(["gcc", "-O1", "-pthread", "-x", "c", "-", "-o", program], input=WRITER.encode(), check=True)
        with subprocess.Popen(
            [program, str(threads)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
        ) as process:
            assert process.stdout
            try:
                yield process, int(process.stdout.readline())
            finally:
                process.kill()


def run(rounds: int, threads: int = 2, say: Callable[[str], object] = lambda text: None) -> Outcome:
    """Keep a replica for so many rounds; then compare."""
    outcome = Outcome()
    with writer(threads) as (process, at), pagescan.attach(process.pid) as tracker:
        assert process.stdin
        assert process.stdout
        whole = Regions.span(at, at + PAGES * PAGE)
        replica = tracker.read(whole)

        def copy() -> None:
            written = tracker.take() & whole
            content, position = tracker.read(written), 0
            for region in written:
                replica[region.start - at : region.end - at] = content[position : position + region.size]
                position += region.size
            outcome.copied += written.page_count

        process.stdin.write(b"\n")
        for outcome.rounds in range(1, rounds + 1):
            copy()
            if outcome.rounds % 1000 == 0:
                say(f"{outcome.rounds} rounds, {outcome.copied} pages copied")
        process.stdin.write(b"\n")
        assert process.stdout.readline() == b"stopped\n"
        copy()
        differs = (replica != tracker.read(whole)).reshape(PAGES, PAGE).any(axis=1)
        outcome.differing = int(np.count_nonzero(differs))
    return outcome


def main() -> int:
    parser = argparse.ArgumentParser(prog="replica", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5000, help="takes while the threads write (5000)")
    parser.add_argument("--threads", type=int, default=2, help="that write (2)")
    arguments = parser.parse_args()

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    outcome = run(arguments.rounds, arguments.threads, say)
    print(f"{outcome.rounds} rounds, {outcome.copied} pages copied: {outcome.differing} pages differ")
    return 1 if outcome.differing else 0


if __name__ == "__main__":
    sys.exit(main())
