"""Regions against the plainest model there is: a dictionary from each byte's address to its categories."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pagescan.errors import InvalidArgument
from pagescan.query import Category
from pagescan.ranges import REGION_DTYPE, Region, Regions
from pagescan.records import MAX_ADDRESS, one_after_another
from pagescan.records import Answer as KernelAnswer

PAGE = 8
LIMIT = 32
Bytes = dict[int, int]
Triple = tuple[int, int, int]

CATEGORIES = st.integers(0, 3)
ADDRESSES = st.integers(0, LIMIT)


def triple(numbers: Triple) -> Triple:
    first, second, categories = numbers
    return min(first, second), max(first, second), categories


TRIPLES = st.lists(st.tuples(ADDRESSES, ADDRESSES, CATEGORIES).map(triple), max_size=8)


def covered(triples: list[Triple]) -> Bytes:
    """What from_pairs means: of each byte, the categories of all ranges over it."""
    found: Bytes = {}
    for start, end, categories in triples:
        for byte in range(start, end):
            found[byte] = found.get(byte, 0) | categories
    return found


def bytes_of(regions: Regions) -> Bytes:
    """Every byte of every record; a byte in two of them is an error."""
    found: Bytes = {}
    for start, end, categories in regions.to_records().tolist():
        for byte in range(start, end):
            assert byte not in found
            found[byte] = categories
    return found


def canonical(content: Bytes) -> list[Triple]:
    """The only list of records that a value with this content may have."""
    records: list[Triple] = []
    for byte in sorted(content):
        if records and records[-1][1] == byte and records[-1][2] == content[byte]:
            records[-1] = (records[-1][0], byte + 1, content[byte])
        else:
            records.append((byte, byte + 1, content[byte]))
    return records


def make(triples: list[Triple]) -> Regions:
    return Regions.from_pairs(triples, page_size=PAGE)


def check(regions: Regions, content: Bytes) -> None:
    assert type(regions) is Regions
    assert regions.to_records().tolist() == canonical(content)


REGIONS = TRIPLES.map(make)


@given(TRIPLES)
@example([(0, 8, 1), (8, 16, 1)])
@example([(0, 16, 1), (4, 8, 1), (20, 24, 1)])
@example([(0, 16, 1), (4, 8, 2), (8, 8, 3)])
def test_from_pairs_is_the_union_in_canonical_form(triples: list[Triple]) -> None:
    check(make(triples), covered(triples))


@given(TRIPLES, TRIPLES)
def test_algebra_is_that_of_sets_of_bytes(left: list[Triple], right: list[Triple]) -> None:
    a, b = covered(left), covered(right)
    check(make(left) | make(right), {byte: a.get(byte, 0) | b.get(byte, 0) for byte in a.keys() | b.keys()})
    check(make(left) & make(right), {byte: a[byte] for byte in a.keys() & b.keys()})
    check(make(left) - make(right), {byte: a[byte] for byte in a.keys() - b.keys()})


@given(REGIONS, REGIONS, REGIONS)
def test_laws(a: Regions, b: Regions, c: Regions) -> None:
    assert a | b == b | a
    assert (a | b) | c == a | (b | c) == Regions.union([a, b, c])
    assert (a & b) & c == a & (b & c)
    assert a - b - c == a - (b | c)
    assert (a & b) | (a - b) == a
    assert not (a & b) - b


@given(st.lists(REGIONS, max_size=5))
def test_union_of_many_is_or_one_after_another(parts: list[Regions]) -> None:
    expected = Regions.empty(page_size=PAGE)
    for part in parts:
        expected = expected | part
    assert Regions.union(parts, page_size=PAGE) == expected


@given(REGIONS, REGIONS)
def test_equality_and_hash_are_those_of_the_content(a: Regions, b: Regions) -> None:
    assert (a == b) == (bytes_of(a) == bytes_of(b))
    shuffled = Regions(a.to_records()[::-1], page_size=PAGE)
    assert shuffled == a
    assert hash(shuffled) == hash(a)


@given(TRIPLES, ADDRESSES, ADDRESSES)
@example([(0, 8, 1)], 8, 16)
@example([(8, 16, 1)], 0, 8)
@example([(0, 16, 1)], 8, 8)
def test_clip(triples: list[Triple], start: int, end: int) -> None:
    start, end = min(start, end), max(start, end)
    content = covered(triples)
    check(make(triples).clip(start, end), {byte: content[byte] for byte in content if start <= byte < end})


@given(TRIPLES)
def test_counts_pages_and_membership(triples: list[Triple]) -> None:
    regions, content = make(triples), covered(triples)
    pages = sorted({byte - byte % PAGE for byte in content})
    assert regions.pages().tolist() == pages
    assert regions.pages().dtype == np.uint64
    assert regions.page_count == len(pages)
    assert regions.byte_count == len(content)
    assert bool(regions) == bool(content)
    assert [byte for byte in range(-1, LIMIT + 2) if byte in regions] == sorted(content)


@given(st.lists(st.integers(0, 12)), CATEGORIES)
def test_from_pages(numbers: list[int], categories: int) -> None:
    regions = Regions.from_pages([number * PAGE for number in numbers], categories, page_size=PAGE)
    check(regions, {byte: categories for number in numbers for byte in range(number * PAGE, (number + 1) * PAGE)})
    assert Regions.from_pages(regions.pages(), categories, page_size=PAGE) == regions


@given(TRIPLES, CATEGORIES, CATEGORIES, CATEGORIES)
def test_where_keeps_the_regions_that_match(triples: list[Triple], required: int, anyof: int, excluded: int) -> None:
    def kept(categories: int) -> bool:
        has_any = anyof == 0 or bool(categories & anyof)
        return categories & required == required and has_any and not categories & excluded

    content = covered(triples)
    regions = make(triples).where(Category(required), Category(anyof), Category(excluded))
    check(regions, {byte: content[byte] for byte in content if kept(content[byte])})


@given(TRIPLES, CATEGORIES)
def test_with_categories(triples: list[Triple], categories: int) -> None:
    check(make(triples).with_categories(Category(categories)), dict.fromkeys(covered(triples), categories))


@given(TRIPLES, st.integers(0, 40), st.integers(0, 12), st.sampled_from([1, 2, 3, 4, 8, 12]))
def test_slices_are_the_elements_touched(triples: list[Triple], address: int, length: int, itemsize: int) -> None:
    content = covered(triples)
    touched = [
        any(byte in content for byte in range(address + i * itemsize, address + (i + 1) * itemsize))
        for i in range(length)
    ]
    slices = make(triples).slices_in(address, length * itemsize, itemsize)
    expected = canonical({i: 0 for i in range(length) if touched[i]})
    assert slices == [slice(first, last) for first, last, _ in expected]
    assert make(triples).bounds_in(address, length * itemsize, itemsize).tolist() == [[s.start, s.stop] for s in slices]


@given(REGIONS)
def test_as_a_sequence(regions: Regions) -> None:
    triples = regions.to_records().tolist()
    assert list(regions) == triples
    assert [regions[i] for i in range(len(regions))] == triples
    assert list(reversed(regions)) == triples[::-1]
    assert list(regions[1:-1]) == triples[1:-1]
    assert list(regions[::2]) == triples[::2]
    if regions:
        assert regions[-1] == triples[-1]


def test_iteration_goes_on_after_a_chunk() -> None:
    regions = Regions.from_pages(np.arange(0, 20_000, 2) * 4096)
    assert len(regions) == 10_000
    assert [region.start for region in regions] == list(range(0, 20_000 * 4096, 2 * 4096))


def test_region_says_what_it_is() -> None:
    region = Regions.span(0x1000, 0x3000, Category.WRITTEN | Category.FILE)[0]
    assert isinstance(region, Region)
    assert isinstance(region.categories, Category)
    assert region.size == 0x2000
    assert str(region) == "0x1000-0x3000 (8 KiB) written,file"
    assert str(Region(0, 512)) == "0x0-0x200 (512 bytes)"


def test_repr() -> None:
    assert repr(Regions.empty()) == "<Regions: 0 regions, 0 pages, 0 bytes>"
    regions = Regions.from_pairs([(0x1000, 0x2000), (0x4000, 0x6000)])
    assert repr(regions) == "<Regions: 2 regions, 3 pages, 12 KiB in 0x1000-0x6000>"


def records(*triples: Triple) -> np.ndarray[Any, np.dtype[np.void]]:
    return np.array(list(triples), REGION_DTYPE)


def test_constructor_sorts_and_joins() -> None:
    regions = Regions([(8, 16, 1), (0, 8, 1), (16, 24, 2)])
    assert list(regions) == [(0, 16, 1), (16, 24, 2)]
    assert Regions(records((8, 16, 1), (0, 8, 1), (16, 24, 2))) == regions
    assert list(Regions()) == list(Regions(np.empty(0))) == []


def test_constructor_copies() -> None:
    source = records((0, 8, 1))
    regions = Regions(source)
    source["end"] = 99
    assert list(regions) == [(0, 8, 1)]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ([(8, 0, 0)], "0x8-0x0 ends before it starts"),
        ([(0, 4, 0), (8, 8, 0)], "0x8-0x8 is empty"),
        ([(4, 12, 0), (0, 8, 0)], "0x0-0x8 and 0x4-0xc overlap"),
        ([(0, 8, 0), (0, 8, 0)], "overlap"),
        ([(-8, 8, 0)], "from 0 to 0xffffffffffffffff"),
        ([(0, 1 << 64, 0)], "from 0 to 0xffffffffffffffff"),
        ([(0, 8)], "start, end, categories"),
        ([("a", "b", 0)], "start, end, categories"),
        (np.zeros((2, 3), np.uint64), "array of uint64"),
        (np.zeros((1, 1), REGION_DTYPE), "one dimension"),
    ],
)
def test_constructor_refuses(wrong: Any, message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        Regions(wrong)


@pytest.mark.parametrize("page_size", [0, -4096, 3, 4097])
def test_page_size_is_a_power_of_two(page_size: int) -> None:
    for build in (Regions, Regions.from_pairs, Regions.from_pages):
        with pytest.raises(InvalidArgument, match="power of two"):
            build([], page_size=page_size)
    with pytest.raises(InvalidArgument, match="power of two"):
        Regions.span(0, 1, page_size=page_size)


def test_other_constructors_refuse() -> None:
    with pytest.raises(InvalidArgument, match="ends before"):
        Regions.span(8, 0)
    with pytest.raises(InvalidArgument, match="ends before"):
        Regions.from_pairs([(8, 0)])
    with pytest.raises(InvalidArgument, match="start, end, categories"):
        Regions.from_pairs([(8,)])
    with pytest.raises(InvalidArgument, match="begins at 0x1001"):
        Regions.from_pages([0x1000, 0x1001])
    with pytest.raises(InvalidArgument, match="beyond"):
        Regions.from_pages([(1 << 64) - 4096])
    for addresses in ([-4096], np.array([-4096]), np.array([0.5]), ["x"]):
        with pytest.raises(InvalidArgument, match="addresses are integers"):
            Regions.from_pages(addresses)


def test_methods_refuse() -> None:
    regions = Regions.span(0, 8)
    with pytest.raises(InvalidArgument, match="ends before"):
        regions.clip(8, 0)
    with pytest.raises(InvalidArgument, match="ascending"):
        regions[::-1]
    with pytest.raises(InvalidArgument, match="whole number of elements"):
        regions.slices_in(0, 10, 4)
    with pytest.raises(IndexError):
        regions[1]
    with pytest.raises(TypeError):
        regions | 3  # type: ignore[operator]
    with pytest.raises(InvalidArgument):
        regions.where(required=1 << 40)


def test_page_sizes_do_not_mix_even_where_nothing_meets() -> None:
    small, huge = Regions.empty(page_size=4096), Regions.empty(page_size=1 << 21)
    for operation in (Regions.__or__, Regions.__and__, Regions.__sub__):
        with pytest.raises(InvalidArgument, match="4 KiB and of 2 MiB"):
            operation(small, huge)
    with pytest.raises(InvalidArgument, match="4 KiB and of 2 MiB"):
        Regions.union([small, huge])
    assert small != huge


def test_unknown_of_a_result_is_that_of_both() -> None:
    a = Regions([(0, 8, 0)], unknown=Category.GUARD)
    b = Regions([(4, 12, 0)], unknown=Category.ACCESSED)
    both = Category.GUARD | Category.ACCESSED
    assert (a | b).unknown == (a & b).unknown == (a - b).unknown == Regions.union([a, b]).unknown == both
    for alone in (a.clip(0, 4), a.where(), a.with_categories(0), a[:1]):
        assert alone.unknown == Category.GUARD
    assert isinstance(a.unknown, Category)
    assert a != Regions([(0, 8, 0)])


def test_trusted_and_merged_take_the_array_itself() -> None:
    array = records((0, 8, 1), (8, 16, 2), (24, 32, 2))
    for regions in (Regions.trusted(array), Regions.merged(array)):
        assert np.shares_memory(regions.to_records(), array)
        for view in (regions.starts, regions.ends, regions.categories):
            assert view.dtype == np.uint64
            assert np.shares_memory(view, array)
            assert not view.flags.writeable
    assert array.flags.writeable


def test_merged_joins_runs() -> None:
    array = records((0, 8, 1), (8, 16, 1), (16, 24, 1), (24, 32, 0), (40, 48, 0), (48, 56, 0))
    assert list(Regions.merged(array)) == [(0, 24, 1), (24, 32, 0), (40, 56, 0)]
    assert array["end"].tolist() == [8, 16, 24, 32, 48, 56]


def test_values_cannot_be_written_to() -> None:
    regions = Regions([(0, 8, 1)])
    with pytest.raises(ValueError, match="read-only"):
        regions.starts[0] = 4
    with pytest.raises(ValueError, match="read-only"):
        regions.to_records()["end"] = 4
    with pytest.raises(AttributeError):
        regions.page_size = 1  # type: ignore[misc]


def test_ends_of_the_address_space() -> None:
    whole = Regions.span(0, MAX_ADDRESS, 1)
    assert whole.byte_count == MAX_ADDRESS
    assert whole.page_count == 1 << 52
    assert 0 in whole
    assert MAX_ADDRESS - 1 in whole
    assert MAX_ADDRESS not in whole
    hole = Regions.span(1 << 63, (1 << 63) + 4096)
    assert list(whole - hole) == [(0, 1 << 63, 1), ((1 << 63) + 4096, MAX_ADDRESS, 1)]
    assert whole.clip(-5, 1 << 70) == whole
    top = (1 << 64) - 4096
    assert whole.slices_in(top, 4088, 8) == [slice(0, 511)]


def test_a_subclass_is_a_value_too_and_computes_plain_regions() -> None:
    class Answer(Regions):
        __slots__ = ("quality",)
        quality: str

    answer = Answer.merged(records((0, 8, 1)))
    answer.quality = "exact"
    assert type(answer) is Answer
    assert answer == Regions.span(0, 8, 1)
    assert hash(answer) == hash(Regions.span(0, 8, 1))
    assert type(answer | answer) is type(answer[:]) is type(answer.clip(0, 4)) is Regions


def test_pickle() -> None:
    regions = Regions([(0, 8, 1)], page_size=16, unknown=Category.GUARD)
    assert pickle.loads(pickle.dumps(regions)) == regions


def deferred(*rows: tuple[int, int, int]) -> Regions:
    return Regions.deferred(
        KernelAnswer(bytearray(records(*rows).tobytes()), len(rows)), page_size=4096, unknown=Category.GUARD
    )


def test_a_deferred_value_is_worked_out_when_somebody_looks() -> None:
    value = deferred((0, 4096, 1), (4096, 8192, 1), (8192, 12288, 2))
    assert value
    assert value.__length_hint__() == 3
    assert value.byte_count == 12288
    assert list(value) == [(0, 8192, 1), (8192, 12288, 2)]
    assert value.__length_hint__() == 3
    assert value.byte_count == 12288
    assert value.unknown == Category.GUARD
    assert not value.to_records().flags.writeable


@pytest.mark.parametrize("again", [lambda v: pickle.loads(pickle.dumps(v)), copy.copy, copy.deepcopy, Regions.like])
def test_copies_of_a_deferred_value_are_equal_to_it(again: Callable[[Regions], Regions]) -> None:
    rows = [(0, 4096, 1), (4096, 8192, 1)]
    value, other = deferred(*rows), again(deferred(*rows))
    assert bool(other)
    assert other == value
    assert hash(other) == hash(value)
    assert len(other) == len(value) == 1


def test_a_value_has_no_other_attributes() -> None:
    with pytest.raises(AttributeError, match="no attribute 'size'"):
        _ = Regions().size  # type: ignore[attr-defined]


def test_within_an_array() -> None:
    array = np.zeros((4, 1024), np.float32)
    start = array.__array_interface__["data"][0]
    regions = Regions.from_pairs(
        [(start - 10, start + 1), (start + 4095, start + 4097), (start + 16380, start + 20000)]
    )
    assert regions.within(array) == [slice(0, 1), slice(1023, 1025), slice(4095, 4096)]
    assert Regions.span(start, start + 1).within(array[:0]) == []


def test_records_one_after_another():
    a, b = Regions([(0, 4096, 1), (8192, 12288, 2)]).to_records(), Regions([(1 << 40, (1 << 40) + 1, 3)]).to_records()
    joined = one_after_another([a, b[:0], b])
    assert joined.dtype == REGION_DTYPE
    assert joined.tolist() == a.tolist() + b.tolist()
    assert one_after_another([]).tolist() == []
