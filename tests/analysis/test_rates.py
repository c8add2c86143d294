"""Write rates by mapping."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pagescan.abi import Mapping
from pagescan.analysis import Series, group_mappings, write_rates

from .ranges import PAGE, regions

SECOND = 1_000_000_000


def mapping(low: int, high: int, name: str = "") -> Mapping:
    return Mapping(low * PAGE, high * PAGE, "rw-p", name=name)


def test_rates_by_hand() -> None:
    """A heap that grows at sample 1, a file that goes then, and a region across both of them and beyond."""
    spans = [(mapping(0, 4, "[heap]"), 0, 1), (mapping(4, 8, "file"), 0, 1), (mapping(0, 6, "[heap]"), 1, None)]
    series = Series.from_regions(
        0, [SECOND, 3 * SECOND, 4 * SECOND], [regions((2, 9)), regions((2, 9)), regions((0, 1), (5, 6))], spans
    )
    rates = write_rates(series)
    assert [group.label for group in rates.groups] == ["[heap]", "file"]
    assert (rates.groups[0].start, rates.groups[0].end, rates.groups[0].spans) == (0, 6 * PAGE, (0, 2))
    assert rates.pages.tolist() == [[2, 4, 2], [4, 0, 0]]
    assert rates.unmapped.tolist() == [1, 3, 0]
    assert rates.bytes_per_second.tolist() == [[2 * PAGE, 2 * PAGE, 2 * PAGE], [4 * PAGE, 0, 0]]
    # Two columns: samples 0 and 1, whose mappings differ, and sample 2.
    two = write_rates(series, columns=2)
    assert (two.pages.tolist(), two.unmapped.tolist()) == ([[6, 2], [4, 0]], [4, 0])
    assert two.bytes_per_second.tolist() == [[2 * PAGE, 2 * PAGE], [4 / 3 * PAGE, 0]]


def test_anonymous_mappings_that_overlap_are_one_group() -> None:
    spans = ((mapping(0, 4), 0, 1), (mapping(0, 8), 1, 2), (mapping(8, 9), 0, None), (mapping(6, 7), 5, None))
    groups = group_mappings(spans)
    assert [(g.label, g.start // PAGE, g.end // PAGE, g.spans) for g in groups] == [
        ("(anonymous)", 0, 8, (0, 1, 3)),
        ("(anonymous)", 8, 9, (2,)),
    ]


def test_without_mappings_all_is_unmapped() -> None:
    rates = write_rates(Series.from_regions(0, [1, 2], [regions((1, 4)), regions()]))
    assert rates.groups == ()
    assert (rates.pages.shape, rates.unmapped.tolist()) == ((0, 2), [3, 0])
    assert write_rates(Series.from_regions(0, [], [])).unmapped.tolist() == []


RANGES = st.lists(st.tuples(st.integers(0, 60), st.integers(1, 20)), max_size=4)
SPANS = st.lists(st.tuples(st.integers(0, 7), st.integers(0, 6), st.none() | st.integers(0, 8)), max_size=8)


@given(st.lists(RANGES, min_size=1, max_size=6), SPANS, st.integers(1, 7))
def test_as_counted_page_by_page(samples: list, lives: list, columns: int) -> None:
    """Slots of ten pages, each with at most one mapping at a time."""
    spans: list[tuple[Mapping, int, int | None]] = []
    busy: set[tuple[int, int]] = set()
    for slot, appeared, length in lives:
        vanished = None if length is None else appeared + length
        alive = {(slot, n) for n in range(appeared, 99 if vanished is None else vanished)}
        if alive and not alive & busy:
            busy |= alive
            spans.append((mapping(10 * slot, 10 * slot + 8, f"m{slot}"), appeared, vanished))
    written = [regions(*((low, low + size) for low, size in ranges)) for ranges in samples]
    rates = write_rates(Series.from_regions(0, range(1, len(written) + 1), written, spans), columns=columns)
    for column in range(len(rates.columns)):
        numbers = range(rates.columns.samples[column], rates.columns.samples[column + 1])
        total = 0
        for row, group in enumerate(rates.groups):
            slot = int(group.label[1:])
            own = regions((10 * slot, 10 * slot + 8))
            wanted = sum((written[n] & own).page_count for n in numbers if (slot, n) in busy)
            assert rates.pages[row, column] == wanted
            total += wanted
        assert rates.unmapped[column] == sum(written[n].page_count for n in numbers) - total
