"""The arithmetic under the table: pure values in, values out."""

from __future__ import annotations

import pytest

from pagescan.abi import Mapping
from pagescan.cli.by_mapping import bytes_within, clip, pieces, rows_of
from pagescan.cli.output import printable, short_size
from pagescan.query import ALL_CATEGORIES, Category
from pagescan.ranges import Regions

P, W, A = Category.PRESENT, Category.WRITTEN, Category.WPALLOWED
MAPPINGS = [Mapping(0x1000, 0x5000, "rw-p"), Mapping(0x5000, 0x6000, "r--p", 0x3000, "08:01", 7, "/f")]
NOTHING = Regions.empty()


def test_bytes_are_counted_in_each_mapping():
    regions = Regions.from_pairs([(0x0, 0x2000), (0x3000, 0x5800), (0x9000, 0xA000)])
    assert bytes_within(regions, MAPPINGS).tolist() == [0x1000 + 0x2000, 0x800]
    assert bytes_within(NOTHING, MAPPINGS).tolist() == [0, 0]
    assert bytes_within(regions, []).tolist() == []


def test_rows_tell_what_is_known():
    regions = Regions.from_pairs([(0x1000, 0x2000, P | W | A), (0x2000, 0x6000, P)])
    first, second = rows_of(MAPPINGS, regions, Regions.span(0x1000, 0x5000), ALL_CATEGORIES & ~Category.GUARD)
    assert (first.tracked, first.matched, first.counts[P], first.counts[W]) == (True, 0x4000, 0x4000, 0x1000)
    assert (second.tracked, second.matched, second.counts[P], second.counts[W]) == (False, 0x1000, 0x1000, None)
    assert first.counts[Category.GUARD] is None
    assert first.has_content


def test_hole_is_no_content():
    [row, _] = rows_of(MAPPINGS, Regions.span(0x1000, 0x5000), NOTHING, ALL_CATEGORIES)
    assert (row.matched, row.has_content) == (0x4000, False)


def test_clip_cuts_mappings_and_moves_file_offsets():
    assert clip(MAPPINGS, None, None) == MAPPINGS
    assert clip(MAPPINGS, 0x2000, 0x5000) == [Mapping(0x2000, 0x5000, "rw-p")]
    both = [Mapping(0x1000, 0x9000, "r--p", 0x3000, "08:01", 7, "/f")]
    assert clip(both, 0x2000, 0x4000) == [Mapping(0x2000, 0x4000, "r--p", 0x4000, "08:01", 7, "/f")]
    assert clip(MAPPINGS, 0x6000, 0x7000) == []


def test_pieces_end_where_mappings_do():
    regions = Regions.from_pairs([(0x0, 0x2000, P), (0x4000, 0x8000, W)])
    assert list(pieces(regions, MAPPINGS)) == [
        (0x0, 0x1000, P, None),
        (0x1000, 0x2000, P, MAPPINGS[0]),
        (0x4000, 0x5000, W, MAPPINGS[0]),
        (0x5000, 0x6000, W, MAPPINGS[1]),
        (0x6000, 0x8000, W, None),
    ]


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0"), (512, "512"), (1023, "1023"), (1024, "1K"), (4096, "4K"), (132 << 10, "132K"), (1023 << 10, "1023K"),
        ((1 << 20) - 1, "1M"), (1 << 20, "1M"), (3 << 19, "1.5M"), (10 << 20, "10M"), ((10 << 20) + 4096, "10M"),
        ((10 << 20) - 4096, "10M"), ((1 << 30) - 4096, "1G"), (5 << 28, "1.2G"), (1 << 46, "64T"),
    ],
)  # fmt: skip
def test_short_size(size, text):
    assert short_size(size) == text
    assert len(text) <= 5


def test_names_cannot_move_the_cursor(capsys):
    assert printable("/tmp/a\x1b[2Jb\nc") == "/tmp/a\\x1b[2Jb\\nc"
    assert printable("/tmp/\udcff") == "/tmp/\\udcff"
    assert printable("[heap]") == "[heap]"
