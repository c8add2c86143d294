"""``pagescan model`` and ``pagescan scan --model``: exact page tables after each step, on every release.

These tests run on any system (``tests/test_without_linux.py`` does so), so they use nothing of ``conftest.py``.
"""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pagescan.cli import main
from pagescan.cli.model_look import View
from pagescan.cli.model_stage import page_words
from pagescan.cli.model_stories import STORIES
from pagescan.cli.model_view import KINDS, draw
from pagescan.model import BEHAVIOURS, Machine

PAGE = 4096
DOCS = Path(__file__).parent.parent.parent / "docs"
RELEASES = tuple(BEHAVIOURS)


@dataclass(frozen=True)
class Run:
    code: int
    out: str
    err: str


@pytest.fixture
def run(capsys, monkeypatch) -> Callable[..., Run]:
    monkeypatch.setenv("COLUMNS", "80")

    def call(*arguments: str) -> Run:
        code = main(list(arguments))
        return Run(code, *capsys.readouterr())

    return call


@pytest.fixture
def steps(run) -> Callable[..., dict[str, Any]]:
    """``steps("fork")``: the steps of a story as data, by name."""

    def call(story: str, *options: str) -> dict[str, Any]:
        document = json.loads(run("model", "--story", story, "--json", *options).out)
        return {step["name"]: step for step in document["steps"]}

    return call


def letters(memory: dict[str, Any]) -> str:
    """What the entries hold, a letter a run."""
    return "".join(KINDS[run["entry"]].letter for run in memory["runs"])


def bits(memory: dict[str, Any]) -> str:
    """``#`` protected, ``W`` written, ``-`` neither."""
    return "".join("#" if run["protected"] else "W" if run["written"] else "-" for run in memory["runs"])


def picture(step: dict[str, Any], name: str = "memory") -> tuple[str, str]:
    [memory] = [memory for memory in step["memory"] if memory["name"] == name]
    return letters(memory), bits(memory)


def frames(step: dict[str, Any], name: str) -> list[int]:
    [memory] = [memory for memory in step["memory"] if memory["name"] == name]
    return [run["frame"] for run in memory["runs"]]


def written(step: dict[str, Any], name: str = "memory") -> list[tuple[int, int]]:
    [memory] = [memory for memory in step["memory"] if memory["name"] == name]
    return [(run["first"], run["last"]) for run in memory["runs"] if run["written"]]


