"""The state of the live view: rates, rows that follow their mappings, and totals, with exact numbers."""

from __future__ import annotations

import pytest

from pagescan.errors import InvalidArgument
from pagescan.units import SECOND
from pagescan.views.heat import COLD
from pagescan.views.state import Find, State

from .looks import PAGE, look, mapping

HEAP = mapping(0x100, 256, "[heap]")
ARRAY = mapping(0x1000, 128)
CODE = mapping(0x10, 16, "/usr/bin/python3", "r-xp")


def start(*mappings) -> State:
    return State.start(0, mappings)


def row(state: State, name: str = "[heap]"):
    (found,) = [row for row in state.rows if row.mapping.name == name]
    return found


class TestRates:
    def test_start_has_none(self):
        state = start(CODE, HEAP, ARRAY)
        assert [row.mapping for row in state.rows] == [HEAP, ARRAY]
        assert state.totals() == (0.0, 0.0, 2, 384 * PAGE, 0, 0, 0)

    def test_now_is_per_second_of_the_last_interval(self):
        state = start(HEAP, ARRAY).after(look(2, [HEAP, ARRAY], (0x100, 10), (0x1000, 4)))
        assert state.now(row(state).finds) == 10 * PAGE / 2
        assert state.now(row(state, "").finds) == 4 * PAGE / 2
        assert state.totals().now == 14 * PAGE / 2

    def test_now_is_zero_once_a_look_finds_nothing(self):
        state = start(HEAP).after(look(1, [HEAP], (0x100, 10))).after(look(2, [HEAP]))
        assert state.now(row(state).finds) == 0
        assert state.minute(row(state).finds) == 10 * PAGE / 2

    def test_minute_is_over_what_is_known_of_it(self):
        state = start(HEAP)
        for second in range(1, 11):
            state = state.after(look(second, [HEAP], (0x100, second)))
        assert state.window_seconds == 10
        assert state.minute(row(state).finds) == 55 * PAGE / 10

    def test_what_is_older_than_a_minute_counts_no_more(self):
        state = start(HEAP).after(look(1, [HEAP], (0x100, 200)))
        for second in range(2, 62):
            state = state.after(look(second, [HEAP], (0x100, 1)))
        assert state.window_seconds == 60
        assert state.minute(row(state).finds) == 60 * PAGE / 60
        assert len(row(state).finds) == 60
        assert len(state.edges) == 61

    def test_an_interval_longer_than_a_minute_counts_whole(self):
        state = start(HEAP).after(look(1, [HEAP], (0x100, 5))).after(look(101, [HEAP], (0x100, 50)))
        assert state.edges == (1 * SECOND, 101 * SECOND)
        assert state.minute(row(state).finds) == 50 * PAGE / 100

    def test_writes_outside_every_mapping_count_in_the_totals_alone(self):
        state = start(HEAP).after(look(1, [HEAP], (0x100, 1), (0x9000, 6)))
        assert state.totals().now == 7 * PAGE
        assert state.now(row(state).finds) == PAGE

    def test_one_region_over_two_mappings_is_divided(self):
        next_door = mapping(0x200, 16, "next")
        state = start(HEAP, next_door).after(look(1, [HEAP, next_door], (0x1FE, 5)))
        assert row(state).finds == (Find(SECOND, 2 * PAGE),)
        assert row(state, "next").finds == (Find(SECOND, 3 * PAGE),)

    def test_shares_over_time_are_oldest_first(self):
        state = start(ARRAY)
        for second, count in enumerate((128, 0, 32, 1), start=1):
            state = state.after(look(second, [ARRAY], *[(0x1000, count)] * (count > 0)))
        assert state.shares(row(state, ""), 3) == [0.0, 0.25, 1 / 128]
        assert state.shares(row(state, ""), 30) == [1.0, 0.0, 0.25, 1 / 128]

    def test_time_does_not_run_backwards(self):
        with pytest.raises(InvalidArgument, match="a look at"):
            start(HEAP).after(look(1, [HEAP])).after(look(0.5, [HEAP]))

    def test_a_state_stays_as_it_is(self):
        before = start(HEAP)
        before.after(look(1, [HEAP], (0x100, 1)))
        assert before.looks == 0
        assert row(before).finds == ()
        assert row(before).heat is COLD

    def test_idle_rows_are_handed_on(self):
        before = start(HEAP, ARRAY)
        after = before.after(look(1, [HEAP, ARRAY], (0x1000, 1)))
        assert row(after) is row(before)


class TestMappings:
    def test_a_new_one_is_marked_for_ten_seconds(self):
        state = start(HEAP).after(look(1, [HEAP, ARRAY], (0x1000, 128)))
        assert (row(state, "").appeared_ns, row(state).appeared_ns) == (SECOND, None)
        assert state.is_new(row(state, ""))
        assert not state.is_new(row(state))
        assert state.totals().new == 1
        assert state.after(look(10.9, [HEAP, ARRAY])).totals().new == 1
        assert state.after(look(11, [HEAP, ARRAY])).totals().new == 0

    def test_one_that_vanished_stays_for_ten_seconds(self):
        state = start(HEAP, ARRAY).after(look(1, [HEAP, ARRAY], (0x1000, 2))).after(look(2, [HEAP]))
        assert row(state, "").vanished_ns == 2 * SECOND
        assert not row(state, "").lives
        assert state.totals() == (0.0, 2 * PAGE / 2, 1, 256 * PAGE, 0, 1, 0)
        assert len(state.after(look(11.9, [HEAP])).rows) == 2
        assert len(state.after(look(12, [HEAP])).rows) == 1

    def test_what_takes_the_place_of_one_that_vanished_is_another(self):
        other = mapping(0x1000, 128, "/dev/shm/x", "rw-s")
        state = start(ARRAY).after(look(1, [other], (0x1000, 3)))
        old, new = state.rows
        assert (old.lives, old.finds) == (False, ())
        assert (new.lives, new.number, new.finds) == (True, 1, (Find(SECOND, 3 * PAGE),))

    def test_one_that_grows_is_the_same(self):
        grown = mapping(0x100, 512, "[heap]")
        state = start(HEAP).after(look(1, [HEAP], (0x100, 256))).after(look(2, [grown]))
        (only,) = state.rows
        assert (only.number, only.mapping, only.appeared_ns) == (0, grown, None)
        assert only.finds == (Find(SECOND, 256 * PAGE),)
        # All of it was hot a second ago: now that is the lower half.
        assert only.heat[:64] == pytest.approx([2 ** (-1 / 5)] * 64)
        assert not only.heat[64:].any()

    def test_of_two_heirs_the_one_with_more_in_common_is_the_same(self):
        low, high = mapping(0x100, 64, "[heap]"), mapping(0x140, 192, "[heap]")
        state = start(HEAP).after(look(1, [low, high]))
        assert sorted((row.mapping.start, row.number) for row in state.rows) == [
            (low.start, 0),
            (high.start, 1),
        ]

    def test_one_that_can_be_written_to_no_more_vanishes(self):
        state = start(HEAP).after(look(1, [mapping(0x100, 256, "[heap]", "r--p")]))
        assert not row(state).lives

    def test_why_it_is_not_tracked(self):
        key = (ARRAY.start, ARRAY.end)
        state = start(ARRAY).after(look(1, [ARRAY], untracked={key: "not permitted"}))
        assert row(state, "").untracked == "not permitted"
        assert state.totals().untracked == 1
        assert row(state.after(look(2, [ARRAY])), "").untracked == ""
