"""The written working set: how many distinct pages a process writes to within a window of time.

The window slides: at each sample it holds that sample and the ones before it. This is Denning's working set ("The
working set model for program behavior", Communications of the ACM 11(5), 1968) of written instead of referenced pages.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..errors import InvalidArgument
from .series import expand

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from .series import Series


@dataclass(frozen=True, eq=False, slots=True)
class WorkingSet:
    """Distinct pages written to within windows.

    Attributes:
        windows: the windows' lengths, in samples.
        pages: int64, shape (windows, samples): ``pages[i, n]`` distinct pages were written to in the ``windows[i]``
            samples up to and with n (at the beginning: in as many as there are).
        page_size: bytes of a page.
    """

    windows: tuple[int, ...]
    pages: NDArray[np.int64]
    page_size: int

    def full(self, index: int) -> NDArray[np.int64]:
        """Row ``index`` without the windows at the beginning that are shorter; empty if no window is full."""
        return self.pages[index, self.windows[index] - 1 :]


def window_samples(series: Series, window_ns: int) -> int:
    """How many samples a window of this duration has: by the median interval, at least one."""
    interval = float(np.median(np.diff(series.edges))) if len(series) else 0.0
    return max(1, round(window_ns / interval)) if interval else 1


def working_set(series: Series, windows: Sequence[int]) -> WorkingSet:
    """The working set for each of these windows, in samples. Raises InvalidArgument for a window below 1.

    A page is in the window of length k from each sample that writes it until k samples later, or until it is written
    again. So it is enough to know, at each write, when the page was last written.
    """
    if any(window < 1 for window in windows):
        raise InvalidArgument(f"windows = {list(windows)}: a window has at least one sample")
    count = len(series)
    came = np.zeros((len(windows), count), np.int64)
    left = np.zeros((len(windows), count), np.int64)
    for sample, before in enumerate(_last_writes(series)):
        for row, window in enumerate(windows):
            # Pages last written before this had left the window already, each as long after as the window lasts.
            gone = max(0, min(sample + 1, count) - window)
            if sample < count:
                came[row, sample] = before[0] + before[1 : gone + 1].sum()
            left[row, window : window + gone] += before[1 : gone + 1]
    return WorkingSet(tuple(windows), np.cumsum(came - left, axis=1), series.page_size)


def _last_writes(series: Series) -> Iterator[NDArray[np.int64]]:
    """For each sample: how many of the pages it writes were never written before (element 0), or last in sample m
    (element m + 1). And at the end the same of all pages that were ever written."""
    segments = series.segments
    last = np.full(len(segments), -1, np.int64)
    for sample in range(len(series)):
        part = slice(segments.offsets[sample], segments.offsets[sample + 1])
        touched = expand(segments.low[part], segments.high[part])
        yield np.bincount(last[touched] + 1, segments.pages[touched], sample + 1).astype(np.int64)
        last[touched] = sample
    yield np.bincount(last + 1, segments.pages, len(series) + 1).astype(np.int64)
