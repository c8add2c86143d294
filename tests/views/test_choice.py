"""Which mappings are shown, and in which order; and how often to look."""

from __future__ import annotations

import pytest

from pagescan.units import MILLISECOND, SECOND
from pagescan.views.choice import Choice, Column, choose
from pagescan.views.pace import allowed_share, paced
from pagescan.views.state import State

from .looks import look, mapping

HEAP = mapping(0x100, 256, "[heap]")
ARRAY = mapping(0x1000, 128)
DATA = mapping(0x50, 4, "/usr/lib/libz.so.1")
ALL = [DATA, HEAP, ARRAY]


@pytest.fixture
def state() -> State:
    """[heap] wrote most over the minute, the array most of late, libz nothing."""
    state = State.start(0, ALL).after(look(1, ALL, (0x100, 100), (0x1000, 1)))
    return state.after(look(2, ALL, (0x100, 1), (0x1000, 9)))


def names(state: State, choice: Choice) -> list[str]:
    return [line.row.mapping.name.rpartition("/")[2] for line in choose(state, choice)]


@pytest.mark.parametrize(
    ("column", "order"),
    [
        (Column.NAME, ["", "[heap]", "libz.so.1"]),
        (Column.SIZE, ["[heap]", "", "libz.so.1"]),
        (Column.NOW, ["", "[heap]", "libz.so.1"]),
        (Column.MINUTE, ["[heap]", "", "libz.so.1"]),
        (Column.ADDRESS, ["libz.so.1", "[heap]", ""]),
    ],
)
def test_order(state, column, order):
    assert names(state, Choice(column)) == order
    assert names(state, Choice(column, reverse=True)) == order[::-1]


def test_equal_lines_are_by_address_either_way():
    state = State.start(0, ALL)
    assert names(state, Choice()) == names(state, Choice(reverse=True)) == ["libz.so.1", "[heap]", ""]


def test_next_column_goes_round_and_forgets_the_reversal():
    choice = Choice(Column.NOW, reverse=True)
    assert choice.sorted_by_next(1) == Choice(Column.MINUTE)
    assert choice.sorted_by_next(-1) == Choice(Column.SIZE)
    assert choice.sorted_by_next(3) == Choice(Column.NAME)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", ["", "[heap]", "libz.so.1"]),
        ("HEAP", ["[heap]"]),
        ("anon", [""]),
        ("/usr/lib", ["libz.so.1"]),
        ("lib rw-p", ["libz.so.1"]),
        ("lib heap", []),
        ("0x1000000", [""]),
    ],
)
def test_filter(state, text, found):
    assert names(state, Choice().filtered(text)) == found


def test_busy_leaves_out_what_was_not_written_to_for_a_minute(state):
    assert names(state, Choice(busy=True)) == ["", "[heap]"]
    assert names(state.after(look(70, ALL)), Choice(busy=True)) == []


def test_lines_have_the_rates(state):
    line = choose(state, Choice())[0]
    assert (line.now, line.minute) == (9 * 4096, 10 * 4096 / 2)


def test_at_one_look_a_second_or_fewer_a_twentieth_of_a_core():
    assert allowed_share(SECOND) == allowed_share(60 * SECOND) == 0.05
    assert allowed_share(500 * MILLISECOND) == 0.1
    assert allowed_share(MILLISECOND) == 0.5


def test_looks_that_cost_too_much_are_taken_less_often():
    assert paced(SECOND, 50 * MILLISECOND) == SECOND
    assert paced(SECOND, 200 * MILLISECOND) == 4 * SECOND
    assert paced(100 * MILLISECOND, 20 * MILLISECOND) == 100 * MILLISECOND
    assert paced(100 * MILLISECOND, 100 * MILLISECOND) == 200 * MILLISECOND
