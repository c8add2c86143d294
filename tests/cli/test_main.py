"""The command as a whole: exit codes, streams, errors without a traceback."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

import pagescan
from pagescan import cli
from pagescan.cli import main
from pagescan.cli.command import ExitCode
from pagescan.errors import (
    AccessDenied,
    InvalidArgument,
    KernelCannot,
    MissingExtra,
    NoProgress,
    NoSuchProcess,
    UnknownCategory,
)

from .conftest import run_confined

COMMAND = [sys.executable, "-m", "pagescan"]


class TestCommandLine:
    def test_nothing_is_usage_on_stderr(self, run):
        done = run()
        assert done.code == 2
        assert done.out == ""
        assert done.err.startswith("usage: pagescan")

    def test_version(self, run):
        assert run("--version") == run("--version")
        assert run("--version").out == f"pagescan {pagescan.__version__}\n"

    @pytest.mark.parametrize("name", cli.COMMANDS)
    def test_each_command_has_its_docstring_as_help(self, run, name):
        done = run(name, "--help")
        command = cli.load([name])[name]
        assert done.code == 0
        assert command.__doc__
        assert command.__doc__.splitlines()[0] in done.out
        # argparse wraps it where it likes: Python 3.14 puts the description elsewhere than 3.11.
        assert command.__doc__.splitlines()[0].rstrip(".") in " ".join(run("--help").out.split())

    def test_unknown_command_names_the_known(self, run):
        done = run("scann")
        assert done.code == 2
        assert done.err == (
            f"pagescan: argument COMMAND: invalid choice: 'scann' (choose from {', '.join(map(repr, cli.COMMANDS))})\n"
            "hint: pagescan --help\n"
        )

    def test_version_imports_neither_numpy_nor_rich_nor_a_command(self):
        code = (
            "import sys; from pagescan.cli import main; main(['--version']); "
            "print(*sorted({'numpy', 'rich', 'pagescan.cli.scan', 'pagescan.kernel'} & set(sys.modules)))"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
        assert done.stdout == f"pagescan {pagescan.__version__}\n\n"


class _Failing:
    """A command that fails."""

    error: BaseException

    def add_arguments(self, parser):
        pass

    def run(self, options):
        raise self.error


@pytest.fixture
def fail(monkeypatch, run):
    """``fail(error)`` runs a command that raises it."""

    def call(error):
        command = _Failing()
        command.error = error
        monkeypatch.setattr(cli, "load", lambda names: {"doctor": command})
        return run("doctor")

    return call


class TestErrors:
    @pytest.mark.parametrize(
        ("kind", "code"),
        [
            (NoProgress, 1),
            (MissingExtra, 1),
            (InvalidArgument, 2),
            (NoSuchProcess, 3),
            (AccessDenied, 4),
            (KernelCannot, 5),
            (UnknownCategory, 5),
        ],
    )
    def test_kind_decides_the_exit_code(self, fail, kind, code):
        done = fail(kind("it cannot be", hint="mend it"))
        assert (done.code, done.out, done.err) == (code, "", "pagescan: it cannot be\nhint: mend it\n")

    def test_without_hint_there_is_one_line(self, fail):
        assert fail(NoProgress("it stands still")).err == "pagescan: it stands still\n"

    def test_interrupt_is_130(self, fail):
        done = fail(KeyboardInterrupt())
        assert (done.code, done.err) == (130, "")

    def test_system_error_is_one_line(self, fail):
        done = fail(OSError(28, "No space left on device"))
        assert (done.code, done.err) == (1, "pagescan: [Errno 28] No space left on device\n")

    def test_codes_are_the_documented_ones(self):
        assert {code.name: code.value for code in ExitCode} == {
            "DONE": 0,
            "FAILED": 1,
            "USAGE": 2,
            "NO_SUCH_PROCESS": 3,
            "NO_PERMISSION": 4,
            "KERNEL_CANNOT": 5,
            "DATA_CORRUPT": 6,
            "INTERRUPTED": 130,
        }


class TestStreams:
    def test_reader_that_stops_is_no_failure(self):
        # More output than a pipe holds, so that the writer meets its closed end.
        line = f"{' '.join(COMMAND)} scan --self --all --json | head -c 1; echo ${{PIPESTATUS[0]}}"
        done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=30)
        assert (done.stdout, done.stderr) == ("{0\n", "")

    @pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full here")
    def test_full_disk_is_told(self):
        with open("/dev/full", "w") as full:
            done = subprocess.run([*COMMAND, "scan", "--self", "--json"], stdout=full, stderr=-1, text=True, timeout=30)
        assert done.returncode == 1
        assert done.stderr == "pagescan: [Errno 28] No space left on device\n"

    def test_no_colour_in_a_pipe(self, run):
        assert "\x1b" not in run("doctor").out

    def test_error_goes_to_stderr_of_the_process(self):
        done = subprocess.run([*COMMAND, "scan", "-p", "4194304"], capture_output=True, text=True, timeout=30)
        assert done.returncode == 3
        assert done.stdout == ""
        assert done.stderr.startswith("pagescan: ")
        assert "Traceback" not in done.stderr


class TestMissingExtra:
    @pytest.fixture
    def no_rich(self, monkeypatch):
        for name in [name for name in sys.modules if name.partition(".")[0] == "rich"]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.setitem(sys.modules, "rich.console", None)
        monkeypatch.setitem(sys.modules, "rich", None)

    @pytest.mark.usefixtures("no_rich")
    def test_table_names_the_pip_line(self, run):
        done = run("scan", "--self")
        assert (done.code, done.out) == (1, "")
        assert done.err.endswith("hint: pip install 'pagescan[cli]'\n")

    @pytest.mark.usefixtures("no_rich")
    @pytest.mark.parametrize("arguments", [("scan", "--self", "--json"), ("scan", "--self", "--csv"), ("doctor",)])
    def test_everything_else_works(self, run, arguments):
        done = run(*arguments)
        assert (done.code, done.err) == (0, "") if arguments[0] == "scan" else done.err == ""
        assert done.out


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_other_users_process_is_no_permission():
    pid = os.getpid()
    done = run_confined(lambda: os.setuid(65534), "scan", "-p", str(pid), "--json")
    assert (done.code, done.out) == (4, "")
    message, hint = done.err.splitlines()
    assert f"process {pid} belongs to user 0, this one to user 65534" in message
    assert hint.startswith("hint: ")
    assert "sudo" in hint


def test_main_returns_and_does_not_exit():
    assert main(["--help"]) == 0
    assert main(["scan", "--no-such-option"]) == 2
