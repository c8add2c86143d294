"""``pagescan scan``: exact answers about a child process whose memory is known."""

from __future__ import annotations

import csv
import io
import os

import numpy as np
import pytest

import pagescan
from pagescan.kernel.procfs import list_smaps
from pagescan.query import Category

NAMES = [str(category.name).lower() for category in Category]


@pytest.fixture(autouse=True)
def needs_pagemap_scan():
    try:
        pagescan.scan(np.zeros(1))
    except pagescan.KernelCannot as error:
        pytest.skip(f"no PAGEMAP_SCAN: {error.message}")


class TestByMapping:
    def test_json_of_one_mapping(self, run, target):
        done = run("scan", "-p", target.pid, "--range", target.range, "--json")
        assert (done.code, done.err) == (0, "")
        document = done.json()
        assert list(document) == [
            "schema", "version", "pagescan", "target", "page_size", "query", "unknown_categories", "mappings", "totals",
        ]  # fmt: skip
        assert document["schema"] == "pagescan.scan"
        assert document["version"] == 1
        assert document["pagescan"] == pagescan.__version__
        assert document["target"]["pid"] == target.pid
        assert document["page_size"] == target.size
        assert document["query"] == {
            "required": [],
            "anyof": [],
            "excluded": [],
            "return": NAMES,
            "range": [f"{target.start:#x}", f"{target.end:#x}"],
            "max_pages": None,
        }
        [mapping] = document["mappings"]
        counts = mapping.pop("categories")
        assert mapping == {
            "start": f"{target.start:#x}",
            "end": f"{target.end:#x}",
            "size": 16 * target.size,
            "permissions": "rw-p",
            "name": "",
            "offset": 0,
            "device": "00:00",
            "inode": 0,
            "page_size": target.size,
            "tracked": False,
            "matched": 16 * target.size,
        }
        assert list(counts) == NAMES
        assert counts["present"] == 3 * target.size
        assert counts["written"] is None
        assert [counts[name] for name in ("wpallowed", "file", "swapped", "pfnzero", "huge", "guard")] == [0] * 6
        unknown = document["unknown_categories"]
        assert {name for name in NAMES if counts[name] is None} == {"written", *unknown}
        totals = document["totals"]
        assert totals == {"mappings": 1, "size": 16 * target.size, "matched": 16 * target.size, "categories": counts}

    def test_masks_choose_what_is_counted(self, run, target):
        done = run("scan", "-p", target.pid, "--range", target.range, "--required", "present", "--json")
        [mapping] = done.json()["mappings"]
        assert mapping["matched"] == mapping["categories"]["present"] == 3 * target.size

    def test_excluded_leaves_the_rest(self, run, target):
        done = run("scan", "-p", target.pid, "--range", target.range, "--excluded", "present", "--json")
        [mapping] = done.json()["mappings"]
        assert (mapping["matched"], mapping["categories"]["present"]) == (13 * target.size, 0)

    def test_range_cuts_the_mapping(self, run, target):
        done = run("scan", "-p", target.pid, "--range", f"{target.address(2)}+{2 * target.size}", "--json")
        [mapping] = done.json()["mappings"]
        assert (mapping["start"], mapping["size"]) == (target.address(2), 2 * target.size)
        assert mapping["categories"]["present"] == target.size

    def test_range_is_rounded_out_to_pages(self, run, target):
        done = run("scan", "-p", target.pid, "--range", f"{target.start + target.size + 5:#x}+1", "--json")
        [mapping] = done.json()["mappings"]
        assert (mapping["start"], mapping["size"]) == (target.address(1), target.size)

    def test_max_pages_stops(self, run, target):
        done = run(
            "scan", "-p", target.pid, "--range", target.range, "--required", "present", "--max-pages", 2, "--json"
        )
        assert done.json()["totals"]["matched"] == 2 * target.size

    def test_return_that_leaves_out_a_category_makes_it_unknown(self, run, target):
        done = run("scan", "-p", target.pid, "--range", target.range, "--return", "file", "--json")
        counts = done.json()["mappings"][0]["categories"]
        assert {name for name, count in counts.items() if count is not None} == {"file"}

    def test_whole_process_agrees_with_the_kernel(self, run, target):
        document = run("scan", "-p", target.pid, "--json").json()
        with open(f"/proc/{target.pid}/maps") as maps:
            starts = [line.partition("-")[0] for line in maps]
        assert [mapping["start"][2:].zfill(8) for mapping in document["mappings"]] == starts
        # Of files alone: whether the page of zeros counts as resident differs between kernels.
        ours = {m["start"]: m["categories"]["present"] for m in document["mappings"] if m["name"].startswith("/")}
        theirs = {f"{e.mapping.start:#x}": e.rss for e in list_smaps(target.pid) if e.mapping.name.startswith("/")}
        assert ours == theirs
        assert sum(ours.values()) > 0

    def test_csv_has_the_same_figures(self, run, target):
        where = ["scan", "-p", target.pid, "--range", target.range]
        [mapping] = run(*where, "--json").json()["mappings"]
        [line] = csv.DictReader(io.StringIO(run(*where, "--csv").out))
        flat = {**mapping, **mapping["categories"]}
        del flat["categories"]
        expected = {key: "" if value is None else str(value) for key, value in flat.items()} | {"tracked": "0"}
        assert line == expected
        assert list(line) == list(flat)

    def test_table(self, run, target):
        done = run("scan", "-p", target.pid, "--range", target.range)
        page = target.size // 1024
        head, row, total, *notes = done.out.splitlines()
        columns = ["ADDRESS", "PERM", "SIZE", "RESIDENT", "WRITTEN", "SWAPPED", "FILE", "HUGE", "ZERO"]
        assert head.split() == [*columns, "MAPPING"]
        cells = [f"{16 * page}K", f"{3 * page}K", "-", "0", "0", "0", "0"]
        assert row.split() == [f"{target.start:012x}-{target.end:012x}", "rw-p", *cells, "(anonymous)"]
        assert total.split() == ["total", *cells]
        assert notes[0].endswith("1 of 1 mapping shown")
        assert "WRITTEN is not known: none of this memory is tracked" in notes

    def test_table_leaves_out_mappings_without_pages(self, run, target):
        middle = f"{target.address(3)}+{target.size}"
        assert (
            "0 of 1 mapping shown; the rest have no page (--all)"
            in run("scan", "-p", target.pid, "--range", middle).out
        )
        assert "1 of 1 mapping shown" in run("scan", "-p", target.pid, "--range", middle, "--all").out

    @pytest.mark.parametrize("width", [60, 80, 100])
    def test_table_fits_a_narrow_terminal(self, run, monkeypatch, width):
        monkeypatch.setenv("COLUMNS", str(width))
        lines = run("scan", "--self").out.splitlines()
        assert max(map(len, lines)) <= width
        assert lines[0].split()[:4] == ["START", "PERM", "SIZE", "RESIDENT"]
        assert lines[1].split()[1] in ("r--p", "r-xp")


