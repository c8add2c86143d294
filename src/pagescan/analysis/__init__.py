"""What recorded writes mean: pure functions over values.

A :class:`Series` is made from a ``pagescan.Recording`` (``Series.of(recording)``) or from regions and times; each
function takes one. Nothing here opens a file, reads a clock or prints.
"""

from __future__ import annotations

from .axes import AddressAxis, TimeAxis, address_axis, time_axis
from .counts import WriteCounts, write_counts
from .heat import Heat, heat
from .migration import MigrationEstimate, Round, estimate_migration
from .rates import Group, Rates, group_mappings, write_rates
from .series import Segments, Series
from .working_set import WorkingSet, window_samples, working_set

__all__ = [
    "AddressAxis",
    "Group",
    "Heat",
    "MigrationEstimate",
    "Rates",
    "Round",
    "Segments",
    "Series",
    "TimeAxis",
    "WorkingSet",
    "WriteCounts",
    "address_axis",
    "estimate_migration",
    "group_mappings",
    "heat",
    "time_axis",
    "window_samples",
    "working_set",
    "write_counts",
    "write_rates",
]
