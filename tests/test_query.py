"""Query against the documented meaning of the four masks, read off the words and not off the formula."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pagescan.errors import InvalidArgument
from pagescan.query import ALL_CATEGORIES, Category, Masks, Op, Query, category_names, matches, parse_categories

BITS = range(10)
#: Few bits a mask, so that the masks meet in every way and pages do match.
MASKS = st.sets(st.sampled_from(BITS), max_size=3).map(lambda bits: sum(1 << bit for bit in bits))
PAGES = st.integers(0, int(ALL_CATEGORIES))
ANY_MASKS = MASKS | PAGES


def documented(page: int, required: int, anyof: int, excluded: int) -> bool:
    """All of required, none of excluded and, if anyof is not empty, one of anyof: bit by bit."""
    has = {bit for bit in BITS if page >> bit & 1}
    must, one, never = ({bit for bit in BITS if mask >> bit & 1} for mask in (required, anyof, excluded))
    return must <= has and not never & has and (not one or bool(one & has))


@given(PAGES, ANY_MASKS, ANY_MASKS, ANY_MASKS)
@example(0b0001, 0b0001, 0, 0b0001)  # R & E: merged would require the bit to be 0
@example(0b0000, 0b0001, 0, 0b0001)
@example(0b0000, 0, 0b0001, 0b0001)  # A inside E: 0 would mean "no anyof"
@example(0b0010, 0, 0b0001, 0b0001)
@example(0b0000, 0, 0b0011, 0b0001)  # A partly in E: left in, the inverted bit satisfies "any of"
@example(0b0010, 0, 0b0011, 0b0001)
@example(0b0001, 0b0001, 0b0011, 0)  # A & R: trivially satisfied
def test_matches_means_what_the_document_says(page: int, required: int, anyof: int, excluded: int) -> None:
    query = Query(required, anyof, excluded)
    assert query.matches(page) is documented(page, required, anyof, excluded)


def test_every_combination_of_three_bits() -> None:
    masks = range(8)
    for required in masks:
        for anyof in masks:
            for excluded in masks:
                query = Query(required, anyof, excluded)
                expected = [documented(page, required, anyof, excluded) for page in masks]
                assert [query.matches(page) for page in masks] == expected
                assert query.impossible == (not any(expected))


@given(ANY_MASKS, ANY_MASKS, ANY_MASKS, ANY_MASKS, PAGES)
def test_encoded_masks_in_the_kernels_own_words(
    required: int, anyof: int, excluded: int, returned: int, page: int
) -> None:
    """pagemap_scan_is_interesting_page(), transcribed: what the kernel will do with what encode() gives."""
    query = Query(required, anyof, excluded, returned)
    if query.impossible:
        with pytest.raises(InvalidArgument, match="never match"):
            query.encode()
        return
    masks = query.encode()
    flipped = page ^ masks.inverted
    interesting = flipped & masks.mask == masks.mask and (masks.anyof == 0 or flipped & masks.anyof != 0)
    assert interesting == documented(page, required, anyof, excluded)
    assert masks.returned == returned
    assert matches(page, masks.inverted, masks.mask, masks.anyof) == interesting


@given(ANY_MASKS, ANY_MASKS, ANY_MASKS)
def test_impossible_is_exactly_what_no_page_matches(required: int, anyof: int, excluded: int) -> None:
    impossible = not any(documented(page, required, anyof, excluded) for page in range(1 << len(BITS)))
    assert Query(required, anyof, excluded).impossible == impossible


@given(ANY_MASKS, ANY_MASKS, ANY_MASKS)
def test_arrays_are_decided_as_their_elements(required: int, anyof: int, excluded: int) -> None:
    query = Query(required, anyof, excluded)
    pages = np.arange(1 << len(BITS), dtype=np.uint64)
    decided = query.matches(pages)
    assert decided.dtype == bool
    assert decided.tolist() == [documented(page, required, anyof, excluded) for page in range(1 << len(BITS))]


def test_members_of_category_serve_as_masks_for_arrays() -> None:
    pages = np.array([0, 2, 6, 10, 18], np.uint64)
    query = Query(Category.WRITTEN, Category.FILE | Category.PRESENT, Category.SWAPPED)
    assert query.matches(pages).tolist() == [False, False, True, True, False]
    assert all(type(mask) is int for mask in query.encode())


@pytest.mark.parametrize(
    ("query", "masks"),
    [
        (Query(required=0b01, excluded=0b10, returned=0), Masks(0b10, 0b11, 0, 0)),
        (Query(anyof=0b011, excluded=0b001, returned=7), Masks(0b001, 0b001, 0b010, 7)),
        (Query(required=0b001, anyof=0b011, returned=7), Masks(0, 0b001, 0b011, 7)),
        (Query(returned=7), Masks(0, 0, 0, 7)),
    ],
)
def test_encodings(query: Query, masks: Masks) -> None:
    assert query.encode() == masks


def test_encoding_of_the_corners_would_be_wrong_without_care() -> None:
    """What the plain encoding R|E, E, A says of each corner: not what the document says."""
    naive = [(matches(page, e, r | e, a), documented(page, r, a, e)) for page, r, a, e in CORNERS]
    assert all(plain != meant for plain, meant in naive)
    assert [Query(r, a, e).matches(page) for page, r, a, e in CORNERS] == [meant for _, meant in naive]


#: page, required, anyof, excluded
CORNERS = [
    (0b00, 0b01, 0b00, 0b01),  # required and excluded
    (0b00, 0b00, 0b01, 0b01),  # anyof wholly excluded
    (0b00, 0b00, 0b11, 0b01),  # anyof partly excluded
]


def test_kernel_only_form_of_the_formula() -> None:
    """A bit in anyof and inverted but not in mask: "the bit is 0, or another of anyof is 1"."""
    assert [matches(page, 0b01, 0, 0b11) for page in range(4)] == [True, False, True, True]
    assert matches(0b01, 0b01, 0b10, 0) is False  # inverted alone has no effect
    assert matches(0b11, 0b01, 0b10, 0) is True


def test_asked() -> None:
    assert Query(required=1, anyof=2, excluded=4, returned=8).asked == 7


@pytest.mark.parametrize("name", ["required", "anyof", "excluded", "returned"])
@pytest.mark.parametrize("value", [1 << 10, (1 << 64) - 1, -1, 1.0, "written", None])
def test_what_is_no_mask_is_refused(name: str, value: object) -> None:
    named = "return_mask" if name == "returned" else f"{name}_mask"
    with pytest.raises(InvalidArgument, match=named):
        Query(**{name: value})  # type: ignore[arg-type]


def test_values_of_the_kernels_header() -> None:
    names = ["WPALLOWED", "WRITTEN", "FILE", "PRESENT", "SWAPPED", "PFNZERO", "HUGE", "SOFT_DIRTY", "GUARD", "ACCESSED"]
    assert [(member.name, int(member)) for member in Category] == [(name, 1 << bit) for bit, name in enumerate(names)]
    assert int(ALL_CATEGORIES) == 0x3FF
    assert (int(Op.GET), int(Op.WP)) == (1, 2)


@given(PAGES)
def test_names_read_back(categories: int) -> None:
    names = category_names(categories)
    assert parse_categories(names) == categories
    assert parse_categories(",".join(names)) == categories
    assert parse_categories(" | ".join("PAGE_IS_" + name.upper() for name in names)) == categories
    assert len(names) == categories.bit_count()


def test_parse_categories() -> None:
    assert isinstance(parse_categories("written"), Category)
    assert parse_categories("") == parse_categories("none") == parse_categories([]) == 0
    assert parse_categories("all") == ALL_CATEGORIES
    assert parse_categories("soft-dirty, Page_Is_File") == Category.SOFT_DIRTY | Category.FILE
    with pytest.raises(InvalidArgument, match="'dirty' is no page category") as caught:
        parse_categories("written, dirty")
    assert "soft_dirty" in str(caught.value.hint)


@given(PAGES)
def test_categories_and_integers_are_one_dictionary_key(bits: int) -> None:
    category = Category(bits)
    assert category == bits
    assert hash(category) == hash(bits)
    assert {category: "found"}[bits] == "found"  # type: ignore[index]
    assert {bits: "found"}[category] == "found"
    assert hash(Op(bits & 3)) == hash(bits & 3)
