"""What a live migration by pre-copy would take: rounds, bytes, and the time the process stands still.

The model is that of Clark, Fraser, Hand, Hansen, Jul, Limpach, Pratt and Warfield, "Live Migration of Virtual
Machines", NSDI 2005, sections 3 and 5 (iterative pre-copy; the writable working set): the first round sends all memory
while the process runs on; each further round sends the pages that were written to during the round before; when what
is left can be sent within the limit of downtime, or there have been enough rounds, the process stops and the rest is
sent. What is written in a round is not taken from a rate but from the recording: the distinct pages of its samples.

Left out: pages of zeros, compression, headers, the time to start on the other side, pages that a sender skips because
they were written to again before their turn came, and the slowing of the process by the migration itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from ..errors import InvalidArgument

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .series import Series

Partly = Literal["whole", "share"]
_SECOND = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Round:
    """One round of pre-copy, the process running.

    Attributes:
        bytes: sent in it.
        duration_ns: how long that took.
        written_bytes: in the distinct pages written to meanwhile, which are due next.
    """

    bytes: int
    duration_ns: int
    written_bytes: int


@dataclass(frozen=True, slots=True)
class MigrationEstimate:
    """What the migration would take.

    Attributes:
        rounds: the rounds while the process runs.
        final_bytes: sent while it stands still.
        downtime_ns: how long that takes.
        converged: whether the downtime is within the limit.
        repeated: whether the rounds last longer than the recording, which was then taken to repeat itself.
    """

    rounds: tuple[Round, ...]
    final_bytes: int
    downtime_ns: int
    converged: bool
    repeated: bool

    @property
    def total_bytes(self) -> int:
        """All bytes sent."""
        return sum(turn.bytes for turn in self.rounds) + self.final_bytes

    @property
    def total_ns(self) -> int:
        """From the first byte to the last."""
        return sum(turn.duration_ns for turn in self.rounds) + self.downtime_ns


def estimate_migration(
    series: Series,
    *,
    memory_bytes: int,
    bandwidth: int,
    downtime_limit_ns: int = 300_000_000,
    max_rounds: int = 30,
    partly: Partly = "whole",
) -> MigrationEstimate:
    """Plays a migration that begins with the recording.

    Args:
        memory_bytes: what the first round sends, such as the resident memory.
        bandwidth: bytes per second.
        downtime_limit_ns: stop the process once the rest can be sent in this time.
        max_rounds: stop it after so many rounds anyway.
        partly: what a round that covers an interval only in part takes of its pages: ``"whole"`` all of them, so that
            the estimate is an upper bound, and never below what one interval writes; ``"share"`` the same share of them
            as of the interval, which assumes that a page is written once in it, at any moment.

    Raises InvalidArgument for a bandwidth, memory or number of rounds that cannot be, and for a recording of no
    duration.
    """
    if bandwidth < 1 or memory_bytes < 0 or max_rounds < 0 or downtime_limit_ns < 0:
        raise InvalidArgument("bandwidth must be positive; memory, downtime limit and rounds not negative")
    if partly not in ("whole", "share"):
        raise InvalidArgument(f"partly = {partly!r}", hint='use "whole" or "share"')
    if not series.duration_ns:
        raise InvalidArgument("the recording has no duration: nothing is known of what is written meanwhile")
    rounds: list[Round] = []
    at, due = 0, memory_bytes
    while (lasts := _sending_ns(due, bandwidth)) > downtime_limit_ns and len(rounds) < max_rounds:
        written = _written_pages(series, at, at + lasts, partly) * series.page_size
        rounds.append(Round(due, lasts, written))
        at, due = at + lasts, written
    return MigrationEstimate(tuple(rounds), due, lasts, lasts <= downtime_limit_ns, at > series.duration_ns)


def _sending_ns(size: int, bandwidth: int) -> int:
    return -(-size * _SECOND // bandwidth)


def _written_pages(series: Series, begin: int, end: int, partly: Partly) -> int:
    """Distinct pages written to between two moments, in nanoseconds from the start; the recording repeats itself."""
    whole = series.duration_ns
    if end - begin >= whole:
        begin, end = 0, whole
    begin, end = begin % whole, begin % whole + (end - begin)
    weight = _weights(series, begin, min(end, whole), partly)
    if end > whole:
        weight += _weights(series, 0, end - whole, partly)
    # A page is sent once, however much of it two intervals have.
    return int(np.ceil((np.minimum(weight, 1.0) * series.segments.pages).sum()))


def _weights(series: Series, begin: int, end: int, partly: Partly) -> NDArray[np.float64]:
    """For each segment the share, from 0, with which it counts as written to in [begin, end)."""
    edges = series.edges - series.edges[0]
    first = int(np.searchsorted(edges, begin, "right")) - 1
    last = int(np.searchsorted(edges, end, "left"))
    weight = np.zeros(len(series.segments))
    if partly == "whole":
        return weight + (series.segments.counts(first, last) > 0)
    inner = slice(first + (edges[first] < begin), last - (edges[last] > end))
    weight += series.segments.counts(inner.start, max(inner.start, inner.stop)) > 0
    for sample in {first, last - 1} - set(range(inner.start, inner.stop)):
        part = min(edges[sample + 1], end) - max(edges[sample], begin)
        weight += series.segments.counts(sample, sample + 1) * (part / (edges[sample + 1] - edges[sample]))
    return weight
