"""The heat map in characters."""

from __future__ import annotations

import re

import numpy as np
import pytest

from pagescan.reports import HeatmapReport, Screen, Wishes
from pagescan.reports.terminal_heat import levels, tick_times

from .tiny import MS

SECOND = 1000 * MS


def lines(material, **screen):
    return HeatmapReport.of(material, Wishes()).lines(Screen(**{"width": 60, "height": 24} | screen))


def test_whole_picture(tiny):
    assert lines(tiny) == [
        "ADDRESS       TIME MAPPING",
        "000000010000 │██ █│ [heap]",
        "000000011000 │█  █│",
        "             ┆ 127.0 TiB left out",
        "7f0000000000 │ █  │ /srv/file",
        "              '0",
        "a line: up to 4 KiB; a column: 100 ms (1 sample)",
        "share of the pages written in a sample:",
        "· < 1 %  ░ 1 %  ▒ 10 %  ▓ 50 %  █ 90 %",
    ]


def test_ascii_where_blocks_cannot_be_written(tiny):
    found = lines(tiny, blocks=False)
    assert found[1] == "000000010000 |@@ @| [heap]"
    assert "\n".join(found).isascii()


def test_colour_changes_no_character(tiny):
    coloured = lines(tiny, colour=True)
    assert coloured[1] == "000000010000 │\x1b[38;5;196m██\x1b[0m \x1b[38;5;196m█\x1b[0m│ [heap]"
    assert [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in coloured] == lines(tiny)


def test_nothing_written(tmp_path, empty):
    assert lines(empty) == ["no sample yet: there is nothing to draw"]


def test_levels():
    shares = np.array([0, 1e-9, 0.0099, 0.01, 0.1, 0.5, 0.89, 0.9, 1.0])
    assert levels(shares).tolist() == [0, 1, 1, 2, 3, 4, 4, 5, 5]


def test_wide_screen_uses_its_width(workload):
    narrow, wide = (max(map(len, lines(workload, width=width))) for width in (60, 150))
    assert narrow <= 60 < 100 < wide <= 150


@pytest.mark.parametrize(
    ("duration", "most", "expected"),
    [
        (30 * SECOND, 3, [0, 10 * SECOND, 20 * SECOND, 30 * SECOND]),
        (400 * MS, 4, [0, 100 * MS, 200 * MS, 300 * MS, 400 * MS]),
        (3600 * SECOND, 4, [0, 900 * SECOND, 1800 * SECOND, 2700 * SECOND, 3600 * SECOND]),
        (0, 4, [0]),
    ],
)
def test_ticks(duration, most, expected):
    assert tick_times(duration, most) == expected
