"""What each report says of a recording whose answers can be counted by hand."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sqlite3
import sys

import pytest

from pagescan.errors import DataCorrupt, InvalidArgument
from pagescan.reports import (
    REPORTS,
    HeatmapReport,
    MigrationReport,
    RegionsReport,
    Screen,
    SummaryReport,
    Wishes,
    WorkingSetReport,
)

from .tiny import MS, PAGE, damage, material, write_tiny

FILE_PAGE = "0x7f0000000000"


def as_lists(table):
    return [list(table.header), *(list(row) for row in table.rows)]


class TestMaterial:
    def test_document(self, tiny, tmp_path):
        assert tiny.document() == {
            "path": str(tmp_path / "tiny.pagescan"),
            "pid": 4711,
            "command_line": ["prog", "-x"],
            "kernel": "6.18.44",
            "machine": "x86_64",
            "engine": "pagemap-scan",
            "page_size": PAGE,
            "interval_ns": 100 * MS,
            "started_wall_ns": 1_700_000_000_000 * MS,
            "duration_ns": 400 * MS,
            "samples": 4,
            "damaged_samples": [],
            "growing": False,
            "ending": {"reason": "duration", "detail": ""},
        }

    def test_counts_and_rates(self, tiny):
        assert tiny.page_counts.tolist() == [2, 2, 0, 2]
        assert tiny.region_counts.tolist() == [1, 2, 0, 1]
        assert tiny.bytes_per_second.tolist() == [81920, 81920, 0, 81920]
        assert tiny.times_ns.tolist() == [100 * MS, 200 * MS, 300 * MS, 400 * MS]

    @pytest.mark.skipif(sys.platform != "linux", reason="needs /proc to know whether the writer lives")
    def test_growing(self, tmp_path):
        with write_tiny(tmp_path / "r", samples=2, ended=False):
            found = material(tmp_path / "r")
            assert (found.document()["samples"], found.growing, found.ending) == (2, True, None)
            assert dict(SummaryReport.of(found, Wishes()).facts())["recorded"].endswith("still growing")

    def test_damaged_sample_is_named_and_counts_as_empty(self, tmp_path):
        write_tiny(tmp_path / "r")
        damage(tmp_path / "r", 1)
        found = material(tmp_path / "r")
        assert [(error.sample, error.column) for error in found.damaged] == [(1, "lengths")]
        assert found.document()["damaged_samples"] == [1]
        assert found.page_counts.tolist() == [2, 0, 0, 2]
        facts = dict(SummaryReport.of(found, Wishes()).facts())
        assert facts["damaged"] == "sample 1: reported as if nothing had been written in them"

    def test_times_that_descend_are_damage(self, tmp_path):
        write_tiny(tmp_path / "r")
        with contextlib.closing(sqlite3.connect(tmp_path / "r")) as database, database:
            database.execute("UPDATE sample SET time_ns = 1 WHERE number = 2")
        with pytest.raises(DataCorrupt, match="descend"):
            material(tmp_path / "r")


class TestSummary:
    def test_document(self, tiny):
        assert SummaryReport.of(tiny, Wishes()).document() == {
            "written": {
                "pages": 6,
                "bytes": 6 * PAGE,
                "mean_bytes_per_second": 61440,
                "peak_bytes_per_second": 81920,
                "distinct_pages": 3,
                "pages_once": 1,
                "pages_repeatedly": 2,
                "pages_never": 16 + 8 - 3,
            },
            "resident_pages": {"last": 13, "max": 13},
            "cost": {
                "scan_ns": 4 * MS,
                "scan_median_ns": MS,
                "scan_max_ns": MS,
                "scan_share": 0.01,
                "pause_ns": 2 * MS,
                "pause_max_ns": 2 * MS,
            },
            "quality": {"exact": 3, "superset": 1, "lost": 0, "reasons": ["shared edge pages"]},
            "mappings": [
                {
                    "mapping": "[heap]",
                    "start": "0x10000",
                    "end": "0x20000",
                    "written_pages": 5,
                    "written_bytes": 5 * PAGE,
                    "mean_bytes_per_second": 51200,
                    "peak_bytes_per_second": 81920,
                },
                {
                    "mapping": "/srv/file",
                    "start": FILE_PAGE,
                    "end": "0x7f0000008000",
                    "written_pages": 1,
                    "written_bytes": PAGE,
                    "mean_bytes_per_second": 10240,
                    "peak_bytes_per_second": 40960,
                },
            ],
        }

    def test_lines(self, tiny):
        assert SummaryReport.of(tiny, Wishes()).lines(Screen(100, 40)) == [
            "process   prog -x (pid 4711)",
            "recorded  2023-11-14 22:13:20 UTC for 400 ms: 4 samples, one every 100 ms; the time asked for was",
            "          over",
            "system    Linux 6.18.44 x86_64, pages of 4 KiB, engine pagemap-scan",
            "written   24 KiB in 6 pages; mean 60 KiB/s, peak 80 KiB/s",
            "pages     12 KiB distinct: 4 KiB once, 8 KiB repeatedly; 84 KiB never",
            "resident  52 KiB in the end, 52 KiB at most",
            "cost      a scan took 1.00 ms (at most 1.00 ms), 1.0 % of the time; the process was held still for",
            "          2.00 ms in all, at most 2.00 ms at once",
            "quality   3 exact, 1 superset (shared edge pages)",
            "",
            "START         WRITTEN   SHARE      MEAN      PEAK  OVER TIME                               MAPPING",
            "000000010000   20 KiB  83.3 %  50 KiB/s  80 KiB/s  █▄ █                                    [heap]",
            "7f0000000000    4 KiB  16.7 %  10 KiB/s  40 KiB/s   █                                      /srv/file",
        ]


class TestHeatmap:
    def test_document(self, tiny):
        found = HeatmapReport.of(tiny, Wishes(rows=8, columns=2)).document()
        assert [
            (row["start"], row["end"], row["pages"], row["gap_before"], row["mapping"]) for row in found["rows"]
        ] == [
            ("0x10000", "0x11000", 1, False, "[heap]"),
            ("0x11000", "0x12000", 1, False, "[heap]"),
            (FILE_PAGE, "0x7f0000001000", 1, True, "/srv/file"),
        ]
        assert found["columns"] == [
            {"from_ns": 0, "to_ns": 200 * MS, "samples": 2},
            {"from_ns": 200 * MS, "to_ns": 400 * MS, "samples": 2},
        ]
        assert found["written_pages"] == [[2, 1], [1, 1], [1, 0]]

    def test_table_has_the_cells_that_were_written(self, tiny):
        table = as_lists(HeatmapReport.of(tiny, Wishes(rows=8, columns=2)).table())
        assert table[0] == ["start", "end", "mapping", "from_ns", "to_ns", "written_pages", "bytes_per_second", "share"]
        assert table[1] == ["0x10000", "0x11000", "[heap]", 0, 200 * MS, 2, 40960, "1"]
        assert table[2] == ["0x10000", "0x11000", "[heap]", 200 * MS, 400 * MS, 1, 20480, "0.5"]
        assert len(table) == 1 + 5


class TestRegions:
    def test_document_and_table(self, tiny):
        report = RegionsReport.of(tiny, Wishes(limit=2))
        assert report.document() == {
            "regions": [
                {
                    "start": "0x10000",
                    "end": "0x11000",
                    "size": PAGE,
                    "samples": 3,
                    "share": 0.75,
                    "bytes_per_second": 30720,
                    "mapping": "[heap]",
                    "permissions": "rw-p",
                },
                {
                    "start": "0x11000",
                    "end": "0x12000",
                    "size": PAGE,
                    "samples": 2,
                    "share": 0.5,
                    "bytes_per_second": 20480,
                    "mapping": "[heap]",
                    "permissions": "rw-p",
                },
            ],
            "regions_in_all": 3,
            "pages_never": 21,
            "pages_once": 1,
            "pages_repeatedly": 2,
        }
        assert as_lists(report.table())[1] == ["0x10000", "0x11000", PAGE, 3, 0.75, 30720, "[heap]", "rw-p"]

    def test_lines(self, tiny):
        assert RegionsReport.of(tiny, Wishes(limit=1)).lines(Screen()) == [
            "START          SIZE  SAMPLES   SHARE      RATE  MAPPING",
            "000000010000  4 KiB        3  75.0 %  30 KiB/s  [heap]",
            "1 of 3 regions shown, the hottest first",
        ]


class TestWorkingSet:
    def test_document_and_table(self, tiny):
        report = WorkingSetReport.of(tiny, Wishes(windows_ns=(100 * MS, 200 * MS, 200 * MS)))
        assert report.document() == {
            "windows": [
                {"window_ns": 100 * MS, "samples": 1, "mean_pages": 2, "max_pages": 2, "pages": [2, 2, 0, 2]},
                {"window_ns": 200 * MS, "samples": 2, "mean_pages": 2, "max_pages": 3, "pages": [2, 3, 2, 2]},
            ],
            "times_ns": [100 * MS, 200 * MS, 300 * MS, 400 * MS],
        }
        assert as_lists(report.table())[:2] == [
            ["sample", "time_ns", "pages_in_100000000_ns", "pages_in_200000000_ns"],
            [0, 100 * MS, 2, 2],
        ]

    def test_windows_of_its_own(self, tiny):
        assert WorkingSetReport.of(tiny, Wishes()).windows_ns == (100 * MS, 400 * MS)

    def test_lines(self, tiny):
        assert WorkingSetReport.of(tiny, Wishes(windows_ns=(100 * MS,))).lines(Screen(60))[:2] == [
            "WINDOW  SAMPLES   MEAN    MAX  OVER TIME",
            "100 ms        1  8 KiB  8 KiB  ██ █",
        ]


class TestMigration:
    def test_by_hand(self, tiny):
        """10 resident pages at a page in 100 ms: each round is as long as the recording's samples say."""
        report = MigrationReport.of(tiny, Wishes(bandwidths=(10 * PAGE,), downtime_ns=200 * MS))
        assert report.document() == {
            "memory_bytes": 10 * PAGE,
            "memory_from": "resident",
            "downtime_limit_ns": 200 * MS,
            "estimates": [
                {
                    "bandwidth": 10 * PAGE,
                    "converged": True,
                    "repeated": True,
                    "total_bytes": 15 * PAGE,
                    "total_ns": 1500 * MS,
                    "final_bytes": 2 * PAGE,
                    "downtime_ns": 200 * MS,
                    "rounds": [
                        {"bytes": 10 * PAGE, "duration_ns": 1000 * MS, "written_bytes": 3 * PAGE},
                        {"bytes": 3 * PAGE, "duration_ns": 300 * MS, "written_bytes": 2 * PAGE},
                    ],
                }
            ],
        }
        assert as_lists(report.table())[1] == [10 * PAGE, 1, 1, 2, 15 * PAGE, 1500 * MS, 2 * PAGE, 200 * MS]

    def test_lines(self, tiny):
        report = MigrationReport.of(tiny, Wishes(bandwidths=(125_000_000,), memory_bytes=1 << 20))
        assert report.lines(Screen()) == [
            "BANDWIDTH  ROUNDS   SENT     TIME  DOWNTIME  WITHIN LIMIT",
            "1 Gbit/s        0  1 MiB  8.39 ms   8.39 ms           yes",
            "first round: 1 MiB (as given)",
            "limit of downtime: 300 ms",
        ]

    def test_without_resident_memory_the_writable_mappings_count(self, tiny):
        unasked = dataclasses.replace(tiny, resident_pages=tiny.resident_pages * 0 - 1)
        found = MigrationReport.of(unasked, Wishes()).document()
        assert (found["memory_bytes"], found["memory_from"]) == (24 * PAGE, "writable")

    def test_bandwidth_that_cannot_be(self, tiny):
        with pytest.raises(InvalidArgument):
            MigrationReport.of(tiny, Wishes(bandwidths=(0,)))


@pytest.mark.parametrize("name", REPORTS)
@pytest.mark.parametrize("width", [40, 60, 80, 132])
class TestEveryReport:
    def test_no_line_is_wider_than_the_screen(self, workload, name, width):
        lines = REPORTS[name].of(workload, Wishes()).lines(Screen(width, 24))
        assert lines
        assert [line for line in lines if len(line) > width] == []

    def test_recording_that_has_just_begun(self, empty, name, width):
        report = REPORTS[name].of(empty, Wishes())
        assert all(len(line) <= width for line in report.lines(Screen(width, 24)))
        json.dumps(report.document())
        assert list(report.table().rows) == []
