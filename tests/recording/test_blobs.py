"""The blobs of a recording against the documented bytes, against random regions, and against damage."""

from __future__ import annotations

import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pagescan.errors import DataCorrupt, InvalidArgument
from pagescan.query import Category
from pagescan.ranges import Regions
from pagescan.recording.blobs import COLUMNS, RegionBlobs, decode_column, decode_regions, encode_column, encode_regions

PAGE = 4096
DOCUMENT = Path(__file__).parent.parent.parent / "docs" / "formats" / "recording.md"
BOTH = Category.WRITTEN | Category.PRESENT
EXAMPLE = Regions([(0x1000, 0x3000, 2), (0x5000, 0x6000, 2), (0x10000000, 0x10100000, 10)])


def documented(label: str) -> bytes:
    """The bytes behind a label in the format's page."""
    found = re.search(rf"^{label}: +([0-9a-f ]+)$", DOCUMENT.read_text(), re.MULTILINE)
    assert found, f"{DOCUMENT.name} shows no bytes for {label}"
    return bytes.fromhex(found[1])


@st.composite
def regions(draw: st.DrawFn) -> Regions:
    """Canonical regions of whole pages anywhere in 64 bits."""
    size = 1 << draw(st.integers(12, 16))
    limit = (1 << 64) // size - 1
    cuts = draw(st.lists(st.integers(0, limit) | st.integers(0, 300), max_size=40, unique=True))
    cuts = sorted(cuts)[: len(cuts) // 2 * 2]
    kinds = st.sampled_from([2, 10, 1 << 9, (1 << 64) - 1])
    rows = [(a * size, b * size, draw(kinds)) for a, b in zip(cuts[::2], cuts[1::2], strict=True)]
    return Regions(rows, page_size=size)


def test_the_documented_example() -> None:
    blobs = RegionBlobs(*(documented(column) for column in COLUMNS))
    assert decode_regions(blobs, 7, page_size=PAGE) == EXAMPLE
    assert encode_regions(EXAMPLE, 7) == blobs
    assert EXAMPLE.categories.tolist() == [Category.WRITTEN, Category.WRITTEN, BOTH]


def test_the_documented_example_by_hand() -> None:
    """Read with nothing but the page's table."""
    blob = documented("gaps")
    version, width, method, column, count, crc = struct.unpack_from("<BBBBII", blob)
    assert (version, width, method, column, count) == (1, 2, 0, 1, 3)
    assert crc == zlib.crc32((7).to_bytes(8, "little") + blob[:8] + blob[12:])
    low, high = blob[12:15], blob[15:18]
    assert [a + 256 * b for a, b in zip(low, high, strict=True)] == [1, 2, 65530]


def test_the_documented_compressed_example() -> None:
    assert decode_column(documented("compressed"), 7, "lengths").tolist() == [3] * 40
    assert zlib.decompress(documented("compressed")[12:]) == b"\3" * 40


@given(regions(), st.integers(0, 1 << 40))
def test_round_trip(value: Regions, number: int) -> None:
    assert decode_regions(encode_regions(value, number), number, page_size=value.page_size) == value


@given(st.lists(st.integers(0, (1 << 64) - 1), max_size=50))
def test_columns_of_any_numbers(values: list[int]) -> None:
    array = np.array(values, np.uint64)
    blob = encode_column(array, 3, "gaps")
    assert decode_column(blob, 3, "gaps").tolist() == values


@given(st.data())
def test_every_flipped_bit_and_every_truncation_is_found(data: st.DataObject) -> None:
    long = Regions.from_pages(np.arange(0, 600, 2) * PAGE, Category.WRITTEN)
    blob = encode_regions(data.draw(st.sampled_from([EXAMPLE, long, Regions.empty()])), 5).gaps
    bit = data.draw(st.integers(0, 8 * len(blob) - 1))
    flipped = bytearray(blob)
    flipped[bit // 8] ^= 1 << bit % 8
    for damaged in (bytes(flipped), blob[: data.draw(st.integers(0, len(blob) - 1))], blob + b"\0"):
        with pytest.raises(DataCorrupt) as caught:
            decode_column(damaged, 5, "gaps")
        assert (caught.value.sample, caught.value.column) == (5, "gaps")


def test_a_blob_in_the_wrong_place_is_found() -> None:
    gaps, lengths, categories = encode_regions(EXAMPLE, 7)
    with pytest.raises(DataCorrupt, match="sample 8, column gaps"):
        decode_regions((gaps, lengths, categories), 8, page_size=PAGE)
    with pytest.raises(DataCorrupt, match="sample 7, column gaps"):
        decode_regions((lengths, gaps, categories), 7, page_size=PAGE)
    with pytest.raises(DataCorrupt, match="sample 7, column categories"):
        decode_regions((gaps, lengths, None), 7, page_size=PAGE)


def numbers(*values: int) -> np.ndarray:
    return np.array(values, np.uint64)


@pytest.mark.parametrize(
    ("gaps", "lengths"),
    [
        (numbers(1, 2), numbers(1)),  # not equally many
        (numbers(1, 0), numbers(1, 0)),  # an empty region
        (numbers(1, (1 << 64) - 2), numbers(1, 1)),  # a sum that wraps round
        (numbers((1 << 52) - 1), numbers(1)),  # its end is 2**64
    ],
)
def test_columns_that_are_no_regions(gaps: np.ndarray, lengths: np.ndarray) -> None:
    blobs = RegionBlobs(*(encode_column(v, 1, n) for v, n in zip((gaps, lengths, lengths), COLUMNS, strict=True)))
    with pytest.raises(DataCorrupt, match="sample 1, column lengths"):
        decode_regions(blobs, 1, page_size=PAGE)


@pytest.mark.parametrize("count", [5000, 50_000_000])
def test_data_that_unpack_to_another_size_are_refused(count: int) -> None:
    """Also without unpacking them all: 50 MB of zeros are 50 KB of zlib."""
    packed = zlib.compress(bytes(count), 1)
    head = struct.pack("<BBBBI", 1, 1, 1, 1, 4000)
    crc = zlib.crc32((0).to_bytes(8, "little") + head + packed)
    with pytest.raises(DataCorrupt, match="4000 bytes"):
        decode_column(head + struct.pack("<I", crc) + packed, 0, "gaps")


def test_regions_that_are_not_whole_pages_are_refused() -> None:
    with pytest.raises(InvalidArgument, match="whole pages of 4096"):
        encode_regions(Regions([(0, 100, 0)]), 0)
