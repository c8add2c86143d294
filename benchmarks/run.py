"""pagescan side by side with C and with the other ways, in one run. Prints ratios, the goals, and where it falls short.

A missed goal is a result, not an error: the exit status is 0 unless something failed to run. What a machine cannot
run (no gcc, no such kernel, a package that is not installed) is skipped by name.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from functools import partial

import numpy as np

import attaching
import engines
import hot
import many
import pagescan
import restoring
import scanning
import starting
import storing
import taking
import writing
from harness import Effort, Report, Row, timed
from native import Missing, Native, compiled

#: The groups of rows that need the C side, in order, and what part of the effort each row of them gets.
NATIVE: dict[str, tuple[Callable[[Report, Native, Effort], None], float]] = {
    "scan": (scanning.scan_ranges, 1.0),
    "call": (scanning.one_page, 1.0),
    "take": (taking.take, 2.0),
    "rivals": (taking.rivals, 4.0),
    "engines": (engines.take, 2.0),
    "rollback": (restoring.rollback, 2.0),
    "write": (writing.first_write, 2.0),
    "hot": (hot.hot, 2.0),
    "many": (many.many, 0.5),
    "dense": (writing.dense, 1.5),
    "tiny": (writing.tiny, 0.5),
}
GROUPS = {
    "scan": "pagemap_scan of whole ranges, against the ioctl in C",
    "call": "a prepared scan of one page, against the ioctl in C",
    "take": "tracker.take() of 256 MiB, against get + protect in C",
    "rivals": "tracker.take() of 1 GiB, against pagemap file, xxh3, numpy compare, joblib.hash",
    "engines": "tracker.take() of 64 MiB by each engine, against pagemap-scan",
    "rollback": "mark.restore() of 256 MiB, against copying everything back and against the same in C",
    "write": "the first write to a protected page, against mprotect + SIGSEGV in C",
    "hot": "memory rewritten in every interval, exempted and not, against untracked writes",
    "many": "take() of many buffers, against get + protect of one in C; many trackers",
    "dense": "where tracking loses: dense writes, and the break-even",
    "tiny": "where tracking loses: tiny buffers",
    "store": "series.commit(), against writing the pages by hand, and saving everything with numpy, joblib, zarr",
    "pause": "how long a process stands still when it is attached to",
    "redis": "SETs that a redis serves while it is tracked ten times a second, against untracked",
    "start": "import pagescan and pagescan --version, against python -c pass",
}


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    if options.list:
        print("\n".join(f"{name:<10}{what}" for name, what in GROUPS.items()))
        return 0
    cpu = _pin(options.cpu)
    effort = Effort(seconds=0.2, least=5) if options.quick else Effort()
    report = Report(_machine(cpu, effort))
    gc.disable()  # as timeit does: a collection of what others left would land on either side at random
    wanted = options.only or list(GROUPS)
    try:
        with compiled() as native:
            report.machine["compiler"] = native.compiler
            for name, (rows, part) in NATIVE.items():
                if name in wanted:
                    _attempt(report, name, partial(rows, report, native, effort.scaled(part)))
    except Missing as missing:
        report.rows += [Row(name, GROUPS[name], "", skipped=str(missing)) for name in NATIVE if name in wanted]
    if "store" in wanted:
        _attempt(report, "store", partial(storing.commit, report, effort.scaled(4)))
    for name, attached in (("pause", attaching.pause), ("redis", attaching.redis)):
        if name in wanted:
            _attempt(report, name, partial(attached, report, effort))
    if "start" in wanted:
        _attempt(report, "start", partial(starting.start, report, effort.scaled(2)))
    print(json.dumps(report.document(), indent=2) if options.json else _text(report))
    return 1 if any(row.failed for row in report.rows) else 0


def _attempt(report: Report, name: str, rows: Callable[[], None]) -> None:
    """Run one group; what goes wrong in it is a row of its own, and the others still run."""
    print(f"{name}: {GROUPS[name]} ...", end="", file=sys.stderr, flush=True)
    began = time.monotonic()
    try:
        rows()
    except (Missing, pagescan.KernelCannot) as missing:
        report.rows.append(Row(name, GROUPS[name], "", skipped=str(missing)))
    except Exception as error:  # noqa: BLE001
        report.rows.append(Row(name, GROUPS[name], "", failed=f"{type(error).__name__}: {error}"))
    print(f" {time.monotonic() - began:.1f} s", file=sys.stderr)


def _pin(cpu: str) -> int | None:
    """Keep to one processor, so that neither side pays for moving; returns its number, or None if not pinned."""
    if cpu == "any" or not hasattr(os, "sched_setaffinity"):
        return None
    number = max(os.sched_getaffinity(0)) if cpu == "last" else int(cpu)
    os.sched_setaffinity(0, {number})
    return number


def _machine(cpu: int | None, effort: Effort) -> dict[str, object]:
    return {
        "kernel": platform.release(),
        "architecture": platform.machine(),
        "page_size_bytes": os.sysconf("SC_PAGE_SIZE"),
        "processors": os.cpu_count(),
        "pinned_to": cpu,
        "load_average": os.getloadavg()[0],
        "getppid_ns": int(np.median([timed(os.getppid, 1000)() for _ in range(50)]) / 1000),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "pagescan": pagescan.__version__,
        "seconds_a_row": effort.seconds,
    }


def _text(report: Report) -> str:
    about = report.machine
    head = (
        f"pagescan {about['pagescan']}, Python {about['python']}, numpy {about['numpy']}, "
        f"Linux {about['kernel']} {about['architecture']}, {about['processors']} processors; "
        f"C: {about.get('compiler', 'none')}; os.getppid() takes {about['getppid_ns']} ns here.\n"
        "ours and theirs: medians, of this machine and moment; the ratio is the median of the rounds' ratios, with its "
        "quartiles; goals in microseconds suit a machine where os.getppid() takes about 130 ns.\n"
    )
    busy = float(str(about["load_average"])) > 0.5 * (os.cpu_count() or 1)
    warning = f"The machine was busy (load {about['load_average']:.1f}) when this began.\n" if busy else ""
    return f"{head}{warning}\n{report.table()}"


def _parser() -> argparse.ArgumentParser:
    words = (__doc__ or "").split("\n\n")
    parser = argparse.ArgumentParser(description=words[0], epilog=words[1])
    parser.add_argument("--only", metavar="NAME", action="append", choices=list(GROUPS), help="run this group of rows")
    parser.add_argument("--list", action="store_true", help="say which groups there are, and end")
    parser.add_argument("--quick", action="store_true", help="a short run: wider spread, the same rows")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout: times in nanoseconds")
    parser.add_argument("--cpu", default="last", help="processor to keep to: a number, `last` (default) or `any`")
    return parser


if __name__ == "__main__":
    sys.exit(main())
