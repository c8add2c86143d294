"""Change over time: recordings of which pages a process writes to, as files.

:class:`RecordingWriter` writes one, :class:`Recording` reads it, also while it grows; the format is defined by
``docs/formats/recording.md``.
"""

from __future__ import annotations

from .model import Ending, EndReason, MappingSpan, RecordingInfo, Sample
from .reader import Recording, RegionTable
from .writer import RecordingWriter

__all__ = [
    "EndReason",
    "Ending",
    "MappingSpan",
    "Recording",
    "RecordingInfo",
    "RecordingWriter",
    "RegionTable",
    "Sample",
]
