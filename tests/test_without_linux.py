"""The seam: all that is not the kernel's works where there is no Linux.

A child takes the look of macOS or of Windows: no ``fcntl``, that ``sys.platform``, and none of the names in ``os`` and
``mmap`` that the system lacks. It does so after the third-party packages were imported and before pagescan is. Then it
runs tests and commands of everything that works on the model.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parent

DISGUISE = """
import ctypes, mmap, os, sys
import collections, csv, json, multiprocessing.shared_memory, numpy, sqlite3, subprocess, tempfile
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
    passed = collections.Counter()

    def pytest_collection(self, session):
        import hypothesis.stateful
        hypothesis.settings.register_profile("short", max_examples=10, deadline=None, database=None)
        hypothesis.settings.load_profile("short")
        disguise()
        # The fixtures of this folder; they import pagescan, so not before.
        import tests.reports.conftest
        session.config.pluginmanager.register(tests.reports.conftest)

    def pytest_runtest_logreport(self, report):
        if report.failed:
            self.tell(failed=report.nodeid, text=report.longreprtext)
        elif report.passed and report.when == "call":
            self.passed.update(self.here)

    def pytest_collectreport(self, report):
        if report.failed:
            self.tell(failed=report.nodeid, text=report.longreprtext)

    def pytest_runtest_protocol(self, item, nextitem):
        self.here, there = parts(item), parts(nextitem)
        self.ends = [name for name in self.here if name not in there]

    def pytest_runtest_logfinish(self):
        for name in self.ends:
            self.tell(done=name, passed=self.passed[name])

    def tell(self, **words):
        os.write(int(os.environ["OUTCOMES"]), json.dumps(words).encode() + b"\\n")

def parts(item):
    # tests, tests/model and tests/model/test_x.py, of a test in there.
    path = item.nodeid.partition("::")[0].split("/") if item else []
    return ["/".join(path[:n]) for n in range(1, len(path) + 1)]

# pagescan's own plugin would import pagescan before the disguise.
sys.exit(pytest.main(["-p", "no:pagescan", *sys.argv[1:]], plugins=[Disguise()]))
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
#: With how many tests at least, so that none is lost without a word.
PORTABLE = {
    "model": 100,
    "conformance/test_calls.py": 20,
    "conformance/test_written.py": 400,
    "conformance/test_soft_dirty.py": 7,
    "testing/test_fake.py": 4,
    "analysis": 20,
    "recording": 50,
    "views": 30,
    "reports": 90,
    "cli/test_model.py": 40,
    "test_query.py": 10,
    "test_ranges.py": 40,
    "test_units.py": 40,
    "test_location.py": 5,
}
LEFT_OUT = (
    "model/test_differential.py",
    "reports/test_page.py",
    "views/test_app.py",  # asyncio and Textual have parts of their own for Windows
    "reports/test_png.py",  # matplotlib would have to be imported before, and takes long
)
OPTIONS = [
    "-q", "-p", "no:cacheprovider", "--noconftest", "--timeout", "60",
    *(f"--ignore={TESTS / name}" for name in LEFT_OUT),
    # Left out: the kernel's half of what is for both machines, and what starts another, undisguised, interpreter.
    "-k", "not kernel- and not needs_nothing_of_linux{}",
]  # fmt: skip
#: What is the same for every release of the model is run for half of them on each platform: every case runs once.
PLATFORMS = {
    "darwin": " and not model-6.7- and not model-6.12-",
    "win32": " and not model-6.18- and not model-7.3-",
}


class Child:
    """An interpreter in disguise, under way."""

    def __init__(self, program: str, platform: str, *arguments: str):
        path = [str(TESTS.parent), *(path for path in sys.path if path)]
        ours, theirs = os.pipe()
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(path),
            "COLUMNS": "80",
            "OUTCOMES": str(theirs),
        }
        self.out = tempfile.TemporaryFile("w+")  # noqa: SIM115 - close() closes it
        self._process = subprocess.Popen(
            [sys.executable, "-c", program, platform, *arguments],
            env=environment,
            cwd=TESTS.parent,
            stdout=self.out,
            stderr=subprocess.STDOUT,
            pass_fds=[theirs],
        )
        os.close(theirs)
        self._lines = os.fdopen(ours)
        self._passed: dict[str, int] = {}
        self._failed: dict[str, str] = {}

    def outcome(self, path: str) -> tuple[int, dict[str, str]]:
        """How many tests below a path passed, and those that failed, once all of them are done."""
        while path not in self._passed:
            line = self._lines.readline()
            assert line, f"the child ended: {self._failed} {self.said()[-3000:]}"
            told = json.loads(line)
            if "failed" in told:
                self._failed[told["failed"]] = told["text"]
            else:
                self._passed[told["done"]] = told["passed"]
        return self._passed[path], {test: text for test, text in self._failed.items() if test.startswith(path)}

    def said(self) -> str:
        """Everything, once it has ended."""
        self._process.wait(60)
        self.out.seek(0)
        return self.out.read()

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._lines.close()
        self.out.close()


@pytest.fixture(scope="module")
def children() -> Iterator[dict[str, Child]]:
    """The portable tests on every platform, at the same time."""
    paths = [f"tests/{name}" for name in PORTABLE]
    made = {
        platform: Child(PYTEST, platform, *(option.format(rest) for option in OPTIONS), *paths)
        for platform, rest in PLATFORMS.items()
    }
    yield made
    for child in made.values():
        child.close()


@pytest.mark.timeout(240)
@pytest.mark.parametrize("platform", PLATFORMS)
class TestAnywhere:
    @pytest.mark.parametrize(("name", "at_least"), PORTABLE.items())
    def test_what_needs_no_kernel_passes(self, name, at_least, platform, children):
        passed, failed = children[platform].outcome(f"tests/{name}")
        assert not failed, "\n".join(failed.values())
        assert passed >= at_least

    def test_commands_work_on_the_model_and_say_what_needs_linux(self, platform, tmp_path):
        lines = (
            "scan --model --json",
            "model --list",
            "scan --self --json",
            "doctor",
            f"record --model --json -o {tmp_path}/recorded",
            f"report {tmp_path}/recorded summary --json",
        )
        child = Child(COMMANDS, platform, *lines)
        try:
            scan, model, own, doctor, record, report = json.loads(child.said())
        finally:
            child.close()
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
        assert (record[0], json.loads(record[1])["samples"]) == (0, 41)
        assert (report[0], report[2]) == (0, "")
        assert json.loads(report[1])["recording"]["samples"] == 41
