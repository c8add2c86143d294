"""What starting costs: ``import pagescan`` and ``pagescan --version`` against a bare interpreter.

Byte code is cached, as after an installation, whatever PYTHONDONTWRITEBYTECODE says: in a folder of this run's own, for
the bare interpreter too.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from harness import Effort, Goal, Report, interleave, timed

MILLISECOND = 1e6


def start(report: Report, effort: Effort) -> None:
    """Whole processes, in turn; what counts is the difference."""
    with tempfile.TemporaryDirectory(prefix="pagescan-bench-") as cache:
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        environment["PYTHONPYCACHEPREFIX"] = cache
        bare = _process([sys.executable, "-c", "pass"], environment)
        bare()  # fills the cache
        for what, command, goal in (
            ("import pagescan", [sys.executable, "-c", "import pagescan"], 10),
            ("pagescan --version", _version(), 60),
        ):
            ours = _process(command, environment)
            ours()
            pairs = interleave(timed(ours), timed(bare), effort)
            report.add("start", what, "python -c pass", pairs, Goal(more=goal * MILLISECOND))


def _version() -> list[str]:
    """The installed command of this environment; run as a module where it is not installed."""
    installed = shutil.which("pagescan", path=str(Path(sys.executable).parent))
    return [installed, "--version"] if installed else [sys.executable, "-m", "pagescan", "--version"]


def _process(command: list[str], environment: dict[str, str]) -> Callable[[], None]:
    def run() -> None:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)} failed: {done.stderr.strip()[-300:]}")

    return run