class TestStories:
    @pytest.mark.parametrize("release", RELEASES)
    def test_tracking(self, steps, release):
        assert {name: picture(step) for name, step in steps("tracking", "--behaviour", release).items()} == {
            "map": ("........", "--------"),
            "first-write": ("-PP-----", "--------"),
            "read-hole": ("-PP-0---", "--------"),
            "register": ("-PP-0---", "WWWWWWWW"),
            "protect": ("mPPm0mmm", "########"),
            "read-marker": ("mPPm0m0m", "########"),
            "write": ("mPPm0P0m", "##W##W##"),
            "take": ("mPPm0P0m", "########"),
            "again": ("mPPm0P0m", "########"),
            "close": ("-PP-0P0-", "--------"),
        }

    def test_tracking_finds_what_was_written_to(self, steps):
        operations = {name: step["operations"][-1] for name, step in steps("tracking").items()}
        assert operations["take"] == "PAGEMAP_SCAN(pages 0-7, GET | WP, required WRITTEN) -> pages 2, 5"
        assert operations["again"] == "PAGEMAP_SCAN(pages 0-7, GET | WP, required WRITTEN) -> page 2"

    @pytest.mark.parametrize("release", RELEASES)
    def test_memory(self, steps, release):
        guards = release in ("6.18", "7.3")
        expected = {
            "start": ("PPPPPmmm", "#W######"),
            "dontneed": ("-PPPPmmm", "WW######"),
            "swap-out": ("-SSSPmmm", "WW######"),
            "swap-in": ("-PPSPmmm", "WW######"),
            "write-swapped": ("-PPPPmmm", "WW#W####"),
            "guard": ("-PPPPmGm", "WW#W##W#"),
            "take": ("mPPPPmGm" if guards else "mPPPPmmm", "########"),
        }
        if not guards:
            del expected["guard"]
        found = steps("memory", "--behaviour", release)
        assert {name: picture(step) for name, step in found.items()} == expected
        assert found["take"]["operations"][-1].endswith("-> pages 0-1, 3, 6" if guards else "-> pages 0-1, 3")

    def test_written_and_swapped_is_not_present(self, steps):
        [memory] = steps("memory")["swap-out"]["memory"]
        assert memory["runs"][1]["categories"] == ["wpallowed", "written", "swapped"]
        assert memory["runs"][1]["present"] is False

    @pytest.mark.parametrize("release", RELEASES)
    def test_fork(self, steps, release):
        found = steps("fork", "--behaviour", release)
        assert [picture(step, "parent")[1] for step in found.values()] == [
            "#W####", "#W####", "#WW###", "#WW###", "######",
        ]  # fmt: skip
        assert [picture(step, "child") for name, step in found.items() if name != "start"] == [("PPPPPP", "------")] * 4
        parent, child = frames(found["fork"], "parent"), frames(found["fork"], "child")
        assert parent == child
        after = found["child-writes"]
        assert [page for page in range(6) if frames(after, "parent")[page] != parent[page]] == [2]
        assert [page for page in range(6) if frames(after, "child")[page] != parent[page]] == [3]
        users = [run["users"] for run in after["memory"][0]["runs"]]
        assert users == [2, 2, 1, 1, 2, 2]

    @pytest.mark.parametrize("release", RELEASES)
    def test_huge(self, steps, release):
        found = steps("huge", "--behaviour", release)
        assert {name: picture(step) for name, step in found.items()} == {
            "first-write": ("H.", "--"),
            "protect": ("Hm", "##"),
            "write": ("PPPm", "#W##"),
            "take": ("Pm", "##"),
            "collapse": ("Pm", "##"),
        }
        assert written(found["write"]) == [(7, 8)]
        assert found["collapse"]["operations"] == ["madvise(pages 0-511, MADV_COLLAPSE) -> EINVAL"]
        assert [step["memory"][0]["page_tables"] for step in found.values()] == [1, 2, 2, 2, 2]

    @pytest.mark.parametrize("release", RELEASES)
    def test_files(self, steps, release):
        found = steps("files", "--behaviour", release)
        assert [picture(step, "tracked") for step in found.values()] == [
            ("......", "------"),
            ("......", "------"),
            ("mmFmmm", "##W###"),
            ("mmFmmm", "##W###"),
            ("mmFmmm", "##W###"),
        ]
        assert picture(found["private-write"], "private")[0] == "FPFFFF"
        assert picture(found["elsewhere"], "elsewhere")[0] == "---F--"
        assert picture(found["punch"], "private")[0] == "FPFF-F"

    @pytest.mark.parametrize("release", RELEASES)
    def test_moves(self, steps, release):
        found = steps("moves", "--behaviour", release)
        assert {name: picture(step) for name, step in found.items()} == {
            "start": ("PPPPPPPP", "##W#####"),
            "mprotect": ("PPPPPPPP", "##W#####"),
            "merge": ("PPPPPPPP", "##W#####"),
            "munmap": ("PPPPPPPx", "##W####-"),
            "mremap": ("xxxxPPPx", "----###-"),
        }
        assert found["mprotect"]["operations"] == ["mprotect(pages 4-5, 'r') -> 3 mappings"]
        assert found["merge"]["operations"] == ["mprotect(pages 4-5, 'rw') -> 1 mapping"]
        assert found["mremap"]["memory"][1]["registered"] is None

    def test_accessed(self, steps):
        found = steps("accessed")
        [memory] = found["touch"]["memory"]
        assert (letters(memory), memory["registered"]) == ("PPPP--0-", "RWP")
        assert [run["first"] for run in memory["runs"] if "accessed" in run["categories"]] == [1, 2, 6]
        assert found["scan"]["operations"] == ["PAGEMAP_SCAN(pages 0-7, GET, required ACCESSED) -> pages 1-2, 6"]

    @pytest.mark.parametrize("release", RELEASES)
    def test_workload(self, steps, release):
        last = steps("workload", "--behaviour", release)["pressure"]
        assert written(last, "heap") == [(2, 5), (11, 12)]
        assert written(last, "table") == [(7, 8), (300, 301)]
        assert written(last, "cache") == [(2, 3), (9, 10)]


