"""`pagescan report`: its forms, files, streams and exit codes."""

from __future__ import annotations

import csv
import io
import os
import pty
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from pagescan.cli.report import KINDS, _bandwidth
from pagescan.errors import InvalidArgument
from pagescan.reports import REPORTS

from ..reports.tiny import MS, damage, write_tiny

COMMAND = [sys.executable, "-m", "pagescan", "report"]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    write_tiny(tmp_path / "tiny.pagescan")
    return tmp_path / "tiny.pagescan"


def test_help_names_every_report(run):
    assert set(KINDS) == set(REPORTS)
    text = run("report", "--help").out
    assert all(kind in text for kind in KINDS)


class TestText:
    @pytest.mark.parametrize(
        ("kind", "first"),
        [
            (None, "process   prog -x (pid 4711)"),
            ("summary", "process   prog -x (pid 4711)"),
            ("heatmap", "ADDRESS       TIME MAPPING"),
            ("regions", "START          SIZE  SAMPLES   SHARE      RATE  MAPPING"),
            ("working-set", "WINDOW  SAMPLES    MEAN     MAX  OVER TIME"),
            ("migration", "BANDWIDTH   ROUNDS    SENT     TIME  DOWNTIME  WITHIN LIMIT"),
        ],
    )
    def test_each(self, run, file, kind, first):
        done = run("report", file, *([kind] if kind else []))
        assert (done.code, done.err) == (0, "")
        assert done.out.splitlines()[0] == first

    def test_columns_is_kept_to(self, run, file, monkeypatch):
        monkeypatch.setenv("COLUMNS", "50")
        assert max(map(len, run("report", file).out.splitlines())) <= 50

    def test_plain_ascii_where_the_stream_can_no_more(self, file):
        environment = os.environ | {"PYTHONIOENCODING": "ascii"}
        done = subprocess.run([*COMMAND, file, "heatmap"], capture_output=True, env=environment, timeout=30)
        assert (done.returncode, done.stderr) == (0, b"")
        assert b"000000010000 |@@ @| [heap]" in done.stdout

    def test_options(self, run, file):
        assert run("report", file, "regions", "--limit", "1").out.endswith("1 of 3 regions shown, the hottest first\n")
        assert "1.00 s" not in run("report", file, "working-set", "--windows", "100ms,200ms").out
        text = run("report", file, "migration", "--bandwidth", "8kbit", "--memory", "0", "--downtime", "1s").out
        assert "first round: 0 bytes (as given)\nlimit of downtime: 1.00 s\n" in text
        rows = run("report", file, "heatmap", "--rows", "1").out
        assert len([line for line in rows.splitlines() if "│" in line]) == 1


