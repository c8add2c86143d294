"""The seam: all that is not the kernel's works where there is no Linux.

A child takes the look of macOS or of Windows: no ``fcntl``, that ``sys.platform``, and none of the names in ``os`` and
``mmap`` that the system lacks. It does so after the third-party packages were imported and before pagescan is. Then it
runs tests and commands of everything that works on the model.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent

DISGUISE = """
import ctypes, mmap, os, sys
import csv, json, multiprocessing.shared_memory, numpy, sqlite3, subprocess, tempfile
try:
    import rich.console, rich.table, rich.text
except ImportError:
    pass

platform = sys.argv.pop(1)
windows = platform == "win32"
here_too = ("MADV_NORMAL", "MADV_RANDOM", "MADV_SEQUENTIAL", "MADV_WILLNEED", "MADV_DONTNEED", "MADV_FREE",
            "MAP_SHARED", "MAP_PRIVATE", "MAP_ANON", "MAP_ANONYMOUS", "MAP_NORESERVE")

def refuse(self, name, *arguments, **options):
    if name is None:
        raise TypeError("there is no C library without a name on Windows")
    plain(self, name, *arguments, **options)

plain = ctypes.CDLL.__init__

def disguise():
    for name in [name for name in dir(mmap) if name.startswith(("MADV_", "MAP_", "PROT_"))]:
        if windows or not name.startswith("PROT_") and name not in here_too:
            delattr(mmap, name)
    missing = ["memfd_create", "pidfd_open", "eventfd", "sched_setaffinity", "sched_getaffinity"]
    if windows:
        missing += ["fork", "forkpty", "register_at_fork", "sysconf", "geteuid", "posix_spawn"]
        ctypes.CDLL.__init__ = refuse
    for name in missing:
        if hasattr(os, name):
            delattr(os, name)
    for name in ("fcntl", *(("termios", "tty", "pty", "resource", "pwd", "grp") if windows else ())):
        sys.modules[name] = None
    assert not any(name.startswith("pagescan") for name in sys.modules)
    sys.platform = platform
"""
#: pytest starts as itself, and collects in disguise.
PYTEST = (
    DISGUISE
    + """
import numpy.testing, pytest

class Disguise:
    def pytest_collection(self):
        import hypothesis.stateful
        hypothesis.settings.register_profile("short", max_examples=10, deadline=None, database=None)
        hypothesis.settings.load_profile("short")
        disguise()

sys.exit(pytest.main(sys.argv[1:], plugins=[Disguise()]))
"""
)
#: Each argument is a command line; prints a list of [exit code, stdout, stderr] as JSON.
COMMANDS = (
    DISGUISE
    + """
import contextlib, io
disguise()
from pagescan.cli import main
done = []
for line in sys.argv[1:]:
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        code = int(main(line.split()))
    done.append([code, out.getvalue(), err.getvalue()])
print(json.dumps(done))
"""
)

#: What has to work anywhere. conftest.py is left out: it is for what looks at this system's processes.
PORTABLE = [
    "model",
    "analysis",
    "cli/test_model.py",
    "test_query.py",
    "test_ranges.py",
    "test_units.py",
    "test_location.py",
]
OPTIONS = [
    "-q", "-p", "no:cacheprovider", "--noconftest", "--timeout", "40", "--durations", "8",
    "--ignore", str(TESTS / "model" / "test_differential.py"),
]  # fmt: skip
PLATFORMS = ("darwin", "win32")


def disguised(program: str, platform: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path), "COLUMNS": "80"}
    command = [sys.executable, "-c", program, platform, *arguments]
    return subprocess.run(
        command, env=environment, cwd=TESTS.parent, capture_output=True, text=True, timeout=120, check=False
    )


def passed(done: subprocess.CompletedProcess[str]) -> int:
    """How many tests passed, where none failed."""
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    found = re.search(r"(\d+) passed", done.stdout)
    return int(found[1]) if found else 0


@pytest.mark.timeout(150)
@pytest.mark.parametrize("platform", PLATFORMS)
class TestAnywhere:
    def test_what_needs_no_kernel_passes(self, platform):
        paths = [str(TESTS / name) for name in PORTABLE if (TESTS / name).exists()]
        # Left out: what starts another, undisguised, interpreter.
        assert passed(disguised(PYTEST, platform, *OPTIONS, *paths, "-k", "not needs_nothing_of_linux")) > 400

    def test_conformance_passes_on_the_model(self, platform):
        path = str(TESTS / "conformance" / "test_written.py")
        assert passed(disguised(PYTEST, platform, *OPTIONS, path, "-k", "model-6.18 and scan")) > 50

    def test_commands_work_on_the_model_and_say_what_needs_linux(self, platform):
        lines = ("scan --model --json", "model --list", "scan --self --json", "doctor")
        done = disguised(COMMANDS, platform, *lines)
        assert (done.returncode, done.stderr) == (0, "")
        scan, model, own, doctor = json.loads(done.stdout)
        assert (scan[0], scan[2]) == (0, "")
        document = json.loads(scan[1])
        assert document["target"]["label"] == "model process 1"
        assert document["totals"]["categories"]["written"] == 8 * 4096
        assert (model[0], model[2]) == (0, "")
        assert model[1].startswith("tracking ")
        assert own[:2] == [5, ""]
        assert "on Linux only" in own[2]
        assert "pagescan.model" in own[2].splitlines()[-1]
        assert doctor[:2] == [5, ""]
        assert f"there is no PAGEMAP_SCAN on {platform}" in doctor[2]
