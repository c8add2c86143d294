"""Waiting for the next samples of a recording that grows."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .model import Sample
    from .reader import Recording

_SECOND = 1_000_000_000
SHORTEST_NS = 10_000_000
LONGEST_NS = _SECOND


def follow(
    recording: Recording, first: int, timeout: float | None, wait: Callable[[float], object] | None
) -> Iterator[Sample]:
    """See :meth:`Recording.follow`."""
    pause = wait or time.sleep
    at, idle_ns, step_ns = first, 0, 0
    while True:
        # Asked before looking: what the writer wrote last is then found by the look that follows.
        growing = recording.growing
        recording.refresh()
        if len(recording) > at:
            for sample in recording.samples(at):
                yield sample
                at = sample.number + 1
            idle_ns, step_ns = 0, 0
            continue
        if growing is False or recording.ending is not None or idle_ns >= _patience(recording, growing, timeout):
            return
        step_ns = next_wait(recording, step_ns, time.monotonic_ns())
        pause(step_ns / _SECOND)
        idle_ns += step_ns


def _patience(recording: Recording, growing: bool | None, timeout: float | None) -> float:
    """Nanoseconds without a sample after which to give up."""
    limit = math.inf if timeout is None else timeout * _SECOND
    return limit if growing else min(limit, max(10 * _SECOND, 10 * recording.info.interval_ns))


def next_wait(recording: Recording, before_ns: int, now_ns: int) -> int:
    """Nanoseconds to wait: until the next sample is due, or, if it is late, twice as long as before."""
    interval = recording.info.interval_ns
    shortest = max(SHORTEST_NS, interval // 8)
    if before_ns:
        return min(max(2 * before_ns, shortest), max(LONGEST_NS, shortest))
    last = int(recording.times[-1]) if len(recording) else recording.started_ns
    # Also when the clocks do not compare (a copied file): never longer than an interval.
    return max(min(last + interval - now_ns, interval), shortest)