class TestTerminal:
    @pytest.mark.parametrize("release", RELEASES)
    @pytest.mark.parametrize("story", [name for name in STORIES if name != "accessed"])
    def test_fits_80_columns_without_colour(self, run, story, release):
        done = run("model", "--story", story, "--behaviour", release)
        assert (done.code, done.err) == (0, "")
        assert max(map(len, done.out.splitlines())) <= 80
        assert "\033" not in done.out
        assert done.out.isascii()

    def test_steps_of_a_strip_too_long_go_on_below(self, run, monkeypatch):
        monkeypatch.setenv("COLUMNS", "40")
        lines = run("model", "--step", "write").out.splitlines()
        assert [line for line in lines if line.startswith("entry  |")] == ["entry  | m | P | P | m | 0 | P | 0 | m |"]
        heap = run("model", "--story", "workload", "--step", "work").out.splitlines()
        assert [line for line in heap if line.startswith("page ")][1:3] == [
            "page     0-1   2-4   5-10   11   12-19",
            "page     20-23   24-25   26-31",
        ]

    def test_a_step_alone(self, run):
        lines = run("model", "--step", "write").out.splitlines()
        assert [line for line in lines if re.match(r"\d+/\d+ ", line)] == ["7/10 write  A write to a protected page"]
        assert "bit    | # | # | W | # | # | W | # | # |" in lines

    def test_colour_on_a_terminal_only(self, run, monkeypatch):
        monkeypatch.delenv("NO_COLOR", raising=False)
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
        coloured = run("model", "--step", "write").out
        assert "\033[33;1m W \033[0m" in coloured
        assert "\033[32m # \033[0m" in coloured
        monkeypatch.setenv("NO_COLOR", "1")
        plain = run("model", "--step", "write").out
        assert plain == re.sub(r"\033\[[\d;]*m", "", coloured)

    def test_legend_names_what_occurs(self, run):
        out = run("model", "--step", "map").out
        assert out.splitlines()[3] == "entry  . no page table"

    def test_pause_waits_for_enter_and_ends_with_the_input(self, run, monkeypatch):
        class Terminal(io.StringIO):
            def isatty(self) -> bool:
                return True

        monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
        monkeypatch.setattr(sys, "stdin", Terminal("\n\n"))
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
        done = run("model", "--pause")
        assert len(re.findall(r"^\S*\d+/10 ", done.out, re.MULTILINE)) == 3
        assert done.err.count("[Enter]") == 3

    def test_pause_without_a_terminal_plays_on(self, run):
        done = run("model", "--story", "fork", "--pause")
        assert "5/5 take" in done.out
        assert done.err == "pagescan: --pause waits for Enter on a terminal only\n"

    def test_draw_prints_the_strip(self, capsys):
        process = Machine().process()
        at = process.mmap(3 * PAGE)
        process.write(at + PAGE, b"x")
        draw(process, at, 3 * PAGE)
        assert capsys.readouterr().out.splitlines() == [
            "page     0   1   2",
            "entry  | - | P | - |",
            "frame  |   | 0 |   |",
            "bit    |   |   |   |",
        ]


class TestLook:
    def test_unmapped_memory_that_nobody_tracks_is_not_written(self):
        process = Machine().process()
        at = process.mmap(4 * PAGE)
        process.munmap(at + PAGE, PAGE)
        cells = View(process, at, 4).strip().cells
        assert [(cell.kind, cell.written, cell.categories) for cell in cells] == [
            ("no table", False, 0),
            ("unmapped", False, None),
            ("no table", False, 0),
            ("no table", False, 0),
        ]

    def test_more_regions_than_one_call_usually_takes(self):
        process = Machine().process()
        at = process.mmap(2048 * PAGE)
        for page in range(0, 2048, 2):
            process.write(at + page * PAGE, b"x")
        cells = View(process, at, 2048).strip().cells
        assert [cell.kind for cell in cells] == ["own", "empty"] * 1024

    @pytest.mark.parametrize(
        ("pages", "words"),
        [([], "no page"), ([3], "page 3"), ([0, 1, 2], "pages 0-2"), ([0, 2, 3, 7], "pages 0, 2-3, 7")],
    )
    def test_page_words(self, pages, words):
        assert page_words(pages) == words


class TestCommand:
    def test_list(self, run):
        out = run("model", "--list").out
        assert [line.split()[0] for line in out.splitlines() if not line.startswith(" ")] == list(STORIES)
        assert "protect touch scan" in out

    def test_list_as_data(self, run):
        document = json.loads(run("model", "--list", "--json").out)
        assert (document["schema"], document["version"]) == ("pagescan.model", 1)
        assert [story["name"] for story in document["stories"]] == list(STORIES)
        assert document["stories"][2]["steps"] == ["start", "fork", "parent-writes", "child-writes", "take"]

    def test_json_of_one_step(self, run):
        document = json.loads(run("model", "--story", "huge", "--step", "write", "--json").out)
        assert list(document) == ["schema", "version", "pagescan", "story", "behaviour", "page_size", "steps"]
        [step] = document["steps"]
        [memory] = step["memory"]
        assert {key: memory[key] for key in memory if key != "runs"} == {
            "name": "memory",
            "pid": 1,
            "start": "0x700000000000",
            "pages": 1024,
            "registered": "WP",
            "page_tables": 2,
        }
        assert memory["runs"][1] == {
            "first": 7,
            "last": 8,
            "entry": "own",
            "present": True,
            "protected": False,
            "written": True,
            "frame": 7,
            "users": 1,
            "categories": ["wpallowed", "written", "present"],
        }

    @pytest.mark.parametrize(
        ("arguments", "said", "hint"),
        [
            (["--story", "x"], "no story is called 'x'", "the stories are tracking, memory"),
            (["--step", "x"], "the story 'tracking' has no step 'x'", "its steps are map, first-write"),
            (["--behaviour", "5.0"], "behaviour = '5.0'", "use one of 6.7, 6.12, 6.18, 7.3"),
            (["--story", "accessed", "--behaviour", "6.18"], "Linux 6.18 has no PAGE_IS_ACCESSED", "--behaviour 7.3"),
        ],
    )
    def test_each_mistake_is_named(self, run, arguments, said, hint):
        done = run("model", *arguments)
        assert (done.code, done.out) == (2, "")
        assert said in done.err
        assert f"hint: {hint}" in done.err

    @pytest.mark.skipif(not DOCS.exists(), reason="the tests were copied out of the checkout")
    def test_the_page_shows_what_the_command_prints(self, run):
        blocks = re.findall(r"^```console\n(.*?)^```$", (DOCS / "commands" / "model.md").read_text(), re.M | re.S)
        shown = [part for block in blocks for part in re.split(r"^\$ pagescan ", block, flags=re.M)[1:]]
        assert len(shown) == 5
        for part in shown:
            command, _, output = part.partition("\n")
            assert run(*command.split()).out.strip() == output.strip()


