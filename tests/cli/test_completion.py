"""``pagescan completion``: scripts that their shells can read, and that know every command and option."""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys

import pytest

pytest.importorskip("shtab", reason="completion scripts need the package shtab")

from pagescan import cli
from pagescan.cli.completion import SHELLS, parsers, script


@pytest.fixture(scope="module")
def scripts():
    return {shell: script(shell) for shell in SHELLS}


def shell_of(name):
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


@pytest.mark.parametrize("shell", SHELLS)
class TestEveryShell:
    def test_prints_the_script(self, run, scripts, shell):
        done = run("completion", shell)
        assert (done.code, done.out, done.err) == (0, scripts[shell] + "\n", "")

    def test_shell_can_read_it(self, scripts, shell):
        done = subprocess.run(
            [shell_of(shell), "-n"] if shell != "fish" else [shell_of(shell), "--no-execute"],
            input=scripts[shell], capture_output=True, text=True, timeout=30,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, "")

    def test_has_every_command_and_option(self, scripts, shell):
        text = scripts[shell]
        parser = cli.build_parser(cli.load(cli.COMMANDS))
        missing = [name for name in cli.COMMANDS if not re.search(rf"\b{name}\b", text)]
        for one in parsers(parser):
            for action in one._actions:
                if action.help == argparse.SUPPRESS:
                    continue
                for option in action.option_strings:
                    # fish: -l long, -s s
                    spelled = re.sub("^--", "-l ", option) if option.startswith("--") else f"-s {option[1:]}"
                    wanted = spelled if shell == "fish" else option
                    if not re.search(rf"(?<![\w-]){re.escape(wanted)}(?![\w-])", text):
                        missing.append(f"{one.prog} {option}")
        assert missing == []


class TestBash:
    @pytest.fixture
    def complete(self, scripts, tmp_path):
        """``complete("pagescan", "re")`` is what the Tab key offers."""
        bash = shell_of("bash")
        file = tmp_path / "completion"
        file.write_text(scripts["bash"])

        def call(*words):
            listed = " ".join(f"'{word}'" for word in words)
            ask = (
                f"source {file}; COMP_WORDS=({listed}); COMP_CWORD={len(words) - 1}; "
                "f=$(complete -p pagescan | sed 's/.*-F \\([^ ]*\\).*/\\1/'); "
                f"$f pagescan '{words[-1]}' '{words[-2]}'; printf '%s\\n' \"${{COMPREPLY[@]}}\""
            )
            done = subprocess.run([bash, "-c", ask], capture_output=True, text=True, timeout=30, cwd=tmp_path)
            assert done.stderr == ""
            return done.stdout.split()

        return call

    def test_commands(self, complete):
        assert complete("pagescan", "re") == [name for name in cli.COMMANDS if name.startswith("re")]

    def test_options_of_a_command(self, complete):
        assert complete("pagescan", "record", "--int") == ["--interval"]

    def test_choices(self, complete):
        assert complete("pagescan", "completion", "") == list(SHELLS)

    def test_files(self, complete, tmp_path):
        (tmp_path / "run.pagescan").touch()
        assert complete("pagescan", "record", "-o", "run") == ["run.pagescan"]

    def test_processes(self, complete):
        assert "1" in complete("pagescan", "record", "-p", "1")


class TestUsage:
    def test_other_shells_are_named(self, run):
        done = run("completion", "tcsh")
        assert done.code == 2
        assert "invalid choice: 'tcsh'" in done.err

    def test_without_shtab_the_pip_line(self, run, monkeypatch):
        monkeypatch.setitem(sys.modules, "shtab", None)
        done = run("completion", "bash")
        assert (done.code, done.out) == (1, "")
        assert done.err.endswith("hint: pip install 'pagescan[cli]'\n")
