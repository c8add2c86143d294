"""Versions as users see them."""

from __future__ import annotations

import operator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, SupportsIndex

if TYPE_CHECKING:
    from .manifest import Manifest


@dataclass(frozen=True, slots=True)
class BufferInfo:
    """A buffer in a version.

    Attributes:
        dtype: of numpy, as in the ``.npy`` format.
        shape: elements along each dimension.
        nbytes: length in bytes.
        attributes: what the writer kept with it.
    """

    dtype: Any
    shape: tuple[int, ...]
    nbytes: int
    attributes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Version:
    """A version of a series. Wherever a number of a version is asked for, it may be given itself.

    Attributes:
        series: the name of the series.
        number: 1, 2, 3, ... in the order of the commits.
        parent: number of the version it was made from; None for one that stands alone.
        note: the user's words.
        time_ns: when it was committed, since 1970 in UTC.
        buffers: by name.
        base: whether it needs no pack of an earlier version.
        packs: how many packs are needed to read it.
        written_pages: pages that the commit wrote.
        written_bytes: bytes that it put into the store for them.
        attributes: what the writer kept with it.
    """

    series: str
    number: int
    parent: int | None
    note: str
    time_ns: int
    buffers: dict[str, BufferInfo]
    base: bool
    packs: int
    written_pages: int
    written_bytes: int
    attributes: dict[str, Any] = field(default_factory=dict)

    def __index__(self) -> int:
        return self.number

    def __hash__(self) -> int:
        return hash((self.series, self.number, self.time_ns))

    @property
    def nbytes(self) -> int:
        """Bytes of all its buffers."""
        return sum(buffer.nbytes for buffer in self.buffers.values())

    @classmethod
    def of(cls, manifest: Manifest) -> Version:
        """The version that a manifest describes."""
        buffers = {e.name: BufferInfo(e.dtype, e.shape, e.nbytes, e.attributes) for e in manifest.buffers}
        return cls(
            manifest.series,
            manifest.version,
            manifest.parent,
            manifest.note,
            manifest.time_ns,
            buffers,
            manifest.new_packs == len(manifest.packs),
            len(manifest.packs),
            manifest.written_pages,
            manifest.written_bytes,
            manifest.attributes,
        )


def number_of(version: SupportsIndex) -> int:
    """The number of a version, given as itself or as its number."""
    return operator.index(version)