class TestScan:
    """``pagescan scan --model``: the same command, on the model."""

    def test_json_by_mapping(self, run):
        document = json.loads(run("scan", "--model", "--json").out)
        assert document["target"] == {"pid": 1, "label": "model process 1"}
        found = [
            (m["name"], m["tracked"], m["categories"]["present"] // PAGE, m["categories"]["written"])
            for m in document["mappings"]
        ]
        assert found == [
            ("/usr/bin/example", False, 8, None),
            ("[heap]", True, 14, 4 * PAGE),
            ("", True, 512, 2 * PAGE),
            ("/memfd:model (deleted)", True, 5, 2 * PAGE),
            ("/anon_hugepage (deleted)", False, 512, None),
            ("[stack]", False, 0, None),
            ("[vvar]", False, 0, None),
            ("[vdso]", False, 0, None),
        ]
        # Markers are told from swapped pages, as on Linux: of 18 pages with a marker or in swap, 8 are in swap.
        assert document["totals"]["categories"]["swapped"] == 8 * PAGE

    def test_regions_by_a_mask(self, run):
        done = run("scan", "--model", "--required", "written", "--return", "written,swapped", "--regions", "--csv")
        rows = list(csv.DictReader(io.StringIO(done.out)))
        assert [(int(row["size"]) // PAGE, row["categories"], row["name"]) for row in rows] == [
            (3, "written", "[heap]"),
            (1, "written|swapped", "[heap]"),
            (1, "written", ""),
            (1, "written", ""),
            (1, "written", "/memfd:model (deleted)"),
            (1, "written", "/memfd:model (deleted)"),
        ]
        assert done.err == (
            "pagescan: WRITTEN can be asked only of memory that is tracked: 5 of 8 mappings of model process 1 are "
            "not, and left out\n"
        )

    def test_regions_as_lines(self, run):
        lines = run("scan", "--model", "fork", "--regions").out.splitlines()
        assert lines[1:] == [
            "700000000000-700000006000   24K  wpallowed,present  (anonymous)",
            "model process 1: 1 region, 6 pages, 24 KiB",
        ]

    def test_range_and_max_pages(self, run):
        where = ["--range", "0x700000400000+128K", "--max-pages", "3", "--required", "written", "--json"]
        document = json.loads(run("scan", "--model", *where).out)
        assert [(m["name"], m["matched"]) for m in document["mappings"]] == [("[heap]", 3 * PAGE)]

    def test_table(self, run):
        pytest.importorskip("rich")
        lines = run("scan", "--model").out.splitlines()
        assert max(map(len, lines)) <= 80
        assert lines[2].split() == ["700000400000", "rw-p", "128K", "56K", "16K", "32K", "0", "0", "8K", "[heap]"]
        assert "model process 1: 5 of 8 mappings shown; the rest have no page (--all)" in lines

    def test_story_that_needs_a_release_gets_it(self, run):
        done = run("scan", "--model", "accessed", "--required", "accessed", "--return", "accessed", "--regions")
        assert done.out.splitlines()[-1] == "model process 1: 2 regions, 3 pages, 12 KiB"

    def test_unknown_story(self, run):
        done = run("scan", "--model", "x")
        assert (done.code, done.out) == (2, "")
        assert "no story is called 'x'" in done.err

    @pytest.mark.parametrize("command", ["model", "scan --model --json"])
    def test_needs_nothing_of_linux(self, command):
        code = (
            "import sys; from pagescan.cli import main; main(sys.argv[1:]); "
            "print(*sorted(name for name in sys.modules if name.startswith('pagescan.kernel')), file=sys.stderr)"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, *command.split()], capture_output=True, text=True, timeout=30, check=True
        )
        assert done.stderr == "\n"
