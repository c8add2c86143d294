"""How often to look, so that looking never costs more than a small share of a processor."""

from __future__ import annotations

from ..units import SECOND

#: The share of one core that the view may take at one look a second or fewer.
SHARE = 0.05
#: And at any rate.
MOST = 0.5


def allowed_share(interval_ns: int) -> float:
    """The share of one core that may be used: 5 % at one look a second; more frequent looks may cost more."""
    return max(SHARE, min(MOST, SHARE * SECOND / interval_ns))


def paced(interval_ns: int, cpu_ns: int) -> int:
    """The interval to keep, in nanoseconds: the one asked for, or longer if a look takes ``cpu_ns`` of CPU time."""
    return max(interval_ns, round(cpu_ns / allowed_share(interval_ns)))