class TestTerminal:
    """The command on a real pseudo-terminal of 80 columns."""

    def show(self, file, **environment):
        ours, theirs = pty.openpty()
        import fcntl
        import struct
        import termios

        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        known = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
        with subprocess.Popen(
            [*COMMAND, file, "heatmap"],
            stdout=theirs,
            stderr=theirs,
            env=known | {"TERM": "xterm-256color"} | environment,
        ) as child:
            os.close(theirs)
            parts = []
            # At the end of the child a pseudo-terminal answers with EIO.
            try:
                while part := os.read(ours, 65536):
                    parts.append(part)
            except OSError:
                pass
            os.close(ours)
            assert child.wait(30) == 0
        return b"".join(parts).decode()

    def test_colour(self, file):
        text = self.show(file)
        assert "\x1b[38;5;196m" in text
        assert max(len(re.sub(r"\x1b\[[0-9;]*m", "", line)) for line in text.splitlines()) <= 80

    @pytest.mark.parametrize("environment", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
    def test_no_colour(self, file, environment):
        assert "\x1b" not in self.show(file, **environment)

    def test_no_colour_in_a_pipe(self, run, file):
        assert "\x1b" not in run("report", file, "heatmap").out


class TestJson:
    @pytest.mark.parametrize("kind", KINDS)
    def test_head(self, run, file, kind):
        found = run("report", file, kind, "--json").json()
        assert (found["schema"], found["version"]) == (f"pagescan.report.{kind}", 1)
        assert found["recording"]["samples"] == 4
        assert found["recording"]["duration_ns"] == 400 * MS

    @pytest.mark.parametrize("kind", KINDS)
    def test_every_field_is_documented(self, run, file, kind):
        page = Path(__file__).parents[2] / "docs/commands/report.md"
        if not page.exists():
            pytest.skip("the tests were copied out of the checkout")
        documented = set(re.findall(r"`\.?([\w.\[\]]+)`", page.read_text()))

        def fields(value, path=""):
            if isinstance(value, dict):
                for name, inner in value.items():
                    yield from fields(inner, f"{path}.{name}" if path else name)
            elif isinstance(value, list) and value and isinstance(value[0], dict):
                yield from fields(value[0], f"{path}[]")
            else:
                yield path

        missing = {field for field in fields(run("report", file, kind, "--json").json()) if field not in documented}
        assert missing == set()


class TestCsv:
    @pytest.mark.parametrize(
        ("kind", "first"),
        [
            ("summary", ["[heap]", "0x10000", "0x20000", "5", "20480", "51200", "81920"]),
            ("heatmap", ["0x10000", "0x11000", "[heap]", "0", "100000000", "1", "40960", "1"]),
            ("regions", ["0x10000", "0x11000", "4096", "3", "0.75", "30720", "[heap]", "rw-p"]),
            ("working-set", ["0", "100000000", "2", "2"]),
            ("migration", ["125000000", "1", "0", "0", "40960", "327680", "40960", "327680"]),
        ],
    )
    def test_each(self, run, file, kind, first):
        done = run("report", file, kind, "--csv")
        header, *rows = csv.reader(io.StringIO(done.out))
        assert done.code == 0
        assert rows[0] == first
        assert len(header) == len(first)


class TestFiles:
    def test_html(self, run, file, tmp_path):
        done = run("report", file, "--html", tmp_path / "out.html")
        assert (done.code, done.out) == (0, "")
        assert re.fullmatch(rf"pagescan: wrote {tmp_path}/out\.html \([0-9.]+ KiB\)\n", done.err)
        assert (tmp_path / "out.html").read_text().startswith("<!doctype html>")
        assert stat.S_IMODE((tmp_path / "out.html").stat().st_mode) == 0o600
        assert sorted(os.listdir(tmp_path)) == ["out.html", "tiny.pagescan"]

    def test_png(self, run, file, tmp_path):
        pytest.importorskip("matplotlib", reason="matplotlib is not installed")
        assert run("report", file, "working-set", "--png", tmp_path / "out.png").code == 0
        assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")

    def test_png_without_matplotlib(self, run, file, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
        done = run("report", file, "--png", tmp_path / "out.png")
        assert (done.code, done.out) == (1, "")
        assert done.err.endswith("hint: pip install 'pagescan[png]'\n")
        assert not (tmp_path / "out.png").exists()

    @pytest.mark.parametrize("form", ["--html", "--png"])
    def test_nothing_is_overwritten_without_force(self, run, file, tmp_path, form):
        (tmp_path / "out").write_text("mine")
        done = run("report", file, form, tmp_path / "out")
        assert (done.code, done.out) == (1, "")
        assert done.err == f"pagescan: {tmp_path}/out exists\nhint: use another file, or overwrite it with --force\n"
        assert (tmp_path / "out").read_text() == "mine"

    def test_force(self, run, file, tmp_path):
        (tmp_path / "out").write_text("mine")
        assert run("report", file, "--html", tmp_path / "out", "--force").code == 0
        assert (tmp_path / "out").read_text() != "mine"

    def test_the_recording_itself_is_not_overwritten(self, run, file):
        before = file.read_bytes()
        done = run("report", file, "--html", file, "--force")
        assert done.code == 2
        assert file.read_bytes() == before


class TestDamage:
    @pytest.mark.parametrize("form", [(), ("--json",), ("--csv",), ("heatmap",)])
    def test_sample_is_named_and_the_rest_reported(self, run, file, form):
        damage(file, 1)
        done = run("report", file, *form)
        assert done.code == 6
        assert "sample 1" in done.err
        assert done.err.splitlines()[-1].startswith("pagescan: the rest is reported")
        assert done.out

    def test_html_is_written_all_the_same(self, run, file, tmp_path):
        damage(file, 1)
        assert run("report", file, "--html", tmp_path / "out.html").code == 6
        assert "Damaged: sample 1" in (tmp_path / "out.html").read_text()

    def test_no_recording(self, run, tmp_path):
        (tmp_path / "other").write_text("no recording")
        done = run("report", tmp_path / "other")
        assert (done.code, done.out) == (6, "")
        assert "Traceback" not in done.err

    def test_no_file(self, run, tmp_path):
        done = run("report", tmp_path / "none")
        assert (done.code, done.out) == (2, "")
        assert "there is no recording" in done.err


def test_while_it_grows(run, tmp_path):
    with write_tiny(tmp_path / "r", samples=3, ended=False):
        found = run("report", tmp_path / "r", "--json").json()["recording"]
        assert (found["samples"], found["growing"], found["ending"]) == (3, True, None)


@pytest.mark.parametrize(
    ("text", "expected"), [("10Gbit", 1_250_000_000), ("100 Mbit/s", 12_500_000), ("125M", 125 << 20), ("1000", 1000)]
)
def test_bandwidth(text, expected):
    assert _bandwidth(text) == expected


@pytest.mark.parametrize("text", ["0", "0Gbit", "fast", "1.5bit"])
def test_no_bandwidth(text):
    with pytest.raises(InvalidArgument):
        _bandwidth(text)


@pytest.mark.parametrize("arguments", [("--windows", "0s"), ("--rows", "0"), ("--bandwidth", "x"), ("--json", "--csv")])
def test_usage(run, file, arguments):
    done = run("report", file, *arguments)
    assert (done.code, done.out) == (2, "")
