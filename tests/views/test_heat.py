"""Heat over addresses, with exact numbers."""

from __future__ import annotations

import numpy as np
import pytest

from pagescan.units import SECOND
from pagescan.views.heat import BINS, COLD, LEAST, cells, faded, heated, levels, rebinned, written_below, written_shares

from .looks import PAGE, pages


def test_written_below_counts_bytes():
    regions = pages((10, 2), (20, 5))
    addresses = np.array([0, 10, 11, 12, 19, 20, 23, 25, 99], np.float64) * PAGE
    assert (written_below(regions, addresses) / PAGE).tolist() == [0, 0, 1, 2, 2, 2, 5, 7, 7]


def test_written_below_of_nothing():
    assert written_below(pages(), np.array([5.0])).tolist() == [0]


def test_written_below_is_exact_at_high_addresses():
    top = (1 << 47) // PAGE
    assert written_below(pages((top - 3, 2)), np.array([(top - 2) * PAGE], np.float64)).tolist() == [PAGE]


def test_shares_of_bins_larger_than_pages():
    # Two pages a bin; page 2 alone is half of bin 1, pages 4 and 5 are bin 2.
    shares = written_shares(pages((2, 1), (4, 2)), 0, 2 * BINS * PAGE)
    assert shares[:4].tolist() == [0, 0.5, 1, 0]
    assert shares.sum() == 1.5


def test_shares_of_bins_smaller_than_pages():
    shares = written_shares(pages((1, 1)), 0, 4 * PAGE)
    assert np.flatnonzero(shares).tolist() == list(range(BINS // 4, BINS // 2))


def test_heat_halves_every_five_seconds_and_ends():
    hot = np.ones(BINS)
    assert faded(hot, 5 * SECOND)[0] == 0.5
    assert faded(hot, 45 * SECOND)[0] == LEAST / 2
    assert faded(hot, 46 * SECOND) is COLD
    assert faded(COLD, SECOND) is COLD


def test_any_write_is_seen_and_none_cools():
    shares = np.zeros(BINS)
    shares[0], shares[1] = 1e-6, 0.25
    warm = np.full(BINS, 0.125)
    assert heated(COLD, shares)[:3].tolist() == [LEAST, 0.25, 0]
    assert heated(warm, shares)[:3].tolist() == [0.125, 0.25, 0.125]


def test_rebinned_to_twice_the_range_and_back():
    heat = np.arange(BINS, dtype=np.float64)
    grown = rebinned(heat, (0, BINS * PAGE), (0, 2 * BINS * PAGE))
    assert grown[:3].tolist() == [0.5, 2.5, 4.5]
    assert not grown[BINS // 2 :].any()
    shrunk = rebinned(heat, (0, BINS * PAGE), (0, BINS * PAGE // 2))
    assert shrunk[:4].tolist() == [0, 0, 1, 1]


def test_rebinned_elsewhere_is_cold():
    assert not rebinned(np.ones(BINS), (0, PAGE), (8 * PAGE, 9 * PAGE)).any()


@pytest.mark.parametrize("width", [1, 3, 31, 128, 200])
def test_cells_keep_the_mean(width):
    heat = np.zeros(BINS)
    heat[:32] = 1
    assert len(cells(heat, width)) == width
    assert np.mean(cells(heat, width)) == pytest.approx(0.25)


def test_levels_double():
    assert levels([0, 1e-6, 1 / 256, 1 / 128, 1 / 127, 1 / 4, 0.26, 0.5, 0.51, 1]) == [0, 1, 1, 1, 2, 6, 7, 7, 8, 8]


def test_levels_of_an_even_mapping_are_even():
    heat = faded(np.ones(BINS), 5 * SECOND)
    assert set(levels(cells(heat, 31))) == {7}
