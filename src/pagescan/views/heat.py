"""Heat: where a mapping was written to of late, as shares of its bins; pure functions over arrays.

A mapping is divided into :data:`BINS` bins of equal length. A bin's heat is the share of it that one look found
written, and halves every five seconds from then on. It is shown in eight levels, each of twice the heat of the one
below: so what is written no more sinks by one level every five seconds. A bin in which anything at all was written has
the lowest level for a moment at least: a single page in a gigabyte is seen.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..units import SECOND

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from ..ranges import Regions

BINS = 128
LEVELS = 8
HALF_LIFE_NS = 5 * SECOND
#: The heat of any write, however small its share: the lowest level.
LEAST = 2.0**-LEVELS
#: No heat anywhere; shared, and known by identity, so that idle mappings cost nothing.
COLD: NDArray[np.float64] = np.zeros(BINS)
COLD.flags.writeable = False


def written_below(regions: Regions, addresses: NDArray[np.float64]) -> NDArray[np.float64]:
    """How many bytes of the regions lie below each address (addresses below 2**53 are exact)."""
    if not len(regions):
        return np.zeros(len(addresses))
    bounds = np.empty(2 * len(regions))
    bounds[0::2], bounds[1::2] = regions.starts, regions.ends
    below = np.zeros(2 * len(regions))
    lengths = np.cumsum(bounds[1::2] - bounds[0::2])
    below[1::2], below[2::2] = lengths, lengths[:-1]
    counts: NDArray[np.float64] = np.interp(addresses, bounds, below)
    return counts


def written_shares(regions: Regions, start: int, end: int) -> NDArray[np.float64]:
    """The written share of each bin of the range."""
    edges = np.linspace(start, end, BINS + 1)
    shares: NDArray[np.float64] = np.diff(written_below(regions.clip(start, end), edges)) / np.diff(edges)
    return shares


def faded(heat: NDArray[np.float64], passed_ns: int) -> NDArray[np.float64]:
    """The heat after some time without writes. What has faded below half the lowest level is gone."""
    if heat is COLD:
        return heat
    later: NDArray[np.float64] = heat * 2.0 ** (-passed_ns / HALF_LIFE_NS)
    later[later < LEAST / 2] = 0
    return later if later.any() else COLD


def heated(heat: NDArray[np.float64], shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """The heat with these shares written to just now."""
    hot: NDArray[np.float64] = np.maximum(heat, np.where(shares > 0, np.clip(shares, LEAST, 1.0), 0.0))
    return hot


def rebinned(heat: NDArray[np.float64], old: tuple[int, int], new: tuple[int, int]) -> NDArray[np.float64]:
    """The heat of a mapping that went from one range to another, at the same addresses."""
    edges = np.linspace(*old, BINS + 1)
    below = np.append(0.0, np.cumsum(heat) * (edges[1] - edges[0]))
    wanted = np.linspace(*new, BINS + 1)
    moved: NDArray[np.float64] = np.diff(np.interp(wanted, edges, below)) / np.diff(wanted)
    return moved


def cells(heat: NDArray[np.float64], width: int) -> list[float]:
    """The mean heat of each of ``width`` equal parts of the mapping."""
    below = np.append(0.0, np.cumsum(heat))
    at = np.interp(np.linspace(0, BINS, width + 1), np.arange(BINS + 1), below)
    means: list[float] = (np.diff(at) * width / BINS).tolist()
    return means


def levels(shares: Iterable[float]) -> list[int]:
    """Each share as a level: 0 for none, 8 for more than a half, 7 for more than a quarter, ... 1 for any at all."""
    found = np.fromiter(shares, np.float64)
    steps = np.zeros(len(found), np.int64)
    # Sums of floats may lie a hair above the power of two that they mean.
    some = found > 1e-12
    steps[some] = np.clip(LEVELS + np.ceil(np.log2(found[some]) - 1e-9), 1, LEVELS)
    levels_: list[int] = steps.tolist()
    return levels_