class TestRegions:
    def test_json(self, run, target):
        done = run("scan", "-p", target.pid, "--range", target.range, "--regions", "--json", "--return", "present")
        document = done.json()
        assert document["regions"] == [
            {
                "start": target.address(first),
                "end": target.address(last),
                "size": (last - first) * target.size,
                "categories": ["present"],
                "permissions": "rw-p",
                "name": "",
            }
            for first, last in [(1, 3), (9, 10)]
        ]
        assert document["totals"] == {"pages": 3, "bytes": 3 * target.size}
        assert document["query"]["anyof"] == ["present", "swapped"]

    def test_all_has_the_holes(self, run, target):
        where = [
            "scan",
            "-p",
            target.pid,
            "--range",
            target.range,
            "--regions",
            "--return",
            "present",
            "--all",
            "--json",
        ]
        regions = run(*where).json()["regions"]
        assert [region["size"] // target.size for region in regions] == [1, 2, 6, 1, 6]
        assert [region["categories"] for region in regions] == [[], ["present"], [], ["present"], []]

    def test_csv(self, run, target):
        done = run("scan", "-p", target.pid, "--range", target.range, "--regions", "--return", "present", "--csv")
        assert done.out.splitlines() == [
            "start,end,size,categories,permissions,name",
            f"{target.address(1)},{target.address(3)},{2 * target.size},present,rw-p,",
            f"{target.address(9)},{target.address(10)},{target.size},present,rw-p,",
        ]

    def test_lines(self, run, target):
        done = run("scan", "-p", target.pid, "--range", target.range, "--regions", "--return", "present")
        lines = done.out.splitlines()
        first = f"{target.start + target.size:012x}-{target.start + 3 * target.size:012x}"
        assert lines[1].split() == [first, f"{2 * target.size // 1024}K", "present", "(anonymous)"]
        assert lines[-1].endswith(f"2 regions, 3 pages, {3 * target.size // 1024} KiB")

    def test_region_across_mappings_is_cut_where_they_meet(self, run):
        pages = pagescan.zeros((4, os.sysconf("SC_PAGE_SIZE")), np.uint8)
        pages[:] = 1
        from pagescan.kernel.memory import PROT_READ, READ_WRITE, protect_memory

        start, size = pages.ctypes.data, pages.strides[0]
        protect_memory(start + 2 * size, 2 * size, PROT_READ)
        try:
            done = run(
                "scan", "--self", "--range", f"{start:#x}+{4 * size}", "--regions", "--csv", "--return", "present"
            )
        finally:
            protect_memory(start + 2 * size, 2 * size, READ_WRITE)
        found = [
            (int(line["start"], 16) - start, line["permissions"]) for line in csv.DictReader(io.StringIO(done.out))
        ]
        assert found == [(0, "rw-p"), (2 * size, "r--p")]


class TestWritten:
    @pytest.fixture
    def tracked(self):
        """Four pages of this process under a tracker, page 2 written since."""
        pages = pagescan.zeros((4, os.sysconf("SC_PAGE_SIZE")), np.uint8)
        try:
            tracker = pagescan.track(pages)
        except pagescan.PagescanError as error:
            pytest.skip(f"nothing can be tracked here: {error.message}")
        with tracker:
            pages[2, 0] = 1
            yield pages

    @staticmethod
    def range_of(pages) -> str:
        return f"{pages.ctypes.data:#x}+{pages.nbytes}"

    def test_written_of_tracked_memory(self, run, tracked):
        done = run("scan", "--self", "--range", self.range_of(tracked), "--json")
        [mapping] = done.json()["mappings"]
        assert mapping["tracked"] is True
        assert mapping["categories"]["written"] == tracked.strides[0]
        assert mapping["categories"]["wpallowed"] == tracked.nbytes

    def test_filter_by_written(self, run, tracked):
        done = run("scan", "--self", "--range", self.range_of(tracked), "--required", "written", "--regions", "--json")
        assert done.err == ""
        [region] = done.json()["regions"]
        assert int(region["start"], 16) == tracked[2].ctypes.data
        assert region["size"] == tracked.strides[0]

    def test_untracked_mappings_are_left_out_and_that_is_said(self, run, tracked):
        done = run("scan", "--self", "--required", "written", "--json")
        document = done.json()
        written = [mapping for mapping in document["mappings"] if mapping["matched"]]
        assert [(int(mapping["start"], 16), mapping["matched"]) for mapping in written] == [
            (tracked.ctypes.data, tracked.strides[0])
        ]
        untracked = len(document["mappings"]) - 1
        assert done.err == (
            f"pagescan: WRITTEN can be asked only of memory that is tracked: {untracked} of "
            f"{untracked + 1} mappings of this process are not, and left out\n"
        )

    def test_process_without_tracking_answers_empty(self, run, target):
        done = run("scan", "-p", target.pid, "--required", "written", "--regions", "--json")
        assert done.code == 0
        assert done.json()["regions"] == []
        assert "are not, and left out" in done.err


class TestUsage:
    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            ([], "one of the arguments -p/--pid --self --model is required"),
            (["-p", "abc"], "'abc' is no whole number above 0"),
            (["-p", "0"], "'0' is no whole number above 0"),
            (["-p", "-1"], "'-1' is no whole number above 0"),
            (["-p", "1", "--self"], "not allowed with argument -p/--pid"),
            (["--self", "--required", "wet"], "'wet' is no page category"),
            (["--self", "--range", "5"], "'5' is no range of addresses"),
            (["--self", "--range", "0x2000-0x1000"], "is empty"),
            (["--self", "--max-pages", "0"], "'0' is no whole number above 0"),
            (["--self", "--json", "--csv"], "not allowed with argument --json"),
        ],
    )
    def test_each_mistake_is_named(self, run, arguments, said):
        done = run("scan", *arguments)
        assert (done.code, done.out) == (2, "")
        assert said in done.err
        assert done.err.endswith("hint: pagescan scan --help\n")

    def test_no_such_process(self, run):
        done = run("scan", "-p", 4194304)
        assert (done.code, done.out) == (3, "")
        assert "4194304" in done.err

    def test_category_this_kernel_lacks_is_no_usage_error(self, run):
        unknown = run("scan", "--self", "--json", "--range", "0x1000+1").json()["unknown_categories"]
        if not unknown:
            pytest.skip("this kernel knows every category")
        done = run("scan", "--self", "--required", unknown[0], "--json")
        assert done.code == 5
        assert f"does not know the category {unknown[0]}" in done.err

    def test_query_that_cannot_match_answers_empty(self, run):
        done = run("scan", "--self", "--required", "file", "--excluded", "file", "--regions", "--json")
        assert (done.code, done.json()["regions"]) == (0, [])
