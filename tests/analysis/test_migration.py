"""The pre-copy estimate, with rounds computed by hand."""

from __future__ import annotations

from typing import Any

import pytest

from pagescan.analysis import Round, Series, estimate_migration
from pagescan.errors import InvalidArgument

from .ranges import PAGE, regions

SECOND = 1_000_000_000


def steady() -> Series:
    """Ten seconds; in each, page 0 and one page more: 1, 2, 3, ..."""
    written = [regions((0, 1), (n + 1, n + 2)) for n in range(10)]
    return Series.from_regions(0, [(n + 1) * SECOND for n in range(10)], written)


def test_rounds_by_hand() -> None:
    """4 pages a second. 16 pages take 4 s, in which 0 and 1-4 are written: 5 pages, 1.25 s. That is the whole of the
    5th second and a part of the 6th: pages 0, 5, 6: 0.75 s. The rest of the 6th: 0 and 6: 0.5 s, within the limit."""
    found = estimate_migration(
        steady(), memory_bytes=16 * PAGE, bandwidth=4 * PAGE, downtime_limit_ns=SECOND // 2, max_rounds=9
    )
    assert found.rounds == (
        Round(16 * PAGE, 4 * SECOND, 5 * PAGE),
        Round(5 * PAGE, 5 * SECOND // 4, 3 * PAGE),
        Round(3 * PAGE, 3 * SECOND // 4, 2 * PAGE),
    )
    assert (found.final_bytes, found.downtime_ns, found.converged, found.repeated) == (
        2 * PAGE,
        SECOND // 2,
        True,
        False,
    )
    assert found.total_bytes == 26 * PAGE
    assert found.total_ns == 13 * SECOND // 2


def test_shares_of_intervals() -> None:
    """As above, but of the 6th second's pages 0 and 6 only a quarter: 0 (seen in the 5th), 5 and 0.25 of 6: rounded up
    to 3 pages, 0.75 s. The rest of the 6th has 0.75 of 0 and of 6: rounded up to 2."""
    found = estimate_migration(
        steady(), memory_bytes=16 * PAGE, bandwidth=4 * PAGE, downtime_limit_ns=0, max_rounds=4, partly="share"
    )
    assert [turn.written_bytes // PAGE for turn in found.rounds] == [5, 3, 2, 1]
    # The 4th round is the first half of the 7th second: half of pages 0 and 7 is one page.
    assert (found.final_bytes, found.downtime_ns, found.converged) == (PAGE, SECOND // 4, False)


def test_everything_fits_into_the_downtime_at_once() -> None:
    found = estimate_migration(steady(), memory_bytes=16 * PAGE, bandwidth=16 * PAGE, downtime_limit_ns=SECOND)
    assert (found.rounds, found.final_bytes, found.downtime_ns) == ((), 16 * PAGE, SECOND)
    assert (found.converged, found.total_bytes) == (True, 16 * PAGE)


def test_no_convergence() -> None:
    """Half a page a second: two pages take 4 s, in which five are written, and so on: the more, the longer."""
    found = estimate_migration(
        steady(), memory_bytes=2 * PAGE, bandwidth=PAGE // 2, downtime_limit_ns=SECOND, max_rounds=3
    )
    # 10 s from second 4 on: all 11 pages; then for 22 s: the recording again and again.
    assert [(r.duration_ns // SECOND, r.written_bytes // PAGE) for r in found.rounds] == [(4, 5), (10, 11), (22, 11)]
    assert (found.final_bytes, found.downtime_ns, found.converged) == (11 * PAGE, 22 * SECOND, False)
    assert found.repeated


def test_a_round_across_the_end_begins_the_recording_again() -> None:
    """One page a second: 8 s, then 9 pages 9 s: seconds 9 and 10 and, again, 1 to 7: page 8 is the one not written."""
    found = estimate_migration(steady(), memory_bytes=8 * PAGE, bandwidth=PAGE, downtime_limit_ns=0, max_rounds=2)
    assert [r.written_bytes // PAGE for r in found.rounds] == [9, 10]


def test_a_quiet_process_needs_one_round() -> None:
    quiet = Series.from_regions(0, [SECOND], [regions()])
    found = estimate_migration(quiet, memory_bytes=10 * PAGE, bandwidth=PAGE, downtime_limit_ns=0)
    assert found.rounds == (Round(10 * PAGE, 10 * SECOND, 0),)
    assert (found.downtime_ns, found.converged, found.repeated) == (0, True, True)


def test_arguments_that_cannot_be() -> None:
    good: dict[str, Any] = {"memory_bytes": 1, "bandwidth": 1}
    for bad in ({"bandwidth": 0}, {"memory_bytes": -1}, {"max_rounds": -1}, {"downtime_limit_ns": -1}):
        with pytest.raises(InvalidArgument, match="must be positive"):
            estimate_migration(steady(), **(good | bad))
    with pytest.raises(InvalidArgument, match="partly"):
        estimate_migration(steady(), memory_bytes=1, bandwidth=1, partly="half")  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument, match="no duration"):
        estimate_migration(Series.from_regions(0, [], []), memory_bytes=1, bandwidth=1)
