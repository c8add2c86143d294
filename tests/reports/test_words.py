"""Names, tables and curves as text."""

from __future__ import annotations

import numpy as np
import pytest

from pagescan.reports.migration import bandwidth_text
from pagescan.reports.words import columns, curve, cut, label, percent, safe


def test_names_cannot_move_the_cursor():
    assert safe("a\x1b[2J\n\udcff\u202eb") == "a\\x1b[2J\\n\\udcff\\u202eb"
    assert label("") == "(anonymous)"


@pytest.mark.parametrize(("width", "expected"), [(10, "/usr/lib/x"), (5, "~ib/x"), (1, "~"), (0, "")])
def test_cut_keeps_the_end(width, expected):
    assert cut("/usr/lib/x", width) == expected


@pytest.mark.parametrize(
    ("share", "expected"), [(0, "0 %"), (0.0001, "< 0.1 %"), (0.001, "0.1 %"), (0.5, "50.0 %"), (1, "100.0 %")]
)
def test_percent(share, expected):
    assert percent(share) == expected


def test_columns_align_and_the_last_gives_way():
    assert columns(("A", "B", "NAME"), [("x", "10", "/usr/lib/x"), ("yy", "9", "z")], 12, left=(0, 2)) == [
        "A    B  NAME",
        "x   10  ~b/x",
        "yy   9  z",
    ]


def test_curve_shows_the_highest_of_each_stretch():
    assert curve(np.array([0, 8, 0, 0, 4, 1]), 3) == "█ ▄"
    assert curve(np.array([1, 8]), 10) == "▁█"
    assert curve(np.array([0, 8]), 10, blocks=False) == " @"
    assert curve(np.array([0, 0]), 10) == "  "
    assert curve(np.empty(0), 10) == ""


@pytest.mark.parametrize(
    ("bandwidth", "expected"),
    [(1_250_000_000, "10 Gbit/s"), (12_500_000, "100 Mbit/s"), (1 << 20, "1 MiB/s"), (3_125_000_000, "25 Gbit/s")],
)
def test_bandwidth(bandwidth, expected):
    assert bandwidth_text(bandwidth) == expected
