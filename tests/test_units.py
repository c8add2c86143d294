from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pagescan import units
from pagescan.errors import InvalidArgument
from pagescan.units import (
    format_count,
    format_duration,
    format_range,
    format_size,
    parse_address,
    parse_duration,
    parse_range,
    parse_size,
)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("4096", 4096),
        (" 4_096 ", 4096),
        ("0x1000", 4096),
        ("12B", 12),
        ("1 byte", 1),
        ("512 bytes", 512),
        ("64KiB", 65536),
        ("64 kb", 65536),
        ("64k", 65536),
        ("2M", 2 << 20),
        ("1.5G", 3 << 29),
        (".5K", 512),
        ("0.001953125K", 2),
        ("3T", 3 << 40),
        ("1P", 1 << 50),
        ("15E", 15 << 60),
    ],
)
def test_parse_size(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        ("0", 0),
        ("7ns", 7),
        ("12.5us", 12_500),
        ("3 \N{MICRO SIGN}s", 3_000),
        ("3\N{GREEK SMALL LETTER MU}s", 3_000),
        ("100ms", 100_000_000),
        ("1.5s", 1_500_000_000),
        ("30", 30_000_000_000),
        ("2m", 120_000_000_000),
        ("2min", 120_000_000_000),
        ("1h", 3_600_000_000_000),
        ("1D", 86_400_000_000_000),
    ],
)
def test_parse_duration(text: str, nanoseconds: int) -> None:
    assert parse_duration(text) == nanoseconds


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0x7f00-0x7fff", (0x7F00, 0x7FFF)),
        ("0x1000+64KiB", (0x1000, 0x11000)),
        ("4096-8192", (4096, 8192)),
        (" 0X1000 - 0x2000 ", (0x1000, 0x2000)),
        ("0+0xffffffffffffffff", (0, (1 << 64) - 1)),
    ],
)
def test_parse_range(text: str, expected: tuple[int, int]) -> None:
    assert parse_range(text) == expected


def test_parse_address() -> None:
    assert parse_address("0x7fFF_0000_1000") == 0x7FFF00001000
    assert parse_address("4096") == 4096
    assert parse_address("010") == 10


@pytest.mark.parametrize(
    ("parse", "text", "accepted"),
    [
        (parse_size, "", "64KiB"),
        (parse_size, "-1", "64KiB"),
        (parse_size, "1X", "64KiB"),
        (parse_size, "KiB", "64KiB"),
        (parse_size, "1Kib/s", "64KiB"),
        (parse_size, "1e3", "64KiB"),
        (parse_size, "nan", "64KiB"),
        (parse_size, "0.3K", "64KiB"),
        (parse_size, "1.5", "64KiB"),
        (parse_size, "16E", "0xffffffffffffffff"),
        (parse_size, "\N{ARABIC-INDIC DIGIT THREE}", "64KiB"),
        (parse_address, "7f00", "0x7f"),
        (parse_address, "0x", "0x7f"),
        (parse_address, "0x1_", "0x7f"),
        (parse_address, "-1", "0x7f"),
        (parse_address, "0x10000000000000000", "0xffffffffffffffff"),
        (parse_range, "", r"0x7f00-0x7fff, 0x1000\+64KiB"),
        (parse_range, "0x1000", r"0x7f00-0x7fff, 0x1000\+64KiB"),
        (parse_range, "0x2000-0x1000", r"0x7f00-0x7fff, 0x1000\+64KiB"),
        (parse_range, "0x1000+0", r"0x7f00-0x7fff, 0x1000\+64KiB"),
        (parse_range, "0x1000-", "0x7f"),
        (parse_range, "0x1-0x2-0x3", "0x7f"),
        (parse_range, "0xffffffffffffffff+1", "0xffffffffffffffff"),
        (parse_duration, "", "100ms"),
        (parse_duration, "-1s", "100ms"),
        (parse_duration, "1 year", "100ms"),
        (parse_duration, "0.5ns", "100ms"),
        (parse_duration, "1m30s", "100ms"),
    ],
)
def test_what_is_refused_and_what_is_accepted_instead(parse: Callable[[str], Any], text: str, accepted: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        parse(text)
    named = re.search("'(.*)'", caught.value.message)
    assert named is not None
    assert named[1] in text
    assert caught.match(accepted)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 bytes"),
        (1, "1 byte"),
        (1023, "1,023 bytes"),
        (1024, "1 KiB"),
        (1025, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (1 << 20, "1 MiB"),
        ((1 << 20) - 1, "1.0 MiB"),
        (3 << 19, "1.5 MiB"),
        (1000 << 20, "1,000 MiB"),
        ((1 << 64) - 1, "16.0 EiB"),
        (2000 << 60, "2,000 EiB"),
        (-2048, "-2 KiB"),
    ],
)
def test_format_size(size: int, text: str) -> None:
    assert format_size(size) == text


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    [
        (0, "0 ns"),
        (999, "999 ns"),
        (1_000, "1.00 us"),
        (9_994, "9.99 us"),
        (9_996, "10.0 us"),
        (12_345, "12.3 us"),
        (99_960, "100 us"),
        (999_400, "999 us"),
        (999_600, "1.00 ms"),
        (1_200_000, "1.20 ms"),
        (1_500_000_000, "1.50 s"),
        (59_940_000_000, "59.9 s"),
        (59_960_000_000, "1m 00s"),
        (125_000_000_000, "2m 05s"),
        (3_599_600_000_000, "1h 00m"),
        (90 * 60 * 10**9, "1h 30m"),
        (100 * 3600 * 10**9, "100h 00m"),
        (-1_200_000, "-1.20 ms"),
    ],
)
def test_format_duration(nanoseconds: int, text: str) -> None:
    assert format_duration(nanoseconds) == text


def test_format_count_and_address() -> None:
    assert format_count(1, "page") == "1 page"
    assert format_count(0, "page") == "0 pages"
    assert format_count(1024, "page") == "1,024 pages"
    assert format_count(2, "entry", "entries") == "2 entries"
    assert units.format_address(0x7F0000001000) == "0x7f0000001000"


SIZES = st.integers(0, (1 << 64) - 1) | st.builds(lambda n, power: n << power, st.integers(0, 1023), st.integers(0, 54))


@given(SIZES)
@example((1 << 20) - 1)
def test_a_size_reads_back_exactly_or_says_that_it_is_rounded(size: int) -> None:
    number, unit = format_size(size).replace(",", "").split(" ")
    if "." not in number:
        assert parse_size(number + unit) == size
    else:
        scale = 1024 ** (["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"].index(unit))
        assert abs(float(number) * scale - size) <= 0.0501 * scale
        assert 1 <= float(number) < 1024


@given(st.integers(0, 10**18))
def test_a_short_duration_keeps_three_digits(nanoseconds: int) -> None:
    text = format_duration(nanoseconds)
    if not re.search("[mh] ", text):
        assert abs(parse_duration(text) - nanoseconds) <= 0.005 * nanoseconds


@given(st.integers(0, (1 << 64) - 2), st.integers(1, (1 << 64) - 1))
def test_a_range_reads_back(start: int, length: int) -> None:
    end = min(start + length, (1 << 64) - 1)
    assert parse_range(format_range(start, end)) == (start, end)
    assert parse_range(f"{start:#x}+{end - start}") == (start, end)
